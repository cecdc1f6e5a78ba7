//! What the hub remembers of a machine that it ordered, or is about to.

use std::fmt;
use std::str::FromStr;

use blueprint_common_types::{AgentId, Timestamp};

use crate::{Candidate, DeploymentId, InstanceKey};

/// A text is not the state of a record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not the state of a machine")]
pub struct ParseRecordStateError(String);

/// Where a machine is in its life; the module's diagram shows the ways between.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RecordState {
    /// Wanted; its cloud was not called, or said that nothing was done.
    Planned,
    /// Its cloud is being called, or was and the answer is not known.
    Calling,
    /// Its cloud made it; its agent did not join yet.
    Created,
    /// Its agent joined.
    Active,
    /// It is to go; its cloud still has it, or may.
    Deleting,
    /// Its cloud confirmed twice that it is gone.
    Gone,
    /// It vanished by itself: its cloud listed without it twice.
    Lost,
    /// Its cloud refused to make it.
    Failed,
}

impl RecordState {
    /// Every state.
    pub const ALL: [Self; 8] = [
        Self::Planned,
        Self::Calling,
        Self::Created,
        Self::Active,
        Self::Deleting,
        Self::Gone,
        Self::Lost,
        Self::Failed,
    ];

    /// Stable name, as it is stored and shown.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Planned => "planned",
            Self::Calling => "calling",
            Self::Created => "created",
            Self::Active => "active",
            Self::Deleting => "deleting",
            Self::Gone => "gone",
            Self::Lost => "lost",
            Self::Failed => "failed",
        }
    }

    /// True where it is one of the machines that its deployment wants.
    #[must_use]
    pub const fn is_live(self) -> bool {
        match self {
            Self::Planned | Self::Calling | Self::Created | Self::Active => true,
            Self::Deleting | Self::Gone | Self::Lost | Self::Failed => false,
        }
    }

    /// True where nothing comes after it.
    #[must_use]
    pub const fn is_ended(self) -> bool {
        match self {
            Self::Gone | Self::Lost | Self::Failed => true,
            Self::Planned | Self::Calling | Self::Created | Self::Active | Self::Deleting => false,
        }
    }

    /// True where a machine with its token may join.
    #[must_use]
    pub const fn may_join(self) -> bool {
        match self {
            Self::Calling | Self::Created => true,
            Self::Planned | Self::Active | Self::Deleting | Self::Gone | Self::Lost | Self::Failed => false,
        }
    }
}

impl fmt::Display for RecordState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.label())
    }
}

impl FromStr for RecordState {
    type Err = ParseRecordStateError;

    fn from_str(text: &str) -> Result<Self, ParseRecordStateError> {
        Self::ALL
            .into_iter()
            .find(|state| state.label() == text)
            .ok_or_else(|| ParseRecordStateError(text.chars().take(64).collect()))
    }
}

/// One machine of a deployment: first the intent, then what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Names it here, at its cloud, and in the overlay.
    pub key: InstanceKey,
    /// Whose it is.
    pub deployment: DeploymentId,
    /// Its number in the deployment, from 1; never given twice.
    pub number: u32,
    /// What is ordered.
    pub candidate: Candidate,
    /// Where it is in its life.
    pub state: RecordState,
    /// How often its cloud was asked to make it.
    pub attempt: u32,
    /// When it was planned.
    pub created_at: Timestamp,
    /// Since when it has this state.
    pub since: Timestamp,
    /// When its cloud was last asked to make it.
    pub called_at: Option<Timestamp>,
    /// When its cloud made it, as far as is known: from then on it is billed.
    pub made_at: Option<Timestamp>,
    /// Whether its cloud listed it last as switched off, or as ended by itself.
    pub is_off: bool,
    /// When that was last seen to change; `None` where it never did.
    pub switched_at: Option<Timestamp>,
    /// When its cloud accepted that it be deleted.
    pub deleted_at: Option<Timestamp>,
    /// What its cloud calls it, once that is known.
    pub provider_id: Option<String>,
    /// The agent that joined with its token, or by its cloud's word; written by the join alone.
    pub agent: Option<AgentId>,
    /// Whose token that was: of which attempt; 0 while nobody joined, and where it joined by its cloud's word, which
    /// named the machine of `provider_id`. Written by the join alone.
    pub agent_attempt: u32,
    /// Why it is not on the straight way to `active`, one line; empty where it is.
    pub reason: String,
}

impl Record {
    /// The same in another state.
    #[must_use]
    pub fn turned(&self, state: RecordState, reason: impl fmt::Display, now: Timestamp) -> Self {
        let reason: String = reason.to_string().chars().take(300).collect();
        Self { state, since: now, reason, ..self.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_survive_their_names_and_none_is_both_live_and_ended() {
        for state in RecordState::ALL {
            assert_eq!(state.label().parse(), Ok(state));
            assert!(!(state.is_live() && state.is_ended()), "{state}");
        }
        assert!("booting".parse::<RecordState>().is_err());
    }
}
