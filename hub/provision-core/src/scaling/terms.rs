//! What is agreed about the replicas of one service.

use std::fmt;
use std::str::FromStr;

use blueprint_common_types::{ServiceKey, Timestamp};

use super::Tier;
use crate::DeploymentId;

/// Most replicas of one service, whatever its tier.
pub const MAX_REPLICAS: u32 = 100;

/// Percent of its processors that a replica is to use at the most, where nothing else is said.
pub const DEFAULT_TARGET_CPU: u32 = 70;

/// Most requests a second that one replica can be said to take.
const MAX_RATE: u32 = 1_000_000;

/// What all services of this hub keep to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TermsLimits {
    /// Fewest replicas.
    pub min_replicas: u32,
    /// Most replicas.
    pub max_replicas: u32,
}

/// What the operator says of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// What is paid for.
    pub tier: Tier,
    /// Replicas at the least; at least 1.
    pub min: u32,
    /// Replicas at the most.
    pub max: u32,
    /// Percent of the tier's processors that a replica is to use at the most, 1 to 100.
    pub target_cpu: u32,
    /// Requests a second that a replica is to take at the most; `None` where the rate does not count.
    pub target_rate: Option<u32>,
    /// Paid until then; `None` for without end.
    pub paid_until: Option<Timestamp>,
}

/// What is wrong with terms.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TermsError {
    /// The tier allows fewer.
    #[error("max is {max}, and the tier {tier} allows at most {most}")]
    AboveTier {
        /// What was asked for.
        max: u32,
        /// The tier.
        tier: Tier,
        /// What it allows.
        most: u32,
    },
    /// This hub allows fewer, or more.
    #[error(
        "{field} is {value}, and this hub allows {least} to {most} (scaling.min_replicas, scaling.max_replicas)"
    )]
    OutsideHub {
        /// `min` or `max`.
        field: &'static str,
        /// What was asked for.
        value: u32,
        /// Fewest.
        least: u32,
        /// Most.
        most: u32,
    },
    /// The least is more than the most.
    #[error("min is {min}, more than max, which is {max}")]
    Crossed {
        /// The least.
        min: u32,
        /// The most.
        max: u32,
    },
    /// Not a percentage.
    #[error("target_cpu is {0}, and has to be from 1 to 100")]
    Cpu(u32),
    /// Not a rate.
    #[error("target_rate is {0}, and has to be from 1 to 1000000 requests a second")]
    Rate(u32),
}

impl Terms {
    /// What a tier gives, paid for without end.
    #[must_use]
    pub const fn of(tier: Tier) -> Self {
        let given = tier.terms();
        Self {
            tier,
            min: given.replicas,
            max: given.max_replicas,
            target_cpu: DEFAULT_TARGET_CPU,
            target_rate: None,
            paid_until: None,
        }
    }

    /// Checks them against the tier and what this hub allows.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong.
    pub fn check(&self, limits: &TermsLimits) -> Result<(), TermsError> {
        let most = self.tier.terms().max_replicas;
        if self.max > most {
            return Err(TermsError::AboveTier { max: self.max, tier: self.tier, most });
        }
        if self.min > self.max {
            return Err(TermsError::Crossed { min: self.min, max: self.max });
        }
        let (least, most) = (limits.min_replicas.max(1), limits.max_replicas.min(MAX_REPLICAS));
        for (field, value) in [("min", self.min), ("max", self.max)] {
            if !(least..=most).contains(&value) {
                return Err(TermsError::OutsideHub { field, value, least, most });
            }
        }
        if !(1..=100).contains(&self.target_cpu) {
            return Err(TermsError::Cpu(self.target_cpu));
        }
        match self.target_rate {
            Some(rate) if !(1..=MAX_RATE).contains(&rate) => Err(TermsError::Rate(rate)),
            Some(_) | None => Ok(()),
        }
    }

    /// Whether the number of replicas follows the load.
    #[must_use]
    pub const fn follows_load(&self) -> bool {
        self.tier.terms().autoscale && self.min < self.max
    }
}

/// A text is no phase.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no phase of a payment")]
pub struct ParsePhaseError(String);

/// How it stands with the payment; the module's diagram shows the ways between.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// It is paid for.
    Paid,
    /// It is not any more: no new requests, and those that are open end.
    Draining,
    /// It has no replica; all else is kept for a while.
    Zero,
    /// Its deployment was ended. For good.
    Ended,
}

impl Phase {
    /// Every phase.
    pub const ALL: [Self; 4] = [Self::Paid, Self::Draining, Self::Zero, Self::Ended];

    /// Stable name, as it is stored and shown.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Paid => "paid",
            Self::Draining => "draining",
            Self::Zero => "zero",
            Self::Ended => "ended",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.label())
    }
}

impl FromStr for Phase {
    type Err = ParsePhaseError;

    fn from_str(text: &str) -> Result<Self, ParsePhaseError> {
        let found = Self::ALL.into_iter().find(|phase| phase.label() == text);
        found.ok_or_else(|| ParsePhaseError(text.chars().take(32).collect()))
    }
}

/// The terms of a service as they are stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scaling {
    /// Which service.
    pub service: ServiceKey,
    /// The deployment whose machines are its replicas.
    pub deployment: DeploymentId,
    /// What was agreed.
    pub terms: Terms,
    /// How it stands with the payment.
    pub phase: Phase,
    /// Since when.
    pub phase_since: Timestamp,
    /// When the operator changed the terms last; later with each change, whatever the clock says.
    pub changed_at: Timestamp,
}
