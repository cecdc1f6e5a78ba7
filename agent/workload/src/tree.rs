//! Processes of this machine by their parents and users, as `/proc` tells them, and their ends.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use blueprint_common_types::WorkloadUse;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, SysconfVar, sysconf};
use serde::{Deserialize, Serialize};

/// Longest way from a process to one above it that is followed.
const DEEPEST: usize = 256;

/// How often the way up is looked for: a parent that ends on the way hides it once.
const WALKS: usize = 3;

/// Pause between two rounds of killing.
const PAUSE: Duration = Duration::from_millis(3);

/// One process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) parent: i32,
    /// When it was started, in ticks since the machine's start; tells it from others that had its number.
    pub(crate) started: u64,
}

/// Looks at one process; `None` where there is none of this number.
pub(crate) fn look(pid: i32) -> Option<Seen> {
    parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// A process, told from others that had or will have its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Known {
    pub(crate) pid: i32,
    pub(crate) started: u64,
}

impl Known {
    /// The process that has this number now.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        let pid = i32::try_from(pid).ok()?;
        Some(Self { pid, started: look(pid)?.started })
    }

    pub(crate) fn is_there(self) -> bool {
        look(self.pid).is_some_and(|seen| seen.started == self.started)
    }

    /// Whether it is `root` or descends from it, both being there before and after the look.
    pub(crate) fn is_below(self, root: Self) -> bool {
        let is_there = || self.is_there() && root.is_there();
        is_there() && (0..WALKS).any(|_| climbs(self.pid, root.pid, look)) && is_there()
    }
}

/// Whether the way from a process up leads to `root`.
fn climbs(pid: i32, root: i32, look: impl Fn(i32) -> Option<Seen>) -> bool {
    let mut at = pid;
    for _ in 0..DEEPEST {
        match look(at) {
            _ if at == root => return true,
            Some(seen) if seen.parent > 0 => at = seen.parent,
            Some(_) | None => return false,
        }
    }
    false
}

/// Looks at one process that has not ended, as one has that only waits for its parent; gives its session, too.
pub(crate) fn look_alive(pid: i32) -> Option<(Seen, i32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace();
    if matches!(fields.next()?, "Z" | "X" | "x") {
        return None;
    }
    Some((parse(&stat)?, fields.nth(2)?.parse().ok()?))
}

/// Reads `stat` (`proc(5)`): field 4 is the parent, field 22 the start.
fn parse(stat: &str) -> Option<Seen> {
    // The name in parentheses may hold anything.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(1);
    let parent = fields.next()?.parse().ok()?;
    Some(Seen { parent, started: fields.nth(17)?.parse().ok()? })
}

/// Numbers of all processes.
pub(crate) fn all() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// All that descends from a process, without itself.
pub(crate) fn descendants(root: i32) -> Vec<i32> {
    below(root, all().filter_map(|pid| Some((look(pid)?.parent, pid))))
}

fn below(root: i32, parents: impl Iterator<Item = (i32, i32)>) -> Vec<i32> {
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for (parent, child) in parents {
        children.entry(parent).or_default().push(child);
    }
    // Looks at processes that change meanwhile may seem to go round.
    let (mut found, mut next) = (BTreeSet::new(), vec![root]);
    while let Some(parent) = next.pop() {
        for child in children.remove(&parent).unwrap_or_default() {
            if child != root && found.insert(child) {
                next.push(child);
            }
        }
    }
    found.into_iter().collect()
}

/// What all below a process use, and used: what ended is counted by who waited for it. `None` where there is no such process.
pub(crate) fn uses(root: i32) -> Option<WorkloadUse> {
    let ticks = sysconf(SysconfVar::CLK_TCK).ok().flatten().and_then(|ticks| u64::try_from(ticks).ok())?;
    let page = sysconf(SysconfVar::PAGE_SIZE).ok().flatten().and_then(|page| u64::try_from(page).ok())?;
    let mut all = WorkloadUse::default();
    let mut used = counts(root)?.ended_ticks;
    for pid in descendants(root) {
        let Some(counts) = counts(pid) else { continue };
        used = used.saturating_add(counts.ticks).saturating_add(counts.ended_ticks);
        all.memory_bytes = all.memory_bytes.saturating_add(counts.resident_pages.saturating_mul(page));
        all.pids = all.pids.saturating_add(counts.threads);
        let (read, written) = disk(pid).unwrap_or_default();
        all.read_bytes = all.read_bytes.saturating_add(read);
        all.written_bytes = all.written_bytes.saturating_add(written);
    }
    all.cpu = Duration::from_millis(used.saturating_mul(1000).checked_div(ticks)?);
    Some(all)
}

/// What `stat` counts of one process: fields 14 to 17 are times, 20 its threads, 24 its memory.
struct Counts {
    ticks: u64,
    ended_ticks: u64,
    threads: u64,
    resident_pages: u64,
}

fn counts(pid: i32) -> Option<Counts> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let number = |line_field: usize| fields.get(line_field.checked_sub(3)?)?.parse::<u64>().ok();
    Some(Counts {
        ticks: number(14)?.saturating_add(number(15)?),
        ended_ticks: number(16)?.saturating_add(number(17)?),
        threads: number(20)?,
        resident_pages: number(24)?,
    })
}

