//! A running program that never outlives its test.

use std::process::{Child, ExitStatus};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::NamedTempFile;

use crate::eventually;

/// Lines of the log that an error shows.
const TAIL_LINES: usize = 30;

/// A program started by [`Launch`](crate::Launch). Dropping it kills it with SIGKILL and waits for its end.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: NamedTempFile,
}

impl Process {
    pub(crate) fn new(name: String, child: Child, log: NamedTempFile) -> Self {
        Self { name, child, log }
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// All that it has logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        let bytes = std::fs::read(self.log.path()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Whether it has not ended yet.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for a line of its log that contains `text`, and returns that line.
    ///
    /// # Errors
    ///
    /// Fails where no such line comes in time, and at once where the program ends without one;
    /// the error shows the end of the log.
    pub fn wait_for_line(&mut self, text: &str, within: Duration) -> Result<String> {
        let what = format!("{} to log {text:?}", self.name);
        let found = eventually(within, &what, || {
            // Asked first: a line written just before the end is still found below.
            let running = self.is_running();
            match self.log().lines().find(|line| line.contains(text)) {
                Some(line) => Some(Ok(line.to_owned())),
                None if running => None,
                None => Some(Err(format!("{} ended without logging {text:?}", self.name))),
            }
        });
        match found {
            Ok(Ok(line)) => Ok(line),
            Ok(Err(why)) => bail!("{why}\n{}", self.tail()),
            Err(error) => bail!("{error}\n{}", self.tail()),
        }
    }

    /// Waits for its end.
    ///
    /// # Errors
    ///
    /// Fails where it still runs after that time; the error shows the end of the log.
    pub fn wait(&mut self, within: Duration) -> Result<ExitStatus> {
        let what = format!("the end of {}", self.name);
        let ended = eventually(within, &what, || self.child.try_wait().transpose());
        match ended {
            Ok(status) => status.with_context(|| format!("cannot wait for {}", self.name)),
            Err(error) => bail!("{error}\n{}", self.tail()),
        }
    }

    /// Sends it a signal.
    ///
    /// # Errors
    ///
    /// Fails where it has ended and was waited for.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        if !self.is_running() {
            bail!("{} has ended\n{}", self.name, self.tail());
        }
        let pid = i32::try_from(self.pid()).context("a process id out of range")?;
        kill(Pid::from_raw(pid), signal).with_context(|| format!("cannot send {signal} to {}", self.name))
    }

    /// Ends it politely with SIGTERM and waits.
    ///
    /// # Errors
    ///
    /// Fails where it has ended before or still runs after that time.
    pub fn terminate(&mut self, within: Duration) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        self.wait(within)
    }

    /// Kills it with SIGKILL, so that it can tidy nothing up, and waits for its end.
    ///
    /// # Errors
    ///
    /// Fails where it has ended before.
    pub fn kill(&mut self) -> Result<()> {
        self.signal(Signal::SIGKILL)?;
        self.child.wait().with_context(|| format!("cannot wait for {}", self.name))?;
        Ok(())
    }

    /// Closes its standard input, where [`Launch::open_stdin`](crate::Launch::open_stdin) left it open.
    pub fn close_stdin(&mut self) {
        drop(self.child.stdin.take());
    }

    /// Its resident memory in bytes.
    ///
    /// # Errors
    ///
    /// Fails where it has ended.
    pub fn resident_bytes(&self) -> Result<u64> {
        let path = format!("/proc/{}/status", self.pid());
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let kib = text.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"));
        let kib: u64 =
            kib.with_context(|| format!("{} has no memory any more", self.name))?.trim().parse()?;
        Ok(kib * 1024)
    }

    fn tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines.get(lines.len().saturating_sub(TAIL_LINES)..).unwrap_or_default();
        format!("--- end of the log of {} ---\n{}", self.name, tail.join("\n"))
    }
}

impl Drop for Process {
    #[expect(clippy::print_stderr, reason = "a failing test shows what its processes said")]
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("{}", self.tail());
        }
    }
}
