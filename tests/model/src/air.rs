//! Everything between hub and machines: time, chance, the paths, and who keeps the books.

use std::fmt;
use std::time::{Duration, Instant};

use blueprint_common_types::Timestamp;

use crate::ledger::Ledger;
use crate::network::Network;
use crate::rng::Rng;
use crate::streams::Streams;
use crate::trace::Trace;
use crate::watcher::Watcher;

/// Wall clock at the start of every run.
const WALL_START: Timestamp = Timestamp::from_millis(1_700_000_000_000);

/// What hub and machines share without knowing of each other.
#[derive(Debug)]
pub(crate) struct Air {
    pub(crate) now: Instant,
    start: Instant,
    pub(crate) rng: Rng,
    pub(crate) network: Network,
    pub(crate) streams: Streams,
    pub(crate) ledger: Ledger,
    pub(crate) watchers: Vec<Watcher>,
    pub(crate) trace: Trace,
}

impl Air {
    pub(crate) fn new(seed: u64) -> Self {
        let start = Instant::now();
        Self {
            now: start,
            start,
            rng: Rng::new(seed),
            network: Network::default(),
            streams: Streams::default(),
            ledger: Ledger::default(),
            watchers: std::iter::repeat_with(Watcher::default).take(3).collect(),
            trace: Trace::default(),
        }
    }

    /// Virtual time since the start.
    pub(crate) fn elapsed(&self) -> Duration {
        self.now.saturating_duration_since(self.start)
    }

    /// The wall clock of everybody.
    pub(crate) fn wall(&self) -> Timestamp {
        WALL_START.plus(self.elapsed())
    }

    /// When the wall clock shows `at`.
    pub(crate) fn instant(&self, at: Timestamp) -> Instant {
        self.start + at.since(WALL_START)
    }

    /// Adds a line to what a failure shows.
    pub(crate) fn note(&mut self, line: impl fmt::Display) {
        let line = format!("{:9.3} {line}", self.elapsed().as_secs_f64());
        self.trace.push(line);
    }
}
