//! Where the Manager reaches the service: a port of this machine, whose connections go through the hub's tunnel.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use blueprint_common_runtime::accept::ACCEPT_PAUSE;
use blueprint_common_types::ServiceKey;
use blueprint_proto::v1;
use blueprint_proto::v1::launcher_client::LauncherClient;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::socket;
use crate::voice::Voice;

/// Connections at once; more wait.
const MAX_CONNECTIONS: usize = 1024;

/// Bytes of one message, and messages that wait for the hub.
const PIECE: usize = 32 * 1024;
const WAITING: usize = 4;

/// Listens on loopback; it runs in [`Forward::run`].
#[derive(Debug)]
pub(crate) struct Forward {
    listener: TcpListener,
    hub: PathBuf,
    service: ServiceKey,
    voice: Voice,
}

impl Forward {
    /// Takes a free port of loopback.
    pub(crate) async fn bind(hub: PathBuf, service: ServiceKey, voice: Voice) -> std::io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        Ok(Self { listener, hub, service, voice })
    }

    pub(crate) fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Accepts until it is dropped, which cuts what is open.
    pub(crate) async fn run(self) {
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut open = JoinSet::new();
        loop {
            while open.try_join_next().is_some() {}
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let (hub, service, voice) = (self.hub.clone(), self.service, self.voice.clone());
                    open.spawn(async move {
                        let _place = place;
                        if let Err(why) = connection(stream, hub, service).await {
                            voice.say(&format!("a connection to {service} ended: {why}"));
                        }
                    });
                }
                // The usual cause, too many open files, goes away by itself.
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            }
        }
    }
}

/// Copies both ways until both have ended, or one is broken.
async fn connection(stream: TcpStream, hub: PathBuf, service: ServiceKey) -> Result<(), String> {
    let _ = stream.set_nodelay(true);
    // A connection of its own: one that is slow holds up no other.
    let mut client = LauncherClient::new(socket::channel(&hub).await?);
    let (pieces, receiver) = mpsc::channel(WAITING);
    let to = v1::ForwardTo { blueprint_id: service.blueprint, service_id: service.service };
    // The channel is new and empty.
    let _ = pieces.try_send(v1::ForwardBytes { to: Some(to), content: Vec::new() });
    let answer = client.forward(ReceiverStream::new(receiver)).await;
    let inbound = answer.map_err(|status| status.message().to_owned())?.into_inner();
    let (reader, writer) = stream.into_split();
    tokio::try_join!(up(reader, pieces), down(inbound, writer)).map(drop)
}

async fn up(mut reader: OwnedReadHalf, pieces: mpsc::Sender<v1::ForwardBytes>) -> Result<(), String> {
    let mut buffer = vec![0; PIECE];
    loop {
        let count = tokio::select! {
            biased;
            () = pieces.closed() => return Err("the hub closed it".to_owned()),
            count = reader.read(&mut buffer) => count.map_err(|error| error.to_string())?,
        };
        if count == 0 {
            return Ok(());
        }
        let content = buffer.get(..count).unwrap_or_default().to_vec();
        let sent = pieces.send(v1::ForwardBytes { to: None, content }).await;
        sent.map_err(|_| "the hub closed it".to_owned())?;
    }
}

async fn down(mut inbound: Streaming<v1::ForwardBytes>, mut writer: OwnedWriteHalf) -> Result<(), String> {
    while let Some(piece) = inbound.message().await.map_err(|status| status.message().to_owned())? {
        writer.write_all(&piece.content).await.map_err(|error| error.to_string())?;
    }
    writer.shutdown().await.map_err(|error| error.to_string())
}
