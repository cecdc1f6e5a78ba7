//! Rules of the registry under virtual time.

use std::collections::BTreeMap;
use std::time::Duration;

use blueprint_common_types::workload::Inventory;
use blueprint_common_types::{
    AgentId, Health, OverlayLease, ServiceKey, TargetKey, Timestamp, TokenId, WgPublicKey,
};
use proptest::prelude::*;

use super::*;
use crate::WHOLE;

const TTL: Duration = Duration::from_secs(30);

/// A registry and the only clock it sees.
struct Sim {
    registry: Registry,
    now: Timestamp,
}

impl Sim {
    fn new(agents: &[(u8, ServiceGrant)]) -> Self {
        let now = Timestamp::from_millis(1_000_000);
        let agents = agents.iter().map(|(n, grant)| agent(*n, grant.clone())).collect();
        Self { registry: Registry::restore(agents, Vec::new(), BTreeMap::new(), 0, now, TTL), now }
    }

    fn advance(&mut self, by: Duration) -> Vec<Change> {
        self.now = self.now.plus(by);
        self.registry.handle_timeout(self.now)
    }

    fn offer(&mut self, agent: u8, targets: &[(u64, u16)]) -> Outcome {
        let offered = targets.iter().map(|(s, port)| offered(*s, *port, Health::Healthy)).collect();
        self.registry.set_targets(id(agent), offered, self.now)
    }

    fn seen(&mut self) -> Vec<(u64, u8, u16, Health)> {
        let snapshot = self.registry.snapshot();
        let short = |record: &TargetRecord| {
            let [first, ..] = *record.key.agent.as_bytes();
            (record.key.service.service, first, record.key.port, record.health)
        };
        snapshot.targets.values().map(short).collect()
    }
}

fn id(n: u8) -> AgentId {
    AgentId::from_bytes([n; 16])
}

fn service(n: u64) -> ServiceKey {
    ServiceKey { blueprint: 7, service: n }
}

fn only(services: &[u64]) -> ServiceGrant {
    ServiceGrant::Only(services.iter().map(|n| service(*n)).collect())
}

fn offered(s: u64, port: u16, health: Health) -> OfferedTarget {
    OfferedTarget { service: service(s), port, health, reason: String::new(), generation: 0 }
}

fn agent(n: u8, services: ServiceGrant) -> Agent {
    Agent {
        id: id(n),
        name: format!("node-{n}"),
        wireguard_key: WgPublicKey::from_bytes([n; 32]),
        lease: OverlayLease {
            v4: [10, 88, 0, n].into(),
            v6: [0xfd00, 0, 0, 0, 0, 0, 0, u16::from(n)].into(),
        },
        joined_at: Timestamp::from_millis(1),
        generation: 1,
        token: TokenId::from_bytes([n; 8]),
        services,
        agent_version: "0.1.0".to_owned(),
    }
}

fn bodies(changes: &[Change]) -> Vec<&'static str> {
    let name = |change: &Change| match change.body {
        ChangeBody::Upsert(_) => "upsert",
        ChangeBody::Remove(_) => "remove",
        ChangeBody::Claim { .. } => "claim",
        ChangeBody::Unclaim { .. } => "unclaim",
    };
    changes.iter().map(name).collect()
}

#[test]
fn a_target_is_healthy_only_while_its_data_plane_echoes() {
    let mut sim = Sim::new(&[(1, ServiceGrant::FirstClaim)]);
    assert_eq!(bodies(&sim.offer(1, &[(42, 80)]).changes), ["claim", "upsert"]);
    assert_eq!(sim.seen(), [(42, 1, 80, Health::Unhealthy)]);

    assert_eq!(bodies(&sim.registry.set_data_plane(id(1), true)), ["upsert"]);
    assert_eq!(sim.seen(), [(42, 1, 80, Health::Healthy)]);
    assert_eq!(sim.registry.set_data_plane(id(1), true), []);

    let lost = sim.registry.set_data_plane(id(1), false);
    let ChangeBody::Upsert(record) = &lost[0].body else { panic!("{lost:?}") };
    assert_eq!((record.health, record.reason.as_str()), (Health::Unhealthy, DATA_PLANE_REASON));
    assert_eq!(record.address.to_string(), "10.88.0.1:80");
}

