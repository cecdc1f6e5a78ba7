//! Commands beside workloads: with what a workload has, and with nothing more.
//!
//! A command has the user, the control group, the folder, the sandbox and the view of files of its workload. It has the
//! workload's variables but for those that hold secrets. What its user may read it reads: the files of the keystore, too.
//! It ends with its session, and with its workload. Beside a native workload a keeper stands above it; in a container the
//! engine starts it (`inside`).

mod family;
mod inside;

use std::collections::BTreeMap;
use std::future::pending;
use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use blueprint_agent_workload_core::log::secrets;
use blueprint_common_runtime::frames::SILENCE;
use blueprint_common_runtime::tasks::Spawner;
use blueprint_common_types::workload::{Bundle, WorkloadSpec};
use blueprint_common_types::{DoorRefusal, ExecAsk, ServiceKey};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::process::{Child, Command};
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::warn;

use crate::container::Engine;
use crate::keeper::{ExecErrand, KEEP_EXEC, pair};
use crate::launch::{ARGUMENT, Beside, Launch};
use crate::meter::Meter;
use crate::output::Output;
use crate::tree;

pub(crate) use inside::Inside;

/// Commands of a node at once. The hub has fewer.
const AT_ONCE: usize = 16;

/// How long a keeper may take to kill what it keeps, once its socket is closed.
const END_WITHIN: Duration = Duration::from_secs(15);

/// Bytes that are handed on at once.
const CHUNK: usize = 32 << 10;

/// Most arguments of a command, and most bytes of them.
const MAX_ARGS: usize = 1024;
const MAX_ARGS_BYTES: usize = 128 << 10;

/// A workload that runs, as a command beside it needs it.
#[derive(Debug)]
struct Place {
    kind: Kind,
    /// What its processes are counted by.
    meter: Meter,
    /// Cancelled once the workload has ended.
    ended: CancellationToken,
}

#[derive(Debug, Clone)]
enum Kind {
    /// What it became, without its secrets.
    Native(Arc<Launch>),
    Container(Arc<Inside>),
}

/// What a workload was started as.
#[derive(Debug)]
pub(crate) enum Ran {
    /// This process, and what it and all below its keeper are counted by.
    Native(Box<Launch>, u32, Meter),
    Container(Inside),
}

/// Workloads of this node that run.
#[derive(Debug, Clone, Default)]
pub(crate) struct Besides {
    /// By service and generation: two versions of a service may run at once.
    places: Arc<Mutex<BTreeMap<(ServiceKey, u64), Place>>>,
    running: Arc<Mutex<usize>>,
}

/// Takes the workload out of the list when dropped, and ends what runs beside it.
#[derive(Debug)]
pub(crate) struct Listed {
    besides: Besides,
    place: (ServiceKey, u64),
    _ended: DropGuard,
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.besides.places.lock().remove(&self.place);
    }
}

impl Besides {
    /// Lists a workload that was started.
    pub(crate) fn list(
        &self,
        place: (ServiceKey, u64),
        ran: Ran,
        spec: &WorkloadSpec,
        bundle: &Bundle,
    ) -> Listed {
        let (kind, meter) = match ran {
            Ran::Container(inside) => {
                let meter = Meter::Container(inside.id.clone());
                (Kind::Container(Arc::new(inside)), meter)
            }
            Ran::Native(launch, pid, meter) => {
                (Kind::Native(Arc::new(public(*launch, pid, spec, bundle))), meter)
            }
        };
        let ended = CancellationToken::new();
        self.places.lock().insert(place, Place { kind, meter, ended: ended.clone() });
        Listed { besides: self.clone(), place, _ended: ended.drop_guard() }
    }

    /// What all that run here are counted by.
    pub(crate) fn meters(&self) -> Vec<((ServiceKey, u64), Meter)> {
        self.places.lock().iter().map(|(place, one)| (*place, one.meter.clone())).collect()
    }
}

