//! Updates on virtual time: single ways, then any way with hubs that are killed at any moment.

mod replicas;

use std::time::Duration;

use proptest::prelude::*;
use proptest::strategy::Strategy as Generator;

use super::*;
use crate::workload::plan::Strategy;

const SERVICE: ServiceKey = ServiceKey { blueprint: 7, service: 42 };

fn update(strategy: Strategy) -> Update {
    let plan = UpdatePlan {
        strategy,
        canary: vec![10, 50],
        pause_secs: 30,
        health_secs: 20,
        start_secs: 100,
        drain_secs: 40,
        skip_health_check: false,
    };
    let run = NextRun { generation: 9, slot: 1, node: AgentId::from_bytes([1; 16]) };
    Update {
        service: SERVICE,
        from: 1,
        to: 2,
        plan,
        phase: Phase::Starting,
        reason: String::new(),
        is_aborted: false,
        began_at: Timestamp::from_millis(0),
        since: Timestamp::from_millis(0),
        next: (strategy != Strategy::Recreate).then_some(run),
        needs_target: true,
        is_covered: false,
        replicas: Vec::new(),
        rolled: 0,
    }
}

fn healthy() -> Side {
    Side {
        is_here: true,
        state: Some(WorkloadState::Running),
        target: Some((Health::Healthy, String::new())),
        ..Side::default()
    }
}

fn sick() -> Side {
    Side { target: Some((Health::Unhealthy, "refused".to_owned())), ..healthy() }
}

/// How an update ended.
#[derive(Debug, Clone, PartialEq, Eq)]
enum End {
    Finished,
    TakenBack(String),
}

/// A hub that looks every second and stores what the core says.
struct Sim {
    updates: Updates,
    /// What a hub that is started anew finds.
    stored: Option<Update>,
    now: Timestamp,
    sight: Sight,
    end: Option<End>,
    /// Parts of the next version, in the order that it got them.
    parts: Vec<u8>,
}

impl Sim {
    fn new(strategy: Strategy) -> Self {
        Self::of(update(strategy))
    }

    fn of(update: Update) -> Self {
        let (strategy, now) = (update.plan.strategy, Timestamp::from_millis(0));
        let updates = Updates::new(vec![update.clone()], now);
        let old = if strategy == Strategy::Recreate { Side::default() } else { healthy() };
        let sight = Sight { old, next: Side { is_here: true, ..Side::default() }, served: None };
        Self { updates, stored: Some(update), now, sight, end: None, parts: Vec::new() }
    }

    fn apply(&mut self, advance: Advance) {
        match advance {
            Advance::Enter(update) => {
                self.stored = Some(update.clone());
                self.updates.set(update, self.now);
            }
            Advance::Finish | Advance::TakeBack(_) => {
                self.end = Some(match advance {
                    Advance::TakeBack(reason) => End::TakenBack(reason),
                    Advance::Finish | Advance::Enter(_) => End::Finished,
                });
                self.stored = None;
                self.updates.remove(SERVICE);
            }
        }
    }

    fn second(&mut self) {
        self.now = self.now.plus(Duration::from_secs(1));
        if let Some(advance) = self.updates.look(SERVICE, &self.sight, self.now) {
            self.apply(advance);
        }
        if let Some(shares) = self.updates.get(SERVICE).and_then(Update::shares)
            && self.parts.last() != Some(&shares.next)
        {
            self.parts.push(shares.next);
        }
    }

    fn seconds(&mut self, count: u32) {
        (0..count).for_each(|_| self.second());
    }

    fn phase(&self) -> Option<Phase> {
        self.updates.get(SERVICE).map(|update| update.phase)
    }

    /// The hub is killed and started anew.
    fn restart(&mut self) {
        self.updates = Updates::new(self.stored.iter().cloned().collect(), self.now);
    }

    fn reason(&self) -> &str {
        match &self.end {
            Some(End::TakenBack(reason)) => reason,
            Some(End::Finished) | None => panic!("not taken back: {:?}", self.end),
        }
    }
}

#[test]
fn blue_green_moves_everything_at_once_and_keeps_the_old_one_for_the_pause() {
    let mut sim = Sim::new(Strategy::BlueGreen);
    sim.seconds(5);
    assert_eq!(sim.phase(), Some(Phase::Starting));
    sim.sight.next = healthy();
    sim.seconds(20);
    assert_eq!(sim.phase(), Some(Phase::Proving), "19 s");
    sim.seconds(2);
    assert_eq!(sim.phase(), Some(Phase::Moved));
    sim.seconds(28);
    assert_eq!(sim.end, None);
    sim.seconds(3);
    assert_eq!((sim.end, sim.parts), (Some(End::Finished), vec![0, 100]));
}

