//! Decides which node a workload goes to, and when it leaves one.

mod beside;
mod leavers;
mod no_node;
mod room;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use blueprint_common_types::workload::{Seat, WorkloadStatus};
use blueprint_common_types::{AgentId, ServiceKey, Timestamp};

use self::leavers::Leavers;
use self::room::{Load, best_node, is_here, may_run, runs_on};
use super::{EventKind, FailOvers, Placed, Refusals, Verdict, WorkloadRecord, WorkloadsView};
use crate::{MAX_TARGETS_PER_AGENT, RegistrySnapshot};

pub use self::leavers::Leaver;
pub use self::no_node::NoNode;

/// Workloads of one node at most: as many as it may offer targets.
pub const MAX_PER_NODE: usize = MAX_TARGETS_PER_AGENT;

/// What the hub assigned, and to whom.
pub type Assignments = BTreeMap<AgentId, BTreeMap<Seat, Assignment>>;

/// Nodes that run replicas of services, each of them the whole workload; a service that is not named has one run.
pub type Replicas = BTreeMap<ServiceKey, BTreeSet<AgentId>>;

/// One assignment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Assignment {
    /// Its number: it grows whenever the workload is to be started anew.
    pub generation: u64,
    /// The workload is to end; its node tells how it did until it is taken back.
    pub ends: bool,
}

/// A workload that goes to a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    /// Which.
    pub service: ServiceKey,
    /// The generation that this is about.
    pub generation: u64,
    /// Where it was.
    pub from: Option<AgentId>,
    /// Where it goes.
    pub to: AgentId,
    /// Whether that is for its health, [`EventKind::FailOver`], because its node cannot run it, [`EventKind::Refused`], or for
    /// another reason, [`EventKind::Move`].
    pub kind: EventKind,
    /// Why, one line.
    pub reason: String,
}

impl Move {
    /// As the store takes it.
    #[must_use]
    pub fn placed(&self, now: Timestamp) -> Placed {
        let Self { service, generation, from, to, kind, ref reason } = *self;
        Placed { service, generation, node: to, from, kind, reason: reason.clone(), now }
    }
}

/// All workloads, and which nodes are there.
///
/// Invariants:
/// - a workload is on one node at most, and goes only to one that it may be on, that runs workloads and that has the
///   processors, memory and GPUs of its limits;
/// - it leaves a node only if that one has been away for the whole patience, or is gone, or not allowed any more, or runs
///   no workloads, or asks for another one for it, as often as [`FailOvers`] lets it, or cannot run it, as [`Refusals`] has it;
/// - one that has replicas runs on each node of them that fits, and on no other, and never moves;
/// - a replica that leaves its node goes on there without new requests until what is open at it has ended, or its time is over;
/// - one that is to end goes nowhere;
/// - equal inputs give equal moves.
#[derive(Debug)]
pub struct Assigner {
    patience: Duration,
    records: BTreeMap<ServiceKey, Arc<WorkloadRecord>>,
    /// Next versions beside those that serve, one for each node that runs it.
    next: BTreeMap<ServiceKey, Vec<Arc<WorkloadRecord>>>,
    replicas: Replicas,
    /// Runs of services that have replicas, but for those that are in `records`.
    copies: BTreeMap<(ServiceKey, AgentId), Arc<WorkloadRecord>>,
    leavers: Leavers,
    /// Services whose node the store does not have yet.
    unsaved: BTreeSet<ServiceKey>,
    /// Nodes of workloads that cannot be reached, and since when.
    away: BTreeMap<AgentId, Timestamp>,
    /// Workloads that are to end.
    ending: BTreeSet<ServiceKey>,
    /// Workloads of which an update is under way.
    updating: BTreeSet<ServiceKey>,
    fail_overs: FailOvers,
    refusals: Refusals,
    /// What asks for another node and gets none, and why.
    degraded: BTreeMap<ServiceKey, String>,
    /// When it was asked for moves last; a patience that was over by then needs no second look.
    looked: Timestamp,
}

