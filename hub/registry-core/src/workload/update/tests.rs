//! Updates on virtual time.

mod any;
mod cover;
mod kills;
mod replicas;

use std::time::Duration;

use super::*;
use crate::workload::plan::Strategy;

const SERVICE: ServiceKey = ServiceKey { blueprint: 7, service: 42 };
const MAX_FALLS: u32 = 3;

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
