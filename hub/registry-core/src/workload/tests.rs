use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use blueprint_common_types::workload::{Inventory, Lack, WorkloadState};
use blueprint_common_types::{AgentId, Health, OverlayLease, ServiceKey, Timestamp, TokenId, WgPublicKey};
use proptest::prelude::*;

use super::*;
use crate::{Agent, AgentView, RegistrySnapshot, ServiceGrant};

const PATIENCE: Duration = Duration::from_secs(15);

fn node(number: u8) -> AgentId {
    AgentId::from_bytes([number; 16])
}

fn at(secs: u64) -> Timestamp {
    Timestamp::from_millis(secs * 1000)
}

/// Nodes 1..: here or away.
fn snapshot(here: &[bool]) -> RegistrySnapshot {
    let view = |(position, is_here): (usize, &bool)| {
        let number = u8::try_from(position + 1).unwrap();
        let agent = Agent {
            id: node(number),
            name: format!("n{number}"),
            wireguard_key: WgPublicKey::from_bytes([number; 32]),
            lease: OverlayLease { v4: [10, 88, 0, number].into(), v6: [0u16; 8].into() },
            joined_at: at(0),
            generation: 1,
            token: TokenId::from_bytes([number; 8]),
            services: ServiceGrant::FirstClaim,
            agent_version: String::new(),
        };
        let view = AgentView {
            agent: Arc::new(agent),
            connected: true,
            data_plane: *is_here,
            runs_workloads: true,
            inventory: None,
            last_seen: Some(at(0)),
        };
        (node(number), view)
    };
    RegistrySnapshot { agents: here.iter().enumerate().map(view).collect(), ..RegistrySnapshot::default() }
}

fn record(service: u64, nodes: &[u8], on: Option<u8>) -> WorkloadRecord {
    WorkloadRecord {
        service: ServiceKey { blueprint: 7, service },
        generation: 3,
        document: "{}".to_owned(),
        nodes: nodes.iter().map(|number| node(*number)).collect::<BTreeSet<_>>(),
        node: on.map(node),
        keystore: None,
        changed_at: at(0),
        version: 1,
        slot: 0,
    }
}

fn targets(moves: &[Move]) -> Vec<(u64, AgentId)> {
    moves.iter().map(|one| (one.service.service, one.to)).collect()
}

#[test]
fn new_ones_go_to_the_least_used_node_that_is_here_and_allowed() {
    let records =
        vec![record(1, &[], Some(1)), record(2, &[], None), record(3, &[3], None), record(4, &[], None)];
    let mut assigner = Assigner::new(records, FailOvers::default(), PATIENCE);
    let moves = assigner.moves(&snapshot(&[true, true, false]), at(0));
    assert_eq!(targets(&moves), [(2, node(2)), (4, node(1))], "3 waits for the one node that it may be on");
}

#[test]
fn a_node_that_is_away_keeps_its_workloads_for_a_while_and_no_longer() {
    let mut assigner = Assigner::new(
        vec![record(1, &[], Some(1)), record(2, &[1], Some(1))],
        FailOvers::default(),
        PATIENCE,
    );
    let (gone, back) = (snapshot(&[false, true]), snapshot(&[true, true]));
    assert!(assigner.moves(&gone, at(0)).is_empty());
    assert_eq!(assigner.poll_timeout(), Some(at(15)));
    assert!(assigner.moves(&back, at(10)).is_empty());
    assert_eq!(assigner.poll_timeout(), None);
    assert!(assigner.moves(&gone, at(20)).is_empty());
    assert!(assigner.moves(&gone, at(34)).is_empty());
    let moves = assigner.moves(&gone, at(35));
    assert_eq!(targets(&moves), [(1, node(2))], "2 may be nowhere else");
    assert_eq!(moves[0].reason, "its node n1 has been away for 15 s");
    assigner.set(WorkloadRecord { generation: 4, ..record(1, &[], Some(2)) });
    // It does not go back by itself.
    assert!(assigner.moves(&back, at(36)).is_empty());
    assert_eq!(assigner.assignments()[&node(2)].values().map(|one| one.generation).collect::<Vec<_>>(), [4]);
}

