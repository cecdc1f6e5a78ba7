//! `serve`: runs the hub.

use blueprint_common_runtime::cli::CliError;
use blueprint_common_runtime::logs;
use blueprint_common_runtime::state::StateDir;
use blueprint_common_runtime::tasks::Supervisor;
use tracing::info;

use super::init::failure;
use crate::app::App;
use crate::cli::Global;
use crate::config::HubConfig;
use crate::files;

pub(crate) fn run(global: &Global) -> Result<(), CliError> {
    let (config, _) = HubConfig::load(&global.sources()?)?;
    logs::init(&config.log_level, config.log_format).map_err(|error| CliError::config(error.to_string()))?;
    let folder = global.state()?;
    let state = StateDir::open(&folder)?;
    if !files::is_initialised(&state).map_err(failure)? {
        return Err(CliError::not_found(format!("{} holds no hub", folder.display()))
            .hint("make one with `blueprint-hub init`, or name its folder with --state DIR"));
    }
    server_runtime()?.block_on(async {
        let supervisor = Supervisor::new();
        let grace = config.grace;
        let app = App::build(config, state, &supervisor).await.map_err(failure)?;
        info!(control = %app.control, tunnel = %app.tunnel, proxy = app.proxy_url, "hub is up");
        supervisor.run(grace).await.map_err(|error| CliError::failure(error.to_string()))
    })
}

/// The runtime of a hub.
pub(crate) fn server_runtime() -> Result<tokio::runtime::Runtime, CliError> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::failure(format!("cannot start the runtime: {error}")))
}