/// Names of variables that hold secrets of a workload.
pub(crate) fn secret_names(
    env: &BTreeMap<String, String>,
    spec: &WorkloadSpec,
    bundle: &Bundle,
) -> Vec<String> {
    let secrets = secrets(spec, bundle);
    let is_secret = |(name, value): &(&String, &String)| {
        let is_its = spec.env.contains_key(*name);
        *name == "TLS_ENVELOPE_KEY"
            || secrets.iter().map(|secret| secret.expose().as_slice()).any(|secret| {
                // A short one is found in anything.
                (is_its && secret == value.as_bytes())
                    || (secret.len() >= 6
                        && value.as_bytes().windows(secret.len()).any(|part| part == secret))
            })
    };
    env.iter().filter(is_secret).map(|(name, _)| name.clone()).collect()
}

/// The launch of a workload for commands beside it: without its secrets, and where it is.
fn public(mut launch: Launch, pid: u32, spec: &WorkloadSpec, bundle: &Bundle) -> Launch {
    for name in secret_names(&launch.env, spec, bundle) {
        launch.env.remove(&name);
    }
    let pid = i32::try_from(pid).unwrap_or(i32::MAX);
    let started = tree::look(pid).map_or(0, |seen| seen.started);
    launch.beside = Some(Beside { pid, started, terminal: false });
    launch.private_tmp = None;
    launch
}

/// A command that was started, and waits for its session.
#[derive(Debug)]
pub struct Session {
    work: Work,
    ended: CancellationToken,
    _counted: Counted,
}

/// Who speaks for the command.
#[derive(Debug)]
enum Work {
    Keeper(Box<Kept>),
    Inside(Box<inside::Started>),
}

/// A command with a keeper above it.
#[derive(Debug)]
struct Kept {
    keeper: Child,
    socket: UnixStream,
    output: Output,
}

#[derive(Debug)]
struct Counted(Arc<Mutex<usize>>);

impl Drop for Counted {
    fn drop(&mut self) {
        let mut running = self.0.lock();
        *running = running.saturating_sub(1);
    }
}

fn refused(code: &str, message: impl Into<String>, hint: &str) -> DoorRefusal {
    DoorRefusal::new(code, message, hint)
}

impl Besides {
    fn count(&self) -> Result<Counted, DoorRefusal> {
        let mut running = self.running.lock();
        if *running >= AT_ONCE {
            let text = format!("{AT_ONCE} commands run on this node already");
            return Err(refused("exec_too_many", text, "end another one first"));
        }
        *running = running.saturating_add(1);
        Ok(Counted(Arc::clone(&self.running)))
    }

    /// Starts a command beside a workload.
    pub(crate) async fn begin(
        &self,
        (agent, engine): (&PathBuf, &Engine),
        ask: ExecAsk,
        spawner: &Spawner,
    ) -> Result<Session, DoorRefusal> {
        check(&ask)?;
        let counted = self.count()?;
        let service = ask.service;
        let found = {
            let places = self.places.lock();
            let place = places.get(&(service, ask.generation));
            place.map(|place| (place.kind.clone(), place.ended.clone()))
        };
        let Some((kind, ended)) = found else {
            let hint = "`blueprint-hub workload show BLUEPRINT/SERVICE` says how it is doing";
            return Err(refused(
                "not_running",
                format!("workload {service} does not run on this node now"),
                hint,
            ));
        };
        let work = match kind {
            Kind::Native(launch) => Work::Keeper(Box::new(keep(agent, errand(&launch, ask), spawner).await?)),
            Kind::Container(inside) => {
                let start = Box::pin(inside.start(engine, service, ask, spawner));
                let started = ended.run_until_cancelled(start).await;
                let hint = "`blueprint-hub workload show BLUEPRINT/SERVICE` says how it is doing";
                let gone = || refused("not_running", format!("workload {service} ended just now"), hint);
                Work::Inside(Box::new(started.ok_or_else(gone)??))
            }
        };
        Ok(Session { work, ended, _counted: counted })
    }
}

