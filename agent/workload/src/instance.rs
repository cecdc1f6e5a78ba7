//! One start of a workload: a process of this machine or a container, told apart here alone.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use blueprint_agent_workload_core::{Exit, Places, PrepareFailed, arguments, environment, label};
use blueprint_common_types::workload::{Bundle, GpuPolicy, RpcKind, Seat, Source, WorkloadSpec};
use tokio::time::{Instant, sleep};
use tracing::warn;

use crate::artefact::Artefact;
use crate::beside::{Inside, secret_names};
use crate::bridge::Kin;
use crate::container::{ContainerSpec, Engine, EngineError, Mount, Running};
use crate::disk::Disk;
use crate::folders::Folders;
use crate::gpu::GpuLease;
use crate::keeper::{ContainerKeeper, Wipe};
use crate::logs::LogErrand;
use crate::process::Process;
use crate::rpc::Rpc;
use crate::run::Common;
use crate::storage::Holder;
use crate::sweep::Claim;
use crate::tree::Known;

/// Where a container finds its folders.
const DATA: &str = "/mnt/data";
const KEYSTORE: &str = "/mnt/keystore";
const BRIDGE: &str = "/mnt/bridge";

/// What was prepared, and stays as long as it may be started again.
#[derive(Debug)]
pub(crate) enum Program {
    /// On this machine already.
    Testing(PathBuf),
    /// Fetched; it stays in the cache as long as this lives.
    Native(Artefact),
    /// An image that the engine has.
    Image,
}

impl Program {
    /// Its path, where it is a file.
    pub(crate) fn path(&self) -> Option<PathBuf> {
        match self {
            Self::Testing(path) => Some(path.clone()),
            Self::Native(artefact) => Some(artefact.program.clone()),
            Self::Image => None,
        }
    }
}

/// Where the node finds what a workload listens on.
#[derive(Debug, Clone)]
pub(crate) enum Reach {
    /// On the node's own loopback.
    Node,
    /// In a network of its own.
    Container {
        /// Its address there, where the node reaches it.
        address: Option<IpAddr>,
        /// Where the engine publishes its ports on the node.
        ports: BTreeMap<u16, SocketAddr>,
    },
}

impl Reach {
    /// Where the node reaches what a workload calls a place on its own loopback.
    pub(crate) fn place(&self, local: SocketAddr) -> Result<SocketAddr, String> {
        match self {
            Self::Node => Ok(local),
            Self::Container { address, ports } => {
                let published = ports.get(&local.port()).copied();
                let inside = address.map(|address| SocketAddr::new(address, local.port()));
                published.or(inside).ok_or_else(|| {
                    format!(
                        "port {} of the container is not published: name it in source.ports",
                        local.port()
                    )
                })
            }
        }
    }

    /// Port at which the node reaches another port of a workload, at the address where it reaches what listens at `local`.
    /// What is at another address is refused: the same port of this one is somebody else's.
    pub(crate) fn port_beside(&self, local: SocketAddr, port: u16) -> Result<u16, String> {
        let own = self.place(local)?;
        let other = self.place(SocketAddr::new(local.ip(), port))?;
        if own.ip() == other.ip() {
            return Ok(other.port());
        }
        Err(format!(
            "metrics are at port {port} of the container, which the node reaches at {}, and the service's port {} at {}: name \
             both in source.ports, or neither",
            other.ip(),
            local.port(),
            own.ip()
        ))
    }
}

/// A container of this node.
#[derive(Debug)]
pub(crate) struct Contained {
    running: Running,
    /// What keeps what it writes, and ends it should this agent be killed; and with the claim, should it not be removed.
    keeper: Option<ContainerKeeper>,
    /// Names of its variables that hold secrets.
    hidden: Vec<String>,
    _claim: Claim,
}

/// A workload that was started.
#[derive(Debug)]
pub(crate) enum Instance {
    Process(Box<Process>),
    Container(Box<Contained>),
}

impl Instance {
    pub(crate) fn pid(&self) -> Option<u32> {
        match self {
            Self::Process(process) => Some(process.pid()),
            Self::Container(container) => container.running.pid,
        }
    }

    /// Where commands in it are started, where it is a container.
    pub(crate) fn inside(&self) -> Option<Inside> {
        match self {
            Self::Process(_) => None,
            Self::Container(container) => {
                Some(Inside { id: container.running.id.clone(), hidden: container.hidden.clone() })
            }
        }
    }

    /// The container, where its image brings a check of its health along.
    pub(crate) fn checked(&self) -> Option<&Running> {
        match self {
            Self::Container(container) if container.running.has_check => Some(&container.running),
            Self::Container(_) | Self::Process(_) => None,
        }
    }

    /// Whose processes these are, where they are no user's alone.
    pub(crate) fn holder(&self) -> Holder {
        match self {
            Self::Process(process) => process.keeper().map_or(Holder::Nobody, Holder::Keeper),
            // Within it, its first process gets all that lose their parent.
            Self::Container(container) => container.running.pid.map_or(Holder::Nobody, Holder::Process),
        }
    }

