//! Programs of the operator's as clouds: `providers.external.*`.

use std::sync::Arc;

use anyhow::Result;
use blueprint_common_runtime::tasks::Spawner;
use blueprint_common_types::HubId;
use blueprint_hub_provision_core::Provider;

use crate::config::ExternalSettings;

/// A provider for each plugin; starts the programs that the hub is to start.
///
/// # Errors
///
/// Where a program cannot be started as it is configured.
#[cfg(feature = "provider-external")]
pub(super) fn start(
    settings: &[ExternalSettings],
    hub: HubId,
    spawner: &Spawner,
) -> Result<Vec<Arc<dyn Provider>>> {
    settings.iter().map(|one| start_one(one, hub, spawner)).collect()
}

#[cfg(feature = "provider-external")]
fn start_one(settings: &ExternalSettings, hub: HubId, spawner: &Spawner) -> Result<Arc<dyn Provider>> {
    use anyhow::Context;
    use blueprint_hub_provider_external::{Account, External, ExternalConfig, Keeper, PluginProgram};
    use tracing::warn;

    let name = &settings.name;
    let failed = || match name.as_str() {
        "external" => "cannot offer providers.external; set its enabled to false, or".to_owned(),
        name => format!("cannot offer {name}; take it out of providers.external.plugins, or"),
    };
    let account = settings.user.as_deref().map(Account::named).transpose().with_context(failed)?;
    let mut users = vec![0, nix::unistd::geteuid().as_raw()];
    users.extend(account.as_ref().map(Account::uid));
    if let Some(path) = &settings.program {
        if account.is_none() {
            warn!(
                provider = name,
                "the plugin runs as the hub's user and can read the hub's keys; give it a user of its own"
            );
        }
        let program = PluginProgram {
            path: path.clone(),
            account,
            socket: settings.socket.clone(),
            name: name.clone(),
            above: Some("/proc/self/exe".into()),
        };
        let keeper = Keeper::new(program).with_context(failed)?;
        spawner.spawn("plugin", keeper.keep(spawner.stop().drain));
    }
    let (socket, within) = (settings.socket.clone(), settings.within);
    // Once for each plugin of this process: providers have names that last.
    let name = Box::leak(name.clone().into_boxed_str());
    Ok(Arc::new(External::new(ExternalConfig { name, hub, socket, users, within })))
}

/// Nothing: there are no such settings in this build.
#[cfg(not(feature = "provider-external"))]
pub(super) fn start(settings: &[ExternalSettings], _: HubId, _: &Spawner) -> Result<Vec<Arc<dyn Provider>>> {
    match settings.first() {
        Some(settings) => match *settings {},
        None => Ok(Vec::new()),
    }
}
