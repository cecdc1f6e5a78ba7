#![expect(clippy::disallowed_methods, reason = "virtual time needs one first instant")]

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

const FLOOR: u16 = 1280;

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// One search on a simulated path, and data that is as large as it may be.
struct Sim {
    start: Instant,
    now: Instant,
    search: MtuSearch,
    rtt: Duration,
    /// Largest that passes.
    limit: u16,
    /// Loss in each direction, per thousand.
    loss: u64,
    random: u64,
    answers: BTreeSet<(Instant, u64, u16)>,
    probes: u64,
    /// Since when data of the size in use has vanished, and the longest such time.
    hung_since: Option<Instant>,
    hung: Duration,
}

impl Sim {
    fn new(ceiling: u16, limit: u16, rtt: u64) -> Self {
        let start = Instant::now();
        let search = MtuSearch::new(MtuLimits { floor: FLOOR, ceiling }, start);
        Self {
            start,
            now: start,
            search,
            rtt: ms(rtt),
            limit,
            loss: 0,
            random: 1,
            answers: BTreeSet::new(),
            probes: 0,
            hung_since: None,
            hung: Duration::ZERO,
        }
    }

    fn is_lost(&mut self) -> bool {
        self.random =
            self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % 1000 < self.loss
    }

    fn settle(&mut self) {
        self.search.handle_timeout(self.now);
        while let Some(probe) = self.search.poll_probe(self.now) {
            self.probes += 1;
            let lost = self.is_lost() | self.is_lost();
            if probe.size <= self.limit && !lost {
                self.answers.insert((self.now + self.rtt, probe.token, probe.size));
            }
        }
        assert!(self.search.deadline().is_none_or(|at| at > self.now), "the driver would spin");
        let (queued, sent) = self.search.flights.lens();
        assert!(queued <= flight::MAX_FLIGHTS && sent <= flight::MAX_FLIGHTS);
        assert!((FLOOR..=self.search.limits.ceiling).contains(&self.search.current()));
        if self.search.current() <= self.limit
            && let Some(since) = self.hung_since.take()
        {
            self.hung = self.hung.max(self.now - since);
        }
    }

    fn send_data(&mut self) {
        let size = self.search.current();
        self.search.note_large_sent(size, self.now);
        if size > self.limit {
            self.hung_since.get_or_insert(self.now);
        }
    }

    /// Lets time pass; sends data each `period`, if any.
    fn run(&mut self, time: Duration, period: Option<Duration>) {
        let end = self.now + time;
        let mut data_at = period.map(|_| self.now);
        self.settle();
        loop {
            let answer_at = self.answers.first().map(|answer| answer.0);
            let next = [self.search.deadline(), answer_at, data_at].into_iter().flatten().min();
            let Some(next) = next.filter(|next| *next <= end) else { break };
            self.now = self.now.max(next);
            while let Some(answer) = self.answers.first().copied().filter(|answer| answer.0 <= self.now) {
                self.answers.remove(&answer);
                self.search.handle_answer(answer.2, answer.1, self.now);
            }
            if let (Some(at), Some(period)) = (data_at, period)
                && at <= self.now
            {
                self.send_data();
                data_at = Some(self.now + period);
            }
            self.settle();
        }
        self.now = end;
        self.settle();
        if let Some(since) = self.hung_since {
            self.hung = self.hung.max(self.now - since);
        }
    }
}

const DATA: Option<Duration> = Some(ms(20));

#[test]
fn a_new_path_is_used_to_the_full_after_one_round_trip() {
    let mut sim = Sim::new(1420, 1420, 100);
    assert_eq!(sim.search.current(), FLOOR);
    sim.run(ms(99), DATA);
    assert_eq!(sim.search.current(), FLOOR);
    sim.run(ms(1), DATA);
    assert_eq!(sim.search.current(), 1420);
    assert!(sim.search.is_settled());
    assert_eq!(sim.hung, Duration::ZERO);
}

