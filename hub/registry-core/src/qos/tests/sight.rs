//! What the hub sees by itself: what is up, down, gone or unknown.

use super::*;

fn registry() -> Registry {
    let mut registry = Registry::restore(
        Vec::new(),
        Vec::new(),
        std::collections::BTreeMap::new(),
        1,
        NOW,
        Duration::from_secs(3),
    );
    registry.add_agent(Agent {
        id: agent(),
        name: "one".to_owned(),
        wireguard_key: WgPublicKey::from_bytes([1; 32]),
        lease: OverlayLease { v4: [10, 88, 0, 2].into(), v6: [0xfd00, 0, 0, 0, 0, 0, 0, 2].into() },
        joined_at: NOW,
        generation: 1,
        token: "0000000000000000".parse().unwrap(),
        services: ServiceGrant::FirstClaim,
        agent_version: String::new(),
    });
    registry
}

/// Looks once a second for so many seconds; gives what was seen of the service, up and down, in seconds.
struct Watch {
    sight: Sight,
    workloads: WorkloadsView,
    now: Timestamp,
}

impl Watch {
    fn new(patience: Duration) -> Self {
        Self { sight: Sight::new(patience), workloads: WorkloadsView::default(), now: NOW }
    }

    fn look(&mut self, registry: &mut Registry, seconds: u64) -> (u64, u64) {
        let mut book = Book::new();
        for _ in 0..seconds {
            self.now = self.now.plus(SECOND);
            let snapshot = registry.snapshot();
            self.sight.look(&snapshot, &self.workloads, SECOND, self.now, &mut book).unwrap();
        }
        let mut all = Seen::default();
        for ((subject, _), seen) in book.take().seen {
            if subject == Subject::Service(SERVICE) {
                all.add(seen);
            }
        }
        (all.up / 1000, all.down / 1000)
    }
}

fn offer(registry: &mut Registry, health: Health, now: Timestamp) {
    let target = OfferedTarget { service: SERVICE, port: 80, health, reason: String::new(), generation: 0 };
    registry.set_targets(agent(), vec![target], now);
}

#[test]
fn what_vanishes_is_down_and_what_is_taken_back_is_gone() {
    let mut registry = registry();
    let mut watch = Watch::new(Duration::ZERO);
    watch.look(&mut registry, 1);
    registry.set_connected(agent(), true, NOW);
    registry.set_data_plane(agent(), true);
    offer(&mut registry, Health::Unknown, NOW);
    assert_eq!(watch.look(&mut registry, 5), (0, 0), "not checked yet");
    offer(&mut registry, Health::Healthy, NOW);
    assert_eq!(watch.look(&mut registry, 10), (10, 0));
    offer(&mut registry, Health::Unhealthy, NOW);
    assert_eq!(watch.look(&mut registry, 10), (0, 10));
    offer(&mut registry, Health::Healthy, NOW);
    registry.set_data_plane(agent(), false);
    assert_eq!(watch.look(&mut registry, 10), (0, 10), "nobody can reach it");
    registry.set_connected(agent(), false, NOW);
    registry.handle_timeout(NOW.plus(Duration::from_secs(60)));
    assert!(registry.snapshot().by_service.is_empty());
    assert_eq!(watch.look(&mut registry, 10), (0, 10), "its machine vanished");
    registry.set_connected(agent(), true, NOW);
    registry.set_data_plane(agent(), true);
    assert_eq!(watch.look(&mut registry, 10), (0, 0), "its machine is there, and offers it no more");
}

fn workload(document: &str) -> WorkloadsView {
    let record = WorkloadRecord {
        service: SERVICE,
        generation: 1,
        document: document.to_owned(),
        nodes: BTreeSet::new(),
        node: Some(agent()),
        keystore: None,
        changed_at: NOW,
        version: 1,
        slot: 0,
    };
    let status = WorkloadStatus::new(SERVICE, 1, WorkloadState::Running, NOW);
    WorkloadsView {
        records: [(SERVICE, Arc::new(record))].into(),
        statuses: [(SERVICE, status)].into(),
        ..WorkloadsView::default()
    }
}

