//! All workloads of this node: as many as the hub assigned, and no others.

use std::collections::BTreeMap;
use std::future::pending;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Instant, SystemTime};

use blueprint_agent_workload_core::Falls;
use blueprint_common_runtime::tasks::Spawner;
use blueprint_common_types::workload::{Inventory, Seat, WorkloadState, WorkloadStatus};
use blueprint_common_types::{DoorRefusal, ExecAsk, ServiceKey, Timestamp, WorkloadUse};
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep_until;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{info, warn};

use crate::artefact::{ArtefactConfig, Artefacts, Pushed};
use crate::beside::{Besides, Session};
use crate::cgroup::{CgroupError, Cgroups};
use crate::container::Engine;
use crate::gpu::Gpus;
use crate::image_health::ImageHealths;
use crate::inventory::inventory;
use crate::logs::{self, LogShelf};
use crate::meter;
use crate::pushed::Wants;
use crate::run::{Common, Workload};
use crate::sweep::{Claims, sweep};
use crate::users::Users;
use crate::{Assigned, Assignment, HubPort, WorkloadConfig, container, left};

/// Ends of workloads that wait to be noted; a hub assigns 64 to a node at most.
const ENDS: usize = 1024;

/// How all workloads are doing.
pub type Statuses = BTreeMap<Seat, WorkloadStatus>;

/// Tells a node what to run, and reads how that goes; cheap to clone.
#[derive(Clone)]
pub struct NodeHandle {
    assigned: watch::Sender<Option<Assigned>>,
    statuses: watch::Receiver<Arc<Statuses>>,
    logs: LogShelf,
    common: Arc<Common>,
}

impl NodeHandle {
    /// Runs these and no others.
    pub fn assign(&self, assigned: Assigned) {
        self.assigned.send_if_modified(|now| {
            let is_news = now.as_ref() != Some(&assigned);
            *now = Some(assigned);
            is_news
        });
    }

    /// How all of them are doing, from now on.
    #[must_use]
    pub fn statuses(&self) -> watch::Receiver<Arc<Statuses>> {
        self.statuses.clone()
    }

    /// What the check of its image says of a container; `None` where the image has none, or nothing runs.
    #[must_use]
    pub fn image_health(&self, seat: Seat) -> Option<container::Health> {
        self.common.image_healths.of(seat)
    }

    /// What workloads wrote, of this node and kept.
    #[must_use]
    pub fn logs(&self) -> LogShelf {
        self.logs.clone()
    }

    /// What this machine has for workloads, and whether it holds their limits.
    #[must_use]
    pub fn inventory(&self) -> Inventory {
        Inventory {
            limits_held: Some(self.common.cgroups.is_ok()),
            runs_unlimited: self.common.config.allow_unlimited,
            ..inventory()
        }
    }

    /// Connections of bridges that were refused, since no process of their workload opened them.
    #[must_use]
    pub fn bridges_refused(&self) -> u64 {
        self.common.refused.load(Ordering::Relaxed)
    }

    /// Starts a command beside a workload of this node.
    ///
    /// # Errors
    ///
    /// Why it does not.
    pub async fn exec(&self, ask: ExecAsk) -> Result<Session, DoorRefusal> {
        let Common { besides, config, engine, spawner, .. } = self.common.as_ref();
        besides.begin((&config.agent, engine), ask, spawner).await
    }

    /// What all workloads of this node use now, each with all that it started, by service and generation. A container
    /// whose engine does not answer within two seconds is not there.
    pub async fn uses(&self) -> BTreeMap<(ServiceKey, u64), WorkloadUse> {
        meter::read(self.common.besides.meters(), &self.common.engine).await
    }
}

impl std::fmt::Debug for NodeHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeHandle").finish_non_exhaustive()
    }
}

/// The task.
pub struct Node {
    common: Arc<Common>,
    assigned: watch::Receiver<Option<Assigned>>,
    statuses: Arc<Mutex<watch::Sender<Arc<Statuses>>>>,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node").finish_non_exhaustive()
    }
}