#[test]
fn the_largest_step_that_passes_is_found_at_once() {
    for limit in [1280, 1339, 1340, 1385, 1400, 1419] {
        let mut sim = Sim::new(1420, limit, 30);
        sim.run(ms(30), DATA);
        let best = climb::STEPS.into_iter().find(|step| *step <= limit).unwrap();
        assert_eq!(sim.search.current(), best);
        sim.run(ms(3000), DATA);
        assert!(sim.search.is_settled());
        assert_eq!((sim.search.current(), sim.hung), (best, Duration::ZERO));
    }
}

#[test]
fn jumbo_sizes_are_found() {
    for limit in [1420, 1440, 1500, 2000, 4410, 8836, 8920, 8940] {
        let mut sim = Sim::new(8940, limit, 20);
        sim.run(ms(20_000), DATA);
        let current = sim.search.current();
        assert!(current <= limit && limit - current <= 16, "{current} of {limit}");
        assert!(sim.search.is_settled());
        assert_eq!(sim.hung, Duration::ZERO);
    }
}

#[test]
fn an_idle_path_costs_nothing() {
    for limit in [1280, 1400, 1420] {
        let mut sim = Sim::new(1420, limit, 30);
        sim.run(ms(10_000), DATA);
        sim.run(ms(10_000), None);
        let before = sim.probes;
        assert_eq!(sim.search.deadline(), None, "at {limit}");
        sim.run(Duration::from_secs(24 * 3600), None);
        assert_eq!(sim.probes, before);
    }
}

#[test]
fn small_packets_cost_nothing_either() {
    let mut sim = Sim::new(1420, 1420, 30);
    sim.run(ms(1000), None);
    let before = sim.probes;
    for _ in 0..1000 {
        sim.search.note_large_sent(200, sim.now);
        sim.run(ms(100), None);
    }
    assert_eq!(sim.probes, before);
}

#[test]
fn large_data_costs_five_probes_in_two_seconds() {
    let mut sim = Sim::new(1420, 1420, 30);
    sim.run(ms(2000), DATA);
    let before = sim.probes;
    sim.run(ms(600_000), DATA);
    assert!((1495..=1505).contains(&(sim.probes - before)), "{}", sim.probes - before);
}

#[test]
fn a_black_hole_goes_to_the_largest_size_that_passes_and_climbs_back_when_it_ends() {
    let mut sim = Sim::new(1420, 1420, 30);
    sim.run(ms(10_500), DATA);
    sim.limit = 1390;
    sim.run(ms(3000), DATA);
    assert_eq!(sim.search.current(), 1380);
    assert!(sim.hung <= ms(1400), "{:?}", sim.hung);
    sim.run(ms(30_000), DATA);
    assert_eq!((sim.search.current(), sim.search.falls()), (1380, 1));
    sim.limit = 1420;
    sim.run(Duration::from_secs(600), DATA);
    assert_eq!(sim.search.current(), 1420);
}

#[test]
fn a_hole_that_came_while_idle_is_found_with_the_first_large_data() {
    let mut sim = Sim::new(1420, 1420, 30);
    sim.run(ms(10_000), DATA);
    sim.run(ms(3_600_000), None);
    sim.limit = 1300;
    sim.run(ms(10_000), DATA);
    assert_eq!(sim.search.current(), 1280);
    assert!(sim.hung <= ms(1200), "{:?}", sim.hung);
}

#[test]
fn a_path_that_loses_everything_lets_nothing_fall() {
    let mut sim = Sim::new(1420, 1420, 30);
    sim.run(ms(10_000), DATA);
    sim.loss = 1000;
    let before = sim.probes;
    sim.run(ms(60_000), DATA);
    assert_eq!((sim.search.current(), sim.search.falls()), (1420, 0));
    assert!(sim.probes - before < 400, "{} probes a minute", sim.probes - before);
    sim.loss = 0;
    sim.run(ms(60_000), DATA);
    assert_eq!((sim.search.current(), sim.search.falls()), (1420, 0));
}