#[test]
fn a_node_that_left_or_is_not_allowed_any_more_loses_its_workloads_at_once() {
    let mut assigner = Assigner::new(
        vec![record(1, &[], Some(9)), record(2, &[2], Some(1))],
        FailOvers::default(),
        PATIENCE,
    );
    let moves = assigner.moves(&snapshot(&[true, true]), at(0));
    assert_eq!(targets(&moves), [(1, node(2)), (2, node(2))]);
    assert_eq!(moves[1].reason, "it may not run on n1 any more");
}

#[test]
fn where_no_node_is_here_everything_stays() {
    let mut assigner = Assigner::new(vec![record(1, &[], Some(1))], FailOvers::default(), PATIENCE);
    assert!(assigner.moves(&snapshot(&[false]), at(0)).is_empty());
    assert!(assigner.moves(&snapshot(&[false]), at(100)).is_empty());
    assert_eq!(assigner.assignments().len(), 1);
}

#[test]
fn a_node_that_is_full_gets_no_more() {
    let records = (0..130).map(|number| record(number, &[], None)).collect();
    let mut assigner = Assigner::new(records, FailOvers::default(), PATIENCE);
    let moves = assigner.moves(&snapshot(&[true, true]), at(0));
    assert_eq!(moves.len(), 2 * MAX_PER_NODE);
}

#[test]
fn one_that_is_to_end_stays_where_it_is_until_it_is_taken_back_or_set_anew() {
    let mut assigner = Assigner::new(vec![record(1, &[], Some(1))], FailOvers::default(), PATIENCE);
    let ends = |assigner: &Assigner| {
        assigner.assignments()[&node(1)].values().map(|one| one.ends).collect::<Vec<_>>()
    };
    let service = ServiceKey { blueprint: 7, service: 1 };
    assigner.end(service);
    assert_eq!(ends(&assigner), [true]);
    let (gone, late) = (snapshot(&[false, true]), at(60));
    assert!(assigner.moves(&gone, at(0)).is_empty() && assigner.moves(&gone, late).is_empty());
    assigner.set(record(1, &[], Some(1)));
    assert_eq!(ends(&assigner), [false]);
    assert_eq!(targets(&assigner.moves(&gone, late)), [(1, node(2))]);
    assigner.end(service);
    assigner.remove(service);
    assigner.end(service);
    assert!(assigner.assignments().is_empty());
}

/// The same nodes, of which these run no workloads.
fn without(mut snapshot: RegistrySnapshot, off: &[u8]) -> RegistrySnapshot {
    for number in off {
        snapshot.agents.get_mut(&node(*number)).unwrap().runs_workloads = false;
    }
    snapshot
}

#[test]
fn a_node_that_runs_no_workloads_gets_none_and_loses_what_it_had() {
    let records = vec![record(1, &[], None), record(2, &[1], None), record(3, &[], Some(1))];
    let mut assigner = Assigner::new(records, FailOvers::default(), PATIENCE);
    assert_eq!(assigner.unplaced().len(), 2);
    let moves = assigner.moves(&without(snapshot(&[true, true]), &[1]), at(0));
    assert_eq!(targets(&moves), [(1, node(2)), (3, node(2))], "2 may be on node 1 alone");
    assert_eq!(moves[1].reason, "its node n1 runs no workloads");
    assert!(assigner.moves(&without(snapshot(&[true, true]), &[1, 2]), at(0)).is_empty());
}

#[test]
fn the_operator_is_told_why_no_node_fits() {
    let why = |record: &WorkloadRecord, others: &[WorkloadRecord], snapshot: &RegistrySnapshot| {
        let records = others.iter().map(|record| (record.service, Arc::new(record.clone()))).collect();
        NoNode::of(record, &WorkloadsView { records, ..WorkloadsView::default() }, snapshot)
    };
    let wanted = record(1, &[], None);
    let both = snapshot(&[true, true]);
    assert_eq!(why(&wanted, &[], &both), None);
    assert_eq!(why(&wanted, &[], &snapshot(&[false])), Some(NoNode::NotHere));
    assert_eq!(why(&wanted, &[], &without(both.clone(), &[1, 2])), Some(NoNode::NoneRuns));
    let on_second = record(1, &[2], None);
    assert_eq!(why(&on_second, &[], &without(both.clone(), &[2])), Some(NoNode::NoneRuns));
    let full: Vec<_> = (2..66).map(|number| record(number, &[], Some(1))).collect();
    assert_eq!(why(&wanted, &full, &without(both.clone(), &[2])), Some(NoNode::Full));
    assert_eq!(why(&wanted, &full, &both), None);
    assert!(NoNode::Full.to_string().contains(&MAX_PER_NODE.to_string()));
    assert!(NoNode::NoneRuns.to_string().starts_with("no node runs workloads"));
}

