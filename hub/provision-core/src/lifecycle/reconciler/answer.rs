//! What the answer of a cloud means.

use std::time::Duration;

use blueprint_common_types::Timestamp;

use super::{Action, Reconciler, Why};
use crate::ErrorClass;
use crate::lifecycle::{Record, RecordState};

/// Longest pause before a machine that could not be ordered is tried again.
const LONGEST_HOLD: Duration = Duration::from_secs(300);

/// Pause before a machine that a limit left no room for is tried again.
const LIMIT_HOLD: Duration = Duration::from_secs(60);

/// How the call to make a machine ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CreateAnswer {
    /// It stands, and its cloud calls it this.
    Made(String),
    /// Nothing was called: a limit leaves no room for it now.
    Held {
        /// Which limit, and what of it is used.
        reason: String,
    },
    /// The call failed.
    Failed {
        /// What that means.
        class: ErrorClass,
        /// What the cloud said, one line without secrets.
        reason: String,
    },
}

impl Reconciler {
    /// A call to make a machine ended; `record` is as it was stored before. Gives what is to be stored, if anything.
    pub fn handle_create(
        &mut self,
        record: &Record,
        answer: &CreateAnswer,
        now: Timestamp,
    ) -> Option<Action> {
        let (class, reason) = match answer {
            CreateAnswer::Made(provider_id) => {
                self.limited.remove(&record.key);
                let mut record = record.turned(RecordState::Created, "", now);
                record.provider_id = Some(provider_id.clone());
                record.made_at = record.made_at.or(record.called_at);
                return Some(Action::Save { record, why: Why::Answered });
            }
            CreateAnswer::Held { reason } => return Some(self.hold(record, reason, now)),
            CreateAnswer::Failed { class, reason } => (*class, reason),
        };
        let is_last = record.attempt >= self.settings.attempts;
        let state = match class {
            // It stays as it is: the next list shows what became of it.
            ErrorClass::Unknown => return None,
            ErrorClass::Throttle | ErrorClass::Again if !is_last => {
                let doubled = 1u32.checked_shl(record.attempt).unwrap_or(u32::MAX);
                let hold = Duration::from_secs(1).saturating_mul(doubled).min(LONGEST_HOLD);
                self.limited.remove(&record.key);
                self.held.insert(record.key.clone(), now.plus(hold));
                RecordState::Planned
            }
            ErrorClass::Throttle
            | ErrorClass::Again
            | ErrorClass::Deny
            | ErrorClass::Reject
            | ErrorClass::Quota
            | ErrorClass::NoQuota
            | ErrorClass::Capacity
            | ErrorClass::NotSold => {
                let renewed = self.renewed.get(&record.candidate.provider).copied();
                let is_of_others =
                    class == ErrorClass::Deny && renewed.is_some() && record.called_at <= renewed;
                if !is_of_others {
                    self.blocks.handle_failure(&record.candidate, class, now);
                }
                self.forget(&record.key);
                RecordState::Failed
            }
        };
        Some(Action::Save { record: record.turned(state, reason, now), why: Why::Answered })
    }

    /// A machine that was not called for stays planned, and is tried again.
    fn hold(&mut self, record: &Record, reason: &str, now: Timestamp) -> Action {
        self.held.insert(record.key.clone(), now.plus(LIMIT_HOLD));
        self.limited.insert(record.key.clone(), reason.to_owned());
        let attempt = record.attempt.saturating_sub(1);
        let called_at = record.called_at.filter(|_| attempt > 0);
        let record = Record { attempt, called_at, ..record.turned(RecordState::Planned, reason, now) };
        Action::Save { record, why: Why::Limit }
    }

    /// A cloud was asked to delete a machine and did not refuse: it is not asked again for some time. `record` is as it
    /// was stored before, where the machine has one that is to go. Gives what is to be stored, if anything.
    pub fn handle_delete(
        &mut self,
        provider: &str,
        provider_id: &str,
        record: Option<&Record>,
        now: Timestamp,
    ) -> Option<Action> {
        self.deleted.insert((provider.to_owned(), provider_id.to_owned()), now);
        let record = record.filter(|record| {
            let is_own = record.provider_id.as_deref().is_none_or(|own| own == provider_id);
            is_own && record.state == RecordState::Deleting && record.deleted_at.is_none()
        })?;
        // Only lists that come after it tell that it is gone.
        self.unlisted.remove(&record.key);
        let record = Record { deleted_at: Some(now), ..record.clone() };
        Some(Action::Save { record, why: Why::Deleted })
    }
}
