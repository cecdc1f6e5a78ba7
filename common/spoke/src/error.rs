//! Why a spoke cannot start, or ends.

use blueprint_common_tunnel::{BindError, UpsertError};

use crate::identity::IdentityError;
use crate::join::CallError;

/// Why a spoke could not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum SpokeError {
    /// There is no identity.
    #[error("this machine has not joined a hub")]
    NotJoined,
    /// The hub removed this spoke.
    #[error("this agent has no place at its hub any more: {why}")]
    Revoked {
        /// The hub's words.
        why: String,
    },
    /// The hub gave this spoke other addresses in the overlay.
    #[error("the hub gave this agent another place in the tunnel")]
    Moved,
    /// The UDP socket or the network device.
    #[error("cannot open the tunnel")]
    Tunnel(#[from] BindError),
    /// The hub as a peer.
    #[error("cannot use the hub as a peer")]
    Peer(#[from] UpsertError),
    /// No randomness.
    #[error("the system has no source of randomness")]
    Random(#[source] std::io::Error),
    /// The stored identity.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// A call to the hub.
    #[error("a call to the hub failed")]
    Call(#[from] CallError),
}
