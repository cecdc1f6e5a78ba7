//! The process that a machine runs in, told from others that got its number later.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::process::Command;
use tokio::time::{Instant, sleep};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How often a process is looked at that is to end.
const LOOK: Duration = Duration::from_millis(50);

/// One process of this boot of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Process {
    /// Its number.
    pub(crate) pid: i32,
    /// When it began, in ticks since the host booted (`proc(5)`, field 22 of `stat`).
    began: u64,
}

impl Process {
    /// Starts `command` as a process that outlives this one, and writes down which it is; what it prints goes to `console`.
    ///
    /// There is no await in here: a future that is dropped leaves no process that nobody knows of.
    pub(crate) fn start(mut command: Command, file: &Path, console: &Path) -> io::Result<Self> {
        let log = File::create(console)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .spawn()?;
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
        let pid = pid.ok_or_else(|| io::Error::other("the machine's process ended at once"))?;
        let began = began(pid).ok_or_else(|| io::Error::other("the machine's process ended at once"))?;
        let process = Self { pid, began };
        let written =
            serde_json::to_vec(&process).map_err(io::Error::from).and_then(|text| fs::write(file, text));
        if written.is_err() {
            process.signal(Signal::SIGKILL);
        }
        written.map(|()| process)
    }

    /// The process written down in `file`, where it still runs.
    pub(crate) fn read(file: &Path) -> Option<Self> {
        let process: Self = serde_json::from_slice(&fs::read(file).ok()?).ok()?;
        process.is_alive().then_some(process)
    }

    pub(crate) fn is_alive(self) -> bool {
        began(self.pid) == Some(self.began)
    }

    /// The first process below it: the machine's own first process.
    pub(crate) fn leader(self) -> Option<i32> {
        let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", self.pid)).ok()?;
        children.split_whitespace().next()?.parse().ok()
    }

    pub(crate) fn signal(self, signal: Signal) {
        if self.is_alive() {
            // It may have ended since.
            let _ = kill(Pid::from_raw(self.pid), signal);
        }
    }

    /// Waits for its end; false where it still runs after `within`.
    pub(crate) async fn ended(self, within: Duration) -> bool {
        let end = Instant::now() + within;
        while self.is_alive() {
            if Instant::now() >= end {
                return false;
            }
            sleep(LOOK).await;
        }
        true
    }
}

/// When a process began; `None` where there is none, or only what is left of one.
fn began(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold anything, and ends at the last parenthesis.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_process_is_found_again_until_it_ended() {
        let folder = tempfile::tempdir().unwrap();
        let (file, console) = (folder.path().join("process.json"), folder.path().join("console.log"));
        let mut command = Command::new("sh");
        command.args(["-c", "echo up; exec sleep 60"]);
        let process = Process::start(command, &file, &console).unwrap();
        assert_eq!(Process::read(&file), Some(process));
        let other = Process { began: process.began + 1, ..process };
        assert!(!other.is_alive());
        other.signal(Signal::SIGKILL);
        assert!(process.is_alive());
        process.signal(Signal::SIGKILL);
        assert!(process.ended(Duration::from_secs(10)).await);
        assert_eq!(Process::read(&file), None);
    }
}
