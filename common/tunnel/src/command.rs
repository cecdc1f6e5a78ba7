//! What the handle asks the engine to do.

use std::net::SocketAddr;

use blueprint_common_tunnel_core::{PeerConfig, PeerError, Policy};
use blueprint_common_types::WgPublicKey;
use tokio::sync::oneshot;

use crate::error::{ConnectError, ListenError};
use crate::listener::Listener;
use crate::stream::TcpStream;

/// One request; a reply that nobody waits for any more is dropped, and with it what it carries.
#[derive(Debug)]
pub(crate) enum Command {
    UpsertPeer { peer: Box<PeerConfig>, reply: oneshot::Sender<Result<(), PeerError>> },
    RemovePeer { key: WgPublicKey, reply: oneshot::Sender<()> },
    StartHandshake { key: WgPublicKey, reply: oneshot::Sender<()> },
    SetEndpoint { key: WgPublicKey, endpoint: SocketAddr, reply: oneshot::Sender<()> },
    ResetReplayFloor { key: WgPublicKey, reply: oneshot::Sender<bool> },
    SetPolicy { policy: Policy, reply: oneshot::Sender<()> },
    Connect { remote: SocketAddr, reply: oneshot::Sender<Result<TcpStream, ConnectError>> },
    Listen { port: u16, reply: oneshot::Sender<Result<Listener, ListenError>> },
}
