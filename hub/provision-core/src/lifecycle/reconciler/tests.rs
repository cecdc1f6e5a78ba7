//! One decision at a time; `lifecycle/model.rs` tries their combinations.

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
fn a_lost_answer_is_looked_up_and_only_then_called_again() {
    let mut sim = Sim::new();
    let record = sim.order();
    let answer = CreateAnswer::Failed { class: ErrorClass::Unknown, reason: String::new() };
    assert_eq!(sim.reconciler.handle_create(&record, &answer, sim.now), None);
    assert_eq!(sim.later(MINUTE), []);
    assert_eq!(sim.later(MINUTE), [("create", Why::Unanswered)]);
    assert_eq!(sim.records[&record.key].attempt, 2);
    sim.list(&record.key, HUB);
    assert_eq!(sim.later(Duration::ZERO), [("save", Why::Found)]);
}

#[test]
fn a_machine_that_was_made_in_part_is_finished_by_another_call() {
    let mut sim = Sim::new();
    let record = sim.order();
    let answer = CreateAnswer::Failed { class: ErrorClass::Unknown, reason: String::new() };
    assert_eq!(sim.reconciler.handle_create(&record, &answer, sim.now), None);
    sim.list(&record.key, HUB).state = InstanceState::Unfinished;
    assert_eq!(sim.later(MINUTE), []);
    assert_eq!(sim.later(MINUTE), [("create", Why::Unanswered)]);
    sim.listed[0].state = InstanceState::Starting;
    assert_eq!(sim.later(Duration::ZERO), [("save", Why::Found)]);

    // Where it is wanted switched off, it is a machine like any other that does not run.
    let mut sim = Sim::new();
    let record = sim.order();
    sim.list(&record.key, HUB).state = InstanceState::Unfinished;
    sim.deployments.values_mut().for_each(|deployment| deployment.wanted = Wanted::Stopped);
    assert_eq!(sim.later(Duration::ZERO), [("save", Why::Found)]);
    assert_eq!(sim.later(MINUTE), [("save", Why::Switched)]);
    assert_eq!(sim.later(MINUTE), []);
}

#[test]
fn a_refusal_of_a_call_that_was_begun_with_other_credentials_blocks_nothing() {
    let mut sim = Sim::new();
    let begun = Record { called_at: Some(sim.now), ..sim.order() };
    let renewed = sim.now.plus(Duration::from_millis(1));
    sim.reconciler.handle_credentials("sim", renewed);
    let denied = CreateAnswer::Failed { class: ErrorClass::Deny, reason: String::new() };
    let _ = sim.reconciler.handle_create(&begun, &denied, renewed);
    assert_eq!(sim.reconciler.blocks.until(&begun.candidate, renewed), None);
    let after = Record { called_at: Some(renewed.plus(MINUTE)), ..begun };
    let _ = sim.reconciler.handle_create(&after, &denied, renewed);
    assert!(sim.reconciler.blocks.until(&after.candidate, renewed).is_some());
}

#[test]
fn without_capacity_the_next_of_the_plan_is_taken() {
    let mut sim = Sim::new();
    let record = sim.order();
    let answer = CreateAnswer::Failed { class: ErrorClass::Capacity, reason: "none left".to_owned() };
    let Some(Action::Save { record, .. }) = sim.reconciler.handle_create(&record, &answer, sim.now) else {
        panic!("nothing to store");
    };
    assert_eq!((record.state, record.reason.as_str()), (RecordState::Failed, "none left"));
    sim.records.insert(record.key.clone(), record);
    assert_eq!(sim.later(Duration::ZERO), [("save", Why::Missing)]);
    assert_eq!(sim.records[&Sim::key(2)].candidate.plan, "large");
}

