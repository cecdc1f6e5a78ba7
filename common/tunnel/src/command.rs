//! What the handle asks the engine to do.

use std::net::SocketAddr;
use std::time::Duration;

use blueprint_common_tunnel_core::{Endpoint, PeerConfig, PeerError, Policy};
use blueprint_common_types::WgPublicKey;
use tokio::sync::oneshot;

use crate::datagram::{PortFlow, PortSocket};
use crate::error::{ConnectError, ListenError};
use crate::netstack::{FlowListener, TcpFlowStream};

/// One request to the thread that owns the core; a reply that nobody waits for any more is dropped.
#[derive(Debug)]
pub(crate) enum Command {
    UpsertPeer { peer: Box<PeerConfig>, reply: oneshot::Sender<Result<(), PeerError>> },
    RemovePeer { key: WgPublicKey, reply: oneshot::Sender<()> },
    StartHandshake { key: WgPublicKey, reply: oneshot::Sender<()> },
    SetEndpoint { key: WgPublicKey, endpoint: Endpoint, reply: oneshot::Sender<()> },
    Switch { key: WgPublicKey, endpoint: Endpoint, reply: oneshot::Sender<()> },
    Greet { key: WgPublicKey, endpoint: Endpoint, reply: oneshot::Sender<()> },
    ResetReplayFloor { key: WgPublicKey, reply: oneshot::Sender<bool> },
    SetPolicy { policy: Policy, reply: oneshot::Sender<()> },
    Probe { key: WgPublicKey, endpoint: Endpoint, size: u16, reply: oneshot::Sender<Duration> },
}

/// One request to the task that drives the stack of this process.
#[derive(Debug)]
pub(crate) enum StackCommand {
    Connect { remote: SocketAddr, reply: oneshot::Sender<Result<TcpFlowStream, ConnectError>> },
    Listen { port: u16, reply: oneshot::Sender<Result<FlowListener, ListenError>> },
    ConnectUdp { remote: SocketAddr, reply: oneshot::Sender<Result<PortFlow, ConnectError>> },
    ListenUdp { port: u16, reply: oneshot::Sender<Result<PortSocket, ListenError>> },
    ResetPeer { key: WgPublicKey, reply: oneshot::Sender<()> },
}