#[test]
fn a_patience_that_is_over_is_no_deadline_any_more() {
    let mut assigner =
        Assigner::new(vec![record(1, &[], Some(1)), record(2, &[], Some(2))], FailOvers::default(), PATIENCE);
    assert!(assigner.moves(&snapshot(&[false, true]), at(0)).is_empty());
    assert!(assigner.moves(&snapshot(&[false, false]), at(5)).is_empty());
    assert_eq!(assigner.poll_timeout(), Some(at(15)));
    assert!(assigner.moves(&snapshot(&[false, false]), at(15)).is_empty());
    assert_eq!(assigner.poll_timeout(), Some(at(20)));
    assert!(assigner.moves(&snapshot(&[false, false]), at(20)).is_empty());
    assert_eq!(assigner.poll_timeout(), None, "no node fits, and time alone makes none");
    assert_eq!(assigner.moves(&snapshot(&[false, true]), at(21)).len(), 1);
}

proptest! {
    #[test]
    fn the_next_look_is_always_later_and_a_node_that_runs_none_gets_none(
        steps in prop::collection::vec((0u64..20, any::<[bool; 3]>(), any::<[bool; 3]>()), 1..40)
    ) {
        let records = (0..6).map(|number| record(number, &[], None)).collect();
        let (mut assigner, mut now) = (Assigner::new(records, FailOvers::default(), PATIENCE), 0);
        for (secs, here, runs) in steps {
            now += secs;
            let off: Vec<u8> = (1..).zip(runs).filter(|(_, runs)| !runs).map(|(number, _)| number).collect();
            let nodes = without(snapshot(&here), &off);
            for one in assigner.moves(&nodes, at(now)) {
                let view = &nodes.agents[&one.to];
                prop_assert!(view.runs_workloads && view.data_plane);
                let before = WorkloadRecord::clone(assigner.get(one.service).unwrap());
                prop_assert!(before.node != Some(one.to));
                assigner.set(WorkloadRecord { node: Some(one.to), ..before });
            }
            prop_assert!(assigner.poll_timeout().is_none_or(|next| next > at(now)));
        }
    }
}

#[test]
fn a_workload_goes_only_where_its_limits_can_be_had() {
    let has = |cpu_millis, gpus| {
        Some(Arc::new(Inventory { cpu_millis, memory_bytes: 8 << 30, gpus, ..Inventory::default() }))
    };
    let mut nodes = snapshot(&[true, true, true]);
    for (number, inventory) in [(1, has(1000, 4)), (2, has(4000, 0)), (3, has(4000, 2))] {
        nodes.agents.get_mut(&node(number)).unwrap().inventory = inventory;
    }
    let asks = |service, gpus: u8| {
        let limits = if gpus == 0 {
            "{}".to_owned()
        } else {
            format!("{{\"gpu_count\": {gpus}, \"gpu_policy\": \"required\"}}")
        };
        WorkloadRecord { document: format!("{{\"limits\": {limits}}}"), ..record(service, &[], None) }
    };
    let place = |records: Vec<WorkloadRecord>| {
        let mut assigner = Assigner::new(records, FailOvers::default(), PATIENCE);
        targets(&assigner.moves(&nodes, at(1)))
    };
    // Two processors are the usual limit: the first node has one.
    assert_eq!(place(vec![asks(1, 0)]), [(1, node(2))]);
    assert_eq!(place(vec![asks(1, 1)]), [(1, node(3))]);
    assert_eq!(
        place(vec![asks(1, 1), asks(2, 1), asks(3, 1)]),
        [(1, node(3)), (2, node(3))],
        "each GPU is one's"
    );
    let busy = WorkloadRecord { node: Some(node(3)), ..asks(1, 2) };
    assert_eq!(place(vec![busy.clone(), asks(2, 1)]), []);
    let why = |record: &WorkloadRecord, others: &[WorkloadRecord]| {
        let all = others.iter().cloned().chain([record.clone()]);
        let records = all.map(|record| (record.service, Arc::new(record))).collect();
        NoNode::of(record, &WorkloadsView { records, ..WorkloadsView::default() }, &nodes)
    };
    assert_eq!(why(&asks(2, 1), std::slice::from_ref(&busy)), Some(NoNode::TooSmall(Lack::Gpus(1, 0))));
    assert_eq!(why(&busy, &[]), None, "it has what it has");
    let prefers = |gpus| {
        let limits = format!("{{\"gpu_count\": {gpus}, \"gpu_policy\": \"preferred\"}}");
        WorkloadRecord { document: format!("{{\"limits\": {limits}}}"), ..record(9, &[], Some(3)) }
    };
    assert_eq!(place(vec![prefers(2), asks(2, 1)]), [], "the agent takes GPUs from nobody");
    assert_eq!(place(vec![prefers(1), asks(2, 1)]), [(2, node(3))]);
    assert_eq!(place(vec![prefers(3), asks(2, 1)]), [(2, node(3))], "it got none");
    assert_eq!(why(&busy, &[prefers(2)]), None, "it was there");
    let mut unheld = snapshot(&[true, true, true]);
    for view in unheld.agents.values_mut() {
        let has = Inventory {
            limits_held: Some(false),
            cpu_millis: 4000,
            memory_bytes: 8 << 30,
            ..Inventory::default()
        };
        view.inventory = Some(Arc::new(has));
    }
    let limited = |kind: &str| WorkloadRecord {
        document: format!("{{\"source\": {{\"type\": \"{kind}\"}}, \"limits\": {{\"pids\": 64}}}}"),
        ..record(1, &[], None)
    };
    let moves = |record: WorkloadRecord| {
        let mut assigner = Assigner::new(vec![record], FailOvers::default(), PATIENCE);
        targets(&assigner.moves(&unheld, at(1))).len()
    };
    let found = [moves(limited("native")), moves(limited("container")), moves(asks(1, 0))];
    assert_eq!(found, [0, 1, 1], "limits that were asked for are held, by the node or by its engine");
    assert_eq!(
        why(&asks(2, 9), &[]).unwrap().to_string(),
        "no node that it may run on has enough: it asks for 9 GPUs, this node has 2"
    );
}

