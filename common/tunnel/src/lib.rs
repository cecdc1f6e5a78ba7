//! UDP carrier and in-process TCP/IP stack that drive the tunnel core.
//!
//! [`Tunnel::bind`] makes a handle and an [`Engine`]. The engine is the one task that owns the tunnel
//! core, the UDP socket and the netstack; the handle, its streams and its listeners are used from any task:
//!
//! ```text
//!   TcpStream, Listener --- flow (lock each) ---> netstack --- IP packets ---> core --- datagrams ---> UDP
//!   Tunnel ----------------- commands ----------> engine <---- events, snapshots ---- core
//! ```
//!
//! It needs no right of its own: there is no device, and the overlay exists only in this process.
//!
//! # Invariants
//!
//! - Nothing that a peer sends, and no error of the socket, ends the engine.
//! - Every queue, table and buffer has a bound; what does not fit is refused and counted.
//! - The cost of a packet does not depend on how many flows or peers there are.

mod command;
mod device;
mod engine;
mod error;
mod flow;
mod handle;
mod listener;
mod netstack;
mod ports;
mod segment;
mod snapshot;
mod stream;
#[cfg_attr(not(test), expect(dead_code, reason = "used by the engine's threads"))]
mod sys;
mod udp;

pub use engine::Engine;
pub use error::{ConnectError, ListenError, UpsertError};
pub use handle::{Tunnel, TunnelConfig};
pub use listener::Listener;
pub use snapshot::TunnelSnapshot;
pub use stream::TcpStream;

#[cfg(test)]
mod tests;
