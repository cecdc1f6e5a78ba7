//! One agent: put together from its configuration and state, and run until it is asked to end.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use blueprint_common_runtime::accept::{AcceptLimits, AcceptLoop};
use blueprint_common_runtime::local_api;
use blueprint_common_runtime::metrics::Metrics;
use blueprint_common_runtime::state::StateDir;
use blueprint_common_runtime::tasks::{Spawner, Stop};
use blueprint_common_spoke::{Identity, JoinError, JoinOptions, Spoke, SpokeConfig, SpokeError};
use blueprint_common_tunnel::Engine;
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use crate::config::{AgentConfig, DoorSettings};
use crate::duties::{self, AgentDuties};
use crate::late::{self, Late, LateKind};
use crate::service::{ServiceError, ServiceTable};
use crate::shared::{REJOIN, Shared};
use crate::status::StatusReport;
use crate::{api, door, forward, health, metrics, observe, pages, qos, resolver, scraped, workloads};

/// Name of the socket in the state folder.
pub(crate) const SOCKET: &str = "agent.sock";

/// How long the hub may take to acknowledge that this agent offers nothing more.
const WITHDRAW_TIMEOUT: Duration = Duration::from_secs(1);

/// How long the parts may take to end once they were told to.
const END_TIMEOUT: Duration = Duration::from_secs(1);

/// How long workloads may take to end where the agent does not drain.
const WORKLOADS_TIMEOUT: Duration = Duration::from_secs(15);

/// Scrapers and probes at once.
const OBSERVE_LIMITS: AcceptLimits = AcceptLimits { total: 64, per_ip: 32 };

