//! Updates of workloads: what the core says is stored first, then it is so.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use blueprint_common_types::workload::{RecoveryKind, WorkloadSpec, WorkloadState, WorkloadStatus};
use blueprint_common_types::{AgentId, Health, ServiceKey, Timestamp};
use blueprint_hub_registry_core::workload::{
    Advance, NewUpdate, Phase, Shares, Side, Sight, Strategy, Tally, Update, UpdateError, UpdateRequest,
    UpdateView, WorkloadRecord,
};
use blueprint_hub_registry_core::{
    RegistrySnapshot, StoreResult, TargetRecord, WHOLE, Weights, knows_no_runs,
};
use tracing::{error, info, warn};

use super::{Workloads, lease_of};

impl Workloads {
    /// Stores a new version and has it started; refuses what cannot be done without loss.
    pub(super) async fn begin_update(
        &mut self,
        request: UpdateRequest,
    ) -> Result<WorkloadRecord, UpdateError> {
        let service = request.service;
        let record = self.assigner.get(service).cloned().ok_or(UpdateError::NotFound(service))?;
        if lease_of(&record).is_some() {
            return Err(UpdateError::Leased(service));
        }
        if let Some(update) = self.updates.get(service) {
            return Err(UpdateError::Running { service, doing: update.doing() });
        }
        if request.replaces.is_some_and(|generation| generation != record.generation) {
            return Err(UpdateError::Conflict);
        }
        let snapshot = self.registrar.snapshot();
        let needs_target = self.assigner.serving(service).any(|run| target_of(run, &snapshot).is_some());
        let (place, replicas) = if self.assigner.has_replicas(service) {
            self.place_replicas(&record, &request, &snapshot)?
        } else {
            let place = match request.plan.strategy {
                Strategy::Recreate => None,
                Strategy::Rolling | Strategy::BlueGreen | Strategy::Canary => {
                    Some(self.place_next(&record, &request, &snapshot)?)
                }
            };
            (place, Vec::new())
        };
        let now = SystemTime::now().into();
        let new = NewUpdate {
            service,
            replaces: record.generation,
            document: request.document,
            nodes: request.nodes,
            keystore: request.keystore,
            repeats: request.repeats,
            plan: request.plan,
            place,
            replicas,
            needs_target,
            by: request.by,
            now,
        };
        let stored = self.store.begin_update(new).await?.ok_or(UpdateError::Conflict)?;
        let Update { from, to, .. } = stored.update;
        let strategy = stored.update.plan.strategy.label();
        info!(target: "audit", %service, from, to, strategy, "update begins");
        self.assigner.set(stored.record.clone());
        self.assigner.spread(&snapshot);
        if let Some(next) = stored.next {
            self.assigner.set_next(&next, stored.update.next_nodes());
        }
        self.updates.set(stored.update, now);
        self.trim_versions().await;
        self.journal.count_update("started");
        self.place(&snapshot).await;
        self.publish().await;
        Ok(self.assigner.get(service).map_or(stored.record, |record| (**record).clone()))
    }

    /// Throws versions away that are too many, and says which; what the store does not take is tried again with the next one.
    pub(super) async fn trim_versions(&self) {
        match self.store.trim_versions(self.keep_versions, SystemTime::now().into()).await {
            Ok(gone) => {
                for (service, versions) in gone {
                    let keep = self.keep_versions;
                    info!(target: "audit", %service, ?versions, keep, "old versions are thrown away");
                }
            }
            Err(error) => error!(%error, "old versions of workloads are not thrown away"),
        }
    }

