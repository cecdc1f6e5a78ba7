//! What waits for one of those who read a shared socket.

use std::collections::VecDeque;
use std::io::IoSliceMut;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Waker};

use parking_lot::{Mutex, MutexGuard};
use quinn::udp::RecvMeta;

use super::RECEIVE_BYTES;

/// Bytes that wait for a reader, as many as the buffer of the socket itself.
const WAITING_BYTES_MAX: usize = 4 << 20;
/// Runs that wait for it; each is one receive call's, or less.
const WAITING_RUNS_MAX: usize = 1024;
/// Empty buffers kept for the next runs.
const SPARE_MAX: usize = 32;

/// A bounded queue of runs of datagrams, and who is to be woken.
#[derive(Default)]
pub(super) struct Lane {
    arrivals: Mutex<Arrivals>,
    dropped: AtomicU64,
}

/// Datagrams of one sender.
pub(super) struct Run {
    pub(super) meta: RecvMeta,
    pub(super) bytes: Vec<u8>,
    /// Whether somebody has to look at it before it is known whose it is.
    pub(super) is_first: bool,
}

#[derive(Default)]
pub(super) struct Arrivals {
    runs: VecDeque<Run>,
    bytes: usize,
    spare: Vec<Vec<u8>>,
    reader: Option<Waker>,
}

impl Lane {
    /// Queues a run and wakes the reader; false where there is no room: the run is dropped and counted.
    pub(super) fn push(&self, meta: RecvMeta, datagrams: &[u8], is_first: bool) -> bool {
        let reader = {
            let mut arrivals = self.arrivals.lock();
            let has_room = arrivals.bytes.saturating_add(datagrams.len()) <= WAITING_BYTES_MAX
                && arrivals.runs.len() < WAITING_RUNS_MAX
                && datagrams.len() <= RECEIVE_BYTES;
            if !has_room {
                drop(arrivals);
                let count = datagrams.len().div_ceil(meta.stride.max(1));
                self.dropped.fetch_add(u64::try_from(count).unwrap_or(0), Ordering::Relaxed);
                return false;
            }
            let mut bytes = arrivals.spare.pop().unwrap_or_default();
            bytes.extend_from_slice(datagrams);
            arrivals.bytes = arrivals.bytes.saturating_add(datagrams.len());
            arrivals.runs.push_back(Run { meta, bytes, is_first });
            arrivals.reader.take()
        };
        if let Some(reader) = reader {
            reader.wake();
        }
        true
    }

    /// What waits.
    pub(super) fn lock(&self) -> MutexGuard<'_, Arrivals> {
        self.arrivals.lock()
    }

    /// Datagrams dropped since the start because too many waited.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

impl Arrivals {
    /// Takes the oldest run.
    pub(super) fn pop(&mut self) -> Option<Run> {
        let run = self.runs.pop_front()?;
        self.bytes = self.bytes.saturating_sub(run.bytes.len());
        Some(run)
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Keeps the memory of a run for the next one.
    pub(super) fn reuse(&mut self, mut bytes: Vec<u8>) {
        if self.spare.len() < SPARE_MAX {
            bytes.clear();
            self.spare.push(bytes);
        }
    }

    /// Wakes this reader once something comes.
    pub(super) fn wait(&mut self, context: &Context<'_>) {
        self.reader = Some(context.waker().clone());
    }

    /// Forgets all that waits.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

impl Run {
    /// Copies the run to where the library reads it; gives its memory back.
    pub(super) fn put(self, buffer: &mut IoSliceMut<'_>, meta: &mut RecvMeta) -> Vec<u8> {
        // quinn's buffers hold the largest run (`max_receive_segments`).
        if let Some(room) = buffer.get_mut(..self.bytes.len()) {
            room.copy_from_slice(&self.bytes);
            *meta = self.meta;
        } else {
            *meta = RecvMeta { len: 0, ..self.meta };
        }
        self.bytes
    }
}
