//! The process above a native workload: whatever the workload starts stays below it, and ends with it.
//!
//! A keeper is a process of the agent's own program, one per workload. It is the parent of the process that becomes the
//! workload, and the kernel gives it every process below that loses its own parent. So it finds all of them by their
//! parents, whatever group, session or user they moved to; that takes no rights and no control groups.
//!
//! ```text
//!   agent ==== socket ==== keeper ---- workload ---- whatever it starts
//! ```
//!
//! It also takes in what all of them write, and keeps that (`logs`): whatever becomes of the agent, no line is lost on the
//! way to it.
//!
//! Invariants:
//! - once the workload has ended nothing below its keeper is left; then the agent is told how it ended;
//! - once the agent is gone, by whatever death, the socket closes: the workload is asked to end, and killed after its
//!   grace, 10 s at most;
//! - the workload's keys go with its end, and without an agent all else that it had in memory;
//! - a keeper that is killed takes the workload's own process along (`PR_SET_PDEATHSIG`); the rest is the agent's, which
//!   knows control group, process group and user.

mod capture;
mod container;
mod exec;
mod rest;
mod wipe;

use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use blueprint_agent_workload_core::Exit;
use nix::errno::Errno;
use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, setsid};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::signal::unix::{Signal as Signals, SignalKind, signal};
use tokio::time::{Instant, sleep_until};

use crate::launch::{ARGUMENT, EXIT_CODE, Launch, MAX_BYTES, say};
use crate::logs::{LogErrand, Sink};
use crate::tree;

use capture::Capture;
pub(crate) use container::{ContainerKeeper, KEEP_CONTAINER, keep_container};
pub(crate) use exec::{ExecErrand, KEEP_EXEC, keep_exec};
use rest::at_rest;
pub(crate) use wipe::Wipe;

/// Second argument of a keeper.
pub(crate) const KEEP: &str = "keep";

/// Longest time that a workload whose agent is gone has for its end. The hub has it run elsewhere after 15 s.
const LONGEST_GRACE: Duration = Duration::from_secs(10);

/// How long is tried to kill what a workload leaves.
const KILL_WITHIN: Duration = Duration::from_secs(10);

/// What a keeper is told first, as one line.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Errand {
    pub(crate) launch: Launch,
    /// Time to end after SIGTERM.
    pub(crate) grace_secs: u64,
    /// Where what it writes is kept.
    pub(crate) log: LogErrand,
    /// What it has in memory.
    pub(crate) wipe: Wipe,
}

/// What a keeper is told later; each is a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// Ask the workload's process to end.
    Terminate,
    /// Kill it and all that it started.
    Kill,
}

impl Order {
    pub(crate) const fn line(self) -> &'static [u8] {
        match self {
            Self::Terminate => b"terminate\n",
            Self::Kill => b"kill\n",
        }
    }

    fn parse(line: &str) -> Option<Self> {
        match line {
            "terminate" => Some(Self::Terminate),
            "kill" => Some(Self::Kill),
            _ => None,
        }
    }
}

/// What a keeper tells; each is a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum News {
    /// The number of the process that becomes the workload.
    Started(u32),
    /// So many processes could not be killed; the end follows.
    Left(usize),
    /// The last line that it wrote, without secrets and cut.
    Said(String),
    /// It has ended, and nothing is left but what was told of.
    Ended(Exit),
}

impl News {
    fn line(&self) -> String {
        match self {
            Self::Started(pid) => format!("started {pid}\n"),
            Self::Left(count) => format!("left {count}\n"),
            Self::Said(text) => format!("said {}\n", text.replace('\n', " ")),
            Self::Ended(Exit::Code(code)) => format!("code {code}\n"),
            Self::Ended(Exit::Signal(number)) => format!("signal {number}\n"),
            Self::Ended(Exit::OutOfMemory | Exit::Unknown) => "unknown 0\n".to_owned(),
        }
    }

