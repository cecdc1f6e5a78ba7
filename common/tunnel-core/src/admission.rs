//! Which handshakes of strangers may cost us a Diffie-Hellman (R1 to R4 of the threat model; W3).
//!
//! ```text
//!   MAC1 wrong ------------------------------> silence
//!   within the unverified lane's budget -----> admitted
//!   else shows a valid cookie --> within the verified lane's budget --> admitted, else dropped
//!   else ------------------------------------> a cookie reply, within the cookies' budget
//! ```
//!
//! Each lane has a budget for all and one per source (IPv4 address or IPv6 /64). The sources live in a table of
//! fixed size, found by a keyed hash: two sources may share a bucket, and strangers cannot choose which. One
//! source that floods spends its own share; a flood from many sources, spoofed or not, leaves the
//! verified lane to everyone who can receive what is sent to its address.
//!
//! Deviation (W4): the library binds a cookie to the source's address without its port, so hosts behind one
//! address share cookies as they share budgets. Its limiter also has only one global counter (W3), which is why
//! two of them stand here, one that always admits and one that always wants a cookie.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use boringtun::noise::TunnResult;
use boringtun::noise::rate_limiter::RateLimiter;
use sha2::{Digest, Sha256};
use x25519_dalek::PublicKey;

use crate::{Discard, Role};

/// Events per second and how many may come at once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rate {
    per_second: u32,
    burst: u32,
}

impl Rate {
    pub(crate) const fn new(per_second: u32, burst: u32) -> Self {
        Self { per_second, burst }
    }
}

/// A rate's state in one instant: when the next event would be due if all came evenly (GCRA, ITU-T I.371).
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Gate {
    due: Option<Instant>,
}

impl Gate {
    /// True where an event at `now` is within the rate.
    pub(crate) fn is_open(&self, rate: Rate, now: Instant) -> bool {
        let period = Duration::from_secs(1) / rate.per_second.max(1);
        self.due.is_none_or(|due| due <= now + period.saturating_mul(rate.burst.saturating_sub(1)))
    }

    /// Counts an event at `now` if it is within the rate.
    pub(crate) fn take(&mut self, rate: Rate, now: Instant) -> bool {
        let open = self.is_open(rate, now);
        if open {
            let period = Duration::from_secs(1) / rate.per_second.max(1);
            self.due = Some(self.due.map_or(now, |due| due.max(now)) + period);
        }
        open
    }
}

/// A core of 2020 hardware answers about 4000 handshakes per second; strangers get a quarter of it.
const UNVERIFIED: Rate = Rate::new(1000, 1000);
const UNVERIFIED_PER_SOURCE: Rate = Rate::new(250, 500);
const VERIFIED: Rate = Rate::new(1000, 200);
const VERIFIED_PER_SOURCE: Rate = Rate::new(20, 5);
/// A cookie reply costs a few microseconds and is smaller than what asked for it.
const COOKIES: Rate = Rate::new(20_000, 2000);

const HUB_SOURCES: usize = 4096;
const SPOKE_SOURCES: usize = 64;

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
    relaxed: RateLimiter,
    strict: RateLimiter,
    unverified: Gate,
    verified: Gate,
    cookies: Gate,
    sources: Vec<Source>,
    key: [u8; 32],
}

impl Admission {
    pub(crate) fn new(own: &PublicKey, role: Role, key: [u8; 32]) -> Self {
        let sources = match role {
            Role::Hub => HUB_SOURCES,
            Role::Spoke => SPOKE_SOURCES,
        };
        Self {
            relaxed: RateLimiter::new(own, u64::MAX),
            strict: RateLimiter::new(own, 0),
            unverified: Gate::default(),
            verified: Gate::default(),
            cookies: Gate::default(),
            sources: vec![Source::default(); sources],
            key,
        }
    }

    /// Judges an initiation or response from `from`.
    pub(crate) fn judge(&mut self, from: IpAddr, datagram: &[u8], now: Instant) -> Verdict {
        let mut unused = [0u8; 64];
        if self.relaxed.verify_packet(Some(from), datagram, &mut unused).is_err() {
            return Verdict::Refuse(Discard::InvalidMac);
        }
        let at = self.bucket(from);
        let mut spare = Source::default();
        let source = self.sources.get_mut(at).unwrap_or(&mut spare);
        if source.unverified.is_open(UNVERIFIED_PER_SOURCE, now) && self.unverified.take(UNVERIFIED, now) {
            source.unverified.take(UNVERIFIED_PER_SOURCE, now);
            return Verdict::Admit;
        }
        let mut cookie = [0u8; 64];
        match self.strict.verify_packet(Some(from), datagram, &mut cookie) {
            Ok(_) => {
                let open = source.verified.is_open(VERIFIED_PER_SOURCE, now);
                if open && self.verified.take(VERIFIED, now) {
                    source.verified.take(VERIFIED_PER_SOURCE, now);
                    return Verdict::Admit;
                }
                Verdict::Refuse(Discard::HandshakeBudget)
            }
            Err(TunnResult::WriteToNetwork(reply)) if self.cookies.take(COOKIES, now) => {
                Verdict::Cookie(reply.to_vec())
            }
            Err(_) => Verdict::Refuse(Discard::HandshakeBudget),
        }
    }

