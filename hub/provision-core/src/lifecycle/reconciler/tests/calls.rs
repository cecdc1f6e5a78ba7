//! Calls: answers that are lost, refused or late, and what follows from each.

use super::*;

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

/// A cloud refused the call and made a machine all the same, and made another when it was asked again.
#[test]
fn two_machines_of_one_call_are_both_replaced_although_one_has_joined() {
    let mut sim = Sim::new();
    let key = sim.active();
    sim.list(&key, HUB).provider_id = "sim/twin".to_owned();
    assert_eq!(sim.later(MINUTE), [("delete", Why::Duplicate), ("delete", Why::Duplicate)]);
    assert_eq!(sim.records.get(&key).unwrap().state, RecordState::Deleting);
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
