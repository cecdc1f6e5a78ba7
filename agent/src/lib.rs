//! The agent: joins a machine to a hub, keeps the tunnel and the control stream, and offers services through them.
//!
//! Everything an agent is lives in an [`Agent`]; there are no globals, so that many run in one process.
//!
//! ```text
//!   hub <------ control stream and tunnel: Spoke (common/spoke) ------+
//!                                               |                     |
//!      health, qos, workloads --- duties --- Shared                forward ---> services of this machine
//!                                               |
//!   commands <------ api (agent.sock) ----------+---------- observe ------> scrapers and probes
//! ```
//!
//! # Invariants
//!
//! - The hub is known by the pinned authority alone, wherever its name leads.
//! - An identity is on the disk before anybody is told of it; keys appear in no log, argument or error.
//! - An agent is ready while its data plane echoes, never because its control stream stands.
//! - It comes back by itself from everything but its removal at the hub.

mod agent;
mod api;
pub mod cli;
mod config;
mod door;
mod duties;
mod forward;
mod health;
mod hint;
mod http_text;
mod late;
mod logs;
mod memory;
mod metrics;
mod netcheck;
mod observe;
mod pace;
mod pages;
mod pieces;
mod proof;
mod qos;
mod recent;
mod relay;
mod resolver;
mod scraped;
mod service;
mod shared;
mod status;
mod workloads;

pub use blueprint_agent_workload::launch::{ARGUMENT as BECOME_WORKLOAD, become_workload};
pub use blueprint_common_spoke::{
    BadAnswer, CallError, ControlState, Credential, DialError, HubAddress, Identity, IdentityError,
    JoinError, JoinOptions, Offer, Refusal, TunnelSettings,
};

pub use agent::{Agent, AgentError, AgentView};
pub use config::{AgentConfig, DoorSettings, SCHEMA};
pub use resolver::{ResolverDomain, ResolverSettings, ResolverWay};
pub use service::{
    Entry, LocalAddress, MAX_SERVICES, Origin, ParseLocalAddressError, ServiceError, ServiceSpec,
    ServiceTable, WorkloadRun,
};
pub use status::{CertificateReport, ControlReport, DataPlaneReport, ServiceReport, StatusReport};
pub use workloads::WorkloadSettings;
