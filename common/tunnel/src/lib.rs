//! Everything of the tunnel that touches the world: threads, sockets, devices, and TCP/IP in this process.
//!
//! [`Tunnel::bind`] makes a handle and an [`Engine`], which runs the threads:
//!
//! ```text
//!   UDP, carriers --> rx threads: open, filter, policy --> device, or netstack --> TcpStream, UdpSocket
//!                          |            ^
//!       handshakes, echoes v            | tables, never changed, replaced whole
//!                      control thread: TunnelCore  <-- commands --  Tunnel
//!                          |
//!   UDP, carriers <-- tx threads, netstack task: sparse flows first, split, seal
//! ```
//!
//! The overlay ends in a network device of the kernel ([`Interface::Tun`]) or in this process
//! ([`Interface::Netstack`]), which needs no right at all. `sys` is the only place with unsafe code.
//!
//! # Invariants
//!
//! - Nothing that a peer sends, and no error of a socket, ends a thread.
//! - Every queue, table and buffer has a bound; what does not fit is refused and counted.
//! - The cost of a packet does not depend on how many flows or peers there are.
//! - A flow's packets pass one thread, and stay in order.

mod budget;
pub mod carrier;
mod checksum;
mod command;
mod datagram;
mod device;
mod engine;
mod error;
mod flow;
mod handle;
mod interface;
mod kernel;
mod links;
mod listener;
mod memory;
mod netstack;
mod ports;
mod rights;
mod routes;
mod segment;
mod snapshot;
mod stream;
mod sys;
mod track;
mod udp;

pub use engine::Engine;
pub use error::{BindError, ConnectError, InterfaceError, ListenError, UdpError, UpsertError};
pub use handle::{Link, Tunnel, TunnelConfig};
pub use interface::{Interface, TunSettings};
pub use links::{BATCH_BYTES_MAX, Batch, CarrierKind, LinkIngress, LinkSink};
pub use listener::Listener;
pub use memory::{give_back_memory, share_memory};
pub use rights::{Rights, give_up_net_admin};
pub use snapshot::{PeerTable, TunnelSnapshot};
pub use stream::TcpStream;
pub use udp::{UdpFlow, UdpSocket};

#[cfg(test)]
mod many_tests;
#[cfg(test)]
mod tests;
