//! Samples that the hub does not get while it is away: kept on the disk, and given to it afterwards.

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

/// Folder of the samples, in the state folder.
const FOLDER: &str = "samples";

/// Samples of one call, and bytes of them at most: the newest samples go by the stream beside it, and never wait for these.
const BATCH: usize = 64;
const BATCH_BYTES: usize = 256 * 1024;

/// Pause between two calls, so that what is new has most of the way.
const PAUSE: Duration = Duration::from_millis(200);

/// Pause before the hub is looked for again.
const LOOK: Duration = Duration::from_secs(1);

/// Pause after a call that failed.
const AGAIN: Duration = Duration::from_secs(10);

/// How long the hub may take for one call.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// The samples that the hub has not got, for the task that takes them and the one that gives them.
#[derive(Debug)]
pub(crate) struct Late {
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
    pub(crate) fn open(shared: &Shared) -> Self {
        let folder = shared.state.path(FOLDER);
        let backlog = Backlog::open(&folder, shared.config.backlog_bytes);
        if let Err(error) = &backlog {
            warn!(?folder, %error, "samples are not kept while the hub is away; make the folder usable and start again");
        }
        Self { backlog: backlog.ok().map(Mutex::new), lost: AtomicU64::new(0), is_more: Notify::new() }
    }

    pub(crate) fn waiting(&self) -> Waiting {
        let lost = self.lost.load(Ordering::Relaxed);
        let Some(backlog) = &self.backlog else { return Waiting { bytes: 0, dropped: lost } };
        let backlog = backlog.lock();
        Waiting { bytes: backlog.bytes(), dropped: backlog.dropped().saturating_add(lost) }
    }

    /// Keeps a sample.
    pub(crate) async fn keep(self: &Arc<Self>, report: v1::QosReport) {
        let this = Arc::clone(self);
        let kept = spawn_blocking(move || {
            let Some(backlog) = &this.backlog else {
                this.lost.fetch_add(1, Ordering::Relaxed);
                return Ok(());
            };
            let at = Timestamp::from_millis(report.time_millis);
            backlog.lock().push(at, &report.encode_to_vec())
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
    let sample = |kept: &Kept| {
        let report = v1::QosReport::decode(kept.bytes.as_slice()).ok()?;
        Some(v1::LateSample { number: kept.number, report: Some(report) })
    };
    let samples: Vec<_> = kept.iter().filter_map(sample).collect();
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
        Ok(Err(status)) if status.code() == Code::InvalidArgument => {
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
