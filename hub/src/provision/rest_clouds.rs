//! Clouds that want a token, regions and an image: `providers.linode.*` and `providers.vultr.*`.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use blueprint_common_types::HubId;
use blueprint_hub_provider_kit::{CredentialSpec, Environment, FileSource, LINODE, VULTR};
use blueprint_hub_provision_core::Provider;

use crate::accounts::{Entry, Sealed, Sources, Vault};
use crate::config::RestCloudSettings;

/// The provider where it is switched on, and the account.
type Made = Result<(Option<Arc<dyn Provider>>, Entry)>;

/// Linode; asks nothing of it.
///
/// # Errors
///
/// Where there is no way to call it.
pub(super) fn linode(
    settings: Option<&RestCloudSettings>,
    hub: HubId,
    vault: &Arc<Vault>,
    state: &Path,
) -> Made {
    built_linode(settings, hub, account(LINODE, "provider-linode", &[], vault, state))
}

/// Vultr; asks nothing of it.
///
/// # Errors
///
/// Where there is no way to call it.
pub(super) fn vultr(
    settings: Option<&RestCloudSettings>,
    hub: HubId,
    vault: &Arc<Vault>,
    state: &Path,
) -> Made {
    built_vultr(settings, hub, account(VULTR, "provider-vultr", &["VULTR_SSH_KEY_ID"], vault, state))
}

/// An account whose credentials are sealed, in a file or in the environment.
fn account(
    spec: CredentialSpec,
    feature: &'static str,
    unused: &'static [&'static str],
    vault: &Arc<Vault>,
    state: &Path,
) -> Entry {
    let file = FileSource::new(spec, &state.join(format!("{}.credentials", spec.provider)));
    let sources: Sources = vec![
        ("sealed", Arc::new(Sealed::new(Arc::clone(vault), spec))),
        ("file", Arc::new(file)),
        ("environment", Arc::new(Environment::new(spec))),
    ];
    Entry { spec, sources, role: None, account: None, policy: Err(feature), unused }
}

#[cfg(feature = "provider-linode")]
fn built_linode(settings: Option<&RestCloudSettings>, hub: HubId, entry: Entry) -> Made {
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

#[cfg(feature = "provider-vultr")]
fn built_vultr(settings: Option<&RestCloudSettings>, hub: HubId, entry: Entry) -> Made {
    use anyhow::Context;
    use blueprint_hub_provider_kit::{Chain, HttpClient, HttpConfig};
    use blueprint_hub_provider_vultr::{ENDPOINT, Vultr, VultrConfig, permissions};

    let policy = Box::new(|_: Option<&str>| serde_json::json!({ "permissions": permissions() }));
    let entry = Entry { policy: Ok(policy), ..entry };
    let Some(settings) = settings else { return Ok((None, entry)) };
    let http = HttpClient::new(HttpConfig::default()).context("cannot call Vultr")?;
    let sources = entry.sources.iter().map(|(_, source)| Arc::clone(source)).collect();
    let provider = Arc::new(Vultr::new(VultrConfig {
        hub,
        endpoint: settings.endpoint.clone().unwrap_or_else(|| ENDPOINT.to_owned()),
        regions: settings.regions.clone(),
        image: settings.image.clone(),
        bare_metal: settings.bare_metal,
        credentials: Arc::new(Chain::new(VULTR, sources)),
        http,
    }));
    let entry = Entry { account: Some(Arc::<Vultr>::clone(&provider)), ..entry };
    Ok((Some(provider), entry))
}

/// Nothing: settings of a build without it are refused.
#[cfg(not(feature = "provider-linode"))]
fn built_linode(_: Option<&RestCloudSettings>, _: HubId, entry: Entry) -> Made {
    Ok((None, entry))
}

/// Nothing: settings of a build without it are refused.
#[cfg(not(feature = "provider-vultr"))]
fn built_vultr(_: Option<&RestCloudSettings>, _: HubId, entry: Entry) -> Made {
    Ok((None, entry))
}