/// Name of the folder of control groups.
fn cgroup_name(node: &str) -> String {
    let short: String = node.chars().take(8).collect();
    format!("blueprint-{short}")
}

/// A workload that runs in a task of its own.
struct Live {
    generation: u64,
    began: Instant,
    stop: CancellationToken,
    /// Cancelled once it is to end; how it did is told until `stop`, which cancels this, too.
    finish: CancellationToken,
}

/// Where ends of tasks are told: whose, and whether it fell over.
type Ends = mpsc::Sender<(Seat, u64, bool)>;

/// Says that a workload's task is over, also where it panicked.
struct End {
    of: (Seat, u64),
    ended: Ends,
    /// Set at the end of the task.
    is_done: bool,
}

impl Drop for End {
    fn drop(&mut self) {
        let (seat, generation) = self.of;
        // There is room for every workload that a hub assigns.
        let _ = self.ended.try_send((seat, generation, !self.is_done));
    }
}

/// The driver's time for cores.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

impl Node {
    /// Puts a node together.
    ///
    /// # Errors
    ///
    /// Fails where its folders cannot be made.
    pub fn new(
        config: WorkloadConfig,
        hub: Arc<dyn HubPort>,
        spawner: Spawner,
    ) -> io::Result<(Self, NodeHandle)> {
        std::fs::create_dir_all(&config.state)?;
        std::fs::create_dir_all(&config.runtime)?;
        for folder in config.runtime.ancestors().take(2) {
            // Others can make folders in a place that all share, and would have the keys in theirs.
            let owner = std::fs::metadata(folder)?.uid();
            if owner != 0 && owner != nix::unistd::geteuid().as_raw() {
                let text = format!(
                    "{} belongs to user {owner}; name another with workload.runtime_dir",
                    folder.display()
                );
                return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
            }
        }
        // Workloads are told where their folders are, and start elsewhere.
        let config = WorkloadConfig {
            state: std::path::absolute(&config.state)?,
            runtime: std::path::absolute(&config.runtime)?,
            ..config
        };
        let cgroups = match &config.cgroups {
            Some(root) => Cgroups::of_this_process(root, &cgroup_name(&config.node)),
            None => Err(CgroupError::Off),
        };
        let cgroups = cgroups.map_err(|error| {
            let allowed = config.allow_unlimited;
            warn!(%error, allowed, "limits of workloads that are no containers are not held on this node");
            error.to_string()
        });
        let (assign, assigned) = watch::channel(None);
        let (sender, statuses) = watch::channel(Arc::default());
        let mut cache = ArtefactConfig::new(config.state.join("artefacts"));
        cache.proxy.clone_from(&config.proxy);
        let wants = Arc::new(Wants::new(Arc::clone(&hub)));
        let pushed: Arc<dyn Pushed> = Arc::<Wants>::clone(&wants);
        cache.hub = Some(pushed);
        let artefacts = Artefacts::new(cache).map_err(io::Error::other)?;
        let engine = Engine::new(config.engine.clone());
        let users = nix::unistd::geteuid().is_root().then(|| Users::new(config.state.join("data")));
        let claims = Claims::default();
        let logs = LogShelf::new(config.state.clone());
        let besides = Besides::default();
        let common = Arc::new(Common {
            config,
            hub,
            cgroups,
            artefacts,
            wants,
            engine,
            users,
            claims,
            gpus: Gpus::new(PathBuf::from("/")),
            image_healths: ImageHealths::default(),
            besides,
            refused: Arc::default(),
            spawner,
        });
        let handle = NodeHandle { assigned: assign, statuses, logs, common: Arc::clone(&common) };
        Ok((Self { common, assigned, statuses: Arc::new(Mutex::new(sender)) }, handle))
    }