    /// Which processes are its; `None` where that cannot be told.
    pub(crate) fn kin(&self) -> Option<Kin> {
        match self {
            Self::Process(process) => Kin::below(process.keeper()?),
            Self::Container(container) => Kin::inside(container.running.pid?),
        }
    }

    /// Whether it is a container that runs and whose first process this agent does not see, as in a `/proc` that hides those of
    /// others.
    pub(crate) async fn is_hidden(&self, engine: &Engine) -> bool {
        let Self::Container(container) = self else { return false };
        let Some(pid) = container.running.pid.filter(|pid| Known::of(*pid).is_none()) else { return false };
        // One that is over is not seen, either; the engine tells them apart.
        let now = engine.find(&container.running.id).await;
        now.is_ok_and(|now| now.is_some_and(|now| now.pid == Some(pid)))
    }

    /// Where it can be reached.
    pub(crate) fn reach(&self) -> Reach {
        match self {
            Self::Process(_) => Reach::Node,
            Self::Container(container) => Reach::Container {
                address: container.running.address,
                ports: container.running.ports.clone(),
            },
        }
    }

    /// Waits for its end.
    ///
    /// # Cancel safety
    ///
    /// May be dropped and called again.
    pub(crate) async fn wait(&mut self) -> Exit {
        match self {
            Self::Process(process) => process.wait().await,
            Self::Container(container) => {
                let exit = container.running.wait().await;
                if let Some(keeper) = &mut container.keeper {
                    keeper.keep_all().await;
                }
                exit
            }
        }
    }

    /// The last line that it wrote.
    pub(crate) fn last_line(&self) -> Option<String> {
        match self {
            Self::Process(process) => process.last_line(),
            Self::Container(container) => container.keeper.as_ref()?.last_line(),
        }
    }

    /// Asks it to end.
    pub(crate) async fn terminate(&self) {
        match self {
            Self::Process(process) => process.terminate(),
            Self::Container(container) => note(&container.running, container.running.terminate().await),
        }
    }

    /// Kills it and everything that it started.
    pub(crate) async fn kill(&self) {
        match self {
            Self::Process(process) => process.kill(),
            Self::Container(container) => note(&container.running, container.running.kill().await),
        }
    }

    /// Removes what is left of it once it has ended; may be called again where that failed.
    ///
    /// # Errors
    ///
    /// Those of the container engine.
    pub(crate) async fn remove(&mut self) -> Result<(), EngineError> {
        match self {
            Self::Process(_) => Ok(()),
            Self::Container(container) => {
                container.running.remove().await?;
                if let Some(keeper) = container.keeper.take() {
                    keeper.dismiss().await;
                }
                Ok(())
            }
        }
    }

    /// Removes what is left of it, and tries again for so long, with this pause; each failure but the last is told.
    ///
    /// # Errors
    ///
    /// The last failure.
    pub(crate) async fn remove_within(
        &mut self,
        within: Duration,
        pause: Duration,
        tell: impl Fn(&EngineError),
    ) -> Result<(), EngineError> {
        let begin = Instant::now();
        loop {
            match self.remove().await {
                Err(error) if begin.elapsed() < within => tell(&error),
                done => return done,
            }
            sleep(pause).await;
        }
    }

    /// A container that has no keeper.
    #[cfg(test)]
    pub(crate) fn of_test(running: Running) -> Self {
        let claim = crate::sweep::Claims::default().claim(running.name.clone());
        Self::Container(Box::new(Contained { running, keeper: None, hidden: Vec::new(), _claim: claim }))
    }
}

/// What an engine does not do now is tried again at the next step.
fn note(container: &Running, done: Result<(), EngineError>) {
    if let Err(error) = done {
        warn!(container = container.name, %error, "the container engine did not do it");
    }
}

/// What a workload is started with.
pub(crate) struct Start<'a> {
    pub(crate) seat: Seat,
    pub(crate) spec: &'a WorkloadSpec,
    pub(crate) bundle: &'a Bundle,
    pub(crate) folders: &'a Folders,
    /// A variable that must be in no document.
    pub(crate) secret_env: Option<(String, String)>,
    /// User and group of its own; `None` for the agent's.
    pub(crate) user: Option<(u32, u32)>,
    /// Where RPC URLs of loopback lead instead.
    pub(crate) rpc: &'a Rpc,
    /// GPUs that are its alone.
    pub(crate) gpus: &'a GpuLease,
    /// The disk whose use its limits bound.
    pub(crate) disk: Option<Disk>,
}

