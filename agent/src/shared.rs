//! What the agent's tasks share: snapshots that one task writes and the others read.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use blueprint_agent_workload::NodeHandle;
use blueprint_common_runtime::Chain;
use blueprint_common_runtime::state::StateDir;
use blueprint_common_runtime::tasks::Stop;
use blueprint_common_types::{Health, MachineSample, ServiceKey, ServiceSample, Timestamp};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::error;

use crate::config::AgentConfig;
use crate::forward::Streams;
use crate::identity::{Credential, Identity, IdentityError, TunnelSettings};
use crate::plane::{PathRequest, Plane};
use crate::service::{ServiceError, ServiceSpec, ServiceTable};
use crate::session::Caller;

/// What to do once the hub does not know this machine any more.
pub(crate) const REJOIN: &str =
    "run `blueprint-agent leave --force`, then join with a new line from `blueprint-hub token create`";

/// Pace of samples until the hub names one.
const DEFAULT_PACE: Duration = Duration::from_secs(5);

/// Where the control stream stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ControlState {
    /// No stream; the agent tries again by itself.
    Down,
    /// The hub welcomed the agent.
    Up,
    /// The hub removed this agent.
    Revoked,
}

/// The control stream.
#[derive(Debug, Clone)]
pub(crate) struct ControlStatus {
    pub(crate) state: ControlState,
    pub(crate) since: Timestamp,
    /// Why it is not up, and what to do about it.
    pub(crate) reason: Option<String>,
    pub(crate) hint: Option<String>,
    pub(crate) attempts: u64,
    pub(crate) sessions: u64,
    /// Messages that wait for the hub, and how many were dropped.
    pub(crate) held: usize,
    pub(crate) dropped: u64,
    /// True once the hub acknowledged that this agent offers nothing more, or cannot be told.
    pub(crate) is_withdrawn: bool,
    /// True once the last stream has ended for good.
    pub(crate) is_finished: bool,
}

/// Health of one service as it is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServiceHealth {
    pub(crate) service: ServiceKey,
    pub(crate) health: Health,
    pub(crate) reason: String,
    pub(crate) check_micros: u32,
}

/// Health by overlay port.
pub(crate) type HealthMap = BTreeMap<u16, ServiceHealth>;

/// The last samples of machine and services.
#[derive(Debug, Clone, Default)]
pub(crate) struct Samples {
    pub(crate) machine: MachineSample,
    pub(crate) services: Vec<ServiceSample>,
}

/// Everything that more than one task of an agent needs.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: AgentConfig,
    pub(crate) state: StateDir,
    /// Asks the whole process to end.
    pub(crate) process: Stop,
    /// Ends this agent's tasks.
    pub(crate) stop: CancellationToken,
    /// Cancelled once no service takes new streams.
    pub(crate) closed: CancellationToken,
    /// Cancelled once nothing is open any more: the control stream may end.
    pub(crate) finished: CancellationToken,
    /// Cancelled once the hub said that it removed this agent.
    pub(crate) revoked: CancellationToken,
    /// Cancelled once no stream of a client is open any more: workloads may end.
    pub(crate) idle: CancellationToken,
    /// Cancelled once no workload runs any more.
    pub(crate) workloads_ended: CancellationToken,
    /// The workloads; empty where this machine runs none.
    pub(crate) node: OnceLock<NodeHandle>,
    /// Calls over the connection of the control stream, while that stands.
    pub(crate) caller: Mutex<Option<Caller>>,
    pub(crate) identity: watch::Sender<Arc<Identity>>,
    services: watch::Sender<Arc<ServiceTable>>,
    pub(crate) health: watch::Sender<Arc<HealthMap>>,
    pub(crate) control: watch::Sender<ControlStatus>,
    pub(crate) path: watch::Sender<PathRequest>,
    pub(crate) samples: watch::Sender<Arc<Samples>>,
    pub(crate) pace: watch::Sender<Duration>,
    pub(crate) plane: Plane,
    pub(crate) streams: Streams,
    /// Targets that the hub does not accept, by overlay port.
    pub(crate) refused: Mutex<BTreeMap<u16, String>>,
    is_leaving: AtomicBool,
    writing: Mutex<()>,
}