/// Bytes that a process read from and wrote to disks.
fn disk(pid: i32) -> Option<(u64, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/io")).ok()?;
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    Some((field("read_bytes:")?, field("write_bytes:")?))
}

/// All whose effective user this is.
pub(crate) fn of_user(user: u32) -> Vec<i32> {
    let is_its = |pid: &i32| fs::metadata(format!("/proc/{pid}")).is_ok_and(|entry| entry.uid() == user);
    all().filter(is_its).collect()
}

/// Effective users of all processes.
pub(crate) fn users() -> BTreeSet<u32> {
    all().filter_map(|pid| fs::metadata(format!("/proc/{pid}")).ok()).map(|entry| entry.uid()).collect()
}

/// Kills what `find` finds until it finds nothing, also what is started meanwhile; says how many are left after
/// `within`. It blocks its thread.
pub(crate) fn kill_until_none(mut find: impl FnMut() -> Vec<i32>, within: Duration) -> usize {
    let begin = Instant::now();
    loop {
        let found = find();
        for pid in &found {
            let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
        }
        if found.is_empty() || begin.elapsed() >= within {
            return found.len();
        }
        std::thread::sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_hold_anything() {
        let stat = "7 (a) b (c) S 5 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4711 1 2";
        assert_eq!(parse(stat), Some(Seen { parent: 5, started: 4711 }));
        assert_eq!(parse("7 (a) S 5"), None);
        let parent = i32::try_from(std::os::unix::process::parent_id()).unwrap();
        assert_eq!(look(i32::try_from(std::process::id()).unwrap()).unwrap().parent, parent);
    }

    #[test]
    fn a_process_is_below_who_started_it_and_below_nobody_else() {
        let seen = |parent| Some(Seen { parent, started: 1 });
        let of = |parents: &'static [(i32, i32)]| {
            move |pid: i32| seen(parents.iter().find(|(child, _)| *child == pid)?.1)
        };
        let tree = of(&[(9, 6), (6, 5), (5, 1), (1, 0), (7, 1)]);
        assert!(climbs(9, 5, tree) && climbs(5, 5, tree) && climbs(7, 1, tree));
        assert!(!climbs(7, 5, tree) && !climbs(1, 5, tree) && !climbs(8, 5, tree), "another branch");
        assert!(!climbs(6, 4, of(&[(6, 7), (7, 6)])), "a circle ends");

        let own = Known::of(std::process::id()).unwrap();
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let below = Known::of(child.id()).unwrap();
        assert!(below.is_below(own) && !own.is_below(below));
        let other = Known { started: below.started + 1, ..below };
        assert!(!other.is_below(own), "another had the number");
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!below.is_below(own), "it is gone");
    }

    #[test]
    fn one_that_only_waits_for_its_parent_has_ended() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        blueprint_tests_support::eventually(Duration::from_secs(10), "its end", || {
            look_alive(pid).is_none().then_some(())
        })
        .unwrap();
        assert!(look(pid).is_some());
        child.wait().unwrap();
        let own = std::process::id();
        let (seen, session) = look_alive(i32::try_from(own).unwrap()).unwrap();
        assert_eq!(session, nix::unistd::getsid(None).unwrap().as_raw());
        assert_eq!(Some(seen), look(i32::try_from(own).unwrap()));
    }

    #[test]
    fn what_forked_is_counted_whole_also_once_it_has_ended() {
        // Two that burn time, one of which ends, below a shell that waits.
        let burn = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done";
        let script = format!("sh -c '{burn}' & sh -c '{burn}; sleep 60' & wait %1; echo done; wait");
        let mut shell = std::process::Command::new("sh")
            .args(["-c", &script])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut out = std::io::BufReader::new(shell.stdout.take().unwrap());
        std::io::BufRead::read_line(&mut out, &mut line).unwrap();
        let pid = i32::try_from(shell.id()).unwrap();
        let seen = uses(pid).unwrap();
        let own = counts(pid).unwrap();
        assert!(own.ended_ticks > 0 && seen.cpu >= Duration::from_millis(own.ended_ticks * 10), "{seen:?}");
        assert!(seen.pids >= 1 && seen.memory_bytes > 100_000, "{seen:?}");
        let left = descendants(pid);
        shell.kill().unwrap();
        assert_eq!(
            kill_until_none(
                || left.iter().copied().filter(|pid| look_alive(*pid).is_some()).collect(),
                Duration::from_secs(5)
            ),
            0
        );
        shell.wait().unwrap();
        assert_eq!(uses(i32::MAX), None);
    }

    #[test]
    fn a_tree_has_all_that_descends_and_nothing_else() {
        let of = |parents: &[(i32, i32)]| below(5, parents.iter().copied());
        assert_eq!(of(&[(5, 6), (6, 9), (1, 7), (7, 8), (9, 4)]), [4, 6, 9]);
        assert_eq!(of(&[(5, 6), (6, 5)]), [6], "a circle ends");
        assert_eq!(of(&[]), [0; 0]);
    }
}
