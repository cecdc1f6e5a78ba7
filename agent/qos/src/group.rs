//! The processes behind one listening address: those that hold its sockets, and their children.
//!
//! A server that forks its workers before it listens has one socket in many processes; one whose workers share a port has
//! a socket in each. What all of them use is what the service uses.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::procfs::{ProcFs, ProcessStat};

/// Shortest time that a processor share is taken over; a clock tick is 10 ms, so 20 of them fit in it.
pub(crate) const SHORTEST_WINDOW: Duration = Duration::from_millis(200);

/// How long holders of the sockets are relied on before all are looked for anew: workers that came by themselves.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// Most processes that are counted for one service, so that one that forks without end cannot hold up the agent.
const MOST: usize = 256;

/// Starts everything that has no other parent, and holds the sockets of what it starts on demand.
const INIT: u32 = 1;

/// Processes that belong together, by their pids, and what they have used.
#[derive(Debug, Default)]
pub(crate) struct Group {
    /// Sockets that listen at the address.
    inodes: Vec<u64>,
    /// Who holds them: pid, and start in clock ticks.
    holders: BTreeMap<u32, u64>,
    /// When they were looked for.
    found_at: Option<Instant>,
    /// What each had used when the share was taken last, and when that was.
    taken: Option<(BTreeMap<u32, ProcessStat>, Instant)>,
    cpu_percent: f32,
}

/// What the processes of a group use.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Use {
    /// The first of those that hold the sockets.
    pub(crate) pid: u32,
    /// Share of one processor in percent.
    pub(crate) cpu_percent: f32,
    /// Resident pages of all of them; what they share counts for each.
    pub(crate) pages: u64,
}

impl Group {
    /// Whether the holders are still those, and were looked for not long ago.
    pub(crate) fn is_known(&self, proc: &ProcFs, now: Instant) -> bool {
        let is_recent = self.found_at.is_some_and(|at| now.saturating_duration_since(at) < LOOK_AGAIN);
        let Some((pid, started)) = self.holders.first_key_value() else { return false };
        // Who has the socket open still listens there: without a look at the table of all sockets.
        is_recent
            && proc.process(*pid).is_ok_and(|stat| stat.started == *started)
            && proc.holds_any(*pid, &self.inodes)
    }

    /// Looks for the holders of these sockets; false where nobody is seen to hold them.
    pub(crate) fn find(&mut self, proc: &ProcFs, inodes: Vec<u64>, now: Instant) -> bool {
        let mut owners = proc.socket_owners(&inodes);
        if owners.len() > 1 {
            owners.retain(|pid| *pid != INIT);
        }
        let started = |pid: u32| Some((pid, proc.process(pid).ok()?.started));
        self.holders = owners.into_iter().filter_map(started).collect();
        (self.inodes, self.found_at) = (inodes, Some(now));
        !self.holders.is_empty()
    }

    /// What they use at `now`; `None` where none of them is left. The share is zero the first time.
    pub(crate) fn look(&mut self, proc: &ProcFs, ticks_per_second: u64, now: Instant) -> Option<Use> {
        let current = self.members(proc);
        let pid = *self.holders.keys().find(|pid| current.contains_key(pid))?;
        let pages = current.values().fold(0u64, |sum, stat| sum.saturating_add(stat.resident_pages));
        let is_same = |(pid, stat): (&u32, &ProcessStat)| {
            current.get(pid).is_some_and(|other| other.started == stat.started)
        };
        match self.taken.as_ref().filter(|(before, _)| before.iter().any(is_same)) {
            None => (self.taken, self.cpu_percent) = (Some((current, now)), 0.0),
            Some((before, at)) => {
                let window = now.saturating_duration_since(*at);
                if window >= SHORTEST_WINDOW {
                    let millis = u64::try_from(window.as_millis()).unwrap_or(u64::MAX);
                    let whole = millis.saturating_mul(ticks_per_second);
                    let ticks = used(before, &current, whole / 1000);
                    self.cpu_percent = percent(ticks.saturating_mul(1000), whole);
                    self.taken = Some((current, now));
                }
            }
        }
        Some(Use { pid, cpu_percent: self.cpu_percent, pages })
    }

    /// The holders that are left, their children, and so on.
    fn members(&self, proc: &ProcFs) -> BTreeMap<u32, ProcessStat> {
        let mut members = BTreeMap::new();
        let mut next: Vec<(u32, Option<u64>)> =
            self.holders.iter().rev().map(|(pid, started)| (*pid, Some(*started))).collect();
        while let Some((pid, started)) = next.pop() {
            if members.len() >= MOST || members.contains_key(&pid) {
                continue;
            }
            let stat = proc.process(pid).ok().filter(|stat| started.is_none_or(|it| it == stat.started));
            let Some(stat) = stat else { continue };
            members.insert(pid, stat);
            // Whoever these start is not theirs.
            if pid != INIT && pid != std::process::id() {
                next.extend(proc.children(pid).into_iter().map(|child| (child, None)));
            }
        }
        members
    }
}

/// Ticks that were used between two looks. One that is new counts what it has used, a whole processor at the most. One that
/// ended counts by what its parent knows of it, less what was counted while it was there.
fn used(before: &BTreeMap<u32, ProcessStat>, now: &BTreeMap<u32, ProcessStat>, window: u64) -> u64 {
    let (mut own, mut waited) = (0u64, 0u64);
    for (pid, stat) in now {
        match before.get(pid).filter(|it| it.started == stat.started) {
            Some(known) => {
                own = own.saturating_add(stat.ticks.saturating_sub(known.ticks));
                waited = waited.saturating_add(stat.waited.saturating_sub(known.waited));
            }
            None => own = own.saturating_add(stat.ticks.saturating_add(stat.waited).min(window)),
        }
    }
    let is_gone =
        |(pid, stat): &(&u32, &ProcessStat)| now.get(pid).is_none_or(|other| other.started != stat.started);
    let gone = before.iter().filter(is_gone);
    let counted = gone.fold(0u64, |sum, (_, it)| sum.saturating_add(it.ticks).saturating_add(it.waited));
    own.saturating_add(waited.saturating_sub(counted))
}

/// `part` of `whole` in percent, to two places; zero where there is no whole.
pub(crate) fn percent(part: u64, whole: u64) -> f32 {
    let hundredths = part.saturating_mul(10_000).checked_div(whole).unwrap_or(0);
    let narrow = |number: u64| f32::from(u16::try_from(number).unwrap_or(u16::MAX));
    narrow(hundredths / 100) + narrow(hundredths % 100) / 100.0
}

#[cfg(test)]
mod tests;
