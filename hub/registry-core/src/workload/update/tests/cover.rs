//! Where requests go while one of the two versions cannot serve.

use super::*;

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
