//! A cloud that loses answers, lists late and makes machines twice, and a hub that is killed at every step: whatever
//! happens, in the end there are exactly the machines wanted, and nobody else's was touched.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use blueprint_common_types::{AgentId, HubId, Micros, Timestamp};

use super::*;
use crate::resource::Arch;
use crate::{Candidate, DeploymentId, ErrorClass, Instance, InstanceKey, InstanceState, Tags};

const HUB: HubId = HubId::from_bytes([1; 16]);
static NOBODY: crate::scaling::Leaving = crate::scaling::Leaving::new();
const OTHER: HubId = HubId::from_bytes([2; 16]);

/// A machine at its cloud.
#[derive(Debug, Clone)]
struct Machine {
    provider: &'static str,
    id: String,
    key: InstanceKey,
    hub: Option<HubId>,
    attempt: u32,
    /// Exists from here on, and is listed from there on.
    from: Timestamp,
    listed_from: Timestamp,
    /// Deleted, and listed until then.
    deleted: Option<Timestamp>,
    state: InstanceState,
    /// When its agent joins; `None` for one that never does.
    joins_at: Option<Timestamp>,
    agent: Option<AgentId>,
}

/// The hub was killed.
struct Killed;

struct World {
    seed: u64,
    dice: Dice,
    now: Timestamp,
    store: Records,
    agents: BTreeSet<AgentId>,
    cloud: Vec<Machine>,
    reconciler: Reconciler,
    /// False once everything goes well.
    faulty: bool,
    /// Whether a second call with the same key gives the machine of the first.
    has_request_keys: bool,
    /// Steps until the hub is killed.
    fuse: Option<u64>,
    made: u64,
    ids: u64,
    /// Machines whose deletion was accepted, which clouds may not have meant.
    accepted: BTreeSet<String>,
}

const CLOUDS: [&str; 2] = ["north", "south"];

fn offer(provider: &str, plan: &str) -> Candidate {
    Candidate {
        provider: provider.to_owned(),
        plan: plan.to_owned(),
        region: "here".to_owned(),
        spot: false,
        disk_gb: 8,
        arch: Arch::X86_64,
        hourly: Micros::new(5000),
        stopped_hourly: Micros::new(5000),
        egress: None,
    }
}

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

