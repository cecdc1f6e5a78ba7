//! One service on virtual time, with a deployment that does what it is told.

use std::collections::BTreeSet;
use std::time::Duration;

use blueprint_common_types::{ServiceKey, Timestamp};
use proptest::prelude::*;

use super::*;
use crate::{DeploymentId, InstanceKey};

const SECOND: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_secs(30);

fn id() -> DeploymentId {
    DeploymentId::from_bytes([0; 10])
}

struct Sim {
    now: Timestamp,
    scaler: Scaler,
    scaling: Scaling,
    sight: Sight,
    next: u32,
    is_deployed: bool,
    is_cloud_there: bool,
    history: Vec<String>,
}

impl Sim {
    fn new(terms: Terms) -> Self {
        let now = Timestamp::from_millis(1_000_000_000_000);
        let service = ServiceKey { blueprint: 7, service: 42 };
        let (wanted, scaler) = (terms.min, Scaler::new(ScalerSettings::default(), now));
        let scaling = Scaling {
            service,
            deployment: id(),
            terms,
            phase: Phase::Paid,
            phase_since: now,
            changed_at: now,
        };
        let sight = Sight {
            wanted,
            replicas: Vec::new(),
            rate: None,
            is_running: true,
            is_gone: false,
            is_clock_trusted: true,
            is_reached: true,
            updating: None,
            is_replacing: false,
        };
        let (is_deployed, is_cloud_there, history) = (true, true, Vec::new());
        let mut sim = Self { now, scaler, scaling, sight, next: 1, is_deployed, is_cloud_there, history };
        sim.order();
        sim
    }

    /// The deployment has as many machines as it wants, and each is ready.
    fn order(&mut self) {
        let wanted = usize::try_from(self.sight.wanted).unwrap();
        while self.sight.replicas.len() < wanted {
            let number = self.next;
            self.next += 1;
            let place = ("sim".to_owned(), if number.is_multiple_of(2) { "west" } else { "east" }.to_owned());
            let replica = Replica {
                key: InstanceKey::of(&id(), number),
                number,
                place,
                is_ready: true,
                presence: Presence::Here,
                listed_at: None,
                leaving_since: None,
                measure: None,
                open: 0,
            };
            self.sight.replicas.push(replica);
        }
    }

    /// So many machines cannot be had.
    fn lose(&mut self, count: usize) {
        let left = self.sight.replicas.len().saturating_sub(count);
        self.sight.replicas.truncate(left);
    }

    /// Each replica that gets requests uses its part of so many hundredths of a processor.
    fn load(&mut self, percent: f64) {
        let serving = self.sight.replicas.iter().filter(|it| it.leaving_since.is_none()).count();
        let each = percent / f64::from(u32::try_from(serving.max(1)).unwrap());
        for replica in &mut self.sight.replicas {
            let cpu_percent = if replica.leaving_since.is_some() { 0.0 } else { each };
            replica.measure = Some(Measure { cpu_percent, heard_at: self.now });
        }
    }

    /// A look later; what is to be done is done.
    fn look(&mut self, after: Duration) -> Option<Step> {
        self.now = self.now.plus(after);
        if self.is_cloud_there {
            self.sight.replicas.iter_mut().for_each(|it| it.listed_at = Some(self.now));
        }
        let (step, why) = self.scaler.look(&self.scaling, &self.sight, self.now);
        assert!(!why.is_empty());
        if let Some(step) = &step {
            self.history.push(step.label().to_owned());
            self.carry_out(step);
        }
        step
    }

