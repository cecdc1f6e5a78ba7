//! What goes into and comes out of the registry.

use blueprint_common_types::{AgentId, Health, ServiceKey, TargetKey};

use crate::TargetRecord;

/// A target as an agent offers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OfferedTarget {
    /// The service.
    pub service: ServiceKey,
    /// TCP port on the agent's overlay address.
    pub port: u16,
    /// Result of the agent's own check.
    pub health: Health,
    /// Why it is not healthy; shortened to one line.
    pub reason: String,
    /// Assignment of the workload that offers it; 0 where none does.
    pub generation: u64,
}

/// Why an agent may not offer a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum RefusedTarget {
    /// The agent is not joined (any more).
    #[error("the agent is not known")]
    UnknownAgent,
    /// Its join token names other services.
    #[error("the agent's join token does not cover this service")]
    NotGranted,
    /// The service belongs to another agent.
    #[error("the service is claimed by another agent")]
    Claimed,
    /// The hub is to run the service on a node, and has none for it yet.
    #[error("the hub runs this service on a node of its choice and has none for it yet")]
    Unplaced,
    /// Port 0.
    #[error("0 is not a port")]
    Port,
    /// More targets or services than one agent may have.
    #[error("an agent has at most 64 targets and claims at most 64 services")]
    TooMany,
}

impl RefusedTarget {
    /// Stable code for audit rows and metric labels.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::UnknownAgent => "unknown_agent",
            Self::NotGranted => "not_granted",
            Self::Claimed => "claimed",
            Self::Unplaced => "unplaced",
            Self::Port => "port",
            Self::TooMany => "too_many",
        }
    }
}

/// One numbered step of the registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Number of the change, from 1, without gaps within one start of the hub.
    pub index: u64,
    /// What changed.
    pub body: ChangeBody,
}

/// What one step changed; enough to store it and to tell watchers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChangeBody {
    /// A target is new, or its health, its reason or its weight is.
    Upsert(TargetRecord),
    /// A target is gone; this is how it was last.
    Remove(TargetRecord),
    /// An agent was the first to offer a service. Not for watchers.
    Claim {
        /// The service.
        service: ServiceKey,
        /// Whose it is now.
        agent: AgentId,
    },
    /// A service is free again. Not for watchers.
    Unclaim {
        /// The service.
        service: ServiceKey,
        /// Whose it was.
        agent: AgentId,
    },
}

/// Result of a new target set.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Outcome {
    /// What changed, to be stored and told to watchers.
    pub changes: Vec<Change>,
    /// What the agent may not offer; at most 64 are listed.
    pub refused: Vec<(TargetKey, RefusedTarget)>,
}
