//! A command in a container, by its engine: the frames of its session, and its end.
//!
//! The engine is asked alone; no program of it is started. It ends no command that it started, and so [`Family`] does,
//! whatever becomes of the session.

use std::future::pending;
use std::io;
use std::pin::pin;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use blueprint_common_engine::Hijacked;
use blueprint_common_runtime::frames::{ExitFrame, Frame};
use blueprint_common_runtime::tasks::Spawner;
use blueprint_common_types::{DoorRefusal, ExecAsk, ServiceKey, TerminalSize};
use futures_util::future::join;
use nix::sys::signal::Signal;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::family::{Family, MARK, can_end};
use super::refused;
use crate::container::{Engine, EngineError, Exec, ExecOutputs, ExecSpec, ExecState, is_not_running};
use crate::exchange::{Input, Order, WAITING, feed, listen, pump, reason, say_alive, send};

/// Bytes of output that are handed on once nothing is left that could write any: what an engine may hold of them.
const LAST: usize = 8 << 20;

/// Pauses between two looks at how a command does: at first once its output has ended, and at most.
const SOON: Duration = Duration::from_millis(10);
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// How long an engine may be away until nobody knows how its command ended.
const AWAY: Duration = Duration::from_secs(30);

/// How long an engine may take to start a command, and how long it is looked for one that nobody waits for any more.
const START_WITHIN: Duration = Duration::from_secs(60);

/// Signals that wait to be sent.
const SIGNALS: usize = 16;

/// A container that runs, as a command in it needs it.
#[derive(Debug, Clone)]
pub(crate) struct Inside {
    /// The engine's name for it.
    pub(crate) id: String,
    /// Names of its variables that hold secrets.
    pub(crate) hidden: Vec<String>,
}

/// A command that the engine has started.
#[derive(Debug)]
pub(super) struct Started {
    exec: Exec,
    stream: Hijacked,
    family: Family,
    ender: Ender,
    stdin: bool,
    terminal: Option<TerminalSize>,
    limit: Duration,
}

impl Inside {
    /// Starts a command in it.
    pub(super) async fn start(
        &self,
        engine: &Engine,
        service: ServiceKey,
        ask: ExecAsk,
        spawner: &Spawner,
    ) -> Result<Started, DoorRefusal> {
        let failed = |text: String| refused("exec_failed", text, "the agent's log says more");
        let no_engine = |error: EngineError| {
            if is_not_running(&error) {
                let text = format!("the container of workload {service} does not run now");
                let hint = "`blueprint-hub workload show BLUEPRINT/SERVICE` says how it is doing";
                return refused("not_running", text, hint);
            }
            failed(error.to_string())
        };
        if !can_end(&self.id).await {
            let text =
                format!("the agent could not end a command in the container of {service}, and starts none");
            let hint =
                "run the agent as root, on the machine and in the process namespace of its container engine";
            return Err(refused("exec_failed", text, hint));
        }
        let family = Family::new(&self.id).map_err(|error: io::Error| failed(error.to_string()))?;
        let ExecAsk { argv, stdin, terminal, timeout_secs, .. } = ask;
        // An engine can give a variable another value, and not take it away.
        let mut env: Vec<_> = self.hidden.iter().map(|name| (name.clone(), String::new())).collect();
        env.push((MARK.to_owned(), family.mark()));
        env.extend(terminal.as_ref().map(|size| ("TERM".to_owned(), size.term.clone())));
        let command = ExecSpec { argv, env, stdin, terminal: terminal.is_some() };
        let exec = engine.exec(&self.id, &command).await.map_err(no_engine)?;
        // The engine may start it whatever becomes of the call.
        let ender = Ender::new(&exec, &family, spawner);
        let stream = exec.start().await.map_err(no_engine)?;
        if let Some(size) = &terminal
            && let Err(error) = exec.resize(size.rows, size.columns).await
        {
            // It has ended already, or has the size that engines give.
            debug!(%error, "the terminal of a command has no size");
        }
        let limit = Duration::from_secs(timeout_secs);
        Ok(Started { exec, stream, family, ender, stdin, terminal, limit })
    }
}

/// Why a command is ended.
enum End {
    /// It ended by itself.
    Exit(Option<u8>),
    /// Its time is up.
    Late,
    /// Nobody is there any more, or what came is no frame.
    Gone,
}

