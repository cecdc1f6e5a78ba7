//! What the agent's tasks share: snapshots that one task writes and the others read.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use blueprint_agent_workload::{Healths, NodeHandle};
use blueprint_common_runtime::state::StateDir;
use blueprint_common_runtime::tasks::Stop;
use blueprint_common_spoke::Spoke;
use blueprint_common_types::workload::Seat;
use blueprint_common_types::{Health, MachineSample, ServiceKey, ServiceSample, WorkloadUse};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::config::AgentConfig;
use crate::door::Tickets;
use crate::forward::Streams;
use crate::late::Late;
use crate::service::{ServiceError, ServiceSpec, ServiceTable};

/// What to do once the hub does not know this machine any more.
pub(crate) const REJOIN: &str =
    "run `blueprint-agent leave --force`, then join with a new line from `blueprint-hub token create`";

/// Health of one service as it is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServiceHealth {
    pub(crate) service: ServiceKey,
    /// The assignment whose workload offers it; 0 for other services.
    pub(crate) generation: u64,
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
    /// What workloads use as a whole, by the overlay port of what they offer.
    pub(crate) uses: BTreeMap<u16, WorkloadUse>,
}

/// Everything that more than one task of an agent needs.
#[derive(Debug)]
pub(crate) struct Shared {
    /// The machine's place at its hub.
    pub(crate) spoke: Arc<Spoke>,
    pub(crate) config: AgentConfig,
    pub(crate) state: StateDir,
    /// Asks the whole process to end.
    pub(crate) process: Stop,
    /// Ends this agent's tasks.
    pub(crate) stop: CancellationToken,
    /// Cancelled once no service takes new streams.
    pub(crate) closed: CancellationToken,
    /// Cancelled once no stream of a client is open any more: workloads may end.
    pub(crate) idle: CancellationToken,
    /// Cancelled once no workload runs any more.
    pub(crate) workloads_ended: CancellationToken,
    /// The workloads; empty where this machine runs none.
    pub(crate) node: OnceLock<NodeHandle>,
    /// Samples that the hub has not got; empty where nothing is sampled.
    pub(crate) late: OnceLock<Arc<Late>>,
    /// The same for metrics of services.
    pub(crate) late_pages: OnceLock<Arc<Late>>,
    services: watch::Sender<Arc<ServiceTable>>,
    pub(crate) health: watch::Sender<Arc<HealthMap>>,
    /// Health of what workloads offer, by service; woken by changes alone.
    pub(crate) workload_health: watch::Sender<Arc<Healths>>,
    pub(crate) samples: watch::Sender<Arc<Samples>>,
    pub(crate) streams: Streams,
    /// Targets that the hub does not accept, by overlay port.
    pub(crate) refused: Mutex<BTreeMap<u16, String>>,
    /// Which connections of the hub are about to come for `exec` and `forward`.
    pub(crate) tickets: Tickets,
    writing: Mutex<()>,
}

impl Shared {
    pub(crate) fn new(
        config: AgentConfig,
        state: StateDir,
        services: ServiceTable,
        spoke: Arc<Spoke>,
        process: Stop,
    ) -> Self {
        Self {
            stop: spoke.stop().clone(),
            spoke,
            config,
            state,
            process,
            closed: CancellationToken::new(),
            idle: CancellationToken::new(),
            workloads_ended: CancellationToken::new(),
            node: OnceLock::new(),
            late: OnceLock::new(),
            late_pages: OnceLock::new(),
            services: watch::Sender::new(Arc::new(services)),
            health: watch::Sender::default(),
            workload_health: watch::Sender::default(),
            samples: watch::Sender::default(),
            streams: Streams::default(),
            refused: Mutex::default(),
            tickets: Tickets::default(),
            writing: Mutex::new(()),
        }
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

    /// Takes back what an instance of a service offered.
    pub(crate) fn withdraw_workload(&self, seat: Seat) -> Result<(), ServiceError> {
        self.change_services(|table, _| {
            table.withdraw(seat);
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

    pub(crate) fn is_draining(&self) -> bool {
        self.spoke.is_draining()
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.spoke.is_ready()
    }
}