impl Assigner {
    /// Takes up what the store kept; `patience` is how long a node may be away before its workloads go elsewhere.
    #[must_use]
    pub fn new(records: Vec<WorkloadRecord>, fail_overs: FailOvers, patience: Duration) -> Self {
        let records = records.into_iter().map(|record| (record.service, Arc::new(record))).collect();
        let looked = Timestamp::from_millis(0);
        Self {
            patience,
            records,
            next: BTreeMap::new(),
            replicas: Replicas::new(),
            copies: BTreeMap::new(),
            leavers: Leavers::default(),
            unsaved: BTreeSet::new(),
            away: BTreeMap::new(),
            ending: BTreeSet::new(),
            updating: BTreeSet::new(),
            fail_overs,
            refusals: Refusals::default(),
            degraded: BTreeMap::new(),
            looked,
        }
    }

    /// Takes up what the journal has of nodes that could not run workloads.
    #[must_use]
    pub fn with_refusals(self, refusals: Refusals) -> Self {
        Self { refusals, ..self }
    }

    /// The operator gave a workload: nodes that could not run it before may be tried again.
    pub fn forget_refusals(&mut self, service: ServiceKey) {
        self.refusals.forget(service);
    }

    /// A workload is new or changed, and the store has it so; one that was to end goes on.
    pub fn set(&mut self, record: WorkloadRecord) {
        self.ending.remove(&record.service);
        self.unsaved.remove(&record.service);
        if self.records.get(&record.service).is_some_and(|it| it.version != record.version) {
            self.refusals.forget(record.service);
        }
        self.records.insert(record.service, Arc::new(record));
    }

    /// The next version of a service runs on these nodes beside the one that serves; it stays where it is.
    pub fn set_next(&mut self, record: &WorkloadRecord, nodes: &[AgentId]) {
        let on = |node: &AgentId| Arc::new(WorkloadRecord { node: Some(*node), ..record.clone() });
        self.next.insert(record.service, nodes.iter().map(on).collect());
    }

    /// The next version of a service is not wanted beside the other any more.
    pub fn remove_next(&mut self, service: ServiceKey) {
        self.next.remove(&service);
    }

    /// The next version of a service on each node that runs it beside the one that serves.
    #[must_use]
    pub fn next(&self, service: ServiceKey) -> &[Arc<WorkloadRecord>] {
        self.next.get(&service).map_or(&[], Vec::as_slice)
    }

    /// What serves of a service: the workload, and its other replicas.
    pub fn serving(&self, service: ServiceKey) -> impl Iterator<Item = &Arc<WorkloadRecord>> {
        let copies = self.copies.range((service, AgentId::from_bytes([0; 16]))..);
        let copies = copies.take_while(move |((of, _), _)| *of == service).map(|(_, record)| record);
        self.records.get(&service).into_iter().chain(copies)
    }

    /// A workload is to end, and to be taken back once it has; nothing where there is none.
    pub fn end(&mut self, service: ServiceKey) {
        if self.records.contains_key(&service) {
            self.ending.insert(service);
        }
    }

    /// A workload is not wanted any more.
    pub fn remove(&mut self, service: ServiceKey) {
        self.ending.remove(&service);
        self.records.remove(&service);
        self.next.remove(&service);
        self.copies.retain(|(of, _), _| *of != service);
        self.leavers.runs.retain(|(of, _), _| *of != service);
        self.unsaved.remove(&service);
        self.fail_overs.forget(service);
        self.refusals.forget(service);
        self.degraded.remove(&service);
    }

    /// Services whose workload runs on all of these nodes from now on; [`Self::spread`] does it.
    pub fn set_replicas(&mut self, replicas: Replicas) {
        self.replicas = replicas;
    }

    /// Whether a service has replicas.
    #[must_use]
    pub fn has_replicas(&self, service: ServiceKey) -> bool {
        self.replicas.contains_key(&service)
    }

    /// Runs of services that have replicas, beside those of [`Self::records`].
    pub fn copies(&self) -> impl Iterator<Item = &Arc<WorkloadRecord>> {
        self.copies.values()
    }