#[test]
fn rolling_waits_for_open_requests_alone_and_not_for_ever() {
    for (open, least, most) in [(0, 2, 4), (3, 39, 42)] {
        let mut sim = Sim::new(Strategy::Rolling);
        sim.sight.next = healthy();
        sim.seconds(22);
        assert_eq!(sim.phase(), Some(Phase::Moved));
        sim.sight.old.tally.open = open;
        sim.seconds(least - 1);
        assert_eq!(sim.end, None, "{open} open");
        sim.seconds(most - least + 1);
        assert_eq!(sim.end, Some(End::Finished), "{open} open");
    }
}

#[test]
fn a_canary_goes_by_steps_and_back_where_more_fails_than_before() {
    let mut sim = Sim::new(Strategy::Canary);
    sim.sight.next = healthy();
    sim.seconds(120);
    assert_eq!((sim.end.clone(), sim.parts.clone()), (Some(End::Finished), vec![0, 10, 50, 100]));

    // The old one fails as much: nothing is worse.
    for (old_failed, is_worse) in [(0, true), (90, false)] {
        let mut sim = Sim::new(Strategy::Canary);
        sim.sight.next = healthy();
        sim.seconds(25);
        assert_eq!(sim.phase(), Some(Phase::Step(0)));
        sim.sight.old.tally = Tally { requests: 900, failed: old_failed, open: 0 };
        sim.sight.next.tally = Tally { requests: 100, failed: 12, open: 0 };
        sim.second();
        assert_eq!(sim.phase() == Some(Phase::Back), is_worse);
        if is_worse {
            assert_eq!(sim.updates.get(SERVICE).unwrap().shares().unwrap().next, 0, "weights first");
            sim.seconds(3);
            let expected = "12 of 100 requests failed at version 2, 0 of 900 at version 1";
            assert_eq!(sim.reason(), expected);
        }
    }
}

#[test]
fn what_does_not_start_or_stay_healthy_goes_back_and_says_why() {
    let mut late = Sim::new(Strategy::BlueGreen);
    late.sight.next = Side { target: None, ..healthy() };
    late.seconds(104);
    assert!(late.reason().contains("100 s: it runs and has not registered"), "{}", late.reason());

    let mut failed = Sim::new(Strategy::BlueGreen);
    failed.sight.next.state = Some(WorkloadState::Failed);
    failed.sight.next.reason = "a wrong digest".to_owned();
    failed.seconds(4);
    assert_eq!(failed.reason(), "version 2 cannot be run: a wrong digest");

    let mut falls = Sim::new(Strategy::BlueGreen);
    falls.sight.next.restarts = MAX_FALLS;
    falls.seconds(4);
    assert!(falls.reason().contains("was started again 3 times before it was healthy"), "{}", falls.reason());

    let mut asks = Sim::new(Strategy::BlueGreen);
    asks.sight.next = Side { asks_move: Some("answers 503".to_owned()), ..sick() };
    asks.seconds(4);
    assert_eq!(asks.reason(), "version 2 did not get well on its node: answers 503");

    // A short sickness only begins the time anew; a longer one is a verdict, also after the move.
    let mut sim = Sim::new(Strategy::BlueGreen);
    sim.sight.next = healthy();
    sim.seconds(10);
    sim.sight.next = sick();
    sim.seconds(3);
    sim.sight.next = healthy();
    sim.seconds(15);
    assert_eq!(sim.phase(), Some(Phase::Proving));
    sim.seconds(10);
    assert_eq!(sim.phase(), Some(Phase::Moved));
    // Both are sick: where it goes back to is no better, and it has its patience.
    (sim.sight.old, sim.sight.next) = (sick(), sick());
    sim.seconds(4);
    assert_eq!(sim.phase(), Some(Phase::Moved));
    sim.seconds(6);
    assert!(sim.reason().contains("has not been healthy for 5 s: its service is unhealthy: refused"));
    assert_eq!(sim.parts, [0, 100, 0]);
}

/// An update by blue-green after its move.
fn moved() -> Sim {
    let mut sim = Sim::new(Strategy::BlueGreen);
    sim.sight.next = healthy();
    sim.seconds(25);
    assert_eq!(sim.phase(), Some(Phase::Moved));
    sim
}

