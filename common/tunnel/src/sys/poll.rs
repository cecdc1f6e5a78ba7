//! Waiting: for several file descriptors at once, and for another thread.

#![expect(unsafe_code, reason = "eventfd and ppoll take raw descriptors and pointers")]

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use super::check;
use super::control::narrow;

/// Lets one thread end another's wait.
///
/// It stays readable from the first [`Self::wake`] on.
#[derive(Debug)]
pub(crate) struct EventFd {
    file: File,
}

impl EventFd {
    /// Makes one that nobody has woken.
    ///
    /// # Errors
    ///
    /// Those of eventfd(2): too many files are open.
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: it takes no pointer.
        let fd = check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })?;
        // SAFETY: the call has just made it, and nobody else knows of it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { file: fd.into() })
    }

    /// Makes it readable. Never blocks; fails only where it is readable already.
    pub(crate) fn wake(&self) {
        let _ = (&self.file).write(&1_u64.to_ne_bytes());
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Waits until one of `fds` is readable, or `timeout` is over, and says which are.
///
/// One that is broken or hung up counts as readable: reading from it tells more. A signal ends the wait with none.
///
/// # Errors
///
/// Those of ppoll(2) but `EINTR`.
pub(crate) fn wait_readable<const N: usize>(
    fds: [BorrowedFd<'_>; N],
    timeout: Option<Duration>,
) -> io::Result<[bool; N]> {
    let mut polled = fds.map(|fd| libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 });
    let limit = timeout.map(|timeout| libc::timespec {
        tv_sec: libc::time_t::try_from(timeout.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: narrow(timeout.subsec_nanos()),
    });
    let limit = limit.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: `polled` has N entries, and both it and what `limit` points to live until the call has returned;
    // the descriptors are borrowed for as long.
    let result = unsafe { libc::ppoll(polled.as_mut_ptr(), narrow(N), limit, std::ptr::null()) };
    match check(result) {
        Ok(_) => Ok(polled.map(|polled| polled.revents != 0)),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok([false; N]),
        Err(error) => Err(error),
    }
}

/// Waits until `fd` takes something to send; false where `timeout` came first, or a signal.
///
/// # Errors
///
/// Those of poll(2) but `EINTR`.
pub(crate) fn wait_writable(fd: BorrowedFd<'_>, timeout: Duration) -> io::Result<bool> {
    let mut polled = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
    let limit = libc::c_int::try_from(timeout.as_millis()).unwrap_or(libc::c_int::MAX);
    // SAFETY: `polled` is one entry that lives until the call has returned; the descriptor is borrowed for as long.
    match check(unsafe { libc::poll(&raw mut polled, 1, limit) }) {
        Ok(count) => Ok(count > 0),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_wait_ends_with_the_wake_of_another_thread() {
        let (woken, other) = (EventFd::new().unwrap(), EventFd::new().unwrap());
        let started = Instant::now();
        std::thread::scope(|scope| {
            scope.spawn(|| woken.wake());
            let ready = wait_readable([other.as_fd(), woken.as_fd()], Some(Duration::from_secs(20))).unwrap();
            assert_eq!(ready, [false, true]);
        });
        assert!(started.elapsed() < Duration::from_secs(20));
        let ready = wait_readable([woken.as_fd()], Some(Duration::ZERO)).unwrap();
        assert_eq!(ready, [true], "it stays so");
    }

    #[test]
    fn a_wait_ends_with_its_time() {
        let event = EventFd::new().unwrap();
        let started = Instant::now();
        let ready = wait_readable([event.as_fd()], Some(Duration::from_millis(5))).unwrap();
        assert_eq!(ready, [false]);
        assert!(started.elapsed() >= Duration::from_millis(5));
    }

    #[test]
    fn a_wait_without_limit_ends_with_what_is_there_already() {
        let event = EventFd::new().unwrap();
        event.wake();
        assert_eq!(wait_readable([event.as_fd()], None).unwrap(), [true]);
    }
}
