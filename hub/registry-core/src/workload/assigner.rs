//! Decides which node a workload goes to, and when it leaves one.

mod leavers;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use blueprint_common_types::workload::{
    GpuPolicy, Inventory, Lack, MAX_SLOTS, ResourceLimits, Seat, WorkloadStatus,
};
use blueprint_common_types::{AgentId, ServiceKey, Timestamp};

pub use self::leavers::Leaver;
use self::leavers::Leavers;
use super::{EventKind, FailOvers, Placed, Refusals, Verdict, WorkloadRecord, WorkloadsView};
use crate::{MAX_TARGETS_PER_AGENT, RegistrySnapshot};

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

    /// A workload is new or changed; one that was to end goes on.
    pub fn set(&mut self, record: WorkloadRecord) {
        self.ending.remove(&record.service);
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
    /// All runs have one generation: none is started anew because another one comes or goes.
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
        let mut load = Load::of(self.runs().chain(self.leavers().map(|it| &it.record)));
        let (mut moves, mut degraded) = (Vec::new(), BTreeMap::new());
        for record in self.records.values().filter(|record| !self.ending.contains(&record.service)) {
            let WorkloadRecord { service, generation, node: from, .. } = **record;
            if self.replicas.contains_key(&service) {
                continue;
            }
            let mut except = self.refusals.except(service);
            let (to, kind, reason) = match self.reason_to_move(record, snapshot, now) {
                Some(reason) => (best_node(record, snapshot, &load, &except), EventKind::Move, reason),
                None if self.updating.contains(&service) => continue,
                None => match (self.refusals.of(record), self.fail_overs.judge(record, now)) {
                    (None, None) => continue,
                    (Some(refusal), _) => {
                        let to = best_node(record, snapshot, &load, &except);
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

    /// Where the next version of a workload can run beside the one that serves: on its node where that has room for both,
    /// else on another one, but on none of `drained`, which get no requests. With it the number of the instance.
    ///
    /// # Errors
    ///
    /// One line for the operator.
    pub fn place_beside(
        &self,
        next: &WorkloadRecord,
        drained: &BTreeSet<AgentId>,
        snapshot: &RegistrySnapshot,
    ) -> Result<(AgentId, u8), String> {
        let serving = self.records.get(&next.service);
        let (serving, node) = serving
            .and_then(|it| it.node.map(|node| (it, node)))
            .ok_or_else(|| "the workload has no node".to_owned())?;
        let slot = Seat::other_slot(serving.slot);
        let view = snapshot.agents.get(&node).ok_or_else(|| "its node is not joined any more".to_owned())?;
        if !runs_two(node, snapshot) {
            let name = &view.agent.name;
            return Err(format!("the agent of its node {name} is too old to tell two versions apart"));
        }
        let load = Load::of(self.runs());
        let limits = limits_of(next);
        let both = together(&limits, &limits_of(serving));
        let next = WorkloadRecord { node: None, ..next.clone() };
        let has_place = |node: AgentId| {
            let runs = snapshot.agents.get(&node).is_some_and(|view| view.runs_workloads);
            let is_open = may_run(&next, node) && !drained.contains(&node);
            is_open && is_here(node, snapshot) && runs && load.count(node) < MAX_PER_NODE
        };
        let lack = load.lack(node, &next, &both, snapshot);
        if has_place(node) && lack.is_none() {
            return Ok((node, slot));
        }
        let elsewhere = snapshot.agents.keys().copied().filter(|other| {
            *other != node
                && has_place(*other)
                && runs_two(*other, snapshot)
                && load.lack(*other, &next, &limits, snapshot).is_none()
        });
        let best = elsewhere.min_by_key(|other| (load.count(*other), *other));
        best.map(|other| (other, slot)).ok_or_else(|| {
            let why = match lack {
                Some(lack) => format!(": for both on its own, {lack}"),
                None if drained.contains(&node) => ": its own is drained, or has the weight 0".to_owned(),
                None => String::new(),
            };
            format!("no node has room for the next version beside the one that serves{why}")
        })
    }

    /// Where the next version of a workload that has replicas can run beside the one that serves: on each of `running`, the nodes
    /// of the replicas that run now, that it may run on and that gets requests. With them the number of the instance.
    ///
    /// # Errors
    ///
    /// One line for the operator: each of them has to have room for both.
    pub fn place_beside_replicas(
        &self,
        next: &WorkloadRecord,
        running: &[AgentId],
        drained: &BTreeSet<AgentId>,
        snapshot: &RegistrySnapshot,
    ) -> Result<(Vec<AgentId>, u8), String> {
        let serving = self.records.get(&next.service).ok_or_else(|| "there is no workload".to_owned())?;
        let slot = Seat::other_slot(serving.slot);
        let load = Load::of(self.runs());
        let both = together(&limits_of(next), &limits_of(serving));
        let next = WorkloadRecord { node: None, ..next.clone() };
        let is_open =
            |node: &AgentId| may_run(&next, *node) && !drained.contains(node) && is_here(*node, snapshot);
        let nodes: Vec<AgentId> = running.iter().copied().filter(is_open).collect();
        for node in &nodes {
            let Some(view) = snapshot.agents.get(node) else { continue };
            let name = &view.agent.name;
            if !runs_two(*node, snapshot) {
                return Err(format!("the agent of {name} is too old to tell two versions apart"));
            }
            if load.count(*node) >= MAX_PER_NODE {
                return Err(format!("{name} has {MAX_PER_NODE} workloads"));
            }
            if let Some(lack) = load.lack(*node, &next, &both, snapshot) {
                return Err(format!("{name} has no room for both: {lack}"));
            }
        }
        Ok((nodes, slot))
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

/// Why no node can take a workload, as the operator is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoNode {
    /// None is here that it may be on.
    #[error("no node that it may run on is connected")]
    NotHere,
    /// Those that are here said that they run none.
    #[error(
        "no node runs workloads: workload.enabled is false on each that is connected and that it may run on"
    )]
    NoneRuns,
    /// Those that run some have too little of something; this is what the last of them lacks.
    #[error("no node that it may run on has enough: {0}")]
    TooSmall(Lack),
    /// Those that run some have [`MAX_PER_NODE`].
    #[error("every node that it may run on has 64 workloads")]
    Full,
}

impl NoNode {
    /// Why no node can take the workload now; `None` where one can, or has it.
    #[must_use]
    pub fn of(record: &WorkloadRecord, view: &WorkloadsView, snapshot: &RegistrySnapshot) -> Option<Self> {
        let runs = |node: &AgentId| snapshot.agents.get(node).is_some_and(|view| view.runs_workloads);
        let allowed = snapshot.agents.keys().filter(|node| may_run(record, **node));
        let here: Vec<_> = allowed.filter(|node| is_here(**node, snapshot)).collect();
        if here.is_empty() {
            return Some(Self::NotHere);
        }
        if !here.iter().any(|node| runs(node)) {
            return Some(Self::NoneRuns);
        }
        let load = Load::of(view.runs());
        let limits = limits_of(record);
        let lack = |node: &AgentId| load.lack(*node, record, &limits, snapshot);
        let mut able = here.into_iter().filter(|node| runs(node));
        let lacks: Option<Vec<Lack>> = able.clone().map(&lack).collect();
        if let Some(lack) = lacks.and_then(|lacks| lacks.last().copied()) {
            return Some(Self::TooSmall(lack));
        }
        let fits = |node: &AgentId| {
            lack(node).is_none() && (record.node == Some(*node) || load.count(*node) < MAX_PER_NODE)
        };
        (!able.any(fits)).then_some(Self::Full)
    }
}

/// What each node has to do already.
#[derive(Debug, Default)]
struct Load {
    nodes: BTreeMap<AgentId, NodeLoad>,
}

/// Workloads of one node, the GPUs that they cannot do without, and the limits of those that take GPUs where there are some.
#[derive(Debug, Default)]
struct NodeLoad {
    workloads: usize,
    gpus: u8,
    preferring: Vec<ResourceLimits>,
}

impl NodeLoad {
    /// GPUs that workloads may hold which could do without: each got as many as it prefers or none, and keeps them.
    fn preferred(&self, inventory: &Inventory) -> u8 {
        let gets = |limits: &&ResourceLimits| {
            inventory.lacks(&ResourceLimits { gpu_policy: GpuPolicy::Required, ..**limits }).is_none()
        };
        let held = self.preferring.iter().filter(gets).map(|limits| limits.gpu_count);
        held.fold(0, u8::saturating_add)
    }
}

impl Load {
    fn of<'a>(records: impl Iterator<Item = &'a Arc<WorkloadRecord>>) -> Self {
        let mut load = Self::default();
        for record in records {
            if let Some(node) = record.node {
                load.add(node, record);
            }
        }
        load
    }

    fn add(&mut self, node: AgentId, record: &WorkloadRecord) {
        let load = self.nodes.entry(node).or_default();
        load.workloads = load.workloads.saturating_add(1);
        // Most documents name none and are not read for that.
        if !record.document.contains("gpu_count") {
            return;
        }
        let limits = limits_of(record);
        load.gpus = load.gpus.saturating_add(limits.required_gpus());
        if limits.gpu_policy == GpuPolicy::Preferred && limits.gpu_count > 0 {
            load.preferring.push(limits);
        }
    }

    fn count(&self, node: AgentId) -> usize {
        self.nodes.get(&node).map_or(0, |load| load.workloads)
    }

    /// What the node has too little of for a workload; processors and memory are compared with all that it has, GPUs with
    /// those that no other workload needs or, where it is not there yet, may hold. `None` where it has enough, or does not say
    /// what it has.
    fn lack(
        &self,
        node: AgentId,
        record: &WorkloadRecord,
        limits: &ResourceLimits,
        snapshot: &RegistrySnapshot,
    ) -> Option<Lack> {
        let inventory = snapshot.agents.get(&node)?.inventory.as_ref()?;
        if let Some(lack) = inventory.lacks(limits).or_else(|| unheld(inventory, record, limits)) {
            return Some(lack);
        }
        let wanted = limits.required_gpus();
        let is_there = record.node == Some(node);
        let used = self.nodes.get(&node).map_or(0, |load| {
            // The agent takes GPUs from nobody: one that needs some would never start behind one that prefers some.
            if is_there {
                load.gpus.saturating_sub(wanted)
            } else {
                load.gpus.saturating_add(load.preferred(inventory))
            }
        });
        let free = inventory.gpus.saturating_sub(used);
        (wanted > free).then_some(Lack::Gpus(wanted, free))
    }
}

/// Limits of a workload; those of a document that cannot be read, which no agent runs, are the usual ones.
fn limits_of(record: &WorkloadRecord) -> ResourceLimits {
    #[derive(serde::Deserialize)]
    struct OnlyLimits {
        #[serde(default)]
        limits: Option<ResourceLimits>,
    }
    let read = serde_json::from_str::<OnlyLimits>(&record.document);
    read.ok().and_then(|document| document.limits).unwrap_or_default()
}

/// What both of two versions need; the GPUs are those of the next one, since the other has its own already.
fn together(next: &ResourceLimits, serving: &ResourceLimits) -> ResourceLimits {
    ResourceLimits {
        cpu_millis: next.cpu_millis.saturating_add(serving.cpu_millis),
        memory_bytes: next.memory_bytes.saturating_add(serving.memory_bytes),
        ..*next
    }
}

/// The limit that a workload asks for and a machine does not hold. Engines hold those of containers.
fn unheld(inventory: &Inventory, record: &WorkloadRecord, limits: &ResourceLimits) -> Option<Lack> {
    #[derive(serde::Deserialize)]
    struct OnlyKind {
        source: Kind,
    }
    #[derive(serde::Deserialize)]
    struct Kind {
        #[serde(rename = "type")]
        name: String,
    }
    let lack = inventory.unheld(limits)?;
    let read = serde_json::from_str::<OnlyKind>(&record.document);
    let is_container = read.is_ok_and(|document| document.source.name == "container");
    (!is_container).then_some(lack)
}

/// Whether a node can run one of the replicas of a workload: it need not be here now.
fn runs_on(record: &WorkloadRecord, node: AgentId, snapshot: &RegistrySnapshot) -> bool {
    let Some(view) = snapshot.agents.get(&node) else { return false };
    let limits = limits_of(record);
    let has_enough = |inventory: &Arc<Inventory>| {
        inventory.lacks(&limits).is_none() && unheld(inventory, record, &limits).is_none()
    };
    view.runs_workloads && may_run(record, node) && view.inventory.as_ref().is_none_or(has_enough)
}

fn may_run(record: &WorkloadRecord, node: AgentId) -> bool {
    record.nodes.is_empty() || record.nodes.contains(&node)
}

/// Here is who can be told and can be reached: with a control stream and a tunnel that echoes.
fn is_here(node: AgentId, snapshot: &RegistrySnapshot) -> bool {
    snapshot.agents.get(&node).is_some_and(|view| view.connected && view.data_plane)
}

/// Whether its agent tells two versions of a service apart.
fn runs_two(node: AgentId, snapshot: &RegistrySnapshot) -> bool {
    let inventory = snapshot.agents.get(&node).and_then(|view| view.inventory.as_ref());
    inventory.is_some_and(|inventory| inventory.slots >= MAX_SLOTS)
}

/// The node with the fewest workloads of those that are here, run some and have enough, but for some; the first of equals.
fn best_node(
    record: &WorkloadRecord,
    snapshot: &RegistrySnapshot,
    load: &Load,
    except: &BTreeSet<AgentId>,
) -> Option<AgentId> {
    let limits = limits_of(record);
    let of = |node: &AgentId| (load.count(*node), *node);
    let runs = |node: &AgentId| snapshot.agents.get(node).is_some_and(|view| view.runs_workloads);
    let has_room = |node: &AgentId| is_here(*node, snapshot) && runs(node) && of(node).0 < MAX_PER_NODE;
    let fits = |node: &AgentId| {
        may_run(record, *node) && has_room(node) && Some(*node) != record.node && !except.contains(node)
    };
    let has_enough = |node: &AgentId| load.lack(*node, record, &limits, snapshot).is_none();
    snapshot.agents.keys().copied().filter(|node| fits(node) && has_enough(node)).min_by_key(of)
}
