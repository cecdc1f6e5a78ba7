//! boringtun 0.7.1 behind a fence: buffers that are always long enough, panics that stay inside, results in our words.
//!
//! What the library lacks, and where it is made good:
//!
//! | | fault | here | shown by, else why there is no test |
//! |---|---|---|---|
//! | W1 | sources are checked per peer | `filter`, `table`: longest prefix over all peers | `tests/exchange/traffic` |
//! | W2 | counters near 2^64 overflow, no limit on messages | `inbound`, `line`: [`REJECT_COUNTER`]; `peer::time`: [`REKEY_AFTER_MESSAGES`] | `tests/exchange/abuse`, `line` |
//! | W3 | one handshake counter for all sources | `admission` (`rate`, `known`, `mac`); the library's own limiter never bites | `admission::tests` |
//! | W4 | cookies bound to address without port | accepted, see `admission` | `admission::tests`: what is accepted |
//! | W5 | endpoint follows cookie replies | `line`: only after messages of type 1, 2 and 4 that authenticate | `tests/exchange/abuse` |
//! | W6 | replay window of 1024 | accepted: a flow stays on one thread and its batches in order, so we reorder nothing | `tests/exchange/abuse`: how much later a packet may come |
//! | W7 | no jitter of rekeys | `peer`: retries spread over 333 ms or 1 s, rekeys over 5 s | `tests/exchange/time` |
//! | W8 | predictable indexes in its device layer | `core`: random 24 bits per peer | `tests/exchange/abuse` |
//! | W9 | no padding | [`padded_len`] | here, `tests/exchange/traffic` |
//! | W10 | panics on short buffers and inner errors | [`Noise::run`] | here, `core::panic_tests` |
//! | W11 | replays judged by the sender's wall clock | `TunnelCore::reset_replay_floor`, for the control channel | `tests/exchange/abuse` |
//!
//! The names of the tests begin with the number.
//!
//! After 90 s of unanswered initiations, and after 540 s without a handshake, the library drops its keys and
//! reports an expired connection until somebody forces an initiation; ours are always forced, so a spoke never
//! gives up, and the same [`Tunn`] goes on, since a fresh one would forget the replay floor.

use std::fmt;
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use blueprint_common_types::{WgPrivateKey, WgPublicKey};
use boringtun::noise::errors::WireGuardError;
use boringtun::noise::handshake::parse_handshake_anon;
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Packet, Tunn, TunnResult};
use x25519_dalek::{PublicKey, StaticSecret};

use crate::{Discard, PresharedKey};

/// WireGuard's Reject-After-Messages (paper, section 6.1): 2^64 - 2^13 - 1.
pub(crate) const REJECT_COUNTER: u64 = u64::MAX - (1 << 13);

/// WireGuard's Rekey-After-Messages (paper, section 6.1).
pub(crate) const REKEY_AFTER_MESSAGES: u64 = 1 << 60;

/// What a data message adds to its plaintext.
const DATA_OVERHEAD_BYTES: usize = 32;
/// The library writes handshake messages, 148 bytes at most, into any buffer it is given.
const LEAST_BUFFER_BYTES: usize = 148;

/// Buffer that the library may fill for a datagram or plaintext of `len` bytes.
pub(crate) const fn buffer_len(len: usize) -> usize {
    let needed = len.saturating_add(DATA_OVERHEAD_BYTES);
    if needed > LEAST_BUFFER_BYTES { needed } else { LEAST_BUFFER_BYTES }
}

/// Length of a packet with its padding: the next multiple of 16, but not beyond the MTU (paper, section 5.4.6).
pub(crate) fn padded_len(len: usize, mtu: usize) -> usize {
    len.checked_next_multiple_of(16).unwrap_or(len).min(mtu).max(len)
}

/// Our own key, and what follows from it.
pub(crate) struct Identity {
    private: StaticSecret,
    public: PublicKey,
    limiter: Arc<RateLimiter>,
}

impl Identity {
    pub(crate) fn new(private: &WgPrivateKey) -> Self {
        let private = StaticSecret::from(*private.expose());
        let public = PublicKey::from(&private);
        Self { limiter: Arc::new(RateLimiter::new(&public, u64::MAX)), private, public }
    }

    pub(crate) const fn public(&self) -> &PublicKey {
        &self.public
    }

    /// False for the few keys whose shared secret is zero with everyone.
    pub(crate) fn accepts(&self, peer: &WgPublicKey) -> bool {
        self.private.diffie_hellman(&PublicKey::from(*peer.as_bytes())).was_contributory()
    }

