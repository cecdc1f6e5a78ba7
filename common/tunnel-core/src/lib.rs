//! WireGuard peers, handshakes, timers, routing and policy without I/O or clock.
//!
//! [`TunnelCore`] is told what happened (`handle_*`, with the time) and says what it wants done (`poll_*`).
//! Its driver owns the UDP socket, the local TCP/IP stack and the clock:
//!
//! ```text
//!   UDP datagram -> handle_datagram --+--> poll_transmit -> UDP datagram
//!   IP packet    -> handle_packet   --+--> poll_packet   -> IP packet for the local stack
//!   clock        -> handle_timeout  --+--> poll_event, poll_timeout, peer_stats, stats
//! ```
//!
//! The Noise handshake and the transport cipher are boringtun's; everything around them is here, since
//! the library leaves it out or gets it wrong (the list stands in `noise.rs`).
//!
//! # The time
//!
//! All of this crate's timers live on the `now` it is told. boringtun reads a clock of its own
//! (`CLOCK_BOOTTIME`) for four things that cannot be told it: the age at which it forgets a session (180 s) or
//! all keys (540 s), its own handshake retries (5 s, 90 s), the age of a cookie, and the time stamp inside an
//! initiation. They act as a second net behind ours and, in a test on virtual time, never fire.
//!
//! # Invariants
//!
//! - No bytes from outside panic, and every queue and table has a bound.
//! - A packet is accepted only where the longest prefix over all peers gives its source to its sender.
//! - A peer's endpoint changes only after an authenticated message.
//! - After `handle_timeout(now)`, `poll_timeout()` is `None` or later than `now`.
//! - Two spokes never exchange a packet unless the [`Policy`] names them.

mod admission;
mod config;
mod core;
mod echo;
mod filter;
mod message;
mod noise;
mod output;
mod packet;
mod peer;
mod policy;
mod rng;
mod stats;
mod table;

pub use self::core::TunnelCore;
pub use config::{
    Config, MAX_PEERS, MAX_PREFIXES_PER_PEER, MTU_RANGE, OverlayPrefixes, PeerConfig, PeerError, Role,
};
pub use echo::EchoStats;
pub use output::{Event, Transmit};
pub use policy::Policy;
pub use stats::{Discard, PeerStats, Stats};
