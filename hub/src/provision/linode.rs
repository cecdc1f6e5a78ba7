//! Linode: `providers.linode.*`.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use blueprint_common_types::HubId;
use blueprint_hub_provider_kit::{Environment, FileSource, LINODE};
use blueprint_hub_provision_core::Provider;

use crate::accounts::{Entry, Sealed, Sources, Vault};
use crate::config::RestCloudSettings;

/// The account, and the provider where it is switched on; asks nothing of it.
///
/// # Errors
///
/// Where there is no way to call it.
pub(super) fn make(
    settings: Option<&RestCloudSettings>,
    hub: HubId,
    vault: &Arc<Vault>,
    state: &Path,
) -> Result<(Option<Arc<dyn Provider>>, Entry)> {
    let file = FileSource::new(LINODE, &state.join("linode.credentials"));
    let sources: Sources = vec![
        ("sealed", Arc::new(Sealed::new(Arc::clone(vault), LINODE))),
        ("file", Arc::new(file)),
        ("environment", Arc::new(Environment::new(LINODE))),
    ];
    let entry = Entry {
        spec: LINODE,
        sources,
        role: None,
        account: None,
        policy: Err("provider-linode"),
        unused: &[],
    };
    built(settings, hub, entry)
}

#[cfg(feature = "provider-linode")]
fn built(
    settings: Option<&RestCloudSettings>,
    hub: HubId,
    entry: Entry,
) -> Result<(Option<Arc<dyn Provider>>, Entry)> {
    use anyhow::Context;
    use blueprint_hub_provider_kit::{Chain, HttpClient, HttpConfig};
    use blueprint_hub_provider_linode::{ENDPOINT, Linode, LinodeConfig, scopes};

    let entry = Entry { policy: Ok(Box::new(|_| serde_json::json!({ "scopes": scopes() }))), ..entry };
    let Some(settings) = settings else { return Ok((None, entry)) };
    let http = HttpClient::new(HttpConfig::default()).context("cannot call Linode")?;
    let sources = entry.sources.iter().map(|(_, source)| Arc::clone(source)).collect();
    let provider = Arc::new(Linode::new(LinodeConfig {
        hub,
        endpoint: settings.endpoint.clone().unwrap_or_else(|| ENDPOINT.to_owned()),
        regions: settings.regions.clone(),
        image: settings.image.clone(),
        credentials: Arc::new(Chain::new(LINODE, sources)),
        http,
    }));
    let entry = Entry { account: Some(Arc::<Linode>::clone(&provider)), ..entry };
    Ok((Some(provider), entry))
}

/// Nothing: settings of a build without it are refused.
#[cfg(not(feature = "provider-linode"))]
fn built(
    _: Option<&RestCloudSettings>,
    _: HubId,
    entry: Entry,
) -> Result<(Option<Arc<dyn Provider>>, Entry)> {
    Ok((None, entry))
}