#[test]
fn a_path_that_was_dead_at_first_is_climbed_once_data_flows() {
    let mut sim = Sim::new(1420, 1420, 30);
    sim.loss = 1000;
    sim.run(ms(3_600_000), None);
    assert!(sim.probes <= 50 && sim.search.deadline().is_none());
    sim.loss = 0;
    sim.run(ms(1000), DATA);
    assert_eq!(sim.search.current(), 1420);
}

#[test]
fn loss_of_five_percent_each_way_does_not_make_it_flap() {
    for seed in 1..=20 {
        let mut sim = Sim::new(1420, 1420, 40);
        (sim.loss, sim.random) = (50, seed);
        sim.run(Duration::from_secs(3600), Some(ms(100)));
        assert_eq!((sim.search.current(), sim.search.falls()), (1420, 0), "seed {seed}");
        assert!(sim.probes < 3600 * 4, "{} probes", sim.probes);
    }
}

#[test]
fn delay_and_its_changes_do_not_make_it_fall() {
    let mut sim = Sim::new(1420, 1420, 700);
    sim.run(ms(600_000), DATA);
    assert_eq!((sim.search.current(), sim.search.falls()), (1420, 0), "satellite");
    assert!(sim.probes < 1550, "{} probes", sim.probes);
    for seed in 1..=5 {
        let mut sim = Sim::new(1420, 1420, 20);
        sim.random = seed;
        for _ in 0..6000 {
            sim.is_lost();
            sim.rtt = ms(10 + (sim.random >> 33) % 900);
            sim.run(ms(100), DATA);
        }
        assert_eq!((sim.search.current(), sim.search.falls()), (1420, 0), "jitter, seed {seed}");
    }
    let mut sim = Sim::new(1420, 1420, 10);
    for rtt in (10..2000).step_by(190).cycle().take(200) {
        sim.rtt = ms(rtt);
        sim.run(ms(3000), DATA);
    }
    assert_eq!((sim.search.current(), sim.search.falls()), (1420, 0), "filling and draining queues");
}

#[test]
fn a_restart_begins_at_the_floor_and_ignores_what_the_old_path_said() {
    let mut sim = Sim::new(1420, 1420, 30);
    sim.run(ms(10), DATA);
    sim.limit = FLOOR;
    sim.search.restart(1380, sim.now);
    sim.run(ms(1000), DATA);
    assert_eq!(sim.search.current(), FLOOR);
    sim.limit = 1380;
    sim.search.restart(1380, sim.now);
    sim.run(ms(30), DATA);
    assert_eq!(sim.search.current(), 1380);
    sim.search.restart(900, sim.now);
    sim.run(ms(60_000), DATA);
    assert_eq!(sim.search.current(), FLOOR, "a ceiling below the floor is the floor");
    assert_eq!(sim.search.deadline(), None);
}

#[test]
fn an_answer_of_another_length_proves_nothing() {
    let mut search = MtuSearch::new(MtuLimits { floor: FLOOR, ceiling: 1420 }, Instant::now());
    let now = search.now;
    let probe = search.poll_probe(now).unwrap();
    assert_eq!(probe.size, 1420);
    search.handle_answer(1419, probe.token, now);
    search.handle_answer(u16::MAX, probe.token, now);
    search.handle_answer(1420, probe.token + 1000, now);
    assert_eq!(search.current(), FLOOR);
    search.handle_answer(1420, probe.token, now);
    assert_eq!(search.current(), 1420);
}

