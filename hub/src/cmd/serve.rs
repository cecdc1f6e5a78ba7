//! `serve`: runs the hub.

use blueprint_common_runtime::cli::{CliError, Exit};
use blueprint_common_runtime::logs;
use blueprint_common_runtime::state::StateDir;
use blueprint_common_runtime::tasks::Supervisor;
use blueprint_common_tunnel::{BindError, InterfaceError, Rights, give_up_net_admin};
use tracing::info;

use super::init::failure;
use crate::app::{App, Ground};
use crate::cli::Global;
use crate::config::HubConfig;
use crate::{files, memory};

pub(crate) fn run(global: &Global) -> Result<(), CliError> {
    let (config, _) = HubConfig::load(&global.sources()?)?;
    logs::init_with_access(&config.log_level, config.log_format)
        .map_err(|error| CliError::config(error.to_string()))?;
    let folder = global.state()?;
    let state = StateDir::open(&folder)?;
    if !files::is_initialised(&state).map_err(failure)? {
        return Err(CliError::not_found(format!("{} holds no hub", folder.display()))
            .hint("make one with `blueprint-hub init`, or name its folder with --state DIR"));
    }
    let ground = Ground::bind(&config, &state).map_err(of_ground)?;
    if config.providers.makes_links() {
        info!("the right to change the network is kept: local machines get links of their own");
    } else {
        // Before there is a second thread, which would keep the right.
        give_up_net_admin()?;
        info!(rights = %Rights::held()?, "the right to change the network is given up");
    }
    let ended = server_runtime()?.block_on(async {
        let supervisor = Supervisor::new();
        let grace = config.grace;
        let app = Box::pin(App::build(config, state, ground, &supervisor)).await.map_err(failure)?;
        info!(control = %app.control, tunnel = %app.tunnel, proxy = app.proxy_url, "hub is up");
        // Nobody waits for it at the end.
        supervisor.child_spawner().spawn_base("memory at rest", memory::rest());
        supervisor.run(grace).await.map_err(|error| CliError::failure(error.to_string()))
    });
    logs::flush_access();
    ended
}

/// What a hub that cannot begin means for whoever started it.
pub(crate) fn of_ground(error: anyhow::Error) -> CliError {
    let (exit, hint) = match error.downcast_ref::<BindError>() {
        None | Some(BindError::System(_)) => (Exit::Failure, None),
        Some(BindError::Socket { .. }) => {
            (Exit::Conflict, Some("choose another UDP address with tunnel.listen, or stop who uses it"))
        }
        Some(BindError::Interface(error)) => (of_interface(error), error.hint()),
    };
    let error = CliError::new(exit, format!("{error:#}"));
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

const fn of_interface(error: &InterfaceError) -> Exit {
    match error {
        InterfaceError::Missing(_) => Exit::Unavailable,
        InterfaceError::Denied(_) => Exit::Denied,
        InterfaceError::InUse(_) | InterfaceError::Overlap { .. } => Exit::Conflict,
        InterfaceError::Name(_) => Exit::Config,
        InterfaceError::Other(_) => Exit::Failure,
    }
}

/// The runtime of a hub.
pub(crate) fn server_runtime() -> Result<tokio::runtime::Runtime, CliError> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::failure(format!("cannot start the runtime: {error}")))
}
