//! The agent: joins a machine to a hub, keeps the tunnel and the control stream, and offers services through them.
//!
//! Everything an agent is lives in an [`Agent`]; there are no globals, so that many run in one process.
//!
//! ```text
//!              control stream (gRPC, mutual TLS)           tunnel (WireGuard over UDP)
//!   hub <--------- control, session, dial ------+   +------------- plane ----------> hub
//!                                               |   |                |
//!              health, qos ---- snapshots ---- Shared             forward ---> services of this machine
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
mod carrier;
pub mod cli;
mod config;
mod control;
mod dial;
mod forward;
mod health;
mod hint;
mod http_text;
mod identity;
mod join;
mod metrics;
mod netcheck;
mod observe;
mod pieces;
mod plane;
mod qos;
mod relay;
mod renewal;
mod service;
mod session;
mod shared;
mod status;
mod tls;
mod workloads;

pub use blueprint_agent_workload::launch::{ARGUMENT as BECOME_WORKLOAD, become_workload};

pub use agent::{Agent, AgentError, AgentView};
pub use config::{AgentConfig, SCHEMA};
pub use dial::{DialError, HubAddress};
pub use identity::{BadAnswer, Credential, Identity, IdentityError, Offer, TunnelSettings};
pub use join::{CallError, JoinError, JoinOptions, Refusal};
pub use service::{
    Entry, LocalAddress, MAX_SERVICES, Origin, ParseLocalAddressError, ServiceError, ServiceSpec,
    ServiceTable,
};
pub use shared::ControlState;
pub use status::{CertificateReport, ControlReport, DataPlaneReport, ServiceReport, StatusReport};
pub use workloads::WorkloadSettings;
