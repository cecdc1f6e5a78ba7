//! Ends of machines: asked for, by themselves, and what takes their place.

use super::*;

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
