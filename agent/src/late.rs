//! Samples, and metrics of services, that the hub does not get while it is away: kept on the disk, and given to it afterwards.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use blueprint_agent_qos::{Backlog, Kept};
use blueprint_common_types::Timestamp;
use blueprint_proto::v1;
use parking_lot::Mutex;
use prost::Message;
use tokio::sync::Notify;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};
use tonic::Code;
use tracing::{info, warn};

use crate::agent::AgentError;
use crate::shared::Shared;

/// Samples of one call, and bytes of them at most, of the 64 KiB that a message to the hub may have: the newest samples go by the
/// stream beside it, and never wait for these.
const BATCH: usize = 64;
const BATCH_BYTES: usize = 48 * 1024;

/// Pause between two calls, so that what is new has most of the way.
const PAUSE: Duration = Duration::from_millis(200);

/// Pause before the hub is looked for again.
const LOOK: Duration = Duration::from_secs(1);

/// Pause after a call that failed.
const AGAIN: Duration = Duration::from_secs(10);

/// How long the hub may take for one call.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// What is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LateKind {
    /// Reports.
    Samples,
    /// Pages of metrics of services.
    Pages,
}

impl LateKind {
    /// Its folder in the state folder.
    const fn folder(self) -> &'static str {
        match self {
            Self::Samples => "samples",
            Self::Pages => "pages",
        }
    }

    /// Most bytes of it, of those that the configuration names.
    const fn bytes(self, named: u64) -> u64 {
        match self {
            Self::Samples => named,
            Self::Pages => named / 2,
        }
    }

    /// Whether the last one of a minute stands for the others: a report tells of all services, a page of one.
    const fn is_thinned(self) -> bool {
        match self {
            Self::Samples => true,
            Self::Pages => false,
        }
    }

    /// One of them for the hub; `None` where it cannot be read.
    fn read(self, kept: &Kept) -> Option<v1::LateSample> {
        let (number, bytes) = (kept.number, kept.bytes.as_slice());
        Some(match self {
            Self::Samples => {
                v1::LateSample { number, report: Some(v1::QosReport::decode(bytes).ok()?), page: None }
            }
            Self::Pages => {
                v1::LateSample { number, report: None, page: Some(v1::ServicePage::decode(bytes).ok()?) }
            }
        })
    }
}

/// What the hub has not got, for the task that takes them and the one that gives them.
#[derive(Debug)]
pub(crate) struct Late {
    kind: LateKind,
    /// `None` where its folder cannot be used: samples go on, and those that no hub takes are lost and counted.
    backlog: Option<Mutex<Backlog>>,
    lost: AtomicU64,
    is_more: Notify,
}

/// How much is kept, for metrics.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Waiting {
    /// Bytes on the disk.
    pub(crate) bytes: u64,
    /// Samples that had no room or were refused by the disk.
    pub(crate) dropped: u64,
}

impl Late {
    /// Opens what an earlier agent kept.
    pub(crate) fn open(shared: &Shared, kind: LateKind) -> Self {
        let folder = shared.state.path(kind.folder());
        let backlog = Backlog::open(&folder, kind.bytes(shared.config.backlog_bytes));
        if let Err(error) = &backlog {
            warn!(?folder, %error, "samples are not kept while the hub is away; make the folder usable and start again");
        }
        let backlog =
            backlog.ok().map(|backlog| if kind.is_thinned() { backlog } else { backlog.unthinned() });
        Self { kind, backlog: backlog.map(Mutex::new), lost: AtomicU64::new(0), is_more: Notify::new() }
    }

    pub(crate) fn waiting(&self) -> Waiting {
        let lost = self.lost.load(Ordering::Relaxed);
        let Some(backlog) = &self.backlog else { return Waiting { bytes: 0, dropped: lost } };
        let backlog = backlog.lock();
        Waiting { bytes: backlog.bytes(), dropped: backlog.dropped().saturating_add(lost) }
    }

