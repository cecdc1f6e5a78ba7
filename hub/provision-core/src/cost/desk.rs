//! What alerts and the meter need of durable storage, and what the operator's side asks of them.

use std::collections::{BTreeMap, BTreeSet};

use blueprint_common_types::{Secret, Timestamp};
use futures_util::future::BoxFuture;

use super::alert::{Alert, AlertEvent, AlertTerms, Delivery, Finding, Hook, MAX_ALERTS, Mark, Standing};
use super::egress::Egress;
use super::limits::Limits;
use crate::catalogue::Day;
use crate::lifecycle::{RecordsError, RecordsResult};
use crate::{DeploymentId, InstanceKey};

/// Why an alert was not stored.
#[derive(Debug, thiserror::Error)]
pub enum SetAlertError {
    /// There are as many as there may be.
    #[error("there are {MAX_ALERTS} alerts, as many as there may be")]
    TooMany,
    /// The store failed; nothing was changed.
    #[error(transparent)]
    Store(#[from] RecordsError),
}

/// Messages to webhooks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Deliveries {
    /// Those that are to be tried now, the oldest first.
    pub due: Vec<(AlertEvent, Hook)>,
    /// When the next of the others is; `None` where there is none.
    pub next: Option<Timestamp>,
    /// How many wait, those that are due included.
    pub waiting: u32,
}

/// What was told of alerts, by their names.
pub type Told = BTreeMap<String, BTreeSet<Mark>>;

/// Durable state of alerts and of what machines sent. What was answered survives a kill; every change of an alert and
/// everything that is told has its audit row in the same transaction.
pub trait CostStore: Send + Sync {
    /// Every alert, by name.
    fn alerts(&self) -> BoxFuture<'_, RecordsResult<Vec<Alert>>>;

    /// Makes an alert, or changes the one of this name. Another scope, period or amount makes it another edition.
    fn set_alert(
        &self,
        name: String,
        terms: AlertTerms,
        now: Timestamp,
    ) -> BoxFuture<'_, Result<Alert, SetAlertError>>;

    /// Forgets an alert, and drops its messages that wait; false where there is none.
    fn remove_alert(&self, name: String, now: Timestamp) -> BoxFuture<'_, RecordsResult<bool>>;

    /// Calls the action of an alert off for one period; false where there is none.
    fn release_alert(
        &self,
        name: String,
        period: String,
        now: Timestamp,
    ) -> BoxFuture<'_, RecordsResult<bool>>;

    /// What was told of each alert in its present edition, by its name; what is older than any period that is under way at
    /// `now` is left out.
    fn told(&self, now: Timestamp) -> BoxFuture<'_, RecordsResult<Told>>;

    /// Stores what is to be told of an alert, as far as it was not told in this edition; gives what is new. Nothing is
    /// where the alert is gone or another edition of it is there.
    fn fire(
        &self,
        name: String,
        edition: u64,
        findings: Vec<Finding>,
        now: Timestamp,
    ) -> BoxFuture<'_, RecordsResult<Vec<AlertEvent>>>;

    /// Ends those of `deployments` that are not gone by an alert, all or none, where it is still of this edition, ends
    /// deployments, and is in force by the meter; gives which ended. What was acknowledged before is looked at in the same
    /// transaction.
    fn end_by_alert(
        &self,
        name: String,
        edition: u64,
        deployments: Vec<DeploymentId>,
        limits: Limits,
        now: Timestamp,
    ) -> BoxFuture<'_, RecordsResult<Vec<DeploymentId>>>;

    /// The newest events, oldest first, of one alert or of all. Kept for 400 days.
    fn alert_events(&self, name: Option<String>, limit: u32)
    -> BoxFuture<'_, RecordsResult<Vec<AlertEvent>>>;

    /// Messages that wait, at most `limit` of those that are due.
    fn deliveries(&self, now: Timestamp, limit: u32) -> BoxFuture<'_, RecordsResult<Deliveries>>;

    /// Notes how it stands with the message of an event.
    fn note_delivery(&self, id: u64, delivery: Delivery) -> BoxFuture<'_, RecordsResult<()>>;

    /// Adds bytes that machines sent on a day; those of machines that no record has are left out.
    fn add_egress(&self, bytes: BTreeMap<InstanceKey, u64>, day: Day) -> BoxFuture<'_, RecordsResult<()>>;

    /// What machines sent from a day on. Kept for 400 days.
    fn egress(&self, since: Day) -> BoxFuture<'_, RecordsResult<Vec<Egress>>>;
}

/// Why the desk did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum CostDeskError {
    /// There is no such alert.
    #[error("there is no alert called {0:?}")]
    Unknown(String),
    /// An alert was not stored, since there are as many as there may be.
    #[error("there are {MAX_ALERTS} alerts, as many as there may be")]
    TooMany,
    /// It would end deployments at once, and nobody said that this is meant.
    #[error("${spent} of ${amount} is spent already ({period}): deployments would be ended for good at once")]
    WouldEnd {
        /// What was spent.
        spent: String,
        /// What may be.
        amount: String,
        /// In which period.
        period: String,
    },
    /// Messages cannot go there.
    #[error("no message can go to that webhook: {0}")]
    Webhook(String),
    /// There is nothing to call off.
    #[error(
        "alert {name} holds nothing: ${spent} of ${amount} is spent ({period}), and its action is {action}"
    )]
    NotHeld {
        /// Which alert.
        name: String,
        /// What was spent.
        spent: String,
        /// What may be.
        amount: String,
        /// In which period.
        period: String,
        /// What it does once that is spent.
        action: &'static str,
    },
    /// Too many messages wait already.
    #[error("{0} messages to webhooks wait already")]
    Crowded(u32),
    /// The system has no source of randomness.
    #[error("{0}")]
    Unavailable(&'static str),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] RecordsError),
}

/// An alert that was stored, and the key of its webhook where that is a new one.
pub type Set = (Alert, Option<Secret<String>>);

/// Alerts and measured egress, as the operator's side sees them.
pub trait CostDesk: Send + Sync {
    /// Every alert by name, and how it stands.
    fn alerts(&self) -> BoxFuture<'_, Result<Vec<(Alert, Standing)>, CostDeskError>>;

    /// Makes an alert, or changes the one of this name; `terms` has the webhook that stays, the URL of another one comes apart. Gives the key that
    /// its messages are signed with where that is a new one: there was no webhook, or another. One that would end deployments at
    /// once is refused unless `is_sure`.
    fn set_alert(
        &self,
        name: String,
        terms: AlertTerms,
        webhook: Option<Secret<String>>,
        is_sure: bool,
    ) -> BoxFuture<'_, Result<Set, CostDeskError>>;

    /// Forgets an alert.
    fn remove_alert(&self, name: String) -> BoxFuture<'_, Result<(), CostDeskError>>;

    /// Calls the action of an alert off until its next period; gives which period that was.
    fn release_alert(&self, name: String) -> BoxFuture<'_, Result<String, CostDeskError>>;

    /// Has an alert tell that it is tried.
    fn test_alert(&self, name: String) -> BoxFuture<'_, Result<AlertEvent, CostDeskError>>;

    /// The newest events, oldest first, of one alert or of all.
    fn alert_events(
        &self,
        name: Option<String>,
        limit: u32,
    ) -> BoxFuture<'_, Result<Vec<AlertEvent>, CostDeskError>>;

    /// What machines sent from the beginning of the month of `since` on.
    fn egress(&self, since: Timestamp) -> BoxFuture<'_, Result<Vec<Egress>, CostDeskError>>;
}