#[test]
fn what_one_replica_was_refused_is_not_asked_for_by_the_others() {
    let mut sim = Sim::new();
    sim.deployments.values_mut().for_each(|deployment| deployment.replicas = 5);
    assert_eq!(sim.later(Duration::ZERO), [("save", Why::Missing); 5]);
    let first = sim.records.values().next().unwrap().clone();
    let mut called = first.turned(RecordState::Calling, "", sim.now);
    (called.attempt, called.called_at) = (1, Some(sim.now));
    sim.records.insert(called.key.clone(), called.clone());
    let answer = CreateAnswer::Failed { class: ErrorClass::Capacity, reason: "full".to_owned() };
    let Some(Action::Save { record, .. }) = sim.reconciler.handle_create(&called, &answer, sim.now) else {
        panic!("nothing to store");
    };
    sim.records.insert(record.key.clone(), record);
    let mut plans = Vec::new();
    for _ in 0..4 {
        for action in sim.pass() {
            if let Action::Create { record, .. } = action {
                plans.push(record.candidate.plan);
            }
        }
    }
    assert_eq!(plans, ["large"; 5]);
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
fn an_expired_deployment_ends_unless_the_clock_is_in_doubt() {
    let mut sim = Sim::new();
    sim.active();
    sim.is_clock_trusted = false;
    assert_eq!(sim.later(MINUTE * 120), [("report", Why::Clock)]);
    assert_eq!(sim.later(MINUTE), [], "a person is told once");
    sim.is_clock_trusted = true;
    assert_eq!(sim.later(Duration::ZERO), [("expire", Why::Expired)]);
    sim.deployments.values_mut().for_each(|it| it.wanted = Wanted::Gone);
    assert_eq!(sim.later(Duration::ZERO), [("save", Why::Terminated)]);
    assert_eq!(sim.later(Duration::ZERO), [("evict", Why::Doomed), ("delete", Why::Doomed)]);
    sim.accept(&Sim::key(1));
    (sim.listed, sim.agents) = (Vec::new(), BTreeMap::new());
    assert_eq!(sim.later(Duration::ZERO), []);
    assert_eq!(sim.later(MINUTE), [("save", Why::Unlisted)]);
    assert_eq!(sim.records[&Sim::key(1)].state, RecordState::Gone);
    assert_eq!(sim.later(MINUTE), []);
}

#[test]
fn an_orphan_is_reported_at_once_and_removed_after_its_grace_and_others_are_left_alone() {
    let mut sim = Sim::new();
    sim.active();
    sim.list(&"bp-orphan-1".parse().unwrap(), HUB);
    sim.list(&"bp-foreign-1".parse().unwrap(), HubId::from_bytes([2; 16]));
    let own = Sim::key(1);
    sim.list(&own, HubId::from_bytes([2; 16])).provider_id = "sim/of-another-hub".to_owned();
    sim.list(&"by-hand".parse().unwrap(), HUB).tags = None;
    assert_eq!(sim.later(MINUTE), [("report", Why::Orphan)]);
    assert_eq!(sim.later(MINUTE * 9), []);
    sim.now = sim.now.plus(MINUTE);
    let actions = sim.pass();
    let [Action::Remove { provider_id, why: Why::Orphan, .. }] = actions.as_slice() else {
        panic!("{actions:?}")
    };
    assert_eq!(provider_id, "sim/bp-orphan-1");
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

/// A cloud refused the call and made a machine all the same, and made another when it was asked again.
#[test]
fn two_machines_of_one_call_are_both_replaced_although_one_has_joined() {
    let mut sim = Sim::new();
    let key = sim.active();
    sim.list(&key, HUB).provider_id = "sim/twin".to_owned();
    assert_eq!(sim.later(MINUTE), [("delete", Why::Duplicate), ("delete", Why::Duplicate)]);
    assert_eq!(sim.records.get(&key).unwrap().state, RecordState::Deleting);
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

/// Where a machine is delivered by people, it is neither lost nor ordered again before that may be over.
#[test]
fn what_takes_an_hour_to_be_delivered_is_waited_for() {
    let mut reconciler = Reconciler::new(HUB, Settings::default());
    let mut called = Sim::new().order();
    called.candidate.provider = "hivelocity".to_owned();
    let ordered = called.called_at.unwrap();
    let made = Record { state: RecordState::Created, provider_id: Some("7".to_owned()), ..called.clone() };
    let (agents, leaving) = (BTreeMap::new(), Leaving::new());
    let deployments = Sim::new().deployments;
    let mut planned = |record: &Record, after| {
        let records = BTreeMap::from([(record.key.clone(), record.clone())]);
        let view = View {
            deployments: &deployments,
            records: &records,
            leaving: &leaving,
            agents: &agents,
            is_clock_trusted: true,
            now: ordered.plus(after),
        };
        reconciler.plan_provider("hivelocity", &[], &view).len()
    };
    for record in [&called, &made] {
        assert_eq!((planned(record, MINUTE * 10), planned(record, MINUTE * 60)), (0, 0), "{}", record.state);
    }
    assert_eq!(planned(&called, MINUTE * 63), 1);
    assert_eq!((planned(&made, MINUTE * 64), planned(&made, MINUTE * 65)), (0, 1));
}

#[test]
fn a_deletion_that_does_not_happen_is_asked_for_again_and_told() {
    let mut sim = Sim::new();
    let key = sim.active();
    sim.deployments.values_mut().for_each(|it| it.wanted = Wanted::Gone);
    sim.agents.clear();
    assert_eq!(sim.later(MINUTE), [("save", Why::Terminated)]);
    assert_eq!(sim.later(Duration::ZERO), [("delete", Why::Doomed)]);
    sim.accept(&key);
    assert_eq!(sim.later(Duration::from_secs(29)), []);
    assert_eq!(sim.later(Duration::from_secs(1)), [("delete", Why::Doomed)]);
    let told = sim.later(MINUTE * 15);
    assert!(told.contains(&("report", Why::Undeletable)), "{told:?}");
}

#[test]
fn a_node_that_was_removed_has_its_machine_replaced() {
    let mut sim = Sim::new();
    sim.active();
    sim.agents.clear();
    assert_eq!(sim.later(MINUTE), []);
    assert_eq!(sim.later(MINUTE), [("delete", Why::NodeRemoved)]);
}

/// A machine that was made and is listed late is terminated before it is seen: its deletion is asked for all the same.
#[test]
fn nothing_is_gone_before_its_cloud_accepted_the_deletion() {
    let mut sim = Sim::new();
    let record = sim.order();
    let answer = CreateAnswer::Made(format!("sim/{}", record.key));
    let Some(Action::Save { record, .. }) = sim.reconciler.handle_create(&record, &answer, sim.now) else {
        panic!("nothing to store");
    };
    assert_eq!(record.made_at, record.called_at, "it is billed from the call that its cloud accepted");
    let key = record.key.clone();
    sim.records.insert(key.clone(), record);
    sim.deployments.values_mut().for_each(|it| it.wanted = Wanted::Gone);
    assert_eq!(sim.later(MINUTE), [("save", Why::Terminated)]);
    for _ in 0..5 {
        assert_eq!(sim.later(MINUTE), [("delete", Why::Doomed)], "the call fails, and it is not listed");
    }
    sim.accept(&key);
    assert_eq!(sim.later(Duration::from_secs(1)), []);
    assert_eq!(sim.later(Duration::from_secs(29)), []);
    assert_eq!(sim.later(Duration::from_secs(1)), [("save", Why::Unlisted)]);
    assert_eq!(sim.records[&key].state, RecordState::Gone);
}

/// A machine whose node is removed again and again: the first is replaced at once, the others after a pause.
#[test]
fn machines_that_end_again_and_again_are_not_replaced_without_a_pause() {
    let mut sim = Sim::new();
    let (mut ordered, mut is_told) = (Vec::new(), false);
    for minute in 0..240u8 {
        sim.now = sim.now.plus(MINUTE);
        let actions = sim.pass();
        is_told |= sim.reconciler.alarms().iter().any(|alarm| alarm.why == Why::Churn);
        for action in actions {
            if let Action::Create { record, .. } = action {
                ordered.push(minute);
                let answer = CreateAnswer::Made(format!("sim/{}", record.key));
                let saved = sim.reconciler.handle_create(&record, &answer, sim.now);
                let Some(Action::Save { mut record, .. }) = saved else { panic!("{saved:?}") };
                let agent = AgentId::from_bytes([minute; 16]);
                (record.agent, record.agent_attempt) = (Some(agent), 1);
                sim.list(&record.key, HUB);
                sim.records.insert(record.key.clone(), record);
            } else if let Action::Delete { record, .. } = action {
                sim.listed.clear();
                sim.accept(&record.key);
            }
        }
    }
    assert!(ordered.len() <= 8, "{} machines in four hours: {ordered:?}", ordered.len());
    let gaps: Vec<_> = ordered.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(gaps.is_sorted() && gaps[0] < 10, "{gaps:?}");
    assert!(is_told, "a person is told");
}

#[test]
fn a_machine_that_a_limit_leaves_no_room_for_waits_and_a_person_is_told() {
    let mut sim = Sim::new();
    let called = sim.order();
    let before = Record { state: RecordState::Planned, attempt: 0, called_at: None, ..called.clone() };
    sim.records.insert(before.key.clone(), before);
    let answer = CreateAnswer::Held { reason: "provision.max_machines is 4".to_owned() };
    let Some(Action::Save { record, .. }) = sim.reconciler.handle_create(&called, &answer, sim.now) else {
        panic!("nothing to store");
    };
    assert_eq!((record.state, record.attempt, record.called_at), (RecordState::Planned, 0, None));
    sim.records.insert(record.key.clone(), record);
    assert_eq!(sim.later(MINUTE / 2), [("report", Why::Limit)]);
    assert_eq!(sim.later(MINUTE / 4), []);
    assert_eq!(sim.later(MINUTE / 2), [("create", Why::Planned)]);
}

#[test]
fn machines_that_are_there_once_have_one_order_each() {
    let mut sim = Sim::new();
    let host = |name: &str| Candidate { provider: "ssh".to_owned(), ..offer(name) };
    let mut first = deployment();
    (first.replicas, first.plan) = (2, vec![host("rack-1"), host("rack-2"), host("rack-3")]);
    let mut second = Deployment { id: DeploymentId::from_bytes([9; 10]), ..first.clone() };
    second.request_key = "other".to_owned();
    sim.deployments = [first, second].map(|one| (one.id.clone(), one)).into();
    let providers = ["ssh".to_owned()].into();
    let plan = |sim: &mut Sim| {
        let view = View {
            deployments: &sim.deployments,
            records: &sim.records,
            leaving: &sim.leaving,
            agents: &sim.agents,
            is_clock_trusted: true,
            now: sim.now,
        };
        let actions = sim.reconciler.plan_deployments(&view, &providers);
        let saved: Vec<Record> = actions
            .into_iter()
            .filter_map(|action| if let Action::Save { record, .. } = action { Some(record) } else { None })
            .collect();
        for record in &saved {
            sim.records.insert(record.key.clone(), record.clone());
        }
        saved.into_iter().map(|record| record.candidate.plan).collect::<Vec<_>>()
    };
    let mut taken = plan(&mut sim);
    taken.sort();
    assert_eq!(taken, ["rack-1", "rack-2", "rack-3"], "the fourth waits");
    assert!(plan(&mut sim).is_empty());
    let alarms = sim.reconciler.alarms();
    assert!(alarms.iter().any(|alarm| alarm.text.contains("has an order already")), "{alarms:?}");
    // One that is on its way out has its machine still; one that is gone gives it back.
    let key = sim.records.values().find(|it| it.candidate.plan == "rack-2").unwrap().key.clone();
    sim.records.get_mut(&key).unwrap().state = RecordState::Deleting;
    assert!(plan(&mut sim).is_empty());
    sim.records.get_mut(&key).unwrap().state = RecordState::Gone;
    assert_eq!(plan(&mut sim), ["rack-2"]);
}

#[test]
fn why_a_machine_was_released_is_what_scaling_said_whether_or_not_its_agent_is_there() {
    for (is_given_up, is_here, expected) in [
        (false, false, Why::Surplus),
        (false, true, Why::Surplus),
        (true, false, Why::Silent),
        (true, true, Why::Silent),
    ] {
        let mut sim = Sim::new();
        let agent = AgentId::from_bytes([7; 16]);
        let own = Record { state: RecordState::Active, agent: Some(agent), ..record(1) };
        sim.records.insert(own.key.clone(), own.clone());
        sim.agents.insert(agent, is_here);
        sim.leaving.insert(own.key.clone(), DrainMark { since: sim.now, is_released: true, is_given_up });
        let saved = sim.pass().into_iter().find_map(|action| match action {
            Action::Save { record, why } if record.key == own.key => Some(why),
            Action::Expire { .. }
            | Action::Create { .. }
            | Action::Delete { .. }
            | Action::Boot { .. }
            | Action::Stop { .. }
            | Action::Evict { .. }
            | Action::Remove { .. }
            | Action::Report(_)
            | Action::Save { .. } => None,
        });
        assert_eq!(saved, Some(expected));
    }
}

#[test]
fn a_machine_that_was_given_up_is_replaced_once_another_one_joined() {
    let deployment = deployment();
    let mut records = Records::default();
    let of = |number, state| Record { state, ..record(number) };
    let (first, since) = (of(1, RecordState::Active), deployment.created_at.plus(MINUTE));
    let mark = DrainMark { since, is_released: true, is_given_up: true };
    records.deployments.insert(deployment.id.clone(), deployment);
    records.instances.insert(first.key.clone(), first.clone());
    assert!(!is_replacing(&records));
    records.leaving.insert(first.key.clone(), DrainMark { is_given_up: false, ..mark });
    assert!(!is_replacing(&records), "it was one too many");
    records.leaving.insert(first.key.clone(), mark);
    assert!(is_replacing(&records));
    let next = Record { created_at: since, ..of(2, RecordState::Created) };
    records.instances.insert(next.key.clone(), next.clone());
    assert!(is_replacing(&records), "it did not join");
    let agent = Some(AgentId::from_bytes([7; 16]));
    records.instances.insert(next.key.clone(), Record { state: RecordState::Lost, agent, ..next });
    assert!(!is_replacing(&records), "what became of it afterwards is another thing");
}