impl Shared {
    pub(crate) fn new(
        config: AgentConfig,
        state: StateDir,
        identity: Identity,
        services: ServiceTable,
        plane: Plane,
        process: Stop,
    ) -> Self {
        let path = PathRequest { epoch: identity.tunnel.epoch, reached: None };
        let control = ControlStatus {
            state: ControlState::Down,
            since: crate::join::now(),
            reason: Some("not connected yet".to_owned()),
            hint: None,
            attempts: 0,
            sessions: 0,
            held: 0,
            dropped: 0,
            is_withdrawn: false,
            is_finished: false,
        };
        Self {
            config,
            state,
            // The agent outlives the call to drain, and ends with the process at the latest.
            stop: process.stop.child_token(),
            process,
            closed: CancellationToken::new(),
            finished: CancellationToken::new(),
            revoked: CancellationToken::new(),
            idle: CancellationToken::new(),
            workloads_ended: CancellationToken::new(),
            node: OnceLock::new(),
            caller: Mutex::default(),
            identity: watch::Sender::new(Arc::new(identity)),
            services: watch::Sender::new(Arc::new(services)),
            health: watch::Sender::default(),
            control: watch::Sender::new(control),
            path: watch::Sender::new(path),
            samples: watch::Sender::default(),
            pace: watch::Sender::new(DEFAULT_PACE),
            plane,
            streams: Streams::default(),
            refused: Mutex::default(),
            is_leaving: AtomicBool::new(false),
            writing: Mutex::new(()),
        }
    }

    pub(crate) fn identity(&self) -> Arc<Identity> {
        Arc::clone(&self.identity.borrow())
    }

    pub(crate) fn services(&self) -> Arc<ServiceTable> {
        Arc::clone(&self.services.borrow())
    }

    pub(crate) fn watch_services(&self) -> watch::Receiver<Arc<ServiceTable>> {
        self.services.subscribe()
    }

    pub(crate) fn add_service(&self, spec: ServiceSpec) -> Result<bool, ServiceError> {
        self.change_services(|table, state| table.add(spec, state))
    }

    pub(crate) fn remove_service(
        &self,
        service: ServiceKey,
        port: Option<u16>,
    ) -> Result<Vec<ServiceSpec>, ServiceError> {
        self.change_services(|table, state| table.remove(service, port, state))
    }

    /// Offers the service of a workload, in place of what it offered before.
    pub(crate) fn offer_workload(&self, spec: ServiceSpec) -> Result<(), ServiceError> {
        self.change_services(|table, _| table.offer(spec))
    }

    /// Takes back what the workload of a service offered.
    pub(crate) fn withdraw_workload(&self, service: ServiceKey) -> Result<(), ServiceError> {
        self.change_services(|table, _| {
            table.withdraw(service);
            Ok(())
        })
    }

    fn change_services<T>(
        &self,
        change: impl FnOnce(&mut ServiceTable, &StateDir) -> Result<T, ServiceError>,
    ) -> Result<T, ServiceError> {
        let _writing = self.writing.lock();
        let mut table = ServiceTable::clone(&self.services());
        let done = change(&mut table, &self.state)?;
        self.services.send_if_modified(|now| {
            let is_news = **now != table;
            if is_news {
                *now = Arc::new(table);
            }
            is_news
        });
        Ok(done)
    }

    /// Stores a renewed certificate and then lets everybody use it.
    pub(crate) fn set_credential(&self, credential: Credential) -> Result<(), IdentityError> {
        self.change_identity(|identity| identity.credential = credential)
    }

    /// Stores what the hub said of the tunnel.
    pub(crate) fn set_tunnel(&self, tunnel: TunnelSettings) -> Result<(), IdentityError> {
        self.change_identity(|identity| identity.tunnel = tunnel)
    }

    /// Notes that the hub removed this agent, also for the next start, and ends it.
    pub(crate) fn revoke(&self) {
        if self.is_leaving() {
            return;
        }
        if let Err(error) = self.change_identity(|identity| identity.revoked_at = Some(crate::join::now())) {
            error!(error = %Chain(&error), "removal by the hub is not stored");
        }
        self.control.send_modify(|control| {
            control.state = ControlState::Revoked;
            control.since = crate::join::now();
            control.reason = Some("the hub removed this agent".to_owned());
            control.hint = Some(REJOIN.to_owned());
        });
        self.revoked.cancel();
    }

    fn change_identity(&self, change: impl FnOnce(&mut Identity)) -> Result<(), IdentityError> {
        let _writing = self.writing.lock();
        if self.is_leaving() {
            return Ok(());
        }
        let mut identity = Identity::clone(&self.identity());
        change(&mut identity);
        identity.store(&self.state)?;
        self.identity.send_replace(Arc::new(identity));
        Ok(())
    }

    /// From here on nothing brings the identity's file back; `false` takes that back.
    pub(crate) fn set_leaving(&self, is_leaving: bool) {
        let _writing = self.writing.lock();
        self.is_leaving.store(is_leaving, Ordering::Release);
    }

    pub(crate) fn is_leaving(&self) -> bool {
        self.is_leaving.load(Ordering::Acquire)
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.process.drain.is_cancelled()
    }

    /// Ready is who echoes: a control stream alone carries no request.
    pub(crate) fn is_ready(&self) -> bool {
        self.plane.is_alive() && !self.is_draining()
    }
}
