//! DigitalOcean: `providers.digitalocean.*`.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use blueprint_common_types::HubId;
use blueprint_hub_provider_kit::{DIGITALOCEAN, Environment, FileSource};
use blueprint_hub_provision_core::Provider;

use crate::accounts::{Entry, Sealed, Sources, Vault};
use crate::config::DigitalOceanSettings;

/// The account, and the provider where it is switched on; asks nothing of it.
///
/// # Errors
///
/// Where there is no way to call it.
pub(super) fn make(
    settings: Option<&DigitalOceanSettings>,
    hub: HubId,
    vault: &Arc<Vault>,
    state: &Path,
) -> Result<(Option<Arc<dyn Provider>>, Entry)> {
    let file = FileSource::new(DIGITALOCEAN, &state.join("digitalocean.credentials"));
    let sources: Sources = vec![
        ("sealed", Arc::new(Sealed::new(Arc::clone(vault), DIGITALOCEAN))),
        ("file", Arc::new(file)),
        ("environment", Arc::new(Environment::new(DIGITALOCEAN))),
    ];
    let entry = Entry {
        spec: DIGITALOCEAN,
        sources,
        role: None,
        account: None,
        policy: Err("provider-digitalocean"),
        unused: &["DO_SSH_KEY_IDS"],
    };
    built(settings, hub, entry)
}

#[cfg(feature = "provider-digitalocean")]
fn built(
    settings: Option<&DigitalOceanSettings>,
    hub: HubId,
    entry: Entry,
) -> Result<(Option<Arc<dyn Provider>>, Entry)> {
    use anyhow::Context;
    use blueprint_hub_provider_digitalocean::{DigitalOcean, DigitalOceanConfig, ENDPOINT, scopes};
    use blueprint_hub_provider_kit::{Chain, HttpClient, HttpConfig};

    let entry = Entry { policy: Ok(Box::new(|_| serde_json::json!({ "scopes": scopes() }))), ..entry };
    let Some(settings) = settings else { return Ok((None, entry)) };
    let http = HttpClient::new(HttpConfig::default()).context("cannot call DigitalOcean")?;
    let sources = entry.sources.iter().map(|(_, source)| Arc::clone(source)).collect();
    let provider = Arc::new(DigitalOcean::new(DigitalOceanConfig {
        hub,
        endpoint: settings.endpoint.clone().unwrap_or_else(|| ENDPOINT.to_owned()),
        regions: settings.regions.clone(),
        image: settings.image.clone(),
        credentials: Arc::new(Chain::new(DIGITALOCEAN, sources)),
        http,
    }));
    let entry = Entry { account: Some(Arc::<DigitalOcean>::clone(&provider)), ..entry };
    Ok((Some(provider), entry))
}

/// Nothing: there are no such settings in this build.
#[cfg(not(feature = "provider-digitalocean"))]
fn built(
    settings: Option<&DigitalOceanSettings>,
    _: HubId,
    entry: Entry,
) -> Result<(Option<Arc<dyn Provider>>, Entry)> {
    match settings {
        Some(settings) => match *settings {},
        None => Ok((None, entry)),
    }
}
