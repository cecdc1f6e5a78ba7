//! The right to use an account of a cloud: what is stored of it, and what a look at the account finds.

use blueprint_common_types::{HubId, Timestamp};
use futures_util::future::{BoxFuture, FutureExt, ready};

use crate::ProviderError;
use crate::lifecycle::RecordsResult;

/// Credentials of one provider as they are stored: sealed by the caller, so that a store gives none of them away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialRecord {
    /// Name of the provider.
    pub provider: String,
    /// The fields, sealed for this provider alone.
    pub sealed: String,
    /// What tells people which ones these are, such as the last four characters; no secret.
    pub shown: String,
    /// When they were stored.
    pub changed_at: Timestamp,
    /// Who stored them: by which way the request came in.
    pub changed_by: String,
}

/// Durable credentials. What is acknowledged is on the disk, together with its audit row.
pub trait CredentialStore: Send + Sync {
    /// Those of all providers, by name.
    fn credentials(&self) -> BoxFuture<'_, RecordsResult<Vec<CredentialRecord>>>;

    /// Stores credentials in place of those of before; `summary` goes to the audit log.
    fn set_credentials(&self, record: CredentialRecord, summary: String) -> BoxFuture<'_, RecordsResult<()>>;

    /// Forgets the credentials of a provider; false where there are none. `by` goes to the audit log.
    fn forget_credentials(
        &self,
        provider: String,
        by: String,
        now: Timestamp,
    ) -> BoxFuture<'_, RecordsResult<bool>>;
}

/// What a look at an account found. Nothing in it is secret.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AccountReport {
    /// The account, by the cloud's name or number of it; empty where the credentials may not ask.
    pub account: String,
    /// Who calls, in the cloud's words; empty where the credentials may not ask.
    pub identity: String,
    /// The rights that the hub needs, and whether they are there.
    pub rights: Vec<Right>,
    /// The regions that are configured, and whether the account has them; `None` where the cloud did not tell.
    pub regions: Vec<(String, Option<bool>)>,
    /// Quotas that the cloud told: of what, and how many.
    pub quotas: Vec<(String, u64)>,
    /// What does not work and what to do about it, a line each; none where all does.
    pub problems: Vec<String>,
    /// What a person should know, and need not act on.
    pub notes: Vec<String>,
}

/// One right that the hub needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Right {
    /// The cloud's name of it.
    pub name: String,
    /// Whether it is there.
    pub state: RightState,
}

/// Whether a right is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RightState {
    /// The cloud let a call of it pass.
    Held,
    /// The cloud refused a call for want of it.
    Missing,
    /// It cannot be tried without making something, or another failure came first.
    Untried,
}

impl RightState {
    /// Stable name.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Missing => "missing",
            Self::Untried => "untried",
        }
    }
}

/// What became of the things that a hub made for itself beside machines.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tidied {
    /// What was deleted, each by its kind and the cloud's name of it.
    pub removed: Vec<String>,
    /// What was left, and why, a line each.
    pub kept: Vec<String>,
}

/// A provider whose account can be looked at.
pub trait Account: Send + Sync {
    /// Asks who the credentials belong to and what they allow. Makes no machine, and nothing that costs money.
    ///
    /// # Errors
    ///
    /// [`ProviderError::Deny`] where the cloud does not know the credentials or there are none; else as the cloud answers.
    fn look(&self, hub: HubId) -> BoxFuture<'_, Result<AccountReport, ProviderError>>;

    /// Deletes what this hub made for itself beside machines, such as the firewall that they stand behind, and notes each in
    /// `tidied` at once. The next order makes it again. Nothing where a cloud has no such things.
    ///
    /// # Errors
    ///
    /// [`ProviderError::Reject`] where machines stand that it is for; else as the cloud answers. What was deleted by then is
    /// noted, and the next call goes on.
    fn tidy<'a>(&'a self, hub: HubId, tidied: &'a mut Tidied) -> BoxFuture<'a, Result<(), ProviderError>> {
        let _ = (hub, tidied);
        ready(Ok(())).boxed()
    }
}

impl AccountReport {
    /// Notes what became of a call that needs the right `name`. A right that is missing once is missing.
    pub fn note_right(&mut self, name: &str, state: RightState) {
        match self.rights.iter_mut().find(|right| right.name == name) {
            Some(right) => match (right.state, state) {
                (RightState::Missing, _) | (RightState::Held, RightState::Untried) => {}
                (RightState::Held | RightState::Untried, state) => right.state = state,
            },
            None => self.rights.push(Right { name: name.to_owned(), state }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_right_that_is_missing_once_is_missing() {
        use RightState::{Held, Missing, Untried};
        for (states, end) in [
            (vec![Untried, Held], Held),
            (vec![Held, Untried], Held),
            (vec![Held, Missing, Held], Missing),
            (vec![Untried], Untried),
        ] {
            let mut report = AccountReport::default();
            for state in states {
                report.note_right("x", state);
            }
            assert_eq!(report.rights, [Right { name: "x".to_owned(), state: end }]);
        }
    }
}