    fn carry_out(&mut self, step: &Step) {
        match step {
            Step::Grow { to, .. } => {
                assert!(*to > self.sight.wanted);
                self.sight.wanted = *to;
            }
            Step::Drain { keys, .. } => {
                assert!(!keys.is_empty());
                self.mark(keys, Some(self.now));
            }
            Step::Keep { keys, .. } => self.mark(keys, None),
            Step::Shrink { to, released, .. } => {
                self.sight.wanted = *to;
                self.sight.replicas.retain(|replica| !released.contains(&replica.key));
            }
            Step::Replace { key, .. } => self.sight.replicas.retain(|replica| replica.key != *key),
            Step::Turn { phase, .. } => {
                (self.scaling.phase, self.scaling.phase_since) = (*phase, self.now);
            }
            Step::End { .. } => {
                (self.is_deployed, self.sight.is_gone) = (false, true);
                (self.scaling.phase, self.scaling.phase_since) = (Phase::Ended, self.now);
            }
        }
    }

    fn mark(&mut self, keys: &BTreeSet<InstanceKey>, since: Option<Timestamp>) {
        for replica in self.sight.replicas.iter_mut().filter(|it| keys.contains(&it.key)) {
            replica.leaving_since = since;
        }
    }

    /// Looks for a time under a load, and gives how many are wanted then.
    fn run(&mut self, percent: f64, time: Duration) -> u32 {
        let end = self.now.plus(time);
        while self.now < end {
            self.order();
            self.load(percent);
            self.look(LOOK);
        }
        self.sight.wanted
    }
}

fn standard() -> Terms {
    Terms::of(Tier::Standard)
}

#[test]
fn the_tiers_are_those_of_the_specification() {
    let rows = Tier::ALL.map(|tier| {
        let TierTerms { replicas, max_replicas, cpu_millis, memory_bytes, gpus, autoscale } = tier.terms();
        (tier.label(), replicas, max_replicas, cpu_millis, memory_bytes >> 20, gpus, autoscale)
    });
    assert_eq!(
        rows,
        [
            ("basic", 1, 1, 100, 128, 0, false),
            ("standard", 2, 5, 500, 512, 0, true),
            ("premium", 3, 20, 2000, 4096, 1, true),
        ]
    );
    assert!("gold".parse::<Tier>().is_err() && "premium".parse() == Ok(Tier::Premium));
}

#[test]
fn terms_stay_within_the_tier_and_the_hub() {
    let limits = TermsLimits { min_replicas: 1, max_replicas: 10 };
    assert_eq!(standard().check(&limits), Ok(()));
    let above = Terms { max: 6, ..standard() };
    assert!(matches!(above.check(&limits), Err(TermsError::AboveTier { most: 5, .. })));
    assert!(matches!(Terms::of(Tier::Premium).check(&limits), Err(TermsError::OutsideHub { most: 10, .. })));
    assert!(matches!(Terms { min: 4, max: 3, ..standard() }.check(&limits), Err(TermsError::Crossed { .. })));
    assert!(matches!(Terms { min: 0, ..standard() }.check(&limits), Err(TermsError::OutsideHub { .. })));
    assert_eq!(Terms { target_cpu: 0, ..standard() }.check(&limits), Err(TermsError::Cpu(0)));
    assert_eq!(Terms { target_rate: Some(0), ..standard() }.check(&limits), Err(TermsError::Rate(0)));
}

#[test]
fn a_standard_service_follows_its_load_from_two_to_five_and_back() {
    let mut sim = Sim::new(standard());
    // 500m each, of which 70 % are to be used: two take 70 % of a processor.
    assert_eq!(sim.run(70.0, LOOK * 20), 2);
    assert_eq!(sim.run(160.0, LOOK * 20), 5);
    assert_eq!(sim.run(900.0, LOOK * 20), 5, "the tier has no more");
    // Four would be at 66 %: that is no room to spare.
    assert_eq!(sim.run(132.0, LOOK * 40), 5, "it does not swing");
    assert_eq!(sim.run(10.0, Duration::from_secs(299)), 5, "not before the load was low for long");
    assert_eq!(sim.run(10.0, LOOK * 10), 2);
    assert_eq!(sim.history, ["grow", "grow", "drain", "shrink"], "two to four, to five, and back at once");
}

