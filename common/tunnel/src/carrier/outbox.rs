//! Datagrams on their way from the engine to a carrier's task.
//!
//! Two buffers change places: the engine appends frames to one while the task sends the other, so
//! nothing is allocated for a datagram, the lock is held for a copy only, and the task is woken once
//! per buffer instead of once per datagram.
//!
//! Whoever sends may wait until the task takes what is there. A link whose task took nothing for the whole of a wait is
//! *stuck*: nobody waits for it again before the task does. So one that never moves costs a sender one wait, and one that
//! moves slowly costs one wait for each buffer that it takes.

use std::mem;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};
use tokio::sync::Notify;

use super::frame;
use crate::links::LinkSink;

/// One part of so many of an outbox is for those who do not wait.
const LEFT: usize = 128;

/// The sink of a link, and what its task takes from it.
#[derive(Debug)]
pub struct Outbox {
    frames: Mutex<Frames>,
    /// Rings when the task has made room, and somebody waits for it.
    room: Condvar,
    capacity_bytes: usize,
    max_datagram: AtomicUsize,
    is_open: AtomicBool,
    ready: Notify,
    sent: AtomicU64,
    dropped: AtomicU64,
}

/// What waits for the task, and who waits for the task.
#[derive(Debug)]
struct Frames {
    bytes: Vec<u8>,
    /// Senders that wait for room.
    waiting: usize,
    /// The task took nothing for as long as a sender waited.
    is_stuck: bool,
}

impl Outbox {
    /// Makes one that holds at most `capacity_bytes` of frames beside those being sent.
    pub(super) const fn new(capacity_bytes: usize, max_datagram: usize) -> Self {
        Self {
            frames: Mutex::new(Frames { bytes: Vec::new(), waiting: 0, is_stuck: false }),
            room: Condvar::new(),
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
        self.frames.lock().bytes = Vec::new();
        self.room.notify_all();
    }

    /// Puts the waiting frames into `buffer`, which is cleared; its memory is used for the next ones.
    ///
    /// False where nothing waits.
    pub(super) fn swap(&self, buffer: &mut Vec<u8>) -> bool {
        buffer.clear();
        let mut frames = self.frames.lock();
        mem::swap(&mut frames.bytes, buffer);
        frames.is_stuck = false;
        let is_awaited = frames.waiting > 0;
        drop(frames);
        if is_awaited {
            self.room.notify_all();
        }
        !buffer.is_empty()
    }

    /// How many bytes of frames there may be for who waits where there is no room. The rest is left for those who do not wait:
    /// echoes and handshakes find room beside a stream that takes all there is.
    const fn capacity_of(&self, waits: bool) -> usize {
        if waits { self.capacity_bytes - self.capacity_bytes / LEFT } else { self.capacity_bytes }
    }

    /// Waits until `bytes` more fit; false where the task took nothing until `deadline`, or nothing more leaves.
    fn wait(&self, frames: &mut MutexGuard<'_, Frames>, bytes: usize, deadline: Instant) -> bool {
        let capacity = self.capacity_of(true);
        while frames.bytes.len() + bytes > capacity {
            if frames.is_stuck || !self.is_open.load(Ordering::Relaxed) {
                return false;
            }
            frames.waiting += 1;
            let is_over = self.room.wait_until(frames, deadline).timed_out();
            frames.waiting -= 1;
            if is_over && frames.bytes.len() + bytes > capacity {
                frames.is_stuck = true;
                return false;
            }
        }
        true
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
    fn send_within(&self, datagrams: &[u8], segment: usize, patience: Duration) -> usize {
        let max = self.max_datagram();
        let (mut sent, mut dropped) = (0, 0);
        let mut deadline = None;
        let mut frames = self.frames.lock();
        let mut wakes = frames.bytes.is_empty();
        for datagram in datagrams.chunks(segment.max(1)) {
            let bytes = frame::HEAD + datagram.len();
            let waits = !patience.is_zero();
            let mut has_room = frames.bytes.len() + bytes <= self.capacity_of(waits);
            if !has_room && waits {
                if wakes && sent > 0 {
                    self.ready.notify_one();
                }
                let deadline = *deadline.get_or_insert_with(|| Instant::now() + patience);
                has_room = self.wait(&mut frames, bytes, deadline);
                wakes = frames.bytes.is_empty();
            }
            let is_open = self.is_open.load(Ordering::Relaxed);
            let fits = is_open && has_room && datagram.len() <= max;
            if fits && frame::encode(&mut frames.bytes, datagram) {
                sent += 1;
            } else {
                dropped += 1;
            }
        }
        drop(frames);
        if wakes && sent > 0 {
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

    /// Long enough for a busy machine.
    const PATIENCE: Duration = Duration::from_secs(20);

    #[test]
    fn a_sender_waits_until_the_task_takes_what_is_there() {
        let outbox = Outbox::new(1000, 400);
        assert_eq!(outbox.send_within(&[7; 900], 300, PATIENCE), 0);
        std::thread::scope(|scope| {
            let sender = scope.spawn(|| outbox.send_within(&[8; 1500], 300, PATIENCE));
            let (mut buffer, mut taken) = (Vec::new(), 0);
            while taken < 8 * 302 {
                outbox.swap(&mut buffer);
                assert!(buffer.len() <= 1000);
                taken += buffer.len();
                std::thread::yield_now();
            }
            assert_eq!(sender.join().unwrap(), 0);
        });
        assert_eq!((outbox.sent(), outbox.dropped()), (8, 0));
    }

    #[test]
    fn a_link_that_never_moves_costs_one_wait_and_one_that_moves_again_is_waited_for_again() {
        let outbox = Outbox::new(1000, 400);
        let (patience, started) = (Duration::from_millis(300), Instant::now());
        assert_eq!(outbox.send_within(&[7; 1200], 300, patience), 1);
        assert!(started.elapsed() >= patience);
        let started = Instant::now();
        for _ in 0..100 {
            assert_eq!(outbox.send_within(&[7; 1200], 300, patience), 4);
        }
        assert!(started.elapsed() < 50 * patience, "nobody waits for a stuck link");
        assert_eq!((outbox.sent(), outbox.dropped()), (3, 401));

        assert!(outbox.swap(&mut Vec::new()));
        let started = Instant::now();
        assert_eq!(outbox.send_within(&[7; 1200], 300, patience), 1);
        assert!(started.elapsed() >= patience);
    }

    #[test]
    fn the_end_of_a_link_ends_a_wait_for_it() {
        let outbox = Outbox::new(1000, 400);
        std::thread::scope(|scope| {
            let sender = scope.spawn(|| outbox.send_within(&[7; 1200], 300, 10 * PATIENCE));
            while outbox.frames.lock().waiting == 0 {
                std::thread::yield_now();
            }
            let started = Instant::now();
            outbox.close();
            assert_eq!(sender.join().unwrap(), 1);
            assert!(started.elapsed() < PATIENCE);
        });
    }
}
