//! What a node does with a workload that is not well: one rung after the other.
//!
//! ```text
//!   restart in place --as often as said--> deploy anew here --as often as said--> ask the hub for another node
//!        ^                                                                                 |
//!        +------------------------- well for as long as said (settled) --------------------+
//! ```

use std::time::{Duration, Instant};

use blueprint_common_types::workload::Recovery;

use crate::backoff::{FIRST_WAIT, LONGEST_WAIT};

/// What is done with a workload that is not well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rung {
    /// Start it again, with what it was started with.
    Restart,
    /// Fetch, check and unpack its program anew, and start that.
    Redeploy,
    /// Nothing more can be done here: the hub is asked for another node.
    AskMove,
}

/// How far up one workload is.
///
/// Invariants:
/// - between two settlements there are at most as many restarts and deployments as said, then [`Rung::AskMove`] alone;
/// - the rungs come in their order;
/// - it settles only after being well for the whole time without a break.
#[derive(Debug, Clone)]
pub struct Ladder {
    rules: Recovery,
    restarts: u32,
    redeploys: u32,
    asks_move: bool,
    /// Since when it is well; `None` while it is not, or is not known to be.
    well_since: Option<Instant>,
}

impl Ladder {
    /// At the foot.
    #[must_use]
    pub const fn new(rules: Recovery) -> Self {
        Self { rules, restarts: 0, redeploys: 0, asks_move: false, well_since: None }
    }

    /// It is well from now on.
    pub fn handle_well(&mut self, now: Instant) {
        self.well_since.get_or_insert(now);
    }

    /// It is not well, or nothing is known, from now on; nothing is done about that yet.
    pub fn handle_unwell(&mut self) {
        self.well_since = None;
    }

    /// It ended by itself, or was unhealthy for too long: what is done.
    pub fn handle_trouble(&mut self) -> Rung {
        self.well_since = None;
        if self.asks_move {
            return Rung::AskMove;
        }
        if self.restarts < self.rules.restarts {
            self.restarts = self.restarts.saturating_add(1);
            return Rung::Restart;
        }
        if self.redeploys < self.rules.redeploys {
            self.redeploys = self.redeploys.saturating_add(1);
            return Rung::Redeploy;
        }
        self.asks_move = true;
        Rung::AskMove
    }

    /// True where it has just settled: all rungs are begun anew.
    pub fn handle_time(&mut self, now: Instant) -> bool {
        let has_settled = self.poll_timeout().is_some_and(|at| at <= now);
        if has_settled {
            *self = Self { well_since: self.well_since, ..Self::new(self.rules) };
        }
        has_settled
    }

    /// When it settles if nothing happens; `None` where it is at the foot or not well.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let since = self.well_since.filter(|_| self.tries() > 0 || self.asks_move)?;
        since.checked_add(self.rules.settled())
    }

    /// The pause before the next try: 0.5 s at first, twice as long for each one before it, 60 s at most.
    #[must_use]
    pub fn pause(&self) -> Duration {
        let doubled = 1u32.checked_shl(self.tries().saturating_sub(1)).unwrap_or(u32::MAX);
        FIRST_WAIT.saturating_mul(doubled).min(LONGEST_WAIT)
    }

    /// How long it has to be well until all rungs are begun anew.
    #[must_use]
    pub fn settled(&self) -> Duration {
        self.rules.settled()
    }

    /// Whether the hub is asked for another node.
    #[must_use]
    pub const fn asks_move(&self) -> bool {
        self.asks_move
    }

    /// Whether nothing is left but to ask the hub.
    #[must_use]
    pub const fn is_spent(&self) -> bool {
        self.restarts >= self.rules.restarts && self.redeploys >= self.rules.redeploys
    }

    const fn tries(&self) -> u32 {
        self.restarts.saturating_add(self.redeploys)
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "virtual time needs one first instant")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rules(restarts: u32, redeploys: u32) -> Recovery {
        Recovery { restarts, redeploys, settled_secs: 600, ..Recovery::default() }
    }

    #[test]
    fn rungs_come_in_their_order_and_start_anew_once_it_was_well_for_long() {
        use Rung::{AskMove, Redeploy, Restart};
        let now = Instant::now();
        let mut ladder = Ladder::new(rules(2, 1));
        let up = |ladder: &mut Ladder| [(); 5].map(|()| ladder.handle_trouble());
        assert_eq!(up(&mut ladder), [Restart, Restart, Redeploy, AskMove, AskMove]);
        assert!(ladder.asks_move());
        ladder.handle_well(now);
        let settled = now + Duration::from_secs(600);
        assert_eq!(ladder.poll_timeout(), Some(settled));
        assert!(!ladder.handle_time(settled - Duration::from_millis(1)));
        assert!(ladder.handle_time(settled) && !ladder.asks_move());
        assert_eq!((ladder.poll_timeout(), ladder.handle_time(settled)), (None, false));
        assert_eq!(ladder.handle_trouble(), Restart);
    }

    #[test]
    fn pauses_grow_to_a_minute_and_without_rungs_the_hub_is_asked_at_once() {
        let mut ladder = Ladder::new(rules(8, 2));
        let pauses = [(); 10].map(|()| {
            ladder.handle_trouble();
            ladder.pause().as_millis()
        });
        assert_eq!(pauses, [500, 1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000, 60_000]);
        assert_eq!(Ladder::new(rules(0, 0)).handle_trouble(), Rung::AskMove);
    }

    proptest! {
        #[test]
        fn tries_between_settlements_are_bounded(
            steps in prop::collection::vec((0u8..4, 0u64..400), 0..200), restarts in 0u32..5, redeploys in 0u32..4,
        ) {
            let mut now = Instant::now();
            let mut ladder = Ladder::new(rules(restarts, redeploys));
            let (mut tries, mut well_for): (u32, Option<Duration>) = (0, None);
            for (step, secs) in steps {
                let passed = Duration::from_secs(secs);
                now += passed;
                well_for = well_for.map(|so_far| so_far + passed);
                if ladder.handle_time(now) {
                    prop_assert!(well_for.is_some_and(|well| well >= Duration::from_secs(600)), "{:?}", well_for);
                    tries = 0;
                }
                match step {
                    0 => { ladder.handle_well(now); well_for.get_or_insert(Duration::ZERO); }
                    1 => { ladder.handle_unwell(); well_for = None; }
                    _ => {
                        well_for = None;
                        let rung = ladder.handle_trouble();
                        tries += u32::from(rung != Rung::AskMove);
                        prop_assert_eq!(rung == Rung::AskMove, ladder.asks_move());
                        prop_assert!(tries <= restarts + redeploys);
                    }
                }
                prop_assert!(ladder.poll_timeout().is_none_or(|at| at > now));
            }
        }
    }
}