    /// Reads who made an initiation; `None` where it is not for us. Not proof that they did: it may be a replay.
    pub(crate) fn initiator(&self, datagram: &[u8]) -> Option<WgPublicKey> {
        let read = || match Tunn::parse_incoming_packet(datagram) {
            Ok(Packet::HandshakeInit(initiation)) => {
                parse_handshake_anon(&self.private, &self.public, &initiation).ok()
            }
            _ => None,
        };
        let half = catch_unwind(AssertUnwindSafe(read)).ok()??;
        Some(WgPublicKey::from_bytes(half.peer_static_public))
    }
}

/// What the library wants done; lengths count from the start of the buffer it was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Done,
    Network(usize),
    Packet(usize),
    Refused(Discard),
    /// The library gave up on the peer and dropped its keys.
    Expired,
}

impl From<TunnResult<'_>> for Outcome {
    fn from(result: TunnResult<'_>) -> Self {
        match result {
            TunnResult::Done => Self::Done,
            TunnResult::WriteToNetwork(datagram) => Self::Network(datagram.len()),
            TunnResult::WriteToTunnelV4(packet, _) | TunnResult::WriteToTunnelV6(packet, _) => {
                Self::Packet(packet.len())
            }
            TunnResult::Err(WireGuardError::ConnectionExpired) => Self::Expired,
            TunnResult::Err(error) => Self::Refused(refusal(&error)),
        }
    }
}

const fn refusal(error: &WireGuardError) -> Discard {
    match error {
        WireGuardError::InvalidMac => Discard::InvalidMac,
        WireGuardError::WrongTai64nTimestamp | WireGuardError::InvalidTai64nTimestamp => {
            Discard::StaleHandshake
        }
        WireGuardError::InvalidCounter | WireGuardError::DuplicateCounter => Discard::Replay,
        WireGuardError::NoCurrentSession | WireGuardError::ConnectionExpired => Discard::ExpiredSession,
        WireGuardError::WrongIndex => Discard::UnknownIndex,
        WireGuardError::UnexpectedPacket => Discard::UnexpectedReply,
        WireGuardError::InvalidPacket => Discard::MalformedPacket,
        WireGuardError::UnderLoad => Discard::HandshakeBudget,
        WireGuardError::IncorrectPacketLength | WireGuardError::WrongPacketType => Discard::NotWireGuard,
        WireGuardError::WrongKey | WireGuardError::InvalidAeadTag => Discard::Unauthentic,
        WireGuardError::DestinationBufferTooSmall | WireGuardError::LockFailed => Discard::LibraryPanic,
    }
}

/// One peer's handshake and sessions.
pub(crate) struct Noise {
    tunn: Box<Tunn>,
    identity: Arc<Identity>,
    peer: PublicKey,
    preshared_key: Option<PresharedKey>,
    slot: u32,
    /// The next call of the library panics.
    #[cfg(test)]
    pub(crate) panics_next: bool,
}

impl Noise {
    pub(crate) fn new(
        identity: &Arc<Identity>,
        peer: &WgPublicKey,
        preshared_key: Option<PresharedKey>,
        slot: u32,
    ) -> Self {
        let peer = PublicKey::from(*peer.as_bytes());
        let tunn = Box::new(make(identity, peer, preshared_key.as_ref(), slot));
        Self {
            tunn,
            identity: Arc::clone(identity),
            peer,
            preshared_key,
            slot,
            #[cfg(test)]
            panics_next: false,
        }
    }

    /// Forgets sessions, handshake, cookie and replay floor.
    pub(crate) fn reset(&mut self) {
        *self.tunn = make(&self.identity, self.peer, self.preshared_key.as_ref(), self.slot);
    }

    /// Changes the key that both ends share beforehand; sessions made with another end. True where it did.
    pub(crate) fn set_preshared_key(&mut self, preshared_key: Option<PresharedKey>) -> bool {
        let is_other = self.preshared_key != preshared_key;
        if is_other {
            self.preshared_key = preshared_key;
            self.reset();
        }
        is_other
    }

    /// Opens an outer message into `buffer`, which has at least [`buffer_len`] of it.
    pub(crate) fn open(&mut self, from: IpAddr, datagram: &[u8], buffer: &mut [u8]) -> Outcome {
        self.run(buffer, buffer_len(datagram.len()), |tunn, buffer| {
            tunn.decapsulate(Some(from), datagram, buffer)
        })
    }

    /// Seals a plaintext into `buffer`, which has at least [`buffer_len`] of it.
    pub(crate) fn seal(&mut self, plaintext: &[u8], buffer: &mut [u8]) -> Outcome {
        self.run(buffer, buffer_len(plaintext.len()), |tunn, buffer| tunn.encapsulate(plaintext, buffer))
    }

