//! A spoke: joins a hub, and keeps the tunnel and the control stream to it. The agent is one, and so is every program
//! that reaches services through a hub by itself (`common/client`).
//!
//! Everything a spoke is lives in a [`Spoke`]; there are no globals, so that many run in one process.
//!
//! ```text
//!              control stream (gRPC, mutual TLS)           tunnel (WireGuard over UDP, QUIC or TLS)
//!   hub <--------- control, session, dial ------+   +------------- plane, carrier --> hub
//!                                               |   |
//!     Says, Duties (what the machine does) ---- Spoke ---- identity.json, renewed at half of its life
//! ```
//!
//! # Invariants
//!
//! - The hub is known by the pinned authority alone, wherever its name leads.
//! - An identity is on the disk before anybody is told of it; keys appear in no log, argument or error.
//! - A spoke is ready while its data plane echoes, never because its control stream stands.
//! - It comes back by itself from everything but its removal at the hub.

mod carrier;
mod control;
mod dial;
mod duties;
mod error;
mod identity;
mod join;
mod name;
mod plane;
mod proof;
mod renewal;
mod session;
mod spoke;
mod tls;

pub use carrier::{Base, LiveLink, Reached, TryError, Way, largest, try_way};
pub use dial::{DialError, HubAddress};
pub use duties::{Duties, Says};
pub use error::SpokeError;
pub use identity::{BadAnswer, Credential, Identity, IdentityError, Offer, TunnelSettings};
pub use join::{CallError, JoinError, JoinOptions, Refusal, join, leave, now};
pub use name::{MAX_NAME, host_name, is_name};
pub use plane::Plane;
pub use proof::{Joined, MadeProof, ProofAsk, ProofOptions, Prover, join_proven};
pub use session::Caller;
pub use spoke::{ControlState, ControlStatus, Part, Spoke, SpokeConfig};
