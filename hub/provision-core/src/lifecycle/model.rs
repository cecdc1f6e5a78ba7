//! A cloud that loses answers, lists late and makes machines twice, and a hub that is killed at every step: whatever
//! happens, in the end there are exactly the machines wanted, and nobody else's was touched.

mod check;
mod cloud;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use blueprint_common_types::{AgentId, HubId, Micros, Timestamp};

use self::cloud::Machine;
use super::*;
use crate::resource::Arch;
use crate::{Candidate, DeploymentId, ErrorClass, Instance, InstanceKey, InstanceState, Tags};

const HUB: HubId = HubId::from_bytes([1; 16]);
static NOBODY: crate::scaling::Leaving = crate::scaling::Leaving::new();
const OTHER: HubId = HubId::from_bytes([2; 16]);

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