    /// Keeps a sample.
    pub(crate) async fn keep(self: &Arc<Self>, report: v1::QosReport) {
        self.put(report.time_millis, report.encode_to_vec()).await;
    }

    /// Keeps a page of metrics.
    pub(crate) async fn keep_page(self: &Arc<Self>, page: v1::ServicePage) {
        self.put(page.time_millis, page.encode_to_vec()).await;
    }

    async fn put(self: &Arc<Self>, time_millis: u64, bytes: Vec<u8>) {
        let this = Arc::clone(self);
        let kept = spawn_blocking(move || {
            let Some(backlog) = &this.backlog else {
                this.lost.fetch_add(1, Ordering::Relaxed);
                return Ok(());
            };
            backlog.lock().push(Timestamp::from_millis(time_millis), &bytes)
        });
        match kept.await {
            Ok(Ok(())) => self.is_more.notify_one(),
            Ok(Err(error)) => warn!(%error, "a sample is not kept for the hub"),
            Err(_) => warn!("a sample is not kept for the hub: its task fell over"),
        }
    }

    async fn oldest(self: &Arc<Self>) -> Vec<Kept> {
        let this = Arc::clone(self);
        let read = move || this.backlog.as_ref().map(|backlog| backlog.lock().oldest(BATCH, BATCH_BYTES));
        spawn_blocking(read).await.ok().flatten().unwrap_or_default()
    }

    async fn acknowledge(self: &Arc<Self>, through: u64) {
        let this = Arc::clone(self);
        let note = move || this.backlog.as_ref().map(|backlog| backlog.lock().acknowledge(through));
        if let Ok(Some(Err(error))) = spawn_blocking(note).await {
            warn!(%error, "what the hub has is not noted; it is sent again");
        }
    }
}

/// Gives the hub what it has not got, oldest first, whenever it is there.
pub(crate) async fn run(shared: Arc<Shared>, late: Arc<Late>) -> Result<(), AgentError> {
    loop {
        let pause = match shared.stop.run_until_cancelled(give(&shared, &late)).await {
            None => return Ok(()),
            Some(Given::Some) => PAUSE,
            Some(Given::NoHub) => LOOK,
            Some(Given::Failed) => AGAIN,
            Some(Given::All) => {
                let Some(()) = shared.stop.run_until_cancelled(late.is_more.notified()).await else {
                    return Ok(());
                };
                LOOK
            }
        };
        let Some(()) = shared.stop.run_until_cancelled(sleep(pause)).await else { return Ok(()) };
    }
}

enum Given {
    Some,
    All,
    NoHub,
    Failed,
}

async fn give(shared: &Shared, late: &Arc<Late>) -> Given {
    let Some(mut caller) = shared.spoke.caller() else { return Given::NoHub };
    let kept = late.oldest().await;
    let Some(last) = kept.last().map(|kept| kept.number) else { return Given::All };
    let samples: Vec<_> = kept.iter().filter_map(|kept| late.kind.read(kept)).collect();
    let count = samples.len();
    if count < kept.len() {
        warn!(kept = kept.len(), count, "kept samples that cannot be read are left out");
    }
    if samples.is_empty() {
        late.acknowledge(last).await;
        return Given::Some;
    }
    match timeout(CALL_TIMEOUT, caller.late(v1::LateSamples { samples })).await {
        Ok(Ok(answer)) => {
            let v1::LateAnswer { through, refused } = answer.into_inner();
            info!(count, refused, "the hub has samples that were taken while it was away");
            late.acknowledge(through.min(last)).await;
            Given::Some
        }
        // Also what is longer than a message may be: it would never get there.
        Ok(Err(status)) if matches!(status.code(), Code::InvalidArgument | Code::OutOfRange) => {
            let reason = status.message();
            warn!(count, reason, "the hub does not take samples that were kept; they are left out");
            late.acknowledge(last).await;
            Given::Some
        }
        Ok(Err(status)) => {
            warn!(reason = status.message(), "kept samples are not taken now; tried again");
            Given::Failed
        }
        Err(_) => Given::Failed,
    }
}