    /// Where the next version runs beside the one that serves, of a service that has replicas: the first of them, and all.
    fn place_replicas(
        &self,
        record: &WorkloadRecord,
        request: &UpdateRequest,
        snapshot: &RegistrySnapshot,
    ) -> Result<Places, UpdateError> {
        let service = record.service;
        let runs = self.assigner.serving(service).filter(|run| {
            let status = run.node.and_then(|node| self.status_of(run, node));
            status.is_some_and(|status| status.state == WorkloadState::Running)
        });
        let running: Vec<AgentId> = runs.filter_map(|run| run.node).collect();
        if request.plan.strategy == Strategy::Recreate {
            // What does not run now is no reason to wait for it; where none runs, all are to.
            let all = || self.assigner.serving(service).filter_map(|run| run.node).collect();
            let replicas: Vec<AgentId> = if running.is_empty() { all() } else { running };
            return if replicas.is_empty() {
                Err(UpdateError::NoReplica(service))
            } else {
                Ok((None, replicas))
            };
        }
        if is_exclusive(&record.document) || is_exclusive(&request.document) {
            return Err(UpdateError::Exclusive(service));
        }
        if running.is_empty() {
            return Err(UpdateError::NoReplica(service));
        }
        let next = WorkloadRecord {
            document: request.document.clone(),
            nodes: request.nodes.clone(),
            ..record.clone()
        };
        let drained = self.traffic.drained(service);
        let (nodes, slot) = self
            .assigner
            .place_beside_replicas(&next, &running, &drained, snapshot)
            .map_err(UpdateError::NoPlace)?;
        let first = *nodes.first().ok_or(UpdateError::NoReplica(service))?;
        Ok((Some((first, slot)), nodes))
    }

    /// What the node of a run that serves says of it.
    fn status_of(&self, run: &WorkloadRecord, node: AgentId) -> Option<&WorkloadStatus> {
        let own = self.statuses.get(&run.service).filter(|(from, _)| *from == node).map(|(_, status)| status);
        own.or_else(|| self.copy_statuses.get(&(run.service, node)))
            .filter(|status| status.generation == run.generation)
    }

    /// Where the next version runs beside the one that serves.
    fn place_next(
        &self,
        record: &WorkloadRecord,
        request: &UpdateRequest,
        snapshot: &RegistrySnapshot,
    ) -> Result<(AgentId, u8), UpdateError> {
        if is_exclusive(&record.document) || is_exclusive(&request.document) {
            return Err(UpdateError::Exclusive(record.service));
        }
        let state = self.statuses.get(&record.service).map(|(_, status)| status.state);
        if state != Some(WorkloadState::Running) {
            let state = state.map_or("not known to run", WorkloadState::label);
            let text = format!("version {} is {state}, so there is nothing to keep up", record.version);
            return Err(UpdateError::NoPlace(text));
        }
        let next = WorkloadRecord {
            document: request.document.clone(),
            nodes: request.nodes.clone(),
            ..record.clone()
        };
        let drained = self.traffic.drained(record.service);
        self.assigner.place_beside(&next, &drained, snapshot).map_err(UpdateError::NoPlace)
    }

    /// The operator wants it taken back.
    pub(super) async fn abort(&mut self, service: ServiceKey) -> Result<(), UpdateError> {
        let now = Timestamp::from(SystemTime::now());
        let advance = self.updates.abort(service, now).ok_or(UpdateError::NotRunning(service))?;
        let snapshot = self.registrar.snapshot();
        self.advance(service, advance, &snapshot, now).await?;
        self.publish().await;
        Ok(())
    }

    /// Looks at every update that is under way.
    pub(super) async fn look_at_updates(&mut self, snapshot: &RegistrySnapshot) {
        let now = Timestamp::from(SystemTime::now());
        let services: Vec<_> = self.updates.iter().map(|update| update.service).collect();
        for service in services {
            let Some(sight) = self.sight(service, snapshot) else { continue };
            let Some(advance) = self.updates.look(service, &sight, now) else { continue };
            match self.advance(service, advance, snapshot, now).await {
                Ok(()) => self.publish().await,
                // It is looked at again in a second.
                Err(error) => error!(%service, %error, "the next phase of an update is not stored"),
            }
        }
    }