#[test]
fn requests_a_second_count_where_the_terms_say_so() {
    let mut sim = Sim::new(Terms { target_rate: Some(10), ..standard() });
    sim.sight.rate = Some(45.0);
    assert_eq!(sim.run(1.0, LOOK * 10), 5);
    sim.sight.rate = None;
    assert_eq!(sim.run(1.0, LOOK * 40), 5, "a rate that is not known takes nothing away");
    sim.sight.rate = Some(3.0);
    assert_eq!(sim.run(1.0, LOOK * 20), 2);
}

#[test]
fn what_is_not_measured_never_takes_a_replica_away() {
    let mut sim = Sim::new(standard());
    assert_eq!(sim.run(160.0, LOOK * 20), 5);
    for _ in 0..60 {
        sim.load(1.0);
        // One that is not heard of, and one that says what cannot be.
        sim.sight.replicas[0].measure = None;
        sim.sight.replicas[1].measure = Some(Measure { cpu_percent: f64::NAN, heard_at: sim.now });
        assert_eq!(sim.look(LOOK), None);
    }
    for replica in &mut sim.sight.replicas {
        replica.measure = Some(Measure { cpu_percent: 0.0, heard_at: sim.now });
    }
    for _ in 0..60 {
        assert_eq!(sim.look(LOOK * 2), None, "what was measured long ago");
    }
    assert_eq!(sim.run(1.0, LOOK * 20), 2);
}

#[test]
fn an_agent_that_lies_does_not_get_every_machine() {
    let mut sim = Sim::new(Terms::of(Tier::Premium));
    for _ in 0..40 {
        sim.order();
        sim.load(30.0);
        sim.sight.replicas[0].measure = Some(Measure { cpu_percent: 1e30, heard_at: sim.now });
        sim.look(LOOK);
    }
    assert!(sim.sight.wanted <= 4, "{}", sim.sight.wanted);
}

#[test]
fn load_that_comes_back_while_replicas_drain_keeps_them() {
    let mut sim = Sim::new(standard());
    sim.run(160.0, LOOK * 20);
    sim.run(1.0, Duration::from_secs(330));
    let drain = sim.history.last().unwrap().clone();
    assert_eq!(drain, "drain");
    sim.sight.replicas.iter_mut().for_each(|replica| replica.open = 3);
    sim.load(160.0);
    let Some(Step::Keep { keys, .. }) = sim.look(SECOND) else { panic!("{:?}", sim.history) };
    assert_eq!(keys.len(), 3);
    assert_eq!(sim.sight.wanted, 5);
}

#[test]
fn a_replica_goes_when_nothing_is_open_at_it_or_its_time_is_over() {
    let mut sim = Sim::new(Terms { max: 2, ..standard() });
    sim.sight.wanted = 3;
    sim.order();
    sim.load(1.0);
    assert!(matches!(sim.look(SECOND), Some(Step::Drain { .. })));
    for replica in &mut sim.sight.replicas {
        replica.open = 1;
    }
    assert_eq!(sim.look(Duration::from_secs(59)), None, "what is open goes on");
    assert!(matches!(sim.look(SECOND), Some(Step::Shrink { to: 2, .. })));
}

#[test]
fn the_last_one_that_answers_is_not_taken() {
    let mut sim = Sim::new(Terms { min: 1, max: 1, ..standard() });
    sim.sight.wanted = 2;
    sim.order();
    sim.sight.replicas[0].is_ready = false;
    let Some(Step::Drain { keys, .. }) = sim.look(SECOND) else { panic!() };
    assert!(keys.contains(&sim.sight.replicas[0].key), "one that does not answer goes first");
    // Now the other one stops to answer, and this one is back.
    (sim.sight.replicas[0].is_ready, sim.sight.replicas[1].is_ready) = (true, false);
    assert!(matches!(sim.look(LOOK), Some(Step::Keep { .. })));
}