    /// Has each node of a service's replicas run it where it fits; true where that changed something.
    ///
    /// All runs have one generation: none is started anew because another one comes or goes. What it changes the caller
    /// stores, as [`Self::unsaved`] has it.
    pub fn spread(&mut self, snapshot: &RegistrySnapshot) -> bool {
        let before = self.replica_runs();
        let mut copies = BTreeMap::new();
        let mut is_news = false;
        for (service, nodes) in &self.replicas {
            let Some(record) = self.records.get(service) else { continue };
            let fits: Vec<AgentId> =
                nodes.iter().copied().filter(|node| runs_on(record, *node, snapshot)).collect();
            let shown = record.node.filter(|node| fits.contains(node)).or_else(|| fits.first().copied());
            let others = fits.into_iter().filter(|node| Some(*node) != shown);
            for node in others {
                let known = self.copies.get(&(*service, node));
                // Whatever else of a record changes, its generation does.
                let same = known.filter(|it| (it.generation, it.slot) == (record.generation, record.slot));
                let copy = same.map_or_else(
                    || Arc::new(WorkloadRecord { node: Some(node), ..(**record).clone() }),
                    Arc::clone,
                );
                copies.insert((*service, node), copy);
            }
            if record.node != shown {
                let record = Arc::new(WorkloadRecord { node: shown, ..(**record).clone() });
                self.records.insert(*service, record);
                self.unsaved.insert(*service);
                is_news = true;
            }
        }
        is_news |= copies != self.copies;
        self.copies = copies;
        if !before.is_empty() {
            let after = self.serving_runs();
            self.leavers.leave(before, &after);
        }
        is_news
    }

    /// What [`Self::spread`] put on a node that the store does not have yet; [`Self::saved`] says that it has.
    #[must_use]
    pub fn unsaved(&self) -> Vec<Arc<WorkloadRecord>> {
        self.unsaved.iter().filter_map(|service| self.records.get(service).cloned()).collect()
    }

    /// The store has the node of a workload.
    pub fn saved(&mut self, service: ServiceKey) {
        self.unsaved.remove(&service);
    }

    /// Updates of these are under way, and no others: they do not leave their nodes for not getting well, since what the
    /// update sees of them decides.
    pub fn hold(&mut self, updating: BTreeSet<ServiceKey>) {
        self.updating = updating;
    }

    /// Takes in what the node of a workload says of it; the caller has seen to it that it is that node, and the assignment
    /// that holds.
    pub fn hear(&mut self, status: &WorkloadStatus) {
        self.fail_overs.hear(status);
        self.refusals.hear(status);
    }

    /// A workload left a node, as [`Self::moves`] said and the store keeps.
    pub fn moved(&mut self, one: &Move, now: Timestamp) {
        let Some(from) = one.from else { return };
        if one.kind == EventKind::FailOver {
            self.fail_overs.handle_move(one.service, from, now);
        } else if one.kind == EventKind::Refused {
            self.refusals.handle_move(one.service, from, now);
        }
    }

    /// What does not get well and has no node left to which it could go, and why; as of the last [`Self::moves`].
    #[must_use]
    pub const fn degraded(&self) -> &BTreeMap<ServiceKey, String> {
        &self.degraded
    }

    /// One workload.
    #[must_use]
    pub fn get(&self, service: ServiceKey) -> Option<&Arc<WorkloadRecord>> {
        self.records.get(&service)
    }

    /// Every workload, by service.
    pub fn records(&self) -> impl Iterator<Item = &Arc<WorkloadRecord>> {
        self.records.values()
    }

    /// Who has what.
    #[must_use]
    pub fn assignments(&self) -> Assignments {
        let mut assignments = Assignments::new();
        for record in self.runs() {
            if let Some(node) = record.node {
                let ends = self.ending.contains(&record.service);
                let assignment = Assignment { generation: record.generation, ends };
                let seat = Seat { service: record.service, slot: record.slot };
                assignments.entry(node).or_default().insert(seat, assignment);
            }
        }
        self.leavers.assign(&mut assignments);
        assignments
    }

    /// Everything that is on a node or is to be.
    fn runs(&self) -> impl Iterator<Item = &Arc<WorkloadRecord>> {
        self.records.values().chain(self.next.values().flatten()).chain(self.copies.values())
    }

    /// What nodes have to do, for runs that leave them, too.
    fn load(&self) -> Load {
        Load::of(self.runs().chain(self.leavers().map(|it| &it.record)))
    }

    /// What is wanted and has no node yet.
    #[must_use]
    pub fn unplaced(&self) -> BTreeSet<ServiceKey> {
        self.records.values().filter(|record| record.node.is_none()).map(|record| record.service).collect()
    }

