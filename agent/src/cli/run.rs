//! `run`: the agent as a process.

use std::fs;
use std::path::Path;
use std::time::Duration;

use blueprint_common_link_core::Backoff;
use blueprint_common_runtime::Chain;
use blueprint_common_runtime::cli::CliError;
use blueprint_common_runtime::logs;
use blueprint_common_runtime::state::StateDir;
use blueprint_common_runtime::tasks::{Stop, Supervisor, TaskError};
use blueprint_common_spoke::{Identity, JoinOptions};
use blueprint_common_tunnel::{Rights, give_up_net_admin, share_memory};
use blueprint_common_types::{JoinLine, Secret};
use tokio::io::AsyncReadExt;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;
use tracing::{info, warn};

use super::{RunArgs, config};
use crate::agent::{Agent, AgentError};
use crate::config::AgentConfig;
use crate::{hint, memory};

/// Threads for tunnel, streams and control: more do not help one agent.
const MAX_THREADS: usize = 4;

/// Largest file or input that may hold a join line.
const MAX_LINE_BYTES: u64 = 4096;

/// Longest pause between attempts to join with the line of `agent.join_file`.
const JOIN_PAUSE: Duration = Duration::from_secs(5);

/// How long blocked reads may hold the end of the process up.
const RUNTIME_END: Duration = Duration::from_millis(200);

pub(super) fn run(args: RunArgs) -> Result<(), CliError> {
    share_memory();
    let agent_config = config::load(args.config)?;
    logs::init(&agent_config.log_level, agent_config.log_format)?;
    let state = args.state.open()?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS);
    // This thread alone keeps the right to change the network, until the device stands.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .on_thread_start(|| {
            if let Err(error) = give_up_net_admin() {
                warn!(%error, "a thread keeps the right to change the network");
            }
        })
        .enable_all()
        .build()?;
    let result = runtime.block_on(serve(agent_config, state, args.exit_on_stdin_close));
    // A read of standard input cannot be cancelled and must not keep the process.
    runtime.shutdown_timeout(RUNTIME_END);
    result
}

async fn serve(config: AgentConfig, state: StateDir, ends_with_stdin: bool) -> Result<(), CliError> {
    let supervisor = Supervisor::new();
    let stop = supervisor.stop();
    if ends_with_stdin {
        let drain = stop.drain.clone();
        supervisor.child_spawner().spawn("stdin", async move {
            drain.run_until_cancelled(stdin_closed()).await;
            info!("standard input is closed");
            drain.cancel();
        });
    }
    if let Some(path) = &config.join_file
        && Identity::load(&state).map_err(hint::identity)?.is_none()
        && !join_or_signal(path, &config, &state, &stop).await?
    {
        return Ok(());
    }
    let grace = config.grace;
    let agent = Agent::build(config, state, stop).await.map_err(|error| CliError::from(&error))?;
    give_up_net_admin()?;
    info!(rights = %Rights::held()?, "the right to change the network is given up");
    if let Some(address) = agent.observe_addr() {
        info!(%address, "metrics and probes");
    }
    let spawner = supervisor.child_spawner();
    // Nobody waits for it at the end.
    spawner.spawn_base("memory", memory::run(agent.view().shared));
    supervisor.spawn_essential("agent", agent.run(spawner));
    supervisor.run(grace).await.map_err(of_task)
}

/// What the end of the agent means for the process.
fn of_task(error: TaskError) -> CliError {
    if let TaskError::Failed { source, .. } = &error
        && let Some(agent) = source.downcast_ref::<AgentError>()
    {
        return CliError::from(agent);
    }
    error.into()
}

async fn stdin_closed() {
    let mut stdin = tokio::io::stdin();
    let mut buffer = [0u8; 256];
    while let Ok(1..) = stdin.read(&mut buffer).await {}
}

/// Joins, unless the process is asked to end before; `false` then.
async fn join_or_signal(
    path: &Path,
    config: &AgentConfig,
    state: &StateDir,
    stop: &Stop,
) -> Result<bool, CliError> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        biased;
        _ = terminate.recv() => Ok(false),
        _ = interrupt.recv() => Ok(false),
        () = stop.drain.cancelled() => Ok(false),
        joined = join_from(path, config, state) => joined.map(|()| true),
    }
}

/// Joins with the line in the file, again and again while the hub is not there.
async fn join_from(path: &Path, config: &AgentConfig, state: &StateDir) -> Result<(), CliError> {
    let line = read_line(path)?;
    let mut seed = [0u8; 8];
    blueprint_common_types::fill_random(&mut seed)?;
    let mut backoff = Backoff::new(JOIN_PAUSE, u64::from_le_bytes(seed));
    loop {
        let options = JoinOptions {
            line: line.clone(),
            name: config.name.clone(),
            state: state.clone(),
            proxy: config.proxy.clone(),
        };
        match Agent::join(options).await {
            Ok(identity) => {
                info!(hub = %identity.hub, agent = %identity.agent_id, "joined");
                return Ok(());
            }
            Err(error) if error.is_transient() => {
                let pause = backoff.next_wait();
                warn!(error = %Chain(&error), ?pause, "not joined yet");
                sleep(pause).await;
            }
            Err(error) => return Err(hint::join(error)),
        }
    }
}

/// Reads a join line from a file; what is in it is never told.
pub(super) fn read_line(path: &Path) -> Result<JoinLine, CliError> {
    parse_line(&read_text(path)?)
}

/// Reads a file that may hold a join line.
pub(super) fn read_text(path: &Path) -> Result<Secret<String>, CliError> {
    let named = |error: std::io::Error| {
        std::io::Error::new(error.kind(), format!("cannot read the join line in {}: {error}", path.display()))
    };
    if fs::metadata(path).map_err(named)?.len() > MAX_LINE_BYTES {
        return Err(CliError::usage(format!("{} is too long to hold a join line", path.display())));
    }
    Ok(Secret::new(fs::read_to_string(path).map_err(named)?))
}

/// Parses a join line.
pub(super) fn parse_line(text: &Secret<String>) -> Result<JoinLine, CliError> {
    text.expose().trim().parse().map_err(|error| {
        CliError::from_error(blueprint_common_runtime::cli::Exit::Usage, &error)
            .hint("paste the whole line that `blueprint-hub token create` printed")
    })
}

#[cfg(test)]
mod tests {
    use blueprint_common_runtime::cli::Exit;
    use blueprint_common_spoke::SpokeError;

    use super::*;

    #[test]
    fn a_join_line_that_is_none_is_not_repeated() {
        let text = Secret::new("hub:1/canary/bpj_canary".to_owned());
        let error = parse_line(&text).unwrap_err();
        assert_eq!(error.exit, Exit::Usage);
        assert!(!format!("{error:?}").contains("canary"), "{error:?}");
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = read_line(Path::new("/nonexistent/line")).unwrap_err();
        assert_eq!(error.exit, Exit::NotFound);
        assert!(error.message.contains("/nonexistent/line"));
    }

    #[test]
    fn the_end_of_a_removed_agent_is_denied() {
        let source = Box::new(AgentError::from(SpokeError::Revoked { why: "removed".to_owned() }));
        let error = of_task(TaskError::Failed { name: "agent", source });
        assert_eq!(error.exit, Exit::Denied);
        assert!(error.hint.is_some());
    }
}