fn asks(service: u64) -> WorkloadStatus {
    let service = ServiceKey { blueprint: 7, service };
    let status = WorkloadStatus::new(service, 3, WorkloadState::Running, at(0));
    WorkloadStatus {
        asks_move: true,
        health: Some(Health::Unhealthy),
        health_reason: "answers 503".to_owned(),
        ..status
    }
}

#[test]
fn what_does_not_get_well_goes_to_another_node_and_not_back_within_the_hour() {
    let mut assigner = Assigner::new(vec![record(1, &[], Some(1))], FailOvers::default(), PATIENCE);
    let nodes = snapshot(&[true, true]);
    assigner.hear(&asks(1));
    let moves = assigner.moves(&nodes, at(10));
    assert_eq!(targets(&moves), [(1, node(2))]);
    assert_eq!(moves[0].kind, EventKind::FailOver);
    assert_eq!(moves[0].reason, "it did not get well on its node: answers 503");
    assigner.moved(&moves[0], at(10));
    assigner.set(record(1, &[], Some(2)));
    assert!(assigner.moves(&nodes, at(11)).is_empty() && assigner.degraded().is_empty());
    assigner.hear(&asks(1));
    assert!(assigner.moves(&nodes, at(20)).is_empty());
    assert!(
        assigner.degraded().values().all(|why| why.starts_with("no other node")),
        "{:?}",
        assigner.degraded()
    );
    assert_eq!(assigner.degraded().len(), 1);
    assert_eq!(assigner.poll_timeout(), Some(at(3610)));
    assert_eq!(targets(&assigner.moves(&nodes, at(3610))), [(1, node(1))], "the hour is over");
    // While an update is under way, that decides.
    assigner.hold(BTreeSet::from([ServiceKey { blueprint: 7, service: 1 }]));
    assert!(assigner.moves(&nodes, at(3610)).is_empty() && assigner.degraded().is_empty());
    assigner.hold(BTreeSet::new());
    assert_eq!(assigner.moves(&nodes, at(3610)).len(), 1);
    // Well again, it stays.
    assigner.hear(&WorkloadStatus { asks_move: false, ..asks(1) });
    assert!(assigner.moves(&nodes, at(3611)).is_empty() && assigner.degraded().is_empty());
}

/// Its node says that it cannot run it: given up, or tried there until another one takes it.
fn refuses(service: u64, state: WorkloadState) -> WorkloadStatus {
    let service = ServiceKey { blueprint: 7, service };
    let status = WorkloadStatus::new(service, 3, state, at(0));
    WorkloadStatus { refused: true, reason: "no such limit".to_owned(), ..status }
}