#[test]
fn where_fewer_stand_than_are_wanted_no_healthy_one_is_taken_for_them() {
    let mut sim = Sim::new(standard());
    assert_eq!(sim.run(160.0, LOOK * 20), 5);
    sim.lose(3);
    for _ in 0..30 {
        sim.load(1.0);
        sim.look(LOOK);
    }
    assert_eq!((sim.sight.wanted, sim.sight.replicas.len()), (2, 2), "{:?}", sim.history);
    assert_eq!(sim.history, ["grow", "grow", "shrink"], "nothing drains");
    // Of four that are too many by two, one does not stand: one drains.
    let mut sim = Sim::new(Terms { max: 2, ..standard() });
    sim.sight.wanted = 4;
    sim.order();
    sim.lose(1);
    assert!(matches!(sim.look(SECOND), Some(Step::Shrink { to: 3, released, .. }) if released.is_empty()));
    assert!(matches!(sim.look(SECOND), Some(Step::Drain { keys, .. }) if keys.len() == 1));
    assert!(matches!(sim.look(SECOND * 3), Some(Step::Shrink { to: 2, .. })));
    // Terms that do not follow the load, and not one machine.
    let mut sim = Sim::new(Terms::of(Tier::Basic));
    sim.sight.wanted = 3;
    sim.lose(1);
    for _ in 0..5 {
        sim.look(LOOK);
    }
    assert_eq!((sim.history, sim.sight.wanted), (vec!["shrink".to_owned()], 1));
}

#[test]
fn nothing_is_released_while_nothing_answers() {
    let mut sim = Sim::new(Terms { min: 1, max: 1, ..standard() });
    sim.sight.wanted = 2;
    sim.order();
    sim.sight.replicas[0].is_ready = false;
    sim.sight.replicas[1].leaving_since = Some(sim.now);
    // The hub starts anew: nothing is known to answer, and the time to drain is long over.
    sim.sight.replicas[1].is_ready = false;
    assert_eq!(sim.look(LOOK * 10), None);
    sim.sight.replicas[1].is_ready = true;
    assert!(matches!(sim.look(LOOK), Some(Step::Keep { .. })), "{:?}", sim.history);
}

#[test]
fn a_clock_in_doubt_turns_neither_way() {
    for phase in [Phase::Draining, Phase::Zero] {
        let mut sim = Sim::new(standard());
        sim.scaling.phase = phase;
        sim.scaling.terms.paid_until = Some(sim.now.plus(LOOK * 100));
        sim.sight.is_clock_trusted = false;
        assert_eq!(sim.look(LOOK), None);
        sim.scaling.terms.paid_until = None;
        assert!(matches!(sim.look(LOOK), Some(Step::Turn { phase: Phase::Paid, .. })), "no clock says so");
        sim.scaling.phase = phase;
        sim.scaling.terms.paid_until = Some(sim.now.plus(LOOK * 100));
        sim.sight.is_clock_trusted = true;
        assert!(matches!(sim.look(LOOK), Some(Step::Turn { phase: Phase::Paid, .. })));
    }
}

#[test]
fn what_ended_runs_on_no_node_until_its_tier_is_forgotten() {
    let mut sim = Sim::new(standard());
    let mut records = crate::lifecycle::Records::default();
    let mut record = crate::lifecycle::tests::record(1);
    record.agent = Some(blueprint_common_types::AgentId::from_bytes([7; 16]));
    sim.scaling.deployment = record.deployment.clone();
    records.instances.insert(record.key.clone(), record);
    let nodes =
        |scaling: &Scaling| nodes_of(std::slice::from_ref(scaling), &records).remove(&scaling.service);
    assert_eq!(nodes(&sim.scaling).unwrap().len(), 1);
    sim.scaling.phase = Phase::Ended;
    assert_eq!(nodes(&sim.scaling), Some(BTreeSet::new()));
}

