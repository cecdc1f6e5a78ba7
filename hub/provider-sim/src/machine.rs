//! The processes of one machine.

use std::ffi::OsStr;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use blueprint_common_types::ServiceKey;
use blueprint_hub_provision_core::InstanceState;
use futures_util::future::{join_all, try_join_all};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Serialize;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use crate::folder::{self, Folder};
use crate::user_data::UserData;

/// Time that a process gets between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(3);

/// Time that a service gets to listen.
const LISTEN_WITHIN: Duration = Duration::from_secs(5);

/// Pause between two looks for the port file.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// A machine did not come up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BootError {
    /// A program cannot be started.
    #[error("cannot start {}", program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A service ended before it listened.
    #[error("service {key} ended before it listened ({status}): {last_line}")]
    End {
        /// The service.
        key: ServiceKey,
        /// How it ended.
        status: ExitStatus,
        /// Last line of its log.
        last_line: String,
    },
    /// A service does not listen.
    #[error("service {key} does not listen after {LISTEN_WITHIN:?}")]
    Late {
        /// The service.
        key: ServiceKey,
    },
    /// The agent's configuration cannot be put in words, for instance because a path is not UTF-8.
    #[error("cannot write the agent's configuration")]
    Config(#[from] toml::ser::Error),
    /// A file of the machine cannot be read or written.
    #[error("cannot use the folder of the machine")]
    Folder(#[from] io::Error),
}

/// The programs that machines run.
#[derive(Debug, Clone)]
pub(crate) struct Programs {
    /// `blueprint-agent`, or one that takes its arguments.
    pub(crate) agent: PathBuf,
    /// The example service, or one that takes its arguments; without it machines offer no service.
    pub(crate) service: Option<PathBuf>,
}

#[derive(Debug)]
struct Process {
    label: String,
    log: PathBuf,
    child: Child,
}

/// A machine that was booted; dropping it kills what still runs.
#[derive(Debug)]
pub(crate) struct Machine {
    agent: Process,
    services: Vec<Process>,
}

#[derive(Serialize)]
struct AgentFile<'a> {
    agent: AgentSection<'a>,
    observe: ObserveSection,
    service: Vec<ServiceRow>,
}

#[derive(Serialize)]
struct AgentSection<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    join_file: Option<PathBuf>,
}

/// Many machines share this host, so none may ask for a port of its own choice.
#[derive(Serialize)]
struct ObserveSection {
    listen: &'static str,
}

#[derive(Serialize)]
struct ServiceRow {
    blueprint: u64,
    service: u64,
    local: SocketAddr,
    check: &'static str,
}

impl Machine {
    /// Starts the services, waits until they listen, and starts the agent; with its join line where it is to join.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future kills what was started.
    pub(crate) async fn boot(
        programs: &Programs,
        folder: &Folder,
        data: &UserData,
        join: bool,
    ) -> Result<Self, BootError> {
        let mut services = Vec::new();
        let mut waits = Vec::new();
        if let Some(program) = &programs.service {
            for key in data.services() {
                services.push(start_service(program, folder, key, &data.name).await?);
                waits.push(key);
            }
        }
        let ports = services.iter_mut().zip(waits).map(|(process, key)| wait_for_port(process, folder, key));
        let service = try_join_all(ports).await?;
        let join_file = join.then(|| folder.join_line());
        let config = AgentFile {
            agent: AgentSection { name: &data.name, join_file },
            observe: ObserveSection { listen: "127.0.0.1:0" },
            service,
        };
        folder.write("agent.toml", toml::to_string(&config)?.as_bytes()).await?;
        let config = folder.agent_config();
        let arguments: [&OsStr; 6] = [
            "run".as_ref(),
            "--config".as_ref(),
            config.as_ref(),
            "--state".as_ref(),
            folder::AGENT_STATE.as_ref(),
            "--exit-on-stdin-close".as_ref(),
        ];
        let agent =
            start("agent".to_owned(), &programs.agent, &arguments, (folder, folder.console())).await?;
        Ok(Self { agent, services })
    }

