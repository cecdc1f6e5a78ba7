//! Ending another thread's wait inside a system call that no file descriptor and no time ends.
//!
//! A signal does it, one that is else ignored and that no thread of ours means anything by: `SIGURG` (the Go runtime
//! has chosen it for the same reasons). Its handler does nothing, so that the call returns with `EINTR`.

#![expect(unsafe_code, reason = "sigaction and tgkill have no safe wrappers")]

use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, Ordering, fence};

use nix::errno::Errno;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::unistd::gettid;
use tracing::error;

const SIGNAL: Signal = Signal::SIGURG;

/// At most one thread, whose waits others end.
#[derive(Debug)]
pub(crate) struct Interruptible {
    /// Its number; 0 while there is none.
    thread: AtomicI32,
}

impl Interruptible {
    /// Makes one for a thread that is still to come.
    ///
    /// # Errors
    ///
    /// Those of sigaction(2).
    pub(crate) fn new() -> io::Result<Self> {
        /// Handlers are the whole process's: one is enough.
        static HANDLER: OnceLock<Result<(), Errno>> = OnceLock::new();
        extern "C" fn ignore(_: libc::c_int) {}
        let action = SigAction::new(SigHandler::Handler(ignore), SaFlags::empty(), SigSet::empty());
        // SAFETY: the handler touches nothing, so it may run at any time in any thread.
        let set = HANDLER.get_or_init(|| unsafe { sigaction(SIGNAL, &action) }.map(drop));
        (*set)?;
        Ok(Self { thread: AtomicI32::new(0) })
    }

    /// Says that the calling thread is the one, until it drops what this returns. It may wait once it has seen, after this
    /// call, that nobody wants it to end.
    pub(crate) fn enter(&self) -> Entered<'_> {
        // Whoever started this process may have blocked it.
        let _ = SigSet::from(SIGNAL).thread_unblock();
        self.thread.store(gettid().as_raw(), Ordering::Relaxed);
        // Its pair is in `interrupt`: one of both threads sees what the other one wrote.
        fence(Ordering::SeqCst);
        Entered(self)
    }

    /// Ends the wait that the thread is in, not one that it is about to begin, so this is to be repeated while it is true;
    /// false where there is no thread, or none that the system lets us reach. The caller has already written down that it wants it to end.
    pub(crate) fn interrupt(&self) -> bool {
        fence(Ordering::SeqCst);
        let thread = self.thread.load(Ordering::Relaxed);
        if thread == 0 {
            return false;
        }
        // SAFETY: it takes no pointer. A thread that has just ended, or another one with its number, is not harmed.
        let result = unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, libc::SIGURG) };
        let error = io::Error::last_os_error();
        if result < 0 && error.raw_os_error() != Some(libc::ESRCH) {
            error!(%error, "cannot end a wait of the tunnel: it ends with the next packet");
        }
        result == 0
    }
}

/// Says that a thread may be interrupted, until it is dropped.
#[derive(Debug)]
pub(crate) struct Entered<'a>(&'a Interruptible);

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.0.thread.store(0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::sync::atomic::AtomicBool;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_thread_that_waits_or_is_about_to_is_ended() {
        let interruptible = Interruptible::new().unwrap();
        assert!(!interruptible.interrupt(), "nobody is there yet");
        let ends = AtomicBool::new(false);
        let (mut reader, _writer) = io::pipe().unwrap();
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let _entered = interruptible.enter();
                let mut waits = 0;
                while !ends.load(Ordering::Relaxed) {
                    let read = reader.read(&mut [0]);
                    assert_eq!(read.unwrap_err().kind(), io::ErrorKind::Interrupted);
                    waits += 1;
                }
                waits
            });
            while !interruptible.interrupt() {}
            ends.store(true, Ordering::Relaxed);
            while interruptible.interrupt() {
                std::thread::sleep(Duration::from_millis(1));
            }
            assert!(thread.join().unwrap() < 3);
        });
    }
}
