//! Assertions that were used: each works once, also after a restart of the hub.
//!
//! What is remembered is bounded for each service, so that the issuer of one cannot shut out those of others.

use std::collections::{BTreeMap, BTreeSet};

use blueprint_common_types::{ServiceKey, Timestamp};
use sha2::{Digest, Sha256};

use super::assertion::{Assertion, AssertionError, SKEW};

/// Assertions of one service that are remembered at once; one takes about 150 bytes.
pub const MAX_USED: usize = 20_000;

/// An assertion that was used, as it is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UsedAssertion {
    /// The service that it was used for.
    pub service: ServiceKey,
    /// SHA-256 of its issuer and its `jti`, which are as long as the issuer likes.
    pub hash: [u8; 32],
    /// From this time on it is refused as expired, and need not be remembered.
    pub until: Timestamp,
}

impl UsedAssertion {
    fn new(service: ServiceKey, assertion: &Assertion) -> Self {
        let mut hash = Sha256::new();
        for part in [&assertion.issuer, &assertion.id] {
            // With the length before it, so that no two pairs are the same bytes.
            hash.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
            hash.update(part);
        }
        Self { service, hash: hash.finalize().into(), until: assertion.expires_at.plus(SKEW) }
    }
}

/// The used ones of one service, by name and by end.
#[derive(Debug, Default)]
struct OfService {
    until: BTreeMap<[u8; 32], Timestamp>,
    by_end: BTreeSet<(Timestamp, [u8; 32])>,
    /// What has ended by then is forgotten, so that an earlier time cannot bring it back.
    latest: Option<Timestamp>,
}

impl OfService {
    fn insert(&mut self, used: &UsedAssertion) {
        self.remove(&used.hash);
        self.until.insert(used.hash, used.until);
        self.by_end.insert((used.until, used.hash));
    }

    fn remove(&mut self, hash: &[u8; 32]) {
        if let Some(until) = self.until.remove(hash) {
            self.by_end.remove(&(until, *hash));
        }
    }

    /// Forgets what has expired; each is looked at once.
    fn forget_expired(&mut self, now: Timestamp) {
        self.latest = self.latest.max(Some(now));
        while let Some((until, hash)) = self.by_end.first().copied()
            && until <= now
        {
            self.by_end.pop_first();
            self.until.remove(&hash);
        }
    }
}

/// The assertions that were used and could be used again; each until it would have expired.
#[derive(Debug, Default)]
pub struct Replays {
    services: BTreeMap<ServiceKey, OfService>,
}

impl Replays {
    /// Remembers what was used before this start.
    pub fn restore(&mut self, kept: impl IntoIterator<Item = UsedAssertion>) {
        for used in kept {
            self.services.entry(used.service).or_default().insert(&used);
        }
    }

    /// Uses an assertion up; gives what has to be kept before it counts as used.
    ///
    /// # Errors
    ///
    /// Fails where it was used before, where it has expired at the latest time that was told here, which may be later
    /// than `now`, and where no more of the service can be remembered: what cannot be remembered is not let in.
    pub fn use_up(
        &mut self,
        service: ServiceKey,
        assertion: &Assertion,
        now: Timestamp,
    ) -> Result<UsedAssertion, AssertionError> {
        let used = UsedAssertion::new(service, assertion);
        let of_service = self.services.entry(service).or_default();
        of_service.forget_expired(now);
        if of_service.latest.is_some_and(|latest| used.until <= latest) {
            return Err(AssertionError::Expired);
        }
        if of_service.until.contains_key(&used.hash) {
            return Err(AssertionError::Replayed);
        }
        if of_service.until.len() >= MAX_USED {
            return Err(AssertionError::Full);
        }
        of_service.insert(&used);
        Ok(used)
    }

    /// Lets an assertion be used once more: that it was could not be kept, and nobody got anything for it.
    pub fn give_back(&mut self, used: &UsedAssertion) {
        if let Some(of_service) = self.services.get_mut(&used.service) {
            of_service.remove(&used.hash);
        }
    }
}
