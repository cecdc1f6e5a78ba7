//! WireGuard peers, handshakes, timers, routing and policy without I/O or clock.
//!
//! Two halves share the peers' sessions ([`Conduit`], one lock each, taken once per run of packets):
//!
//! ```text
//!                      +--- Tables, a snapshot that never changes ---+
//!                      |                                            v
//!   commands, clock -> TunnelCore <--- Notice (handshakes, echoes) --- Inbound  <- datagrams of one sender
//!                      |   handshakes, timers, echoes                  | open, filter, policy, once per run
//!                      v                                               +-> local packets, or sealed again: relay
//!                   datagrams                            Route, Sealer <- local packets -> sealed datagrams
//! ```
//!
//! [`TunnelCore`] is told what happened (`handle_*`, with the time) and says what it wants done (`poll_*`); one
//! thread owns it. [`Inbound`], [`Route`] and [`Sealer`] are for packet threads, as many as there are.
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
mod endpoint;
mod filter;
mod inbound;
mod line;
mod message;
mod mtu;
mod noise;
pub mod offload;
mod outbound;
mod output;
mod packet;
mod peer;
mod policy;
mod rng;
mod shards;
mod solo;
mod stats;
mod table;
mod tables;
mod tracker;

pub use self::core::TunnelCore;
pub use admission::{Limits, MacGate, Rate};
pub use config::{
    Config, MAX_PEERS, MAX_PREFIXES_PER_PEER, MTU_RANGE, OverlayPrefixes, PeerConfig, PeerError,
    PresharedKey, Role,
};
pub use echo::EchoStats;
pub use endpoint::{Endpoint, LinkId, Via};
pub use inbound::{Inbound, Notice, Outlet, RUN_BYTES, RUN_SLACK_BYTES};
pub use line::Conduit;
pub use outbound::{Route, Sealer};
pub use output::{Event, Transmit};
pub use policy::{Party, Policy, Protocol, Rule};
pub use solo::SoloTunnel;
pub use stats::{Discard, PeerStats, Stats, Tally, Traffic};
pub use tables::Tables;
pub use tracker::Tracker;