#[test]
fn the_hubs_list_becomes_equal_to_the_agents() {
    let mut sim = Sim::new(&[(1, ServiceGrant::FirstClaim)]);
    sim.registry.set_data_plane(id(1), true);
    sim.offer(1, &[(1, 80), (2, 81)]);
    assert_eq!(sim.offer(1, &[(1, 80), (2, 81)]).changes, []);
    let outcome = sim.offer(1, &[(2, 81), (2, 82)]);
    assert_eq!(bodies(&outcome.changes), ["remove", "upsert"]);
    assert_eq!(sim.seen(), [(2, 1, 81, Health::Healthy), (2, 1, 82, Health::Healthy)]);
    let unhealthy = vec![offered(2, 81, Health::Unhealthy), offered(2, 82, Health::Healthy)];
    assert_eq!(bodies(&sim.registry.set_targets(id(1), unhealthy, sim.now).changes), ["upsert"]);
}

#[test]
fn a_claim_stays_until_its_agent_is_removed() {
    let mut sim = Sim::new(&[(1, ServiceGrant::FirstClaim), (2, ServiceGrant::FirstClaim)]);
    sim.offer(1, &[(42, 80)]);
    sim.offer(1, &[]);
    let key = TargetKey { service: service(42), agent: id(2), port: 80 };
    assert_eq!(sim.offer(2, &[(42, 80)]).refused, [(key, RefusedTarget::Claimed)]);
    assert_eq!(bodies(&sim.registry.remove_agent(id(1))), ["unclaim"]);
    assert_eq!(sim.offer(2, &[(42, 80)]).refused, []);
    assert_eq!(bodies(&sim.registry.remove_agent(id(2))), ["remove", "unclaim"]);
    assert_eq!(sim.registry.remove_agent(id(2)), []);
    assert_eq!(sim.registry.poll_timeout(), None);
}

#[test]
fn agents_granted_by_name_share_a_service_and_keep_others_out() {
    let mut sim = Sim::new(&[(1, only(&[42])), (2, only(&[42])), (3, ServiceGrant::FirstClaim)]);
    assert_eq!(bodies(&sim.offer(1, &[(42, 80)]).changes), ["upsert"]);
    assert_eq!(sim.offer(2, &[(42, 80)]).refused, []);
    assert_eq!(sim.offer(2, &[(43, 80)]).refused[0].1, RefusedTarget::NotGranted);
    assert_eq!(sim.offer(3, &[(42, 80)]).refused[0].1, RefusedTarget::Claimed);
    sim.registry.remove_agent(id(1));
    assert_eq!(sim.offer(3, &[(42, 80)]).refused[0].1, RefusedTarget::Claimed);
    sim.registry.remove_agent(id(2));
    assert_eq!(sim.offer(3, &[(42, 80)]).refused, []);
}

#[test]
fn what_an_agent_may_offer_is_bounded() {
    let mut sim = Sim::new(&[(1, ServiceGrant::FirstClaim)]);
    let many: Vec<_> = (0..200).map(|n| (n, 80)).collect();
    let outcome = sim.offer(1, &many);
    assert_eq!(sim.seen().len(), MAX_TARGETS_PER_AGENT);
    assert_eq!(outcome.refused.len(), MAX_TARGETS_PER_AGENT);
    assert_eq!(sim.offer(1, &[(500, 80)]).refused[0].1, RefusedTarget::TooMany);
    assert_eq!(sim.offer(1, &[(1, 0)]).refused[0].1, RefusedTarget::Port);
    assert_eq!(sim.offer(9, &[(1, 1)]).refused[0].1, RefusedTarget::UnknownAgent);

    let long = OfferedTarget { reason: "x\n".repeat(1000), ..offered(1, 80, Health::Unhealthy) };
    sim.registry.set_data_plane(id(1), true);
    sim.registry.set_targets(id(1), vec![long], sim.now);
    let snapshot = sim.registry.snapshot();
    let cut = format!("{}\u{2026}", "x".repeat(MAX_REASON_CHARS - 1));
    assert_eq!(snapshot.targets.values().next().unwrap().reason, cut);
}

