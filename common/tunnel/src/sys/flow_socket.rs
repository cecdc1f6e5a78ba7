//! A TCP socket whose two buffers are large in address space and small in memory.
//!
//! smoltcp fixes the window scale, and so the largest window, by the capacity of the receive buffer at
//! the start, and can neither grow nor exchange a buffer. So each buffer has its final size at once, in
//! a private mapping that the kernel backs page by page as it is written (`mmap(2)`, `MAP_NORESERVE`).
//! Memory of `calloc` would do the same only by luck: glibc raises its threshold for mapping with each
//! large buffer freed (`mallopt(3)`, `M_MMAP_THRESHOLD`), and then clears recycled memory by writing it.
//!
//! - The socket never outlives its mapping: it is dropped first, and nobody can move it out, because
//!   whoever borrows it is told no lifetime of it that another socket could have.
//! - Huge pages are off for it: one would back 2 MiB for a flow that needs 4 KiB.

#![expect(unsafe_code, reason = "memory of the system; each block says why it is sound")]

use std::ffi::c_void;
use std::num::NonZeroUsize;
use std::ptr::NonNull;

use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, munmap};
use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::tcp;

/// Size of both buffers where the system gives no mapping (`RLIMIT_AS`, strict overcommit), in bytes.
const FALLBACK_BYTES: usize = 64 << 10;
/// Buffers end on page boundaries of every page size that Linux has on the processors we run on.
const ALIGN_BYTES: usize = 64 << 10;

/// A set that holds one TCP socket, and the memory of its buffers.
pub(crate) struct FlowSocket {
    // Before the mapping: fields are dropped in this order.
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    mapping: Option<Mapping>,
}

impl FlowSocket {
    /// Makes a closed socket with two buffers of `capacity` bytes (64 KiB to 64 MiB, rounded up to 64 KiB).
    ///
    /// Where the system refuses, the buffers have 64 KiB.
    pub(crate) fn new(capacity: usize) -> Self {
        let half = capacity.clamp(ALIGN_BYTES, 64 << 20).next_multiple_of(ALIGN_BYTES);
        let mapping = Mapping::new(half);
        let (receive, send) = match &mapping {
            // SAFETY: the mapping is new, so nothing else refers to its bytes, and its halves do not
            // overlap. The slices live in `sockets` only, which is dropped before the mapping and which
            // callers see under a lifetime that lets them move nothing out (`sockets`, `socket`).
            Some(mapping) => unsafe {
                let base = mapping.base.cast::<u8>().as_ptr();
                let receive: &'static mut [u8] = std::slice::from_raw_parts_mut(base, half);
                let send: &'static mut [u8] = std::slice::from_raw_parts_mut(base.add(half), half);
                (tcp::SocketBuffer::new(receive), tcp::SocketBuffer::new(send))
            },
            None => {
                let buffer = || tcp::SocketBuffer::new(vec![0; FALLBACK_BYTES]);
                (buffer(), buffer())
            }
        };
        let mut sockets = SocketSet::new(Vec::with_capacity(1));
        let handle = sockets.add(tcp::Socket::new(receive, send));
        Self { sockets, handle, mapping }
    }

    /// Lends the set.
    pub(crate) fn sockets<R>(&mut self, use_it: impl for<'b> FnOnce(&mut SocketSet<'b>) -> R) -> R {
        use_it(&mut self.sockets)
    }

    /// Lends the socket.
    pub(crate) fn socket<R>(&mut self, use_it: impl for<'b> FnOnce(&mut tcp::Socket<'b>) -> R) -> R {
        use_it(self.sockets.get_mut(self.handle))
    }

    /// The socket, to be looked at.
    pub(crate) fn view(&self) -> &tcp::Socket<'_> {
        self.sockets.get(self.handle)
    }

    /// Shows the set.
    pub(crate) fn look<R>(&self, at_it: impl for<'b> FnOnce(&SocketSet<'b>) -> R) -> R {
        at_it(&self.sockets)
    }

    /// Gives the pages of the receive buffer back. What the buffer holds is lost: call it only where it
    /// holds nothing, neither in order nor after a hole.
    pub(crate) fn trim_received(&mut self) {
        if let Some(mapping) = &mut self.mapping {
            mapping.discard(0);
        }
    }

    /// Gives the pages of the send buffer back. Call it only where the send buffer is empty.
    pub(crate) fn trim_sent(&mut self) {
        if let Some(mapping) = &mut self.mapping {
            mapping.discard(mapping.half);
        }
    }
}

/// Private zeroed memory of two halves.
struct Mapping {
    base: NonNull<c_void>,
    half: usize,
}

// SAFETY: the mapping belongs to the process, not to a thread, and has one owner.
unsafe impl Send for Mapping {}

impl Mapping {
    fn new(half: usize) -> Option<Self> {
        let length = NonZeroUsize::new(half * 2)?;
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: no address is asked for, so no mapping of somebody else's is replaced.
        let base =
            unsafe { mmap_anonymous(None, length, access, MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE) }
                .ok()?;
        let mapping = Self { base, half };
        // A kernel without huge pages refuses, and is right already.
        // SAFETY: the range is the mapping just made; the advice changes no byte of it.
        let _ = unsafe { madvise(base, half * 2, MmapAdvise::MADV_NOHUGEPAGE) };
        Some(mapping)
    }

    /// Turns the half that begins `offset` bytes into the mapping into zeros without pages.
    fn discard(&mut self, offset: usize) {
        debug_assert!(offset == 0 || offset == self.half);
        // SAFETY: the half lies in the mapping, which lives. The socket that holds the slice over it is
        // not in use, since its owner is borrowed mutably; bytes that turn into zeros stay initialised.
        let _ = unsafe { madvise(self.base.byte_add(offset), self.half, MmapAdvise::MADV_DONTNEED) };
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is exactly this mapping, and its only user, the socket, was dropped before.
        let _ = unsafe { munmap(self.base, self.half * 2) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Resident bytes of this process.
    fn resident() -> usize {
        let text = std::fs::read_to_string("/proc/self/statm").unwrap();
        text.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
    }

    #[test]
    fn buffers_cost_memory_only_where_they_are_written() {
        let before = resident();
        let sockets: Vec<_> = (0..256).map(|_| FlowSocket::new(4 << 20)).collect();
        assert!(sockets.iter().all(|socket| socket.view().recv_capacity() == 4 << 20));
        // 2 GiB of buffers; other tests of this process allocate at the same time.
        assert!(resident().saturating_sub(before) < 256 << 20);
    }

    #[test]
    fn capacities_are_rounded_and_bounded() {
        for (asked, made) in [(0, 64 << 10), (1 << 20, 1 << 20), ((1 << 20) + 1, (1 << 20) + (64 << 10))] {
            let mut socket = FlowSocket::new(asked);
            assert_eq!((socket.view().recv_capacity(), socket.view().send_capacity()), (made, made));
            socket.trim_received();
            socket.trim_sent();
        }
    }
}
