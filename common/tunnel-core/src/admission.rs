//! Which handshakes of strangers may cost us a Diffie-Hellman (R1 to R4 of the threat model; W3).
//!
//! ```text
//!   MAC1 wrong -----------------------------------------------> silence
//!   source known --> within its own and the known lane's budget ----> admitted
//!   else within its source's and the unverified lane's budget ------> admitted
//!   else shows a valid cookie
//!        --> within its source's and the verified lane's budget ----> admitted, else dropped
//!   else --> within the cookies' budget ----------------------------> a cookie reply, else dropped
//! ```
//!
//! Invariants:
//!
//! - Nothing without a valid first MAC is answered (R3).
//! - Every table has its size from the start (R4). Sources (IPv4 address, or IPv6 /64) and known sources (address
//!   and port from which a message authenticated) are found by a keyed hash: two sources may share a bucket, and
//!   strangers cannot choose which.
//! - No lane takes from another. Who floods from one source spends that source's share; a flood from everywhere,
//!   spoofed or not, spends the unverified lane and leaves the verified one to everyone who can receive what is
//!   sent to its address; a flood from many real addresses spends that one too and leaves the known lane, of
//!   which whoever forges a known source spends only that source's part. The true holder of a forged source
//!   comes in by a cookie.
//!
//! Deviation (W4): the library binds a cookie to the source's address without its port. Accepted: a cookie only
//! proves that its sender gets what is sent to that address, and what it buys, the verified share of the address,
//! is shared by all behind it anyway; a neighbour behind the same address could always ask for a cookie of its
//! own. It cannot reach the known lane of the others, which counts the port. The library's limiter also has
//! only one global counter (W3), which is why its limit is never reached in [`MacGate`] and is zero in the one here.

mod known;
mod mac;
mod rate;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use boringtun::noise::TunnResult;
use boringtun::noise::rate_limiter::RateLimiter;
use sha2::{Digest, Sha256};
use x25519_dalek::PublicKey;

use self::known::KnownTable;
pub use self::mac::MacGate;
pub(crate) use self::rate::Gate;
pub use self::rate::Rate;
use crate::{Discard, Role};

/// How many handshakes are admitted, lane by lane.
///
/// The defaults of the three lanes together stay below the 4000 handshakes that a core answers per second
/// (231 us each, measured with boringtun 0.7.1, November 2026), and their bursts keep it busy for less than half a
/// second, so echoes that wait behind them are not missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Anybody, 1250/s, 1000 at once: without an attack 10,000 peers, which retry every 1 to 2 s, come back within
    /// 10 s of a restart even if none minds the cookies. Of junk, which costs up to 178 us each, it is a fifth of a core.
    pub unverified: Rate,
    /// One source of them, 250/s, 500 at once: 500 agents behind one address come back at their first try.
    pub unverified_per_source: Rate,
    /// Sources that showed a cookie, 1500/s, 500 at once: 10,000 come back within 30 s even in a flood.
    pub verified: Rate,
    /// One source of them, 50/s, 100 at once: 500 agents behind one address in 8 s, yet it takes 30 real addresses to
    /// fill the lane.
    pub verified_per_source: Rate,
    /// Known sources, 1000/s, 500 at once.
    pub known: Rate,
    /// One known source, 1/s, 5 at once: a spoke retries every 1 to 2 s, and at once after two missed echoes. It takes
    /// 1000 known sources, guessed with their ports, to fill the lane.
    pub known_per_source: Rate,
    /// Cookie replies, 20,000/s, 2000 at once: each costs 3 us and is smaller than what asked for it.
    pub cookies: Rate,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            unverified: Rate::new(1250, 1000),
            unverified_per_source: Rate::new(250, 500),
            verified: Rate::new(1500, 500),
            verified_per_source: Rate::new(50, 100),
            known: Rate::new(1000, 500),
            known_per_source: Rate::new(1, 5),
            cookies: Rate::new(20_000, 2000),
        }
    }
}

const HUB_SOURCES: usize = 4096;
const SPOKE_SOURCES: usize = 64;
/// Sets of the table of known sources: on a hub 32,768 places and 1.3 MB.
const HUB_KNOWN_SETS: usize = 4096;
const SPOKE_KNOWN_SETS: usize = 8;

#[derive(Debug, Clone, Copy, Default)]
struct Source {
    unverified: Gate,
    verified: Gate,
}

/// What to do with a handshake message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Admit,
    Cookie(Vec<u8>),
    Refuse(Discard),
}

