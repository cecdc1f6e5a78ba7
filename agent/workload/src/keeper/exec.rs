//! The process above a command that runs beside a workload: it speaks the frames of the session, and leaves nothing.
//!
//! ```text
//!   agent ==== socket, frames ==== keeper ---- pipes or a terminal ---- command ---- whatever it starts
//! ```
//!
//! Invariants:
//! - once the command has ended, its time is up or the socket closes, all below the keeper is killed, whatever group or
//!   session it moved to; what it wrote until then is still told, where anybody listens;
//! - output is read no faster than it is taken, and standard input is asked for no faster than the command takes it; a signal
//!   is never behind either.

mod pipes;

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::pin::pin;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use blueprint_agent_workload_core::Exit;
use blueprint_common_runtime::frames::{ExitFrame, Frame};
use blueprint_common_types::TerminalSize;
use futures_util::future::{join, join_all};
use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::killpg;
use nix::unistd::{Pid, setsid};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::signal::unix::{Signal as Signals, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{KILL_WITHIN, reap};
use crate::exchange::{Order, WAITING, feed, listen, reason, say_alive, send};
use crate::launch::{ARGUMENT, BESIDE, EXIT_CODE, Launch, MAX_BYTES, say};
use crate::tree;
use pipes::Pipes;

/// Second argument of such a keeper.
pub(crate) const KEEP_EXEC: &str = "keep-exec";

/// What such a keeper is told first, as one line.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ExecErrand {
    pub(crate) launch: Launch,
    pub(crate) stdin: bool,
    pub(crate) terminal: Option<TerminalSize>,
    pub(crate) timeout_secs: u64,
}

/// Keeps a command until its end; gives the exit code of this process.
///
/// To be called before the process has a second thread.
pub(crate) fn keep_exec() -> u8 {
    match try_keep() {
        Ok(()) => 0,
        Err(error) => {
            say(&format!("cannot run the command: {error}"));
            EXIT_CODE
        }
    }
}

fn try_keep() -> io::Result<()> {
    setsid()?;
    set_child_subreaper(true)?;
    // One thread: the command ends with the thread that started it.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let stream = std::os::unix::net::UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
        stream.set_nonblocking(true)?;
        let (read, write) = UnixStream::from_std(stream)?.into_split();
        // From before there is anybody to be missed.
        let children = signal(SignalKind::child())?;
        let mut reader = BufReader::new(read);
        let mut line = Vec::new();
        (&mut reader).take(MAX_BYTES).read_until(b'\n', &mut line).await?;
        let errand: ExecErrand = serde_json::from_slice(&line)?;
        Box::pin(keep(errand, reader, write, children)).await
    })
}

/// Why the command is ended.
enum End {
    /// It ended by itself.
    Exit(Option<u8>),
    /// Its time is up.
    Late,
    /// Nobody is there any more, or what came is no frame.
    Gone,
}

async fn keep(
    mut errand: ExecErrand,
    reader: BufReader<OwnedReadHalf>,
    agent: OwnedWriteHalf,
    children: Signals,
) -> io::Result<()> {
    let limit = Duration::from_secs(errand.timeout_secs);
    let (child, Pipes { outputs, input, terminal }) = start(&mut errand)?;
    let own = i32::try_from(std::process::id()).map_err(io::Error::other)?;
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX));
    let mut running = Running { child, children };
    let (out, waiting) = mpsc::channel::<Frame>(WAITING);
    let (stdin, pieces) = mpsc::unbounded_channel();
    let (on_way, over) = (AtomicUsize::new(0), CancellationToken::new());
    let mut pumps = pin!(join_all(outputs.into_iter().map(|output| output.pump(out.clone(), &over))));
    let mut feed = pin!(feed(input, pieces, &on_way, &out));
    let mut alive = pin!(say_alive(&out));
    let mut writer = pin!(send(waiting, agent));
    let mut orders = pin!(listen(reader, (stdin, &on_way), |order| match order {
        Order::Resize(rows, columns) => {
            if let Some(terminal) = &terminal {
                terminal.resize(rows, columns);
            }
        }
        // Its number may be another's by now.
        Order::Signal(_) if over.is_cancelled() => {}
        Order::Signal(signal) => {
            // Its whole group, as a terminal does.
            let _ = killpg(pid, signal);
        }
    }));
    let mut late = pin!(sleep(limit));
    let mut is_read = false;
    let end = loop {
        tokio::select! {
            biased;
            code = running.wait() => break End::Exit(code),
            () = &mut orders => break End::Gone,
            () = &mut writer => break End::Gone,
            () = &mut late => break End::Late,
            _ = &mut pumps, if !is_read => is_read = true,
            never = &mut feed => match never {},
            never = &mut alive => match never {},
        }
    };
    let left = tree::kill_until_none(|| running.left(own), KILL_WITHIN);
    let (code, late) = match end {
        End::Gone => return Ok(()),
        End::Exit(code) => (code, None),
        End::Late => (None, Some(limit)),
    };
    let reason = reason(late, left);
    over.cancel();
    let last = async {
        if !is_read {
            pumps.await;
        }
        // The writer ends behind it, or is gone.
        let _ = out.send(Frame::Exit(ExitFrame { code, reason })).await;
    };
    tokio::select! {
        biased;
        () = &mut orders => {}
        _ = join(last, writer) => {}
    }
    Ok(())
}

/// The command's own process.
struct Running {
    child: Child,
    children: Signals,
}

impl Running {
    /// Waits for its end; says the exit code, where there is one.
    async fn wait(&mut self) -> Option<u8> {
        loop {
            match reap(&mut self.child) {
                None => self.children.recv().await,
                Some(Exit::Code(code)) => return u8::try_from(code & 0xff).ok(),
                Some(Exit::Signal(number)) => return u8::try_from(number.saturating_add(128)).ok(),
                Some(Exit::OutOfMemory | Exit::Unknown) => return None,
            };
        }
    }

    /// What is still below this process, without what has ended.
    fn left(&mut self, own: i32) -> Vec<i32> {
        reap(&mut self.child);
        tree::descendants(own)
    }
}

/// Starts what becomes the command.
fn start(errand: &mut ExecErrand) -> io::Result<(Child, Pipes)> {
    let ExecErrand { launch, stdin, terminal, .. } = errand;
    launch.keeper = std::process::id();
    if let Some(beside) = &mut launch.beside {
        beside.terminal = terminal.is_some();
    }
    let mut command = Command::new("/proc/self/exe");
    command.args([ARGUMENT, BESIDE]).env_clear().stdin(Stdio::piped());
    let opened = match terminal {
        Some(size) => {
            launch.env.insert("TERM".to_owned(), size.term.clone());
            let (master, slave) = pipes::open(size, launch.user)?;
            command.stdout(Stdio::from(slave.try_clone()?)).stderr(Stdio::from(slave));
            Some(master)
        }
        None => {
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
            None
        }
    };
    let mut child = command.spawn()?;
    // It has the other end of the terminal, and nobody else does.
    drop(command);
    let mut text = serde_json::to_vec(launch)?;
    text.push(b'\n');
    let mut pipe = child.stdin.take();
    if let Some(pipe) = &mut pipe {
        // Where the process is gone already, its exit says why.
        let _ = pipe.write_all(&text);
    }
    let pipe = pipe.filter(|_| *stdin);
    let pipes = match opened {
        Some(master) => Pipes::of_terminal(master, *stdin)?,
        None => Pipes::new(pipe, child.stdout.take(), child.stderr.take())?,
    };
    Ok((child, pipes))
}
