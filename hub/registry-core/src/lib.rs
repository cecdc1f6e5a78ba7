//! Join decisions, leases, services, targets, policy and QoS history without I/O or clock.
//!
//! The hub's registry driver owns one [`Registry`] and one [`AddressPool`] and tells them what
//! happened and when. What has to outlive the process goes through the [`Store`] trait, which
//! `hub/store` implements; nothing here touches a disk, a socket or a clock.
//!
//! Invariants:
//! - a target belongs to the agent that offered it and lives only as long as that agent's lease;
//! - a target is healthy only while its agent's data plane echoes;
//! - an agent offers a service only by an explicit grant or by the first claim to it;
//! - every visible change of a target has an index of its own, and indexes only grow.

mod audit;
mod history;
mod join;
mod limits;
pub mod policy;
mod pool;
pub mod qos;
mod record;
mod registry;
mod store;
mod tls_store;
mod usage_store;
pub mod workload;

pub use audit::{AuditCheck, AuditEvent, AuditFilter, AuditKind, AuditRow, ParseAuditKindError};
pub use history::{
    AHEAD, HISTORY_POINTS, LATE_AGE, LATE_MINUTES, LateRefusal, QosHistory, QosPoint, QosSample,
    SERVICE_POINTS, ServicePoint,
};
pub use join::{CloudIdentity, IdentityRecord, JoinRefusal, MAX_CLOCK_SKEW, check_clock, check_name};
pub use limits::{AuditBudget, Buckets, Rate, Told};
pub use pool::{AddressPool, PoolError, PromiseError, ReserveError};
pub use record::{
    AccessScope, AccessTokenRecord, Agent, ApiKeyRecord, AssertionRecord, JoinTokenRecord,
    ParseServicesError, PolicyRecord, ServiceGrant, ServiceRecord, TargetRecord, WHOLE,
};
pub use registry::{
    AgentIndex, AgentView, Change, ChangeBody, DATA_PLANE_REASON, MAX_REASON_CHARS, MAX_TARGETS_PER_AGENT,
    OfferedTarget, Outcome, RefusedTarget, Registry, RegistrySnapshot, WATCH_LOG, Weights, clean_line,
    knows_no_runs,
};
pub use store::{
    ApiKeyError, ApiKeyRotateError, ApiKeyRotation, JoinCommit, JoinError, Loaded, MAX_KEYS_OF_OWNER,
    PolicyChange, PolicyChangeError, RenewError, ServiceChange, ServiceChangeError, Store, StoreError,
    StoreResult,
};
pub use tls_store::{ClientCertificateError, ClientCertificateRecord, TlsProfileRecord, TlsStore};
pub use usage_store::{KeptUsage, UsageRow, UsageStore};
