//! Updates of a service with three replicas.

use super::*;

/// Replicas, each with its two versions, below one [`Sim`].
struct Fleet {
    sim: Sim,
    old: Vec<Side>,
    next: Vec<Side>,
}

fn node(number: usize) -> AgentId {
    AgentId::from_bytes([u8::try_from(number).unwrap() + 1; 16])
}

fn named(number: usize) -> String {
    format!("n{}", number + 1)
}

impl Fleet {
    fn new(strategy: Strategy) -> Self {
        let replicas = (0..3).map(node).collect();
        let sim = Sim::of(Update { replicas, ..update(strategy) });
        let next = vec![Side { is_here: true, ..Side::default() }; 3];
        Self { sim, old: vec![healthy(); 3], next }
    }

    fn update(&self) -> &Update {
        self.sim.updates.get(SERVICE).unwrap()
    }

    /// As the driver puts it together.
    fn second(&mut self) {
        let Some(update) = self.sim.updates.get(SERVICE) else { return };
        let of = |(number, side): (usize, &Side)| (named(number), side.clone());
        let started = update.next_nodes().len();
        let is_on_the_way = matches!(update.phase, Phase::Starting | Phase::Proving) && update.is_in_turn();
        let mut sides: Vec<_> = self.next.iter().enumerate().map(of).take(started).collect();
        let current =
            if is_on_the_way && update.rolled > 0 { sides.split_off(update.rolled) } else { Vec::new() };
        let (next, served) =
            if current.is_empty() { (sides, None) } else { (current, Some(Side::all_of(sides))) };
        let old = if update.is_recreate() { Side::default() } else { Side::any_of(self.old.clone()) };
        let next = if update.is_recreate() {
            Side::all_of(self.next.iter().enumerate().map(of).collect())
        } else {
            Side::all_of(next)
        };
        self.sim.sight = Sight { old, next, served };
        self.sim.second();
    }

    fn seconds(&mut self, count: u32) {
        (0..count).for_each(|_| self.second());
    }

    /// Parts of the next version at each node.
    fn parts(&self) -> Vec<u8> {
        (0..3).map(|number| self.update().shares_at(node(number)).unwrap().next).collect()
    }
}

#[test]
fn rolling_goes_from_replica_to_replica_and_each_is_proved_before_the_next() {
    let mut fleet = Fleet::new(Strategy::Rolling);
    assert_eq!(fleet.update().next_nodes(), [node(0)]);
    fleet.seconds(3);
    for number in 0..3 {
        assert_eq!((fleet.update().phase, fleet.update().rolled), (Phase::Starting, number));
        assert!(fleet.update().doing().contains(&format!("replica {} of 3", number + 1)));
        let moved: Vec<u8> = (0..3).map(|other| if other < number { 100 } else { 0 }).collect();
        assert_eq!(fleet.parts(), moved);
        assert_eq!(fleet.update().next_nodes().len(), number + 1);
        // A hub that is killed goes on with the replica that it had come to.
        fleet.sim.restart();
        fleet.next[number] = healthy();
        fleet.seconds(20);
        assert_eq!((fleet.update().phase, fleet.parts()), (Phase::Proving, moved));
        fleet.seconds(2);
    }
    assert_eq!((fleet.update().phase, fleet.parts()), (Phase::Moved, vec![100; 3]));
    fleet.seconds(3);
    assert_eq!(fleet.sim.end, Some(End::Finished));
}

#[test]
fn starts_anew_before_a_replica_was_healthy_do_not_count_once_all_are_moved() {
    let mut fleet = Fleet::new(Strategy::Rolling);
    for number in 0..3 {
        fleet.next[number] = Side { restarts: 1, ..healthy() };
        fleet.seconds(23);
    }
    assert_eq!(fleet.update().phase, Phase::Moved);
    fleet.seconds(3);
    assert_eq!(fleet.sim.end, Some(End::Finished));
}