    pub(crate) fn parse(line: &str) -> Option<Self> {
        match line.split_once(' ')? {
            ("started", pid) => pid.parse().ok().map(Self::Started),
            ("left", count) => count.parse().ok().map(Self::Left),
            ("said", text) => Some(Self::Said(text.to_owned())),
            ("code", code) => code.parse().ok().map(|code| Self::Ended(Exit::Code(code))),
            ("signal", number) => number.parse().ok().map(|number| Self::Ended(Exit::Signal(number))),
            ("unknown", _) => Some(Self::Ended(Exit::Unknown)),
            _ => None,
        }
    }
}

/// Keeps a workload until its end; gives the exit code of this process.
///
/// To be called before the process has a second thread.
pub(crate) fn keep() -> u8 {
    match try_keep() {
        Ok(()) => 0,
        Err(error) => {
            say(&format!("cannot keep the workload: {error}"));
            EXIT_CODE
        }
    }
}

fn try_keep() -> io::Result<()> {
    // What is done to the terminal or the group of the agent is not done to its keepers.
    setsid()?;
    set_child_subreaper(true)?;
    // One thread: the workload ends with the thread that started it.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let stream = std::os::unix::net::UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
        stream.set_nonblocking(true)?;
        let (read, mut agent) = UnixStream::from_std(stream)?.into_split();
        let (mut keeper, mut capture) = Box::pin(Keeper::start(read, &mut agent)).await?;
        let exit = Box::pin(at_rest(capture.during(keeper.watch()))).await;
        let own = i32::try_from(std::process::id()).map_err(io::Error::other)?;
        let left = tree::kill_until_none(|| keeper.left(own), KILL_WITHIN);
        keeper.wipe.keys();
        if let Some(said) = capture.end().await {
            let _ = agent.write_all(News::Said(said).line().as_bytes()).await;
        }
        // Nobody reads it where the agent is gone.
        if left > 0 {
            let _ = agent.write_all(News::Left(left).line().as_bytes()).await;
        }
        let is_told = agent.write_all(News::Ended(exit).line().as_bytes()).await.is_ok();
        if keeper.is_alone || !is_told {
            keeper.wipe.all();
        }
        Ok(())
    })
}

struct Keeper {
    child: Child,
    grace: Duration,
    orders: Lines<BufReader<OwnedReadHalf>>,
    children: Signals,
    asked: Signals,
    wipe: Wipe,
    /// Whether the agent is gone.
    is_alone: bool,
}

impl Keeper {
    /// Reads what to start, starts it, and tells its number.
    async fn start(read: OwnedReadHalf, agent: &mut OwnedWriteHalf) -> io::Result<(Self, Capture)> {
        // From before there is anybody to be missed.
        let (children, asked) = (signal(SignalKind::child())?, signal(SignalKind::terminate())?);
        let mut reader = BufReader::new(read);
        let mut line = Vec::new();
        (&mut reader).take(MAX_BYTES).read_until(b'\n', &mut line).await?;
        let mut errand: Errand = serde_json::from_slice(&line)?;
        errand.launch.keeper = std::process::id();
        let mut command = Command::new("/proc/self/exe");
        command.arg(ARGUMENT).env_clear().stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let capture = Capture::new(child.stdout.take(), child.stderr.take(), Sink::new(errand.log))?;
        let text = serde_json::to_vec(&errand.launch)?;
        if let Some(mut stdin) = child.stdin.take() {
            // Where the process is gone already, its exit says why.
            let _ = stdin.write_all(&text);
        }
        let started = News::Started(child.id()).line();
        let grace = Duration::from_secs(errand.grace_secs).min(LONGEST_GRACE);
        let (wipe, is_alone) = (errand.wipe, false);
        let mut keeper = Self { child, grace, orders: reader.lines(), children, asked, wipe, is_alone };
        if let Err(error) = agent.write_all(started.as_bytes()).await {
            // The agent is gone, or did not wait: nobody knows of what was started.
            let own = i32::try_from(std::process::id()).map_err(io::Error::other)?;
            tree::kill_until_none(|| keeper.left(own), KILL_WITHIN);
            keeper.wipe.all();
            return Err(error);
        }
        Ok((keeper, capture))
    }

