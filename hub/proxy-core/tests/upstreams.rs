//! Which targets get requests, against a plain model of who is up.
#![expect(clippy::unwrap_used, reason = "helpers of a test crate stand outside #[test]")]
#![expect(clippy::disallowed_methods, reason = "virtual time needs one first instant")]

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use blueprint_common_types::{AgentId, Health, ServiceKey};
use blueprint_hub_proxy_core::upstream::{
    Event, Outcome, OverBudget, Picked, UpstreamSettings, Upstreams, Wanted,
};
use blueprint_hub_proxy_core::{Refusal, Target};
use proptest::prelude::*;

const SERVICE: ServiceKey = ServiceKey { blueprint: 7, service: 42 };

fn address(last: u8) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::new(10, 0, 0, last), 8080))
}

fn agent(last: u8) -> AgentId {
    AgentId::from_bytes([last; 16])
}

/// A service with targets, a clock and good random numbers.
struct World {
    upstreams: Upstreams,
    targets: Vec<Target>,
    settings: UpstreamSettings,
    now: Instant,
    random: u64,
}

impl World {
    fn new(count: u8) -> Self {
        let target = |last| Target {
            address: address(last),
            health: Health::Healthy,
            reason: String::new(),
            agent: agent(last),
            weight: 100,
        };
        Self {
            upstreams: Upstreams::default(),
            targets: (1..=count).map(target).collect(),
            settings: UpstreamSettings::default(),
            now: Instant::now(),
            random: 1,
        }
    }

    fn wait(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
    }

