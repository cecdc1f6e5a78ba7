//! Hubs and agents that are killed on the way, and nodes that are away.

use super::*;

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