#[test]
fn after_the_move_nobody_waits_for_one_that_cannot_serve_while_the_other_can() {
    let away = Side { is_here: false, ..healthy() };
    let gone = Side { target: None, ..healthy() };
    let drained = Side { is_drained: true, ..healthy() };
    let all = [
        (sick(), "its service is unhealthy: refused"),
        (away, "its node is away"),
        (gone, "it runs and has not registered its service"),
        (drained, "its node is drained, or has the weight 0"),
    ];
    for (next, why) in all {
        let mut sim = moved();
        sim.sight.next = next;
        sim.second();
        assert_eq!(sim.phase(), Some(Phase::Back), "{why}");
        assert_eq!(sim.updates.get(SERVICE).unwrap().shares().unwrap().old, 100);
        sim.seconds(3);
        assert_eq!(sim.reason(), format!("version 2 cannot serve while version 1 can: {why}"));
    }
}

#[test]
fn an_old_version_that_dies_early_leaves_its_requests_to_the_next_and_the_gates_stay() {
    for strategy in [Strategy::BlueGreen, Strategy::Canary, Strategy::Rolling] {
        let mut sim = Sim::new(strategy);
        sim.sight.next = healthy();
        sim.seconds(5);
        assert_eq!((sim.phase(), &sim.parts[..]), (Some(Phase::Proving), &[0][..]));
        sim.sight.old = Side { target: None, ..sick() };
        sim.second();
        assert_eq!((sim.phase(), &sim.parts[..]), (Some(Phase::Proving), &[0, 100][..]), "at once");
        sim.restart();
        sim.seconds(2);
        sim.sight.old = healthy();
        sim.second();
        assert_eq!((sim.phase(), &sim.parts[..]), (Some(Phase::Proving), &[0, 100, 0][..]), "it is back");
        sim.sight.old = sick();
        sim.second();
        assert_eq!(sim.parts, [0, 100, 0, 100]);
        sim.sight.next = sick();
        sim.second();
        assert_eq!(sim.parts, [0, 100, 0, 100, 0], "neither can");
        sim.sight.next = healthy();
        sim.seconds(19);
        assert_eq!(sim.phase(), Some(Phase::Proving), "it has to stay healthy as long as ever");
        sim.seconds(3);
        let then = if strategy == Strategy::Canary { Phase::Step(0) } else { Phase::Moved };
        assert_eq!(sim.phase(), Some(then));
    }
}

#[test]
fn an_old_version_whose_control_stream_breaks_keeps_its_requests_while_its_target_answers() {
    let away = Side { is_here: false, ..healthy() };
    for strategy in [Strategy::BlueGreen, Strategy::Canary, Strategy::Rolling] {
        let mut sim = Sim::new(strategy);
        sim.sight.next = healthy();
        sim.seconds(5);
        sim.sight.old = away.clone();
        sim.seconds(3);
        sim.sight.old = healthy();
        sim.seconds(3);
        sim.sight.old = away.clone();
        sim.seconds(5);
        assert_eq!((sim.phase(), &sim.parts[..]), (Some(Phase::Proving), &[0][..]), "it is not proved");
        // Its lease has run out.
        sim.sight.old.target = None;
        sim.second();
        assert_eq!((sim.phase(), &sim.parts[..]), (Some(Phase::Proving), &[0, 100][..]));
        // Nor are they taken back for the other's, while nobody else answers.
        sim.sight.next = away.clone();
        sim.second();
        assert_eq!((sim.phase(), &sim.parts[..]), (Some(Phase::Proving), &[0, 100][..]));
    }
}

/// An update that goes back by itself, from a next version that serves to an old one that cannot.
fn back_to_a_sick_one() -> Sim {
    let mut sim = moved();
    sim.sight.old = sick();
    sim.sight.next.restarts = 1;
    sim.seconds(2);
    let update = sim.updates.get(SERVICE).unwrap();
    assert_eq!((update.phase, update.shares().unwrap().next), (Phase::Back, 100));
    sim
}

const FELL: &str = "version 2 was started again 1 times after it had been healthy";

