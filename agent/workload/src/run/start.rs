//! How a workload gets its program and begins.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use blueprint_agent_workload_core::{PrepareFailed, label};
use blueprint_common_types::workload::{Source, SourceError};
use tokio::task::spawn_blocking;
use tracing::{info, warn};

use super::{Common, Run, Running};
use crate::artefact::NativeArtefact;
use crate::beside::Ran;
use crate::bridge::{BridgeConfig, Serving, serve};
use crate::cgroup::{Cgroup, CgroupError};
use crate::container::{EngineError, RegistryAuth};
use crate::disk::{self, Disk};
use crate::gpu::GpuLease;
use crate::instance::{Instance, Program, Start, contain, failed};
use crate::keeper::{Errand, Wipe};
use crate::logs::{self, LogErrand};
use crate::meter::Meter;
use crate::process::Process;
use crate::rpc::{self, Rpc};
use crate::storage::{self, Holder, StorageWatch};
use crate::users::UserRun;
use crate::volumes::VolumeLease;
use crate::{keystore, left, native, registration};

/// Why a container is not run whose processes could not use its bridge.
const HIDDEN: &str = "this agent does not see the processes of the container engine, so it could not tell who calls the workload's \
                      bridge: take ProtectProc= out of the agent's unit (or hidepid= off /proc), use an engine of the agent's own user, \
                      or run the agent as root where the engine runs";

/// Tells a bridge which processes are its workload's. A container is ended whose processes it could only refuse.
async fn admit(
    common: &Common,
    instance: &mut Instance,
    bridge: &Serving,
    has_user: bool,
) -> Result<(), PrepareFailed> {
    let kin = instance.kin();
    if kin.is_none() && !has_user && instance.is_hidden(&common.engine).await {
        instance.kill().await;
        // What the engine does not do now is done by the next sweep.
        let _ = instance.remove().await;
        // One that ended this moment and that the engine still has looks the same.
        return Err(PrepareFailed::here_for_now(HIDDEN.to_owned()));
    }
    bridge.reached_at(instance.reach(), kin);
    Ok(())
}

/// Folders of a workload that were made for a start.
struct Made {
    user: Option<(u32, u32)>,
    user_run: Option<UserRun>,
    volumes: Option<VolumeLease>,
}

