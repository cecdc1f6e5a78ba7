#![expect(clippy::disallowed_methods, reason = "virtual time needs one first instant")]

use proptest::prelude::*;

use super::*;

const MS: Duration = Duration::from_millis(1);

/// A ladder of four rungs, the two last with connections, and a network in which some of them work.
struct Sim {
    now: Instant,
    ladder: Ladder,
    works: [bool; 4],
    /// Tries under way, and when their outcome shows.
    tries: Vec<(usize, Instant)>,
    moves: Vec<usize>,
    next_echo: Instant,
}

impl Sim {
    fn new(works: [bool; 4]) -> Self {
        let now = Instant::now();
        let ladder = Ladder::new([true, true, false, false], now);
        Self { now, ladder, works, tries: Vec::new(), moves: Vec::new(), next_echo: now }
    }

    fn drain(&mut self) {
        while let Some(event) = self.ladder.poll_event() {
            match event {
                LadderEvent::Try { rung, .. } => {
                    assert!(!self.tries.iter().any(|(other, _)| *other == rung), "{rung} is tried twice");
                    let takes = if self.works[rung] { 20 + 10 * u32::try_from(rung).unwrap() } else { 1200 };
                    self.tries.push((rung, self.now + MS * takes));
                }
                LadderEvent::Move { rung } => self.moves.push(rung),
            }
        }
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        self.drain();
        while self.now < end {
            self.now += MS * 10;
            if self.next_echo <= self.now {
                self.next_echo = self.now + MS * 1000;
                if self.ladder.current().is_some_and(|rung| self.works[rung]) {
                    self.ladder.handle_echo(self.now, MS * 20, self.now);
                }
            }
            let (done, open): (Vec<_>, Vec<_>) = self.tries.iter().partition(|(_, at)| *at <= self.now);
            self.tries = open;
            for (rung, _) in done {
                if self.works[rung] {
                    self.ladder.handle_answer(rung, self.now);
                } else {
                    self.ladder.handle_failure(rung, self.now);
                }
                self.drain();
            }
            if self.ladder.poll_timeout().is_some_and(|at| at <= self.now) {
                self.ladder.handle_timeout(self.now);
                assert!(self.ladder.poll_timeout().is_none_or(|at| at > self.now));
            }
            self.drain();
        }
    }
}

#[test]
fn the_first_that_answers_is_taken_and_then_the_best() {
    let mut sim = Sim::new([true; 4]);
    sim.run(MS * 500);
    assert_eq!(sim.moves, [0]);

    let mut sim = Sim::new([false, false, true, true]);
    sim.run(MS * 500);
    assert_eq!(sim.moves, [2]);
}

#[test]
fn a_rung_that_falls_silent_is_left_within_three_seconds_and_taken_again_within_sixty() {
    let mut sim = Sim::new([true; 4]);
    sim.run(Duration::from_secs(10));
    sim.works = [false, false, true, true];
    sim.run(Duration::from_secs(3));
    assert_eq!(sim.moves, [0, 2]);
    sim.works = [false, false, false, true];
    sim.run(Duration::from_secs(3));
    assert_eq!(sim.moves, [0, 2, 3]);
    sim.run(Duration::from_secs(600));
    assert_eq!(sim.moves, [0, 2, 3]);
    sim.works = [true; 4];
    sim.run(Duration::from_secs(60));
    assert_eq!(sim.ladder.current(), Some(0), "{:?}", sim.moves);
}

#[test]
fn one_lost_echo_moves_nothing() {
    let mut sim = Sim::new([true; 4]);
    sim.run(Duration::from_secs(10));
    for _ in 0..10 {
        sim.next_echo = sim.now + MS * 1900;
        sim.run(Duration::from_secs(10));
    }
    assert_eq!(sim.moves, [0]);
}

#[test]
fn a_connection_that_ends_is_left_at_once() {
    let mut sim = Sim::new([false, false, true, true]);
    sim.run(Duration::from_secs(10));
    sim.works = [false, false, false, true];
    sim.ladder.handle_gone(2, sim.now);
    sim.run(MS * 300);
    assert_eq!(sim.moves, [2, 3]);
}

#[test]
fn while_nothing_works_everything_is_tried_again_and_again() {
    let mut sim = Sim::new([false; 4]);
    sim.run(Duration::from_secs(600));
    assert_eq!(sim.moves, [0; 0]);
    sim.works = [false, true, false, false];
    sim.run(MS * 2500);
    assert_eq!(sim.moves, [1]);
    let mut sim = Sim::new([false; 4]);
    sim.run(Duration::from_secs(600));
    sim.works = [false, false, false, true];
    sim.run(SEARCH_PAUSE_MAX + MS * 1500);
    assert_eq!(sim.moves, [3]);
}

#[test]
fn a_better_rung_that_answers_now_and_then_is_not_taken() {
    let mut sim = Sim::new([false, false, false, true]);
    sim.run(Duration::from_secs(5));
    for turn in 0..600 {
        sim.works[0] = turn % 2 == 0;
        sim.run(MS * 1100);
    }
    assert_eq!(sim.moves.first(), Some(&3));
    assert!(sim.moves.len() < 20, "{:?}", sim.moves);
}

#[test]
fn a_try_that_ends_when_the_silence_is_noticed_does_not_hide_it() {
    let mut sim = Sim::new([false; 4]);
    for (works, millis) in [([1], 4391), ([3], 17_781), ([1], 17_811)] {
        sim.works = [0, 1, 2, 3].map(|rung| works.contains(&rung));
        sim.run(MS * millis);
    }
    sim.works = [false, false, true, false];
    sim.run(Duration::from_secs(3));
    assert_eq!(sim.moves, [1, 3, 1, 2]);
}

#[test]
fn a_hub_that_answers_elsewhere_is_followed_at_once() {
    let mut sim = Sim::new([true; 4]);
    sim.run(Duration::from_secs(10));
    sim.works = [false; 4];
    sim.run(MS * 2600);
    assert!(sim.ladder.is_searching());
    sim.ladder.handle_answer_elsewhere(0, sim.now);
    assert_eq!(sim.ladder.poll_event(), Some(LadderEvent::Move { rung: 0 }));
    assert!(!sim.ladder.is_searching());
    // Of a rung that is not in use it is an answer as any other.
    sim.ladder.handle_answer_elsewhere(1, sim.now);
    assert_eq!((sim.ladder.current(), sim.ladder.poll_event()), (Some(0), None));
}

proptest! {
    #[test]
    fn it_never_spins_and_ends_on_a_rung_that_works(steps in proptest::collection::vec((any::<[bool; 4]>(), 1u32..20_000), 1..12)) {
        let mut sim = Sim::new([false; 4]);
        for (works, millis) in steps {
            sim.works = works;
            sim.run(MS * millis);
        }
        sim.works = [false, false, true, false];
        sim.run(Duration::from_secs(15));
        prop_assert_eq!(sim.ladder.current(), Some(2));
        sim.works = [true; 4];
        sim.run(Duration::from_secs(60));
        prop_assert_eq!(sim.ladder.current(), Some(0));
    }
}
