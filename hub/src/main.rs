//! `blueprint-hub`: parses the command line and runs the command.

use std::process::ExitCode;

fn main() -> ExitCode {
    blueprint_hub::main()
}