impl Run<'_> {
    pub(super) async fn prepare_now(&mut self, is_anew: bool) {
        let taken = self.take_gpus();
        if let Err(reason) = taken {
            warn!(service = %self.workload.seat.service, reason, "workload not prepared");
            self.life.handle_prepared(Err(PrepareFailed::for_now(reason)), Instant::now());
            return;
        }
        let prepared = match self.workload.finish.run_until_cancelled(self.prepare(is_anew)).await {
            Some(prepared) => prepared,
            None => Err(PrepareFailed::for_now(String::new())),
        };
        let now = Instant::now();
        match prepared {
            Ok(program) => {
                self.program = Some(program);
                self.life.handle_prepared(Ok(()), now);
            }
            Err(failed) => {
                warn!(service = %self.workload.seat.service, reason = failed.reason, "workload not prepared");
                self.life.handle_prepared(Err(failed), now);
            }
        }
    }

    /// Takes its GPUs, once.
    fn take_gpus(&mut self) -> Result<(), String> {
        // What the machine does not have at all is told apart, and for good.
        if self.gpus.is_none() && native::check_machine(&self.spec).is_ok() {
            self.gpus = Some(self.workload.common.gpus.take(&self.spec.limits)?);
        }
        Ok(())
    }

    /// Fetches and checks its program; `is_anew` also where it is in the cache.
    async fn prepare(&self, is_anew: bool) -> Result<Program, PrepareFailed> {
        native::check_machine(&self.spec)?;
        let common = &self.workload.common;
        let none = common.cgroups.as_ref().err().map(String::as_str);
        let unheld = none.or_else(|| native::escapes(&self.spec, nix::unistd::geteuid().is_root()));
        native::check_limits(&self.spec, unheld.filter(|_| !common.config.allow_unlimited))?;
        self.disk()?;
        match &self.spec.source {
            Source::Testing { path } => native::testing(path, common.config.testing).map(Program::Testing),
            source @ Source::Native { url, .. } => {
                let Some(artefact) = NativeArtefact::of(source) else {
                    return Err(PrepareFailed::for_good(format!("{url} is no artefact")));
                };
                let (service, generation) = (self.workload.seat.service, self.workload.generation);
                let _want = source.pushed().map(|sha256| common.wants.want(*sha256, service, generation));
                let got = if is_anew {
                    common.artefacts.get_anew(&artefact, |_| {}).await
                } else {
                    common.artefacts.get(&artefact, |_| {}).await
                };
                got.map(Program::Native).map_err(|error| PrepareFailed::from(&error))
            }
            Source::Container { image, digest, .. } => {
                self.check_gpu_runtime().await?;
                let auth = self.bundle.registry.as_ref().map(RegistryAuth::from);
                let pulled = if is_anew {
                    common.engine.pull_anew(image, digest, auth.as_ref()).await
                } else {
                    common.engine.pull(image, digest, auth.as_ref(), |_| {}).await
                };
                pulled.map(|()| Program::Image).map_err(|error| failed(&error))
            }
            Source::Wasm {} => Err(PrepareFailed::for_good(SourceError::Wasm.to_string())),
        }
    }

    /// The disk whose use its limits bound; `None` where they do not, or need not.
    fn disk(&self) -> Result<Option<Disk>, PrepareFailed> {
        let Common { config, cgroups, .. } = self.workload.common.as_ref();
        disk::bound(&self.spec, &config.state, cgroups.as_ref().ok(), config.allow_unlimited)
    }

    /// Refuses a container that needs a GPU which its engine cannot give, before anything is fetched for it.
    async fn check_gpu_runtime(&self) -> Result<(), PrepareFailed> {
        let ids = self.gpus.as_ref().map(GpuLease::nvidia_ids).unwrap_or_default();
        if ids.is_empty() || self.spec.limits.required_gpus() == 0 {
            return Ok(());
        }
        let engine = self.workload.common.engine.check().await.map_err(|error| failed(&error))?;
        if engine.has_gpu_runtime || has_hook() {
            return Ok(());
        }
        let said = "it has no runtime for them; install NVIDIA's container toolkit on the node".to_owned();
        Err(failed(&EngineError::NoGpu { wanted: self.spec.limits.required_gpus(), said }))
    }

    pub(super) async fn start(&mut self) -> Result<Running, PrepareFailed> {
        if self.rpc.is_none() {
            self.rpc = Some(self.open_rpc().await?);
        }
        let Some(rpc) = &self.rpc else {
            return Err(PrepareFailed::for_now("it has no RPC".to_owned()));
        };
        let common = &self.workload.common;
        let seat = self.workload.seat;
        let (service, generation) = (seat.service, self.workload.generation);
        let broken = |what: &str, error: &dyn std::fmt::Display| {
            PrepareFailed::here_for_now(format!("{what}: {error}"))
        };
        let Made { user, mut user_run, volumes } = self.make_folders().await?;
        let measured = self.folders.measured(self.spec.source.volumes()).to_owned();
        let storage_limit = self.spec.limits.storage_bytes;
        let held = storage::check(&measured, storage_limit);
        // Where its end is asked for meanwhile, nothing is started.
        let held = self.workload.finish.run_until_cancelled(held).await.unwrap_or(Err(String::new()));
        let held = held.map_err(PrepareFailed::for_now)?;
        keystore::write(&self.folders, &self.bundle, user)?;
        if self.spec.registration {
            let cleared = registration::clear(&self.folders);
            cleared.map_err(|error| broken("earlier registration inputs cannot be removed", &error))?;
        }
        let secret = self.bundle.envelope_key.as_ref().map(|key| {
            let digits: String = key.expose().iter().map(|byte| format!("{byte:02x}")).collect();
            ("TLS_ENVELOPE_KEY".to_owned(), digits)
        });
        let bridge = self.open_bridge(user)?;
        let (spec, bundle, folders) = (&self.spec, &self.bundle, &self.folders);
        let none = GpuLease::default();
        let gpus = self.gpus.as_ref().unwrap_or(&none);
        let start =
            Start { seat, spec, bundle, folders, secret_env: secret, user, rpc, gpus, disk: self.disk()? };
        let limits = common.config.logs;
        if !folders.logs.exists() {
            let state = common.config.state.clone();
            // Whether there is room is another question than whether it starts.
            let _ = spawn_blocking(move || logs::prune(&state)).await;
        }
        let log = LogErrand::new(folders.logs.clone(), limits, generation, spec, &self.bundle);
        let wipe = Wipe::of(folders).map_err(|error| broken("its folder in memory is gone", &error))?;
        let mut native = None;
        let mut instance = match self.program.as_ref().map(Program::path) {
            None => return Err(PrepareFailed::for_now("it was not prepared".to_owned())),
            Some(None) => contain(common, start, log, wipe).await?,
            Some(Some(program)) => {
                let group = self.group(label(seat)).await?;
                let launch = native::launch(start, program, group.as_ref());
                let errand = Errand { launch, grace_secs: self.spec.stop_grace_secs.into(), log, wipe };
                let held = (group.clone(), user_run.take());
                let process = Process::start(&common.config.agent, &errand, held, &common.spawner).await?;
                left::note(&self.folders.runtime, process.traces());
                let meter = Meter::Native(group, process.keeper());
                native = Some(Ran::Native(Box::new(errand.launch), process.pid(), meter));
                Instance::Process(Box::new(process))
            }
        };
        if let Some(bridge) = &bridge {
            admit(common, &mut instance, bridge, user.is_some()).await?;
        }
        info!(%service, pid = instance.pid(), "workload started");
        let holder = match user {
            Some((user, _)) => Holder::User(user),
            None => instance.holder(),
        };
        let storage = StorageWatch::start(measured, holder, storage_limit, held, &common.spawner);
        let image = instance.checked().cloned();
        let image = image.map(|it| common.image_healths.watch(seat, it, &common.spawner));
        let ran = native.or_else(|| instance.inside().map(Ran::Container));
        let list = |ran| common.besides.list((service, generation), ran, &self.spec, &self.bundle);
        let held = (user_run, volumes);
        Ok(Running { instance, bridge, storage, _image: image, _held: held, _listed: ran.map(list) })
    }

    /// Makes its folders and those of its volumes, and gives them to its user.
    async fn make_folders(&self) -> Result<Made, PrepareFailed> {
        let (common, folders) = (Arc::clone(&self.workload.common), self.folders.clone());
        let (volumes, finish) = (self.spec.source.volumes().to_vec(), self.workload.finish.clone());
        let (own_user, of) = (self.spec.sandbox.own_user, (self.workload.seat, self.workload.generation));
        let made = spawn_blocking(move || {
            // They are written anew.
            keystore::remove(&folders);
            let users = common.users.as_ref();
            let user = folders.create(users.filter(|_| own_user));
            let user = user.map_err(|error| format!("its folders cannot be made: {error}"))?;
            let user_run = users.zip(user).map(|(users, (user, _))| users.run(user));
            let volumes = folders.create_volumes(&volumes, user, (users, of), &|| finish.is_cancelled());
            let volumes =
                volumes.map_err(|error| format!("the folders of its volumes cannot be made: {error}"))?;
            Ok::<_, String>(Made { user, user_run, volumes })
        });
        let made = made.await.unwrap_or_else(|error| Err(error.to_string()));
        made.map_err(PrepareFailed::for_now)
    }

    /// Serves its bridge, where it has one.
    fn open_bridge(&self, user: Option<(u32, u32)>) -> Result<Option<Serving>, PrepareFailed> {
        if self.spec.test_mode {
            return Ok(None);
        }
        let (common, seat) = (&self.workload.common, self.workload.seat);
        let config = BridgeConfig {
            seat,
            generation: self.workload.generation,
            socket: self.folders.socket.clone(),
            user,
            check: (self.spec.health.check.clone(), self.spec.health.pace),
            refused: Arc::clone(&common.refused),
            metrics: self.spec.metrics.clone(),
        };
        let served = serve(config, Arc::clone(&common.hub), &common.spawner);
        served
            .map(Some)
            .map_err(|error| PrepareFailed::here_for_now(format!("its bridge cannot listen: {error}")))
    }

    /// Listens for what the workload has to reach on the operator's machine.
    async fn open_rpc(&self) -> Result<Rpc, PrepareFailed> {
        let chain = &self.spec.chain;
        if !Rpc::is_needed(chain) {
            return Ok(Rpc::default());
        }
        let common = &self.workload.common;
        let ip = match &self.spec.source {
            Source::Native { .. } | Source::Testing { .. } | Source::Wasm {} => rpc::LOOPBACK,
            Source::Container { .. } => {
                let gateway = common.engine.gateway().await.map_err(|error| failed(&error))?;
                gateway.ok_or_else(|| {
                    PrepareFailed::here(
                        "its RPC URL is on the hub's loopback, and this node's container engine has no address \
                         that containers reach; use Docker, or an RPC URL that the container reaches itself"
                            .to_owned(),
                    )
                })?
            }
        };
        let asker = (self.workload.seat.service, self.workload.generation);
        let opened = Rpc::open(&common.hub, asker, chain, ip, &common.spawner).await;
        opened.map_err(|error| {
            PrepareFailed::here_for_now(format!("no port of this node for its RPC: {error}"))
        })
    }

    async fn group(&self, label: String) -> Result<Option<Cgroup>, PrepareFailed> {
        let Ok(cgroups) = self.workload.common.cgroups.clone() else { return Ok(None) };
        let (limits, disk) = (self.spec.limits, self.disk()?);
        let failed = PrepareFailed::here_for_now;
        let made = spawn_blocking(move || {
            let group = cgroups.create(&label, &limits)?;
            if let Some(disk) = disk {
                cgroups.bound_disk(&label, &disk.number, &limits.io)?;
            }
            Ok::<_, CgroupError>(group)
        });
        let made = made.await;
        let group = made.map_err(|error| failed(error.to_string()))?;
        group.map(Some).map_err(|error| failed(error.to_string()))
    }
}

/// Whether NVIDIA's hook is on this machine, by which an engine gives GPUs without saying that it can.
fn has_hook() -> bool {
    let folders = ["/usr/bin", "/usr/local/bin", "/usr/local/nvidia/toolkit"];
    folders.iter().any(|folder| Path::new(folder).join("nvidia-container-runtime-hook").exists())
}