impl World {
    fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let has_request_keys = dice.percent(50);
        let mut world = Self {
            seed,
            dice,
            now: Timestamp::from_millis(1_000_000_000_000),
            store: Records::default(),
            agents: BTreeSet::new(),
            cloud: Vec::new(),
            reconciler: Reconciler::new(HUB, Settings::default()),
            faulty: true,
            has_request_keys,
            fuse: None,
            made: 0,
            ids: 0,
            accepted: BTreeSet::new(),
        };
        for (hub, key) in [(Some(OTHER), "bp-of-another-hub-1"), (None, "a-persons-own")] {
            world.stand(CLOUDS[0], key.parse().unwrap(), hub, Duration::ZERO, 1);
        }
        world
    }

    /// A machine that stands after `delay`.
    fn stand(
        &mut self,
        provider: &'static str,
        key: InstanceKey,
        hub: Option<HubId>,
        delay: Duration,
        attempt: u32,
    ) -> String {
        self.made += 1;
        let from = self.now.plus(delay);
        let (late, silent) = if self.faulty { (100, 25) } else { (0, 0) };
        let listed_from = from.plus(secs(self.dice.below(late + 1)));
        let joins_at = (!self.dice.percent(silent)).then(|| from.plus(secs(20 + self.dice.below(100))));
        let id = format!("{provider}-{}", self.made);
        let state = InstanceState::Running;
        let machine = Machine {
            provider,
            id: id.clone(),
            key,
            hub,
            from,
            listed_from,
            deleted: None,
            state,
            joins_at,
            agent: None,
            attempt,
        };
        self.cloud.push(machine);
        id
    }

    fn step(&mut self) -> Result<(), Killed> {
        let Some(fuse) = &mut self.fuse else { return Ok(()) };
        *fuse = fuse.saturating_sub(1);
        if *fuse == 0 { Err(Killed) } else { Ok(()) }
    }

    fn connected(&self) -> BTreeMap<AgentId, bool> {
        let is_on = |agent: &AgentId| {
            self.cloud.iter().any(|machine| {
                machine.agent == Some(*agent)
                    && machine.deleted.is_none()
                    && machine.state == InstanceState::Running
            })
        };
        self.agents.iter().map(|agent| (*agent, is_on(agent))).collect()
    }

    /// One pass of the hub, as the driver makes it; gives how many things were done.
    fn pass(&mut self) -> Result<usize, Killed> {
        let providers = CLOUDS.iter().map(|name| (*name).to_owned()).collect();
        let (store, agents) = (self.store.clone(), self.connected());
        let view = View {
            deployments: &store.deployments,
            records: &store.instances,
            leaving: &NOBODY,
            agents: &agents,
            is_clock_trusted: true,
            now: self.now,
        };
        let actions = self.reconciler.plan_deployments(&view, &providers);
        let mut done = self.run_all(actions)?;
        for provider in CLOUDS {
            let Some(listed) = self.list(provider) else { continue };
            let (store, agents) = (self.store.clone(), self.connected());
            let view =
                View { deployments: &store.deployments, records: &store.instances, agents: &agents, ..view };
            let actions = self.reconciler.plan_provider(provider, &listed, &view);
            done += self.run_all(actions)?;
        }
        Ok(done)
    }

    fn run_all(&mut self, actions: Vec<Action>) -> Result<usize, Killed> {
        let mut done = 0;
        for action in actions {
            if !matches!(action, Action::Report(_)) {
                done += 1;
            }
            self.run(action)?;
        }
        Ok(done)
    }

    fn save(&mut self, record: &Record) {
        if let (RecordState::Gone, Some(id)) = (record.state, &record.provider_id) {
            assert!(self.accepted.contains(id), "seed {}: gone without a deletion: {record:?}", self.seed);
        }
        let before = self.store.instances.get(&record.key);
        let (agent, agent_attempt) = before.map_or((None, 0), |before| (before.agent, before.agent_attempt));
        self.store.instances.insert(record.key.clone(), Record { agent, agent_attempt, ..record.clone() });
    }

    fn run(&mut self, action: Action) -> Result<(), Killed> {
        self.step()?;
        match action {
            Action::Expire { deployment } => {
                self.store.deployments.get_mut(&deployment).unwrap().wanted = Wanted::Gone;
            }
            Action::Save { record, .. } => self.save(&record),
            Action::Create { record, .. } => {
                self.save(&record);
                self.step()?;
                let answer = self.create(&record);
                self.step()?;
                if let Some(Action::Save { record, .. }) =
                    self.reconciler.handle_create(&record, &answer, self.now)
                {
                    self.save(&record);
                }
            }
            Action::Delete { record, provider_id, .. } => {
                self.save(&record);
                self.step()?;
                self.delete(&record.candidate.provider, &provider_id, Some(&record))?;
            }
            Action::Remove { provider, provider_id, .. } => self.delete(&provider, &provider_id, None)?,
            Action::Boot { provider_id, .. } => self.switch(&provider_id, InstanceState::Running),
            Action::Stop { provider_id, .. } => self.switch(&provider_id, InstanceState::Stopped),
            Action::Evict { agent, .. } => {
                self.agents.remove(&agent);
            }
            Action::Report(_) => {}
        }
        self.step()
    }

    fn list(&mut self, provider: &str) -> Option<Vec<Instance>> {
        if self.faulty && self.dice.percent(10) {
            return None;
        }
        let mut listed = Vec::new();
        for machine in self.cloud.clone() {
            let is_there =
                machine.listed_from <= self.now && machine.deleted.is_none_or(|until| until > self.now);
            let is_left_out = self.faulty && self.dice.percent(3);
            if machine.provider == provider && is_there && !is_left_out {
                let deployment = DeploymentId::from_bytes([0; 10]);
                listed.push(Instance {
                    key: machine.key,
                    provider_id: machine.id,
                    tags: machine.hub.map(|hub| Tags { hub, deployment, attempt: machine.attempt }),
                    state: machine.state,
                    created_at: machine.from,
                });
            }
        }
        Some(listed)
    }

    fn create(&mut self, record: &Record) -> CreateAnswer {
        let provider = if record.candidate.provider == CLOUDS[0] { CLOUDS[0] } else { CLOUDS[1] };
        let failed = |class| CreateAnswer::Failed { class, reason: class.label().to_owned() };
        let mut delay = Duration::ZERO;
        let mut is_lost = false;
        let mut refused = None;
        if self.faulty {
            match self.dice.below(20) {
                0 | 1 => return failed(ErrorClass::Capacity),
                2 => return failed(ErrorClass::Quota),
                3 => return failed(ErrorClass::Throttle),
                // It says that nothing was done, and makes one all the same.
                9 => refused = Some(ErrorClass::Throttle),
                4 => return failed(ErrorClass::Deny),
                5 => return failed(ErrorClass::Unknown),
                6 | 7 => is_lost = true,
                8 => (is_lost, delay) = (true, secs(self.dice.below(300))),
                _ => {}
            }
        }
        // A request key is its account's and compared with all that was asked, tags too.
        let same = |machine: &&Machine| {
            machine.key == record.key && machine.hub == Some(HUB) && machine.deleted.is_none()
        };
        let known = self.cloud.iter().find(same).map(|machine| machine.id.clone());
        let id = match known {
            Some(id) if self.has_request_keys => id,
            Some(_) | None => self.stand(provider, record.key.clone(), Some(HUB), delay, record.attempt),
        };
        match refused.or(is_lost.then_some(ErrorClass::Unknown)) {
            Some(class) => failed(class),
            None => CreateAnswer::Made(id),
        }
    }

    fn delete(&mut self, provider: &str, id: &str, record: Option<&Record>) -> Result<(), Killed> {
        let (fails, lies) = if self.faulty { (20, 10) } else { (0, 0) };
        if self.dice.percent(fails) {
            return Ok(());
        }
        self.accepted.insert(id.to_owned());
        if !self.dice.percent(lies) {
            self.end(id);
        }
        self.step()?;
        if let Some(Action::Save { record, .. }) =
            self.reconciler.handle_delete(provider, id, record, self.now)
        {
            self.save(&record);
        }
        Ok(())
    }

    fn end(&mut self, id: &str) {
        let shown = if self.faulty { self.dice.below(60) } else { 0 };
        let until = self.now.plus(secs(shown));
        let seed = self.seed;
        let machine = self.cloud.iter_mut().find(|machine| machine.id == id).unwrap();
        assert_eq!(machine.hub, Some(HUB), "seed {seed}: somebody else's machine was deleted");
        machine.deleted.get_or_insert(until);
    }

    fn switch(&mut self, id: &str, state: InstanceState) {
        if self.faulty && self.dice.percent(20) {
            return;
        }
        let machine = self.cloud.iter_mut().find(|machine| machine.id == id).unwrap();
        assert_eq!(machine.hub, Some(HUB));
        machine.state = state;
    }

    /// Agents join whose time has come, as far as the store lets them.
    fn join(&mut self) {
        for machine in &mut self.cloud {
            let is_up = machine.deleted.is_none()
                && machine.from <= self.now
                && machine.state == InstanceState::Running;
            let is_time = machine.joins_at.is_some_and(|at| at <= self.now);
            let Some(record) = self.store.instances.get_mut(&machine.key) else { continue };
            let may = machine.hub == Some(HUB) && record.agent.is_none() && record.state.may_join();
            if is_up && is_time && may && machine.agent.is_none() {
                self.ids += 1;
                let agent = AgentId::from_bytes(u128::from(self.ids).to_be_bytes());
                record.agent = Some(agent);
                record.agent_attempt = machine.attempt;
                machine.agent = Some(agent);
                self.agents.insert(agent);
            }
        }
    }

    fn deploy(&mut self) {
        self.ids += 1;
        let mut bytes = [0; 10];
        bytes[2..].copy_from_slice(&self.ids.to_be_bytes());
        let id = DeploymentId::from_bytes(bytes);
        let deployment = Deployment {
            id: id.clone(),
            name: String::new(),
            request_key: id.to_string(),
            asked: String::new(),
            replicas: u32::try_from(1 + self.dice.below(3)).unwrap(),
            plan: vec![offer("north", "small"), offer("south", "small"), offer("north", "large")],
            spread: Spread::None,
            service: None,
            wanted: Wanted::Running,
            created_at: self.now,
            expires_at: self.dice.percent(30).then(|| self.now.plus(secs(self.dice.below(3600)))),
            changed_at: self.now,
        };
        // Another hub has a machine by the name that one of this deployment will have.
        if self.dice.percent(30) {
            self.stand(CLOUDS[1], InstanceKey::of(&id, 1), Some(OTHER), Duration::ZERO, 1);
        }
        self.store.deployments.insert(id, deployment);
    }

    fn one_of(&mut self, count: usize) -> usize {
        usize::try_from(self.dice.below(u64::try_from(count).unwrap())).unwrap()
    }

    /// Something that happens to the hub or its machines.
    fn happen(&mut self) {
        let deployments: Vec<_> = self.store.deployments.keys().cloned().collect();
        let one = self.one_of(deployments.len());
        let wanted = |world: &mut Self, wanted| {
            if let Some(it) = deployments.get(one).and_then(|id| world.store.deployments.get_mut(id))
                && it.wanted != Wanted::Gone
            {
                it.wanted = wanted;
            }
        };
        let some = self.one_of(self.cloud.len());
        match self.dice.below(24) {
            0 | 1 if deployments.len() < 4 => self.deploy(),
            2 => wanted(self, Wanted::Gone),
            3 => wanted(self, Wanted::Stopped),
            4 | 5 => wanted(self, Wanted::Running),
            6 => {
                let key = format!("bp-orphan-{}", self.made).parse().unwrap();
                self.stand(CLOUDS[1], key, Some(HUB), Duration::ZERO, 1);
            }
            7 if self.cloud[some].hub == Some(HUB) => self.cloud[some].deleted = Some(self.now),
            8 if self.cloud[some].hub == Some(HUB) => {
                self.cloud[some].state = InstanceState::Failed { reason: "out of memory".to_owned() };
            }
            9 => {
                if let Some(agent) = self.cloud[some].agent {
                    self.agents.remove(&agent);
                }
            }
            _ => {}
        }
    }

    /// True where there are exactly the machines wanted, each with an agent where it is to run.
    fn check(&self) -> Result<(), String> {
        let mut expected = BTreeSet::new();
        for deployment in self.store.deployments.values() {
            let of = |record: &&Record| record.deployment == deployment.id && !record.state.is_ended();
            let records: Vec<_> = self.store.instances.values().filter(of).collect();
            let count = match deployment.wanted {
                Wanted::Running => usize::try_from(deployment.replicas).unwrap(),
                Wanted::Gone => 0,
                Wanted::Stopped => records.len(),
            };
            if records.len() != count {
                return Err(format!("{} records for {deployment:?}", records.len()));
            }
            for record in records {
                if record.state == RecordState::Planned && deployment.wanted == Wanted::Stopped {
                    continue;
                }
                if record.state != RecordState::Active && deployment.wanted == Wanted::Running {
                    return Err(format!("not active: {record:?}"));
                }
                let is_unsure = matches!(record.state, RecordState::Calling);
                if !(is_unsure && deployment.wanted == Wanted::Stopped) {
                    expected.insert(record.provider_id.clone().ok_or(format!("no id: {record:?}"))?);
                }
            }
        }
        let there = |machine: &&Machine| machine.deleted.is_none() && machine.hub == Some(HUB);
        let found: BTreeSet<_> = self.cloud.iter().filter(there).map(|machine| machine.id.clone()).collect();
        if found != expected {
            return Err(format!("wanted {expected:?}, found {found:?}"));
        }
        for machine in self.cloud.iter().filter(there) {
            let record = &self.store.instances[&machine.key];
            let wanted = self.store.deployments[&record.deployment].wanted;
            if (wanted == Wanted::Running) != (machine.state == InstanceState::Running) {
                return Err(format!("{wanted}, but {machine:?}"));
            }
            if wanted == Wanted::Running && (machine.agent.is_none() || machine.agent != record.agent) {
                return Err(format!("another agent: {machine:?} {record:?}"));
            }
        }
        let known: BTreeSet<_> = self
            .store
            .instances
            .values()
            .filter(|it| !it.state.is_ended())
            .filter_map(|it| it.agent)
            .collect();
        if let Some(agent) = self.agents.iter().find(|agent| !known.contains(agent)) {
            return Err(format!("node {agent} was forgotten"));
        }
        Ok(())
    }
}

/// One history from one seed.
fn history(seed: u64) {
    let mut world = World::new(seed);
    world.deploy();
    for _ in 0..60 {
        world.now = world.now.plus(secs(1 + world.dice.below(90)));
        world.happen();
        world.join();
        world.fuse = world.dice.percent(40).then(|| 1 + world.dice.below(12));
        if world.pass().is_err() {
            world.reconciler = Reconciler::new(HUB, Settings::default());
        }
    }
    (world.faulty, world.fuse) = (false, None);
    let mut quiet = 0;
    let mut passes = 0;
    while quiet < 2 {
        world.now = world.now.plus(secs(60));
        world.join();
        let done = world.pass().ok().unwrap();
        quiet = if done == 0 && world.check().is_ok() { quiet + 1 } else { 0 };
        passes += 1;
        assert!(passes < 300, "seed {seed}: {:?}\n{:#?}", world.check(), world.reconciler.alarms());
    }
    for machine in world.cloud.iter().filter(|machine| machine.hub != Some(HUB)) {
        assert_eq!(machine.deleted, None, "seed {seed}");
    }
}

#[test]
fn whatever_happens_there_are_exactly_the_machines_wanted_in_the_end() {
    for seed in 0..1500 {
        history(seed);
    }
}
