//! Answers about quality of service, from the registry, the registrar and the store.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use blueprint_common_runtime::http_get::Page;
use blueprint_common_runtime::places::Places;
use blueprint_common_types::workload::WorkloadSpec;
use blueprint_common_types::{AGENT_METRICS_PORT, AgentId, Health, OverlayLease, ServiceKey, Timestamp};
use blueprint_hub_registry_core::qos::{
    QosError, QosStore, ServiceUse, Standing, StandingCode, State, Subject, entries, runs,
};
use blueprint_hub_registry_core::{QosSample, RegistrySnapshot, TargetRecord};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio::time::{Instant, sleep, timeout};

use super::recorder::{Recorder, Seen, now};
use crate::{RegistrarHandle, WorkloadsHandle};

/// How long a page that was read answers for the service.
const FRESH: Duration = Duration::from_secs(5);

/// Pages that are read at once.
const READS: usize = 8;

/// Pages of one machine that are read at once: a slow one holds up no other.
const READS_OF_MACHINE: u32 = 2;

/// Questions about the past that are put to the store at once, and those of one machine.
const PASTS: usize = 3;
const PASTS_OF_MACHINE: u32 = 1;

/// How long a question waits for its turn, and how often it asks for a machine's.
const TURN: Duration = Duration::from_secs(5);
const TURN_PAUSE: Duration = Duration::from_millis(100);

/// Pages that are remembered; each has at most [`MAX_TEXT`](blueprint_hub_registry_core::qos::MAX_TEXT) bytes.
const REMEMBERED: usize = 64;

/// Reads pages of machines through the tunnel.
pub trait QosPages: Send + Sync {
    /// Asks the agent with this lease for a page; an error says why there is none.
    fn page(&self, lease: OverlayLease, path: String) -> BoxFuture<'_, Result<Page, String>>;
}

/// Names and values, and when they were read.
pub(super) type Read = Result<(Timestamp, BTreeMap<String, String>), String>;

/// Pages that were read a moment ago.
type Remembered = BTreeMap<ServiceKey, (Instant, Arc<Read>)>;

/// What the desk answers from.
pub struct DeskParts {
    /// The hub's identity, in text.
    pub hub: String,
    /// Who is there.
    pub registrar: RegistrarHandle,
    /// Who runs what.
    pub workloads: WorkloadsHandle,
    /// What was.
    pub store: Arc<dyn QosStore>,
    /// What services say of themselves.
    pub pages: Arc<dyn QosPages>,
    /// Age of the oldest single samples.
    pub samples: Duration,
    /// Age of the oldest minutes.
    pub minutes: Duration,
}

impl std::fmt::Debug for DeskParts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeskParts").field("hub", &self.hub).finish_non_exhaustive()
    }
}

/// Answers about quality of service; cheap to clone.
#[derive(Debug, Clone)]
pub struct Desk {
    pub(super) parts: Arc<DeskParts>,
    seen: watch::Receiver<Seen>,
    read: Arc<Mutex<Remembered>>,
    reads: Arc<Semaphore>,
    reads_of: Arc<Places<AgentId>>,
    pasts: Arc<Semaphore>,
    /// Machines that ask about the past.
    pub(super) askers: Arc<Places<AgentId>>,
}

impl Desk {
    /// A desk beside a recorder.
    #[must_use]
    pub fn new(parts: DeskParts, recorder: &Recorder) -> Self {
        Self {
            parts: Arc::new(parts),
            seen: recorder.seen(),
            read: Arc::default(),
            reads: Arc::new(Semaphore::new(READS)),
            reads_of: Places::new(READS_OF_MACHINE),
            pasts: Arc::new(Semaphore::new(PASTS)),
            askers: Places::new(PASTS_OF_MACHINE),
        }
    }