#[test]
fn a_workload_that_ran_is_down_once_its_machine_vanished_or_its_port_is_gone() {
    let mut registry = registry();
    registry.set_connected(agent(), true, NOW);
    registry.set_data_plane(agent(), true);
    let mut watch = Watch::new(Duration::ZERO);
    watch.workloads = workload("one");
    watch.look(&mut registry, 1);
    assert_eq!(watch.look(&mut registry, 5), (5, 0), "it has no port, and runs");
    registry.set_data_plane(agent(), false);
    assert_eq!(watch.look(&mut registry, 5), (0, 5));
    registry.set_connected(agent(), false, NOW);
    assert_eq!(watch.look(&mut registry, 5), (0, 5), "what it said last counts no more");
    registry.set_connected(agent(), true, NOW);
    registry.set_data_plane(agent(), true);
    offer(&mut registry, Health::Healthy, NOW);
    assert_eq!(watch.look(&mut registry, 5), (5, 0));
    registry.set_targets(agent(), Vec::new(), NOW);
    assert_eq!(watch.look(&mut registry, 5), (0, 5), "its process runs, and its port is gone");
    watch.workloads = workload("a version without a port");
    assert_eq!(watch.look(&mut registry, 5), (5, 0));
}

#[test]
fn an_agent_offers_what_it_does_and_not_what_another_might() {
    let mut registry = registry();
    let target = |port, agent| TargetKey { service: SERVICE, agent, port };
    assert!(!registry.offers(target(80, agent())));
    offer(&mut registry, Health::Healthy, NOW);
    assert!(registry.offers(target(80, agent())));
    assert!(!registry.offers(target(81, agent())));
    assert!(!registry.offers(target(80, AgentId::from_bytes([2; 16]))));
    registry.set_targets(agent(), Vec::new(), NOW);
    assert!(!registry.offers(target(80, agent())));
}

#[test]
fn an_outage_goes_on_over_a_restart_of_the_hub() {
    let mut registry = registry();
    let mut watch = Watch::new(Duration::from_secs(30));
    watch.sight.remember([(SERVICE, agent())].into());
    assert_eq!(watch.look(&mut registry, 29), (0, 0), "it has time to come back");
    assert_eq!(watch.look(&mut registry, 10), (0, 10));
    registry.set_connected(agent(), true, NOW);
    registry.set_data_plane(agent(), true);
    assert_eq!(watch.look(&mut registry, 10), (0, 0), "its machine is back, and offers it no more");
}

#[test]
fn a_clock_that_is_ahead_or_was_set_deletes_nothing() {
    let hour = |hours: u32| Duration::from_secs(3600) * hours;
    let mut good = ClockWatch::new(Some(NOW), NOW.plus(hour(1)));
    assert_eq!(good.may_forget(NOW.plus(hour(2)), hour(1)), Ok(()));
    assert_eq!(good.may_forget(NOW.plus(hour(9000)), hour(2)), Err(ClockDoubt::Stepped));
    assert_eq!(good.may_forget(NOW.plus(hour(9001)), hour(3)), Err(ClockDoubt::Ahead));
    assert_eq!(good.may_forget(NOW.plus(hour(4)), hour(4)), Err(ClockDoubt::Stepped), "it is set back");
    assert_eq!(good.may_forget(NOW.plus(hour(5)), hour(5)), Ok(()));
    let mut ahead = ClockWatch::new(Some(NOW), NOW.plus(hour(1000)));
    assert_eq!(ahead.may_forget(NOW.plus(hour(1023)), hour(23)), Err(ClockDoubt::Ahead));
    assert_eq!(ahead.may_forget(NOW.plus(hour(1024)), hour(24)), Ok(()), "the hub was off so long");
    assert_eq!(ClockWatch::new(None, NOW).may_forget(NOW, Duration::ZERO), Ok(()));
}

#[test]
fn after_a_start_machines_have_time_to_come_back_and_a_stopped_hub_saw_nothing() {
    let mut registry = registry();
    registry.set_connected(agent(), true, NOW);
    offer(&mut registry, Health::Healthy, NOW);
    let mut watch = Watch::new(Duration::from_secs(30));
    assert_eq!(watch.look(&mut registry, 20), (0, 0), "its tunnel is not back yet");
    assert_eq!(watch.look(&mut registry, 20), (0, 11), "and now it should be");
    registry.set_data_plane(agent(), true);
    assert_eq!(watch.look(&mut registry, 5), (5, 0));
    let (mut book, snapshot) = (Book::new(), registry.snapshot());
    let later = watch.now.plus(Duration::from_secs(3600));
    let hour = Duration::from_secs(3600);
    watch.sight.look(&snapshot, &WorkloadsView::default(), hour, later, &mut book).unwrap();
    assert!(book.take().is_empty(), "the hub did not run, or was stopped");
}