/// Budgets of all handshakes from outside.
pub(crate) struct Admission {
    limits: Limits,
    /// The library's limiter with a limit of zero, so it always wants a cookie.
    strict: RateLimiter,
    unverified: Gate,
    verified: Gate,
    known: Gate,
    cookies: Gate,
    sources: Vec<Source>,
    known_sources: KnownTable,
    key: [u8; 32],
}

impl Admission {
    pub(crate) fn new(own: &PublicKey, role: Role, key: [u8; 32], limits: Limits) -> Self {
        let (sources, known_sets) = match role {
            Role::Hub => (HUB_SOURCES, HUB_KNOWN_SETS),
            Role::Spoke => (SPOKE_SOURCES, SPOKE_KNOWN_SETS),
        };
        Self {
            limits,
            strict: RateLimiter::new(own, 0),
            unverified: Gate::default(),
            verified: Gate::default(),
            known: Gate::default(),
            cookies: Gate::default(),
            sources: vec![Source::default(); sources],
            known_sources: KnownTable::new(known_sets),
            key,
        }
    }

    /// Notes that a message from `from` has authenticated. To be told after each handshake and each move of a
    /// peer's endpoint; a source is kept for 24 h after the last time.
    pub(crate) fn note_known(&mut self, from: SocketAddr, now: Instant) {
        let mark = self.mark(from);
        self.known_sources.note(mark, now);
    }

    /// Judges an initiation or response from `from` that has passed a [`MacGate`]. One that has not may be admitted,
    /// but is never answered with a cookie.
    pub(crate) fn judge(&mut self, from: SocketAddr, datagram: &[u8], now: Instant) -> Verdict {
        let ip = from.ip().to_canonical();
        let at = self.bucket(ip);
        if self.take_known(from, now) || self.take_unverified(at, now) {
            return Verdict::Admit;
        }
        let mut cookie = [0u8; 64];
        match self.strict.verify_packet(Some(ip), datagram, &mut cookie) {
            Ok(_) => self.take_verified(at, now),
            Err(TunnResult::WriteToNetwork(reply)) => {
                if self.cookies.take(self.limits.cookies, now) {
                    Verdict::Cookie(reply.to_vec())
                } else {
                    Verdict::Refuse(Discard::CookieBudget)
                }
            }
            Err(_) => Verdict::Refuse(Discard::InvalidMac),
        }
    }

    fn take_known(&mut self, from: SocketAddr, now: Instant) -> bool {
        let mark = self.mark(from);
        let Some(gate) = self.known_sources.find(mark, now) else { return false };
        let rate = self.limits.known_per_source;
        gate.is_open(rate, now) && self.known.take(self.limits.known, now) && gate.take(rate, now)
    }

    fn take_unverified(&mut self, at: usize, now: Instant) -> bool {
        let Some(source) = self.sources.get_mut(at) else { return false };
        let rate = self.limits.unverified_per_source;
        source.unverified.is_open(rate, now)
            && self.unverified.take(self.limits.unverified, now)
            && source.unverified.take(rate, now)
    }

    fn take_verified(&mut self, at: usize, now: Instant) -> Verdict {
        let mut spare = Source::default();
        let source = self.sources.get_mut(at).unwrap_or(&mut spare);
        let rate = self.limits.verified_per_source;
        if !source.verified.is_open(rate, now) {
            return Verdict::Refuse(Discard::SourceHandshakeBudget);
        }
        if !self.verified.take(self.limits.verified, now) {
            return Verdict::Refuse(Discard::HandshakeBudget);
        }
        source.verified.take(rate, now);
        Verdict::Admit
    }

    /// A known source's mark: keyed hash of address and port.
    fn mark(&self, from: SocketAddr) -> u64 {
        let mut hash = Sha256::new_with_prefix(self.key).chain_update(from.port().to_be_bytes());
        match from.ip().to_canonical() {
            IpAddr::V4(v4) => hash.update(v4.octets()),
            IpAddr::V6(v6) => hash.update(v6.octets()),
        }
        short(hash)
    }

    /// Place of a source: keyed hash of the IPv4 address or the IPv6 /64.
    fn bucket(&self, ip: IpAddr) -> usize {
        let mut hash = Sha256::new_with_prefix(self.key);
        match ip {
            IpAddr::V4(v4) => hash.update(v4.octets()),
            IpAddr::V6(v6) => hash.update((u128::from(v6) >> 64).to_be_bytes()),
        }
        let number = usize::try_from(short(hash) >> 32).unwrap_or(0);
        number.checked_rem(self.sources.len()).unwrap_or(0)
    }
}

fn short(hash: Sha256) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = <[u8; 32]>::from(hash.finalize());
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}
