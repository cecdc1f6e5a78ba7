//! Challenges that are open: stored, used once, bound to a service and a key, dead after 30 s.
//!
//! Owners' keys are public, so anybody can ask in an owner's name. A source and a site are refused what is more than
//! their part. Where an owner or everybody together has too many open, nobody is refused: the oldest of the site that
//! has most goes, so that who asks most loses its own.

mod share;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use blueprint_common_types::{ServiceKey, Timestamp};

use self::share::Share;
use super::hex;
use super::owner::OwnerKey;

/// How long a challenge can be answered.
pub const CHALLENGE_LIFE: Duration = Duration::from_secs(30);

/// Challenges open at once; one takes about 500 bytes.
const MAX_OPEN: usize = 10_000;

/// Challenges open for one owner of one service.
const MAX_PER_OWNER: usize = 1000;

/// Challenges that one source may have open.
const MAX_PER_SOURCE: usize = 32;

/// Challenges that one site may have open: eight sources that use all that is theirs.
const MAX_PER_SITE: usize = 256;

/// Why no challenge is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many challenges are open; answer one, or ask again in {} s", CHALLENGE_LIFE.as_secs())]
pub struct TooManyChallenges;

/// Why the answer to a challenge is worth nothing, before its signature is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChallengeError {
    /// Never given, answered before, or for another service or key.
    #[error("this challenge is not open")]
    NotOpen,
    /// Its time is over.
    #[error("this challenge expired")]
    Expired,
}

/// A challenge as it was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Challenge {
    /// The random bytes.
    pub nonce: [u8; 32],
    /// The service that it opens.
    pub service: ServiceKey,
    /// Who has to sign it.
    pub owner: OwnerKey,
    /// From this time on it is worth nothing.
    pub expires_at: Timestamp,
}

impl Challenge {
    /// The versioned form, which says what the signature is for; an owner may sign it in place of
    /// the bytes, so that no other protocol's signature can be taken for one of these.
    #[must_use]
    pub fn text(&self) -> String {
        format!(
            "blueprint-hub owner challenge v2\nservice: {}\nkey: {}\nchallenge: {}\nexpires: {}",
            self.service,
            self.owner,
            hex::encode(&self.nonce),
            self.expires_at.as_secs(),
        )
    }
}

/// A challenge and where it was asked for.
#[derive(Debug)]
struct Open {
    challenge: Challenge,
    source: IpAddr,
    site: IpAddr,
    /// Its place in the order in which they were opened.
    number: u64,
}

/// All open challenges; bounded in number, per source, per site and per owner.
#[derive(Debug, Default)]
pub struct Challenges {
    open: BTreeMap<[u8; 32], Open>,
    /// All live equally long, so this is also the order in which they end.
    by_age: BTreeMap<u64, [u8; 32]>,
    by_source: BTreeMap<IpAddr, usize>,
    of_all: Share,
    by_owner: BTreeMap<(ServiceKey, OwnerKey), Share>,
    next: u64,
}

impl Challenges {
    /// Opens a challenge with these random bytes; where there are too many, the oldest of the site that has most of
    /// them is closed.
    ///
    /// # Errors
    ///
    /// Fails where the source or its site has too many open.
    pub fn open(
        &mut self,
        nonce: [u8; 32],
        service: ServiceKey,
        owner: OwnerKey,
        source: IpAddr,
        now: Timestamp,
    ) -> Result<Challenge, TooManyChallenges> {
        self.forget_expired(now);
        // The same bytes twice are no two challenges.
        self.close(&nonce);
        let (source, site) = (network(source), site(source));
        let held = self.by_source.get(&source).copied().unwrap_or(0);
        if held >= MAX_PER_SOURCE || self.of_all.held_by(site) >= MAX_PER_SITE {
            return Err(TooManyChallenges);
        }
        let key = (service, owner.clone());
        let of_owner = self.by_owner.get(&key).filter(|share| share.len() >= MAX_PER_OWNER);
        let full = of_owner.or_else(|| (self.open.len() >= MAX_OPEN).then_some(&self.of_all));
        if let Some(oldest) = full.and_then(Share::oldest_of_largest)
            && let Some(nonce) = self.by_age.get(&oldest).copied()
        {
            self.close(&nonce);
        }
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        let challenge = Challenge { nonce, service, owner, expires_at: now.plus(CHALLENGE_LIFE) };
        self.by_source.insert(source, held.saturating_add(1));
        self.of_all.add(site, number);
        self.by_owner.entry(key).or_default().add(site, number);
        self.by_age.insert(number, nonce);
        self.open.insert(nonce, Open { challenge: challenge.clone(), source, site, number });
        Ok(challenge)
    }

    /// Takes the challenge away, whatever comes of its answer: there is only one.
    ///
    /// # Errors
    ///
    /// Fails where it is not open for this service and key.
    pub fn take(
        &mut self,
        nonce: &[u8; 32],
        service: ServiceKey,
        owner: &OwnerKey,
        now: Timestamp,
    ) -> Result<Challenge, ChallengeError> {
        let Open { challenge, .. } = self.open.get(nonce).ok_or(ChallengeError::NotOpen)?;
        if challenge.service != service || challenge.owner != *owner {
            return Err(ChallengeError::NotOpen);
        }
        let challenge = self.close(nonce).ok_or(ChallengeError::NotOpen)?;
        if challenge.expires_at <= now { Err(ChallengeError::Expired) } else { Ok(challenge) }
    }

    /// How many are open, expired ones included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// Whether none is open.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Closes what has expired; each is looked at once.
    fn forget_expired(&mut self, now: Timestamp) {
        while let Some(nonce) = self.by_age.first_key_value().map(|(_, nonce)| *nonce)
            && self.open.get(&nonce).is_none_or(|open| open.challenge.expires_at <= now)
        {
            if self.close(&nonce).is_none() {
                self.by_age.pop_first();
            }
        }
    }

    fn close(&mut self, nonce: &[u8; 32]) -> Option<Challenge> {
        let Open { challenge, source, site, number } = self.open.remove(nonce)?;
        self.by_age.remove(&number);
        self.of_all.remove(site, number);
        let owner = (challenge.service, challenge.owner.clone());
        if let Some(share) = self.by_owner.get_mut(&owner) {
            share.remove(site, number);
            if share.len() == 0 {
                self.by_owner.remove(&owner);
            }
        }
        if let Some(count) = self.by_source.get_mut(&source) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.by_source.remove(&source);
            }
        }
        Some(challenge)
    }
}

/// What counts as one source: an IPv4 address, or the `/64` that one customer has of IPv6.
#[must_use]
pub fn network(source: IpAddr) -> IpAddr {
    match source.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// What counts as one site: the `/24` of IPv4 or the `/48` of IPv6 that one customer may have whole.
fn site(source: IpAddr) -> IpAddr {
    match source.to_canonical() {
        IpAddr::V4(address) => Ipv4Addr::from_bits(address.to_bits() & !0xff).into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !(u128::MAX >> 48)).into(),
    }
}
