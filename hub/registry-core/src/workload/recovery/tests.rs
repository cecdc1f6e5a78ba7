use proptest::prelude::*;

use super::*;

const SERVICE: ServiceKey = ServiceKey { blueprint: 7, service: 1 };

fn node(number: u8) -> AgentId {
    AgentId::from_bytes([number; 16])
}

fn at(secs: u64) -> Timestamp {
    Timestamp::from_millis(10_000_000 + secs * 1000)
}

fn record(on: u8, generation: u64, moves_per_hour: u32) -> WorkloadRecord {
    WorkloadRecord {
        service: SERVICE,
        generation,
        document: format!(r#"{{"health":{{"recovery":{{"moves_per_hour":{moves_per_hour}}}}}}}"#),
        nodes: BTreeSet::new(),
        node: Some(node(on)),
        keystore: None,
        slot: 0,
        version: 1,
        changed_at: at(0),
    }
}

fn asks(generation: u64) -> WorkloadStatus {
    let status = WorkloadStatus::new(SERVICE, generation, WorkloadState::Running, at(0));
    WorkloadStatus {
        asks_move: true,
        health: Some(Health::Unhealthy),
        health_reason: "answers 503".to_owned(),
        ..status
    }
}

#[test]
fn who_asks_goes_to_nodes_that_it_has_not_left_and_no_more_often_than_said() {
    let mut all = FailOvers::default();
    assert_eq!(all.judge(&record(1, 3, 2), at(0)), None);
    all.hear(&asks(3));
    assert_eq!(all.judge(&record(1, 4, 2), at(0)), None, "an older assignment asked");
    let reason = "answers 503".to_owned();
    let first = Verdict::Move { except: BTreeSet::new(), reason: reason.clone() };
    assert_eq!(all.judge(&record(1, 3, 2), at(0)), Some(first));
    all.handle_move(SERVICE, node(1), at(0));
    assert_eq!(all.judge(&record(2, 4, 2), at(1)), None);
    all.hear(&asks(4));
    let second = Verdict::Move { except: BTreeSet::from([node(1)]), reason };
    assert_eq!(all.judge(&record(2, 4, 2), at(1)), Some(second));
    all.handle_move(SERVICE, node(2), at(60));
    all.hear(&asks(5));
    assert_eq!(all.judge(&record(3, 5, 2), at(61)), Some(Verdict::Stay { until: at(3600), moves: 2 }));
    assert_eq!(all.poll_timeout(at(61)), Some(at(3600)));
    assert!(matches!(all.judge(&record(3, 5, 2), at(3600)), Some(Verdict::Move { .. })));
    // It is well again, and its node has not watched it for long enough to begin anew.
    all.hear(&WorkloadStatus { health: Some(Health::Healthy), ..asks(5) });
    assert_eq!(all.judge(&record(3, 5, 2), at(3600)), None);
    all.hear(&asks(5));
    assert!(all.is_asked(&record(3, 5, 2)));
    // It got well by itself.
    all.hear(&WorkloadStatus { asks_move: false, ..asks(5) });
    assert_eq!((all.judge(&record(3, 5, 2), at(3600)), all.poll_timeout(at(3600))), (None, None));
}

#[test]
fn moves_are_remembered_by_the_journal_over_a_restart_of_the_hub() {
    let event = |kind, secs| WorkloadEvent {
        service: SERVICE,
        generation: 3,
        at: at(secs),
        node: Some(node(1)),
        kind,
        reason: String::new(),
    };
    let mut all = FailOvers::restore(&[
        event(EventKind::FailOver, 10),
        event(EventKind::Move, 20),
        event(EventKind::Restart, 30),
    ]);
    all.hear(&asks(3));
    assert_eq!(all.judge(&record(2, 3, 1), at(40)), Some(Verdict::Stay { until: at(3610), moves: 1 }));
    assert_eq!(all.judge(&record(2, 3, 0), at(40)), Some(Verdict::Stay { until: at(3610), moves: 1 }));
}

#[test]
fn every_kind_has_one_name() {
    for kind in EventKind::ALL {
        assert_eq!(EventKind::find(kind.label()), Some(kind));
    }
    for kind in RecoveryKind::ALL {
        assert_eq!(EventKind::from(kind).label(), kind.label());
        assert!(!EventKind::from(kind).is_of_hub());
    }
    assert_eq!(EventKind::find("other"), None);
}

proptest! {
    #[test]
    fn a_workload_that_is_never_well_moves_no_more_often_in_any_hour_than_said(
        pauses in prop::collection::vec(1u64..1000, 1..200), most in 0u32..5,
    ) {
        let mut all = FailOvers::default();
        let (mut now, mut on, mut generation, mut moves) = (0, 1u8, 1, Vec::<(u64, u8)>::new());
        for pause in pauses {
            now += pause;
            all.hear(&asks(generation));
            match all.judge(&record(on, generation, most), at(now)) {
                Some(Verdict::Move { except, .. }) => {
                    let Some(to) = (1..=6).find(|to| *to != on && !except.contains(&node(*to))) else { continue };
                    all.handle_move(SERVICE, node(on), at(now));
                    moves.push((now, on));
                    (on, generation) = (to, generation + 1);
                }
                Some(Verdict::Stay { until, .. }) => prop_assert!(until > at(now)),
                None => prop_assert!(false, "it asks"),
            }
            let recent: Vec<u8> = moves.iter().filter(|(at, _)| now - at < 3600).map(|(_, from)| *from).collect();
            prop_assert!(recent.len() <= usize::try_from(most).unwrap());
            prop_assert_eq!(recent.iter().collect::<BTreeSet<_>>().len(), recent.len(), "a carousel");
        }
    }
}