#[test]
fn an_outage_that_ends_on_a_narrower_path_heals_within_three_seconds_of_its_end() {
    for outage in (100..20_000).step_by(700) {
        let mut sim = Sim::new(1420, 1420, 30);
        sim.run(ms(10_000), DATA);
        sim.loss = 1000;
        sim.run(ms(outage), DATA);
        (sim.loss, sim.limit) = (0, 1300);
        sim.run(ms(10_000), DATA);
        assert!(sim.hung <= ms(3000), "{:?} after {outage} ms", sim.hung);
    }
}

#[derive(Debug, Clone)]
enum Step {
    Run { millis: u64, period: Option<u64> },
    Path { limit: u16, loss: u64, rtt: u64 },
    Restart { ceiling: u16 },
    Answer { size: u16, token: u64 },
    Back { millis: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0u64..5000, proptest::option::of(1u64..500))
            .prop_map(|(millis, period)| Step::Run { millis, period }),
        (1000u16..9100, 0u64..1001, 0u64..3000).prop_map(|(limit, loss, rtt)| Step::Path {
            limit,
            loss,
            rtt
        }),
        any::<u16>().prop_map(|ceiling| Step::Restart { ceiling }),
        (any::<u16>(), 0u64..200).prop_map(|(size, token)| Step::Answer { size, token }),
        (0u64..10_000).prop_map(|millis| Step::Back { millis }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// P23: whatever the hole, whenever it comes, a flow hangs for 3 s at most.
    #[test]
    fn a_hole_at_any_size_and_time_heals_within_three_seconds(
        rtt in 1u64..400,
        ceiling in prop_oneof![Just(1420u16), Just(1500), Just(8940)],
        hole in FLOOR..8940,
        at in 0u64..20_000,
        pause in 0u64..4000,
        period in 1u64..300,
    ) {
        let mut sim = Sim::new(ceiling, ceiling, rtt);
        sim.run(ms(at), Some(ms(period)));
        sim.run(ms(pause), None);
        sim.limit = hole;
        sim.run(ms(20_000), Some(ms(period)));
        prop_assert!(sim.hung <= ms(3000), "{:?}", sim.hung);
        prop_assert!(sim.search.current() <= hole);
    }

    /// Loss beside the hole costs a pair or two more.
    #[test]
    fn a_hole_on_a_lossy_path_heals_within_three_seconds(
        rtt in 1u64..200,
        hole in FLOOR..1420,
        at in 3000u64..20_000,
        seed in any::<u64>(),
    ) {
        let mut sim = Sim::new(1420, 1420, rtt);
        (sim.loss, sim.random) = (50, seed);
        sim.run(ms(at), DATA);
        sim.limit = hole;
        sim.run(ms(10_000), DATA);
        prop_assert!(sim.hung <= ms(3000), "{:?}", sim.hung);
    }

    /// `Sim::settle` checks bounds and the timeout contract after every step.
    #[test]
    fn any_run_of_calls_keeps_the_invariants(steps in proptest::collection::vec(step(), 1..40)) {
        let mut sim = Sim::new(1420, 1420, 30);
        for step in steps {
            match step {
                Step::Run { millis, period } => sim.run(ms(millis), period.map(ms)),
                Step::Path { limit, loss, rtt } => (sim.limit, sim.loss, sim.rtt) = (limit, loss, ms(rtt)),
                Step::Restart { ceiling } => sim.search.restart(ceiling, sim.now),
                Step::Answer { size, token } => sim.search.handle_answer(size, token, sim.now),
                Step::Back { millis } => {
                    let earlier = sim.now.checked_sub(ms(millis)).unwrap_or(sim.start).max(sim.start);
                    sim.search.handle_timeout(earlier);
                    sim.search.note_large_sent(u16::MAX, earlier);
                }
            }
            sim.settle();
        }
        (sim.limit, sim.loss, sim.rtt) = (u16::MAX, 0, ms(30));
        sim.search.restart(1420, sim.now);
        sim.run(ms(100), DATA);
        prop_assert_eq!(sim.search.current(), 1420, "it still works");
    }
}