#[test]
fn what_a_node_cannot_run_goes_to_each_other_node_once_an_hour_and_then_has_failed() {
    let mut assigner = Assigner::new(vec![record(1, &[], Some(1))], FailOvers::default(), PATIENCE);
    let mut nodes = snapshot(&[true, true, true]);
    let has = |cpu_millis| {
        let memory_bytes = 8 << 30;
        Some(Arc::new(Inventory { cpu_millis, memory_bytes, ..Inventory::default() }))
    };
    nodes.agents.get_mut(&node(1)).unwrap().inventory = has(2000);
    for (from, to) in [(1u64, 2), (2, 3)] {
        assigner.hear(&refuses(1, WorkloadState::Failed));
        let moves = assigner.moves(&nodes, at(from));
        assert_eq!(targets(&moves), [(1, node(to))]);
        assert_eq!(moves[0].kind, EventKind::Refused);
        assert_eq!(moves[0].reason, "its node cannot run it: no such limit");
        assigner.moved(&moves[0], at(from));
        assigner.set(record(1, &[], Some(to)));
        assert!(assigner.moves(&nodes, at(from)).is_empty() && assigner.degraded().is_empty());
    }
    assigner.hear(&refuses(1, WorkloadState::Failed));
    assert!(assigner.moves(&nodes, at(10)).is_empty());
    let why = assigner.degraded().values().next().unwrap();
    assert!(why.contains("and n1, n2 could not run it within the hour either"), "{why}");
    assert_eq!(assigner.poll_timeout(), Some(at(3601)));
    // It is left for other reasons, too, to one of those where no other is left.
    let moves = assigner.moves(&without(nodes.clone(), &[3]), at(11));
    assert_eq!((targets(&moves), moves[0].kind), (vec![(1, node(1))], EventKind::Move));
    let four = without(snapshot(&[true; 4]), &[3]);
    assert_eq!(targets(&assigner.moves(&four, at(11))), [(1, node(4))]);
    // One that has something else by now is tried again; one that is tried where it is is no failure.
    nodes.agents.get_mut(&node(1)).unwrap().inventory = has(4000);
    assert_eq!(targets(&assigner.moves(&nodes, at(12))), [(1, node(1))]);
    nodes.agents.get_mut(&node(1)).unwrap().inventory = has(1);
    assigner.hear(&refuses(1, WorkloadState::BackingOff));
    assert!(assigner.moves(&nodes, at(13)).is_empty() && assigner.degraded().is_empty());
    // The operator gives it anew, or another version of it.
    assigner.forget_refusals(record(1, &[], None).service);
    assert!(assigner.moves(&nodes, at(14)).is_empty(), "it is not refused by now");
    assigner.hear(&refuses(1, WorkloadState::Failed));
    assert_eq!(targets(&assigner.moves(&nodes, at(15))), [(1, node(2))]);
}

#[test]
fn what_a_node_refuses_goes_back_to_one_that_it_left_only_where_no_other_is_there() {
    let mut assigner = Assigner::new(vec![record(1, &[], Some(1))], FailOvers::default(), PATIENCE);
    assigner.hear(&asks(1));
    let moves = assigner.moves(&snapshot(&[true, true]), at(1));
    assigner.moved(&moves[0], at(1));
    assigner.set(record(1, &[], Some(2)));
    assigner.hear(&refuses(1, WorkloadState::Failed));
    assert_eq!(targets(&assigner.moves(&snapshot(&[true, true, true]), at(2))), [(1, node(3))]);
    let back = assigner.moves(&snapshot(&[true, true]), at(2));
    assert_eq!((targets(&back), back[0].kind), (vec![(1, node(1))], EventKind::Refused));
}

#[test]
fn a_node_that_is_away_is_left_for_that_whatever_it_said() {
    let mut assigner = Assigner::new(vec![record(1, &[], Some(1))], FailOvers::default(), PATIENCE);
    assigner.moves(&snapshot(&[false, true]), at(0));
    assigner.hear(&asks(1));
    let moves = assigner.moves(&snapshot(&[false, true]), at(15));
    assert_eq!((moves[0].kind, moves[0].to), (EventKind::Move, node(2)));
}

