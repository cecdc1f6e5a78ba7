//! The hub's control plane: joining, agent sessions, the registry and its watch, over gRPC.
//!
//! One task, the [`Registrar`], owns the registry; connections talk to it through a bounded queue and
//! read published snapshots. Who calls is read from the certificate alone.
//!
//! What it leaves to others: rules of the registry (`hub/registry-core`), storage (`hub/store`), the
//! tunnel (behind [`Peers`]), the operator's JSON (`hub/admin`).

mod artefact;
mod authority;
mod carriers;
mod checks;
mod control;
mod download;
mod enroll;
mod find;
mod forward;
mod identity;
mod late;
mod launcher;
mod launchers;
mod logs;
mod metrics;
mod operator;
mod proof;
mod qos;
mod registrar;
mod rpc;
mod session;
mod shared;
mod status;
mod tls;
mod watch;
mod workload;
mod workloads;

pub use artefact::{PushedFile, PushedFiles};
pub use authority::{Authority, AuthorityError, Issued};
pub use control::{ControlConfig, ControlPlane, RemoveError, StartQuicError};
pub use download::AgentFiles;
pub use forward::{Reach, ReachStream};
pub use identity::{AgentIdentity, NotAnAgent, read as read_identity};
pub use launcher::{LauncherParts, LogPieces, LogSource};
pub use launchers::{Launchers, LaunchersHandle};
pub use logs::LogsReader;
pub use operator::serve_operator;
pub use proof::{Identities, Proof, ProofFailure};
pub use qos::{
    Desk, DeskParts, Kept, PageWatch, QosMetrics, QosPages, Recorder, RecorderParts, Sampled, Samples, Sink,
    samples, serve_local, serve_overlay,
};
pub use registrar::{QosView, Registrar, RegistrarHandle, Stopping};
pub use shared::{Peers, TunnelFacts};
pub use status::CODE_KEY;
pub use tls::{HandshakeFailure, RENEW_GRACE, TlsError, carrier_config, control_config};
pub use workloads::{Blueprints, WorkloadRules, Workloads, WorkloadsHandle, lease_of};
