//! Carriers besides plain UDP: WireGuard datagrams in QUIC datagrams and in a TLS stream.
//!
//! They are for networks that let nothing else out. Both run on port 443 and name themselves by
//! [`ALPN`], so one TCP listener serves the TLS carrier beside other protocols; on the UDP socket
//! [`is_wireguard`] tells the plain datagrams from QUIC, and a [`NeighbourSocket`] takes the QUIC
//! connections that offer another protocol.
//!
//! ```text
//!   engine -- LinkSink::send --> outbox (bounded) --> carrier's task --> network
//!   engine <-- LinkIngress::receive(batch) --------- carrier's task <-- network
//! ```
//!
//! # Invariants
//!
//! - The engine's thread of a device waits for room in an outbox, for milliseconds at most and once for a link that does not
//!   move ([`Outbox`]); nobody else ever waits for a carrier. What does not fit then is dropped and counted.
//! - A carrier never waits for the engine, so no two links wait for each other.
//! - A carrier authenticates and encrypts for the network between; who a datagram is from is decided
//!   by WireGuard alone, inside.
//! - A link ends by itself within 30 s after its path did; the engine's echo notices earlier.

mod connect;
mod crypto;
mod demux;
mod frame;
mod outbox;
mod quic;
mod stream;

pub use connect::{ConnectProxyError, ProxyUrl, ProxyUrlError, connect};
pub use crypto::crypto_provider;
pub use demux::is_wireguard;
pub use frame::{DATAGRAM_MAX, FrameError};
pub use outbox::Outbox;
pub(crate) use quic::LinkThread;
pub use quic::{
    Handshake, NeighbourSide, NeighbourSocket, QuicError, QuicLimits, QuicLink, QuicServer, SharedSocket,
    client_socket, dial,
};
pub use stream::{StreamPump, stream_sink, tune};

use std::io;

/// What both ends name in TLS (RFC 7301) for a link that carries WireGuard datagrams, version 1.
pub const ALPN: &[u8] = b"bp-wg/1";

/// Why a link ended without being told to.
#[derive(Debug, thiserror::Error)]
pub enum CarrierError {
    /// The other end closed it.
    #[error("closed by the other end")]
    Closed,
    /// Nothing came for 30 s, although the other end sends a keepalive every 10 s.
    #[error("nothing received for 30 s")]
    Silent,
    /// The other end does not keep to the framing.
    #[error("bad frame")]
    Frame(#[from] FrameError),
    /// The stream failed.
    #[error("stream failed")]
    Stream(#[source] io::Error),
    /// The QUIC connection failed.
    #[error("connection failed")]
    Quic(#[source] quinn::ConnectionError),
}

#[cfg(test)]
mod tests;
