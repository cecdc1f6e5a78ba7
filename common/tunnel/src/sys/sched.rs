//! How long a packet thread may run before another one's turn.
//!
//! A shorter slice than the system's 3 ms means that a thread which wakes for a packet is served sooner (EEVDF picks
//! the earliest deadline, and a deadline is a slice away); it gives no larger share of the processor and needs no
//! right (sched_setattr(2), Linux 6.12).

#![expect(unsafe_code, reason = "sched_setattr has no safe wrapper here")]

use std::io;
use std::time::Duration;

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_is_taken() {
        let thread = std::thread::Builder::new().spawn(|| set_slice(Duration::from_micros(500)));
        thread.unwrap().join().unwrap().unwrap();
    }
}
