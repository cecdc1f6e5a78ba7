//! The task that records.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use blueprint_common_runtime::tasks::Stop;
use blueprint_common_types::{AgentId, MachineSample, ServiceSample, Timestamp, TunnelSample};
use blueprint_hub_registry_core::StoreResult;
use blueprint_hub_registry_core::qos::{
    Batch, Book, Keep, LeftOut, Pruned, QosStore, Sight, State, Subject, Written,
};
use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tracing::{info, warn};

use super::QosMetrics;
use crate::{RegistrarHandle, WorkloadsHandle};

/// Reports of agents that wait for the recorder; one more is left out and counted.
const QUEUE: usize = 4096;

/// How often the hub looks at what is up.
const LOOK: Duration = Duration::from_secs(1);

/// How often old rows are deleted.
const PRUNE: Duration = Duration::from_secs(600);

/// Time for the last write when the hub stops.
const LAST_WRITE: Duration = Duration::from_millis(900);

/// How everything stands, and since when.
pub(super) type Seen = Arc<BTreeMap<Subject, (State, Timestamp)>>;

/// One report of an agent.
#[derive(Debug)]
pub(crate) struct Sampled {
    pub(crate) agent: AgentId,
    pub(crate) at: Timestamp,
    pub(crate) machine: MachineSample,
    pub(crate) tunnel: TunnelSample,
    pub(crate) services: Vec<ServiceSample>,
}

/// Where the registrar puts reports. It never waits.
#[derive(Debug, Clone)]
pub(crate) struct Sink {
    sender: mpsc::Sender<Sampled>,
    metrics: QosMetrics,
}

impl Sink {
    pub(crate) fn note(&self, report: Sampled) {
        if self.sender.try_send(report).is_err() {
            self.metrics.sample("queue_full", 1);
        }
    }
}

/// Both ends of the way from the registrar to the recorder.
#[derive(Debug)]
pub struct Samples {
    pub(crate) sink: Sink,
    reports: mpsc::Receiver<Sampled>,
    metrics: QosMetrics,
}

/// Makes the way from the registrar to the recorder.
#[must_use]
pub fn samples(metrics: &QosMetrics) -> Samples {
    let (sender, reports) = mpsc::channel(QUEUE);
    Samples { sink: Sink { sender, metrics: metrics.clone() }, reports, metrics: metrics.clone() }
}

/// What the recorder works with.
pub struct RecorderParts {
    /// Who is there.
    pub registrar: RegistrarHandle,
    /// Who runs what.
    pub workloads: WorkloadsHandle,
    /// Where it goes.
    pub store: Arc<dyn QosStore>,
    /// How much is kept.
    pub keep: Keep,
    /// How often it is written.
    pub write_every: Duration,
    /// How long machines have after a start of the hub until those that are not back are down.
    pub patience: Duration,
}

impl std::fmt::Debug for RecorderParts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RecorderParts").field("keep", &self.keep).finish_non_exhaustive()
    }
}

/// The task.
#[derive(Debug)]
pub struct Recorder {
    parts: RecorderParts,
    reports: mpsc::Receiver<Sampled>,
    metrics: QosMetrics,
    book: Book,
    sight: Sight,
    looked_at: Instant,
    seen: watch::Sender<Seen>,
    /// Whether the last write failed, so that a row of failures is logged once.
    fails: bool,
}

impl Recorder {
    /// Puts it together.
    #[must_use]
    pub fn new(parts: RecorderParts, samples: Samples) -> Self {
        let sight = Sight::new(now(), parts.patience);
        let (seen, _) = watch::channel(Seen::default());
        let Samples { reports, metrics, sink: _ } = samples;
        Self {
            parts,
            reports,
            metrics,
            book: Book::new(),
            sight,
            looked_at: Instant::now(),
            seen,
            fails: false,
        }
    }

    /// How everything stands, for a [`Desk`](super::Desk).
    pub(super) fn seen(&self) -> watch::Receiver<Seen> {
        self.seen.subscribe()
    }

