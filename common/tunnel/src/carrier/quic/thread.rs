//! A thread that carries QUIC links: a share of a hub's, or a spoke's one. A hub's first also reads the port that they come by.
//!
//! A runtime with several threads has them call each other for every buffer that goes from quinn's task to the link's, and
//! while one thread decrypts faster than the other delivers, what waits between the two overflows. Here they take turns.

use std::io;
use std::sync::{Arc, mpsc};

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tracing::debug;

use crate::engine::{SLICE, shorten_slice};
use crate::sys::caps;

/// Turns of tasks between two looks at what other threads and the socket bring. A turn of a busy link is up to a millisecond, and
/// tokio's own 31 and 61 of them would keep the other links of the thread waiting.
const TURNS: u32 = 2;

/// A thread with a runtime of its own; it ends when nobody has it any more, tasks on it included.
#[derive(Debug)]
pub(crate) struct LinkThread {
    handle: Handle,
    /// Dropping it ends the thread.
    _end: oneshot::Sender<()>,
}

impl LinkThread {
    /// Starts one.
    ///
    /// # Errors
    ///
    /// Where the system has no thread or no descriptor left.
    pub(super) fn start() -> io::Result<Arc<Self>> {
        let (started, start) = mpsc::sync_channel(1);
        let (end, ended) = oneshot::channel::<()>();
        std::thread::Builder::new().name("tunnel-quic".to_owned()).spawn(move || {
            if let Err(error) = caps::drop_net_admin() {
                debug!(%error, "a thread keeps the right to change the network");
            }
            shorten_slice(SLICE);
            // Made here, because a runtime must not be dropped where another one is at work.
            let runtime = Builder::new_current_thread()
                .global_queue_interval(TURNS)
                .event_interval(TURNS)
                .enable_all()
                .build();
            let runtime = match runtime {
                Ok(runtime) => runtime,
                Err(error) => return drop(started.send(Err(error))),
            };
            if started.send(Ok(runtime.handle().clone())).is_ok() {
                // Its only end is that the sender is dropped.
                let _ = runtime.block_on(ended);
            }
        })?;
        let handle = start.recv().map_err(io::Error::other)??;
        Ok(Arc::new(Self { handle, _end: end }))
    }

    /// Its runtime.
    pub(crate) const fn handle(&self) -> &Handle {
        &self.handle
    }
}
