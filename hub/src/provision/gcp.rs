//! Google Compute Engine: `providers.gcp.*`.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use blueprint_common_types::HubId;
use blueprint_hub_provider_kit::{Environment, FileSource, GCP};
use blueprint_hub_provision_core::Provider;

use crate::accounts::{Entry, Sealed, Sources, Vault};
use crate::config::GcpSettings;

/// The project, with the credentials that are there when they are needed, and the provider where it is switched on; asks nothing
/// of it.
///
/// # Errors
///
/// Where there is no way to call it.
pub(super) fn make(
    settings: Option<&GcpSettings>,
    hub: HubId,
    vault: &Arc<Vault>,
    state: &Path,
) -> Result<(Option<Arc<dyn Provider>>, Entry)> {
    let sources: Sources = vec![
        ("sealed", Arc::new(Sealed::new(Arc::clone(vault), GCP))),
        ("file", Arc::new(FileSource::new(GCP, &state.join("gcp.credentials")))),
        ("environment", Arc::new(Environment::new(GCP))),
    ];
    let entry = Entry {
        spec: GCP,
        sources,
        role: None,
        account: None,
        policy: Err("provider-gcp"),
        unused: &["GCP_SSH_KEY_PATH"],
    };
    built(settings, (hub, state), entry)
}

#[cfg(feature = "provider-gcp")]
fn built(
    settings: Option<&GcpSettings>,
    (hub, state): (HubId, &Path),
    mut entry: Entry,
) -> Result<(Option<Arc<dyn Provider>>, Entry)> {
    use anyhow::Context;
    use blueprint_hub_provider_gcp::{GcpCloud, GcpConfig, MachineAccount, policy};
    use blueprint_hub_provider_kit::{Chain, HttpClient, HttpConfig, Standing};

    let config = settings.map_or_else(|| GcpConfig::new(Vec::new()), |settings| settings.config.clone());
    let of = config.clone();
    entry.policy = Ok(Box::new(move |_| serde_json::json!({ "policy": policy(&of) })));
    if settings.is_none() {
        return Ok((None, entry));
    }
    let http = HttpClient::new(HttpConfig::default()).context("cannot call Google")?;
    // The variable that Google's own tools read, a host without a scheme.
    let own = std::env::var("GCE_METADATA_HOST").ok().filter(|host| !host.is_empty());
    let address = own.map(|host| format!("http://{host}"));
    entry.sources.push(("machine-account", Arc::new(MachineAccount::new(http.clone(), address.as_deref()))));
    let sources = entry.sources.iter().map(|(_, source)| Arc::clone(source)).collect();
    let provider = Arc::new(GcpCloud::new(config, http, Arc::new(Chain::new(GCP, sources))));
    entry.account = Some(Arc::<GcpCloud>::clone(&provider));
    let provider = Standing::new(provider, hub, &state.join("gcp.account"));
    Ok((Some(Arc::new(provider)), entry))
}

/// Nothing: there are no such settings in this build.
#[cfg(not(feature = "provider-gcp"))]
fn built(
    settings: Option<&GcpSettings>,
    _: (HubId, &Path),
    entry: Entry,
) -> Result<(Option<Arc<dyn Provider>>, Entry)> {
    match settings {
        Some(settings) => match *settings {},
        None => Ok((None, entry)),
    }
}
