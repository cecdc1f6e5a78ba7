//! The fast way out: packets of the local stack are routed once per run and sealed straight into the send buffer.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::MutexGuard;

use crate::inbound::Notice;
use crate::line::{Conduit, Errand, Line};
use crate::noise::{Outcome, padded_len};
use crate::packet::Header;
use crate::tables::Tables;
use crate::{Discard, Endpoint};

/// A peer that packets of the local stack go to.
#[derive(Debug, Clone, Copy)]
pub struct Route<'a>(&'a Arc<Conduit>);

impl Tables {
    /// Finds the peer for a packet of the local stack, which may be a superpacket.
    ///
    /// # Errors
    ///
    /// Refuses malformed packets, foreign sources, special addresses and destinations nobody holds.
    pub fn route(&self, packet: &[u8], now: Instant) -> Result<Route<'_>, Discard> {
        let header = Header::parse(packet)?;
        self.way_of_local(&header, packet, now).map(Route)
    }
}

impl<'a> Route<'a> {
    /// Number of the peer, for notices.
    #[must_use]
    pub fn slot(&self) -> u32 {
        self.0.slot
    }

    /// Has a packet wait for a session with the peer.
    ///
    /// # Errors
    ///
    /// [`Discard::PeerErrandBudget`] where so many wait already that the core would serve nobody else.
    pub fn wait(&self, packet: &[u8], now: Instant) -> Result<Notice, Discard> {
        if self.0.may_ask(Errand::Unsent, now) {
            Ok(Notice::Unsent { slot: self.0.slot, packet: packet.to_vec() })
        } else {
            Err(Discard::PeerErrandBudget)
        }
    }

    /// Takes the peer's lock for a run of packets.
    #[must_use]
    pub fn lock(&self) -> Sealer<'a> {
        Sealer { line: self.0.lock() }
    }
}

/// A peer's session while a run of packets is sealed.
pub struct Sealer<'a> {
    line: MutexGuard<'a, Line>,
}

impl Sealer<'_> {
    /// Where the peer is; `None` while nobody knows.
    #[must_use]
    pub fn endpoint(&self) -> Option<Endpoint> {
        self.line.endpoint
    }

    /// Largest inner packet that the way to the peer takes, in bytes.
    #[must_use]
    pub fn mtu(&self) -> usize {
        self.line.mtu
    }

    /// Length of a packet of `len` bytes with its padding, before it is sealed.
    #[must_use]
    pub fn padded_len(&self, len: usize) -> usize {
        padded_len(len, self.line.mtu)
    }

    /// False while [`Self::mtu`] may rise at any moment: no sender is to be told of it yet.
    #[must_use]
    pub fn is_mtu_settled(&self) -> bool {
        self.line.is_mtu_settled
    }

    /// Notes the longest packet of a run, so that the path is watched; true where the core is to be told
    /// ([`Notice::Large`](crate::Notice)), because none was that large for a while.
    #[must_use]
    pub fn note_len(&mut self, len: usize) -> bool {
        self.line.note_len(len)
    }

    /// Seals a padded packet into `buffer`, which is [`RUN_SLACK_BYTES`](crate::RUN_SLACK_BYTES) longer than the
    /// packet; the length of the datagram.
    ///
    /// # Errors
    ///
    /// [`Discard::ExpiredSession`] where there is no session: the packet is one for [`Route::wait`].
    pub fn seal(&mut self, packet: &[u8], buffer: &mut [u8], now: Instant) -> Result<usize, Discard> {
        match self.line.seal(packet, buffer, now) {
            Outcome::Network(len) => Ok(len),
            Outcome::Refused(discard) => Err(discard),
            Outcome::Done | Outcome::Packet(_) | Outcome::Expired => Err(Discard::ExpiredSession),
        }
    }
}

impl std::fmt::Debug for Sealer<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sealer").finish_non_exhaustive()
    }
}
