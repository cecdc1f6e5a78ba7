use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::{Agent, AgentView, ServiceGrant};
use blueprint_common_types::{OverlayLease, TokenId, WgPublicKey};

const SERVICE: ServiceKey = ServiceKey { blueprint: 7, service: 1 };

fn node(number: u8) -> AgentId {
    AgentId::from_bytes([number; 16])
}

fn at(secs: u64) -> Timestamp {
    Timestamp::from_millis(10_000_000 + secs * 1000)
}

/// Nodes 1.. with so many processors each.
fn nodes(cpus: &[u32]) -> RegistrySnapshot {
    let view = |(position, cpu_millis): (usize, &u32)| {
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
        let inventory = Inventory { cpu_millis: *cpu_millis, ..Inventory::default() };
        let view = AgentView {
            agent: Arc::new(agent),
            connected: true,
            data_plane: true,
            runs_workloads: true,
            inventory: Some(Arc::new(inventory)),
            last_seen: Some(at(0)),
        };
        (node(number), view)
    };
    RegistrySnapshot { agents: cpus.iter().enumerate().map(view).collect(), ..RegistrySnapshot::default() }
}

fn record(generation: u64) -> WorkloadRecord {
    WorkloadRecord {
        service: SERVICE,
        generation,
        document: "{}".to_owned(),
        nodes: BTreeSet::new(),
        node: Some(node(1)),
        keystore: None,
        slot: 0,
        version: 1,
        changed_at: at(100),
    }
}

fn refuses(generation: u64, state: WorkloadState) -> WorkloadStatus {
    let status = WorkloadStatus::new(SERVICE, generation, state, at(0));
    WorkloadStatus { refused: true, reason: "no engine".to_owned(), ..status }
}

#[test]
fn a_refusal_is_of_one_assignment_and_over_once_it_runs() {
    let mut all = Refusals::default();
    assert_eq!(all.of(&record(3)), None);
    all.hear(&refuses(3, WorkloadState::BackingOff));
    assert_eq!(all.of(&record(4)), None, "an older assignment");
    let refusal = all.of(&record(3)).unwrap();
    assert_eq!((refusal.reason.as_str(), refusal.is_final), ("no engine", false));
    all.hear(&refuses(3, WorkloadState::Failed));
    assert!(all.of(&record(3)).unwrap().is_final);
    all.hear(&refuses(3, WorkloadState::Running));
    assert_eq!(all.of(&record(3)), None);
    all.hear(&refuses(3, WorkloadState::Failed));
    all.hear(&WorkloadStatus { refused: false, ..refuses(3, WorkloadState::Failed) });
    assert_eq!(all.of(&record(3)), None);
}

#[test]
fn refusals_are_remembered_by_the_journal_but_for_those_of_an_earlier_document() {
    let event = |kind, node, secs| WorkloadEvent {
        service: SERVICE,
        generation: 3,
        at: at(secs),
        node: Some(node),
        kind,
        reason: String::new(),
    };
    let events = [
        event(EventKind::Refused, node(1), 99),
        event(EventKind::Refused, node(2), 100),
        event(EventKind::FailOver, node(3), 101),
    ];
    let mut all = Refusals::restore(&events, &[record(3)]);
    assert_eq!(all.except(SERVICE), BTreeSet::from([node(2)]));
    assert!(Refusals::restore(&events, &[]).except(SERVICE).is_empty(), "it was removed");
    all.hear(&refuses(3, WorkloadState::Failed));
    assert_eq!(all.poll_timeout(at(200)), Some(at(3700)));
    all.handle_look(&nodes(&[1, 1]), at(3700));
    assert!(all.except(SERVICE).is_empty() && all.poll_timeout(at(3700)).is_none());
}

#[test]
fn who_says_another_inventory_each_time_is_asked_no_more_than_five_times() {
    let mut all = Refusals::default();
    for round in 1..=20u32 {
        all.handle_move(SERVICE, node(1), at(u64::from(round)));
        all.handle_look(&nodes(&[round]), at(u64::from(round)));
        assert_eq!(all.except(SERVICE), BTreeSet::from([node(1)]), "{round}: nothing has changed yet");
        all.handle_look(&nodes(&[round + 1]), at(u64::from(round)));
        assert_eq!(all.except(SERVICE).is_empty(), round < u32::from(MOST_REFUSALS), "{round}");
    }
}

proptest! {
    #[test]
    fn whoever_refused_is_not_asked_within_the_hour_and_the_next_look_is_later(
        steps in prop::collection::vec((0u64..900, 1u8..5, any::<bool>()), 1..60)
    ) {
        let (mut all, mut now, mut refused) = (Refusals::default(), 0, BTreeMap::new());
        for (secs, number, is_refused) in steps {
            now += secs;
            all.handle_look(&nodes(&[1, 1, 1, 1]), at(now));
            let except = all.except(SERVICE);
            let recent = refused.iter().filter(|(_, when)| now - **when < 3600).map(|(node, _)| *node);
            prop_assert_eq!(&except, &recent.collect::<BTreeSet<_>>());
            all.hear(&refuses(1, WorkloadState::Failed));
            prop_assert!(all.poll_timeout(at(now)).is_none_or(|next| next > at(now)));
            if is_refused && !except.contains(&node(number)) {
                all.handle_move(SERVICE, node(number), at(now));
                refused.insert(node(number), now);
            }
        }
        all.handle_look(&nodes(&[]), at(now).plus(Duration::from_secs(3600)));
        prop_assert!(all.past.is_empty());
    }
}
