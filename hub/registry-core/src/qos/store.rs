//! What is kept of quality of service.

use std::collections::BTreeMap;
use std::time::Duration;

use blueprint_common_types::{AgentId, ServiceKey, Timestamp};
use futures_util::future::BoxFuture;

use super::{Batch, Objective, ObjectiveOf, ObjectiveRecord, Row, Step, Subject};
use crate::StoreResult;

/// How much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// Age of the oldest single samples.
    pub samples: Duration,
    /// Age of the oldest minutes.
    pub minutes: Duration,
    /// Age of the oldest hours.
    pub hours: Duration,
    /// Most single samples, and rows of minutes, and of hours, where the hours of services do not count; where there are more, the oldest go.
    pub rows: u64,
}

/// What became of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Written {
    /// Samples that count from now on.
    pub taken: u64,
    /// Samples of a second that is counted already.
    pub repeated: u64,
    /// Samples and minutes of what is not known yet, while as much is known as may be.
    pub too_many: u64,
}

/// What was deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pruned {
    /// Rows of minutes and hours that were too old.
    pub old: u64,
    /// Rows that were too many.
    pub many: u64,
    /// Single samples that are left.
    pub samples: u64,
    /// Rows of minutes that are left.
    pub minutes: u64,
    /// Rows of hours that are left.
    pub hours: u64,
}

/// What was known when the hub ran last.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Past {
    /// When the newest minute begins; `None` where there is none.
    pub newest: Option<Timestamp>,
    /// Services that were up or down then, and a machine that offered each.
    pub offered: BTreeMap<ServiceKey, AgentId>,
}

/// Rows by subject and time, oldest first.
pub type QosRows = BTreeMap<(Timestamp, Subject), Row>;

/// What a service said of itself at one moment: names and values.
pub type PagePoint = (Timestamp, BTreeMap<String, String>);

/// Durable history of quality of service. The contract is that of [`Store`](crate::Store): what was answered is stored.
pub trait QosStore: Send + Sync {
    /// Stores a batch in one transaction: samples and seen time come into their minutes and hours. A sample counts once.
    fn write_qos(&self, batch: Batch) -> BoxFuture<'_, StoreResult<Written>>;

    /// Deletes what is too old at `now`, and the oldest of what is too much.
    fn prune_qos(&self, keep: Keep, now: Timestamp) -> BoxFuture<'_, StoreResult<Pruned>>;

    /// What was known when the hub ran last.
    fn qos_past(&self) -> BoxFuture<'_, StoreResult<Past>>;

    /// Rows that begin in `range`, its end left out: of a service with its targets and some of their machines, or of a
    /// machine. Where there are more than `most`, moments are left out evenly, the same for all; the newest is there.
    fn qos_rows(
        &self,
        of: Subject,
        step: Step,
        range: (Timestamp, Timestamp),
        most: u32,
    ) -> BoxFuture<'_, StoreResult<QosRows>>;

    /// Hours of a service that begin in `range`, its end left out: its own, and one for each hour that joins those of all
    /// its targets, under the name of one of them. Or those of a machine.
    fn qos_hours(&self, of: Subject, range: (Timestamp, Timestamp)) -> BoxFuture<'_, StoreResult<QosRows>>;

    /// When the hour begins in which the hub saw a service first, whether or not it is kept; `None` where it never did.
    fn qos_begins(&self, service: ServiceKey) -> BoxFuture<'_, StoreResult<Option<Timestamp>>>;

    /// Keeps what services said of themselves, and forgets what is older than `keep`, or more than `most` of one service and in all.
    fn write_pages(
        &self,
        pages: Vec<(ServiceKey, PagePoint)>,
        keep: Duration,
        most: (u32, u32),
    ) -> BoxFuture<'_, StoreResult<()>>;

    /// What a service said of itself, the newest `most`, oldest first.
    fn pages(
        &self,
        service: ServiceKey,
        range: (Timestamp, Timestamp),
        most: u32,
    ) -> BoxFuture<'_, StoreResult<Vec<PagePoint>>>;

    /// Every objective that was set, in the order of [`ObjectiveOf`].
    fn objectives(&self) -> BoxFuture<'_, StoreResult<Vec<ObjectiveRecord>>>;

    /// Sets the objective of something, or, with `None`, goes back to the default; audited. False where there was
    /// none to go back from.
    fn set_objective(
        &self,
        of: ObjectiveOf,
        objective: Option<Objective>,
        now: Timestamp,
    ) -> BoxFuture<'_, StoreResult<bool>>;
}