#[test]
fn an_update_holds_replicas_and_scaling_goes_on_after_it() {
    // Load that asks for more, load that asks for less, and a payment that is over.
    for (percent, paid, then) in [(160.0, true, "grow"), (1.0, true, "drain"), (70.0, false, "phase")] {
        let mut sim = Sim::new(standard());
        if percent < 70.0 {
            sim.run(160.0, LOOK * 20);
        }
        sim.history.clear();
        let wanted = sim.sight.wanted;
        sim.scaling.terms.paid_until = (!paid).then(|| sim.now.plus(LOOK));
        sim.sight.updating = Some("version 2 is started, replica 1 of 2".to_owned());
        assert_eq!(sim.run(percent, LOOK * 40), wanted, "{then}");
        assert_eq!(sim.scaler.look(&sim.scaling, &sim.sight, sim.now).0, None);
        let why = sim.scaler.look(&sim.scaling, &sim.sight, sim.now).1;
        assert!(why.contains("an update is under way") && why.ends_with("replica 1 of 2"), "{why}");
        assert!(sim.history.is_empty(), "{:?}", sim.history);
        sim.sight.updating = None;
        sim.run(percent, LOOK * 20);
        assert_eq!(sim.history.first().map(String::as_str), Some(then));
    }
}

#[test]
fn the_place_that_has_most_gives_first() {
    let mut sim = Sim::new(standard());
    sim.sight.wanted = 5;
    sim.order();
    for _ in 0..20 {
        sim.load(1.0);
        sim.look(LOOK);
    }
    let places: BTreeSet<_> = sim.sight.replicas.iter().map(|it| it.place.1.as_str()).collect();
    assert_eq!((sim.sight.replicas.len(), places.len()), (2, 2), "both places keep one");
}

#[test]
fn who_does_not_pay_is_drained_comes_to_zero_and_ends_after_the_grace() {
    let mut sim = Sim::new(standard());
    sim.scaling.terms.paid_until = Some(sim.now.plus(LOOK * 2));
    sim.run(1.0, LOOK);
    sim.sight.replicas[0].open = 1;
    sim.sight.is_clock_trusted = false;
    sim.run(1.0, LOOK * 4);
    assert!(sim.history.is_empty(), "a clock in doubt ends nothing: {:?}", sim.history);
    sim.sight.is_clock_trusted = true;
    sim.look(SECOND);
    sim.look(SECOND);
    assert_eq!(sim.look(SECOND * 3), None, "a request is open");
    sim.sight.replicas[0].open = 0;
    sim.look(SECOND);
    sim.look(SECOND);
    assert_eq!((sim.scaling.phase, sim.sight.wanted), (Phase::Zero, 0));
    let grace = ScalerSettings::default().grace;
    assert_eq!(sim.look(grace - SECOND), None);
    sim.look(SECOND);
    sim.look(SECOND);
    assert_eq!((sim.scaling.phase, sim.is_deployed), (Phase::Ended, false));
    assert_eq!(sim.history, ["phase", "drain", "shrink", "phase", "end"]);
    assert_eq!(sim.look(SECOND), None);
}

#[test]
fn who_pays_again_gets_what_the_tier_promises() {
    let mut sim = Sim::new(standard());
    sim.scaling.terms.paid_until = Some(sim.now);
    for _ in 0..10 {
        sim.look(LOOK);
    }
    assert_eq!((sim.scaling.phase, sim.sight.wanted), (Phase::Zero, 0));
    sim.scaling.terms.paid_until = Some(sim.now.plus(LOOK * 100));
    sim.look(SECOND);
    assert!(matches!(sim.look(SECOND), Some(Step::Grow { to: 2, .. })), "{:?}", sim.history);
    // Also while it drains.
    let mut sim = Sim::new(standard());
    sim.scaling.terms.paid_until = Some(sim.now);
    sim.look(SECOND);
    sim.look(SECOND);
    sim.scaling.terms.paid_until = None;
    sim.look(SECOND);
    assert!(matches!(sim.look(SECOND), Some(Step::Keep { .. })));
    assert_eq!(sim.sight.wanted, 2);
}

