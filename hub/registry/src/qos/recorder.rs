//! The task that records.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use blueprint_common_runtime::tasks::Stop;
use blueprint_common_types::{AgentId, MachineSample, ServiceSample, Timestamp, TunnelSample};
use blueprint_hub_registry_core::StoreResult;
use blueprint_hub_registry_core::qos::{
    Batch, Book, ClockWatch, Keep, LeftOut, Past, Pruned, QosStore, Sight, State, Subject, Written,
};
use futures_util::future::{BoxFuture, FutureExt};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};
use tracing::{info, warn};

use super::QosMetrics;
use crate::{RegistrarHandle, WorkloadsHandle};

/// Reports of agents that wait for the recorder; one more is left out and counted.
const QUEUE: usize = 4096;

/// How often the hub looks at what is up.
const LOOK: Duration = Duration::from_secs(1);

/// How often old rows are deleted.
const PRUNE: Duration = Duration::from_secs(600);

/// A store that takes longer is said to be slow.
const SLOW: Duration = Duration::from_secs(30);

/// Time for the last write when the hub stops.
const LAST_WRITE: Duration = Duration::from_millis(900);

/// How everything stands, and since when.
pub(super) type Seen = Arc<BTreeMap<Subject, (State, Timestamp)>>;

/// One report of an agent.
#[derive(Debug)]
pub struct Sampled {
    /// Whose.
    pub agent: AgentId,
    /// When it was taken, by the agent's clock.
    pub at: Timestamp,
    /// Its machine.
    pub machine: MachineSample,
    /// Its tunnel.
    pub tunnel: TunnelSample,
    /// What it offers; others are left out before.
    pub services: Vec<ServiceSample>,
}

/// What became of a report that was to be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// It is stored, or was before.
    Stored,
    /// It is never taken, and why.
    LeftOut(LeftOut),
    /// It is not stored now; whoever has it keeps it and sends it again.
    NotYet,
}

/// Tells whoever waits what became of a report.
type Tell = oneshot::Sender<Kept>;

/// Where the registrar puts reports. It never waits.
#[derive(Debug, Clone)]
pub struct Sink {
    sender: mpsc::Sender<(Sampled, Option<Tell>)>,
    metrics: QosMetrics,
}

impl Sink {
    /// Takes a report, which is written with the next that are.
    pub(crate) fn note(&self, report: Sampled) {
        self.put(report, None);
    }

    /// Takes a report and writes it now, together with all that waits. What is given back ends once it is known to be
    /// stored, or not: nobody may acknowledge the report before.
    pub fn keep(&self, report: Sampled) -> BoxFuture<'static, Kept> {
        let (tell, told) = oneshot::channel();
        self.put(report, Some(tell));
        async move { told.await.unwrap_or(Kept::NotYet) }.boxed()
    }

    /// Counts samples of what their agent does not offer.
    pub(crate) fn not_offered(&self, count: usize) {
        self.metrics.sample("not_offered", u64::try_from(count).unwrap_or(u64::MAX));
    }

    fn put(&self, report: Sampled, tell: Option<Tell>) {
        if self.sender.try_send((report, tell)).is_err() {
            self.metrics.sample("queue_full", 1);
        }
    }
}

/// Both ends of the way from the registrar to the recorder.
#[derive(Debug)]
pub struct Samples {
    pub(crate) sink: Sink,
    reports: mpsc::Receiver<(Sampled, Option<Tell>)>,
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

/// What the store has done.
enum Done {
    /// A batch, who waits for it, and what became of it.
    Write(Batch, Vec<Tell>, StoreResult<Written>),
    Prune(StoreResult<Pruned>),
}

/// The task.
pub struct Recorder {
    parts: RecorderParts,
    reports: mpsc::Receiver<(Sampled, Option<Tell>)>,
    metrics: QosMetrics,
    book: Book,
    sight: Sight,
    clock: ClockWatch,
    began: Instant,
    looked_at: Instant,
    seen: watch::Sender<Seen>,
    /// What the store does now, and since when: the hub goes on looking meanwhile.
    working: Option<(Instant, BoxFuture<'static, Done>)>,
    /// Whether it was said that the store is slow.
    is_slow: bool,
    /// Whether to write, and to prune, once the store is free.
    write_due: bool,
    prune_due: bool,
    /// Who waits for what is in the book.
    waiting: Vec<Tell>,
    /// Whether the last write failed, so that a row of failures is logged once.
    fails: bool,
}

impl std::fmt::Debug for Recorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recorder").field("parts", &self.parts).finish_non_exhaustive()
    }
}

impl Recorder {
    /// Puts it together.
    #[must_use]
    pub fn new(parts: RecorderParts, samples: Samples) -> Self {
        let sight = Sight::new(parts.patience);
        let (seen, _) = watch::channel(Seen::default());
        let Samples { reports, metrics, sink: _ } = samples;
        Self {
            parts,
            reports,
            metrics,
            book: Book::new(),
            sight,
            clock: ClockWatch::new(None, now()),
            began: Instant::now(),
            looked_at: Instant::now(),
            seen,
            working: None,
            is_slow: false,
            write_due: false,
            prune_due: false,
            waiting: Vec::new(),
            fails: false,
        }
    }

    /// How everything stands, for a [`Desk`](super::Desk).
    pub(super) fn seen(&self) -> watch::Receiver<Seen> {
        self.seen.subscribe()
    }