/// Why an agent could not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The spoke that it is.
    #[error(transparent)]
    Spoke(#[from] SpokeError),
    /// Metrics and probes.
    #[error("cannot serve metrics and probes")]
    Observe(#[source] std::io::Error),
    /// The socket for commands.
    #[error("cannot listen for commands")]
    LocalApi(#[source] std::io::Error),
    /// The folders of workloads.
    #[error("cannot make the folders of workloads")]
    Workloads(#[source] std::io::Error),
    /// The stored services.
    #[error(transparent)]
    Service(#[from] ServiceError),
    /// A part of the agent ended by itself.
    #[error("the agent's {part} ended")]
    Ended {
        /// Which part.
        part: &'static str,
    },
}

/// A joined agent, ready to run: everything that can fail early is bound.
pub struct Agent {
    shared: Arc<Shared>,
    engine: Engine,
    commands: Option<UnixListener>,
    observe: Option<AcceptLoop>,
    metrics: Arc<Metrics>,
}

impl std::fmt::Debug for Agent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Agent").field("shared", &self.shared).finish_non_exhaustive()
    }
}

/// Looks at an agent while it runs.
#[derive(Debug, Clone)]
pub struct AgentView {
    pub(crate) shared: Arc<Shared>,
}

impl AgentView {
    /// What `blueprint-agent status` shows.
    #[must_use]
    pub fn status(&self) -> StatusReport {
        StatusReport::of(&self.shared)
    }

    /// Whether the hub echoes through the tunnel.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.shared.is_ready()
    }
}

impl Agent {
    /// Joins a hub: makes keys, spends the token, and has the identity on the disk before it returns.
    ///
    /// # Errors
    ///
    /// Each variant of [`JoinError`] says its case. Where the hub made the agent and the answer was lost, the
    /// token is spent and the hub lists an agent that never connects.
    ///
    /// # Cancel safety
    ///
    /// Dropping it may leave the token spent.
    pub async fn join(options: JoinOptions) -> Result<Identity, JoinError> {
        Box::pin(blueprint_common_spoke::join(options)).await
    }

    /// Puts an agent together. `stop` is what it will be run with; a command to leave cancels its `drain`.
    ///
    /// Must be called on a tokio runtime.
    ///
    /// # Errors
    ///
    /// [`SpokeError::NotJoined`] without an identity, [`SpokeError::Revoked`] with one that the hub took back,
    /// else what could not be read or bound.
    pub async fn build(config: AgentConfig, state: StateDir, stop: Stop) -> Result<Self, AgentError> {
        let spoke_config = SpokeConfig {
            listen: config.tunnel_listen,
            interface: config.interface.clone(),
            carriers: config.carriers.clone(),
            proxy: config.proxy.clone(),
            rejoin: REJOIN,
        };
        let (spoke, engine) = Spoke::bind(spoke_config, state.clone(), stop.clone())?;
        let services = ServiceTable::load(&state, &config.services)?;
        let observe = match config.observe_listen {
            Some(address) => Some(
                AcceptLoop::bind("observe", address, OBSERVE_LIMITS).await.map_err(AgentError::Observe)?,
            ),
            None => None,
        };
        let commands = if config.local_api {
            Some(local_api::bind_private(state.path(SOCKET)).await.map_err(AgentError::LocalApi)?)
        } else {
            None
        };
        let shared = Arc::new(Shared::new(config, state, services, spoke, stop));
        resolver::clean(&shared).await;
        let metrics = Arc::new(Metrics::new());
        metrics::register(&metrics, &shared);
        Ok(Self { shared, engine, commands, observe, metrics })
    }

    /// Looks at the agent, also while it runs.
    #[must_use]
    pub fn view(&self) -> AgentView {
        AgentView { shared: Arc::clone(&self.shared) }
    }

    /// Where metrics and probes are served, with the port that the system chose.
    #[must_use]
    pub fn observe_addr(&self) -> Option<SocketAddr> {
        self.observe.as_ref().and_then(|observe| observe.local_addr().ok())
    }

    /// Runs until `drain` of the stop it was built with, then finishes what is open until `stop`.
    ///
    /// # Errors
    ///
    /// [`SpokeError::Revoked`] once the hub removed the agent; else the part that failed.
    ///
    /// # Cancel safety
    ///
    /// Dropping it leaves parts running until `spawner`'s own stop.
    pub async fn run(self, spawner: Spawner) -> Result<(), AgentError> {
        let shared = Arc::clone(&self.shared);
        let mut parts = self.start(spawner)?;
        let identity = shared.spoke.identity();
        info!(hub = %identity.hub, agent = %identity.agent_id, "agent runs");
        let ended = tokio::select! {
            biased;
            ended = parts.next_end() => Some(ended),
            () = shared.spoke.revoked().cancelled() => None,
            () = shared.process.drain.cancelled() => None,
        };
        let result = match ended {
            Some(error) => Err(error),
            None if shared.spoke.revoked().is_cancelled() => {
                Err(SpokeError::Revoked { why: "the hub removed this agent".to_owned() }.into())
            }
            None => parts.drain(&shared).await,
        };
        // Also where the hub removed this agent: what runs here now runs elsewhere soon.
        shared.idle.cancel();
        tokio::select! {
            () = shared.workloads_ended.cancelled() => {}
            () = shared.process.stop.cancelled() => {}
            () = sleep(WORKLOADS_TIMEOUT) => warn!("workloads did not end in time"),
        }
        shared.stop.cancel();
        if timeout(END_TIMEOUT, parts.idle()).await.is_err() {
            warn!("parts of the agent did not end in time");
        }
        if shared.config.local_api {
            // Best effort: a socket that stays is replaced at the next start.
            let _ = shared.state.remove(SOCKET);
        }
        result
    }

    fn start(self, spawner: Spawner) -> Result<Parts, AgentError> {
        let Self { shared, engine, commands, observe, metrics } = self;
        let (reports, sampled) = mpsc::channel(4);
        let node = workloads::node(&shared, spawner.clone())?;
        let says = duties::says(&shared, sampled);
        let duties = Arc::new(AgentDuties::new(Arc::clone(&shared), spawner.clone()));
        let mut parts = Parts::new(spawner.clone());
        for part in shared.spoke.start(engine, says, duties, spawner.clone())? {
            let run = part.run;
            parts.spawn(part.name, async move { Ok(run.await?) });
        }
        parts.spawn("workloads", workloads::run(Arc::clone(&shared), node));
        parts.spawn("services", forward::run(Arc::clone(&shared), spawner.clone()));
        parts.spawn("health", health::run(Arc::clone(&shared)));
        if shared.config.samples {
            let late = Arc::new(Late::open(&shared, LateKind::Samples));
            // Set once, before anything runs that reads it.
            let _ = shared.late.set(Arc::clone(&late));
            parts.spawn("samples", qos::run(Arc::clone(&shared), reports, Arc::clone(&late)));
            parts.spawn("late samples", late::run(Arc::clone(&shared), late));
            let late = Arc::new(Late::open(&shared, LateKind::Pages));
            let _ = shared.late_pages.set(Arc::clone(&late));
            parts.spawn("metrics of services", pages::run(Arc::clone(&shared), Arc::clone(&late)));
            parts.spawn("late metrics", late::run(Arc::clone(&shared), late));
        }
        if shared.config.door != DoorSettings::default() {
            parts.spawn("door", door::run(Arc::clone(&shared), spawner.clone()));
        }
        if let Some(settings) = shared.config.resolver.clone() {
            parts.spawn("resolver", resolver::run(Arc::clone(&shared), settings));
        }
        if let Some(listener) = commands {
            parts.spawn("commands", api::run(Arc::clone(&shared), listener, spawner.clone()));
        }
        if shared.config.observe_hub {
            parts.spawn(
                "metrics for the hub",
                scraped::run(Arc::clone(&shared), Arc::clone(&metrics), spawner.clone()),
            );
        }
        if let Some(listener) = observe {
            parts.spawn("observe", observe::run(Arc::clone(&shared), metrics, listener, spawner));
        }
        Ok(parts)
    }
}

type Ended = (&'static str, Result<(), AgentError>);

/// The long-lived tasks of one agent, each of which must last as long as the agent.
struct Parts {
    spawner: Spawner,
    running: usize,
    sender: mpsc::Sender<Ended>,
    ended: mpsc::Receiver<Ended>,
}

/// Says that a part ended, also where it panicked or was dropped.
struct Guard {
    part: &'static str,
    sender: mpsc::Sender<Ended>,
    result: Option<Result<(), AgentError>>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        let result = self.result.take().unwrap_or(Err(AgentError::Ended { part: self.part }));
        // There is room for every part; nobody listens only once the agent is gone.
        let _ = self.sender.try_send((self.part, result));
    }
}

impl Parts {
    fn new(spawner: Spawner) -> Self {
        let (sender, ended) = mpsc::channel(16);
        Self { spawner, running: 0, sender, ended }
    }

    fn spawn(
        &mut self,
        part: &'static str,
        future: impl Future<Output = Result<(), AgentError>> + Send + 'static,
    ) {
        self.running = self.running.saturating_add(1);
        let guard = Guard { part, sender: self.sender.clone(), result: None };
        self.spawner.spawn(part, async move {
            let mut guard = guard;
            guard.result = Some(future.await);
        });
    }

    /// Waits for the next part that ends, and says what its end means.
    async fn next_end(&mut self) -> AgentError {
        let ended = self.ended.recv().await;
        self.running = self.running.saturating_sub(1);
        match ended {
            Some((_, Err(error))) => error,
            Some((part, Ok(()))) => AgentError::Ended { part },
            None => AgentError::Ended { part: "supervisor" },
        }
    }

    /// Withdraws the targets, closes the services to new streams, and waits for the open ones until `stop`.
    async fn drain(&mut self, shared: &Shared) -> Result<(), AgentError> {
        info!(streams = shared.streams.open(), "agent drains");
        let finish = async {
            let mut control = shared.spoke.control();
            let withdrawn = control.wait_for(|control| control.is_withdrawn);
            let _ = timeout(WITHDRAW_TIMEOUT, withdrawn).await;
            shared.closed.cancel();
            shared.streams.idle().await;
            shared.idle.cancel();
            shared.workloads_ended.cancelled().await;
            shared.spoke.finished().cancel();
            let _ = timeout(WITHDRAW_TIMEOUT, control.wait_for(|control| control.is_finished)).await;
        };
        tokio::select! {
            biased;
            () = shared.process.stop.cancelled() => Ok(()),
            error = self.next_end() => Err(error),
            () = finish => Ok(()),
        }
    }

    /// Waits until every part has ended.
    async fn idle(&mut self) {
        while self.running > 0 {
            let _ = self.next_end().await;
        }
    }
}