    /// Waits for the end of the workload's process, and does meanwhile what it is told.
    async fn watch(&mut self) -> Exit {
        let mut kill_at: Option<Instant> = None;
        // SIGTERM counts once the agent is gone: from the next agent, or from who ends all that this one left.
        let mut is_asked = false;
        loop {
            if let Some(exit) = self.reap() {
                return exit;
            }
            if self.is_alone && is_asked {
                self.kill();
            }
            let due = async {
                match kill_at {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                _ = self.children.recv() => {}
                order = self.orders.next_line(), if !self.is_alone => match order {
                    Ok(Some(line)) => match Order::parse(&line) {
                        Some(Order::Terminate) => self.terminate(),
                        Some(Order::Kill) => self.kill(),
                        None => {}
                    },
                    Ok(None) | Err(_) => {
                        self.is_alone = true;
                        kill_at = Instant::now().checked_add(self.grace);
                        self.terminate();
                    }
                },
                _ = self.asked.recv() => is_asked = true,
                () = due => {
                    kill_at = None;
                    self.kill();
                }
            }
        }
    }

    /// The process alone: what it started is its own to end.
    fn terminate(&self) {
        if let Ok(pid) = i32::try_from(self.child.id()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
    }

    /// Everything, once; what is started meanwhile is killed after the end of the workload's process.
    fn kill(&self) {
        let own = i32::try_from(std::process::id()).unwrap_or_default();
        for pid in tree::descendants(own) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }

    /// What is still below this process, without what has ended.
    fn left(&mut self, own: i32) -> Vec<i32> {
        self.reap();
        tree::descendants(own)
    }

    fn reap(&mut self) -> Option<Exit> {
        reap(&mut self.child)
    }
}

/// Takes note of all that ended here; says how this process of its own did, if it was among them.
fn reap(child: &mut Child) -> Option<Exit> {
    match child.try_wait() {
        Ok(None) => {}
        Ok(Some(status)) => {
            // What it left behind is this process's now.
            reap_others(None);
            return Some(exit_of(status));
        }
        Err(_) => {
            reap_others(None);
            return Some(Exit::Unknown);
        }
    }
    reap_others(i32::try_from(child.id()).ok())
}

/// A socket for this runtime, and its other end for a keeper.
pub(crate) fn pair() -> io::Result<(UnixStream, OwnedFd)> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    Ok((UnixStream::from_std(ours)?, OwnedFd::from(theirs)))
}

fn exit_of(status: std::process::ExitStatus) -> Exit {
    match (status.code(), status.signal()) {
        (Some(code), _) => Exit::Code(code),
        (None, Some(number)) => Exit::Signal(number),
        (None, None) => Exit::Unknown,
    }
}

/// Reaps whatever has ended; the workload's own process may just have been among it.
fn reap_others(main: Option<i32>) -> Option<Exit> {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) if Some(pid.as_raw()) == main => return Some(Exit::Code(code)),
            #[expect(clippy::as_conversions, reason = "the enum is a number of the system")]
            Ok(WaitStatus::Signaled(pid, signal, _)) if Some(pid.as_raw()) == main => {
                return Some(Exit::Signal(signal as i32));
            }
            Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return None,
            // EINVAL: one that ended by a signal without a name.
            Ok(_) | Err(Errno::EINVAL | Errno::EINTR) => {}
            Err(_) => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_read_as_it_was_meant() {
        for news in [
            News::Started(7),
            News::Left(2),
            News::Said("error: no  such file ".to_owned()),
            News::Ended(Exit::Code(-3)),
            News::Ended(Exit::Signal(9)),
            News::Ended(Exit::Unknown),
        ] {
            assert_eq!(News::parse(news.line().trim_end_matches('\n')), Some(news));
        }
        assert_eq!(News::parse("code"), None);
        assert_eq!(News::parse("code x"), None);
        for order in [Order::Terminate, Order::Kill] {
            let line = std::str::from_utf8(order.line()).unwrap();
            assert_eq!(Order::parse(line.trim_end()), Some(order));
        }
        assert_eq!(Order::parse("else"), None);
    }
}