/// Starts a keeper, and a command below it.
async fn keep(agent: &PathBuf, errand: ExecErrand, spawner: &Spawner) -> Result<Kept, DoorRefusal> {
    let failed = |error: io::Error| {
        let text = format!("the node cannot start a process: {error}");
        refused("exec_failed", text, "the agent's log says more")
    };
    let mut text = serde_json::to_vec(&errand).map_err(|error| failed(error.into()))?;
    text.push(b'\n');
    let (mut socket, theirs) = pair().map_err(failed)?;
    let mut keeper = Command::new(agent)
        .args([ARGUMENT, KEEP_EXEC])
        .env_clear()
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let output = Output::default();
    if let Some(stderr) = keeper.stderr.take() {
        spawner.spawn_base("keeper output", output.clone().follow(stderr));
    }
    socket.write_all(&text).await.map_err(failed)?;
    Ok(Kept { keeper, socket, output })
}

fn check(ask: &ExecAsk) -> Result<(), DoorRefusal> {
    let bytes: usize = ask.argv.iter().map(|argument| argument.len().saturating_add(1)).sum();
    let is_bad = |text: &String| text.contains('\0');
    let what = match ask.argv.first() {
        None => "names no command",
        Some(program) if program.is_empty() => "names no command",
        Some(_) if ask.argv.len() > MAX_ARGS || bytes > MAX_ARGS_BYTES => "has too many arguments",
        Some(_) if ask.argv.iter().any(is_bad) => "has a zero byte in an argument",
        Some(_) => return Ok(()),
    };
    let hint = "at most 1024 arguments with 128 KiB together, after `--`";
    Err(refused("invalid", format!("the call {what}"), hint))
}

fn errand(launch: &Launch, ask: ExecAsk) -> ExecErrand {
    let ExecAsk { argv, stdin, terminal, timeout_secs, .. } = ask;
    let mut words = argv.into_iter();
    let mut launch = launch.clone();
    launch.program = PathBuf::from(words.next().unwrap_or_default());
    launch.args = words.collect();
    ExecErrand { launch, stdin, terminal, timeout_secs }
}

impl Session {
    /// Carries the frames of the session until the command has ended, the other side is gone, or the workload has ended;
    /// then nothing of the command is left.
    pub async fn carry<S: AsyncRead + AsyncWrite + Unpin>(self, stream: S) {
        let Self { work, ended, _counted } = self;
        match work {
            Work::Keeper(kept) => kept.carry(stream, &ended).await,
            // What is left of it is killed with the future.
            Work::Inside(started) => {
                let _ = ended.run_until_cancelled(Box::pin(started.carry(stream))).await;
            }
        }
    }
}

impl Kept {
    async fn carry<S: AsyncRead + AsyncWrite + Unpin>(self, stream: S, ended: &CancellationToken) {
        let Self { mut keeper, socket, output } = self;
        let (from_hub, to_hub) = tokio::io::split(stream);
        let (from_keeper, to_keeper) = socket.into_split();
        let carried = async {
            let down = async {
                if !down(from_keeper, to_hub).await {
                    return;
                }
                // What is on its way is taken for as long as the hub is there; it closes behind the last frame.
                pending().await
            };
            tokio::select! {
                () = up(from_hub, to_keeper) => {}
                () = down => {}
            }
        };
        // Where the workload ends, its commands do. The keeper's socket closes with the future.
        let _ = ended.run_until_cancelled(carried).await;
        if timeout(END_WITHIN, keeper.wait()).await.is_err() {
            warn!("the keeper of a command does not end; it is killed, and the command with it");
            let _ = keeper.kill().await;
        }
        output.ended().await;
        if let Some(said) = output.last() {
            warn!(said, "the keeper of a command said something");
        }
    }
}