#[test]
fn two_versions_share_a_node_that_has_room_for_both_and_part_where_it_has_not() {
    let has = |cpu_millis, slots| {
        Some(Arc::new(Inventory { cpu_millis, memory_bytes: 64 << 30, slots, ..Inventory::default() }))
    };
    let mut nodes = snapshot(&[true, true, true]);
    let mut set = |number: u8, inventory| nodes.agents.get_mut(&node(number)).unwrap().inventory = inventory;
    set(1, has(4000, 2));
    set(2, has(4000, 2));
    set(3, has(4000, 0));
    let serving = |on| WorkloadRecord { slot: 1, ..record(1, &[], on) };
    let assigner = Assigner::new(vec![serving(Some(1))], FailOvers::default(), PATIENCE);
    let open = BTreeSet::new();
    // Two processors each are the usual limit.
    assert_eq!(assigner.place_beside(&serving(Some(1)), &open, &nodes), Ok((node(1), 0)));
    // Nothing goes where the operator lets no requests go.
    let (own, both) = (BTreeSet::from([node(1)]), BTreeSet::from([node(1), node(2)]));
    assert_eq!(assigner.place_beside(&serving(Some(1)), &own, &nodes), Ok((node(2), 0)));
    let why = assigner.place_beside(&serving(Some(1)), &both, &nodes).unwrap_err();
    assert!(why.contains("its own is drained"), "{why}");
    let large = |nodes: &[u8]| WorkloadRecord {
        document: r#"{"limits": {"cpu_millis": 3000}}"#.to_owned(),
        ..record(1, nodes, Some(1))
    };
    assert_eq!(assigner.place_beside(&large(&[]), &open, &nodes), Ok((node(2), 0)), "the third is too old");
    let why = assigner.place_beside(&large(&[1, 3]), &open, &nodes).unwrap_err();
    assert!(why.contains("no node has room for the next version"), "{why}");
    let old = Assigner::new(vec![serving(Some(3))], FailOvers::default(), PATIENCE);
    assert!(old.place_beside(&serving(Some(3)), &open, &nodes).unwrap_err().contains("too old"));
    let none = Assigner::new(vec![serving(None)], FailOvers::default(), PATIENCE);
    assert!(none.place_beside(&serving(None), &open, &nodes).unwrap_err().contains("no node"));

    // Both are assigned, each with its own seat, until the next one is not wanted beside the other.
    let mut assigner = Assigner::new(vec![serving(Some(1))], FailOvers::default(), PATIENCE);
    assigner.set_next(&WorkloadRecord { generation: 9, slot: 0, ..record(1, &[], Some(1)) }, &[node(1)]);
    let seats = |assigner: &Assigner| {
        let all = assigner.assignments().remove(&node(1)).unwrap_or_default();
        all.into_iter().map(|(seat, it)| (seat.slot, it.generation)).collect::<Vec<_>>()
    };
    assert_eq!(seats(&assigner), [(0, 9), (1, 3)]);
    assigner.set(WorkloadRecord { generation: 9, slot: 0, ..record(1, &[], Some(1)) });
    assigner.remove_next(ServiceKey { blueprint: 7, service: 1 });
    assert_eq!(seats(&assigner), [(0, 9)]);
}

