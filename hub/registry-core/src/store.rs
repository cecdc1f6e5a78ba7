//! What the hub needs of durable storage.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use blueprint_common_types::{AgentId, ServiceKey, Timestamp, TokenHash, TokenId};
use futures_util::future::BoxFuture;

use crate::qos::PagePoint;
use crate::{
    AccessTokenRecord, Agent, ApiKeyRecord, AssertionRecord, AuditCheck, AuditEvent, AuditFilter, AuditRow,
    Change, CloudIdentity, IdentityRecord, JoinRefusal, JoinTokenRecord, PolicyRecord, ServiceRecord,
    TargetRecord,
};

/// Why the store could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Too many writes wait already; the same call may succeed in a moment.
    #[error("the store is busy: too many writes are waiting")]
    Busy,
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
    /// The disk is full; nothing was changed.
    #[error("no space is left for the store")]
    Full,
    /// A stored value is not what this version writes.
    #[error("the store holds a damaged value: {0}")]
    Damaged(String),
    /// Anything else, kept whole for the log.
    #[error("could not {action}")]
    Other {
        /// What was attempted.
        action: &'static str,
        /// What the database or the system said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Why a join did not happen.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// It was refused; an audit row says so.
    #[error(transparent)]
    Refused(#[from] JoinRefusal),
    /// The store failed; nothing was changed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why an agent got no fresh certificate.
#[derive(Debug, thiserror::Error)]
pub enum RenewError {
    /// No such agent; it was removed.
    #[error("no agent has this id; it was removed")]
    UnknownAgent,
    /// The certificate presented is older than the one before the newest: its state was copied.
    #[error(
        "certificate {presented} of the agent is outdated, the newest is {current}; its state was copied"
    )]
    Outdated {
        /// Generation of the certificate presented.
        presented: u32,
        /// Generation of the newest certificate.
        current: u32,
    },
    /// The store failed; nothing was changed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a policy was not stored.
#[derive(Debug, thiserror::Error)]
pub enum PolicyChangeError {
    /// Somebody else changed it first.
    #[error("the policy has version {current} by now")]
    Conflict {
        /// Version that is stored; 0 where none is.
        current: u64,
    },
    /// The store failed; nothing was changed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A policy that takes the place of the one stored.
#[derive(Debug, Clone)]
pub struct PolicyChange {
    /// What the operator wrote; checked by the caller.
    pub document: String,
    /// Version that it was made from, 0 for none; `None` where any may be replaced.
    pub replaces: Option<u64>,
    /// By which way the operator came.
    pub changed_by: String,
    /// What it holds, for the audit row.
    pub summary: String,
    /// The hub's time.
    pub now: Timestamp,
}

/// Why the settings of a service were not stored.
#[derive(Debug, thiserror::Error)]
pub enum ServiceChangeError {
    /// Somebody else changed them first.
    #[error("the settings have version {current} by now")]
    Conflict {
        /// Version that is stored; 0 where none is.
        current: u64,
    },
    /// The store failed; nothing was changed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why an API key was not stored.
#[derive(Debug, thiserror::Error)]
pub enum ApiKeyError {
    /// The owner has as many as it may have.
    #[error("the owner has {live} live keys of this service")]
    TooMany {
        /// How many.
        live: u32,
    },
    /// The store failed; nothing was changed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Live API keys that one owner may have of one service.
pub const MAX_KEYS_OF_OWNER: u32 = 256;

/// An API key that takes the place of another one of the same owner and service.
#[derive(Debug, Clone)]
pub struct ApiKeyRotation {
    /// Public part of the key that goes.
    pub replaces: String,
    /// When it goes: now, or later where both are to work for a while. It never lives longer than it would have.
    pub ends_at: Timestamp,
    /// The key that comes; its `created_at` is the hub's time.
    pub record: ApiKeyRecord,
}

/// Why an API key was not replaced.
#[derive(Debug, thiserror::Error)]
pub enum ApiKeyRotateError {
    /// The key that should go is unknown, over, revoked, or of another owner or service.
    #[error("no live key has this id")]
    NotLive,
    /// The owner has as many as it may have, without the one that goes.
    #[error("the owner has {live} other live keys of this service")]
    TooMany {
        /// How many.
        live: u32,
    },
    /// The store failed; nothing was changed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Settings that take the place of those stored for a service.
#[derive(Debug, Clone)]
pub struct ServiceChange {
    /// Which service.
    pub service: ServiceKey,
    /// The document, checked by the caller.
    pub document: String,
    /// Version that it was made from, 0 for none; `None` where any may be replaced.
    pub replaces: Option<u64>,
    /// Owners that were in the one before and are not in this one: their keys end with it.
    pub revoke_owners: Vec<String>,
    /// What changed, for the audit row.
    pub summary: String,
    /// The hub's time.
    pub now: Timestamp,
}

/// Everything that one accepted join changes, in one transaction.
#[derive(Debug, Clone)]
pub struct JoinCommit {
    /// Public half of the token presented.
    pub token_id: TokenId,
    /// Hash of the secret presented.
    pub token_hash: TokenHash,
    /// The identity that it joins with, in place of a token; id and hash are of no token then.
    pub identity: Option<CloudIdentity>,
    /// The agent to be; its `services` are replaced by the token's.
    pub agent: Agent,
    /// Serial number of its first certificate, at most 20 bytes.
    pub certificate_serial: Vec<u8>,
    /// End of that certificate.
    pub not_after: Timestamp,
    /// The hub's time.
    pub now: Timestamp,
}

/// What a hub finds when it starts.
#[derive(Debug, Clone, Default)]
pub struct Loaded {
    /// Every agent that is joined.
    pub agents: Vec<Agent>,
    /// Targets as they were last saved.
    pub targets: Vec<TargetRecord>,
    /// Who claimed which service first.
    pub claims: BTreeMap<ServiceKey, AgentId>,
    /// Index to go on from: larger than any a watcher of an earlier process can have seen.
    pub index: u64,
    /// Removed agents and the end of the last certificate that each of them may still hold.
    pub revoked: BTreeMap<AgentId, Timestamp>,
}

/// Result of a store operation that can only fail technically.
pub type StoreResult<T> = Result<T, StoreError>;

/// Durable hub state.
///
/// Contract, the same for every implementation:
/// - once a future gives `Ok`, what it did survives a kill and a loss of power;
/// - every method is one transaction, audit row included, and none waits for another store;
/// - a dropped future may or may not have taken effect, but never half;
/// - a full queue is [`StoreError::Busy`] at once, never an unbounded wait.
pub trait Store: Send + Sync {
    /// Reads everything the hub needs at its start.
    fn load(&self) -> BoxFuture<'_, StoreResult<Loaded>>;

    /// Counts one start of the hub and gives the new epoch, from 1.
    fn epoch_next(&self) -> BoxFuture<'_, StoreResult<u64>>;

    /// Consumes one use of the token and makes the agent and its certificate; gives the agent as
    /// stored, with the token's grant. A refusal leaves nothing but its audit row.
    fn join(&self, commit: JoinCommit) -> BoxFuture<'_, Result<Agent, JoinError>>;

    /// Records a fresh certificate and gives its generation, which is always `presented` plus one.
    ///
    /// The newest generation and the one before (whose answer may have been lost) are accepted.
    fn renew(
        &self,
        agent: AgentId,
        presented: u32,
        serial: Vec<u8>,
        not_after: Timestamp,
        now: Timestamp,
    ) -> BoxFuture<'_, Result<u32, RenewError>>;

    /// Forgets an agent, its certificates, targets and claims; false where there is none.
    fn remove_agent(&self, id: AgentId, now: Timestamp) -> BoxFuture<'_, StoreResult<bool>>;

    /// Makes the saved targets and claims follow `changes`, in order, and saves `index`.
    /// Changes of an agent that is gone are left out.
    fn save_changes<'a>(&'a self, changes: &'a [Change], index: u64) -> BoxFuture<'a, StoreResult<()>>;

    /// Saves a new join token.
    fn create_join_token(&self, record: JoinTokenRecord) -> BoxFuture<'_, StoreResult<()>>;

    /// Every join token, oldest first; tokens that ended more than 30 days ago may be left out.
    fn list_join_tokens(&self) -> BoxFuture<'_, StoreResult<Vec<JoinTokenRecord>>>;

    /// Forgets a join token; false where there is none.
    fn revoke_join_token(&self, id: TokenId, now: Timestamp) -> BoxFuture<'_, StoreResult<bool>>;

    /// Every machine that joined by its identity, oldest first; also those whose agents are gone.
    fn list_identities(&self) -> BoxFuture<'_, StoreResult<Vec<IdentityRecord>>>;

    /// Lets a machine join by its identity once more; false where it never did.
    fn forget_identity(
        &self,
        cloud: String,
        account: String,
        instance: String,
        now: Timestamp,
    ) -> BoxFuture<'_, StoreResult<bool>>;

    /// Saves a new access token.
    fn create_access_token(&self, record: AccessTokenRecord) -> BoxFuture<'_, StoreResult<()>>;

    /// Every access token, revoked ones included, oldest first.
    fn list_access_tokens(&self) -> BoxFuture<'_, StoreResult<Vec<AccessTokenRecord>>>;

    /// Marks an access token as revoked; false where there is none or it was revoked before.
    fn revoke_access_token(&self, id: TokenId, now: Timestamp) -> BoxFuture<'_, StoreResult<bool>>;

    /// The policy between machines; `None` where none was ever stored.
    fn policy(&self) -> BoxFuture<'_, StoreResult<Option<PolicyRecord>>>;

    /// Replaces the policy and gives it as stored, with the version that follows on the one before.
    fn change_policy(&self, change: PolicyChange) -> BoxFuture<'_, Result<PolicyRecord, PolicyChangeError>>;

    /// The settings of every service that has some.
    fn list_services(&self) -> BoxFuture<'_, StoreResult<Vec<ServiceRecord>>>;

    /// Replaces the settings of a service and gives them as stored; keys of owners that are gone are revoked
    /// with them.
    fn change_service(
        &self,
        change: ServiceChange,
    ) -> BoxFuture<'_, Result<ServiceRecord, ServiceChangeError>>;

    /// Saves an API key, unless its owner has `most` live ones of the service already.
    fn create_api_key(&self, record: ApiKeyRecord, most: u32) -> BoxFuture<'_, Result<(), ApiKeyError>>;

    /// Saves an API key in place of another one, which ends at once or a while later; its owner may have `most`
    /// live ones beside the one that goes.
    fn rotate_api_key(
        &self,
        rotation: ApiKeyRotation,
        most: u32,
    ) -> BoxFuture<'_, Result<(), ApiKeyRotateError>>;

    /// Every API key, oldest first; those that ended more than 30 days ago may be left out.
    fn list_api_keys(&self) -> BoxFuture<'_, StoreResult<Vec<ApiKeyRecord>>>;

    /// Marks an API key as revoked and gives its service; `None` where there is none or it was revoked before.
    fn revoke_api_key(&self, id: String, now: Timestamp) -> BoxFuture<'_, StoreResult<Option<ServiceKey>>>;

    /// Saves that an assertion was used for a service; false where it was before, and could be used still. Those
    /// that expired are forgotten.
    fn use_assertion(&self, record: AssertionRecord, now: Timestamp) -> BoxFuture<'_, StoreResult<bool>>;

    /// Every assertion that was used and has not expired.
    fn list_assertions(&self, now: Timestamp) -> BoxFuture<'_, StoreResult<Vec<AssertionRecord>>>;

    /// Appends to the audit log.
    fn audit(&self, event: AuditEvent, now: Timestamp) -> BoxFuture<'_, StoreResult<()>>;

    /// The last `limit` audit rows, oldest first.
    fn audit_tail(&self, limit: u32) -> BoxFuture<'_, StoreResult<Vec<AuditRow>>>;

    /// The newest audit rows that fit, oldest first.
    fn audit_find(&self, filter: AuditFilter) -> BoxFuture<'_, StoreResult<Vec<AuditRow>>>;

    /// Recomputes the whole audit chain, and compares its end with the one that was noted apart from it.
    fn audit_verify(&self) -> BoxFuture<'_, StoreResult<AuditCheck>>;

    /// Of these targets of an agent, those that quality of service is recorded of.
    fn recorded_targets(
        &self,
        agent: AgentId,
        asked: BTreeSet<(ServiceKey, u16)>,
    ) -> BoxFuture<'_, StoreResult<BTreeSet<(ServiceKey, u16)>>>;

    /// Keeps what services said of themselves while this hub was away, as
    /// [`QosStore::write_pages`](crate::qos::QosStore::write_pages) does.
    fn write_late_pages(
        &self,
        pages: Vec<(ServiceKey, PagePoint)>,
        keep: Duration,
        most: (u32, u32),
    ) -> BoxFuture<'_, StoreResult<()>>;

    /// A small text saved under `key`.
    fn meta_get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, StoreResult<Option<String>>>;

    /// Saves a small text under `key`. Not for secrets.
    fn meta_set<'a>(&'a self, key: &'a str, value: &'a str) -> BoxFuture<'a, StoreResult<()>>;
}