/// Hands on what the hub says, until it says nothing for too long. A keeper that has ended needs it no more.
async fn up<R: AsyncRead + Unpin>(mut hub: R, mut keeper: OwnedWriteHalf) {
    let mut buffer = vec![0; CHUNK];
    while let Ok(Ok(count @ 1..)) = timeout(SILENCE, hub.read(&mut buffer)).await {
        let _ = keeper.write_all(buffer.get(..count).unwrap_or_default()).await;
    }
}

/// Hands on what the keeper says; false where the hub takes no more.
async fn down<W: AsyncWrite + Unpin>(mut keeper: OwnedReadHalf, mut hub: W) -> bool {
    let mut buffer = vec![0; CHUNK];
    while let Ok(count @ 1..) = keeper.read(&mut buffer).await {
        let bytes = buffer.get(..count).unwrap_or_default();
        if hub.write_all(bytes).await.is_err() || hub.flush().await.is_err() {
            return false;
        }
    }
    hub.shutdown().await.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launch() -> Launch {
        let env = [
            ("DATA_DIR", "/data/7"),
            ("PATH", "/usr/bin"),
            ("TOKEN", "1"),
            ("HTTP_RPC_URL", "https://user:swordfish@rpc.example.org/"),
            ("TLS_ENVELOPE_KEY", "00ff"),
        ];
        Launch {
            keeper: 0,
            program: PathBuf::from("/bin/workload"),
            args: vec!["run".to_owned()],
            env: env.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            folder: PathBuf::from("/data/7"),
            user: Some((61_184, 61_184)),
            cgroups: vec![PathBuf::from("/sys/fs/cgroup/a/cgroup.procs")],
            no_new_privileges: true,
            private_tmp: Some(1),
            confinement: None,
            beside: None,
        }
    }

    #[test]
    fn a_command_has_what_its_workload_has_but_for_secrets() {
        let document = r#"{"source":{"type":"testing","path":"/bin/true"},"env":{"TOKEN":"1"},
                           "chain":{"http_rpc_url":"https://user:swordfish@rpc.example.org/"}}"#;
        let spec: WorkloadSpec = serde_json::from_str(document).unwrap();
        let own = std::process::id();
        let public = public(launch(), own, &spec, &Bundle::default());
        let names: Vec<&str> = public.env.keys().map(String::as_str).collect();
        assert_eq!(names, ["DATA_DIR", "PATH"]);
        let ask = ExecAsk {
            service: ServiceKey { blueprint: 7, service: 42 },
            generation: 1,
            argv: vec!["ls".to_owned(), "-l".to_owned()],
            stdin: false,
            terminal: None,
            timeout_secs: 5,
        };
        let ExecErrand { launch: command, .. } = errand(&public, ask);
        assert_eq!((command.program, command.args), (PathBuf::from("ls"), vec!["-l".to_owned()]));
        let beside = command.beside.unwrap();
        assert_eq!(u32::try_from(beside.pid), Ok(own));
        assert!(beside.started > 0 && !beside.terminal);
        // Everything else is the workload's.
        let workload = launch();
        assert_eq!((command.user, command.cgroups), (workload.user, workload.cgroups));
        assert_eq!((command.folder, command.no_new_privileges), (workload.folder, true));
        assert_eq!(command.private_tmp, None, "it sees the workload's");
    }

    #[test]
    fn what_is_no_command_is_refused() {
        let ask = |argv: &[&str]| ExecAsk {
            service: ServiceKey { blueprint: 7, service: 42 },
            generation: 1,
            argv: argv.iter().map(|word| (*word).to_owned()).collect(),
            stdin: false,
            terminal: None,
            timeout_secs: 5,
        };
        assert!(check(&ask(&["ls"])).is_ok());
        let long = "x".repeat(MAX_ARGS_BYTES);
        let many = vec!["x"; MAX_ARGS + 1];
        for bad in [&[][..], &[""], &["a\0b"], &["echo", &long], &many] {
            assert_eq!(check(&ask(bad)).unwrap_err().code, "invalid");
        }
    }
}
