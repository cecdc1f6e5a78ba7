//! Challenges that are open: stored, used once, bound to a service and a key, dead after 30 s.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use blueprint_common_types::{ServiceKey, Timestamp};

use super::hex;
use super::owner::OwnerKey;

/// How long a challenge can be answered.
pub const CHALLENGE_LIFE: Duration = Duration::from_secs(30);

/// Challenges open at once; one takes about 200 bytes.
const MAX_OPEN: usize = 10_000;

/// Challenges that one source may have open; keys are public, so anybody can ask in an owner's name.
const MAX_PER_SOURCE: usize = 32;

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

/// All open challenges; bounded in number and per source.
#[derive(Debug, Default)]
pub struct Challenges {
    open: BTreeMap<[u8; 32], (Challenge, IpAddr)>,
    by_source: BTreeMap<IpAddr, usize>,
}

impl Challenges {
    /// Opens a challenge with these random bytes.
    ///
    /// # Errors
    ///
    /// Fails where the source, or everybody together, has too many open.
    pub fn open(
        &mut self,
        nonce: [u8; 32],
        service: ServiceKey,
        owner: OwnerKey,
        source: IpAddr,
        now: Timestamp,
    ) -> Result<Challenge, TooManyChallenges> {
        let source = network(source);
        let held = |all: &Self| all.by_source.get(&source).copied().unwrap_or(0);
        if self.open.len() >= MAX_OPEN || held(self) >= MAX_PER_SOURCE {
            self.forget_expired(now);
        }
        let count = held(self);
        if self.open.len() >= MAX_OPEN || count >= MAX_PER_SOURCE {
            return Err(TooManyChallenges);
        }
        let challenge = Challenge { nonce, service, owner, expires_at: now.plus(CHALLENGE_LIFE) };
        if self.open.insert(nonce, (challenge.clone(), source)).is_none() {
            self.by_source.insert(source, count.saturating_add(1));
        }
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
        let (open, _) = self.open.get(nonce).ok_or(ChallengeError::NotOpen)?;
        if open.service != service || open.owner != *owner {
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

    fn forget_expired(&mut self, now: Timestamp) {
        let is_over = |(challenge, _): &(Challenge, IpAddr)| challenge.expires_at <= now;
        let over: Vec<[u8; 32]> =
            self.open.iter().filter(|(_, open)| is_over(open)).map(|(nonce, _)| *nonce).collect();
        for nonce in over {
            self.close(&nonce);
        }
    }

    fn close(&mut self, nonce: &[u8; 32]) -> Option<Challenge> {
        let (challenge, source) = self.open.remove(nonce)?;
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
