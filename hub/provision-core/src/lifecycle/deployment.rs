//! A deployment: what the operator wants, as one thing.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use blueprint_common_types::{ServiceKey, Timestamp, fill_random};

use crate::Candidate;
use crate::catalogue::region_of;

/// Digits of an id: RFC 4648 base 32 in lower case, which every cloud takes in a tag.
const DIGITS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// Characters of an id: 80 random bits.
const LENGTH: usize = 16;

/// A text is not the id of a deployment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not the id of a deployment: 16 of a-z and 2-7 were expected")]
pub struct ParseDeploymentIdError(String);

/// Names a deployment. Text form: 16 characters of `a-z` and `2-7`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeploymentId(String);

impl DeploymentId {
    /// The id that these 80 bits make.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 10]) -> Self {
        let bits = bytes.into_iter().fold(0u128, |bits, byte| (bits << 8) | u128::from(byte));
        let digit = |place: usize| {
            let value = usize::try_from((bits >> (5 * place)) & 31).unwrap_or_default();
            DIGITS.get(value).copied().map_or('a', char::from)
        };
        Self((0..LENGTH).rev().map(digit).collect())
    }

    /// Makes a random one.
    ///
    /// # Errors
    ///
    /// Fails only where the system has no source of randomness.
    pub fn random() -> Result<Self, std::io::Error> {
        let mut bytes = [0u8; 10];
        fill_random(&mut bytes)?;
        Ok(Self::from_bytes(bytes))
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DeploymentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for DeploymentId {
    type Err = ParseDeploymentIdError;

    fn from_str(text: &str) -> Result<Self, ParseDeploymentIdError> {
        if text.len() == LENGTH && text.bytes().all(|byte| DIGITS.contains(&byte)) {
            Ok(Self(text.to_owned()))
        } else {
            Err(ParseDeploymentIdError(text.chars().take(64).collect()))
        }
    }
}

/// A text is not what a deployment can be wanted to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is none of running, stopped and gone")]
pub struct ParseWantedError(String);

/// What the operator wants of a deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wanted {
    /// As many machines as it has replicas, switched on.
    Running,
    /// Its machines are kept and switched off.
    Stopped,
    /// Nothing of it; for good.
    Gone,
}

impl Wanted {
    /// Stable name, as it is stored and shown.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Stopped => "stopped",
            Self::Gone => "gone",
        }
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.label())
    }
}

impl FromStr for Wanted {
    type Err = ParseWantedError;

    fn from_str(text: &str) -> Result<Self, ParseWantedError> {
        [Self::Running, Self::Stopped, Self::Gone]
            .into_iter()
            .find(|wanted| wanted.label() == text)
            .ok_or_else(|| ParseWantedError(text.chars().take(64).collect()))
    }
}

/// A text is not a way to spread machines.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is none of none, regions and providers")]
pub struct ParseSpreadError(String);

/// Over what the machines of a deployment are spread.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Spread {
    /// Over nothing: each is the best offer that there is.
    #[default]
    None,
    /// Over the regions of its plan, as evenly as they can be had.
    Regions,
    /// Over the providers of its plan, as evenly as they can be had.
    Providers,
}

