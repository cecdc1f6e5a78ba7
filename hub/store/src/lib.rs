//! Durable hub state in SQLite.
//!
//! One thread owns the only connection. Callers put work into a bounded queue; the thread takes
//! what waits, runs each piece in a savepoint of its own, commits them together with one sync of
//! the disk, and only then answers. What was answered survives a kill and a loss of power.
//!
//! Invariants:
//! - one process per folder: the lock file `hub.lock` is held for as long as the store is open;
//! - a piece of work takes effect as a whole or not at all, its audit row included;
//! - audit rows form a chain of hashes, and the database refuses to change or delete one;
//! - of tokens only hashes are stored.

mod agents;
mod assertions;
mod audit;
mod convert;
mod costs;
mod counters;
mod credentials;
mod error;
mod identities;
mod join;
mod lifecycle;
mod migrate;
mod open;
mod policy;
mod prices;
mod qos;
mod queue;
mod scaling;
mod services;
mod targets;
mod tls;
mod tokens;
mod updates;
mod usage;
mod versions;
mod workloads;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use blueprint_common_types::{AgentId, ServiceKey, Timestamp, TokenId};
use blueprint_hub_registry_core::qos::{PagePoint, QosStore};
use blueprint_hub_registry_core::{
    AccessTokenRecord, Agent, ApiKeyError, ApiKeyRecord, ApiKeyRotateError, ApiKeyRotation, AssertionRecord,
    AuditCheck, AuditEvent, AuditFilter, AuditRow, Change, IdentityRecord, JoinCommit, JoinError,
    JoinTokenRecord, Loaded, PolicyChange, PolicyChangeError, PolicyRecord, RenewError, ServiceChange,
    ServiceChangeError, ServiceRecord, Store, StoreResult,
};
use futures_util::future::BoxFuture;
use rusqlite::Connection;

pub use open::{DATABASE_FILE, LOCK_FILE, MIN_SQLITE_VERSION, OpenError};
pub use queue::QUEUE_LENGTH;

use crate::queue::Queue;

/// The hub's state in one SQLite file.
///
/// Dropping it finishes what is queued, then gives up the lock; that may take as long as those
/// writes take.
#[derive(Debug)]
pub struct SqliteStore {
    queue: Queue,
}

impl SqliteStore {
    /// Opens the database in `dir`, makes both where they are missing, and brings the schema up to date.
    ///
    /// # Errors
    ///
    /// [`OpenError`] says whether another hub holds the folder, whether a newer version wrote the
    /// database, and what else stands in the way.
    pub fn open(dir: &Path) -> Result<Self, OpenError> {
        let (connection, lock) = open::open(dir)?;
        let queue = Queue::start(connection, lock).map_err(|source| OpenError::io(dir, source))?;
        Ok(Self { queue })
    }
}

