//! What a customer pays for.

use std::fmt;
use std::str::FromStr;

/// A text is no tier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not basic, standard or premium")]
pub struct ParseTierError(String);

/// A payment tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// One replica that stays one.
    Basic,
    /// Two, and up to five under load.
    Standard,
    /// Three, up to twenty under load, with a GPU each.
    Premium,
}

/// What a tier gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TierTerms {
    /// Replicas at the least, and to begin with.
    pub replicas: u32,
    /// Replicas at the most.
    pub max_replicas: u32,
    /// Thousandths of a processor for each replica.
    pub cpu_millis: u32,
    /// Memory for each replica.
    pub memory_bytes: u64,
    /// GPUs for each replica.
    pub gpus: u16,
    /// Whether the number of replicas follows the load.
    pub autoscale: bool,
}

impl Tier {
    /// Every tier, the smallest first.
    pub const ALL: [Self; 3] = [Self::Basic, Self::Standard, Self::Premium];

    /// Stable name.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Basic => "basic",
            Self::Standard => "standard",
            Self::Premium => "premium",
        }
    }

    /// What it gives.
    #[must_use]
    pub const fn terms(self) -> TierTerms {
        const MIB: u64 = 1 << 20;
        match self {
            Self::Basic => TierTerms {
                replicas: 1,
                max_replicas: 1,
                cpu_millis: 100,
                memory_bytes: 128 * MIB,
                gpus: 0,
                autoscale: false,
            },
            Self::Standard => TierTerms {
                replicas: 2,
                max_replicas: 5,
                cpu_millis: 500,
                memory_bytes: 512 * MIB,
                gpus: 0,
                autoscale: true,
            },
            Self::Premium => TierTerms {
                replicas: 3,
                max_replicas: 20,
                cpu_millis: 2000,
                memory_bytes: 4096 * MIB,
                gpus: 1,
                autoscale: true,
            },
        }
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.label())
    }
}

impl FromStr for Tier {
    type Err = ParseTierError;

    fn from_str(text: &str) -> Result<Self, ParseTierError> {
        let found = Self::ALL.into_iter().find(|tier| tier.label() == text);
        found.ok_or_else(|| ParseTierError(text.chars().take(32).collect()))
    }
}