#[test]
fn a_replica_that_does_not_get_well_takes_all_of_them_back() {
    let mut fleet = Fleet::new(Strategy::Rolling);
    fleet.next[0] = healthy();
    fleet.seconds(23);
    assert_eq!(fleet.parts(), [100, 0, 0]);
    fleet.next[1] = Side {
        state: Some(WorkloadState::Failed),
        reason: "a wrong digest".to_owned(),
        ..Side { is_here: true, ..Side::default() }
    };
    fleet.second();
    assert_eq!((fleet.update().phase, fleet.parts()), (Phase::Back, vec![0; 3]));
    fleet.seconds(4);
    assert_eq!(fleet.sim.reason(), "version 2 cannot be run: on n2: a wrong digest");

    // One that serves already falls ill while another one is started.
    let mut fleet = Fleet::new(Strategy::Rolling);
    fleet.next[0] = healthy();
    fleet.seconds(23);
    fleet.next[0] = sick();
    fleet.seconds(8);
    let reason = fleet.sim.reason();
    assert!(reason.contains("5 s where it serves: its service is unhealthy: on n1: refused"), "{reason}");

    // By the other ways the name of the node is said.
    for strategy in [Strategy::BlueGreen, Strategy::Canary] {
        let mut fleet = Fleet::new(strategy);
        fleet.next = vec![healthy(), sick(), healthy()];
        fleet.seconds(104);
        let reason = fleet.sim.reason();
        assert!(reason.contains("within 100 s: its service is unhealthy: on n2: refused"), "{reason}");
    }
    let mut fleet = Fleet::new(Strategy::Recreate);
    fleet.next = vec![healthy(), healthy(), Side { state: None, ..healthy() }];
    fleet.seconds(101);
    assert!(fleet.sim.reason().contains("its node (n3) says nothing of it"), "{}", fleet.sim.reason());
}

#[test]
fn requests_that_fail_at_a_replica_that_was_moved_take_it_back() {
    let mut fleet = Fleet::new(Strategy::Rolling);
    fleet.next[0] = healthy();
    fleet.seconds(23);
    fleet.old[1].tally = Tally { requests: 200, failed: 0, open: 0 };
    fleet.next[0].tally = Tally { requests: 100, failed: 50, open: 0 };
    fleet.seconds(4);
    let expected = "50 of 100 requests failed at version 2, 0 of 200 at version 1";
    assert_eq!(fleet.sim.reason(), expected);
}

#[test]
fn all_replicas_move_at_once_by_blue_green_and_in_steps_by_canary() {
    let mut fleet = Fleet::new(Strategy::BlueGreen);
    fleet.next = vec![healthy(); 3];
    fleet.next[2] = sick();
    fleet.seconds(30);
    assert_eq!((fleet.update().phase, fleet.parts()), (Phase::Starting, vec![0; 3]));
    fleet.next[2] = healthy();
    fleet.seconds(22);
    assert_eq!((fleet.update().phase, fleet.parts()), (Phase::Moved, vec![100; 3]));
    // What came meanwhile and runs the old version gets nothing either, and its requests are waited for.
    assert_eq!(fleet.update().shares_at(node(7)).unwrap().old, 0);
    fleet.old.push(Side { tally: Tally { open: 1, ..Tally::default() }, ..healthy() });
    fleet.seconds(60);
    assert_eq!(fleet.sim.end, None);
    fleet.seconds(12);
    assert_eq!(fleet.sim.end, Some(End::Finished));

    let mut fleet = Fleet::new(Strategy::Canary);
    fleet.next = vec![healthy(); 3];
    fleet.seconds(22);
    assert_eq!(fleet.parts(), [10, 10, 10]);
    assert_eq!(fleet.update().shares_at(node(7)).unwrap().old, 100);
    fleet.seconds(98);
    assert_eq!((&fleet.sim.end, &fleet.sim.parts[..]), (&Some(End::Finished), &[0, 10, 50, 100][..]));
}

#[test]
fn one_replica_that_is_away_for_a_moment_is_no_reason_after_the_move() {
    let mut fleet = Fleet::new(Strategy::BlueGreen);
    fleet.next = vec![healthy(); 3];
    fleet.seconds(23);
    assert_eq!(fleet.update().phase, Phase::Moved);
    fleet.next[1] = sick();
    fleet.seconds(3);
    assert_eq!(fleet.update().phase, Phase::Moved, "two of three serve");
    fleet.next[1] = healthy();
    fleet.seconds(10);
    fleet.next[1] = Side { is_here: false, ..sick() };
    fleet.seconds(25);
    assert_eq!(fleet.update().phase, Phase::Moved);
    fleet.seconds(10);
    assert_eq!(fleet.sim.reason(), "the node (n2) of version 2 has been away for 30 s");

    // None of them serves, and the old ones do: at once.
    let mut fleet = Fleet::new(Strategy::BlueGreen);
    fleet.next = vec![healthy(); 3];
    fleet.seconds(23);
    fleet.next = vec![sick(); 3];
    fleet.second();
    assert_eq!(fleet.update().phase, Phase::Back);
}