#[test]
fn replicas_run_on_each_of_their_nodes_and_none_is_started_anew_for_another() {
    let mut assigner = Assigner::new(vec![record(1, &[], None)], FailOvers::default(), PATIENCE);
    let service = record(1, &[], None).service;
    let on = |numbers: &[u8]| Replicas::from([(service, numbers.iter().map(|n| node(*n)).collect())]);
    let runs = |assigner: &Assigner| {
        let all = assigner.assignments();
        all.iter()
            .map(|(node, seats)| (*node, seats.values().map(|one| one.generation).collect::<Vec<_>>()))
            .collect::<Vec<_>>()
    };
    let nodes = snapshot(&[true, true, true]);
    assigner.set_replicas(on(&[2, 3]));
    assert!(assigner.spread(&nodes) && !assigner.spread(&nodes), "said once");
    assert!(assigner.moves(&nodes, at(0)).is_empty() && assigner.unplaced().is_empty());
    assert_eq!(runs(&assigner), [(node(2), vec![3]), (node(3), vec![3])]);
    // One that is away keeps its run, and the one that is shown may go.
    assert!(!assigner.spread(&snapshot(&[true, false, true])));
    assigner.set_replicas(on(&[1, 3]));
    assert!(assigner.spread(&nodes) && assigner.moves(&nodes, at(60)).is_empty());
    assert_eq!(runs(&assigner), [(node(1), vec![3]), (node(2), vec![3]), (node(3), vec![3])], "2 drains");
    assigner.look_at_leavers(|_| 0, &nodes, at(60));
    assert_eq!(assigner.look_at_leavers(|_| 0, &nodes, at(62)).len(), 1);
    assert_eq!(runs(&assigner), [(node(1), vec![3]), (node(3), vec![3])]);
    // Another document is another generation for all of them.
    assigner.set(WorkloadRecord { generation: 4, ..record(1, &[], None) });
    assert!(assigner.spread(&nodes));
    assert_eq!(runs(&assigner), [(node(1), vec![4]), (node(3), vec![4])]);
    // Who does not pay has none, and nobody else gets it.
    assigner.set_replicas(on(&[]));
    assert!(assigner.spread(&nodes) && assigner.moves(&nodes, at(60)).is_empty());
    assert!(runs(&assigner).is_empty() && assigner.unplaced() == BTreeSet::from([service]));
    assert_eq!(assigner.leavers().count(), 0, "what drained before is not asked to drain again");
    // Without a tier it is one run again.
    assigner.set_replicas(Replicas::new());
    assigner.spread(&nodes);
    assert_eq!(assigner.moves(&nodes, at(60)).len(), 1);
}

#[test]
fn replicas_that_leave_their_nodes_end_once_nothing_is_open_or_their_time_is_over() {
    let service = record(1, &[], None).service;
    let on = |numbers: &[u8]| Replicas::from([(service, numbers.iter().map(|n| node(*n)).collect())]);
    let nodes = snapshot(&[true, true, true]);
    let begun = |to: Replicas| {
        let drain = Duration::from_secs(10);
        let mut assigner =
            Assigner::new(vec![record(1, &[], None)], FailOvers::default(), PATIENCE).draining_for(drain);
        assigner.set_replicas(on(&[1, 2, 3]));
        assigner.spread(&nodes);
        assigner.set_replicas(to);
        assert_eq!(assigner.spread(&nodes), assigner.leavers().count() > 0, "where it runs is news");
        assigner
    };
    let gone = |over: Vec<Leaver>| over.iter().filter_map(|it| it.record.node).collect::<Vec<_>>();

    // Without a tier it stays on the node that is shown, and the two others drain: at one of them something is open.
    let mut assigner = begun(Replicas::new());
    assert_eq!(assigner.leavers().count(), 2);
    assert!(assigner.copies().next().is_none(), "they get no share of the requests");
    assert_eq!(assigner.assignments().len(), 3, "they go on");
    assert!(assigner.moves(&nodes, at(100)).is_empty());
    let open = |run: &WorkloadRecord| u32::from(run.node == Some(node(3)));
    for secs in 0..2 {
        assert!(
            assigner.look_at_leavers(open, &nodes, at(100 + secs)).is_empty(),
            "requests are on their way"
        );
    }
    assert_eq!(gone(assigner.look_at_leavers(open, &nodes, at(102))), [node(2)]);
    assert!(assigner.look_at_leavers(open, &nodes, at(109)).is_empty());
    assert_eq!(assigner.leavers().next().unwrap().until, Some(at(110)));
    assert_eq!(gone(assigner.look_at_leavers(open, &nodes, at(110))), [node(3)], "its time is over");
    assert_eq!(assigner.assignments().len(), 1);

    // Who gets a tier again meanwhile goes on as before.
    let mut assigner = begun(on(&[1]));
    let before = assigner.assignments();
    assigner.set_replicas(on(&[1, 2, 3]));
    assert!(assigner.spread(&nodes));
    assert_eq!((assigner.leavers().count(), assigner.assignments()), (0, before));

    // What is taken back, gets another document or loses its node does not drain.
    let mut assigner = begun(on(&[1]));
    assigner.remove(service);
    assert_eq!((assigner.leavers().count(), assigner.assignments().len()), (0, 0));
    let mut assigner = begun(on(&[1]));
    let mut less = nodes.clone();
    less.agents.remove(&node(2));
    assert_eq!(gone(assigner.look_at_leavers(|_| 1, &less, at(0))), [node(2)]);
    let mut assigner = begun(on(&[1, 2, 3]));
    assigner.set(WorkloadRecord { generation: 9, ..record(1, &[], None) });
    assigner.set_replicas(on(&[1]));
    assigner.spread(&nodes);
    assert_eq!((assigner.leavers().count(), assigner.assignments().len()), (0, 1));
}