impl Started {
    /// Speaks the frames of the session until the command has ended, its time is up, or the other side is gone; then nothing of
    /// it is left.
    pub(super) async fn carry<S: AsyncRead + AsyncWrite + Unpin>(self, stream: S) {
        let Self { exec, stream: inside, family, ender, stdin, terminal, limit } = self;
        let is_terminal = terminal.is_some();
        let (from_hub, to_hub) = tokio::io::split(stream);
        let (reader, writer) = tokio::io::split(inside);
        let input = stdin.then(|| Input::new(writer, is_terminal));
        let (out, waiting) = mpsc::channel::<Frame>(WAITING);
        let (to_command, pieces) = mpsc::unbounded_channel();
        let (on_way, over, read) = (AtomicUsize::new(0), CancellationToken::new(), CancellationToken::new());
        let (resize, sizes) = watch::channel(None);
        let (signal, signals) = mpsc::channel(SIGNALS);
        let mut pumped = pin!(async {
            pump(reader, out.clone(), &over, LAST, frames(is_terminal)).await;
            read.cancel();
        });
        let mut feed = pin!(feed(input, pieces, &on_way, &out));
        let mut alive = pin!(say_alive(&out));
        let mut writer = pin!(send(waiting, to_hub));
        let mut orders = pin!(listen(from_hub, (to_command, &on_way), |order| match order {
            Order::Resize(rows, columns) => drop(resize.send_replace(Some((rows, columns)))),
            // One too many is lost, as where signals wait in a kernel.
            Order::Signal(signal_) => drop(signal.try_send(signal_)),
        }));
        let mut done = pin!(ended(&exec, &family, &read));
        let mut sizes = pin!(resizes(&exec, sizes));
        let mut signals = pin!(pass(&family, signals));
        let mut late = pin!(sleep(limit));
        let end = loop {
            tokio::select! {
                biased;
                code = &mut done => break End::Exit(code),
                () = &mut orders => break End::Gone,
                () = &mut writer => break End::Gone,
                () = &mut late => break End::Late,
                () = &mut pumped, if !read.is_cancelled() => {}
                never = &mut feed => match never {},
                never = &mut alive => match never {},
                never = &mut sizes => match never {},
                never = &mut signals => match never {},
            }
        };
        let left = family.kill().await;
        let (code, late) = match end {
            End::Gone => return ender.end().await,
            End::Exit(code) => (code, None),
            End::Late => (None, Some(limit)),
        };
        over.cancel();
        let reason = reason(late, left);
        let last = async {
            if !read.is_cancelled() {
                pumped.await;
            }
            // The writer ends behind it, or is gone.
            let _ = out.send(Frame::Exit(ExitFrame { code, reason })).await;
        };
        tokio::select! {
            biased;
            () = &mut orders => {}
            _ = join(last, writer) => {}
        }
        ender.end().await;
    }
}

/// Sees to it that a command ends that nobody waits for any more; where it is dropped before, a task does.
///
/// An engine answers before it starts a command, so that there may be nothing to kill yet.
#[derive(Debug)]
struct Ender(Option<(Exec, Family, Spawner)>);

impl Ender {
    fn new(exec: &Exec, family: &Family, spawner: &Spawner) -> Self {
        Self(Some((exec.clone(), family.clone(), spawner.clone())))
    }

    /// Kills the command until its engine says that it has ended, for a minute at most.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the rest to a task.
    async fn end(mut self) {
        if let Some((exec, family, _)) = &self.0 {
            end(exec, family).await;
        }
        self.0 = None;
    }
}

impl Drop for Ender {
    fn drop(&mut self) {
        if let Some((exec, family, spawner)) = self.0.take() {
            spawner.spawn_base("end of a command", async move { end(&exec, &family).await });
        }
    }
}

async fn end(exec: &Exec, family: &Family) {
    let (begun, mut pause) = (Instant::now(), SOON);
    loop {
        // Asked before: all that one which has ended has started is there to be found.
        let state = exec.state().await;
        family.kill().await;
        match state {
            Ok(ExecState::Ended(_)) => return,
            Ok(ExecState::NotStarted | ExecState::Running) | Err(_) if begun.elapsed() < START_WITHIN => {}
            Ok(ExecState::NotStarted) => {
                debug!("the engine did not start a command that nobody waits for");
                return;
            }
            Ok(ExecState::Running) | Err(_) => {
                warn!("a command in a container may run on without its session; it ends with the container");
                return;
            }
        }
        sleep(pause).await;
        pause = pause.saturating_mul(2).min(LOOK_AGAIN);
    }
}

/// Frames of what a command writes: all of it where it has a terminal, else its two outputs.
fn frames(is_terminal: bool) -> impl FnMut(&[u8]) -> Option<Vec<Frame>> {
    let mut outputs = ExecOutputs::default();
    move |bytes| {
        if is_terminal {
            return Some(vec![Frame::Stdout(bytes.to_vec())]);
        }
        let mut frames = Vec::new();
        let read = outputs.read(bytes, |is_error, part| {
            let frame = if is_error { Frame::Stderr } else { Frame::Stdout };
            frames.push(frame(part.to_vec()));
        });
        // Behind what is no frame nothing can be told apart.
        (read.is_ok() || !frames.is_empty()).then_some(frames)
    }
}