#[test]
fn a_lease_ends_unless_it_is_renewed() {
    let mut sim = Sim::new(&[(1, ServiceGrant::FirstClaim)]);
    sim.offer(1, &[(42, 80)]);
    assert_eq!(sim.registry.poll_timeout(), Some(sim.now.plus(TTL)));
    assert_eq!(sim.advance(TTL / 2), []);
    assert_eq!(sim.registry.renew(id(1), sim.now), []);
    assert_eq!(sim.advance(TTL - Duration::from_millis(1)), []);
    assert_eq!(bodies(&sim.advance(Duration::from_millis(1))), ["remove"]);
    assert_eq!(sim.registry.poll_timeout(), None);
    assert_eq!(sim.registry.renew(id(1), sim.now), [], "a lost agent says again what it offers");
}

#[test]
fn targets_that_ran_out_under_an_open_session_come_back_with_a_heartbeat() {
    let mut sim = Sim::new(&[(1, ServiceGrant::FirstClaim)]);
    sim.registry.set_connected(id(1), true, sim.now);
    sim.offer(1, &[(42, 80)]);
    assert_eq!(bodies(&sim.advance(TTL)), ["remove"]);
    assert_eq!(bodies(&sim.registry.renew(id(1), sim.now)), ["upsert"]);
    assert_eq!(bodies(&sim.advance(TTL)), ["remove"]);
    sim.registry.set_connected(id(1), false, sim.now);
    assert_eq!(sim.registry.renew(id(1), sim.now), []);
}

#[test]
fn a_watcher_follows_or_begins_anew() {
    let mut sim = Sim::new(&[(1, ServiceGrant::FirstClaim)]);
    sim.offer(1, &[(1, 80), (2, 80)]);
    assert_eq!(sim.registry.index(), 4);
    let after: Vec<_> = sim.registry.changes_after(2).unwrap().iter().map(|c| c.index).collect();
    assert_eq!(after, [3, 4]);
    assert_eq!(sim.registry.changes_after(4), Some(Vec::new()));
    assert_eq!(sim.registry.changes_after(5), None, "an index of another time");
    for round in 0..u64::try_from(WATCH_LOG).unwrap() {
        sim.registry.set_data_plane(id(1), round % 2 == 0);
    }
    assert_eq!(sim.registry.changes_after(4), None, "too old");
    let oldest = sim.registry.index() - u64::try_from(WATCH_LOG).unwrap();
    assert_eq!(sim.registry.changes_after(oldest).unwrap().len(), WATCH_LOG);
    assert_eq!(sim.registry.changes_after(oldest - 1), None);
}

#[test]
fn a_restart_keeps_targets_but_trusts_none() {
    let mut sim = Sim::new(&[(1, ServiceGrant::FirstClaim)]);
    sim.registry.set_data_plane(id(1), true);
    let mut changes = sim.offer(1, &[(1, 80)]).changes;
    changes.extend(sim.registry.set_data_plane(id(1), false));
    let targets = sim.registry.snapshot().targets.values().cloned().collect();
    let claims = BTreeMap::from([(service(1), id(1)), (service(2), id(9))]);
    let later = sim.now.plus(TTL * 10);
    let agents = vec![agent(1, ServiceGrant::FirstClaim), agent(2, ServiceGrant::FirstClaim)];
    let mut again = Sim { registry: Registry::restore(agents, targets, claims, 100, later, TTL), now: later };

    assert_eq!(again.seen(), [(1, 1, 80, Health::Unhealthy)]);
    assert_eq!(again.registry.poll_timeout(), Some(later.plus(TTL)));
    assert_eq!(again.registry.changes_after(3), None);
    again.registry.set_data_plane(id(1), true);
    assert_eq!(again.seen(), [(1, 1, 80, Health::Unknown)]);
    assert_eq!(again.offer(2, &[(1, 80)]).refused[0].1, RefusedTarget::Claimed);
    assert_eq!(again.offer(2, &[(2, 80)]).refused, [], "a claim of an agent that is gone is void");
}

