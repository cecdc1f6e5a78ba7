//! Processes that an agent leaves when it is killed: noted at their start, ended at the next start of the agent.
//!
//! With control groups the kernel knows them; this is for agents that have none.

use std::fs;
use std::path::Path;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tracing::info;

/// Name of the note in the runtime folder of a workload, which is the agent's own.
const NOTE: &str = "process";

/// Notes a process: its number, and when it was started, for numbers are used again.
pub(crate) fn note(runtime: &Path, pid: u32) {
    let Some(started) = started_at(pid) else { return };
    if let Err(error) = fs::write(runtime.join(NOTE), format!("{pid} {started}")) {
        tracing::warn!(%error, "a process is not noted: one that is left by a killed agent stays");
    }
}

/// Kills what is noted below the folder of all workloads, with everything that it started.
pub(crate) fn kill_all(runtimes: &Path) {
    for entry in fs::read_dir(runtimes).into_iter().flatten().flatten() {
        let Ok(text) = fs::read_to_string(entry.path().join(NOTE)) else { continue };
        let mut words = text.split_whitespace().map(str::parse::<u64>);
        let (Some(Ok(pid)), Some(Ok(started))) = (words.next(), words.next()) else { continue };
        let (Ok(number), Ok(group)) = (u32::try_from(pid), i32::try_from(pid)) else { continue };
        if started_at(number) == Some(started) {
            info!(pid, workload = %entry.file_name().display(), "what an earlier agent left is ended");
            let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
        }
    }
}

/// Removes what workloads of an earlier agent had in memory, their keys with it; after their ends.
pub(crate) fn remove_all(runtimes: &Path) {
    for entry in fs::read_dir(runtimes).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with("svc-")
            && let Err(error) = fs::remove_dir_all(entry.path())
        {
            tracing::warn!(folder = %entry.path().display(), %error, "what an earlier agent left in memory stays");
        }
    }
}

/// When a process was started, in ticks since the machine's start (`proc(5)`, field 22 of `stat`).
fn started_at(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything.
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    use super::*;

    #[test]
    fn what_is_left_is_ended_and_whoever_has_its_number_now_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let start = || Command::new("sleep").arg("60").process_group(0).spawn().unwrap();
        let (mut left, mut other) = (start(), start());
        for (name, child) in [("left", &left), ("other", &other)] {
            fs::create_dir(folder.path().join(name)).unwrap();
            note(&folder.path().join(name), child.id());
        }
        let stale = format!("{} 1", other.id());
        fs::write(folder.path().join("other").join(NOTE), stale).unwrap();
        fs::create_dir(folder.path().join("empty")).unwrap();
        kill_all(folder.path());
        assert!(!left.wait().unwrap().success());
        assert!(other.try_wait().unwrap().is_none(), "another process was ended");
        other.kill().unwrap();
        other.wait().unwrap();
    }
}
