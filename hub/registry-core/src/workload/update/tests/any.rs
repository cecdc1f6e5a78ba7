//! Any way, with hubs that are killed at any moment.

use proptest::prelude::*;
use proptest::strategy::Strategy as Generator;

use super::*;
use crate::workload::plan::Strategy;

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