#[test]
fn replicas_that_leave_end_with_their_document_and_their_time_is_counted_anew_by_a_clock_that_was_set_back() {
    let service = record(1, &[], None).service;
    let nodes = snapshot(&[true, true]);
    let gpu = |service| WorkloadRecord {
        document: r#"{"limits": {"gpu_count": 1, "gpu_policy": "required"}}"#.to_owned(),
        ..record(service, &[], Some(1))
    };
    let begun = || {
        let mut assigner =
            Assigner::new(vec![gpu(1)], FailOvers::default(), PATIENCE).draining_for(Duration::from_secs(10));
        assigner.set_replicas(Replicas::from([(service, BTreeSet::from([node(1), node(2)]))]));
        assigner.spread(&nodes);
        assigner.set_replicas(Replicas::new());
        assigner.spread(&nodes);
        assert!(assigner.look_at_leavers(|_| 1, &nodes, at(1000)).is_empty());
        assigner
    };
    // It needs its place as long as it is there: GPUs are not given twice.
    let mut assigner = begun();
    let mut held = nodes.clone();
    for view in held.agents.values_mut() {
        let memory_bytes = 64 << 30;
        let has = Inventory { cpu_millis: 9000, memory_bytes, gpus: 1, slots: 2, ..Inventory::default() };
        view.inventory = Some(Arc::new(has));
    }
    assigner.set(gpu(2));
    let drained = BTreeSet::from([node(1)]);
    let why = assigner.place_beside(&gpu(2), &drained, &held).unwrap_err();
    assert!(why.contains("no node has room"), "{why}");
    let why = assigner.place_beside_replicas(&gpu(2), &[node(2)], &drained, &held).unwrap_err();
    assert!(why.contains("n2 has no room for both"), "{why}");
    assigner.forget_leavers();
    assert_eq!(assigner.place_beside(&gpu(2), &drained, &held), Ok((node(2), 1)));

    // Another document, without a tier by then.
    let mut assigner = begun();
    assigner.set(WorkloadRecord { generation: 4, ..record(1, &[], Some(1)) });
    assigner.spread(&nodes);
    assert_eq!(assigner.look_at_leavers(|_| 1, &nodes, at(1001)).len(), 1);

    let mut assigner = begun();
    assert!(assigner.look_at_leavers(|_| 1, &nodes, at(100)).is_empty());
    assert!(assigner.look_at_leavers(|_| 1, &nodes, at(109)).is_empty());
    assert_eq!(assigner.look_at_leavers(|_| 1, &nodes, at(110)).len(), 1);
}

#[test]
fn the_node_of_the_run_that_is_shown_is_to_be_stored_and_nothing_leaves_at_the_start_of_a_hub() {
    let service = record(1, &[], None).service;
    let nodes = snapshot(&[true, true, true]);
    let mut assigner = Assigner::new(vec![record(1, &[], Some(1))], FailOvers::default(), PATIENCE);
    assigner.set_replicas(Replicas::from([(service, BTreeSet::from([node(2), node(3)]))]));
    assert!(assigner.spread(&nodes));
    assert_eq!(assigner.leavers().count(), 1, "it ran elsewhere before");
    assigner.forget_leavers();
    assert_eq!((assigner.leavers().count(), assigner.assignments().len()), (0, 2));
    let unsaved = |assigner: &Assigner| {
        assigner.unsaved().iter().map(|it| (it.generation, it.node)).collect::<Vec<_>>()
    };
    assert_eq!(unsaved(&assigner), [(3, Some(node(2)))], "with the generation that it has");
    assigner.spread(&nodes);
    assert_eq!(unsaved(&assigner).len(), 1, "until the store has it");
    assigner.saved(service);
    assigner.spread(&nodes);
    assert!(unsaved(&assigner).is_empty());
    // What the store gives is there already, and what is gone is not asked for.
    assigner.set(record(1, &[], None));
    assigner.spread(&nodes);
    assert_eq!(unsaved(&assigner).len(), 1);
    assigner.set(record(1, &[], Some(3)));
    assigner.spread(&nodes);
    assert!(unsaved(&assigner).is_empty());
    assigner.set(record(1, &[], None));
    assigner.spread(&nodes);
    assigner.remove(service);
    assert!(unsaved(&assigner).is_empty());
}