    /// Ends what an earlier agent left behind, then runs what is assigned until `stop`; then ends everything, and
    /// comes back once it is gone.
    pub async fn run(mut self, stop: CancellationToken) {
        self.end_left().await;
        let _swept = self.sweep();
        let mut live: BTreeMap<Seat, Live> = BTreeMap::new();
        let mut falls = Falls::default();
        let (ended, mut ends) = mpsc::channel(ENDS);
        let mut is_over = false;
        loop {
            if is_over && live.is_empty() {
                // Empty by now; where it is not, the next agent sees to it.
                let _ = std::fs::remove_dir(&self.common.config.runtime);
                self.common.cgroups.iter().for_each(Cgroups::leave);
                return;
            }
            let wanted =
                if is_over { Some(Assigned::new()) } else { self.assigned.borrow_and_update().clone() };
            if let Some(wanted) = wanted {
                falls.retain(|(service, generation)| {
                    let mut own = wanted.iter().filter(|(seat, _)| seat.service == *service);
                    own.any(|(_, wanted)| wanted.generation == *generation)
                });
                if !is_over {
                    self.follow_volumes(&wanted).await;
                }
                self.follow(&wanted, &mut live, &falls, &ended);
            }
            let rested = falls.poll_timeout(now());
            let rested = async {
                match rested {
                    Some(at) => sleep_until(at.into()).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                biased;
                () = stop.cancelled(), if !is_over => is_over = true,
                Some((seat, generation, has_fallen)) = ends.recv() => {
                    let one = live.remove(&seat);
                    if has_fallen && let Some(one) = one {
                        let ran = now().saturating_duration_since(one.began);
                        let of = (seat.service, generation);
                        falls.handle_fall(of, ran, now());
                        self.tell_fallen(seat, generation, falls.count(&of));
                    } else {
                        self.forget(seat, generation);
                    }
                }
                () = rested => {}
                changed = self.assigned.changed(), if !is_over => is_over |= changed.is_err(),
            }
        }
    }

    /// Ends the processes that an earlier agent left, and removes what they had in memory.
    async fn end_left(&self) {
        let common = Arc::clone(&self.common);
        let ended = tokio::task::spawn_blocking(move || {
            let Common { cgroups, config, users, .. } = common.as_ref();
            for label in cgroups.iter().flat_map(Cgroups::labels) {
                info!(label, "what an earlier agent left is ended");
                cgroups.iter().for_each(|cgroups| cgroups.at(&label).remove());
            }
            left::kill_all(&config.runtime, users.as_ref());
            left::remove_all(&config.runtime);
            logs::prune(&config.state);
        });
        if let Err(error) = ended.await {
            warn!(%error, "what an earlier agent left is not ended");
        }
    }

    /// Removes containers that were left, now and each minute, until what it gives is dropped.
    fn sweep(&self) -> DropGuard {
        let Common { engine, config, claims, spawner, .. } = self.common.as_ref();
        let (stop, sweeping) =
            (CancellationToken::new(), sweep(engine.clone(), config.clone(), claims.clone()));
        let until = stop.clone();
        spawner.spawn_base("container sweep", async move { until.run_until_cancelled(sweeping).await });
        stop.drop_guard()
    }

    /// Keeps in mind which of what is wanted uses which volume; what is not wanted any more uses none.
    async fn follow_volumes(&self, wanted: &Assigned) {
        let (common, wanted) = (Arc::clone(&self.common), wanted.clone());
        let followed = tokio::task::spawn_blocking(move || {
            if let Some(users) = &common.users {
                users.volumes().follow(&common.config.state.join("data"), &wanted);
            }
        });
        if let Err(error) = followed.await {
            warn!(%error, "who uses volumes is not written");
        }
    }

    /// Ends what is not wanted, and starts what is and does not run.
    fn follow(&self, wanted: &Assigned, live: &mut BTreeMap<Seat, Live>, falls: &Falls, ended: &Ends) {
        for (seat, one) in live.iter_mut() {
            match wanted.get(seat).filter(|wanted| wanted.generation == one.generation) {
                Some(wanted) if wanted.ends => one.finish.cancel(),
                Some(_) => {}
                // Another generation waits until it is gone.
                None => one.stop.cancel(),
            }
        }
        self.tell_ended(wanted, live, falls);
        for (seat, Assignment { generation, ends }) in wanted {
            let of = (seat.service, *generation);
            if *ends || live.contains_key(seat) || falls.is_resting(&of, now()) {
                continue;
            }
            let stop = CancellationToken::new();
            let finish = stop.child_token();
            let (statuses, own) = (Arc::clone(&self.statuses), *seat);
            let tell = move |status: WorkloadStatus| {
                statuses.lock().send_modify(|all| {
                    Arc::make_mut(all).insert(own, status);
                });
            };
            let workload = Workload {
                common: Arc::clone(&self.common),
                seat: *seat,
                generation: *generation,
                stop: stop.clone(),
                finish: finish.clone(),
                tell: Box::new(tell),
                falls: falls.count(&of),
            };
            let end = End { of: (*seat, *generation), ended: ended.clone(), is_done: false };
            self.common.spawner.spawn_base("workload", async move {
                let mut end = end;
                Box::pin(workload.run()).await;
                end.is_done = true;
            });
            live.insert(*seat, Live { generation: *generation, began: now(), stop, finish });
        }
    }

    /// Tells of what is to end and does not run, which an earlier agent may have run; forgets it once it is taken back.
    fn tell_ended(&self, wanted: &Assigned, live: &BTreeMap<Seat, Live>, falls: &Falls) {
        let ended: Statuses = wanted
            .iter()
            .filter(|(seat, assignment)| assignment.ends && !live.contains_key(seat))
            .map(|(seat, assignment)| (*seat, not_run(seat.service, assignment.generation)))
            .collect();
        self.statuses.lock().send_if_modified(|all| {
            let is_fallen = |seat: &Seat| {
                wanted.get(seat).is_some_and(|wanted| falls.count(&(seat.service, wanted.generation)) > 0)
            };
            let is_known =
                |seat: &Seat| live.contains_key(seat) || ended.contains_key(seat) || is_fallen(seat);
            let is_news = all.keys().any(|seat| !is_known(seat))
                || ended.iter().any(|(seat, status)| {
                    all.get(seat).is_none_or(|known| known.generation != status.generation)
                });
            if is_news {
                let all = Arc::make_mut(all);
                all.retain(|seat, _| is_known(seat));
                all.extend(ended);
            }
            is_news
        });
    }

    /// Tells of one whose task fell over, until it is started again.
    fn tell_fallen(&self, seat: Seat, generation: u64, count: u32) {
        warn!(service = %seat, generation, count, "the task of a workload fell over; it is started again after a pause");
        let status = WorkloadStatus {
            state: WorkloadState::BackingOff,
            reason: "a fault of the agent ended its task: the agent's log says which".to_owned(),
            restarts: count,
            ..not_run(seat.service, generation)
        };
        self.statuses.lock().send_modify(|all| {
            Arc::make_mut(all).insert(seat, status);
        });
    }

    fn forget(&self, seat: Seat, generation: u64) {
        self.statuses.lock().send_modify(|all| {
            if all.get(&seat).is_some_and(|status| status.generation == generation) {
                Arc::make_mut(all).remove(&seat);
            }
        });
    }
}

/// What is told of a workload that ended before it ran here.
fn not_run(service: ServiceKey, generation: u64) -> WorkloadStatus {
    let now = Timestamp::from(SystemTime::now());
    WorkloadStatus {
        reason: "it did not run on this node when its end was asked for".to_owned(),
        ..WorkloadStatus::new(service, generation, WorkloadState::Ended, now)
    }
}

#[cfg(test)]
mod tests;
