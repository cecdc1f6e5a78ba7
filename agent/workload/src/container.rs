//! Containers as workloads, by the Docker Engine API over its Unix socket; Podman's service speaks it, too.
//!
//! [`Engine`] checks what the engine can, fetches images by their digests and runs them; [`Running`] is one container
//! until its end. Nothing here restarts anything: that is the agent's to decide (`Life`), and the engine is told to
//! leave it alone. No command of an engine is ever started.
//!
//! Invariants:
//! - an image is run by its digest, never by a tag;
//! - a container that this agent did not make, by its label, is neither removed nor replaced;
//! - containers reach neither each other nor a port of the node that is bound to loopback (Docker);
//! - answers are read up to a bound, and all calls but the wait for an end and the output have a limit of time;
//! - dropping a future ends its exchange; what it may leave, [`Engine::leftovers`] finds.

mod error;
mod exec;
mod info;
mod inspect;
mod logs;
mod network;
mod pull;
mod running;
mod spec;
mod transport;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use blueprint_common_types::workload::GpuPolicy;
use http::StatusCode;
use serde::Deserialize;
use serde_json::json;
use tokio::time::sleep;
use tracing::{info, warn};

pub use blueprint_common_engine::ApiVersion;
pub use error::EngineError;
pub(crate) use exec::is_not_running;
pub use exec::{Exec, ExecOutputs, ExecSpec, ExecState};
pub use info::{EngineInfo, Product};
pub use logs::{LogLine, LogStream, Logs, MAX_LOG_LINE_BYTES};
pub use pull::{Progress, RegistryAuth};
pub use running::{Health, Running, Stats};
pub use spec::{ContainerSpec, ExtraHost, Mount, NODE_LABEL, SERVICE_LABEL};

use inspect::Container;
use spec::Plan;
use transport::{CHANGE, Call, Socket, encode};

/// Pause between two looks at a container that the engine is removing already.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// The container engine that listens on one socket. Each call opens a connection of its own.
#[derive(Debug, Clone)]
pub struct Engine {
    socket: Socket,
}

/// A container of this agent, of an earlier run of it perhaps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leftover {
    /// The engine's name for it.
    pub id: String,
    /// Its name, `svc-B-S`.
    pub name: String,
    /// Whether it runs.
    pub is_running: bool,
}

impl Engine {
    /// Takes the socket, such as `/var/run/docker.sock` or `/run/podman/podman.sock`; nothing is opened yet.
    #[must_use]
    pub fn new(socket: PathBuf) -> Self {
        Self { socket: Socket::new(socket) }
    }

    /// Asks the engine what it is and what it can do.
    ///
    /// # Errors
    ///
    /// [`EngineError::NoEngine`], [`EngineError::NoAccess`] and [`EngineError::Version`] where there is none to use;
    /// others where it does not answer within 10 s.
    pub async fn check(&self) -> Result<EngineInfo, EngineError> {
        let version = self.version().await?;
        let api = version.negotiate(self.socket.path())?;
        let system = self.socket.ask(&Call::get("say what it can do", format!("/v{api}/info"))).await?;
        Ok(EngineInfo::new(api, &version, &system))
    }

    async fn version(&self) -> Result<info::Version, EngineError> {
        self.socket.ask(&Call::get("say its version", "/version".to_owned())).await
    }

    /// The beginning of all paths. Asked each time, since an engine may be replaced while the agent runs.
    async fn api(&self) -> Result<String, EngineError> {
        let version = self.version().await?.negotiate(self.socket.path())?;
        Ok(format!("/v{version}"))
    }

    /// The address of this node as containers reach it, on the network that [`Engine::run`] puts them on; it is made
    /// where it is not there. What containers are to reach here listens on it. `None` where the engine has no such
    /// network, as Podman.
    ///
    /// # Errors
    ///
    /// As [`Engine::check`], and [`EngineError::Network`] where its name is taken.
    pub async fn gateway(&self) -> Result<Option<IpAddr>, EngineError> {
        let engine = self.check().await?;
        let network = network::network(&self.socket, &format!("/v{}", engine.api), &engine).await?;
        Ok(network.and_then(|network| network.gateway))
    }

