//! One workload, from its assignment to its end.

mod clean;
mod report;
mod start;
mod wait;

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant, SystemTime};

use blueprint_agent_workload_core::{Life, Step};
use blueprint_common_runtime::tasks::Spawner;
use blueprint_common_types::Health;
use blueprint_common_types::workload::{
    Bundle, RecoveryStep, Seat, WorkloadSpec, WorkloadState, WorkloadStatus,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::artefact::Artefacts;
use crate::beside::{Besides, Listed};
use crate::bridge::Serving;
use crate::cgroup::Cgroups;
use crate::container::Engine;
use crate::folders::Folders;
use crate::gpu::{GpuLease, Gpus};
use crate::image_health::{ImageHealths, ImageWatch};
use crate::instance::{Instance, Program};
use crate::pushed::Wants;
use crate::rpc::Rpc;
use crate::storage::StorageWatch;
use crate::sweep::Claims;
use crate::users::{UserRun, Users};
use crate::volumes::{PREFIX, VolumeLease};
use crate::{DescribeError, Described, Healths, HubPort, WorkloadConfig};

/// Pause before a hub that could not be asked is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// What all workloads of a node share.
pub(crate) struct Common {
    pub(crate) config: WorkloadConfig,
    pub(crate) hub: Arc<dyn HubPort>,
    /// Control groups, or why there are none.
    pub(crate) cgroups: Result<Cgroups, String>,
    pub(crate) artefacts: Artefacts,
    pub(crate) wants: Arc<Wants>,
    pub(crate) engine: Engine,
    /// Users of workloads; `None` where the agent is an ordinary user.
    pub(crate) users: Option<Users>,
    /// Containers that workloads look after.
    pub(crate) claims: Claims,
    pub(crate) gpus: Gpus,
    /// What the checks of images say of containers.
    pub(crate) image_healths: ImageHealths,
    /// Workloads that run, for commands beside them.
    pub(crate) besides: Besides,
    /// Connections of bridges that were refused, since no process of their workload opened them.
    pub(crate) refused: Arc<AtomicU64>,
    pub(crate) spawner: Spawner,
}

/// Where a workload tells how it is doing.
pub(crate) type Tell = Box<dyn Fn(WorkloadStatus) + Send + Sync>;

/// One workload.
pub(crate) struct Workload {
    pub(crate) common: Arc<Common>,
    pub(crate) seat: Seat,
    pub(crate) generation: u64,
    /// Cancelled once it is not wanted any more.
    pub(crate) stop: CancellationToken,
    /// Cancelled once it is to end, and by `stop`; how it ended is told until `stop`.
    pub(crate) finish: CancellationToken,
    pub(crate) tell: Tell,
    /// How often its task fell over before; each is a restart.
    pub(crate) falls: u32,
}

/// What was started, and goes with it.
struct Running {
    instance: Instance,
    bridge: Option<Serving>,
    storage: StorageWatch,
    _image: Option<ImageWatch>,
    /// That a container runs as a user of workloads, and uses its volumes; a process has no volumes, and holds the other
    /// itself.
    _held: (Option<UserRun>, Option<VolumeLease>),
    _listed: Option<Listed>,
}

impl Workload {
    /// Runs it until it is not wanted any more, or ends for good; then nothing of it is left but its data.
    pub(crate) async fn run(self) {
        self.say(WorkloadState::Pending, String::new());
        let Some(described) = self.describe().await else { return };
        let mut run = Run::new(&self, described);
        run.go().await;
        run.clean().await;
    }

    /// Asks the hub until it answers; `None` where the workload is not wanted meanwhile, or cannot be run here.
    async fn describe(&self) -> Option<Described> {
        loop {
            let asked = self.common.hub.describe(self.seat.service, self.generation);
            match self.stop.run_until_cancelled(asked).await? {
                Ok(described) => return Some(described),
                // The newer assignment cancels this one; until it comes there is nothing to do.
                Err(DescribeError::Changed) => {}
                Err(error @ DescribeError::Unreadable(_)) => {
                    // A newer agent may read it.
                    let status = self.status(WorkloadState::Failed);
                    let (reason, restarts) = (error.to_string(), self.falls);
                    (self.tell)(WorkloadStatus { reason, restarts, refused: true, ..status });
                    self.stop.cancelled().await;
                    return None;
                }
                Err(error @ DescribeError::Away(_)) => {
                    self.say(WorkloadState::Pending, error.to_string());
                }
            }
            self.stop.run_until_cancelled(tokio::time::sleep(ASK_AGAIN)).await?;
        }
    }

    /// Tells of one that has not been started yet.
    fn say(&self, state: WorkloadState, reason: String) {
        (self.tell)(WorkloadStatus { reason, restarts: self.falls, ..self.status(state) });
    }

    /// A state since now.
    fn status(&self, state: WorkloadState) -> WorkloadStatus {
        WorkloadStatus::new(self.seat.service, self.generation, state, SystemTime::now().into())
    }
}

/// A workload whose document is known.
struct Run<'a> {
    workload: &'a Workload,
    spec: WorkloadSpec,
    bundle: Bundle,
    folders: Folders,
    life: Life,
    program: Option<Program>,
    running: Option<Running>,
    /// GPUs that are its alone; they stay over restarts.
    gpus: Option<GpuLease>,
    /// Ports for RPC URLs of loopback; they stay over restarts.
    rpc: Option<Rpc>,
    told: Option<WorkloadStatus>,
    /// What the checks of its port find, and what they found last.
    healths: watch::Receiver<Arc<Healths>>,
    health: Option<(Health, String)>,
    /// What was done to make it well, the newest.
    steps: VecDeque<RecoveryStep>,
}