    /// What the machine does: it failed as soon as one of its processes ended by itself.
    pub(crate) async fn state(&mut self) -> InstanceState {
        for process in std::iter::once(&mut self.agent).chain(&mut self.services) {
            let ended = match process.child.try_wait() {
                Ok(None) => continue,
                Ok(Some(status)) => format!("{} ended ({status})", process.label),
                Err(error) => format!("{} cannot be watched: {error}", process.label),
            };
            let line = folder::last_line(&process.log).await;
            let reason = line.map_or(ended.clone(), |line| format!("{ended}: {line}"));
            return InstanceState::Failed { reason };
        }
        InstanceState::Running
    }

    /// Ends the agent, then the services: SIGTERM, 3 s of grace, SIGKILL.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves a machine of which some processes still run; stopping it again ends them.
    pub(crate) async fn stop(&mut self) {
        stop(&mut self.agent).await;
        join_all(self.services.iter_mut().map(stop)).await;
    }
}

async fn start_service(
    program: &Path,
    folder: &Folder,
    key: ServiceKey,
    name: &str,
) -> Result<Process, BootError> {
    let port_file = folder.port_file(key);
    folder::remove_file(&port_file).await?;
    let arguments: [&OsStr; 7] = [
        "--listen".as_ref(),
        "127.0.0.1:0".as_ref(),
        "--port-file".as_ref(),
        port_file.as_ref(),
        "--name".as_ref(),
        name.as_ref(),
        "--exit-on-stdin-close".as_ref(),
    ];
    start(format!("service {key}"), program, &arguments, (folder, folder.service_log(key))).await
}

async fn start(
    label: String,
    program: &Path,
    arguments: &[&OsStr],
    (folder, log): (&Folder, PathBuf),
) -> Result<Process, BootError> {
    let output = folder::open_log(&log).await?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        // The names of sockets have 107 bytes at the most, and the folder's path may have many of them.
        .current_dir(folder.path())
        .env_clear()
        .envs(["PATH", "HOME"].into_iter().filter_map(|name| Some((name, std::env::var_os(name)?))))
        // The hub's end of this pipe closes with the hub, whatever ends it.
        .stdin(Stdio::piped())
        .stdout(output.try_clone()?)
        .stderr(output)
        // Ctrl-C in the hub's terminal is for the hub, which then stops its machines in order.
        .process_group(0)
        .kill_on_drop(true);
    let child = command.spawn().map_err(|source| BootError::Start { program: program.to_owned(), source })?;
    Ok(Process { label, log, child })
}

async fn wait_for_port(
    process: &mut Process,
    folder: &Folder,
    key: ServiceKey,
) -> Result<ServiceRow, BootError> {
    let port_file = folder.port_file(key);
    let look = async {
        loop {
            let text = tokio::fs::read_to_string(&port_file).await.unwrap_or_default();
            if let Ok(port) = text.trim().parse::<u16>() {
                return Ok(port);
            }
            if let Some(status) = process.child.try_wait()? {
                let last_line = folder::last_line(&process.log).await.unwrap_or_default();
                return Err(BootError::End { key, status, last_line });
            }
            sleep(LOOK_EVERY).await;
        }
    };
    let port = timeout(LISTEN_WITHIN, look).await.map_err(|_| BootError::Late { key })??;
    Ok(ServiceRow {
        blueprint: key.blueprint,
        service: key.service,
        local: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        check: "http:/healthz",
    })
}

async fn stop(process: &mut Process) {
    // Without an id it ended and was waited for.
    let Some(pid) = process.child.id().and_then(|pid| i32::try_from(pid).ok()) else { return };
    let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
    if timeout(GRACE, process.child.wait()).await.is_err() {
        tracing::warn!(process = process.label, "killed after its grace");
        if let Err(error) = process.child.kill().await {
            tracing::error!(process = process.label, %error, "process cannot be killed");
        }
    }
}