    /// Writes a new initiation, whatever the state.
    pub(crate) fn initiate(&mut self, buffer: &mut [u8]) -> Outcome {
        self.run(buffer, LEAST_BUFFER_BYTES, |tunn, buffer| tunn.format_handshake_initiation(buffer, true))
    }

    /// Lets the library look at its own clock; it also erases old keys here.
    pub(crate) fn update_timers(&mut self, buffer: &mut [u8]) -> Outcome {
        self.run(buffer, LEAST_BUFFER_BYTES, |tunn, buffer| tunn.update_timers(buffer))
    }

    /// Calls the library. A panic costs this peer its state and nobody else anything.
    fn run<'a>(
        &mut self,
        buffer: &'a mut [u8],
        needed: usize,
        call: impl FnOnce(&mut Tunn, &'a mut [u8]) -> TunnResult<'a>,
    ) -> Outcome {
        if buffer.len() < needed {
            return Outcome::Refused(Discard::LibraryPanic);
        }
        #[cfg(test)]
        let is_doomed = std::mem::take(&mut self.panics_next);
        let tunn = &mut *self.tunn;
        let result = catch_unwind(AssertUnwindSafe(move || {
            #[cfg(test)]
            assert!(!is_doomed, "a test wants the library to panic");
            Outcome::from(call(tunn, buffer))
        }));
        result.unwrap_or_else(|_| self.recover())
    }

    /// Starts anew after a panic; apart, since a new state takes kilobytes of stack, which no packet should pay for.
    #[cold]
    #[inline(never)]
    fn recover(&mut self) -> Outcome {
        self.reset();
        Outcome::Refused(Discard::LibraryPanic)
    }
}

impl fmt::Debug for Noise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Noise").field("slot", &self.slot).finish_non_exhaustive()
    }
}

fn make(identity: &Identity, peer: PublicKey, preshared_key: Option<&PresharedKey>, slot: u32) -> Tunn {
    let limiter = Some(Arc::clone(&identity.limiter));
    let preshared_key = preshared_key.map(|key| *key.expose());
    Tunn::new(identity.private.clone(), peer, preshared_key, None, slot, limiter)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> [(Arc<Identity>, Noise); 2] {
        let identities =
            [[3; 32], [5; 32]].map(|key| Arc::new(Identity::new(&WgPrivateKey::from_bytes(key))));
        let keys =
            identities.each_ref().map(|identity| WgPublicKey::from_bytes(*identity.public().as_bytes()));
        let [a, b] = identities;
        let [key_a, key_b] = keys;
        let (noise_a, noise_b) = (Noise::new(&a, &key_b, None, 1), Noise::new(&b, &key_a, None, 2));
        [(a, noise_a), (b, noise_b)]
    }

    #[test]
    fn w9_padding_ends_at_the_mtu() {
        assert_eq!(padded_len(1, 1420), 16);
        assert_eq!(padded_len(16, 1420), 16);
        assert_eq!(padded_len(1410, 1420), 1420);
        assert_eq!(padded_len(1420, 1420), 1420);
    }

    #[test]
    fn w10_a_panic_in_the_library_stays_inside_and_the_peer_goes_on() {
        let [(_, mut a), (_, mut b)] = pair();
        let mut buffer = [0u8; 256];
        let outcome = a.run(&mut buffer, 0, |_, _| panic!("as the library does on a short buffer"));
        assert_eq!(outcome, Outcome::Refused(Discard::LibraryPanic));
        assert_eq!(a.seal(&[0; 64], &mut [0; 64]), Outcome::Refused(Discard::LibraryPanic));

        let from = IpAddr::from([192, 0, 2, 1]);
        assert_eq!(a.initiate(&mut buffer), Outcome::Network(148));
        let mut answer = [0u8; 256];
        assert_eq!(b.open(from, &buffer[..148], &mut answer), Outcome::Network(92));
        assert_eq!(a.open(from, &answer[..92], &mut buffer), Outcome::Network(32));
    }

    #[test]
    fn an_initiator_is_read_only_by_whom_it_is_for() {
        let [(id_a, mut a), (id_b, _)] = pair();
        let mut buffer = [0u8; 148];
        a.initiate(&mut buffer);
        assert_eq!(id_b.initiator(&buffer).unwrap().as_bytes(), id_a.public().as_bytes());
        assert_eq!(id_a.initiator(&buffer), None);
        assert_eq!(id_b.initiator(&buffer[..100]), None);
    }

    #[test]
    fn a_key_that_makes_secrets_zero_is_not_accepted() {
        let [(identity, _), _] = pair();
        assert!(!identity.accepts(&WgPublicKey::from_bytes([0; 32])));
        assert!(identity.accepts(&WgPublicKey::from_bytes([9; 32])));
    }
}