/// Waits for the end of the command; says its exit code, where that is known. An engine does not tell when that is.
async fn ended(exec: &Exec, family: &Family, read: &CancellationToken) -> Option<u8> {
    let (mut pause, mut away): (Duration, Option<Instant>) = (SOON, None);
    let begun = Instant::now();
    loop {
        family.look().await;
        match exec.state().await {
            Ok(ExecState::Ended(code)) => return code.and_then(|code| u8::try_from(code & 0xff).ok()),
            Ok(ExecState::Running) => away = None,
            Ok(ExecState::NotStarted) if begun.elapsed() >= START_WITHIN => {
                debug!("the engine does not start a command");
                return None;
            }
            Ok(ExecState::NotStarted) => away = None,
            Err(error) => {
                let since = *away.get_or_insert_with(Instant::now);
                if since.elapsed() >= AWAY {
                    debug!(%error, "the end of a command is unknown");
                    return None;
                }
            }
        }
        if read.is_cancelled() {
            // Its output ends a moment before it does.
            sleep(pause).await;
            pause = pause.saturating_mul(2).min(LOOK_AGAIN);
        } else {
            tokio::select! {
                () = sleep(LOOK_AGAIN) => {}
                () = read.cancelled() => {}
            }
        }
    }
}

/// Has the engine follow the size of the operator's terminal.
async fn resizes(exec: &Exec, mut sizes: watch::Receiver<Option<(u16, u16)>>) -> std::convert::Infallible {
    while sizes.changed().await.is_ok() {
        let size = *sizes.borrow_and_update();
        if let Some((rows, columns)) = size
            && let Err(error) = exec.resize(rows, columns).await
        {
            // A size that it does not take leaves it as it was.
            debug!(%error, "the terminal of a command is not resized");
        }
    }
    pending().await
}

async fn pass(family: &Family, mut signals: mpsc::Receiver<Signal>) -> std::convert::Infallible {
    while let Some(signal) = signals.recv().await {
        family.signal(signal).await;
    }
    pending().await
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::Ordering;

    use blueprint_common_runtime::tasks::Supervisor;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// An engine that says this of a command, one word to each connection, the last one for ever.
    fn engine(
        folder: &std::path::Path,
        says: &'static [&'static str],
        spawner: &Spawner,
    ) -> (Engine, Arc<AtomicUsize>) {
        let listener = tokio::net::UnixListener::bind(folder.join("e.sock")).unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let serve = async move {
            let answer =
                |body: &str| format!("HTTP/1.1 200 X\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut head = [0; 4096];
                let length = stream.read(&mut head).await.unwrap();
                let body = if head[..length].starts_with(b"GET /version") {
                    r#"{"Version":"1","ApiVersion":"1.43","MinAPIVersion":"1.12"}"#
                } else {
                    says[count.fetch_add(1, Ordering::Relaxed).min(says.len() - 1)]
                };
                stream.write_all(answer(body).as_bytes()).await.unwrap();
            }
        };
        spawner.spawn_base("engine", serve);
        (Engine::new(folder.join("e.sock")), asked)
    }

    const NOT_YET: &str = r#"{"Running":false,"ExitCode":null}"#;
    const RUNS: &str = r#"{"Running":true,"ExitCode":null}"#;
    const KILLED: &str = r#"{"Running":false,"ExitCode":137}"#;

    #[tokio::test]
    async fn a_command_that_starts_after_its_session_is_ended() {
        let folder = tempfile::tempdir().unwrap();
        let supervisor = Supervisor::new();
        let spawner = supervisor.child_spawner();
        let (engine, asked) = engine(folder.path(), &[NOT_YET, NOT_YET, RUNS, KILLED], &spawner);
        let exec = Exec::made(&engine, "e1").await;
        let family = Family::new(&"c".repeat(64)).unwrap();
        Ender::new(&exec, &family, &spawner).end().await;
        assert_eq!(asked.load(Ordering::Relaxed), 4, "until it has ended, and no longer");
        drop(Ender::new(&exec, &family, &spawner));
        while asked.load(Ordering::Relaxed) < 5 {
            sleep(SOON).await;
        }
    }

    #[tokio::test]
    async fn a_command_that_has_not_started_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let supervisor = Supervisor::new();
        let (engine, _) = engine(folder.path(), &[NOT_YET, RUNS, KILLED], &supervisor.child_spawner());
        let exec = Exec::made(&engine, "e1").await;
        let read = CancellationToken::new();
        read.cancel();
        assert_eq!(ended(&exec, &Family::new(&"c".repeat(64)).unwrap(), &read).await, Some(137));
    }

    #[test]
    fn what_is_no_frame_of_an_engine_ends_the_output() {
        let mut frames = frames(false);
        let first = frames(b"\x01\0\0\0\0\0\0\x02ok\x02\0\0\0\0\0\0\x01!").unwrap();
        assert_eq!(first, [Frame::Stdout(b"ok".to_vec()), Frame::Stderr(b"!".to_vec())]);
        assert_eq!(frames(b"\x09\0\0\0\0\0\0\x01x"), None);
        let mut raw = super::frames(true);
        assert_eq!(raw(b"\x09").unwrap(), [Frame::Stdout(vec![9])]);
    }
}
