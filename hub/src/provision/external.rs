//! A program of the operator's as a cloud: `providers.external.*`.

use std::sync::Arc;

use anyhow::Result;
use blueprint_common_runtime::tasks::Spawner;
use blueprint_common_types::HubId;
use blueprint_hub_provision_core::Provider;

use crate::config::ExternalSettings;

/// The provider where it is switched on; starts the program where the hub is to.
///
/// # Errors
///
/// Where the program cannot be started as it is configured.
#[cfg(feature = "provider-external")]
pub(super) fn start(
    settings: Option<&ExternalSettings>,
    hub: HubId,
    spawner: &Spawner,
) -> Result<Option<Arc<dyn Provider>>> {
    use anyhow::Context;
    use blueprint_hub_provider_external::{Account, External, ExternalConfig, Keeper, PluginProgram};
    use tracing::warn;

    let Some(settings) = settings else { return Ok(None) };
    let failed = "cannot offer providers.external; set its enabled to false, or";
    let account = settings.user.as_deref().map(Account::named).transpose().context(failed)?;
    let mut users = vec![0, nix::unistd::geteuid().as_raw()];
    users.extend(account.as_ref().map(Account::uid));
    if let Some(path) = &settings.program {
        if account.is_none() {
            warn!(
                "the plugin runs as the hub's user and can read the hub's keys; set providers.external.user"
            );
        }
        let program = PluginProgram { path: path.clone(), account, socket: settings.socket.clone() };
        let keeper = Keeper::new(program).context(failed)?;
        spawner.spawn("plugin", keeper.keep(spawner.stop().drain));
    }
    let (socket, within) = (settings.socket.clone(), settings.within);
    Ok(Some(Arc::new(External::new(ExternalConfig { hub, socket, users, within }))))
}

/// Nothing: there are no such settings in this build.
#[cfg(not(feature = "provider-external"))]
pub(super) fn start(
    settings: Option<&ExternalSettings>,
    _: HubId,
    _: &Spawner,
) -> Result<Option<Arc<dyn Provider>>> {
    match settings {
        Some(settings) => match *settings {},
        None => Ok(None),
    }
}
