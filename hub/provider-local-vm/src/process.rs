//! The process that a machine runs in, told from others that got its number later.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::{Instant, sleep};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How often a process is looked at that is to end.
const LOOK: Duration = Duration::from_millis(50);

/// How long a process may take to say which it is.
const SAID_WITHIN: Duration = Duration::from_secs(10);

/// Writes down which process this is, and becomes the machine's: whoever started it may be killed meanwhile.
const BECOME: &str = r#"{ cat /proc/sys/kernel/random/boot_id; cat "/proc/$$/stat"; } >"$1.new" && mv "$1.new" "$1" && shift && exec "$@""#;

/// One process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Process {
    /// Its number.
    pub(crate) pid: i32,
    /// When it began, in ticks since the host booted (`proc(5)`, field 22 of `stat`).
    began: u64,
}

impl Process {
    /// Starts a program as a process that outlives this one and is written down in `file`; what it prints goes to `console`.
    ///
    /// # Cancel safety
    ///
    /// A future that is dropped leaves a process that is written down, or none.
    pub(crate) async fn start(program: &[OsString], file: &Path, console: &Path) -> io::Result<()> {
        let log = File::create(console)?;
        match fs::remove_file(file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let mut child = Command::new("sh")
            .args(["-c", BECOME, "sh"])
            .arg(file)
            .args(program)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .spawn()?;
        let end = Instant::now() + SAID_WITHIN;
        while !file.exists() {
            if child.try_wait()?.is_some() || Instant::now() >= end {
                return Err(io::Error::other("the machine's process ended at once; its console says why"));
            }
            sleep(LOOK).await;
        }
        Ok(())
    }

    /// The process written down in `file`, where it still runs.
    pub(crate) fn read(file: &Path) -> Option<Self> {
        let text = fs::read_to_string(file).ok()?;
        let (boot, stat) = text.split_once('\n')?;
        let now = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        if boot != now.trim() {
            return None;
        }
        let pid = stat.split_whitespace().next()?.parse().ok()?;
        let process = Self { pid, began: began_in(stat)? };
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
    began_in(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn began_in(stat: &str) -> Option<u64> {
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
        let (file, console) = (folder.path().join("process"), folder.path().join("console.log"));
        let program = ["sh", "-c", "echo up; exec sleep 60"].map(OsString::from);
        Process::start(&program, &file, &console).await.unwrap();
        let process = Process::read(&file).unwrap();
        let other = Process { began: process.began + 1, ..process };
        assert!(!other.is_alive());
        other.signal(Signal::SIGKILL);
        assert!(process.is_alive());
        process.signal(Signal::SIGKILL);
        assert!(process.ended(Duration::from_secs(10)).await);
        assert_eq!(Process::read(&file), None);
        // Of an earlier boot of this host.
        let text = format!("00000000-0000-4000-8000-000000000000\n{} (sh) S", std::process::id());
        fs::write(&file, text).unwrap();
        assert_eq!(Process::read(&file), None);
        let missing = ["no-such-program-here"].map(OsString::from);
        Process::start(&missing, &file, &console).await.unwrap();
        for _ in 0..200 {
            if Process::read(&file).is_none() {
                break;
            }
            sleep(LOOK).await;
        }
        assert!(fs::read_to_string(&console).unwrap().contains("not found"));
    }
}