    /// Runs until the stop; when the drain begins, and at the end, what waits is written.
    pub async fn run(mut self, stop: Stop) {
        let ticker = |every| {
            let mut ticker = interval(every);
            ticker.set_missed_tick_behavior(MissedTickBehavior::Skip);
            ticker
        };
        let (mut look, mut write, mut prune) = (ticker(LOOK), ticker(self.parts.write_every), ticker(PRUNE));
        let mut is_draining = false;
        loop {
            tokio::select! {
                biased;
                () = stop.stop.cancelled() => break,
                () = stop.drain.cancelled(), if !is_draining => {
                    is_draining = true;
                    self.write().await;
                }
                _ = look.tick() => self.look(),
                _ = write.tick() => self.write().await,
                _ = prune.tick() => self.prune().await,
                report = self.reports.recv() => match report {
                    Some(report) => self.note(&report),
                    None => break,
                },
            }
        }
        while let Ok(report) = self.reports.try_recv() {
            self.note(&report);
        }
        if timeout(LAST_WRITE, self.write()).await.is_err() {
            warn!("the last quality of service was not stored in time");
        }
    }

    fn note(&mut self, report: &Sampled) {
        let Sampled { agent, at, machine, tunnel, services } = report;
        // An hour more than is kept would be counted without its minutes.
        let oldest = self.parts.keep.minutes.saturating_sub(Duration::from_secs(3600));
        let noted = self.book.note(*agent, *at, (machine, tunnel, services), oldest, now());
        self.count(noted);
    }

    fn look(&mut self) {
        let at = Instant::now();
        let passed = at.saturating_duration_since(self.looked_at);
        self.looked_at = at;
        let (registry, workloads) = (self.parts.registrar.snapshot(), self.parts.workloads.view());
        let looked = self.sight.look(&registry, &workloads, passed, now(), &mut self.book);
        self.count(looked);
        if **self.seen.borrow() != *self.sight.all() {
            self.seen.send_replace(Arc::new(self.sight.all().clone()));
        }
    }

    fn count(&self, noted: Result<(), LeftOut>) {
        if let Err(left_out) = noted {
            self.metrics.sample(left_out.label(), 1);
        }
    }

    async fn write(&mut self) {
        let batch = self.book.take();
        if batch.is_empty() {
            return;
        }
        match self.store(batch.clone()).await {
            Ok(Written { taken, repeated, too_many }) => {
                if self.fails {
                    info!("quality of service is stored again");
                }
                self.fails = false;
                self.metrics.sample("taken", taken);
                self.metrics.sample("repeated", repeated);
                self.metrics.sample("too_many_subjects", too_many);
            }
            Err(error) => {
                if !self.fails {
                    warn!(%error, "quality of service not stored; it is tried again");
                }
                self.fails = true;
                self.metrics.failed();
                let kept = self.book.put_back(batch);
                self.count(kept);
            }
        }
    }

    fn store(&self, batch: Batch) -> BoxFuture<'_, StoreResult<Written>> {
        self.parts.store.write_qos(batch)
    }

    async fn prune(&self) {
        match self.parts.store.prune_qos(self.parts.keep, now()).await {
            Ok(Pruned { old, many, minutes, hours }) => {
                self.metrics.forgotten("old", old);
                self.metrics.forgotten("too_many", many);
                self.metrics.rows("minutes", minutes);
                self.metrics.rows("hours", hours);
                if many > 0 {
                    warn!(
                        rows = many,
                        most = self.parts.keep.rows,
                        "history is longer than qos.max_rows: the oldest went"
                    );
                }
            }
            Err(error) => {
                self.metrics.failed();
                warn!(%error, "old quality of service not deleted; it is tried again");
            }
        }
    }
}

/// The hub's clock.
pub(super) fn now() -> Timestamp {
    Timestamp::from(SystemTime::now())
}