impl<'a> Run<'a> {
    fn new(workload: &'a Workload, described: Described) -> Self {
        let Described { spec, bundle } = described;
        let config = &workload.common.config;
        let folders = Folders::of(&config.state, &config.runtime, workload.seat, &spec.name);
        let mut life = Life::new(&spec);
        if keeps(&folders) {
            // By an earlier assignment, or an earlier agent.
            life.handle_started();
        }
        Self {
            workload,
            spec,
            bundle,
            folders,
            life,
            program: None,
            running: None,
            gpus: None,
            rpc: None,
            told: None,
            healths: workload.common.hub.healths(),
            health: None,
            steps: VecDeque::new(),
        }
    }

    async fn go(&mut self) {
        loop {
            let step = self.life.next_step(Instant::now());
            self.tell();
            match step {
                Step::Prepare => self.prepare_now(false).await,
                Step::Redeploy => {
                    info!(service = %self.workload.seat.service, "workload is deployed anew");
                    // Held no longer, so that it can be fetched again.
                    self.program = None;
                    self.remove_memory().await;
                    self.prepare_now(true).await;
                }
                Step::Start => match self.start().await {
                    Ok(running) => {
                        self.running = Some(running);
                        self.life.handle_started();
                    }
                    Err(failed) => {
                        warn!(service = %self.workload.seat.service, reason = failed.reason, "workload not started");
                        self.life.handle_not_started(failed, Instant::now());
                    }
                },
                Step::Terminate => {
                    if let Some(running) = &self.running {
                        running.instance.terminate().await;
                    }
                }
                Step::Kill => {
                    if let Some(running) = &self.running {
                        running.instance.kill().await;
                    }
                }
                Step::Wait(until) => self.wait(until).await,
                Step::Done if self.workload.stop.is_cancelled() => return,
                // It ended by itself: it is told until it is taken back.
                Step::Done => self.remove_traces().await,
            }
            if self.workload.finish.is_cancelled() {
                self.life.handle_stop(Instant::now());
                if self.running.is_none() && self.workload.stop.is_cancelled() {
                    self.tell();
                    return;
                }
            }
        }
    }
}

/// Whether the data of a workload or a volume of its service has anything. A start that failed leaves them empty.
fn keeps(folders: &Folders) -> bool {
    let beside = folders.data.parent().map(fs::read_dir).into_iter().flatten().flatten().flatten();
    let is_volume =
        |entry: &fs::DirEntry| entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes());
    let volumes = beside.filter(is_volume).map(|entry| entry.path());
    // What cannot be read may keep something.
    let has_any = |folder: PathBuf| match fs::read_dir(folder) {
        Ok(mut entries) => entries.next().is_some(),
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    };
    std::iter::once(folders.data.clone()).chain(volumes).any(has_any)
}

#[cfg(test)]
mod tests {
    use blueprint_common_types::ServiceKey;

    use super::*;

    #[test]
    fn folders_of_a_start_that_failed_keep_nothing() {
        let place = tempfile::tempdir().unwrap();
        let seat = Seat::first(ServiceKey { blueprint: 7, service: 1 });
        let folders = Folders::of(&place.path().join("state"), &place.path().join("runtime"), seat, "one");
        assert!(!keeps(&folders));
        folders.create(None).unwrap();
        let volume = folders.volume("db");
        fs::create_dir(&volume).unwrap();
        fs::write(folders.data.with_file_name("other"), "x").unwrap();
        assert!(!keeps(&folders));
        for folder in [&folders.data, &volume] {
            let file = folder.join("file");
            fs::write(&file, "x").unwrap();
            assert!(keeps(&folders), "{}", file.display());
            fs::remove_file(file).unwrap();
        }
        fs::remove_dir(&folders.data).unwrap();
        assert!(!keeps(&folders));
    }
}