#[test]
fn a_replica_whose_agent_stays_away_is_given_up_for_another_one() {
    let mut sim = Sim::new(standard());
    sim.run(60.0, LOOK * 4);
    let lost = sim.sight.replicas[0].key.clone();
    let away = |sim: &mut Sim, presence: Presence| {
        let replica = sim.sight.replicas.iter_mut().find(|it| it.key == lost).unwrap();
        (replica.presence, replica.is_ready) = (presence, presence == Presence::Here);
    };
    away(&mut sim, Presence::Away);
    for _ in 0..20 {
        assert_eq!(sim.look(LOOK), None);
    }
    // It is back for a moment: its time begins anew.
    away(&mut sim, Presence::Here);
    sim.look(LOOK);
    away(&mut sim, Presence::Away);
    for _ in 0..20 {
        assert_eq!(sim.look(LOOK), None);
    }
    let Some(Step::Replace { key, reason }) = sim.look(LOOK) else { panic!("{:?}", sim.history) };
    assert_eq!((&key, sim.sight.wanted), (&lost, 2));
    assert!(reason.contains("away for 600 s"), "{reason}");
    // Another one takes its place, and nothing more is done.
    sim.order();
    assert_eq!(sim.run(60.0, LOOK * 40), 2);
    assert_eq!(sim.history, ["replace"]);
}

#[test]
fn where_all_are_away_one_is_given_up_and_what_takes_its_place_has_to_come_first() {
    let mut sim = Sim::new(Terms { min: 3, ..standard() });
    let cut = |sim: &mut Sim| {
        for replica in sim.sight.replicas.iter_mut().filter(|it| it.presence == Presence::Here) {
            (replica.presence, replica.is_ready) = (Presence::Away, false);
        }
    };
    cut(&mut sim);
    for _ in 0..21 {
        sim.look(LOOK);
    }
    assert_eq!(sim.history, ["replace"]);
    for _ in 0..40 {
        assert_eq!(sim.look(LOOK), None, "no machine is there for it");
    }
    sim.order();
    let new = sim.sight.replicas.last_mut().unwrap();
    (new.presence, new.is_ready) = (Presence::Coming, false);
    for _ in 0..40 {
        assert_eq!(sim.look(LOOK), None, "it did not join");
    }
    let new = sim.sight.replicas.last_mut().unwrap();
    (new.presence, new.is_ready) = (Presence::Here, true);
    assert!(matches!(sim.look(LOOK), Some(Step::Replace { .. })), "now the next");
}

#[test]
fn where_the_agents_of_two_services_are_all_away_nothing_is_given_up_and_afterwards_one_at_a_time() {
    let mut sim = Sim::new(standard());
    let other = Scaling { service: ServiceKey { blueprint: 7, service: 43 }, ..sim.scaling.clone() };
    sim.sight.replicas.iter_mut().for_each(|it| (it.presence, it.is_ready) = (Presence::Away, false));
    let look = |sim: &mut Sim| {
        sim.now = sim.now.plus(LOOK);
        sim.sight.replicas.iter_mut().for_each(|it| it.listed_at = Some(sim.now));
        let scalings = [&sim.scaling, &other];
        scalings.map(|it| sim.scaler.look(it, &sim.sight, sim.now).0)
    };
    sim.sight.is_reached = false;
    for _ in 0..200 {
        assert_eq!(look(&mut sim), [None, None], "no agent reaches the hub");
    }
    // Some agent of the hub is back: the others have their time, too.
    sim.sight.is_reached = true;
    for _ in 0..20 {
        assert_eq!(look(&mut sim), [None, None]);
    }
    assert!(matches!(look(&mut sim), [Some(Step::Replace { .. }), Some(Step::Replace { .. })]));
    sim.sight.is_replacing = true;
    assert_eq!(look(&mut sim), [None, None], "one was given up, and what takes its place did not come");
    sim.sight.is_replacing = false;
    // One that answers is not given up, whatever is said of its agent.
    sim.sight.replicas.iter_mut().for_each(|it| it.is_ready = true);
    assert_eq!(look(&mut sim), [None, None]);
}