#[test]
fn a_snapshot_is_shared_until_something_happens() {
    let mut sim = Sim::new(&[(1, ServiceGrant::FirstClaim)]);
    let first = sim.registry.snapshot();
    assert!(Arc::ptr_eq(&first, &sim.registry.snapshot()));
    sim.registry.set_connected(id(1), true, sim.now);
    let second = sim.registry.snapshot();
    assert!(!Arc::ptr_eq(&first, &second));
    assert!(second.agents[&id(1)].connected && !first.agents[&id(1)].connected);
    sim.offer(1, &[(5, 80), (5, 81)]);
    let third = sim.registry.snapshot();
    assert_eq!(third.targets_of(service(5)).count(), 2);
    assert_eq!(third.targets_of(service(6)).count(), 0);
}

#[derive(Debug, Clone)]
enum Step {
    Offer(u8, Vec<(u64, u16)>),
    Renew(u8),
    Connected(u8, bool),
    DataPlane(u8, bool),
    Remove(u8),
    Add(u8, bool),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let agent = 1u8..5;
    prop_oneof![
        (agent.clone(), prop::collection::vec((0u64..6, 0u16..4), 0..6)).prop_map(|(a, t)| Step::Offer(a, t)),
        agent.clone().prop_map(Step::Renew),
        (agent.clone(), any::<bool>()).prop_map(|(a, up)| Step::Connected(a, up)),
        (agent.clone(), any::<bool>()).prop_map(|(a, up)| Step::DataPlane(a, up)),
        agent.clone().prop_map(Step::Remove),
        (agent, any::<bool>()).prop_map(|(a, by_name)| Step::Add(a, by_name)),
        (0u64..40_000).prop_map(Step::Wait),
    ]
}

fn apply(sim: &mut Sim, step: Step) -> Vec<Change> {
    match step {
        Step::Offer(a, targets) => sim.offer(a, &targets).changes,
        Step::Renew(a) => sim.registry.renew(id(a), sim.now),
        Step::Connected(a, up) => {
            sim.registry.set_connected(id(a), up, sim.now);
            Vec::new()
        }
        Step::DataPlane(a, up) => sim.registry.set_data_plane(id(a), up),
        Step::Remove(a) => sim.registry.remove_agent(id(a)),
        Step::Add(a, by_name) => {
            let grant = if by_name { only(&[1, 2]) } else { ServiceGrant::FirstClaim };
            sim.registry.add_agent(agent(a, grant));
            Vec::new()
        }
        Step::Wait(millis) => sim.advance(Duration::from_millis(millis)),
    }
}

/// What a watcher holds, who only ever hears of changes.
#[derive(Default)]
struct Watcher {
    index: u64,
    targets: BTreeMap<TargetKey, (Health, String)>,
    claims: BTreeMap<ServiceKey, AgentId>,
}