#[test]
fn on_the_way_back_the_next_version_serves_on_until_the_old_one_can_but_not_for_ever() {
    let back = || {
        let mut sim = back_to_a_sick_one();
        sim.seconds(90);
        assert_eq!(sim.phase(), Some(Phase::Back), "not taken away while nothing else serves");
        sim
    };
    let mut sim = back();
    sim.sight.old = healthy();
    sim.sight.next.tally.open = 1;
    sim.second();
    assert_eq!(sim.updates.get(SERVICE).unwrap().shares().unwrap().old, 100);
    sim.seconds(38);
    assert_eq!(sim.phase(), Some(Phase::Back), "what is open may end");
    sim.seconds(3);
    assert_eq!(sim.reason(), FELL);
    let mut sim = back();
    sim.seconds(60);
    assert_eq!(sim.reason(), FELL);
}

#[test]
fn what_the_operator_took_back_gets_nothing_more_whatever_the_old_version_can() {
    let proving = || {
        let mut sim = Sim::new(Strategy::BlueGreen);
        sim.sight.next = healthy();
        sim.seconds(3);
        sim.sight.old = sick();
        sim.second();
        assert_eq!((sim.phase(), &sim.parts[..]), (Some(Phase::Proving), &[0, 100][..]));
        sim
    };
    let own = "the operator had it taken back".to_owned();
    let cases = [(proving(), own.clone()), (back_to_a_sick_one(), format!("{FELL}; {own}"))];
    for (mut sim, reason) in cases {
        let back = sim.updates.abort(SERVICE, sim.now).unwrap();
        sim.apply(back);
        assert_eq!(sim.updates.abort(SERVICE, sim.now), None, "once");
        sim.parts.clear();
        sim.sight.next.tally.open = 1;
        sim.seconds(20);
        sim.restart();
        sim.seconds(19);
        assert_eq!((sim.phase(), &sim.parts[..]), (Some(Phase::Back), &[0][..]), "what is open may end");
        sim.sight.next.tally.open = 0;
        sim.seconds(3);
        assert_eq!(sim.reason(), reason);
    }
    // As a hub stored it that still covered those.
    let mut sim = back_to_a_sick_one();
    let stored = sim.stored.clone().map(|stored| Update { is_aborted: true, ..stored });
    sim.stored = stored;
    sim.restart();
    sim.second();
    assert_eq!(sim.updates.get(SERVICE).unwrap().shares().unwrap().next, 0);
}

#[test]
fn a_node_that_the_operator_drained_gets_no_version_but_with_the_other() {
    let drained = Side { is_drained: true, ..healthy() };
    let mut sim = Sim::new(Strategy::BlueGreen);
    sim.sight.next = drained.clone();
    sim.seconds(104);
    assert!(sim.reason().contains("100 s: its node is drained"), "{}", sim.reason());
    // Where both are, there is nothing to lose.
    let mut sim = Sim::new(Strategy::Rolling);
    sim.sight = Sight { old: drained.clone(), next: drained, served: None };
    sim.seconds(25);
    assert_eq!(sim.end, Some(End::Finished));
}

#[test]
fn what_registers_after_the_update_began_is_wanted_of_the_next_version_too() {
    let mut sim = Sim::new(Strategy::Rolling);
    sim.updates.set(Update { needs_target: false, ..update(Strategy::Rolling) }, sim.now);
    sim.sight.old.target = None;
    sim.sight.next = Side { target: None, ..healthy() };
    sim.seconds(3);
    assert_eq!(sim.phase(), Some(Phase::Proving));
    sim.sight.old = healthy();
    sim.seconds(10);
    assert!(sim.reason().contains("has not registered its service"), "{}", sim.reason());
}

#[test]
fn what_falls_ill_again_and_again_is_not_proved_for_ever() {
    let mut sim = Sim::new(Strategy::BlueGreen);
    for _ in 0..13 {
        sim.sight.next = healthy();
        sim.seconds(8);
        assert_eq!(sim.phase(), Some(Phase::Proving));
        sim.sight.next = sick();
        sim.second();
    }
    sim.sight.next = healthy();
    sim.seconds(9);
    assert_eq!(sim.reason(), "version 2 was not healthy for 20 s without a break within 120 s");
}

