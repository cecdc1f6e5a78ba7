//! What the threads of one tunnel share: tables, the way out, and the way to the thread that owns the core.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use blueprint_common_tunnel_core::{Discard, Notice, Route, Stats, Tables, Tally};
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::wire::Wire;
use crate::sys::poll::EventFd;

/// Notices of peers that may wait for the core: each peer has its budget of them.
const OF_PEERS: usize = 4096;
/// Handshake messages that may wait for the core: a quarter of a second of them.
const OF_STRANGERS: usize = 1024;

/// Pause between two lines about faults of this program, which whoever knows one could have it write without end.
const TELL_PAUSE: Duration = Duration::from_secs(60);

/// When a thread may write of a fault of this program again.
#[derive(Debug, Default)]
pub(crate) struct Telling(Option<Instant>);

impl Telling {
    /// True for the first fault, and for the first one a minute after one that was told of.
    pub(crate) fn is_due(&mut self, now: Instant) -> bool {
        let is_due = self.0.is_none_or(|at| now.saturating_duration_since(at) >= TELL_PAUSE);
        if is_due {
            self.0 = Some(now);
        }
        is_due
    }
}

/// What packet threads want of the core. What strangers send waits apart, so that no flood of theirs takes the
/// place, or the time, of what is known to come from a peer.
#[derive(Debug)]
pub(crate) struct Notices {
    of_peers: mpsc::Receiver<Notice>,
    of_strangers: mpsc::Receiver<Notice>,
}

impl Notices {
    /// The next one; those of peers first.
    ///
    /// # Cancel safety
    ///
    /// Dropping it loses nothing.
    pub(crate) async fn next(&mut self) -> Option<Notice> {
        tokio::select! {
            biased;
            notice = self.of_peers.recv() => notice,
            notice = self.of_strangers.recv() => notice,
        }
    }

    /// The next one if it waits already; those of peers first.
    pub(crate) fn try_next(&mut self) -> Option<Notice> {
        self.of_peers.try_recv().or_else(|_| self.of_strangers.try_recv()).ok()
    }
}

/// What the threads of one tunnel share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) tables: ArcSwap<Tables>,
    pub(crate) wire: Wire,
    of_peers: mpsc::Sender<Notice>,
    of_strangers: mpsc::Sender<Notice>,
    tallies: Mutex<Vec<Arc<Tally>>>,
    /// Counters of all links together, which come and go.
    pub(crate) of_links: Arc<Tally>,
    is_stopped: AtomicBool,
    /// Readable from the stop on.
    pub(crate) stop: EventFd,
}

impl Shared {
    pub(crate) fn new(tables: Tables, wire: Wire, stop: EventFd) -> (Self, Notices) {
        let (of_peers, peers) = mpsc::channel(OF_PEERS);
        let (of_strangers, strangers) = mpsc::channel(OF_STRANGERS);
        let of_links = Arc::new(Tally::default());
        let shared = Self {
            tables: ArcSwap::from_pointee(tables),
            wire,
            of_peers,
            of_strangers,
            tallies: Mutex::new(vec![Arc::clone(&of_links)]),
            of_links,
            is_stopped: AtomicBool::new(false),
            stop,
        };
        (shared, Notices { of_peers: peers, of_strangers: strangers })
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
        let queue = match notice {
            Notice::Handshake { .. } => &self.of_strangers,
            Notice::Begun { .. }
            | Notice::Roamed { .. }
            | Notice::Unsent { .. }
            | Notice::Large { .. }
            | Notice::Echo { .. } => &self.of_peers,
        };
        if queue.try_send(notice).is_err() {
            tally.discard(Discard::ControlFull);
        }
    }

    /// Has a packet wait for a session with the peer it is for; where too many do, it is dropped and counted.
    pub(crate) fn wait(&self, route: Route<'_>, packet: &[u8], now: Instant, tally: &Tally) {
        match route.wait(packet, now) {
            Ok(notice) => self.tell(notice, tally),
            Err(discard) => tally.discard(discard),
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