    /// Stores what is to happen; then it is so.
    async fn advance(
        &mut self,
        service: ServiceKey,
        advance: Advance,
        snapshot: &RegistrySnapshot,
        now: Timestamp,
    ) -> StoreResult<()> {
        match advance {
            Advance::Enter(update) => {
                self.store.save_update(update.clone()).await?;
                let before = self.updates.get(service).map(|before| before.phase);
                if update.is_covered {
                    self.journal.count_update("covered");
                } else if before != Some(update.phase) {
                    self.count_phase(&update, before);
                }
                if update.is_covered {
                    let Update { from, to, .. } = update;
                    warn!(%service, from, to, "the old version of an update cannot serve: the next one gets its requests");
                } else if update.phase == Phase::Back {
                    warn!(%service, to = update.to, reason = update.reason, "an update goes back");
                } else {
                    info!(%service, to = update.to, phase = update.phase_label(), "an update goes on");
                }
                let first = self.assigner.next(service).first().cloned();
                if let Some(first) = first {
                    self.assigner.set_next(&first, update.next_nodes());
                }
                self.updates.set(update, now);
            }
            Advance::Finish => {
                self.journal.count_update("through");
                if let Some(record) = self.store.finish_update(service, now).await? {
                    info!(target: "audit", %service, version = record.version, "update is through");
                    self.take_statuses(&record);
                    self.assigner.set(record);
                }
                self.end_update(service);
                // The other replicas go on with the seat that they have.
                self.assigner.spread(snapshot);
                // What it went back to was spared, and may be too many now.
                self.trim_versions().await;
            }
            Advance::TakeBack(reason) => {
                if let Some(update) = self.updates.get(service).filter(|update| update.phase != Phase::Back) {
                    self.journal.count_update(back_label(update, update.phase));
                }
                if let Some(record) = self.store.take_back_update(service, reason.clone(), now).await? {
                    warn!(target: "audit", %service, version = record.version, reason, "update taken back");
                    self.assigner.set(record);
                }
                self.end_update(service);
                self.assigner.spread(snapshot);
            }
        }
        Ok(())
    }

    /// What nodes said of the next version is said of the one that serves from now on.
    fn take_statuses(&mut self, record: &WorkloadRecord) {
        let service = record.service;
        let own = self.next_statuses.extract_if(.., |(of, _), _| *of == service).collect::<Vec<_>>();
        for ((_, node), status) in own {
            if record.node == Some(node) {
                self.assigner.hear(&status);
                self.statuses.insert(service, (node, status));
            } else {
                self.copy_statuses.insert((service, node), status);
            }
        }
    }

    fn count_phase(&self, update: &Update, before: Option<Phase>) {
        match update.phase {
            Phase::Moved => self.journal.count_update("moved"),
            Phase::Back => self.journal.count_update(back_label(update, before.unwrap_or(Phase::Back))),
            Phase::Starting | Phase::Proving | Phase::Step(_) => {}
        }
    }

    fn end_update(&mut self, service: ServiceKey) {
        self.assigner.remove_next(service);
        self.updates.remove(service);
    }

    /// What is seen of both versions; `None` where the workload is gone.
    fn sight(&self, service: ServiceKey, snapshot: &RegistrySnapshot) -> Option<Sight> {
        let update = self.updates.get(service)?;
        self.assigner.get(service)?;
        let serving = self.assigner.serving(service).map(|run| {
            let status = run.node.and_then(|node| self.status_of(run, node));
            (run.node, self.side(run, status, snapshot))
        });
        let named = |node: Option<AgentId>| {
            if update.replicas.is_empty() { String::new() } else { name_of(node, snapshot) }
        };
        if update.is_recreate() {
            // There is one version at a time.
            let is_covered = |node: Option<AgentId>| {
                update.replicas.is_empty() || node.is_some_and(|node| update.replicas.contains(&node))
            };
            let own = serving.filter(|(node, _)| is_covered(*node));
            let next = own.map(|(node, side)| (named(node), side)).collect();
            let next = Side { is_drained: false, ..Side::all_of(next) };
            return Some(Sight { next, ..Sight::default() });
        }
        let old = Side::any_of(serving.map(|(_, side)| side).collect());
        let runs = self.assigner.next(service);
        runs.first()?;
        let mut sides: Vec<_> = runs
            .iter()
            .map(|run| {
                let status = run.node.and_then(|node| self.next_statuses.get(&(service, node)));
                (named(run.node), self.side(run, status, snapshot))
            })
            .collect();
        let is_on_the_way = matches!(update.phase, Phase::Starting | Phase::Proving) && update.is_in_turn();
        if !is_on_the_way || update.rolled == 0 {
            return Some(Sight { old, next: Side::all_of(sides), served: None });
        }
        let current = sides.split_off(update.rolled.min(sides.len()));
        Some(Sight { old, next: Side::all_of(current), served: Some(Side::all_of(sides)) })
    }

