//! One control stream: opened, welcomed, and what it was told at its start.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use blueprint_common_tunnel::carrier::ProxyUrl;
use blueprint_proto::v1;
use blueprint_proto::v1::agent_control_client::AgentControlClient;
use blueprint_proto::v1::{agent_message, hub_message};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::dial::{DialError, MAX_MESSAGE_BYTES, dial};
use crate::identity::{BadAnswer, Identity, TunnelSettings};
use crate::join::CallError;
use crate::tls;

/// Messages on their way into the stream; more than the outbox holds, so that all of it fits.
const OUTGOING: usize = 512;

/// Calls beside the stream, over its connection.
pub type Caller = AgentControlClient<tonic::transport::Channel>;

/// An open stream that the hub welcomed.
#[derive(Debug)]
pub(crate) struct Session {
    outgoing: mpsc::Sender<v1::AgentMessage>,
    inbound: Streaming<v1::HubMessage>,
    /// The hub's address.
    pub(crate) reached: SocketAddr,
    pub(crate) caller: Caller,
}

impl Session {
    /// Puts a message on the stream; `false` where it has no room at the moment or is gone.
    pub(crate) fn has_room(&self) -> bool {
        !self.outgoing.is_closed() && self.outgoing.capacity() > 0
    }

    /// Puts a message on the stream; one that finds no room is lost with the stream.
    pub(crate) fn send(&self, seq: u64, body: agent_message::Body) {
        let _ = self.outgoing.try_send(v1::AgentMessage { seq, body: Some(body) });
    }

    /// The next message of the hub; `None` at the end of the stream.
    ///
    /// # Cancel safety
    ///
    /// Dropping it loses no message.
    pub(crate) async fn next(&mut self) -> Result<Option<v1::HubMessage>, Status> {
        self.inbound.message().await
    }

    /// Ends our side, and gives back what the hub still says.
    pub(crate) fn finish(self) -> Streaming<v1::HubMessage> {
        self.inbound
    }
}

/// A session and the hub's welcome.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) session: Session,
    pub(crate) settings: TunnelSettings,
    /// Last of our messages that the hub processed.
    pub(crate) agent_seq: u64,
    pub(crate) heartbeat: Duration,
}

/// Opens a stream over a new connection, and waits for the welcome.
///
/// # Cancel safety
///
/// Dropping it leaves nothing open; the hub may have closed an older stream for it.
pub(crate) async fn open(
    identity: Arc<Identity>,
    proxy: Option<ProxyUrl>,
    hello: v1::Hello,
) -> Result<Opened, CallError> {
    let config = tls::session_config(&identity.credential).map_err(DialError::SetUp)?;
    let dialed = dial(&identity.hub, config, proxy.as_ref()).await?;
    let (outgoing, receiver) = mpsc::channel(OUTGOING);
    let first = v1::AgentMessage { seq: 0, body: Some(agent_message::Body::Hello(hello)) };
    // The channel is new and empty.
    let _ = outgoing.try_send(first);
    let mut client = AgentControlClient::new(dialed.channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let mut inbound = client.session(ReceiverStream::new(receiver)).await?.into_inner();
    let Some(hub_message::Body::Welcome(welcome)) = inbound.message().await?.and_then(|message| message.body)
    else {
        return Err(BadAnswer("welcome").into());
    };
    Ok(Opened {
        session: Session { outgoing, inbound, reached: dialed.reached, caller: client },
        settings: welcome.config.ok_or(BadAnswer("welcome"))?.try_into()?,
        agent_seq: welcome.agent_seq,
        heartbeat: Duration::from_secs(welcome.heartbeat_secs.clamp(1, 3600).into()),
    })
}
