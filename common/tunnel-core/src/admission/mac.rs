//! The first MAC of a handshake message: proof that its sender knows our public key, and all that a stranger can prove.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use blueprint_common_types::WgPublicKey;
use boringtun::noise::Packet;
use boringtun::noise::rate_limiter::RateLimiter;
use x25519_dalek::PublicKey;

/// Checks first MACs on any thread, so that junk is dropped before it is queued or costs a lock.
///
/// A clone shares the key and nothing that is waited for.
#[derive(Clone)]
pub struct MacGate {
    /// The library's limiter with a limit that is never reached, so it checks first MACs and never wants a cookie.
    limiter: Arc<RateLimiter>,
}

impl MacGate {
    /// Makes a gate for messages to the holder of this key.
    #[must_use]
    pub fn new(own: &WgPublicKey) -> Self {
        Self::of(&PublicKey::from(*own.as_bytes()))
    }

    pub(super) fn of(own: &PublicKey) -> Self {
        Self { limiter: Arc::new(RateLimiter::new(own, u64::MAX)) }
    }

    /// True where `datagram` is an initiation or response whose first MAC was made for our key.
    ///
    /// False for every other message: cookies and data carry no such MAC and are not asked about here. Costs
    /// about 0.4 us and no allocation.
    #[must_use]
    pub fn check(&self, from: IpAddr, datagram: &[u8]) -> bool {
        // The library writes there only where it wants a cookie.
        let mut unused = [0u8; 64];
        let verified = self.limiter.verify_packet(Some(from), datagram, &mut unused);
        matches!(verified, Ok(Packet::HandshakeInit(_) | Packet::HandshakeResponse(_)))
    }
}

impl fmt::Debug for MacGate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("MacGate").finish_non_exhaustive()
    }
}
