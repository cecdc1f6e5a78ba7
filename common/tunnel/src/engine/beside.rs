//! The reading of a port that QUIC shares, beside QUIC.
//!
//! While there is only plain WireGuard on a port, a thread of its own reads it. Once QUIC serves links there, most of what comes
//! is for the first thread of those, and would have that wake for each run of datagrams. So that thread reads the port itself, in
//! turns with QUIC's tasks.

use std::convert::Infallible;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, mpsc};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::yield_now;
use tokio::time::sleep;

use super::receive::{FAILURE_PAUSE, Receiver, Stranger, new_buffer};
use super::shared::Shared;
use crate::carrier::LinkThread;
use crate::sys::udp::UdpSocket;

/// Bytes, and runs of datagrams, that one turn of reading takes: no more than stay in a processor's cache until QUIC has its turn,
/// but many small ones, so that what cannot be dealt with waits in QUIC's queue and is counted there.
const TURN_BYTES: usize = 128 << 10;
const TURN_RUNS: usize = 64;

/// What a task on a link's thread waits for.
pub(super) struct Waits {
    arrival: AsyncFd<OwnedFd>,
    stop: AsyncFd<OwnedFd>,
}

impl Waits {
    /// Has `thread` watch for datagrams and for the tunnel's end.
    ///
    /// # Errors
    ///
    /// Where the system has no descriptor or no room for them left.
    pub(super) fn new(thread: &LinkThread, socket: &UdpSocket, shared: &Shared) -> io::Result<Self> {
        let _context = thread.handle().enter();
        Ok(Self { arrival: watched(socket)?, stop: watched(&shared.stop)? })
    }
}

impl Receiver {
    /// Reads a port's socket in a task of `thread`, until the tunnel stops.
    pub(super) fn run_on(
        self,
        thread: &LinkThread,
        waits: Waits,
        port: u8,
        shard: usize,
        stranger: Stranger,
    ) {
        let (held, ended) = mpsc::sync_channel::<Infallible>(0);
        thread.handle().spawn(async move {
            let _held = held;
            self.read(waits, port, shard, stranger).await;
        });
        // It ends with the task, whichever way that does.
        let _ = ended.recv();
    }

    async fn read(mut self, waits: Waits, port: u8, shard: usize, stranger: Stranger) {
        let shared = Arc::clone(&self.shared);
        let Some(socket) = shared.wire.socket(port.into(), shard) else { return };
        let mut buffer = new_buffer();
        while !shared.is_stopped() {
            let ready = tokio::select! {
                biased;
                _ = waits.stop.readable() => return,
                ready = waits.arrival.readable() => ready,
            };
            // It fails only where the runtime ends.
            let Ok(mut ready) = ready else { return };
            let (mut bytes, mut runs) = (0, 0);
            loop {
                match self.take_run(port, socket, &mut buffer, Some(&stranger)) {
                    Ok(Some(taken)) => {
                        (bytes, runs) = (bytes + taken, runs + 1);
                        if bytes >= TURN_BYTES || runs >= TURN_RUNS {
                            break yield_now().await;
                        }
                    }
                    Ok(None) => break ready.clear_ready(),
                    Err(error) => {
                        self.note_failure(&error);
                        break sleep(FAILURE_PAUSE).await;
                    }
                }
            }
        }
    }
}

/// A descriptor that the current runtime watches for something to read.
fn watched(fd: &impl AsFd) -> io::Result<AsyncFd<OwnedFd>> {
    let fd = fd.as_fd().try_clone_to_owned()?;
    #[expect(deprecated, reason = "it is unsound for what does not own its descriptor; this does")]
    AsyncFd::with_interest(fd, Interest::READABLE)
}
