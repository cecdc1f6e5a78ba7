//! DigitalOcean: `providers.digitalocean.*`.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use blueprint_common_types::HubId;
use blueprint_hub_provision_core::Provider;

use crate::config::DigitalOceanSettings;

/// The account; asks nothing of it.
///
/// # Errors
///
/// Where there is no way to call it.
#[cfg(feature = "provider-digitalocean")]
pub(super) fn make(settings: &DigitalOceanSettings, hub: HubId, state: &Path) -> Result<Arc<dyn Provider>> {
    use anyhow::Context;
    use blueprint_hub_provider_digitalocean::{DigitalOcean, DigitalOceanConfig, ENDPOINT};
    use blueprint_hub_provider_kit::{
        Chain, CredentialSource, DIGITALOCEAN, Environment, FileSource, HttpClient, HttpConfig,
    };

    let http = HttpClient::new(HttpConfig::default()).context("cannot call DigitalOcean")?;
    let file: Arc<dyn CredentialSource> =
        Arc::new(FileSource::new(DIGITALOCEAN, &state.join("digitalocean.credentials")));
    let environment = Arc::new(Environment::new(DIGITALOCEAN));
    Ok(Arc::new(DigitalOcean::new(DigitalOceanConfig {
        hub,
        endpoint: settings.endpoint.clone().unwrap_or_else(|| ENDPOINT.to_owned()),
        regions: settings.regions.clone(),
        image: settings.image.clone(),
        credentials: Arc::new(Chain::new(DIGITALOCEAN, vec![file, environment])),
        http,
    })))
}

/// Nothing: there are no such settings in this build.
///
/// # Errors
///
/// None.
#[cfg(not(feature = "provider-digitalocean"))]
pub(super) fn make(settings: &DigitalOceanSettings, _: HubId, _: &Path) -> Result<Arc<dyn Provider>> {
    match *settings {}
}
