//! What the lifecycle needs of durable storage.

use std::collections::BTreeMap;
use std::error::Error;

use blueprint_common_types::{ServiceKey, Timestamp, TokenHash, TokenId};
use futures_util::future::BoxFuture;

use crate::cost::alert::Held;
use crate::cost::{Limits, OverLimit, Span};
use crate::lifecycle::{Deployment, Record, Wanted};
use crate::scaling::Leaving;
use crate::{DeploymentId, InstanceKey};

/// Why records could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("could not {action}")]
pub struct RecordsError {
    /// What was attempted.
    pub action: &'static str,
    /// What the store said.
    pub source: Box<dyn Error + Send + Sync>,
}

/// Result of the store.
pub type RecordsResult<T> = Result<T, RecordsError>;

/// Why a deployment was not stored.
#[derive(Debug, thiserror::Error)]
pub enum CreateDeploymentError {
    /// The request key was used for something else.
    #[error("the request key was used already, for deployment {id}, which asked for: {asked}")]
    Mismatch {
        /// The deployment that has the key.
        id: DeploymentId,
        /// What that one asked for.
        asked: String,
    },
    /// A limit leaves no room for it.
    #[error(transparent)]
    OverLimit(#[from] OverLimit),
    /// An alert holds what would be ordered.
    #[error(transparent)]
    Held(#[from] Held),
    /// A deployment that is not being ended has the name.
    #[error("deployment {name} is there as {id}")]
    Named {
        /// The name.
        name: String,
        /// The deployment that has it.
        id: DeploymentId,
    },
    /// The store failed; nothing was changed.
    #[error(transparent)]
    Store(#[from] RecordsError),
}

/// What came of the intent to call for a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Begun {
    /// It is stored, and the cloud may be called.
    Stored,
    /// It is not wanted any more, or something else became of it since the call was decided on; nothing is stored.
    Unwanted,
    /// A limit leaves no room for it; nothing is stored.
    OverLimit(OverLimit),
    /// An alert holds it; nothing is stored.
    Held(Held),
}

/// Everything there is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Records {
    /// Deployments, also those that are gone, for as long as they are remembered.
    pub deployments: BTreeMap<DeploymentId, Deployment>,
    /// Their machines, also those that have ended.
    pub instances: BTreeMap<InstanceKey, Record>,
    /// When clouds were last looked at.
    pub scanned_at: Option<Timestamp>,
    /// Machines that get no new requests, because they are to go.
    pub leaving: Leaving,
}

/// The right of one machine to join, without its secret.
#[derive(Debug, Clone)]
pub struct BoundToken {
    /// Public half.
    pub id: TokenId,
    /// Hash of the secret half.
    pub hash: TokenHash,
    /// Which call for the machine it goes with.
    pub attempt: u32,
    /// From this time on it is refused.
    pub expires_at: Timestamp,
    /// The service that the machine may offer; `None` for none.
    pub service: Option<ServiceKey>,
}

/// One step in the life of a deployment or of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// When.
    pub at: Timestamp,
    /// Whose.
    pub deployment: DeploymentId,
    /// Which machine; `None` where it is about all of it.
    pub instance: Option<InstanceKey>,
    /// The state that it came to.
    pub what: String,
    /// Why, one line.
    pub reason: String,
}

/// Durable state of deployments. What was answered survives a kill; every change has its event, and its audit row
/// where machines are made or deleted, in the same transaction.
pub trait LifecycleStore: Send + Sync {
    /// Everything there is.
    fn load_lifecycle(&self) -> BoxFuture<'_, RecordsResult<Records>>;

    /// Stores a deployment, or gives the one that has its request key already; true where it is new. One that is new has to
    /// keep `limits` together with all that is stored, and no alert may hold it; both are looked at in the same transaction.
    fn create_deployment(
        &self,
        deployment: Deployment,
        limits: Limits,
    ) -> BoxFuture<'_, Result<(Deployment, bool), CreateDeploymentError>>;

    /// Says what is wanted of a deployment; `None` where there is none of this id. One that is to be gone stays so.
    fn set_wanted(
        &self,
        id: DeploymentId,
        wanted: Wanted,
        why: String,
        now: Timestamp,
    ) -> BoxFuture<'_, RecordsResult<Option<Deployment>>>;

    /// Stores a machine, new or changed, all but its agent. Tokens of one that may not join any more become void.
    ///
    /// A machine that ended stays ended, and one that is being deleted goes on being so: of what comes later for it only
    /// the cloud's name of it is kept.
    fn save_instance(&self, record: Record) -> BoxFuture<'_, RecordsResult<()>>;

    /// Stores a machine as about to be called for, and the token that it will join with, where it is still wanted and
    /// `limits` leave room for it and no alert holds it.
    fn begin_call(
        &self,
        record: Record,
        token: BoundToken,
        limits: Limits,
    ) -> BoxFuture<'_, RecordsResult<Begun>>;

    /// Times for which machines were billed, those that ended before `since` left out. Kept for 400 days.
    fn spans(&self, since: Timestamp) -> BoxFuture<'_, RecordsResult<Vec<Span>>>;

    /// Writes an audit row about a machine that no record wants and that is about to be deleted.
    fn note_removal(
        &self,
        key: InstanceKey,
        detail: String,
        now: Timestamp,
    ) -> BoxFuture<'_, RecordsResult<()>>;

    /// Notes that clouds were looked at; forgets deployments that ended long before.
    fn note_scan(&self, now: Timestamp) -> BoxFuture<'_, RecordsResult<()>>;

    /// The newest events, oldest first, of one deployment or of all.
    fn lifecycle_events(
        &self,
        deployment: Option<DeploymentId>,
        limit: u32,
    ) -> BoxFuture<'_, RecordsResult<Vec<Event>>>;
}
