//! Challenges of a hub: random, of this start of the hub, good for a short time and once.
//!
//! Giving one out costs no memory: it carries its end and a code that only this hub can make. What is remembered is that
//! one was used, which takes a proof that is good.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use blueprint_common_types::{Secret, Timestamp};
use ring::hmac;

use crate::ProofRefusal;

/// How long a challenge is good: a metadata service answers within seconds, and a slow machine asks again.
pub const CHALLENGE_LIFE: Duration = Duration::from_secs(300);

/// Length of a challenge: 16 random bytes, 8 of its end, 32 of the code.
pub const NONCE_BYTES: usize = 56;

/// Used challenges remembered at once; each until it would have been over.
const MAX_USED: usize = 65_536;

/// Of those, used by one machine: a document that never ends is good with any challenge.
const MAX_OF_ONE: usize = 16;

/// Gives challenges and takes each back once.
pub struct Challenges {
    key: hmac::Key,
    used: BTreeMap<[u8; 16], Timestamp>,
    /// Ends of those that a machine used, by its name.
    by: BTreeMap<String, Vec<Timestamp>>,
}

impl fmt::Debug for Challenges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Challenges").field("used", &self.used.len()).finish_non_exhaustive()
    }
}

impl Challenges {
    /// Challenges under a key that is random with each start of the hub.
    #[must_use]
    pub fn new(key: &Secret<[u8; 32]>) -> Self {
        Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, key.expose()),
            used: BTreeMap::new(),
            by: BTreeMap::new(),
        }
    }

    /// A challenge of these random bytes.
    #[must_use]
    pub fn issue(&self, random: [u8; 16], now: Timestamp) -> Vec<u8> {
        let ends = now.plus(CHALLENGE_LIFE).as_millis().to_be_bytes();
        let body = [&random[..], &ends].concat();
        let code = hmac::sign(&self.key, &body);
        [body.as_slice(), code.as_ref()].concat()
    }

    /// Whether a challenge is ours and still good. It may have been used.
    ///
    /// # Errors
    ///
    /// [`ProofRefusal::Challenge`].
    pub fn check(&self, nonce: &[u8], now: Timestamp) -> Result<(), ProofRefusal> {
        self.read(nonce, now).map(|_| ()).ok_or(ProofRefusal::Challenge)
    }

    /// Uses a challenge up for a machine, by a name that no other has.
    ///
    /// # Errors
    ///
    /// Where it is not ours, over, or used before; and where no more can be remembered, of this machine or of all: what
    /// cannot be remembered is not let in.
    pub fn use_up(&mut self, nonce: &[u8], by: &str, now: Timestamp) -> Result<(), ProofRefusal> {
        let (random, ends) = self.read(nonce, now).ok_or(ProofRefusal::Challenge)?;
        if self.used.len() >= MAX_USED {
            self.used.retain(|_, ends| *ends > now);
            self.by.retain(|_, used| used.iter().any(|ends| *ends > now));
        }
        if self.used.contains_key(&random) {
            return Err(ProofRefusal::Replayed);
        }
        if self.used.len() >= MAX_USED {
            return Err(ProofRefusal::Full);
        }
        // Never more names than challenges: each has one that is remembered, or is gone with the next clearing.
        if self.by.len() >= MAX_USED {
            self.by.retain(|_, used| used.iter().any(|ends| *ends > now));
        }
        let used = self.by.entry(by.to_owned()).or_default();
        used.retain(|ends| *ends > now);
        if used.len() >= MAX_OF_ONE {
            return Err(ProofRefusal::Full);
        }
        used.push(ends);
        self.used.insert(random, ends);
        Ok(())
    }

    fn read(&self, nonce: &[u8], now: Timestamp) -> Option<([u8; 16], Timestamp)> {
        let (body, code) = nonce.split_at_checked(24)?;
        hmac::verify(&self.key, body, code).ok()?;
        let (random, ends) = body.split_first_chunk::<16>()?;
        let ends = Timestamp::from_millis(u64::from_be_bytes(ends.try_into().ok()?));
        (ends > now).then_some((*random, ends))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_795_348_800_000);

    fn challenges(key: u8) -> Challenges {
        Challenges::new(&Secret::new([key; 32]))
    }

    #[test]
    fn a_challenge_is_good_once_for_a_while_and_at_its_hub() {
        let mut hub = challenges(1);
        let nonce = hub.issue([7; 16], NOW);
        assert_eq!(nonce.len(), NONCE_BYTES);
        assert_eq!(hub.check(&nonce, NOW), Ok(()));
        assert_eq!(
            challenges(2).check(&nonce, NOW),
            Err(ProofRefusal::Challenge),
            "another hub, or start of it"
        );
        assert_eq!(hub.check(&nonce, NOW.plus(CHALLENGE_LIFE)), Err(ProofRefusal::Challenge), "over");
        assert_eq!(hub.use_up(&nonce, "a", NOW), Ok(()));
        assert_eq!(hub.use_up(&nonce, "a", NOW), Err(ProofRefusal::Replayed));
        assert_eq!(hub.use_up(&hub.issue([8; 16], NOW), "a", NOW), Ok(()));
    }

    #[test]
    fn no_changed_byte_is_taken() {
        let hub = challenges(1);
        let nonce = hub.issue([7; 16], NOW);
        for at in 0..nonce.len() {
            let mut changed = nonce.clone();
            changed[at] ^= 1;
            assert_eq!(hub.check(&changed, NOW), Err(ProofRefusal::Challenge), "byte {at}");
        }
        for cut in [0, 1, 23, 24, 55] {
            assert_eq!(hub.check(&nonce[..cut], NOW), Err(ProofRefusal::Challenge));
        }
    }

    #[test]
    fn one_machine_does_not_use_up_the_places_of_all() {
        let mut hub = challenges(1);
        let mut used = |number: u8, by: &str, now| {
            let nonce = hub.issue([number; 16], now);
            hub.use_up(&nonce, by, now)
        };
        for number in 0..16 {
            assert_eq!(used(number, "a", NOW), Ok(()));
        }
        assert_eq!(used(16, "a", NOW), Err(ProofRefusal::Full));
        assert_eq!(used(17, "b", NOW), Ok(()));
        assert_eq!(used(18, "a", NOW.plus(CHALLENGE_LIFE)), Ok(()));
    }

    #[test]
    fn what_cannot_be_remembered_is_not_let_in() {
        let mut hub = challenges(1);
        for number in 0..MAX_USED {
            let mut random = [0; 16];
            random[..8].copy_from_slice(&u64::try_from(number).unwrap().to_be_bytes());
            hub.use_up(&hub.issue(random, NOW), &number.to_string(), NOW).unwrap();
        }
        assert_eq!(hub.use_up(&hub.issue([9; 16], NOW), "a", NOW), Err(ProofRefusal::Full));
        let later = NOW.plus(CHALLENGE_LIFE);
        assert_eq!(hub.use_up(&hub.issue([9; 16], later), "a", later), Ok(()), "old ones made room");
    }
}
