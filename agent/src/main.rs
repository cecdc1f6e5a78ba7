//! The agent's process: everything it does is in the library.

fn main() -> std::process::ExitCode {
    // The second kind of process: it becomes a workload, before anything here has a second thread.
    if std::env::args().nth(1).as_deref() == Some(blueprint_agent::BECOME_WORKLOAD) {
        return std::process::ExitCode::from(blueprint_agent::become_workload());
    }
    blueprint_agent::cli::main()
}
