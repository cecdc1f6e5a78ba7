//! What the threads of one tunnel share: tables, the way out, and the way to the thread that owns the core.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use blueprint_common_tunnel_core::{Discard, Notice, Stats, Tables, Tally};
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::wire::Wire;
use crate::sys::poll::EventFd;

/// Notices that may wait for the core: a quarter of a second of handshakes.
pub(crate) const NOTICES: usize = 1024;

/// What the threads of one tunnel share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) tables: ArcSwap<Tables>,
    pub(crate) wire: Wire,
    notices: mpsc::Sender<Notice>,
    tallies: Mutex<Vec<Arc<Tally>>>,
    is_stopped: AtomicBool,
    /// Readable from the stop on.
    pub(crate) stop: EventFd,
}

impl Shared {
    pub(crate) fn new(tables: Tables, wire: Wire, stop: EventFd) -> (Self, mpsc::Receiver<Notice>) {
        let (notices, receiver) = mpsc::channel(NOTICES);
        let shared = Self {
            tables: ArcSwap::from_pointee(tables),
            wire,
            notices,
            tallies: Mutex::default(),
            is_stopped: AtomicBool::new(false),
            stop,
        };
        (shared, receiver)
    }

    /// Counters of one more thread.
    pub(crate) fn tally(&self) -> Arc<Tally> {
        let tally = Arc::new(Tally::default());
        self.tallies.lock().push(Arc::clone(&tally));
        tally
    }

    /// Adds what all threads counted.
    pub(crate) fn add_tallies(&self, stats: &mut Stats) {
        for tally in &*self.tallies.lock() {
            stats.add(tally);
        }
    }

    /// Hands something to the core; where too much waits for it, it is dropped and counted.
    pub(crate) fn tell(&self, notice: Notice, tally: &Tally) {
        if self.notices.try_send(notice).is_err() {
            tally.discard(Discard::ControlFull);
        }
    }

    /// Ends every thread within a fraction of a second.
    pub(crate) fn stop(&self) {
        self.is_stopped.store(true, Ordering::Release);
        self.stop.wake();
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.is_stopped.load(Ordering::Acquire)
    }
}
