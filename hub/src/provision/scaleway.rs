//! Scaleway: `providers.scaleway.*`.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use blueprint_common_types::HubId;
use blueprint_hub_provider_kit::{Environment, FileSource, SCALEWAY};
use blueprint_hub_provision_core::Provider;

use crate::accounts::{Entry, Sealed, Sources, Vault};
use crate::config::ScalewaySettings;

/// The account, and the provider where it is switched on; asks nothing of it.
///
/// # Errors
///
/// Where there is no way to call it.
pub(super) fn make(
    settings: Option<&ScalewaySettings>,
    hub: HubId,
    vault: &Arc<Vault>,
    state: &Path,
) -> Result<(Option<Arc<dyn Provider>>, Entry)> {
    let file = FileSource::new(SCALEWAY, &state.join("scaleway.credentials"));
    let sources: Sources = vec![
        ("sealed", Arc::new(Sealed::new(Arc::clone(vault), SCALEWAY))),
        ("file", Arc::new(file)),
        ("environment", Arc::new(Environment::new(SCALEWAY))),
    ];
    let entry = Entry {
        spec: SCALEWAY,
        sources,
        role: None,
        account: None,
        policy: Err("provider-scaleway"),
        unused: &[],
    };
    built(settings, (hub, state), entry)
}

#[cfg(feature = "provider-scaleway")]
fn built(
    settings: Option<&ScalewaySettings>,
    (hub, state): (HubId, &Path),
    entry: Entry,
) -> Result<(Option<Arc<dyn Provider>>, Entry)> {
    use anyhow::Context;
    use blueprint_hub_provider_kit::{Chain, HttpClient, HttpConfig, Standing};
    use blueprint_hub_provider_scaleway::{ENDPOINT, Scaleway, ScalewayConfig, permission_sets};

    let entry =
        Entry { policy: Ok(Box::new(|_| serde_json::json!({ "scopes": permission_sets() }))), ..entry };
    let Some(settings) = settings else { return Ok((None, entry)) };
    let http = HttpClient::new(HttpConfig::default()).context("cannot call Scaleway")?;
    let sources = entry.sources.iter().map(|(_, source)| Arc::clone(source)).collect();
    let provider = Arc::new(Scaleway::new(ScalewayConfig {
        hub,
        endpoint: settings.endpoint.clone().unwrap_or_else(|| ENDPOINT.to_owned()),
        zones: settings.zones.clone(),
        image: settings.image.clone(),
        credentials: Arc::new(Chain::new(SCALEWAY, sources)),
        http,
    }));
    let entry = Entry { account: Some(Arc::<Scaleway>::clone(&provider)), ..entry };
    let provider = Standing::new(provider, hub, &state.join("scaleway.account"));
    Ok((Some(Arc::new(provider)), entry))
}

/// Nothing: there are no such settings in this build.
#[cfg(not(feature = "provider-scaleway"))]
fn built(
    settings: Option<&ScalewaySettings>,
    _: (HubId, &Path),
    entry: Entry,
) -> Result<(Option<Arc<dyn Provider>>, Entry)> {
    match settings {
        Some(settings) => match *settings {},
        None => Ok((None, entry)),
    }
}
