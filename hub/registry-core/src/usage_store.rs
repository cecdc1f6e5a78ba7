//! What services and their callers have used, as it is kept over restarts.

use std::time::Duration;

use blueprint_common_types::{ServiceKey, Timestamp};
use futures_util::future::BoxFuture;

use crate::StoreResult;

/// One sum, from the first request on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UsageRow {
    /// Whose; `None` for what found no room of its own.
    pub service: Option<ServiceKey>,
    /// Public name of the credential; `None` for the sum of the service.
    pub key: Option<String>,
    /// Requests that the service answered.
    pub requests: u64,
    /// Requests that were refused.
    pub refused: u64,
    /// Bytes of bodies from clients.
    pub bytes_in: u64,
    /// Bytes of bodies to clients.
    pub bytes_out: u64,
    /// Time during which requests were open, added up; kept in milliseconds.
    pub open: Duration,
}

/// Everything that is kept, and since when it is counted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KeptUsage {
    /// The sums.
    pub rows: Vec<UsageRow>,
    /// The earliest time that one of them counts since; `None` where there are none.
    pub since: Option<Timestamp>,
}

/// Durable sums. The contract is that of [`Store`](crate::Store); there are no audit rows.
pub trait UsageStore: Send + Sync {
    /// Every sum that changed after `after`; older ones are forgotten.
    fn load_usage(&self, after: Timestamp) -> BoxFuture<'_, StoreResult<KeptUsage>>;

    /// Stores these sums in place of those before, all or none. They count since `since`, or since what is stored for
    /// them already.
    fn save_usage(
        &self,
        rows: Vec<UsageRow>,
        since: Timestamp,
        now: Timestamp,
    ) -> BoxFuture<'_, StoreResult<()>>;
}
