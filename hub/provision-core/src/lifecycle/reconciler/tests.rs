//! One decision at a time; `lifecycle/model.rs` tries their combinations.

mod calls;
mod ends;

use blueprint_common_types::Micros;

use super::*;
use crate::lifecycle::{RecordState, Records, Spread, Wanted};
use crate::resource::Arch;
use crate::scaling::{DrainMark, is_replacing};
use crate::{Candidate, ErrorClass, Instance, InstanceState, Tags};

const HUB: HubId = HubId::from_bytes([1; 16]);
const MINUTE: Duration = Duration::from_secs(60);

/// A hub with one provider, `sim`, and one deployment of one machine.
struct Sim {
    now: Timestamp,
    reconciler: Reconciler,
    deployments: BTreeMap<DeploymentId, Deployment>,
    records: BTreeMap<InstanceKey, Record>,
    leaving: Leaving,
    agents: BTreeMap<AgentId, bool>,
    listed: Vec<Instance>,
    is_clock_trusted: bool,
}

fn offer(plan: &str) -> Candidate {
    Candidate {
        provider: "sim".to_owned(),
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

/// A deployment of one machine for two hours.
pub(crate) fn deployment() -> Deployment {
    let now = Timestamp::from_millis(1_000_000_000_000);
    Deployment {
        id: DeploymentId::from_bytes([0; 10]),
        name: "demo".to_owned(),
        request_key: "key".to_owned(),
        asked: String::new(),
        replicas: 1,
        plan: vec![offer("small"), offer("large")],
        spread: Spread::None,
        service: None,
        wanted: Wanted::Running,
        created_at: now,
        expires_at: Some(now.plus(MINUTE * 120)),
        changed_at: now,
    }
}

/// Machine number `number` of that deployment, as it is planned.
pub(crate) fn record(number: u32) -> Record {
    let now = Timestamp::from_millis(1_000_000_000_000);
    Record {
        key: Sim::key(number),
        deployment: DeploymentId::from_bytes([0; 10]),
        number,
        candidate: offer("small"),
        state: RecordState::Planned,
        attempt: 0,
        created_at: now,
        since: now,
        called_at: None,
        made_at: None,
        is_off: false,
        switched_at: None,
        deleted_at: None,
        provider_id: None,
        agent: None,
        agent_attempt: 0,
        reason: String::new(),
    }
}

impl Sim {
    fn new() -> Self {
        let id = DeploymentId::from_bytes([0; 10]);
        let now = Timestamp::from_millis(1_000_000_000_000);
        let deployment = deployment();
        Self {
            now,
            reconciler: Reconciler::new(HUB, Settings::default()),
            deployments: BTreeMap::from([(id, deployment)]),
            records: BTreeMap::new(),
            leaving: Leaving::new(),
            agents: BTreeMap::new(),
            listed: Vec::new(),
            is_clock_trusted: true,
        }
    }

    /// The cloud accepts that a machine be deleted.
    fn accept(&mut self, key: &InstanceKey) {
        let (id, record) = (format!("sim/{key}"), self.records.get(key).cloned());
        let saved = self.reconciler.handle_delete("sim", &id, record.as_ref(), self.now);
        if let Some(Action::Save { record, .. }) = saved {
            self.records.insert(key.clone(), record);
        }
    }

    fn key(number: u32) -> InstanceKey {
        InstanceKey::of(&DeploymentId::from_bytes([0; 10]), number)
    }

    fn pass(&mut self) -> Vec<Action> {
        let view = View {
            deployments: &self.deployments,
            records: &self.records,
            leaving: &self.leaving,
            agents: &self.agents,
            is_clock_trusted: self.is_clock_trusted,
            now: self.now,
        };
        let providers = std::iter::once("sim".to_owned()).collect();
        let mut actions = self.reconciler.plan_deployments(&view, &providers);
        actions.extend(self.reconciler.plan_provider("sim", &self.listed, &view));
        for action in &actions {
            if let Action::Save { record, .. }
            | Action::Create { record, .. }
            | Action::Delete { record, .. } = action
            {
                self.records.insert(record.key.clone(), record.clone());
            }
        }
        actions
    }

    fn later(&mut self, time: Duration) -> Vec<(&'static str, Why)> {
        self.now = self.now.plus(time);
        self.pass().iter().map(|action| (action.label(), action.why())).collect()
    }

    /// Orders the machine, and gives its record.
    fn order(&mut self) -> Record {
        assert_eq!(self.later(Duration::ZERO), [("save", Why::Missing)]);
        let action = self.pass().pop().unwrap();
        let Action::Create { record, .. } = action else { panic!("{action:?}") };
        record
    }

    fn list(&mut self, key: &InstanceKey, hub: HubId) -> &mut Instance {
        let tags = Tags { hub, deployment: DeploymentId::from_bytes([0; 10]), attempt: 1 };
        self.listed.push(Instance {
            key: key.clone(),
            provider_id: format!("sim/{key}"),
            tags: Some(tags),
            state: InstanceState::Running,
            created_at: self.now,
        });
        self.listed.last_mut().unwrap()
    }

    /// A machine that stands and has joined.
    fn active(&mut self) -> InstanceKey {
        let record = self.order();
        let answer = CreateAnswer::Made(format!("sim/{}", record.key));
        let Some(Action::Save { mut record, .. }) = self.reconciler.handle_create(&record, &answer, self.now)
        else {
            panic!("nothing to store");
        };
        let agent = AgentId::from_bytes([7; 16]);
        (record.agent, record.agent_attempt) = (Some(agent), 1);
        self.agents.insert(agent, true);
        let key = record.key.clone();
        self.records.insert(key.clone(), record);
        self.list(&key, HUB);
        assert_eq!(self.later(MINUTE), [("save", Why::Joined)]);
        key
    }
}

/// The machine of the first call stands, the second was refused, and it joins by what its cloud says of it.
#[test]
fn a_machine_that_joined_by_its_clouds_word_is_kept_whichever_call_made_it() {
    let mut sim = Sim::new();
    let mut record = sim.order();
    record.attempt = 2;
    sim.list(&record.key, HUB);
    sim.records.insert(record.key.clone(), record.clone());
    assert_eq!(sim.later(MINUTE), [("save", Why::Found)]);
    let agent = AgentId::from_bytes([7; 16]);
    let bound = sim.records.get_mut(&record.key).unwrap();
    (bound.agent, bound.agent_attempt) = (Some(agent), 0);
    sim.agents.insert(agent, true);
    assert_eq!(sim.later(MINUTE), [("save", Why::Joined)]);
    // One that came later, of the call that the record counts, is the one to go.
    let late = sim.list(&record.key, HUB);
    late.provider_id.push_str("-2");
    late.tags.as_mut().unwrap().attempt = 2;
    let actions = sim.pass();
    let [Action::Remove { provider_id, why: Why::Duplicate, .. }] = actions.as_slice() else {
        panic!("{actions:?}");
    };
    assert_eq!(*provider_id, format!("sim/{}-2", record.key));
}

#[test]
fn a_machine_that_does_not_join_in_time_is_replaced_by_the_next_of_the_plan() {
    let mut sim = Sim::new();
    let record = sim.order();
    sim.list(&record.key, HUB);
    assert_eq!(sim.later(MINUTE), [("save", Why::Found)]);
    assert_eq!(sim.later(MINUTE * 15), []);
    sim.is_clock_trusted = false;
    assert_eq!(sim.later(MINUTE), [], "not by a clock that was set");
    sim.is_clock_trusted = true;
    assert_eq!(sim.later(Duration::ZERO), [("delete", Why::Late)]);
    assert!(sim.later(Duration::ZERO).contains(&("save", Why::Missing)));
    assert_eq!(sim.records[&Sim::key(2)].candidate.plan, "large");
}

#[test]
fn a_machine_that_answers_is_not_lost_because_a_list_leaves_it_out() {
    let mut sim = Sim::new();
    sim.active();
    sim.listed.clear();
    assert_eq!(sim.later(MINUTE * 2), []);
    assert_eq!(sim.later(MINUTE), [("report", Why::Unlisted)]);
    sim.agents.values_mut().for_each(|connected| *connected = false);
    assert_eq!(sim.later(MINUTE), [("save", Why::Unlisted)]);
    assert_eq!(sim.records[&Sim::key(1)].state, RecordState::Lost);
    assert_eq!(sim.later(MINUTE)[..2], [("evict", Why::Doomed), ("save", Why::Missing)]);
}

#[test]
fn what_is_wanted_stopped_is_switched_off_and_on_again() {
    let mut sim = Sim::new();
    sim.active();
    let want = |sim: &mut Sim, wanted| sim.deployments.values_mut().for_each(|it| it.wanted = wanted);
    want(&mut sim, Wanted::Stopped);
    assert_eq!(sim.later(MINUTE), [("stop", Why::On)]);
    sim.listed[0].state = InstanceState::Stopping;
    assert_eq!(sim.later(MINUTE), []);
    assert!(!sim.records[&Sim::key(1)].is_off, "not before its cloud says so");
    sim.listed[0].state = InstanceState::Stopped;
    assert_eq!(sim.later(MINUTE), [("save", Why::Switched)]);
    let noted = |sim: &Sim| (sim.records[&Sim::key(1)].is_off, sim.records[&Sim::key(1)].switched_at);
    let off = noted(&sim);
    assert_eq!(off, (true, Some(sim.now)));
    want(&mut sim, Wanted::Running);
    assert_eq!(sim.later(MINUTE), [("boot", Why::Off)]);
    assert_eq!(noted(&sim), off);
    sim.listed[0].state = InstanceState::Running;
    assert_eq!(sim.later(MINUTE), [("save", Why::Switched)]);
    assert_eq!(noted(&sim), (false, Some(sim.now)));
    sim.listed[0].state = InstanceState::Failed { reason: "killed".to_owned() };
    assert_eq!(sim.later(MINUTE), [("save", Why::Switched), ("boot", Why::Broken)]);
    for _ in 0..2 {
        assert_eq!(sim.later(MINUTE), [("boot", Why::Broken)]);
    }
    assert_eq!(sim.later(MINUTE), [("delete", Why::Broken)]);
}

#[test]
fn a_machine_that_was_halted_from_inside_is_paid_for_until_it_is_stopped() {
    let mut sim = Sim::new();
    sim.active();
    sim.listed[0].state = InstanceState::Halted;
    assert_eq!(sim.later(MINUTE), [("boot", Why::Off)]);
    sim.deployments.values_mut().for_each(|it| it.wanted = Wanted::Stopped);
    assert_eq!(sim.later(MINUTE), [("stop", Why::On)]);
    assert!(!sim.records[&Sim::key(1)].is_off);
}