    fn side(
        &self,
        record: &WorkloadRecord,
        status: Option<&WorkloadStatus>,
        snapshot: &RegistrySnapshot,
    ) -> Side {
        let node = record.node.and_then(|node| snapshot.agents.get(&node));
        let target = target_of(record, snapshot);
        let tally =
            target.map_or_else(Tally::default, |target| self.traffic.at(record.service, target.address));
        Side {
            on: String::new(),
            is_here: node.is_some_and(|view| view.connected && view.data_plane),
            state: status.map(|status| status.state),
            reason: status.map(reason_of).unwrap_or_default(),
            asks_move: status.filter(|status| status.asks_move).map(reason_of),
            restarts: status.map_or(0, |status| status.restarts),
            other_restarts: 0,
            is_spared: false,
            target: target.map(|target| (target.health, target.reason.clone())),
            tally,
            is_drained: record.node.is_some_and(|node| self.traffic.drained(record.service).contains(&node)),
        }
    }

    /// How requests are shared: what is assigned gets them, and nothing that is on its way to its end.
    pub(super) fn weights(&self) -> Weights {
        let mut weights = Weights::new();
        for record in self.assigner.records() {
            let runs = record.node.map(|node| ((node, record.generation), WHOLE));
            weights.insert(record.service, runs.into_iter().collect());
        }
        for copy in self.assigner.copies() {
            let runs = copy.node.map(|node| ((node, copy.generation), WHOLE));
            weights.entry(copy.service).or_default().extend(runs);
        }
        for update in self.updates.iter() {
            let next = self.assigner.next(update.service);
            if next.is_empty() {
                continue;
            }
            let parts = |node: AgentId| update.shares_at(node).unwrap_or(Shares { old: WHOLE, next: 0 });
            let old = self.assigner.serving(update.service);
            let old = old.filter_map(|run| Some(((run.node?, run.generation), parts(run.node?).old)));
            let next =
                next.iter().filter_map(|run| Some(((run.node?, run.generation), parts(run.node?).next)));
            let runs: BTreeMap<_, _> = old.chain(next).collect();
            weights.insert(update.service, runs);
        }
        weights
    }

    pub(super) fn view_of(&self, update: &Update) -> UpdateView {
        let next = self.assigner.next(update.service).iter().map(|run| {
            let status = run.node.and_then(|node| self.next_statuses.get(&(update.service, node)));
            (Arc::clone(run), status.cloned())
        });
        UpdateView { update: update.clone(), next: next.collect() }
    }
}

fn is_exclusive(document: &str) -> bool {
    serde_json::from_str::<WorkloadSpec>(document).is_ok_and(|spec| spec.exclusive_data)
}

fn name_of(node: Option<AgentId>, snapshot: &RegistrySnapshot) -> String {
    let view = node.and_then(|node| snapshot.agents.get(&node));
    view.map(|view| view.agent.name.clone()).or_else(|| Some(node?.to_string())).unwrap_or_default()
}

/// Where the first replica of a next version runs and its instance, `None` by `recreate`; and all that are covered.
type Places = (Option<(AgentId, u8)>, Vec<AgentId>);

/// Name of the way back of an update that was in this phase.
const fn back_label(update: &Update, before: Phase) -> &'static str {
    if update.is_aborted {
        return "aborted";
    }
    match before {
        Phase::Starting => "back_starting",
        Phase::Proving => "back_proving",
        Phase::Step(_) => "back_canary",
        Phase::Moved | Phase::Back => "back_moved",
    }
}

/// Why it is not well, as its node says; where it says nothing now, what its last step of recovery was for.
fn reason_of(status: &WorkloadStatus) -> String {
    let step = status.steps.iter().rev().find(|step| step.kind != RecoveryKind::Settled);
    match step {
        Some(step) if status.reason.is_empty() => step.reason.clone(),
        Some(_) | None => status.reason.clone(),
    }
}

/// The target that a run of a workload offers.
fn target_of<'a>(record: &WorkloadRecord, snapshot: &'a RegistrySnapshot) -> Option<&'a TargetRecord> {
    let view = record.node.and_then(|node| snapshot.agents.get(&node));
    // An agent of an earlier version does not say of which run a target is; it has one at a time.
    let is_old = view.is_some_and(|view| knows_no_runs(view.inventory.as_deref()));
    let is_of =
        |target: &TargetRecord| target.generation == record.generation || (is_old && target.generation == 0);
    let mut own = snapshot
        .targets_of(record.service)
        .filter(|target| Some(target.key.agent) == record.node && is_of(target));
    // The registry gives the part of a run to one of its targets.
    let first = own.next()?;
    Some(std::iter::once(first).chain(own).find(|target| target.health == Health::Healthy).unwrap_or(first))
}