    /// What should move now. The caller stores each move, and gives the record back with [`Self::set`].
    pub fn moves(&mut self, snapshot: &RegistrySnapshot, now: Timestamp) -> Vec<Move> {
        self.looked = now;
        self.note_presence(snapshot, now);
        self.refusals.handle_look(snapshot, now);
        let mut load = self.load();
        let (mut moves, mut degraded) = (Vec::new(), BTreeMap::new());
        for record in self.records.values().filter(|record| !self.ending.contains(&record.service)) {
            let WorkloadRecord { service, generation, node: from, .. } = **record;
            if self.replicas.contains_key(&service) {
                continue;
            }
            let mut except = self.refusals.except(service);
            let (to, kind, reason) = match self.reason_to_move(record, snapshot, now) {
                Some(reason) => {
                    // A node that refused it is better than none.
                    let to = best_node(record, snapshot, &load, &except)
                        .or_else(|| best_node(record, snapshot, &load, &BTreeSet::new()));
                    (to, EventKind::Move, reason)
                }
                None if self.updating.contains(&service) => continue,
                None => match (self.refusals.of(record), self.fail_overs.judge(record, now)) {
                    (None, None) => continue,
                    (Some(refusal), _) => {
                        // A node where it did not get well is better than none.
                        let left = &except | &self.fail_overs.left(service, now);
                        let to = best_node(record, snapshot, &load, &left)
                            .or_else(|| best_node(record, snapshot, &load, &except));
                        if to.is_none() && refusal.is_final {
                            degraded.insert(service, self.refusals.nowhere(service, snapshot));
                        }
                        (to, EventKind::Refused, format!("its node cannot run it: {}", refusal.reason))
                    }
                    (None, Some(Verdict::Stay { moves, .. })) => {
                        degraded.insert(service, stays(moves));
                        continue;
                    }
                    (None, Some(Verdict::Move { except: left, reason })) => {
                        except.extend(left);
                        let to = best_node(record, snapshot, &load, &except);
                        if to.is_none() {
                            degraded.insert(service, NOWHERE.to_owned());
                        }
                        (to, EventKind::FailOver, format!("it did not get well on its node: {reason}"))
                    }
                },
            };
            let Some(to) = to else { continue };
            load.add(to, record);
            moves.push(Move { service, generation, from, to, kind, reason });
        }
        self.degraded = degraded;
        moves
    }

    /// When [`Self::moves`] may say something new although nothing happens; later than its last call, or `None`. Where no
    /// node fits once a patience is over, only a change of the nodes helps.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        let deadlines = self.away.values().map(|since| since.plus(self.patience));
        let deadlines = deadlines.filter(|at| *at > self.looked);
        let again = [self.fail_overs.poll_timeout(self.looked), self.refusals.poll_timeout(self.looked)];
        deadlines.chain(again.into_iter().flatten()).min()
    }

    fn note_presence(&mut self, snapshot: &RegistrySnapshot, now: Timestamp) {
        let used: BTreeSet<AgentId> = self.records.values().filter_map(|record| record.node).collect();
        self.away.retain(|node, _| used.contains(node) && !is_here(*node, snapshot));
        for node in used.into_iter().filter(|node| !is_here(*node, snapshot)) {
            self.away.entry(node).or_insert(now);
        }
    }

    fn reason_to_move(
        &self,
        record: &WorkloadRecord,
        snapshot: &RegistrySnapshot,
        now: Timestamp,
    ) -> Option<String> {
        let Some(node) = record.node else { return Some("it had no node".to_owned()) };
        let Some(view) = snapshot.agents.get(&node) else {
            return Some("its node is not joined any more".to_owned());
        };
        let name = &view.agent.name;
        if !may_run(record, node) {
            return Some(format!("it may not run on {name} any more"));
        }
        if !view.runs_workloads {
            return Some(format!("its node {name} runs no workloads"));
        }
        let away_for = self.away.get(&node).map(|since| now.since(*since))?;
        let is_over = away_for >= self.patience;
        is_over.then(|| format!("its node {name} has been away for {} s", away_for.as_secs()))
    }
}

/// Why a workload that asks for another node does not go.
const NOWHERE: &str = "no other node that it may run on fits, of those that it has not left within the hour";

fn stays(moves: usize) -> String {
    match moves {
        0 => "its document allows no moves to other nodes (health.recovery.moves_per_hour)".to_owned(),
        moves => format!("it was moved {moves} times within the hour, and may not be moved more often"),
    }
}
