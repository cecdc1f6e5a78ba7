//! What scaling needs of durable storage, and what the operator's side asks.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use blueprint_common_types::{ServiceKey, Timestamp};
use futures_util::future::BoxFuture;

use super::{Phase, Scaling, Sight, Terms, TermsError};
use crate::cost::alert::Held;
use crate::cost::{Limits, OverLimit};
use crate::lifecycle::{RecordsError, RecordsResult};
use crate::{DeploymentId, InstanceKey};

/// Rows of history that are kept of one service; the oldest go first.
pub const MAX_SCALE_EVENTS: u32 = 1000;

/// A machine that gets no new requests, because it is to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DrainMark {
    /// Since when.
    pub since: Timestamp,
    /// Whether it may be deleted by now.
    pub is_released: bool,
    /// Whether it was released since its agent stayed away, and not since there was one too many.
    pub is_given_up: bool,
}

/// One thing that was done about the replicas of a service, or could not be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScaleEvent {
    /// When.
    pub at: Timestamp,
    /// Which service.
    pub service: ServiceKey,
    /// One word: `set`, `grow`, `drain`, `keep`, `shrink`, `replace`, `phase`, `held`, `remove`.
    pub what: String,
    /// Replicas wanted from then on.
    pub replicas: u32,
    /// Why, one line.
    pub reason: String,
}