    /// Makes a container and starts it. One of the same name that this agent made is removed first.
    ///
    /// GPUs that are preferred are left out where the engine cannot give them; see [`Running::gpus`].
    ///
    /// # Errors
    ///
    /// [`EngineError::Foreign`] where the name is taken by somebody else's container, [`EngineError::NoImage`] before
    /// the pull, [`EngineError::NoGpu`] and [`EngineError::Unbounded`] where the limits cannot be had here; others as
    /// they say. Then no container is left, unless the engine itself is lost.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future may leave a container; the next run removes it, and [`Engine::leftovers`] lists it.
    pub async fn run(&self, container: &ContainerSpec) -> Result<Running, EngineError> {
        container.check()?;
        let engine = self.check().await?;
        if let Some(limit) = engine.unbounded.first() {
            return Err(EngineError::Unbounded { limit });
        }
        // What is written to a file is the kernel's own doing later, and with version 1 in nobody's group.
        if container.disk.is_some() && container.limits.io.bounds_writes() && engine.cgroup_version == 1 {
            return Err(EngineError::Unbounded { limit: "writes to disks" });
        }
        let api = format!("/v{}", engine.api);
        self.make_room(&api, container).await?;
        let Some(image) = self.image(&api, &container.image, &container.digest).await? else {
            let said = "the engine does not have it; pull it first".to_owned();
            return Err(EngineError::NoImage {
                image: container.image.clone(),
                digest: container.digest,
                said,
            });
        };
        let volumes = image.volumes();
        let network = network::network(&self.socket, &api, &engine).await?;
        let with_gpus = container.gpus() > 0;
        let mut plan = Plan { info: &engine, volumes: &volumes, network, with_gpus };
        let started = match self.start(&api, container, plan).await {
            Err(error) if plan.with_gpus && is_gpu_fault(error.said()) => match container.limits.gpu_policy {
                GpuPolicy::Preferred => {
                    info!(container = %container.name, %error, "no GPU here, and none is required");
                    plan.with_gpus = false;
                    self.start(&api, container, plan).await?
                }
                GpuPolicy::None | GpuPolicy::Required => {
                    let said = error.said().to_owned();
                    return Err(EngineError::NoGpu { wanted: container.gpus(), said });
                }
            },
            started => started?,
        };
        let mut running = Running::new(self.socket.clone(), api, &container.name, &started);
        running.gpus = if plan.with_gpus { container.gpus() } else { 0 };
        // The network of a rootless engine is its own, and has no way in from the node but ports.
        running.address = running.address.filter(|_| !engine.is_rootless);
        Ok(running)
    }

    /// Removes the container of this name, where this agent made it.
    async fn make_room(&self, api: &str, container: &ContainerSpec) -> Result<(), EngineError> {
        match Container::find(&self.socket, api, &container.name).await? {
            None => Ok(()),
            Some(old) if old.is_of(&container.node) => remove(&self.socket, api, &old.id).await,
            Some(_) => Err(EngineError::Foreign { name: container.name.clone() }),
        }
    }

    /// One attempt: it runs, or it is not there.
    async fn start(
        &self,
        api: &str,
        container: &ContainerSpec,
        plan: Plan<'_>,
    ) -> Result<Container, EngineError> {
        let name = &container.name;
        let path = format!("{api}/containers/create?name={name}");
        let create = Call::post(format!("make the container {name}"), path).body(container.to_json(plan));
        let created: Created = self.socket.ask(&create).await?;
        for warning in created.warnings.iter().flatten() {
            warn!(container = %name, warning, "the container engine warns");
        }
        let started = self.start_created(api, &created.id, name).await;
        if started.is_err()
            && let Err(error) = remove(&self.socket, api, &created.id).await
        {
            warn!(container = %name, %error, "a container that does not start is left");
        }
        started
    }

    async fn start_created(&self, api: &str, id: &str, name: &str) -> Result<Container, EngineError> {
        let start = Call::post(format!("start the container {name}"), format!("{api}/containers/{id}/start"));
        self.socket.tell(&start, &[]).await?;
        let started = Container::find(&self.socket, api, id).await?;
        started.ok_or_else(|| EngineError::Broken {
            action: start.action,
            reason: "somebody else removed it right away".to_owned(),
        })
    }

    /// The containers that carry this label of an agent, running or not.
    ///
    /// # Errors
    ///
    /// Fails where the engine cannot be used or does not answer within 10 s.
    pub async fn leftovers(&self, node_label: &str) -> Result<Vec<Leftover>, EngineError> {
        let api = self.api().await?;
        let label = format!("{NODE_LABEL}={node_label}");
        let filters = encode(&json!({ "label": [label] }).to_string());
        let path = format!("{api}/containers/json?all=1&filters={filters}");
        let all: Vec<Listed> = self.socket.ask(&Call::get("list its containers", path)).await?;
        let is_ours = |listed: &Listed| {
            listed.labels.iter().any(|labels| labels.get(NODE_LABEL).is_some_and(|label| label == node_label))
        };
        Ok(all.into_iter().filter(is_ours).map(Listed::into_leftover).collect())
    }

