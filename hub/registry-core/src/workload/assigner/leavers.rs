//! Runs of services with replicas that leave their nodes: what is open at them may end before they do.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use blueprint_common_types::workload::Seat;
use blueprint_common_types::{AgentId, ServiceKey, Timestamp};

use super::{Assigner, Assignment, Assignments, WorkloadRecord};
use crate::RegistrySnapshot;

/// Least time that a run goes on once it gets no new requests, so that nothing is on its way to it any more: a table of targets is
/// in force in far less than that.
const LEAST: Duration = Duration::from_secs(2);

/// How long what is open may last where nobody says, as `scaling.drain` is where nobody sets it.
const USUAL: Duration = Duration::from_secs(60);

/// Runs of services by service and node.
pub(super) type Runs = BTreeMap<(ServiceKey, AgentId), Arc<WorkloadRecord>>;

/// A run that leaves its node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaver {
    /// What runs there; names the node.
    pub record: Arc<WorkloadRecord>,
    /// Since when it gets no new requests; `None` before the first [`Assigner::look_at_leavers`].
    pub since: Option<Timestamp>,
    /// Until when what is open there may last; `None` before that, too.
    pub until: Option<Timestamp>,
}

/// What leaves, and for how long it may.
#[derive(Debug)]
pub(super) struct Leavers {
    drain: Duration,
    pub(super) runs: BTreeMap<(ServiceKey, AgentId), Leaver>,
}

impl Default for Leavers {
    fn default() -> Self {
        Self { drain: USUAL, runs: BTreeMap::new() }
    }
}

impl Leavers {
    /// Of the runs of before, those leave that are none any more although their service still has the same version.
    pub(super) fn leave(&mut self, before: Runs, after: &Runs) {
        let serves = |service: ServiceKey| after.range((service, AgentId::from_bytes([0; 16]))..).next();
        for (key, record) in before {
            // Another document is another generation: nothing of it goes on beside the new one.
            let goes_on = serves(key.0).is_some_and(|((of, _), run)| {
                *of == key.0 && (run.generation, run.slot) == (record.generation, record.slot)
            });
            if goes_on && !after.contains_key(&key) {
                self.runs.entry(key).or_insert(Leaver { record, since: None, until: None });
            }
        }
        self.runs.retain(|key, _| !after.contains_key(key));
    }

    /// Whoever is assigned a seat there is assigned that, and not what leaves it.
    pub(super) fn assign(&self, assignments: &mut Assignments) {
        for ((service, node), leaver) in &self.runs {
            let seat = Seat { service: *service, slot: leaver.record.slot };
            let assignment = Assignment { generation: leaver.record.generation, ends: false };
            assignments.entry(*node).or_default().entry(seat).or_insert(assignment);
        }
    }
}

impl Assigner {
    /// The same, where what is open at a run that leaves its node may last for so long.
    #[must_use]
    pub const fn draining_for(mut self, drain: Duration) -> Self {
        self.leavers.drain = drain;
        self
    }

    /// Nothing leaves: at the start of a hub nothing is open at what ran before.
    pub fn forget_leavers(&mut self) {
        self.leavers.runs.clear();
    }

    /// Runs that leave their nodes and still go on there.
    pub fn leavers(&self) -> impl Iterator<Item = &Leaver> {
        self.leavers.runs.values()
    }

    /// Ends those at which nothing is open any more or whose time is over, and gives them; `open` counts what is open at a run.
    /// One whose node left, or whose workload is gone, to end or another one by now, ends at once.
    pub fn look_at_leavers(
        &mut self,
        open: impl Fn(&WorkloadRecord) -> u32,
        snapshot: &RegistrySnapshot,
        now: Timestamp,
    ) -> Vec<Leaver> {
        let drain = self.leavers.drain.max(LEAST);
        let (records, ending) = (&self.records, &self.ending);
        let over = self.leavers.runs.extract_if(.., |(service, node), leaver| {
            // A time from the future is a clock that was set back since: counted from now on.
            if leaver.since.is_some_and(|since| since > now) {
                (leaver.since, leaver.until) = (None, None);
            }
            let since = *leaver.since.get_or_insert(now);
            let until = *leaver.until.get_or_insert(since.plus(drain));
            let run = &leaver.record;
            let is_same = |it: &Arc<WorkloadRecord>| (it.generation, it.slot) == (run.generation, run.slot);
            let is_wanted = records.get(service).is_some_and(is_same) && !ending.contains(service);
            let is_done = now.since(since) >= LEAST && (now >= until || open(run) == 0);
            is_done || !is_wanted || !snapshot.agents.contains_key(node)
        });
        over.map(|(_, leaver)| leaver).collect()
    }

    /// Everything that serves services that have or had replicas.
    pub(super) fn replica_runs(&self) -> Runs {
        let has_copies = |service: ServiceKey| {
            let next = self.copies.range((service, AgentId::from_bytes([0; 16]))..).next();
            next.is_some_and(|((of, _), _)| *of == service)
        };
        let has = |service: &ServiceKey| self.replicas.contains_key(service) || has_copies(*service);
        let own = self.records.values().filter(|record| has(&record.service));
        let all = own.chain(self.copies.values());
        all.filter_map(|record| Some(((record.service, record.node?), Arc::clone(record)))).collect()
    }

    /// Everything that serves.
    pub(super) fn serving_runs(&self) -> Runs {
        let all = self.records.values().chain(self.copies.values());
        all.filter_map(|record| Some(((record.service, record.node?), Arc::clone(record)))).collect()
    }
}
