//! The agent's process: everything it does is in the library.

fn main() -> std::process::ExitCode {
    blueprint_agent::cli::main()
}