#[test]
fn a_cloud_that_did_not_list_a_machine_since_its_agent_is_away_makes_it_wait_and_no_longer_than_that() {
    let mut sim = Sim::new(standard());
    sim.look(LOOK);
    sim.is_cloud_there = false;
    (sim.sight.replicas[0].presence, sim.sight.replicas[0].is_ready) = (Presence::Away, false);
    for _ in 0..60 {
        assert_eq!(sim.look(LOOK), None, "its list is older than that");
    }
    sim.sight.replicas[0].listed_at = None;
    assert_eq!(sim.look(LOOK), None, "it does not answer");
    sim.is_cloud_there = true;
    assert!(matches!(sim.look(LOOK), Some(Step::Replace { .. })), "its time went on");
}

#[test]
fn nothing_is_given_up_by_a_clock_in_doubt_or_where_it_is_switched_off_or_not_paid_for() {
    let changes: [fn(&mut Sim); 3] = [
        |sim| sim.sight.is_clock_trusted = false,
        |sim| sim.sight.is_running = false,
        |sim| sim.sight.replicas[0].leaving_since = Some(sim.now),
    ];
    for change in changes {
        let mut sim = Sim::new(standard());
        (sim.sight.replicas[0].presence, sim.sight.replicas[0].is_ready) = (Presence::Away, false);
        sim.look(LOOK);
        for _ in 0..60 {
            change(&mut sim);
            sim.sight.replicas[0].open = 1;
            let step = sim.look(LOOK);
            assert!(!matches!(step, Some(Step::Replace { .. })), "{step:?}");
            if sim.sight.replicas.len() < 2 {
                break;
            }
        }
        // A clock that jumped and is believed again did not make it late.
        if !sim.sight.is_clock_trusted {
            sim.sight.is_clock_trusted = true;
            assert_eq!(sim.look(LOOK * 1000), None);
        }
    }
}

#[test]
fn of_equal_replicas_the_one_with_the_fewest_open_requests_goes() {
    let mut sim = Sim::new(Terms { max: 2, ..standard() });
    sim.sight.wanted = 3;
    sim.order();
    // Two are in the east, the first and the last; the last has a stream.
    sim.sight.replicas[2].open = 1;
    let first = sim.sight.replicas[0].key.clone();
    assert!(matches!(sim.look(SECOND), Some(Step::Drain { keys, .. }) if keys.contains(&first)));
}

proptest! {
    /// Whatever is measured, the number stays within the terms, and nothing goes that was not drained.
    #[test]
    fn the_number_stays_within_the_terms(
        steps in prop::collection::vec((0.0f64..1000.0, 1u64..120, any::<bool>(), 0usize..5, 0usize..4), 1..80),
    ) {
        let mut sim = Sim::new(standard());
        for (load, secs, is_ready, which, lost) in steps {
            sim.order();
            sim.lose(lost);
            sim.load(load);
            if let Some(replica) = sim.sight.replicas.get_mut(which) {
                replica.is_ready = is_ready;
            }
            let before = sim.sight.clone();
            if let Some(Step::Shrink { released, .. }) = sim.look(Duration::from_secs(secs)) {
                for replica in before.replicas.iter().filter(|it| released.contains(&it.key)) {
                    prop_assert!(replica.leaving_since.is_some());
                }
                let answers = |sight: &Sight| sight.replicas.iter().any(|it| it.is_ready);
                prop_assert!(answers(&sim.sight) || !answers(&before));
            }
            prop_assert!((2..=5).contains(&sim.sight.wanted), "{:?}", sim.history);
        }
    }
}
