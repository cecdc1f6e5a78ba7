//! `blueprint-launcher`: stands in for a blueprint on the machine of the Blueprint Manager.
//!
//! The Manager starts it as it starts a blueprint. It has the hub run the blueprint on a node, hands what that asks of
//! its bridge to the Manager's, reaches the service through the hub's tunnel, and ends as the blueprint ends. Its own
//! end is the blueprint's, too: the hub sees it by the connection.

mod config;
mod environment;
mod forward;
mod keystore;
mod launch;
mod login;
mod manager;
mod output;
mod registration;
mod session;
mod socket;
mod voice;

use std::process::ExitCode;

use blueprint_common_runtime::cli::{self, CliError, Output, print_line};

use crate::config::Config;
use crate::environment::{Given, plan};

const HELP: &str = "\
blueprint-launcher: the Blueprint Manager starts this in place of a blueprint; docs/manager.md shows how.

Usage: blueprint-launcher run [--test-mode] [ARGUMENT...]
       blueprint-launcher --help | --version

What to run, and where the hub is, stands in launcher.toml: the file that BLUEPRINT_LAUNCHER_CONFIG names, else the one
beside this program, else /etc/blueprint-launcher.toml. Everything else comes from the environment that the Manager
gives to a blueprint.

What the blueprint writes to its standard output and error comes out of this program's own.

Exit code: that of the blueprint; 125 where it ended without one, 124 where no node could take it within
unplaced_secs, 5 where the service is held by somebody else, 6 where the hub or the Manager cannot be reached, 78
where the configuration is not usable.

Example: BLUEPRINT_ID=7 SERVICE_ID=42 BRIDGE_SOCKET_PATH=/run/user/0/svc-7-42.sock blueprint-launcher run";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some("--help" | "-h") => print_line(HELP),
        Some("--version" | "-V") => print_line(concat!("blueprint-launcher ", env!("CARGO_PKG_VERSION"))),
        Some("run") => match launch(arguments) {
            Ok(code) => return ExitCode::from(code),
            Err(error) => return cli::finish(Err(error), Output::Table),
        },
        Some(_) | None => {
            let error = CliError::usage("the first argument is not `run`")
                .hint("the Blueprint Manager starts this program; `blueprint-launcher --help` says more");
            return cli::finish(Err(error), Output::Table);
        }
    }
    ExitCode::SUCCESS
}

fn launch(arguments: Vec<String>) -> Result<u8, CliError> {
    // The Manager's variables are the blueprint's; one that is no text is none of them.
    let variables = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let given = Given { arguments, variables: variables.collect() };
    let config = Config::load(given.variables.get(config::VARIABLE).map(String::as_str))?;
    let plan = plan(&config, &given)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| CliError::failure(format!("cannot start the runtime: {error}")))?;
    let ended = runtime.block_on(launch::run(plan));
    // Connections that are being copied end with the process.
    runtime.shutdown_background();
    ended
}
