//! Azure: `providers.azure.*`.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use blueprint_common_types::HubId;
use blueprint_hub_provider_kit::{AZURE, Environment, FileSource};
use blueprint_hub_provision_core::Provider;

use crate::accounts::{Entry, Sealed, Sources, Vault};
use crate::config::{AzureSettings, PriceConfig};

/// The account, and the provider where it is switched on; asks nothing of it. Prices of spot machines come from where all of Azure's
/// prices do.
///
/// # Errors
///
/// Where there is no way to call it.
pub(super) fn make(
    settings: Option<&AzureSettings>,
    hub: HubId,
    (vault, prices): (&Arc<Vault>, &PriceConfig),
    state: &Path,
) -> Result<(Option<Arc<dyn Provider>>, Entry)> {
    let sources: Sources = vec![
        ("sealed", Arc::new(Sealed::new(Arc::clone(vault), AZURE))),
        ("file", Arc::new(FileSource::new(AZURE, &state.join("azure.credentials")))),
        ("environment", Arc::new(Environment::new(AZURE))),
    ];
    let entry = Entry {
        spec: AZURE,
        sources,
        role: None,
        account: None,
        policy: Err("provider-azure"),
        unused: &["AZURE_SSH_KEY_PATH"],
    };
    built(settings, (hub, state), prices, entry)
}

#[cfg(feature = "provider-azure")]
fn built(
    settings: Option<&AzureSettings>,
    (hub, state): (HubId, &Path),
    prices: &PriceConfig,
    entry: Entry,
) -> Result<(Option<Arc<dyn Provider>>, Entry)> {
    use anyhow::Context;
    use blueprint_hub_provider_azure::{Azure, AzureConfig, role};
    use blueprint_hub_provider_kit::{Chain, HttpClient, HttpConfig, Standing};

    let entry = Entry { policy: Ok(Box::new(move |_| serde_json::json!({ "policy": role(hub) }))), ..entry };
    let Some(settings) = settings.cloned() else { return Ok((None, entry)) };
    let http = HttpClient::new(HttpConfig::default()).context("cannot call Azure")?;
    let sources = entry.sources.iter().map(|(_, source)| Arc::clone(source)).collect();
    let usual = AzureConfig::new(hub, settings.regions, Arc::new(Chain::new(AZURE, sources)), http);
    let [.., prices] = prices.endpoints.clone();
    let provider = Arc::new(Azure::new(AzureConfig {
        group: settings.group,
        image: settings.image,
        image_arm64: settings.image_arm64,
        spot: settings.spot,
        endpoint: settings.endpoint.unwrap_or(usual.endpoint),
        login_endpoint: settings.login_endpoint.unwrap_or(usual.login_endpoint),
        prices_endpoint: prices.unwrap_or(usual.prices_endpoint),
        ..usual
    }));
    let entry = Entry { account: Some(Arc::<Azure>::clone(&provider)), ..entry };
    let provider = Standing::new(provider, hub, &state.join("azure.account"));
    Ok((Some(Arc::new(provider)), entry))
}

/// Nothing: there are no such settings in this build.
#[cfg(not(feature = "provider-azure"))]
fn built(
    settings: Option<&AzureSettings>,
    _: (HubId, &Path),
    _: &PriceConfig,
    entry: Entry,
) -> Result<(Option<Arc<dyn Provider>>, Entry)> {
    match settings {
        Some(settings) => match *settings {},
        None => Ok((None, entry)),
    }
}
