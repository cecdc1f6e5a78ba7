//! Datagrams on their way from the engine to a carrier's task.
//!
//! Two buffers change places: the engine appends frames to one while the task sends the other, so
//! nothing is allocated for a datagram, the lock is held for a copy only, and the task is woken once
//! per buffer instead of once per datagram.

use std::mem;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::frame;
use crate::links::LinkSink;

/// The sink of a link, and what its task takes from it.
#[derive(Debug)]
pub struct Outbox {
    frames: Mutex<Vec<u8>>,
    capacity_bytes: usize,
    max_datagram: AtomicUsize,
    is_open: AtomicBool,
    ready: Notify,
    sent: AtomicU64,
    dropped: AtomicU64,
}

impl Outbox {
    /// Makes one that holds at most `capacity_bytes` of frames beside those being sent.
    pub(super) const fn new(capacity_bytes: usize, max_datagram: usize) -> Self {
        Self {
            frames: Mutex::new(Vec::new()),
            capacity_bytes,
            max_datagram: AtomicUsize::new(max_datagram),
            is_open: AtomicBool::new(true),
            ready: Notify::const_new(),
            sent: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        }
    }

    /// Datagrams taken for sending since the start.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Datagrams dropped since the start: no room, too long, or the link has ended.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Sets what [`LinkSink::max_datagram`] says.
    pub(super) fn set_max_datagram(&self, bytes: usize) {
        self.max_datagram.store(bytes.min(frame::DATAGRAM_MAX), Ordering::Relaxed);
    }

    /// Counts datagrams that the task had to drop although they had been taken.
    pub(super) fn drop_taken(&self, count: u64) {
        self.sent.fetch_sub(count, Ordering::Relaxed);
        self.dropped.fetch_add(count, Ordering::Relaxed);
    }

    /// Drops everything from now on.
    pub(super) fn close(&self) {
        self.is_open.store(false, Ordering::Relaxed);
        *self.frames.lock() = Vec::new();
    }

    /// Puts the waiting frames into `buffer`, which is cleared; its memory is used for the next ones.
    ///
    /// False where nothing waits.
    pub(super) fn swap(&self, buffer: &mut Vec<u8>) -> bool {
        buffer.clear();
        mem::swap(&mut *self.frames.lock(), buffer);
        !buffer.is_empty()
    }

    /// Returns once something may wait.
    ///
    /// # Cancel safety
    ///
    /// Dropping it loses nothing.
    pub(super) async fn ready(&self) {
        self.ready.notified().await;
    }
}

impl LinkSink for Outbox {
    fn send(&self, datagrams: &[u8], segment: usize) -> usize {
        let max = self.max_datagram();
        let (mut sent, mut dropped) = (0, 0);
        let mut frames = self.frames.lock();
        let was_empty = frames.is_empty();
        let is_open = self.is_open.load(Ordering::Relaxed);
        for datagram in datagrams.chunks(segment.max(1)) {
            let has_room = frames.len() + frame::HEAD + datagram.len() <= self.capacity_bytes;
            if is_open && has_room && datagram.len() <= max && frame::encode(&mut frames, datagram) {
                sent += 1;
            } else {
                dropped += 1;
            }
        }
        drop(frames);
        if was_empty && sent > 0 {
            self.ready.notify_one();
        }
        self.sent.fetch_add(sent, Ordering::Relaxed);
        if dropped > 0 {
            self.dropped.fetch_add(dropped, Ordering::Relaxed);
        }
        usize::try_from(dropped).unwrap_or(usize::MAX)
    }

    fn max_datagram(&self) -> usize {
        self.max_datagram.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_dropped_and_counted() {
        let outbox = Outbox::new(1000, 400);
        assert_eq!(outbox.send(&[7; 1200], 300), 1);
        assert_eq!(outbox.send(&[7; 401], 401), 1);
        assert_eq!((outbox.sent(), outbox.dropped()), (3, 2));

        let mut buffer = Vec::new();
        assert!(outbox.swap(&mut buffer));
        assert_eq!(buffer.len(), 3 * 302);
        assert_eq!(outbox.send(&[7; 300], 300), 0);
        outbox.close();
        assert_eq!(outbox.send(&[7; 300], 300), 1);
        assert!(!outbox.swap(&mut buffer));
    }
}
