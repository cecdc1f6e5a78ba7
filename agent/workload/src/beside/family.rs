//! The processes of one command in a container, found among those of the container, and their end.
//!
//! An engine that starts a command tells nobody of what that starts, and ends none of it. So a command gets a mark in its
//! environment, and what has the mark, is in the session of one that has it, or descends from one, is its. Only processes
//! in a control group that names the container are looked at, and none are taken by the number that an engine says: it may
//! count in another namespace.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use blueprint_common_types::fill_random;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::task::spawn_blocking;
use tracing::warn;

use crate::tree;

/// The variable that has the mark.
pub(super) const MARK: &str = "BLUEPRINT_EXEC_SESSION";

/// How long is tried to kill what is left.
const KILL_WITHIN: Duration = Duration::from_secs(5);

/// Processes of one command; cheap to clone. Those that are left are killed where the last one is dropped.
#[derive(Debug, Clone)]
pub(super) struct Family(Arc<Kept>);

#[derive(Debug)]
struct Kept {
    members: Arc<Mutex<Members>>,
}

#[derive(Debug)]
struct Members {
    /// The engine's name for the container.
    container: String,
    mark: String,
    /// What was found, with its start: it stays one, whatever becomes of its parent and its environment.
    known: BTreeMap<i32, u64>,
    /// Sessions that a member led. Its number may be another's later.
    sessions: BTreeMap<i32, Led>,
    /// The one that was found first, which the engine started.
    first: Option<i32>,
}

/// A session that a member led.
#[derive(Debug, Clone, Copy)]
struct Led {
    /// The start of its leader.
    started: u64,
    /// Whether nobody was seen in it at the last look: one that has just left another behind may be seen before it.
    is_empty: bool,
}

/// What is seen of one process of the container.
#[derive(Debug, Clone, Copy)]
struct Sight {
    parent: i32,
    session: i32,
    started: u64,
    has_mark: bool,
}

impl Family {
    /// Of a command that is started next.
    ///
    /// # Errors
    ///
    /// Where the system has no source of randomness.
    pub(super) fn new(container: &str) -> std::io::Result<Self> {
        let mut bytes = [0; 16];
        fill_random(&mut bytes)?;
        let mark = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let members = Members {
            container: container.to_owned(),
            mark,
            known: BTreeMap::new(),
            sessions: BTreeMap::new(),
            first: None,
        };
        Ok(Self(Arc::new(Kept { members: Arc::new(Mutex::new(members)) })))
    }

    /// The mark of the command.
    pub(super) fn mark(&self) -> String {
        self.0.members.lock().mark.clone()
    }

    /// Looks who is there, so that one that leaves its parents is known before.
    pub(super) async fn look(&self) {
        let members = Arc::clone(&self.0.members);
        let _ = spawn_blocking(move || members.lock().look()).await;
    }

    /// Sends a signal to the group of the command, as a terminal does.
    pub(super) async fn signal(&self, signal: Signal) {
        let members = Arc::clone(&self.0.members);
        let sent = spawn_blocking(move || {
            let mut members = members.lock();
            let there = members.look();
            let first = members.first.filter(|first| there.contains(first));
            // Who starts it makes it lead a session, and so a group.
            first.map(|first| killpg(Pid::from_raw(first), signal))
        });
        if let Ok(None | Some(Err(_))) = sent.await {
            warn!(?signal, "a signal did not reach the command in its container");
        }
    }

    /// Kills all of it; says how many are left.
    pub(super) async fn kill(&self) -> usize {
        let members = Arc::clone(&self.0.members);
        spawn_blocking(move || kill(&members)).await.unwrap_or(0)
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let members = Arc::clone(&self.members);
        let work = move || {
            if let left @ 1.. = kill(&members) {
                warn!(left, "processes of a command in a container cannot be killed; they end with it");
            }
        };
        match Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(work)),
            Err(_) => work(),
        }
    }
}

fn kill(members: &Mutex<Members>) -> usize {
    tree::kill_until_none(|| members.lock().look(), KILL_WITHIN)
}

impl Members {
    /// Those that are there now.
    fn look(&mut self) -> Vec<i32> {
        let mark = format!("{MARK}={}", self.mark);
        let sights = of_container(&self.container).filter_map(|pid| {
            let (seen, session) = tree::look_alive(pid)?;
            let has_mark = has_variable(pid, &mark).unwrap_or(false);
            Some((pid, Sight { parent: seen.parent, session, started: seen.started, has_mark }))
        });
        self.find(&sights.collect())
    }