#[test]
fn a_hub_that_is_killed_goes_on_in_every_phase() {
    for strategy in [Strategy::BlueGreen, Strategy::Canary, Strategy::Recreate] {
        for seconds in 1..60 {
            let mut sim = Sim::new(strategy);
            sim.seconds(3);
            sim.sight.next = healthy();
            sim.seconds(seconds);
            sim.restart();
            sim.seconds(130);
            assert_eq!(sim.end, Some(End::Finished), "{strategy}, killed after {seconds} s");
            // On the way back there is no other way any more.
            let mut sim = Sim::new(strategy);
            sim.sight.old.tally.open = 1;
            sim.sight.next = Side { tally: Tally { open: 1, ..Tally::default() }, ..healthy() };
            sim.seconds(seconds);
            let Some(back) = sim.updates.abort(SERVICE, sim.now) else { continue };
            sim.apply(back);
            sim.restart();
            sim.seconds(45);
            assert_eq!(sim.reason(), "the operator had it taken back", "{strategy}, {seconds} s");
        }
    }
}

#[test]
fn an_agent_that_is_killed_takes_both_along_and_whichever_is_back_first_serves() {
    for (seconds, is_old_first) in [(1, true), (1, false), (10, true), (10, false), (25, true), (25, false)] {
        let mut sim = Sim::new(Strategy::BlueGreen);
        sim.sight.next = healthy();
        sim.seconds(seconds);
        let dead = Side { is_here: false, state: None, target: None, ..Side::default() };
        sim.sight = Sight { old: dead.clone(), next: dead.clone(), served: None };
        sim.seconds(10);
        let starting = Side { is_here: true, state: Some(WorkloadState::Starting), ..dead };
        let (old, next) = if is_old_first { (healthy(), starting) } else { (starting, healthy()) };
        sim.sight = Sight { old, next, served: None };
        sim.second();
        let shares = sim.updates.get(SERVICE).and_then(Update::shares).unwrap();
        let is_moved = seconds == 25;
        assert_eq!(shares.next == 100, !is_old_first, "{seconds} {is_old_first}");
        sim.sight = Sight { old: healthy(), next: healthy(), served: None };
        sim.seconds(130);
        let is_through = sim.end == Some(End::Finished);
        assert_eq!(is_through, !(is_moved && is_old_first), "{:?}", sim.end);
    }
}

const MAX_FALLS: u32 = 3;

#[test]
fn a_node_that_is_away_has_its_patience_and_no_more() {
    let mut sim = Sim::new(Strategy::BlueGreen);
    sim.sight.next = healthy();
    sim.seconds(25);
    assert_eq!(sim.phase(), Some(Phase::Moved));
    // Both are on it.
    let away = Side { is_here: false, ..sick() };
    sim.sight = Sight { old: away.clone(), next: away, served: None };
    sim.seconds(29);
    assert_eq!(sim.phase(), Some(Phase::Moved));
    sim.seconds(5);
    assert!(sim.reason().contains("has been away for 30 s"), "{}", sim.reason());
}

#[test]
fn by_recreate_there_is_nothing_to_weigh() {
    let mut sim = Sim::new(Strategy::Recreate);
    sim.sight.next = healthy();
    sim.seconds(22);
    assert_eq!(sim.end, Some(End::Finished));
    let mut sim = Sim::new(Strategy::Recreate);
    sim.seconds(101);
    assert!(sim.reason().contains("its node says nothing of it"), "{}", sim.reason());
    assert!(sim.parts.is_empty());
}

#[test]
fn without_the_health_check_it_is_enough_to_be_healthy_once() {
    let mut sim = Sim::new(Strategy::Rolling);
    let mut update = update(Strategy::Rolling);
    update.plan.skip_health_check = true;
    sim.updates.set(update, sim.now);
    sim.sight.next = sick();
    sim.seconds(5);
    assert_eq!(sim.phase(), Some(Phase::Starting), "the proxy would give it nothing");
    sim.sight.next = healthy();
    sim.seconds(5);
    assert_eq!(sim.end, Some(End::Finished));
}

#[test]
fn what_the_operator_takes_back_goes_back_once() {
    for strategy in [Strategy::BlueGreen, Strategy::Recreate] {
        let mut sim = Sim::new(strategy);
        sim.seconds(3);
        let back = sim.updates.abort(SERVICE, sim.now).unwrap();
        sim.apply(back);
        assert_eq!(sim.updates.abort(SERVICE, sim.now), None);
        assert!(sim.updates.get(SERVICE).unwrap().is_aborted);
        sim.seconds(3);
        assert_eq!(sim.reason(), "the operator had it taken back");
    }
}

#[test]
fn an_update_survives_its_text() {
    let before = Update { phase: Phase::Step(1), ..update(Strategy::Canary) };
    assert_eq!(Update::from_text(&before.to_text().unwrap()).unwrap(), before);
}

