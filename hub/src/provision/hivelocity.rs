//! Hivelocity: `providers.hivelocity.*`.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use blueprint_common_types::HubId;
use blueprint_hub_provider_kit::{Environment, FileSource, HIVELOCITY};
use blueprint_hub_provision_core::Provider;

use crate::accounts::{Entry, Sealed, Sources, Vault};
use crate::config::HivelocitySettings;

/// The account, and the provider where it is switched on; asks nothing of it.
///
/// # Errors
///
/// Where there is no way to call it.
pub(super) fn make(
    settings: Option<&HivelocitySettings>,
    hub: HubId,
    vault: &Arc<Vault>,
    state: &Path,
) -> Result<(Option<Arc<dyn Provider>>, Entry)> {
    let file = FileSource::new(HIVELOCITY, &state.join("hivelocity.credentials"));
    let sources: Sources = vec![
        ("sealed", Arc::new(Sealed::new(Arc::clone(vault), HIVELOCITY))),
        ("file", Arc::new(file)),
        ("environment", Arc::new(Environment::new(HIVELOCITY))),
    ];
    let entry = Entry {
        spec: HIVELOCITY,
        sources,
        role: None,
        account: None,
        policy: Err("provider-hivelocity"),
        unused: &[],
    };
    built(settings, hub, entry)
}

#[cfg(feature = "provider-hivelocity")]
fn built(
    settings: Option<&HivelocitySettings>,
    hub: HubId,
    entry: Entry,
) -> Result<(Option<Arc<dyn Provider>>, Entry)> {
    use anyhow::Context;
    use blueprint_hub_provider_hivelocity::{ENDPOINT, Hivelocity, HivelocityConfig, rights};
    use blueprint_hub_provider_kit::{Chain, HttpClient, HttpConfig};

    let entry = Entry { policy: Ok(Box::new(|_| serde_json::json!({ "scopes": rights() }))), ..entry };
    let Some(settings) = settings else { return Ok((None, entry)) };
    let http = HttpClient::new(HttpConfig::default()).context("cannot call Hivelocity")?;
    let sources = entry.sources.iter().map(|(_, source)| Arc::clone(source)).collect();
    let provider = Arc::new(Hivelocity::new(HivelocityConfig {
        hub,
        endpoint: settings.endpoint.clone().unwrap_or_else(|| ENDPOINT.to_owned()),
        facilities: settings.facilities.clone(),
        system: settings.system.clone(),
        credentials: Arc::new(Chain::new(HIVELOCITY, sources)),
        http,
    }));
    let entry = Entry { account: Some(Arc::<Hivelocity>::clone(&provider)), ..entry };
    Ok((Some(provider), entry))
}

/// Nothing: there are no such settings in this build.
#[cfg(not(feature = "provider-hivelocity"))]
fn built(
    settings: Option<&HivelocitySettings>,
    _: HubId,
    entry: Entry,
) -> Result<(Option<Arc<dyn Provider>>, Entry)> {
    match settings {
        Some(settings) => match *settings {},
        None => Ok((None, entry)),
    }
}
