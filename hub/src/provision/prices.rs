//! Whom the hub asks for prices.

use std::sync::Arc;

use anyhow::{Context, Result};
use blueprint_common_runtime::tasks::Spawner;
use blueprint_hub_price_sources::{Aws, Azure, Linode, Scaleway, Vultr};
use blueprint_hub_provider_kit::{HttpClient, HttpConfig};
use blueprint_hub_provision::{PriceOffice, Provisioner};
use blueprint_hub_provision_core::catalogue::{PriceSource, PriceStore};

use crate::config::{PriceConfig, ProviderSettings, WITH_ACCOUNT};

/// Opens the lists that are kept, and starts the task that renews them where one is wanted; asks nobody by itself.
///
/// # Errors
///
/// Where the store cannot be read, or nobody can be called at all.
pub(super) async fn open(
    config: &PriceConfig,
    providers: &ProviderSettings,
    store: Arc<dyn PriceStore>,
    provisioner: Provisioner,
    spawner: &Spawner,
) -> Result<PriceOffice> {
    let http = HttpClient::new(HttpConfig::default()).context("cannot ask for prices")?;
    let [aws, vultr, linode, scaleway, azure] = &config.endpoints;
    // A slash at the end would be doubled.
    let at = |endpoint: &Option<String>, public: &str| {
        endpoint.as_deref().unwrap_or(public).trim_end_matches('/').to_owned()
    };
    let regions = config.azure_regions.clone();
    let mut sources: Vec<Arc<dyn PriceSource>> = vec![
        Arc::new(Azure::new(http.clone(), &at(azure, Azure::ENDPOINT), regions)),
        Arc::new(Linode::new(http.clone(), &at(linode, Linode::ENDPOINT))),
        Arc::new(Scaleway::new(http.clone(), &at(scaleway, Scaleway::ENDPOINT))),
        Arc::new(Vultr::new(http, &at(vultr, Vultr::ENDPOINT))),
    ];
    let names = providers.names();
    // An account answers the same in a hundredth of the bytes.
    if !config.aws_regions.is_empty() && !names.iter().any(|name| name == "aws") {
        let http = HttpClient::new(Aws::calls()).context("cannot ask for prices")?;
        sources.push(Arc::new(Aws::new(http, &at(aws, Aws::ENDPOINT), config.aws_regions.clone())));
    }
    let accounts = names
        .into_iter()
        .filter(|name| WITH_ACCOUNT.contains(&name.as_str()) && name != "scaleway")
        .collect();
    let office = PriceOffice::open(sources, accounts, store, provisioner).await?;
    if let Some(every) = config.every {
        spawner.spawn("prices", office.clone().run(every, spawner.stop().drain));
    }
    Ok(office)
}