/// Whether the proxy may send it requests that its part gives to it.
fn answers(side: &Side) -> bool {
    matches!(side.target, Some((Health::Healthy, _))) && !side.is_drained
}

/// What befalls an update in one second.
#[derive(Debug, Clone)]
enum Fate {
    Kill,
    Abort,
    See(Box<(Side, Side)>),
}

fn side() -> impl Generator<Value = Side> {
    let states = [WorkloadState::Running, WorkloadState::BackingOff, WorkloadState::Failed];
    let healths = [Health::Healthy, Health::Unhealthy, Health::Unknown];
    (any::<bool>(), 0usize..12, 0usize..8, 0u32..10, (0u64..50, 0u64..20, 0u32..3)).prop_map(
        move |(is_here, state, health, restarts, (requests, failed, open))| Side {
            is_drained: restarts >= 5,
            is_here,
            state: Some(*states.get(state / 4).unwrap_or(&WorkloadState::Running)),
            reason: String::new(),
            restarts: restarts % 5 / 4,
            asks_move: (restarts % 5 == 4).then(String::new),
            target: healths.get(health.saturating_sub(5)).map(|health| (*health, String::new())),
            tally: Tally { requests: requests + failed, failed, open },
            ..Side::default()
        },
    )
}

fn fate() -> impl Generator<Value = Fate> {
    prop_oneof![
        2 => Just(Fate::Kill),
        1 => Just(Fate::Abort),
        30 => (side(), side()).prop_map(|sides| Fate::See(Box::new(sides))),
        30 => Just(Fate::See(Box::new((healthy(), healthy())))),
    ]
}

proptest! {
    /// Whatever happens, also to the hub: requests always have somewhere to go, a version that goes back gets nothing
    /// more unless it alone can serve, what is stored is what is in force, and it is over in a bounded time.
    #[test]
    fn every_update_ends_with_one_version_whatever_happens(
        which in 0usize..4,
        fates in prop::collection::vec(fate(), 0..150),
    ) {
        let all = [Strategy::Rolling, Strategy::BlueGreen, Strategy::Canary, Strategy::Recreate];
        let mut sim = Sim::new(all[which]);
        let mut is_back = false;
        let mut before = sim.phase();
        for fate in fates {
            match fate {
                Fate::Kill => sim.restart(),
                Fate::Abort => {
                    if let Some(back) = sim.updates.abort(SERVICE, sim.now) {
                        sim.apply(back);
                    }
                }
                Fate::See(sides) => (sim.sight.old, sim.sight.next) = *sides,
            }
            sim.second();
            prop_assert_eq!(sim.updates.get(SERVICE), sim.stored.as_ref(), "stored first");
            let Some(update) = sim.updates.get(SERVICE) else { break };
            if let Some(shares) = update.shares() {
                prop_assert_eq!(u32::from(shares.old) + u32::from(shares.next), 100);
                // While the old one serves, requests have somewhere to go; where the next one alone does, they do in every
                // phase but the first, one look after it was entered. What is not proved gets none that the old one answers.
                let Sight { old, next, served: _ } = &sim.sight;
                let given = u8::from(answers(old)) * shares.old + u8::from(answers(next)) * shares.next;
                let is_old_lost = !answers(old) || !old.is_here;
                prop_assert!(given > 0 || is_old_lost, "{:?} {:?}", update.phase, sim.sight);
                let has_looked = update.phase != Phase::Starting && before == Some(update.phase);
                let may_serve = answers(next) && !update.is_aborted;
                prop_assert!(given > 0 || !has_looked || !may_serve, "{:?} {:?}", update.phase, sim.sight);
                prop_assert!(!update.is_aborted || shares.next == 0, "{:?} {:?}", update.phase, sim.sight);
                let is_unproved = matches!(update.phase, Phase::Starting | Phase::Proving | Phase::Back);
                prop_assert!(!is_unproved || !answers(old) || shares.next == 0, "{:?} {:?}", update.phase, sim.sight);
            }
            before = Some(update.phase);
            prop_assert!(!is_back || update.phase == Phase::Back, "back is back");
            is_back = update.phase == Phase::Back;
            if is_back {
                prop_assert!(!update.reason.is_empty());
                prop_assert!(update.is_covered || update.shares().is_none_or(|shares| shares.next == 0));
            }
        }
        // From here on nothing new happens.
        sim.seconds(400);
        prop_assert!(sim.end.is_some(), "it hangs in {:?}", sim.phase());
    }
}