    /// Runs until the stop; when the drain begins, and at the end, what waits is written.
    pub async fn run(mut self, stop: Stop) {
        if stop.stop.run_until_cancelled(self.begin()).await.is_none() {
            return;
        }
        let ticker = |every| {
            let mut ticker = interval_at(Instant::now() + every, every);
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
                    self.write_due = true;
                }
                done = finished(&mut self.working) => self.done(done),
                _ = look.tick() => self.look(),
                _ = write.tick() => self.write_due = true,
                _ = prune.tick() => self.prune_due = true,
                report = self.reports.recv() => match report {
                    Some(report) => self.note(report),
                    None => break,
                },
            }
            self.work();
        }
        while let Ok(report) = self.reports.try_recv() {
            self.note(report);
        }
        if timeout(LAST_WRITE, self.end()).await.is_err() {
            warn!("the last quality of service was not stored in time");
        }
    }

    /// Takes up what was known when the hub ran last.
    async fn begin(&mut self) {
        let past = self.parts.store.qos_past().await.unwrap_or_else(|error| {
            warn!(%error, "quality of service of before the start cannot be read: nothing of it is deleted for a day");
            Past { newest: Some(Timestamp::default()), ..Past::default() }
        });
        self.clock = ClockWatch::new(past.newest, now());
        self.began = Instant::now();
        self.sight.remember(past.offered);
        self.looked_at = Instant::now();
        self.look();
    }

    /// Writes what is left.
    async fn end(&mut self) {
        for _ in 0..2 {
            let done = match self.working.as_mut() {
                Some((_, work)) => work.await,
                None => {
                    self.write();
                    let Some((_, work)) = self.working.as_mut() else { return };
                    work.await
                }
            };
            self.done(done);
        }
    }

    fn note(&mut self, (report, tell): (Sampled, Option<Tell>)) {
        let Sampled { agent, at, machine, tunnel, services } = report;
        // An hour more than is kept would be counted without its minutes.
        let oldest = self.parts.keep.minutes.saturating_sub(Duration::from_secs(3600));
        let noted =
            self.book.note(agent, at, (&machine, &tunnel, &services), (oldest, tell.is_some()), now());
        self.count(noted);
        let Some(tell) = tell else { return };
        match noted {
            // Where it is full, others went for it.
            Ok(()) | Err(LeftOut::Full) => {
                self.waiting.push(tell);
                self.write_due = true;
            }
            Err(left_out) => {
                // Whoever asked may be gone.
                let _ = tell.send(Kept::LeftOut(left_out));
            }
        }
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

    /// Gives the store what is due, one thing after the other. A write is never given up: it may be done nevertheless, and
    /// would then be counted twice.
    fn work(&mut self) {
        if let Some((since, _)) = &self.working {
            if since.elapsed() > SLOW && !self.is_slow {
                self.is_slow = true;
                warn!("the store takes long to write quality of service; the hub goes on looking");
            }
            return;
        }
        if std::mem::take(&mut self.write_due) {
            self.write();
        }
        if self.working.is_none() && std::mem::take(&mut self.prune_due) {
            self.prune();
        }
    }

    fn write(&mut self) {
        let batch = self.book.take().keeping_samples(self.parts.keep.samples, now());
        if batch.is_empty() {
            return;
        }
        let waiting = std::mem::take(&mut self.waiting);
        let store = Arc::clone(&self.parts.store);
        let work = async move {
            let written = store.write_qos(batch.clone()).await;
            Done::Write(batch, waiting, written)
        };
        self.working = Some((Instant::now(), work.boxed()));
    }

    fn done(&mut self, done: Done) {
        self.working = None;
        self.is_slow = false;
        match done {
            Done::Write(batch, waiting, written) => self.wrote(batch, waiting, written),
            Done::Prune(pruned) => self.pruned(pruned),
        }
    }

    fn wrote(&mut self, batch: Batch, waiting: Vec<Tell>, written: StoreResult<Written>) {
        let kept = if written.is_ok() { Kept::Stored } else { Kept::NotYet };
        for tell in waiting {
            // Whoever asked may be gone.
            let _ = tell.send(kept);
        }
        match written {
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

    fn prune(&mut self) {
        let at = now();
        if let Err(doubt) = self.clock.may_forget(at, self.began.elapsed()) {
            warn!(%doubt, "old quality of service is not deleted now");
            return;
        }
        let (store, keep) = (Arc::clone(&self.parts.store), self.parts.keep);
        let work = async move { Done::Prune(store.prune_qos(keep, at).await) };
        self.working = Some((Instant::now(), work.boxed()));
    }

    fn pruned(&self, pruned: StoreResult<Pruned>) {
        match pruned {
            Ok(Pruned { old, many, samples, minutes, hours }) => {
                self.metrics.forgotten("old", old);
                self.metrics.forgotten("too_many", many);
                self.metrics.rows("samples", samples);
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

/// What the store does now, once it is done.
async fn finished(working: &mut Option<(Instant, BoxFuture<'static, Done>)>) -> Done {
    match working {
        Some((_, work)) => work.await,
        None => std::future::pending().await,
    }
}

/// The hub's clock.
pub(super) fn now() -> Timestamp {
    Timestamp::from(SystemTime::now())
}