    fn begin_after(&mut self, tried: &[SocketAddr]) -> Result<Picked, Refusal> {
        self.random = self.random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        let mixed = (self.random ^ (self.random >> 31)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let random = mixed ^ (mixed >> 29);
        let Self { targets, settings, .. } = self;
        let wanted = Wanted { service: SERVICE, targets, settings, tried, random };
        self.upstreams.begin(&wanted, self.now)
    }

    fn begin(&mut self) -> Picked {
        self.begin_after(&[]).unwrap()
    }

    /// One request from begin to end; `answer` says how the target takes it.
    fn request(&mut self, answer: impl Fn(SocketAddr) -> Outcome) -> (SocketAddr, Option<Event>) {
        let picked = self.begin();
        let event = self.upstreams.report(&picked, answer(picked.address), self.now);
        self.upstreams.end(&picked);
        (picked.address, event)
    }

    /// How many of `count` requests each target gets.
    fn spread(&mut self, count: u32, answer: impl Fn(SocketAddr) -> Outcome) -> BTreeMap<SocketAddr, u32> {
        let mut spread = BTreeMap::new();
        for _ in 0..count {
            *spread.entry(self.request(&answer).0).or_insert(0) += 1;
        }
        spread
    }
}

fn only(bad: u8) -> impl Fn(SocketAddr) -> Outcome {
    move |at| if at == address(bad) { Outcome::Failed } else { Outcome::Answered }
}

fn well(_: SocketAddr) -> Outcome {
    Outcome::Answered
}

#[test]
fn a_failing_target_gets_five_requests_and_then_one_every_ten_seconds() {
    let mut world = World::new(3);
    let spread = world.spread(300, only(2));
    assert_eq!(spread[&address(2)], 5);
    for seconds in [11, 21, 31] {
        assert_eq!(world.spread(100, only(2)).get(&address(2)), None);
        world.wait(seconds);
        assert_eq!(world.spread(100, only(2))[&address(2)], 1, "one probe");
    }
    world.wait(41);
    let spread = world.spread(300, well);
    assert!(spread[&address(2)] > 60, "it answers again: {spread:?}");
}

#[test]
fn a_healthy_target_takes_over_while_the_probe_has_no_verdict() {
    let mut world = World::new(2);
    world.spread(100, only(1));
    world.wait(10);
    let probe = loop {
        let picked = world.begin();
        if picked.address == address(1) {
            break picked;
        }
        world.upstreams.end(&picked);
    };
    assert_eq!(world.spread(100, well).get(&address(1)), None, "one probe at a time");
    assert_eq!(world.upstreams.report(&probe, Outcome::Answered, world.now), Some(Event::Returned));
    world.upstreams.end(&probe);
    assert!(world.spread(100, well).contains_key(&address(1)));
}

#[test]
fn at_most_half_are_ejected_and_never_the_only_one() {
    for (count, most) in [(1, 0), (2, 1), (3, 1), (4, 2), (5, 2usize)] {
        let mut world = World::new(count);
        let mut ejected = 0;
        for _ in 0..500 {
            ejected += usize::from(world.request(|_| Outcome::Failed).1 == Some(Event::Ejected));
        }
        assert_eq!(ejected, most, "of {count}");
        assert_eq!(world.spread(500, |_| Outcome::Failed).len(), usize::from(count) - most);
    }
}

#[test]
fn ejected_ones_serve_where_nobody_else_is_left() {
    let mut world = World::new(2);
    world.spread(100, only(1));
    world.targets[1].health = Health::Unhealthy;
    assert_eq!(world.spread(10, well).get(&address(1)), Some(&10));
    world.targets[1].health = Health::Healthy;
    let picked = world.begin_after(&[address(2)]).unwrap();
    assert_eq!(picked.address, address(1), "better a doubtful one than none");
    world.upstreams.end(&picked);
    assert_eq!(
        world.begin_after(&[address(1), address(2)]),
        Err(Refusal::TargetUnreachable { service: SERVICE })
    );
}

#[test]
fn what_the_registry_finds_healthy_again_starts_anew() {
    let mut world = World::new(3);
    world.spread(100, only(2));
    world.targets[1].health = Health::Unhealthy;
    assert_eq!(world.spread(10, well).get(&address(2)), None);
    world.targets[1].health = Health::Healthy;
    assert!(world.spread(100, well).contains_key(&address(2)));
}

#[test]
fn a_drained_node_gets_nothing_new_and_keeps_what_is_open() {
    let mut world = World::new(3);
    let open: Vec<Picked> = (0..30).map(|_| world.begin()).collect();
    world.settings.drained.insert(agent(1));
    world.settings.weights.insert(agent(2), 0);
    let held = world.upstreams.open_at(SERVICE, address(1));
    assert!((8..=12).contains(&held), "{held}");
    assert_eq!(world.spread(200, well).len(), 1);
    assert_eq!(world.upstreams.open_at(SERVICE, address(1)), held);
    open.iter().for_each(|picked| world.upstreams.end(picked));
    assert_eq!(world.upstreams.open_at(SERVICE, address(1)), 0);
    world.settings = UpstreamSettings::default();
    assert_eq!(world.spread(200, well).len(), 3);
}

#[test]
fn a_target_has_so_many_open_and_no_more() {
    let mut world = World::new(2);
    world.settings.max_open_per_target = 3;
    let open: Vec<Picked> = (0..6).map(|_| world.begin()).collect();
    assert_eq!(world.begin_after(&[]), Err(Refusal::TargetsBusy { service: SERVICE }));
    world.upstreams.end(&open[0]);
    assert_eq!(world.begin().address, open[0].address);
}

#[test]
fn the_circuit_opens_where_nothing_can_be_reached_and_one_probe_closes_it() {
    let mut world = World::new(2);
    let mut opened = 0;
    for _ in 0..10 {
        opened += u32::from(world.request(|_| Outcome::Unreachable).1 == Some(Event::CircuitOpened));
    }
    assert_eq!(opened, 1);
    assert_eq!(world.begin_after(&[]), Err(Refusal::CircuitOpen { service: SERVICE, retry_after: 2 }));
    world.wait(1);
    let probe = world.begin();
    assert!(world.begin_after(&[]).is_err(), "one at a time");
    assert_eq!(world.upstreams.report(&probe, Outcome::Failed, world.now), Some(Event::CircuitClosed));
    world.upstreams.end(&probe);
    assert_eq!(world.spread(20, well).values().sum::<u32>(), 20);
}

#[test]
fn answers_of_any_kind_never_open_the_circuit() {
    let mut world = World::new(1);
    assert_eq!(world.spread(1000, |_| Outcome::Failed).len(), 1);
    assert_eq!(world.spread(1000, |_| Outcome::Unknown).len(), 1);
}

#[test]
fn retries_are_a_fifth_of_the_requests_and_thirty_more() {
    let mut world = World::new(1);
    world.spread(500, well);
    let granted = (0..1000).filter(|_| world.upstreams.may_retry(SERVICE, world.now)).count();
    assert_eq!(granted, 130);
}

#[test]
fn a_bounded_number_of_services_is_remembered() {
    let mut world = World::new(1);
    let open = world.begin();
    for service in 0..10_000 {
        let key = ServiceKey { blueprint: 8, service };
        let World { upstreams, targets, settings, now, .. } = &mut world;
        let wanted = Wanted { service: key, targets, settings, tried: &[], random: 0 };
        let picked = upstreams.begin(&wanted, *now).unwrap();
        upstreams.end(&picked);
        assert!(upstreams.len() <= 4096);
    }
    assert_eq!(world.upstreams.open_at(SERVICE, address(1)), 1, "what has something open stays");
    world.upstreams.end(&open);
}

proptest! {
    /// Whatever targets do, whoever is asked for is healthy, not drained, not tried and has room; requests
    /// are counted once; and once all is well for long enough, everybody gets a share again.
    #[test]
    fn nobody_is_lost_for_good(
        count in 1u8..7,
        drained in prop::collection::btree_set(1u8..7, 0..3),
        steps in prop::collection::vec((0u8..6, 0u8..5, 0u64..8), 0..300),
    ) {
        let mut world = World::new(count);
        world.settings.drained = drained.iter().map(|last| agent(*last)).collect();
        world.settings.max_open_per_target = 20;
        let serving: Vec<SocketAddr> =
            (1..=count).filter(|last| !drained.contains(last)).map(address).collect();
        let mut open: Vec<Picked> = Vec::new();
        for (step, which, wait) in steps {
            world.wait(wait);
            let outcome = match step {
                0 => Some(Outcome::Answered),
                1 => Some(Outcome::Failed),
                2 => Some(Outcome::Unreachable),
                3 => Some(Outcome::Unknown),
                _ => None,
            };
            if let Some(outcome) = outcome && !open.is_empty() {
                let picked = open.swap_remove(usize::from(which) % open.len());
                world.upstreams.report(&picked, outcome, world.now);
                world.upstreams.end(&picked);
                continue;
            }
            let tried: Vec<SocketAddr> = (0..which.min(count)).map(|n| address(n + 1)).collect();
            match world.begin_after(&tried) {
                Ok(picked) => {
                    prop_assert!(serving.contains(&picked.address) && !tried.contains(&picked.address));
                    open.push(picked);
                }
                Err(Refusal::CircuitOpen { .. }) => prop_assert!(tried.is_empty()),
                Err(Refusal::TargetsBusy { .. }) => prop_assert!(open.len() >= 20),
                Err(refusal) => {
                    prop_assert!(serving.iter().all(|at| tried.contains(at)), "{refusal}");
                }
            }
            for at in &serving {
                let held = open.iter().filter(|picked| picked.address == *at).count();
                prop_assert_eq!(world.upstreams.open_at(SERVICE, *at), u32::try_from(held).unwrap());
            }
        }
        for picked in open {
            world.upstreams.report(&picked, Outcome::Unknown, world.now);
            world.upstreams.end(&picked);
        }
        if !serving.is_empty() {
            world.wait(600);
            world.spread(200, well);
            let spread = world.spread(100 * u32::from(count), well);
            prop_assert_eq!(spread.len(), serving.len(), "{:?}", spread);
        }
    }
}

#[test]
fn versions_share_by_weight_and_what_each_failed_is_counted() {
    let mut world = World::new(2);
    (world.targets[0].weight, world.targets[1].weight) = (90, 10);
    let broken = |at| if at == address(2) { Outcome::Erred } else { Outcome::Answered };
    let spread = world.spread(2000, broken);
    assert!((150..=250).contains(&spread[&address(2)]), "an answer of 500 ejects nobody: {spread:?}");
    let (requests, failed, open) = world.upstreams.tally(SERVICE, address(2));
    assert_eq!((requests, failed, open), (spread[&address(2)].into(), spread[&address(2)].into(), 0));
    assert_eq!(world.upstreams.tally(SERVICE, address(1)).1, 0);
    // All at once, and not one to the other.
    (world.targets[0].weight, world.targets[1].weight) = (0, 100);
    assert_eq!(world.spread(500, well).get(&address(1)), None);
    // The operator's weight of the machine counts beside it.
    (world.targets[0].weight, world.targets[1].weight) = (100, 0);
    assert_eq!(world.spread(500, well).get(&address(2)), None);
}

#[test]
fn what_begins_counts_at_once_and_what_lasts_is_told_apart() {
    let mut world = World::new(1);
    let load = |world: &World| {
        let load = world.upstreams.load(SERVICE, address(1), world.now);
        (load.begun, load.open, load.lasting)
    };
    let streams: Vec<Picked> = (0..3).map(|_| world.begin()).collect();
    assert_eq!(load(&world), (3, 3, 0));
    world.spread(10, well);
    assert_eq!(load(&world), (13, 3, 0));
    world.wait(29);
    assert_eq!(load(&world), (13, 3, 0));
    world.wait(1);
    assert_eq!(load(&world), (13, 3, 3));
    world.spread(10, well);
    streams.iter().for_each(|picked| world.upstreams.end(picked));
    assert_eq!(load(&world), (23, 0, 0));
}

impl World {
    /// A second target beside `first`.
    fn second(&mut self, first: SocketAddr) -> Result<Option<Picked>, OverBudget> {
        let Self { targets, settings, .. } = self;
        let wanted = Wanted { service: SERVICE, targets, settings, tried: &[first], random: 7 };
        self.upstreams.begin_second(&wanted, self.now)
    }
}

#[test]
fn a_second_try_goes_to_nobody_that_is_in_doubt_and_decides_nothing() {
    let mut world = World::new(2);
    world.spread(100, only(2));
    let begun = world.upstreams.load(SERVICE, address(2), world.now).begun;
    for wait in [0, 11] {
        world.wait(wait);
        assert_eq!(world.second(address(1)), Ok(None), "it is ejected, and nobody has tried it since");
    }
    assert_eq!(world.upstreams.load(SERVICE, address(2), world.now).begun, begun, "nothing was counted");
    assert_eq!(world.spread(100, only(2))[&address(2)], 1, "one probe, as without second tries");
    assert_eq!(world.spread(100, only(2)).get(&address(2)), None);
}

#[test]
fn second_tries_are_counted_only_where_the_budget_has_room() {
    let mut world = World::new(2);
    world.spread(100, well);
    let begun = |world: &World| {
        [1, 2].map(|last| world.upstreams.load(SERVICE, address(last), world.now).begun).iter().sum::<u64>()
    };
    let before = begun(&world);
    let mut sent = 0;
    while let Ok(picked) = world.second(address(1)) {
        assert_eq!(picked.unwrap().address, address(2));
        sent += 1;
    }
    assert_eq!((sent, begun(&world) - before), (50, 50), "a fifth of a hundred, and thirty");
    assert_eq!(world.second(address(1)), Err(OverBudget));
    assert_eq!(begun(&world) - before, 50);
    assert_eq!(World::new(1).second(address(1)), Ok(None), "of a service that nobody asked for");
}
