//! `blueprint-hub`: parses the command line and runs the command.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Another kind of process: it stands above a plugin, and is that before anything here has a second thread.
    #[cfg(feature = "provider-external")]
    if std::env::args_os().nth(1).is_some_and(|first| first == blueprint_hub::KEEP_PLUGIN) {
        return ExitCode::from(blueprint_hub::keep_plugin());
    }
    blueprint_hub::main()
}