    fn bucket(&self, from: IpAddr) -> usize {
        let mut hash = Sha256::new_with_prefix(self.key);
        match from.to_canonical() {
            IpAddr::V4(v4) => hash.update(v4.octets()),
            IpAddr::V6(v6) => hash.update((u128::from(v6) >> 64).to_be_bytes()),
        }
        let [a, b, c, d, ..] = <[u8; 32]>::from(hash.finalize());
        let number = usize::try_from(u32::from_le_bytes([a, b, c, d])).unwrap_or(0);
        number.checked_rem(self.sources.len()).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "virtual time needs one first instant")]

    use boringtun::noise::Tunn;
    use x25519_dalek::StaticSecret;

    use super::*;

    /// A hub's admission and one honest initiator.
    struct Sim {
        now: Instant,
        admission: Admission,
        spoke: Tunn,
    }

    impl Sim {
        fn new() -> Self {
            let (hub, spoke) = (StaticSecret::from([3; 32]), StaticSecret::from([5; 32]));
            let own = PublicKey::from(&hub);
            Self {
                now: Instant::now(),
                admission: Admission::new(&own, Role::Hub, [1; 32]),
                spoke: Tunn::new(spoke, own, None, None, 1, None),
            }
        }

        fn initiation(&mut self) -> Vec<u8> {
            let mut buffer = [0u8; 148];
            let TunnResult::WriteToNetwork(datagram) =
                self.spoke.format_handshake_initiation(&mut buffer, true)
            else {
                unreachable!("the library has no reason to refuse");
            };
            datagram.to_vec()
        }

        /// One datagram repeated from one source: how many are admitted.
        fn flood(&mut self, from: [u8; 4], count: usize) -> usize {
            let datagram = self.initiation();
            let now = self.now;
            let admission = &mut self.admission;
            (0..count).filter(|_| admission.judge(from.into(), &datagram, now) == Verdict::Admit).count()
        }
    }

    #[test]
    fn a_gate_gives_its_burst_and_then_its_rate() {
        let (rate, start, mut gate) = (Rate::new(10, 5), Instant::now(), Gate::default());
        assert_eq!((0..20).filter(|_| gate.take(rate, start)).count(), 5);
        let later = start + Duration::from_millis(1000);
        assert_eq!((0..20).filter(|_| gate.take(rate, later)).count(), 5);
        let ticks = (0..100).map(|n| later + Duration::from_millis(10 * n));
        assert_eq!(ticks.filter(|now| gate.take(rate, *now)).count(), 9);
    }

    #[test]
    fn a_message_for_another_key_gets_silence() {
        let mut sim = Sim::new();
        let mut datagram = sim.initiation();
        datagram[117] ^= 1;
        let verdict = sim.admission.judge([192, 0, 2, 1].into(), &datagram, sim.now);
        assert_eq!(verdict, Verdict::Refuse(Discard::InvalidMac));
    }

    #[test]
    fn one_source_spends_its_own_share() {
        let mut sim = Sim::new();
        assert_eq!(sim.flood([192, 0, 2, 1], 2000), 500);
        assert_eq!(sim.flood([192, 0, 2, 2], 10), 10, "another source is not harmed");
    }

    #[test]
    fn in_a_flood_from_everywhere_a_cookie_opens_the_verified_lane() {
        let mut sim = Sim::new();
        for third in 0..75 {
            sim.flood([198, 51, third, 1], 20);
        }
        let honest = IpAddr::from([192, 0, 2, 9]);
        let first = sim.initiation();
        let Verdict::Cookie(reply) = sim.admission.judge(honest, &first, sim.now) else {
            panic!("a cookie was expected");
        };
        assert_eq!(reply.len(), 64);
        let mut buffer = [0u8; 148];
        assert!(matches!(sim.spoke.decapsulate(None, &reply, &mut buffer), TunnResult::Done));
        let second = sim.initiation();
        assert_eq!(sim.admission.judge(honest, &second, sim.now), Verdict::Admit);
        let elsewhere = sim.admission.judge([192, 0, 2, 10].into(), &second, sim.now);
        assert!(matches!(elsewhere, Verdict::Cookie(_)), "a cookie holds for its address only");
        let repeated = (0..50).filter(|_| sim.admission.judge(honest, &second, sim.now) == Verdict::Admit);
        assert_eq!(repeated.count(), 4, "the verified lane has a share per source too");
    }
}
