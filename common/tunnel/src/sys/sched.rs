//! How long a packet thread may run before another one's turn.
//!
//! A shorter slice than the system's 3 ms means that a thread which wakes for a packet is served sooner (EEVDF picks
//! the earliest deadline, and a deadline is a slice away); it gives no larger share of the processor and needs no
//! right (sched_setattr(2), Linux 6.12).
//!
//! The system looks whether a slice is over when another thread wakes and at its clock's tick, 1 to 10 ms apart.
//! What wakes a moment too early waits for that tick behind a thread that is busy, and what that one sends meanwhile
//! overflows the queue in front of the one that waits: work for nothing. So a busy packet thread gives way by itself
//! after each [`Stint`]. Where somebody waits that gives up the rest of its slice (sched_yield(2), EEVDF): beside
//! programs that always have work it gets less than its share.

#![expect(unsafe_code, reason = "sched_setattr has no safe wrapper here")]

use std::io;
use std::time::{Duration, Instant};

use super::check;

/// `struct sched_attr`, version 0 (linux/sched/types.h).
#[derive(Default)]
#[repr(C)]
struct Attributes {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

/// Asks for a slice for the calling thread; 0.1 ms to 100 ms count.
///
/// # Errors
///
/// Those of sched_setattr(2); a kernel before 6.12 takes it and changes nothing.
pub(crate) fn set_slice(slice: Duration) -> io::Result<()> {
    let size = u32::try_from(size_of::<Attributes>()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let runtime = u64::try_from(slice.as_nanos()).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: getpriority takes no pointer; it keeps what the operator gave us.
    let nice = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
    let attributes = Attributes { size, nice, runtime, ..Attributes::default() };
    // SAFETY: `attributes` is as long as it says and lives until the call has returned; 0 is the calling thread.
    let result = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    check(if result < 0 { -1 } else { 0 }).map(drop)
}

/// Longest pause between two pieces of work that go on without a rest: a receive call that brings 64 KiB should take less.
const REST: Duration = Duration::from_micros(30);

/// Work that a thread does in one go, by the clock: time that it waited or was kept from the processor meanwhile counts.
#[derive(Debug)]
pub(crate) struct Stint {
    most: Duration,
    done: Duration,
    ended: Option<Instant>,
}

impl Stint {
    /// Stints of `most` each.
    pub(crate) const fn new(most: Duration) -> Self {
        Self { most, done: Duration::ZERO, ended: None }
    }

    /// Adds the work since `began`, and lets another thread have the processor where that ends the stint.
    pub(crate) fn add(&mut self, began: Instant) {
        if self.is_over_with(began, Instant::now()) {
            std::thread::yield_now();
        }
    }

    /// True where work that begins now is the first after a rest.
    pub(crate) fn is_after_rest(&self, began: Instant) -> bool {
        self.ended.is_none_or(|before| began.saturating_duration_since(before) > REST)
    }

    /// Adds work; true, and a new stint begins, where that ends this one. A rest before it began one too: whoever waited
    /// probably had the processor then.
    fn is_over_with(&mut self, began: Instant, ended: Instant) -> bool {
        let before = if self.is_after_rest(began) { Duration::ZERO } else { self.done };
        let done = before.saturating_add(ended.saturating_duration_since(began));
        let is_over = done >= self.most;
        self.done = if is_over { Duration::ZERO } else { done };
        self.ended = Some(ended);
        is_over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stint_is_over_after_its_work_and_begins_anew_after_a_rest() {
        let (mut stint, mut now) = (Stint::new(Duration::from_micros(100)), Instant::now());
        let mut is_over = |(pause, work)| {
            let began = now + Duration::from_micros(pause);
            now = began + Duration::from_micros(work);
            stint.is_over_with(began, now)
        };
        let all = [(500, 60), (5, 30), (5, 10), (5, 90), (5, 500), (5, 99), (31, 99), (30, 1)];
        assert_eq!(all.map(&mut is_over), [false, false, true, false, true, false, false, true]);
    }

    #[test]
    fn a_slice_is_taken() {
        let thread = std::thread::Builder::new().spawn(|| set_slice(Duration::from_micros(500)));
        thread.unwrap().join().unwrap().unwrap();
    }
}