impl Spread {
    /// Stable name, as it is stored and shown.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Regions => "regions",
            Self::Providers => "providers",
        }
    }

    /// The place of an offer: offers of one place count together.
    #[must_use]
    pub fn place(self, offer: &Candidate) -> (&str, &str) {
        self.place_at(&offer.provider, &offer.region)
    }

    /// The place of a provider's region. Zones of one region are one place: what takes a region takes all of them.
    #[must_use]
    pub fn place_at<'a>(self, provider: &'a str, region: &'a str) -> (&'a str, &'a str) {
        match self {
            Self::None => ("", ""),
            Self::Regions => (provider, region_of(provider, region)),
            Self::Providers => (provider, ""),
        }
    }

    /// How many places so many machines of a plan are at, where the first offers of each place can be had; 1 where they are
    /// not spread.
    #[must_use]
    pub fn places(self, plan: &[Candidate], replicas: u32) -> usize {
        self.layout(plan, replicas).into_iter().map(|offer| self.place(offer)).collect::<BTreeSet<_>>().len()
    }

    /// The offers of a plan for the next machine beside those at `taken`, the first one first: those of the places with the
    /// fewest come first, and among them the order of the plan holds.
    #[must_use]
    pub fn order<'p>(self, plan: &'p [Candidate], taken: &[&Candidate]) -> Vec<&'p Candidate> {
        let count =
            |offer: &Candidate| taken.iter().filter(|other| self.place(other) == self.place(offer)).count();
        let mut offers: Vec<&Candidate> = plan.iter().collect();
        offers.sort_by_key(|offer| count(offer));
        offers
    }

    /// What `replicas` machines of a plan come to where the first offers of each place can be had, one after the other.
    #[must_use]
    pub fn layout(self, plan: &[Candidate], replicas: u32) -> Vec<&Candidate> {
        self.next(plan, &[], replicas)
    }

    /// The next `count` machines of a plan beside those at `taken`, where the first offers of each place can be had.
    #[must_use]
    pub fn next<'p>(self, plan: &'p [Candidate], taken: &[&Candidate], count: u32) -> Vec<&'p Candidate> {
        let mut next: Vec<&'p Candidate> = Vec::new();
        for _ in 0..count {
            let beside: Vec<&Candidate> = taken.iter().copied().chain(next.iter().copied()).collect();
            let Some(offer) = self.order(plan, &beside).first().copied() else { break };
            next.push(offer);
        }
        next
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.label())
    }
}

impl FromStr for Spread {
    type Err = ParseSpreadError;

    fn from_str(text: &str) -> Result<Self, ParseSpreadError> {
        [Self::None, Self::Regions, Self::Providers]
            .into_iter()
            .find(|spread| spread.label() == text)
            .ok_or_else(|| ParseSpreadError(text.chars().take(32).collect()))
    }
}

/// A number of machines of one kind that live and end together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deployment {
    /// Names it.
    pub id: DeploymentId,
    /// What the operator calls it; need not be unique.
    pub name: String,
    /// Who asks with the same key gets this deployment and no second one.
    pub request_key: String,
    /// What was asked for, in one line: the same key with another line is a mistake.
    pub asked: String,
    /// Machines wanted while it is to run; 0 only where scaling said so.
    pub replicas: u32,
    /// What to order, best first; not empty.
    pub plan: Vec<Candidate>,
    /// Over what its machines are spread.
    pub spread: Spread,
    /// The service that its machines offer.
    pub service: Option<ServiceKey>,
    /// What is wanted of it.
    pub wanted: Wanted,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// From this time on it is to be gone; `None` for never.
    pub expires_at: Option<Timestamp>,
    /// When `wanted` was set last.
    pub changed_at: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_survive_their_text_and_use_all_their_bits() {
        assert_eq!(DeploymentId::from_bytes([0; 10]).as_str(), "aaaaaaaaaaaaaaaa");
        assert_eq!(DeploymentId::from_bytes([0xff; 10]).as_str(), "7777777777777777");
        assert_eq!(DeploymentId::from_bytes([0, 0, 0, 0, 0, 0, 0, 0, 0, 1]).as_str(), "aaaaaaaaaaaaaaab");
        let id = DeploymentId::random().unwrap();
        assert_eq!(id.as_str().parse(), Ok(id.clone()));
        assert_ne!(DeploymentId::random().unwrap(), id);
        for wrong in
            ["", "aaaaaaaaaaaaaaa", "aaaaaaaaaaaaaaaaa", "AAAAAAAAAAAAAAAA", "aaaaaaaaaaaaaaa1", "ääääääää"]
        {
            assert!(wrong.parse::<DeploymentId>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn zones_of_one_region_are_one_place() {
        let place = |provider, region| Spread::Regions.place_at(provider, region);
        assert_eq!(place("scaleway", "fr-par-1"), place("scaleway", "fr-par-2"));
        assert_ne!(place("scaleway", "fr-par-1"), place("scaleway", "nl-ams-1"));
        assert_ne!(
            place("aws", "us-east-1"),
            place("aws", "us-east-2"),
            "there the name is that of a region"
        );
        assert_ne!(place("sim", "local"), place("sim", "local-2"));
    }

    #[test]
    fn what_is_wanted_survives_its_name() {
        for wanted in [Wanted::Running, Wanted::Stopped, Wanted::Gone] {
            assert_eq!(wanted.label().parse(), Ok(wanted));
        }
        assert!("paused".parse::<Wanted>().is_err());
    }
}