impl Watcher {
    fn follow(&mut self, changes: &[Change]) {
        for change in changes {
            assert_eq!(change.index, self.index + 1, "indexes have no gap");
            self.index = change.index;
            match &change.body {
                ChangeBody::Upsert(r) => {
                    self.targets.insert(r.key, (r.health, r.reason.clone()));
                }
                ChangeBody::Remove(r) => assert!(self.targets.remove(&r.key).is_some(), "{r:?}"),
                ChangeBody::Claim { service, agent } => {
                    assert_eq!(self.claims.insert(*service, *agent), None);
                }
                ChangeBody::Unclaim { service, agent } => {
                    assert_eq!(self.claims.remove(service), Some(*agent));
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn the_next_deadline_is_always_ahead_and_watchers_see_what_the_snapshot_says(
        steps in prop::collection::vec(step(), 1..80)
    ) {
        let mut sim = Sim::new(&[(1, ServiceGrant::FirstClaim), (2, only(&[1])), (3, ServiceGrant::FirstClaim)]);
        let mut watcher = Watcher::default();
        for step in steps {
            let before = sim.registry.index();
            let changes = apply(&mut sim, step);
            prop_assert_eq!(sim.registry.changes_after(before), Some(changes.clone()));
            watcher.follow(&changes);
            let due = sim.registry.handle_timeout(sim.now);
            watcher.follow(&due);
            prop_assert!(sim.registry.poll_timeout().is_none_or(|at| at > sim.now));

            let snapshot = sim.registry.snapshot();
            let seen: BTreeMap<_, _> =
                snapshot.targets.iter().map(|(key, r)| (*key, (r.health, r.reason.clone()))).collect();
            prop_assert_eq!(&seen, &watcher.targets);
            prop_assert_eq!(&sim.registry.claims, &watcher.claims);
            prop_assert_eq!(snapshot.index, watcher.index);
            prop_assert!(snapshot.targets.values().all(|r| r.expires_at > sim.now));
            prop_assert_eq!(sim.registry.poll_timeout().is_some(), !snapshot.targets.is_empty());
        }
    }
}

#[test]
fn what_the_hub_runs_is_nobodys_else_also_while_it_has_no_node() {
    let mut sim = Sim::new(&[(1, ServiceGrant::FirstClaim), (2, only(&[1])), (3, ServiceGrant::FirstClaim)]);
    assert!(sim.offer(2, &[(1, 80)]).refused.is_empty() && !sim.seen().is_empty());
    let refusals = |outcome: Outcome| outcome.refused.into_iter().map(|(_, why)| why).collect::<Vec<_>>();
    let owners = |all: &[u8]| all.iter().map(|n| id(*n)).collect::<BTreeSet<_>>();
    let assigned = BTreeMap::from([(service(1), owners(&[])), (service(2), owners(&[3]))]);
    sim.registry.assign(assigned, Weights::new());
    assert!(sim.seen().is_empty(), "what was offered before goes at once");
    assert_eq!(
        refusals(sim.offer(1, &[(1, 80), (2, 81)])),
        [RefusedTarget::Unplaced, RefusedTarget::Claimed]
    );
    assert_eq!(refusals(sim.offer(2, &[(1, 80)])), [RefusedTarget::Unplaced], "its token names the service");
    assert!(sim.registry.claims.is_empty(), "nothing is claimed meanwhile");
    sim.registry.assign(BTreeMap::from([(service(1), owners(&[3]))]), Weights::new());
    assert!(sim.offer(3, &[(1, 80)]).refused.is_empty());
}

#[test]
fn an_agent_runs_workloads_until_it_says_that_it_does_not() {
    let mut sim = Sim::new(&[(1, ServiceGrant::FirstClaim)]);
    let runs = |sim: &mut Sim| sim.registry.snapshot().agents[&id(1)].runs_workloads;
    assert!(runs(&mut sim));
    assert!(sim.registry.set_workload_facts(id(1), false, None).is_empty());
    assert!(!runs(&mut sim));
}

#[test]
fn runs_of_a_workload_have_their_parts_and_what_is_over_has_none() {
    let mut sim = Sim::new(&[(1, ServiceGrant::FirstClaim), (2, ServiceGrant::FirstClaim)]);
    let parts = |sim: &mut Sim| {
        let snapshot = sim.registry.snapshot();
        snapshot.targets.values().map(|target| (target.key.port, target.weight)).collect::<Vec<_>>()
    };
    let run = |port, generation| OfferedTarget { generation, ..offered(1, port, Health::Healthy) };
    let owners = BTreeMap::from([(service(1), BTreeSet::from([id(1)]))]);
    let weights = |old: u8, next: u8| {
        Weights::from([(service(1), BTreeMap::from([((id(1), 3), old), ((id(1), 4), next)]))])
    };
    sim.registry.assign(owners.clone(), weights(100, 0));
    let now = sim.now;
    let offers = vec![run(80, 3), run(81, 4), run(82, 2), run(83, 0)];
    assert!(sim.registry.set_targets(id(1), offers, now).refused.is_empty());
    // Of an earlier run nothing is wanted; an agent of an earlier version does not say of which run a target is.
    assert_eq!(parts(&mut sim), [(80, 100), (81, 0), (82, 0), (83, 100)]);
    let tells_runs = Inventory { slots: 2, ..Inventory::default() };
    let changes = sim.registry.set_workload_facts(id(1), true, Some(tells_runs));
    assert_eq!(bodies(&changes), ["upsert"]);
    assert_eq!(parts(&mut sim), [(80, 100), (81, 0), (82, 0), (83, 0)]);
    let changes = sim.registry.assign(owners.clone(), weights(90, 10));
    assert_eq!(bodies(&changes), ["upsert", "upsert"], "watchers are told");
    assert_eq!(parts(&mut sim), [(80, 90), (81, 10), (82, 0), (83, 0)]);
    // A run has its part once, however many targets it offers: at the first that is healthy.
    let mut many: Vec<_> = (90..99).map(|port| run(port, 4)).collect();
    let sick = OfferedTarget { health: Health::Unhealthy, ..run(81, 4) };
    many.extend([run(80, 3), sick]);
    sim.registry.set_targets(id(1), many, now);
    let given: Vec<_> = parts(&mut sim).into_iter().filter(|(_, weight)| *weight > 0).collect();
    assert_eq!(given, [(80, 90), (90, 10)]);
    assert!(sim.registry.assign(owners, weights(90, 10)).is_empty());
    // Where the hub runs nothing there is nothing to share.
    sim.registry.assign(BTreeMap::new(), Weights::new());
    assert!(parts(&mut sim).iter().all(|(_, weight)| *weight == WHOLE));
}

#[test]
fn an_agent_that_is_to_go_keeps_its_targets_and_gets_no_new_requests() {
    let mut sim = Sim::new(&[(1, only(&[1])), (2, only(&[1]))]);
    assert!(sim.offer(1, &[(1, 80)]).refused.is_empty() && sim.offer(2, &[(1, 80)]).refused.is_empty());
    let weights = |sim: &mut Sim| {
        sim.registry.snapshot().targets.values().map(|target| target.weight).collect::<Vec<_>>()
    };
    let changes = sim.registry.set_leaving(&BTreeSet::from([id(2)]));
    assert_eq!(bodies(&changes), ["upsert"], "watchers are told");
    assert_eq!(weights(&mut sim), [WHOLE, 0]);
    assert!(sim.registry.set_leaving(&BTreeSet::from([id(2)])).is_empty());
    sim.offer(2, &[(1, 80)]);
    assert_eq!(weights(&mut sim), [WHOLE, 0], "what it says does not change that");
    sim.registry.set_leaving(&BTreeSet::new());
    assert_eq!(weights(&mut sim), [WHOLE, WHOLE]);
}

#[test]
fn a_long_reason_ends_behind_a_word() {
    assert_eq!(clean_line("one\nline"), "oneline");
    assert_eq!(clean_line(&"x".repeat(MAX_REASON_CHARS)), "x".repeat(MAX_REASON_CHARS));
    let line = clean_line(&format!("{}the end: of {}", "word ".repeat(37), "y".repeat(40)));
    assert_eq!(line, format!("{}the end: of\u{2026}", "word ".repeat(37)));
    let line = clean_line(&format!("{}the end: {}", "word ".repeat(37), "\u{e9}".repeat(40)));
    assert_eq!(line, format!("{}the end\u{2026}", "word ".repeat(37)), "nothing ends with a colon");
}
