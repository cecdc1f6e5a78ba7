//! One queue of a device: packets read, waited for and written.
//!
//! A packet is waited for inside read(2), and taken with `RWF_NOWAIT` where nobody is to wait (Linux 6.4): that spares
//! a packet that comes by itself the calls of a poll before it. Only a signal ends such a wait, which
//! [`Interruptible`] sends. Older systems have a queue that never waits, and poll it.

#![expect(unsafe_code, reason = "preadv2 takes raw pointers")]

use std::fs::File;
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use tracing::debug;

use crate::sys::interrupt::{Entered, Interruptible};
use crate::sys::poll::wait_readable;

/// One queue of packets of a device. Reading and writing may go on at once, in several threads.
#[derive(Debug)]
pub(crate) struct TunQueue {
    file: File,
    has_header: bool,
    is_down: AtomicBool,
    /// A read waits, unless it is told not to.
    waits: bool,
    reader: Interruptible,
}

impl TunQueue {
    /// Takes a device's file, whose reads wait.
    ///
    /// # Errors
    ///
    /// Those of sigaction(2), and of fcntl(2) on a system that knows no single read that does not wait.
    pub(super) fn new(file: File, has_header: bool) -> io::Result<Self> {
        let reader = Interruptible::new()?;
        let mut queue = Self { file, has_header, is_down: AtomicBool::new(false), waits: true, reader };
        // Nothing is there before the device has an address.
        let refused = queue.read_now(&mut [0]).is_err_and(|error| error.raw_os_error() != Some(libc::EAGAIN));
        if refused {
            debug!("this system's devices are polled: they know no RWF_NOWAIT");
            queue.stop_waiting()?;
        }
        Ok(queue)
    }

    /// Makes a queue of older systems.
    pub(in crate::sys) fn stop_waiting(&mut self) -> io::Result<()> {
        fcntl(&self.file, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        self.waits = false;
        Ok(())
    }

    /// Says that the calling thread is the one that waits here; [`Self::interrupt`] ends its waits while it holds this.
    pub(crate) fn enter(&self) -> Entered<'_> {
        self.reader.enter()
    }

    /// Ends the wait that the reader is in, not one that it is about to begin; false where there is no reader any more.
    pub(crate) fn interrupt(&self) -> bool {
        self.reader.interrupt()
    }

    /// Reads a packet, with its vnet header where there is one; `None` where none is there.
    ///
    /// `packet` should hold [`HEADER_BYTES`](super::HEADER_BYTES) and 64 KiB: what does not fit is lost. It is also
    /// `None` while the device is down or gone; then [`Self::is_down`] is true, and a wait for the queue may return
    /// at once: pause before the next try.
    ///
    /// # Errors
    ///
    /// Those of read(2) but `EAGAIN`, `EINTR`, `EIO` and `EBADFD`.
    pub(crate) fn read(&self, packet: &mut [u8]) -> io::Result<Option<usize>> {
        self.judge(self.read_now(packet))
    }

    /// The same, but waits for a packet until [`Self::interrupt`] ends it, or, on older systems, `stop` is readable.
    ///
    /// # Errors
    ///
    /// Those of [`Self::read`] and ppoll(2).
    pub(crate) fn wait(&self, packet: &mut [u8], stop: BorrowedFd<'_>) -> io::Result<Option<usize>> {
        if !self.waits {
            wait_readable([self.file.as_fd(), stop], None)?;
        }
        self.judge((&self.file).read(packet))
    }

    fn read_now(&self, packet: &mut [u8]) -> io::Result<usize> {
        if !self.waits {
            return (&self.file).read(packet);
        }
        let part = libc::iovec { iov_base: packet.as_mut_ptr().cast(), iov_len: packet.len() };
        // SAFETY: `part` and the buffer it names live, lent to nobody, until the call has returned. Devices have no
        // position, so none is asked for.
        let result =
            unsafe { libc::preadv2(self.file.as_raw_fd(), &raw const part, 1, -1, libc::RWF_NOWAIT) };
        usize::try_from(result).map_err(|_| io::Error::last_os_error())
    }

    fn judge(&self, read: io::Result<usize>) -> io::Result<Option<usize>> {
        match read {
            Ok(length) => {
                self.note(false);
                Ok(Some(length))
            }
            Err(error) => match error.raw_os_error() {
                Some(libc::EAGAIN | libc::EINTR) => {
                    self.note(false);
                    Ok(None)
                }
                // A read that waited while the device was deleted ends with EFAULT.
                Some(libc::EIO | libc::EBADFD | libc::EFAULT) => {
                    self.note(true);
                    Ok(None)
                }
                Some(_) | None => Err(error),
            },
        }
    }

    /// Writes the packet that `parts` make up; the first is the vnet header where there is one. Does not wait: a device
    /// has room for 2 GiB that the system has not taken yet (`TUNSETSNDBUF`).
    ///
    /// # Errors
    ///
    /// Those of writev(2); the packet is lost then. `EIO` and `EBADFD` say that the device is down or gone.
    pub(crate) fn write(&self, parts: &[IoSlice<'_>]) -> io::Result<()> {
        loop {
            match (&self.file).write_vectored(parts) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    if matches!(error.raw_os_error(), Some(libc::EIO | libc::EBADFD)) {
                        self.note(true);
                    }
                    return Err(error);
                }
            }
        }
    }

    /// True where packets carry a vnet header.
    pub(crate) const fn has_header(&self) -> bool {
        self.has_header
    }

    /// True where the last call said that the device is down, or has been deleted.
    pub(crate) fn is_down(&self) -> bool {
        self.is_down.load(Ordering::Relaxed)
    }

    /// Keeps the state; a write only where it changes, since several threads share it.
    fn note(&self, is_down: bool) {
        if self.is_down.load(Ordering::Relaxed) != is_down {
            self.is_down.store(is_down, Ordering::Relaxed);
        }
    }
}