    fn find(&mut self, sights: &BTreeMap<i32, Sight>) -> Vec<i32> {
        // A number is free once nobody is in its session; who leads one of that number now says whose it is.
        self.sessions.retain(|id, led| sights.get(id).is_none_or(|leader| leader.started == led.started));
        let mut there = BTreeSet::new();
        loop {
            let is_new = |(pid, sight): &(&i32, &Sight)| {
                !there.contains(*pid)
                    && (sight.has_mark
                        || self.known.get(*pid) == Some(&sight.started)
                        || self.sessions.contains_key(&sight.session)
                        || there.contains(&sight.parent))
            };
            let found: Vec<i32> = sights.iter().filter(is_new).map(|(pid, _)| *pid).collect();
            if found.is_empty() {
                break;
            }
            there.extend(&found);
            self.sessions.extend(found.iter().filter_map(|pid| {
                let sight = sights.get(pid).filter(|sight| sight.session == *pid)?;
                Some((*pid, Led { started: sight.started, is_empty: false }))
            }));
            if self.first.is_none() {
                self.first = found.iter().find(led_first(sights)).copied();
            }
        }
        let full: BTreeSet<i32> =
            there.iter().filter_map(|pid| sights.get(pid)).map(|sight| sight.session).collect();
        self.sessions.retain(|id, led| {
            let was_empty = std::mem::replace(&mut led.is_empty, !full.contains(id));
            !(led.is_empty && was_empty)
        });
        self.known = there.iter().filter_map(|pid| Some((*pid, sights.get(pid)?.started))).collect();
        there.into_iter().collect()
    }
}

/// Whether a process has the mark and leads its session, as the one has that the engine started.
fn led_first(sights: &BTreeMap<i32, Sight>) -> impl Fn(&&i32) -> bool {
    move |pid| sights.get(*pid).is_some_and(|sight| sight.has_mark && sight.session == **pid)
}

/// Processes of a container, by the names of their control groups.
fn of_container(id: &str) -> impl Iterator<Item = i32> {
    tree::all().filter(move |pid| {
        // An id is long, and nothing else is called so.
        let groups = fs::read_to_string(format!("/proc/{pid}/cgroup"));
        groups.is_ok_and(|groups| groups.lines().any(|line| line.contains(id)))
    })
}

/// Whether a process has this variable; `None` where this process may not know, or there is none.
fn has_variable(pid: i32, variable: &str) -> Option<bool> {
    let all = fs::read(format!("/proc/{pid}/environ")).ok()?;
    Some(all.split(|byte| *byte == 0).any(|one| one == variable.as_bytes()))
}

/// Whether this process sees those of a container, and may end them: else a command there would outlive its session.
pub(super) async fn can_end(container: &str) -> bool {
    let container = container.to_owned();
    let seen = spawn_blocking(move || of_container(&container).any(|pid| has_variable(pid, MARK).is_some()));
    seen.await.unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sight(parent: i32, session: i32, has_mark: bool) -> Sight {
        Sight { parent, session, started: 7, has_mark }
    }

    fn members() -> Members {
        let (container, mark) = ("c".repeat(64), "m".to_owned());
        Members { container, mark, known: BTreeMap::new(), sessions: BTreeMap::new(), first: None }
    }

    #[test]
    fn what_a_command_starts_is_its_wherever_it_moves() {
        let mut members = members();
        // The workload, the command, and what each started.
        let mut sights = BTreeMap::from([
            (10, sight(1, 10, false)),
            (11, sight(10, 10, false)),
            (20, sight(5, 20, true)),
            (21, sight(20, 20, false)),
            (22, sight(21, 22, false)),
        ]);
        assert_eq!(members.find(&sights), [20, 21, 22]);
        assert_eq!(members.first, Some(20));
        // The command ends; what it left has other parents, and one that is new is in its session.
        sights.remove(&20);
        sights.insert(21, sight(10, 20, false));
        sights.insert(22, sight(10, 22, false));
        sights.insert(23, sight(10, 22, false));
        assert_eq!(members.find(&sights), [21, 22, 23]);
        // Its number is another's.
        sights.insert(21, Sight { started: 8, ..sight(10, 10, false) });
        assert_eq!(members.find(&sights), [22, 23]);
    }

    #[test]
    fn a_session_whose_number_is_another_s_is_not_its() {
        let mut members = members();
        let command = BTreeMap::from([(20, sight(5, 20, true)), (21, sight(20, 20, false))]);
        assert_eq!(members.find(&command), [20, 21]);
        // Its leader is another one.
        let other = BTreeMap::from([
            (20, Sight { started: 9, ..sight(10, 20, false) }),
            (25, Sight { started: 9, ..sight(20, 20, false) }),
        ]);
        assert_eq!(members.find(&other), [0; 0]);
        // One that was not seen at one look is its still; nobody was in it at two, so that the number was free.
        assert_eq!(members.find(&command), [20, 21]);
        let late = BTreeMap::from([(26, Sight { started: 9, ..sight(10, 20, false) })]);
        members.find(&BTreeMap::new());
        assert_eq!(members.find(&late), [26]);
        members.find(&BTreeMap::new());
        members.find(&BTreeMap::new());
        let later = BTreeMap::from([(27, Sight { started: 11, ..sight(10, 20, false) })]);
        assert_eq!(members.find(&later), [0; 0]);
    }

    #[test]
    fn nobody_else_has_the_mark() {
        assert_eq!(has_variable(i32::try_from(std::process::id()).unwrap(), "x=never"), Some(false));
        assert_eq!(has_variable(i32::MAX, "x"), None);
        let [one, other] = ["a", "b"].map(|id| Family::new(&id.repeat(64)).unwrap().mark());
        assert!(one != other && one.len() == 32);
    }
}