    /// The turn of a question about the past: few are put to the store at once, which others need too.
    pub(super) async fn turn(&self) -> Result<SemaphorePermit<'_>, QosError> {
        match timeout(TURN, self.pasts.acquire()).await {
            Ok(Ok(turn)) => Ok(turn),
            Ok(Err(_)) | Err(_) => Err(QosError::Busy("history")),
        }
    }

    pub(super) fn snapshot(&self) -> Arc<RegistrySnapshot> {
        self.parts.registrar.snapshot()
    }

    /// How something stands, and since when.
    pub(super) fn seen(&self, subject: Subject) -> Option<(State, Timestamp)> {
        self.seen.borrow().get(&subject).copied()
    }

    /// True for a service that is offered or wanted now, or was a moment ago.
    pub(super) fn is_known(&self, service: ServiceKey) -> bool {
        self.snapshot().by_service.contains_key(&service)
            || self.parts.workloads.view().records.contains_key(&service)
            || self.seen(Subject::Service(service)).is_some()
    }

    /// Machines that serve it: those of its targets, and the one that runs its workload.
    fn machines(&self, snapshot: &RegistrySnapshot, service: ServiceKey) -> BTreeSet<AgentId> {
        let assigned = self.parts.workloads.view().records.get(&service).and_then(|record| record.node);
        snapshot.targets_of(service).map(|target| target.key.agent).chain(assigned).collect()
    }

    /// The newest sample of each machine.
    async fn samples(&self, machines: &BTreeSet<AgentId>) -> BTreeMap<AgentId, QosSample> {
        let mut samples = BTreeMap::new();
        for agent in machines {
            if let Ok(Some(view)) = self.parts.registrar.qos(*agent, 0).await
                && let Some(latest) = view.latest
            {
                samples.insert(*agent, latest);
            }
        }
        samples
    }

    /// How a service stands now.
    pub(super) async fn stands(&self, service: ServiceKey) -> Result<Standing, QosError> {
        if !self.is_known(service) {
            return Err(QosError::Unknown(format!("service {service}")));
        }
        let snapshot = self.snapshot();
        let workloads = self.parts.workloads.view();
        let targets: Vec<&TargetRecord> = snapshot.targets_of(service).collect();
        let healthy = targets.iter().filter(|target| target.health == Health::Healthy).count();
        let is_unchecked = |target: &&TargetRecord| target.health == Health::Unknown;
        let status = workloads.statuses.get(&service);
        let runs = status.filter(|_| runs(&snapshot, &workloads, service));
        let seen = self.seen(Subject::Service(service));
        let code = match (healthy, targets.is_empty(), seen) {
            (1.., _, _) => StandingCode::Healthy,
            // What should offer a port and does not was seen down.
            (0, true, Some((State::Up, _))) if runs.is_some() => StandingCode::Healthy,
            (0, _, Some((State::Unknown, _))) => StandingCode::Unknown,
            (0, false, _) if targets.iter().all(is_unchecked) => StandingCode::Unknown,
            (0, _, _) => StandingCode::Unhealthy,
        };
        let message = match (targets.iter().find(|target| target.health != Health::Healthy), status) {
            (Some(sick), _) => format!(
                "{healthy} of {} targets healthy; {} port {}: {} {}",
                targets.len(),
                sick.agent_name,
                sick.key.port,
                sick.health,
                sick.reason
            ),
            (None, _) if healthy > 0 => format!("{healthy} of {healthy} targets healthy"),
            (None, Some(status)) => format!("its workload is {}: {}", status.state, status.reason),
            (None, None) => "no machine offers it".to_owned(),
        };
        let up_since = seen.filter(|(state, _)| *state == State::Up).map(|(_, since)| since);
        let is_up = code == StandingCode::Healthy;
        let samples = self.samples(&self.machines(&snapshot, service)).await;
        Ok(Standing {
            service,
            code,
            message: message.trim_end_matches([' ', ':']).to_owned(),
            started_at: runs.map(|status| status.since).or(up_since).filter(|_| is_up),
            sampled_at: samples.values().map(|sample| sample.at).max(),
            now: now(),
            nodes: targets
                .iter()
                .map(|target| target.agent_name.clone())
                .collect::<BTreeSet<_>>()
                .into_iter()
                .collect(),
        })
    }

    /// What a service uses now.
    pub(super) async fn uses(&self, service: ServiceKey) -> Result<ServiceUse, QosError> {
        if !self.is_known(service) {
            return Err(QosError::Unknown(format!("service {service}")));
        }
        let snapshot = self.snapshot();
        let samples = self.samples(&self.machines(&snapshot, service)).await;
        if samples.is_empty() {
            return Err(QosError::NoSample(format!("service {service}")));
        }
        let mut found = ServiceUse::default();
        let mut cpu = 0.0;
        for sample in samples.values() {
            for own in sample.services.iter().filter(|own| own.service == service) {
                cpu += own.cpu_percent.max(0.0);
                found.memory_bytes = found.memory_bytes.saturating_add(own.memory_bytes);
                if let Some(whole) = own.whole {
                    let join = |sum: &mut Option<u64>, more: u64| {
                        *sum = Some(sum.unwrap_or(0).saturating_add(more));
                    };
                    join(&mut found.pids, whole.pids);
                    join(&mut found.read_bytes, whole.read_bytes);
                    join(&mut found.written_bytes, whole.written_bytes);
                }
            }
            let machine = &sample.machine;
            let add = |sum: &mut u64, bytes: u64| *sum = sum.saturating_add(bytes);
            add(&mut found.memory_total_bytes, machine.memory_total_bytes);
            add(&mut found.disk_bytes, machine.disk_used_bytes);
            add(&mut found.disk_total_bytes, machine.disk_total_bytes);
            add(&mut found.network_rx_bytes, machine.network_rx_bytes);
            add(&mut found.network_tx_bytes, machine.network_tx_bytes);
            found.at = found.at.max(sample.at);
        }
        found.cpu_percent = share_of(cpu, self.processors(&snapshot, samples.keys()));
        if let Some(limit) = self.memory_limit(service) {
            found.memory_total_bytes = limit.min(found.memory_total_bytes);
        }
        Ok(found)
    }

    /// Processors of machines together; one for each that does not say.
    pub(super) fn processors<'a>(
        &self,
        snapshot: &RegistrySnapshot,
        machines: impl Iterator<Item = &'a AgentId>,
    ) -> u16 {
        let of = |agent: &AgentId| {
            let inventory = snapshot.agents.get(agent).and_then(|view| view.inventory.as_ref());
            inventory
                .map_or(1, |inventory| u16::try_from(inventory.cpu_millis / 1000).unwrap_or(u16::MAX).max(1))
        };
        machines.map(of).fold(0, u16::saturating_add).max(1)
    }

    /// What the workload of a service may use.
    pub(super) fn memory_limit(&self, service: ServiceKey) -> Option<u64> {
        let view = self.parts.workloads.view();
        let spec = serde_json::from_str::<WorkloadSpec>(&view.records.get(&service)?.document).ok()?;
        Some(spec.limits.memory_bytes)
    }

    /// What a service says of itself, not older than a few seconds.
    pub(super) async fn says(
        &self,
        service: ServiceKey,
    ) -> Result<(Timestamp, BTreeMap<String, String>), QosError> {
        let fresh = |remembered: &Remembered| {
            let (at, read) = remembered.get(&service)?;
            (at.elapsed() < FRESH).then(|| Arc::clone(read))
        };
        let known = fresh(&self.read.lock());
        let read = match known {
            Some(read) => read,
            None => {
                let turn = async {
                    let own = match self.shows(service) {
                        Some(machine) => Some(loop {
                            match self.reads_of.begin(machine) {
                                Some(place) => break place,
                                None => sleep(TURN_PAUSE).await,
                            }
                        }),
                        None => None,
                    };
                    (own, self.reads.acquire().await)
                };
                let busy = |_| QosError::Busy("metrics of services");
                let _turn = timeout(TURN, turn).await.map_err(busy)?;
                // Somebody else may have read it meanwhile.
                let known = fresh(&self.read.lock());
                match known {
                    Some(read) => read,
                    None => {
                        let read = Arc::new(self.read(service).await?);
                        self.remember(service, &read);
                        read
                    }
                }
            }
        };
        Read::clone(&read).map_err(|reason| QosError::NoMetrics { service, reason })
    }

    fn remember(&self, service: ServiceKey, read: &Arc<Read>) {
        let mut remembered = self.read.lock();
        remembered.retain(|_, (at, _)| at.elapsed() < FRESH);
        if remembered.len() < REMEMBERED {
            remembered.insert(service, (Instant::now(), Arc::clone(read)));
        }
    }

    /// The machine whose page is read for a service.
    fn shows(&self, service: ServiceKey) -> Option<AgentId> {
        let snapshot = self.snapshot();
        let target = snapshot.targets_of(service).max_by_key(|target| target.health == Health::Healthy);
        target.map(|target| target.key.agent)
    }

    /// Reads the page of one target, a healthy one if there is any.
    async fn read(&self, service: ServiceKey) -> Result<Read, QosError> {
        if !self.is_known(service) {
            return Err(QosError::Unknown(format!("service {service}")));
        }
        let snapshot = self.snapshot();
        let target = snapshot.targets_of(service).max_by_key(|target| target.health == Health::Healthy);
        let lease =
            target.and_then(|target| snapshot.agents.get(&target.key.agent)).map(|view| view.agent.lease);
        let (Some(target), Some(lease)) = (target, lease) else {
            return Ok(Err("no machine offers it".to_owned()));
        };
        let agent = target.key.agent;
        if snapshot.targets.keys().any(|key| key.agent == agent && key.port == AGENT_METRICS_PORT) {
            return Ok(Err(format!(
                "its machine offers a service at overlay port {AGENT_METRICS_PORT}, where its agent shows metrics"
            )));
        }
        let path = format!("/services/{service}/{}", target.key.port);
        drop(snapshot);
        Ok(match self.parts.pages.page(lease, path).await {
            Ok(page) if page.status == http::StatusCode::OK => {
                Ok((now(), entries(&String::from_utf8_lossy(&page.body))))
            }
            Ok(page) => {
                let why: String = String::from_utf8_lossy(&page.body).trim().chars().take(256).collect();
                Err(if why.is_empty() { page.status.to_string() } else { why })
            }
            Err(why) => Err(why),
        })
    }
}

/// Shares of one processor as a share of so many, 0 to 100.
pub(super) fn share_of(cpu: f32, processors: u16) -> f32 {
    (cpu / f32::from(processors.max(1))).clamp(0.0, 100.0)
}