impl Store for SqliteStore {
    fn load(&self) -> BoxFuture<'_, StoreResult<Loaded>> {
        Box::pin(self.queue.call("load the hub's state", agents::load))
    }

    fn epoch_next(&self) -> BoxFuture<'_, StoreResult<u64>> {
        Box::pin(self.queue.call("count a start of the hub", counters::epoch_next))
    }

    fn join(&self, commit: JoinCommit) -> BoxFuture<'_, Result<Agent, JoinError>> {
        Box::pin(async move {
            let joined = self.queue.call("store a join", move |db| join::join(db, commit)).await?;
            joined.map_err(JoinError::Refused)
        })
    }

    fn renew(
        &self,
        agent: AgentId,
        presented: u32,
        serial: Vec<u8>,
        not_after: Timestamp,
        now: Timestamp,
    ) -> BoxFuture<'_, Result<u32, RenewError>> {
        let renewal = agents::Renewal { agent, presented, serial, not_after, now };
        Box::pin(async move {
            self.queue.call("store a certificate", move |db| agents::renew(db, &renewal)).await?
        })
    }

    fn remove_agent(&self, id: AgentId, now: Timestamp) -> BoxFuture<'_, StoreResult<bool>> {
        Box::pin(self.queue.call("remove an agent", move |db| agents::remove(db, id, now)))
    }

    fn save_changes<'a>(&'a self, changes: &'a [Change], index: u64) -> BoxFuture<'a, StoreResult<()>> {
        let changes = changes.to_vec();
        Box::pin(self.queue.call("save targets", move |db| targets::save(db, &changes, index)))
    }

    fn create_join_token(&self, record: JoinTokenRecord) -> BoxFuture<'_, StoreResult<()>> {
        Box::pin(self.queue.call("save a join token", move |db| tokens::create_join(db, &record)))
    }

    fn list_join_tokens(&self) -> BoxFuture<'_, StoreResult<Vec<JoinTokenRecord>>> {
        Box::pin(self.queue.call("list join tokens", tokens::list_join))
    }

    fn revoke_join_token(&self, id: TokenId, now: Timestamp) -> BoxFuture<'_, StoreResult<bool>> {
        Box::pin(self.queue.call("revoke a join token", move |db| tokens::revoke_join(db, id, now)))
    }

    fn list_identities(&self) -> BoxFuture<'_, StoreResult<Vec<IdentityRecord>>> {
        Box::pin(self.queue.call("list identities", identities::list))
    }

    fn forget_identity(
        &self,
        cloud: String,
        account: String,
        instance: String,
        now: Timestamp,
    ) -> BoxFuture<'_, StoreResult<bool>> {
        let forget = move |db: &Connection| identities::forget(db, [&cloud, &account, &instance], now);
        Box::pin(self.queue.call("forget an identity", forget))
    }

    fn create_access_token(&self, record: AccessTokenRecord) -> BoxFuture<'_, StoreResult<()>> {
        Box::pin(self.queue.call("save an access token", move |db| tokens::create_access(db, &record)))
    }

    fn list_access_tokens(&self) -> BoxFuture<'_, StoreResult<Vec<AccessTokenRecord>>> {
        Box::pin(self.queue.call("list access tokens", tokens::list_access))
    }

    fn revoke_access_token(&self, id: TokenId, now: Timestamp) -> BoxFuture<'_, StoreResult<bool>> {
        Box::pin(self.queue.call("revoke an access token", move |db| tokens::revoke_access(db, id, now)))
    }

    fn policy(&self) -> BoxFuture<'_, StoreResult<Option<PolicyRecord>>> {
        Box::pin(self.queue.call("read the policy", policy::load))
    }

    fn change_policy(&self, change: PolicyChange) -> BoxFuture<'_, Result<PolicyRecord, PolicyChangeError>> {
        Box::pin(
            async move { self.queue.call("store a policy", move |db| policy::change(db, change)).await? },
        )
    }

    fn list_services(&self) -> BoxFuture<'_, StoreResult<Vec<ServiceRecord>>> {
        Box::pin(self.queue.call("list the settings of services", services::list))
    }

    fn change_service(
        &self,
        change: ServiceChange,
    ) -> BoxFuture<'_, Result<ServiceRecord, ServiceChangeError>> {
        Box::pin(async move {
            self.queue.call("store the settings of a service", move |db| services::change(db, change)).await?
        })
    }

    fn create_api_key(&self, record: ApiKeyRecord, most: u32) -> BoxFuture<'_, Result<(), ApiKeyError>> {
        Box::pin(async move {
            self.queue.call("save an api key", move |db| services::create_key(db, &record, most)).await?
        })
    }

    fn rotate_api_key(
        &self,
        rotation: ApiKeyRotation,
        most: u32,
    ) -> BoxFuture<'_, Result<(), ApiKeyRotateError>> {
        Box::pin(async move {
            self.queue.call("replace an API key", move |db| services::rotate_key(db, &rotation, most)).await?
        })
    }

    fn list_api_keys(&self) -> BoxFuture<'_, StoreResult<Vec<ApiKeyRecord>>> {
        Box::pin(self.queue.call("list api keys", services::list_keys))
    }

    fn revoke_api_key(&self, id: String, now: Timestamp) -> BoxFuture<'_, StoreResult<Option<ServiceKey>>> {
        Box::pin(self.queue.call("revoke an api key", move |db| services::revoke_key(db, &id, now)))
    }

    fn use_assertion(&self, record: AssertionRecord, now: Timestamp) -> BoxFuture<'_, StoreResult<bool>> {
        Box::pin(self.queue.call("save a used assertion", move |db| assertions::use_up(db, &record, now)))
    }

    fn list_assertions(&self, now: Timestamp) -> BoxFuture<'_, StoreResult<Vec<AssertionRecord>>> {
        Box::pin(self.queue.call("list used assertions", move |db| assertions::list(db, now)))
    }

    fn audit(&self, event: AuditEvent, now: Timestamp) -> BoxFuture<'_, StoreResult<()>> {
        Box::pin(self.queue.call("append to the audit log", move |db| audit::append(db, event, now)))
    }

    fn audit_tail(&self, limit: u32) -> BoxFuture<'_, StoreResult<Vec<AuditRow>>> {
        Box::pin(self.queue.call("read the audit log", move |db| audit::tail(db, limit)))
    }

    fn audit_find(&self, filter: AuditFilter) -> BoxFuture<'_, StoreResult<Vec<AuditRow>>> {
        Box::pin(self.queue.call("search the audit log", move |db| audit::find(db, &filter)))
    }

    fn audit_verify(&self) -> BoxFuture<'_, StoreResult<AuditCheck>> {
        Box::pin(self.queue.call("verify the audit log", audit::verify))
    }

    fn recorded_targets(
        &self,
        agent: AgentId,
        asked: BTreeSet<(ServiceKey, u16)>,
    ) -> BoxFuture<'_, StoreResult<BTreeSet<(ServiceKey, u16)>>> {
        let read = move |db: &Connection| qos::recorded(db, agent, asked);
        Box::pin(self.queue.call("look for recorded targets", read))
    }

    fn write_late_pages(
        &self,
        pages: Vec<(ServiceKey, PagePoint)>,
        keep: Duration,
        most: (u32, u32),
    ) -> BoxFuture<'_, StoreResult<()>> {
        QosStore::write_pages(self, pages, keep, most)
    }

    fn meta_get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, StoreResult<Option<String>>> {
        let key = key.to_owned();
        Box::pin(self.queue.call("read a setting", move |db| counters::meta_get(db, &key)))
    }

    fn meta_set<'a>(&'a self, key: &'a str, value: &'a str) -> BoxFuture<'a, StoreResult<()>> {
        let (key, value) = (key.to_owned(), value.to_owned());
        Box::pin(self.queue.call("save a setting", move |db| counters::meta_set(db, &key, &value)))
    }
}