    /// Asks a container to end, and kills it where it has not after `grace`, in whole seconds. One that has ended or is
    /// gone is no error.
    ///
    /// # Errors
    ///
    /// As [`Engine::remove`].
    pub async fn stop(&self, id: &str, grace: Duration) -> Result<(), EngineError> {
        let id = checked(id)?;
        let path = format!("{}/containers/{id}/stop?t={}", self.api().await?, grace.as_secs());
        let call = Call::post(format!("stop the container {id}"), path);
        self.socket.tell(&call, &[StatusCode::NOT_FOUND, StatusCode::CONFLICT]).await.map(drop)
    }

    /// The container of this id, whoever made it; `None` where it is gone.
    ///
    /// # Errors
    ///
    /// Fails where the engine cannot be used or does not answer within 10 s.
    pub async fn find(&self, id: &str) -> Result<Option<Running>, EngineError> {
        let (id, api) = (checked(id)?, self.api().await?);
        let found = Container::find(&self.socket, &api, id).await?;
        Ok(found.map(|found| Running::new(self.socket.clone(), api, id, &found)))
    }

    /// What the container of this id uses now; `None` where it is gone.
    ///
    /// # Errors
    ///
    /// Fails where the engine cannot be used or does not answer within 10 s.
    pub async fn stats(&self, id: &str) -> Result<Option<Stats>, EngineError> {
        let (id, api) = (checked(id)?, self.api().await?);
        running::figures(&self.socket, &api, id).await
    }

    /// Removes a container by its id, killing it first where it runs, with all that it wrote. One that is gone is no
    /// error.
    ///
    /// It does not ask whose it is: take ids from [`Engine::leftovers`] and [`Running`].
    ///
    /// # Errors
    ///
    /// Fails where the engine cannot be used, refuses, or has not done it within a minute.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future may leave it half removed; a further call goes on.
    pub async fn remove(&self, id: &str) -> Result<(), EngineError> {
        let id = checked(id)?;
        remove(&self.socket, &self.api().await?, id).await
    }
}

/// An id as a part of a path.
fn checked(id: &str) -> Result<&str, EngineError> {
    if spec::is_name(id) {
        return Ok(id);
    }
    let name = id.chars().filter(|c| !c.is_control()).take(64).collect();
    let reason = "is no id of an engine".to_owned();
    Err(EngineError::Spec { name, field: "id", reason })
}

/// Removes a container; one that the engine is removing already is waited for.
async fn remove(socket: &Socket, api: &str, id: &str) -> Result<(), EngineError> {
    let path = format!("{api}/containers/{id}?force=1&v=1");
    let call = Call::delete(format!("remove the container {id}"), path);
    let gone = Box::pin(async {
        loop {
            let fine = [StatusCode::NOT_FOUND, StatusCode::CONFLICT];
            if socket.tell(&call, &fine).await? != StatusCode::CONFLICT {
                return Ok(());
            }
            sleep(LOOK_AGAIN).await;
        }
    });
    let timeout = || EngineError::Timeout { action: call.action.clone(), after: CHANGE };
    tokio::time::timeout(CHANGE, gone).await.map_err(|_| timeout())?
}

/// Whether an engine says that it has no GPU to give, or not so many (Docker, NVIDIA's hook, CDI).
fn is_gpu_fault(said: &str) -> bool {
    let signs = ["could not select device driver", "nvidia-container", "nvidia.com/gpu", "CDI device"];
    signs.iter().any(|sign| said.contains(sign))
}

/// `POST /containers/create`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Created {
    id: String,
    #[serde(default)]
    warnings: Option<Vec<String>>,
}

/// One row of `GET /containers/json`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Listed {
    id: String,
    names: Option<Vec<String>>,
    labels: Option<BTreeMap<String, String>>,
    state: String,
}

impl Listed {
    fn into_leftover(self) -> Leftover {
        let name = self.names.into_iter().flatten().next().unwrap_or_default();
        let name = name.trim_start_matches('/').to_owned();
        Leftover { id: self.id, name, is_running: self.state == "running" }
    }
}

#[cfg(test)]
mod tests;