/// Why a deployment does not get another number of replicas.
#[derive(Debug, thiserror::Error)]
pub enum ResizeError {
    /// A limit leaves no room for it; nothing was changed.
    #[error(transparent)]
    OverLimit(#[from] OverLimit),
    /// An alert holds what would be ordered; nothing was changed.
    #[error(transparent)]
    Held(#[from] Held),
    /// The store failed; nothing was changed.
    #[error(transparent)]
    Store(#[from] RecordsError),
}

/// Durable state of scaling. What was answered survives a kill; every change comes with its event and its audit row, in the
/// same transaction.
///
/// A step was decided by what was read before. Each is given that, and is false and changes nothing where what is stored is
/// another by then: what the operator said in between counts, and the next look decides by it.
pub trait ScaleStore: Send + Sync {
    /// What is agreed about every service that has terms.
    fn scalings(&self) -> BoxFuture<'_, RecordsResult<Vec<Scaling>>>;

    /// Stores the terms of a service, and which deployment its replicas are; the phase of one that has terms already stays.
    /// `None`, and nothing is changed, where they are not those of `before` any more, or it ended since.
    fn set_scaling(
        &self,
        service: ServiceKey,
        deployment: DeploymentId,
        terms: Terms,
        before: Option<Scaling>,
        now: Timestamp,
    ) -> BoxFuture<'_, RecordsResult<Option<Scaling>>>;

    /// Forgets the terms of a service; its machines stay as they are, and those that drain get requests again. What the hub runs of
    /// it goes on on one of them, and drains on the others. False where it has none.
    fn remove_scaling(&self, service: ServiceKey, now: Timestamp) -> BoxFuture<'_, RecordsResult<bool>>;

    /// Notes how it stands with the payment of a service.
    fn set_phase(
        &self,
        scaling: Scaling,
        phase: Phase,
        reason: String,
        now: Timestamp,
    ) -> BoxFuture<'_, RecordsResult<bool>>;

    /// Ends a service that was not paid for: its deployment is to be gone, and it is noted as ended.
    fn end(&self, scaling: Scaling, reason: String, now: Timestamp) -> BoxFuture<'_, RecordsResult<bool>>;

    /// Has a deployment want `to` machines, and releases those of `released`, which are deleted then. What is more than
    /// before has to keep `limits`, and no alert may hold it; both are looked at in the same transaction.
    fn resize(
        &self,
        scaling: Scaling,
        to: u32,
        released: BTreeSet<InstanceKey>,
        reason: String,
        limits: Limits,
        now: Timestamp,
    ) -> BoxFuture<'_, Result<bool, ResizeError>>;

    /// Releases a machine that joined, which is deleted then; as many are wanted as before, so another one takes its place.
    /// False, too, where it is not one of those that are wanted. The other one has to keep `limits` in its place, and no alert
    /// may hold it; both are looked at in the same transaction.
    fn replace(
        &self,
        scaling: Scaling,
        key: InstanceKey,
        reason: String,
        limits: Limits,
        now: Timestamp,
    ) -> BoxFuture<'_, Result<bool, ResizeError>>;

    /// Machines that leave get no new requests from then on, and those that `stay` do again.
    fn mark_leaving(
        &self,
        scaling: Scaling,
        leave: BTreeSet<InstanceKey>,
        stay: BTreeSet<InstanceKey>,
        reason: String,
        now: Timestamp,
    ) -> BoxFuture<'_, RecordsResult<bool>>;

    /// Notes what could not be done.
    fn note_held(
        &self,
        service: ServiceKey,
        reason: String,
        now: Timestamp,
    ) -> BoxFuture<'_, RecordsResult<()>>;

    /// The newest events of a service, oldest first.
    fn scale_events(&self, service: ServiceKey, limit: u32) -> BoxFuture<'_, RecordsResult<Vec<ScaleEvent>>>;
}

/// A service's terms and how it stands with them.
#[derive(Debug, Clone, PartialEq)]
pub struct ScaleView {
    /// What is agreed.
    pub scaling: Scaling,
    /// What was seen of it last; `None` before the first look.
    pub sight: Option<Sight>,
    /// Why it has as many replicas as it has, one line.
    pub why: String,
}

/// Why the operator's side does not get what it asks for.
#[derive(Debug, thiserror::Error)]
pub enum ScaleDeskError {
    /// No deployment of this service is to run.
    #[error("no deployment offers the service {0}")]
    NoDeployment(ServiceKey),
    /// It is not clear which deployment is meant.
    #[error("{count} deployments offer the service {service}")]
    ManyDeployments {
        /// The service.
        service: ServiceKey,
        /// How many.
        count: usize,
    },
    /// The service has no terms.
    #[error("the service {0} has no tier")]
    NoTerms(ServiceKey),
    /// The terms make no sense.
    #[error(transparent)]
    Terms(#[from] TermsError),
    /// It is paid for no more, and its deployment was ended.
    #[error("the deployment {0} was ended, since the service was not paid for")]
    Ended(DeploymentId),
    /// It ended, and the time that it was paid for is over.
    #[error("the service {service} ended, and the time that it was paid for was over at {paid_until}")]
    Unpaid {
        /// The service.
        service: ServiceKey,
        /// When that was.
        paid_until: Timestamp,
    },
    /// Somebody else set the terms at the same time; nothing was changed.
    #[error("the tier of the service {0} was changed by somebody else at the same time")]
    Changed(ServiceKey),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] RecordsError),
}

/// Scaling, as the operator's side sees it.
pub trait ScaleDesk: Send + Sync {
    /// Every service that has terms.
    fn list(&self) -> BoxFuture<'_, Result<Vec<ScaleView>, ScaleDeskError>>;

    /// Percent of its processors that a replica is to use at the most, where a service says nothing else.
    fn target_cpu(&self) -> u32;

    /// How long what is open at a replica may last once it gets no new requests.
    fn drain(&self) -> Duration;

    /// Whether terms keep what this hub and their tier allow, and do not bring back a time that is over; `before` is what the
    /// service had.
    ///
    /// # Errors
    ///
    /// [`ScaleDeskError::Terms`] or [`ScaleDeskError::Unpaid`].
    fn check(
        &self,
        service: ServiceKey,
        terms: &Terms,
        before: Option<&Scaling>,
    ) -> Result<(), ScaleDeskError>;

    /// Sets the terms of a service that one deployment offers, where it still has those of `before`.
    fn set(
        &self,
        service: ServiceKey,
        terms: Terms,
        before: Option<Scaling>,
    ) -> BoxFuture<'_, Result<ScaleView, ScaleDeskError>>;

    /// Forgets the terms of a service; its machines stay as they are. What the hub runs of it goes on on one of them, and drains on the
    /// others.
    fn remove(&self, service: ServiceKey) -> BoxFuture<'_, Result<(), ScaleDeskError>>;

    /// The newest events of a service, oldest first.
    fn history(
        &self,
        service: ServiceKey,
        limit: u32,
    ) -> BoxFuture<'_, Result<Vec<ScaleEvent>, ScaleDeskError>>;
}

/// Which machines leave.
pub type Leaving = BTreeMap<InstanceKey, DrainMark>;