/// Starts a container of this node.
pub(crate) async fn contain(
    common: &Common,
    start: Start<'_>,
    log: LogErrand,
    wipe: Wipe,
) -> Result<Instance, PrepareFailed> {
    let Common { engine, config, claims, .. } = common;
    let Start { seat, spec, bundle, folders, secret_env, user, rpc, gpus, disk } = start;
    let Source::Container { image, digest, ports, volumes } = &spec.source else {
        return Err(PrepareFailed::for_good("its source is no image".to_owned()));
    };
    let places = Places {
        data_dir: DATA.to_owned(),
        keystore: KEYSTORE.to_owned(),
        bridge_socket: (!spec.test_mode).then(|| format!("{BRIDGE}/{}", crate::folders::SOCKET)),
        http_rpc_url: rpc.url(RpcKind::Http),
        ws_rpc_url: rpc.url(RpcKind::Ws),
    };
    let mut env = environment(seat.service, spec, &places);
    env.extend(secret_env);
    let hidden = secret_names(&env, spec, bundle);
    let mount = |host: &PathBuf, inside: &str, read_only| Mount {
        host: host.clone(),
        inside: inside.to_owned(),
        read_only,
    };
    let mut mounts = vec![
        mount(&folders.data, DATA, false),
        mount(&folders.keystore, KEYSTORE, true),
        mount(&folders.bridge, BRIDGE, true),
    ];
    mounts.extend(volumes.iter().map(|volume| mount(&folders.volume(&volume.name), &volume.path, false)));
    let (mut limits, gpu_ids) = (spec.limits, gpus.nvidia_ids());
    if gpu_ids.is_empty() {
        // None of this engine's, or none that are left to those who can do without.
        limits.gpu_policy = GpuPolicy::None;
    }
    let container = ContainerSpec {
        name: label(seat),
        node: config.node.clone(),
        image: image.clone(),
        digest: *digest,
        args: arguments(spec),
        env,
        limits,
        gpu_ids,
        devices: gpus.other_devices(),
        disk: disk.map(|disk| disk.device),
        mounts,
        ports: ports.clone(),
        user,
        extra_hosts: Vec::new(),
    };
    let claim = claims.claim(container.name.clone());
    let running = engine.run(&container).await.map_err(|error| failed(&error))?;
    let grace = spec.stop_grace_secs.into();
    let kept = (running.id.as_str(), grace, wipe);
    let keeper = ContainerKeeper::start(&config.agent, &config.engine, kept, log).await;
    if let Err(error) = &keeper {
        warn!(container = running.name, %error, "no keeper of a container: it outlives an agent that is killed, and what it writes is not kept");
    }
    Ok(Instance::Container(Box::new(Contained { running, keeper: keeper.ok(), hidden, _claim: claim })))
}

/// An engine's words, as the state of a workload.
pub(crate) fn failed(error: &EngineError) -> PrepareFailed {
    PrepareFailed { reason: error.to_string(), may_pass: error.may_pass(), is_of_node: error.is_of_node() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_of_a_container_is_found_where_the_engine_says_or_not_at_all() {
        let local: SocketAddr = "127.0.0.1:80".parse().unwrap();
        assert_eq!(Reach::Node.place(local), Ok(local));
        let published = BTreeMap::from([(80, "127.0.0.1:4000".parse().unwrap())]);
        let reach = |address: Option<&str>, ports: &BTreeMap<_, _>| Reach::Container {
            address: address.map(|text| text.parse().unwrap()),
            ports: ports.clone(),
        };
        let at = |text: &str| Ok(text.parse::<SocketAddr>().unwrap());
        assert_eq!(reach(Some("172.18.0.2"), &published).place(local), at("127.0.0.1:4000"));
        assert_eq!(reach(Some("172.18.0.2"), &BTreeMap::new()).place(local), at("172.18.0.2:80"));
        assert!(reach(None, &BTreeMap::new()).place(local).unwrap_err().contains("source.ports"));
    }

    #[test]
    fn metrics_at_another_port_are_looked_for_at_the_service_s_address_or_refused() {
        let local: SocketAddr = "127.0.0.1:8080".parse().unwrap();
        assert_eq!(Reach::Node.port_beside(local, 9090), Ok(9090));
        let reach = |address: Option<&str>, published: &[(u16, &str)]| Reach::Container {
            address: address.map(|text| text.parse().unwrap()),
            ports: published.iter().map(|(port, at)| (*port, at.parse().unwrap())).collect(),
        };
        let (service, metrics) = ((8080, "127.0.0.1:4000"), (9090, "127.0.0.1:4001"));
        let inside = Some("172.18.0.2");
        assert_eq!(reach(inside, &[service, metrics]).port_beside(local, 9090), Ok(4001));
        assert_eq!(reach(inside, &[]).port_beside(local, 9090), Ok(9090));
        // Else the agent would ask 127.0.0.1:9090, or 172.18.0.2:4001.
        for published in [service, metrics] {
            let refused = reach(inside, &[published]).port_beside(local, 9090).unwrap_err();
            assert!(refused.contains("port 9090") && refused.contains("both in source.ports"), "{refused}");
        }
        assert!(reach(None, &[service]).port_beside(local, 9090).unwrap_err().contains("port 9090"));
    }
}
