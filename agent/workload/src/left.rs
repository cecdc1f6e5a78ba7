//! Processes that an agent leaves when it is killed: noted at their start, ended at the next start of the agent.
//!
//! Their keepers end them by themselves, within their grace; the next agent does not wait for so long. Control groups
//! are ended beside this.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use blueprint_common_runtime::tasks::Spawner;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use crate::removal::remove_tree;
use crate::shared;
use crate::tree::{self, Known};
use crate::users::Users;

/// Name of the note in the runtime folder of a workload, which is the agent's own.
const NOTE: &str = "process";

/// How long a keeper may take to end what it keeps.
const END_WITHIN: Duration = Duration::from_secs(12);

/// How long is tried to kill what lost its keeper.
const KILL_WITHIN: Duration = Duration::from_secs(5);

/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(5);

/// What a native workload is to the system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Traces {
    keeper: Option<Known>,
    main: Option<Known>,
    /// Its user, where that is its alone.
    user: Option<u32>,
}

impl Traces {
    /// Takes the numbers of its keeper and of its own process.
    pub(crate) fn of(keeper: Option<u32>, main: u32, user: Option<u32>) -> Self {
        Self { keeper: keeper.and_then(Known::of), main: Known::of(main), user }
    }

    /// Kills what can be found without a keeper: the process group, and every process of its user, as long as that
    /// `is_free`: another version of the service may run as it. It blocks its thread for 5 s at most.
    pub(crate) fn kill(&self, is_free: impl Fn() -> bool) {
        if let Some(main) = self.main.filter(|main| main.is_there()) {
            let _ = killpg(Pid::from_raw(main.pid), Signal::SIGKILL);
        }
        if let Some(user) = self.user {
            let find = || if is_free() { tree::of_user(user) } else { Vec::new() };
            let left = tree::kill_until_none(find, KILL_WITHIN);
            if left > 0 {
                warn!(user, left, "processes of a workload cannot be killed; look at what they wait for");
            }
        }
    }
}

/// Notes what a workload is; `runtime` is its folder.
pub(crate) fn note(runtime: &Path, traces: &Traces) {
    let noted = serde_json::to_vec(traces).map_err(std::io::Error::from);
    if let Err(error) = noted.and_then(|text| fs::write(runtime.join(NOTE), text)) {
        warn!(%error, "a process is not noted: one that is left by a killed agent ends within its grace");
    }
}

/// Ends what is noted below the folder of all workloads, with everything that it started. What a user runs is killed
/// where the user is among `users`. It blocks its thread.
pub(crate) fn kill_all(runtimes: &Path, users: Option<&Users>) {
    let mut all = Vec::new();
    for entry in fs::read_dir(runtimes).into_iter().flatten().flatten() {
        let Ok(text) = fs::read(entry.path().join(NOTE)) else { continue };
        let Ok(mut traces) = serde_json::from_slice::<Traces>(&text) else { continue };
        let is_ours = |user: &u32| users.is_some_and(|users| users.hold(*user).unwrap_or(false));
        traces.user = traces.user.filter(is_ours);
        if let Some(keeper) = traces.keeper.filter(|keeper| keeper.is_there()) {
            info!(pid = keeper.pid, workload = %entry.file_name().display(), "what an earlier agent left is ended");
            let _ = kill(Pid::from_raw(keeper.pid), Signal::SIGTERM);
        }
        all.push(traces);
    }
    let begin = Instant::now();
    for traces in all {
        while traces.keeper.is_some_and(Known::is_there) && begin.elapsed() < END_WITHIN {
            std::thread::sleep(LOOK);
        }
        // Nothing runs yet that this agent started.
        traces.kill(|| true);
        traces.user.iter().for_each(|user| shared::remove(*user));
    }
}

/// Removes what workloads of an earlier agent had in memory, their keys with it; after their ends.
pub(crate) fn remove_all(runtimes: &Path) {
    for entry in fs::read_dir(runtimes).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with("svc-")
            && let Err(error) = remove_tree(&entry.path())
        {
            warn!(folder = %entry.path().display(), %error, "what an earlier agent left in memory stays");
        }
    }
}

/// Ends what an agent left that ran workloads, and removes what they had in memory, in a task of its own: for one that
/// runs none. `state` is the folder of their data, `runtime` the one in memory.
pub fn clear(state: PathBuf, runtime: PathBuf, spawner: &Spawner) {
    if !runtime.exists() {
        return;
    }
    spawner.spawn_base("workloads of an earlier agent", async move {
        let cleared = tokio::task::spawn_blocking(move || {
            let users = nix::unistd::geteuid().is_root().then(|| Users::new(state.join("data")));
            kill_all(&runtime, users.as_ref());
            remove_all(&runtime);
            // Others of this machine may have theirs below the same folder.
            let _ = fs::remove_dir(&runtime);
        });
        if let Err(error) = cleared.await {
            warn!(%error, "what an earlier agent left is not ended");
        }
    });
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    use super::*;

    #[test]
    fn a_lost_keeper_takes_no_other_version_along() {
        // Only root starts processes of others.
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let taken = tree::users();
        let user = crate::users::USERS.rev().find(|user| !taken.contains(user)).unwrap();
        let start = || Command::new("sleep").arg("60").uid(user).process_group(0).spawn().unwrap();
        let (mut lost, mut left, mut other) = (start(), start(), start());
        let traces = Traces::of(None, lost.id(), Some(user));
        traces.kill(|| false);
        assert!(!lost.wait().unwrap().success(), "its own process group");
        assert!(other.try_wait().unwrap().is_none() && left.try_wait().unwrap().is_none());
        // What has ended counts until somebody has waited for it.
        std::thread::scope(|scope| {
            let ends = [&mut other, &mut left].map(|child| scope.spawn(|| child.wait().unwrap().success()));
            traces.kill(|| true);
            assert_eq!(ends.map(|end| end.join().unwrap()), [false, false]);
        });
    }

    #[test]
    fn what_is_left_is_ended_and_whoever_has_its_number_now_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let start = || Command::new("sleep").arg("60").process_group(0).spawn().unwrap();
        let (mut left, mut other) = (start(), start());
        let traces = |child: &std::process::Child| Traces::of(None, child.id(), None);
        let mut stale = traces(&other);
        stale.main = stale.main.map(|main| Known { started: 1, ..main });
        for (name, traces) in [("left", &traces(&left)), ("other", &stale)] {
            fs::create_dir(folder.path().join(name)).unwrap();
            note(&folder.path().join(name), traces);
        }
        fs::create_dir(folder.path().join("empty")).unwrap();
        kill_all(folder.path(), None);
        assert!(!left.wait().unwrap().success());
        assert!(other.try_wait().unwrap().is_none(), "another process was ended");
        other.kill().unwrap();
        other.wait().unwrap();
    }
}
