//! `Forward`: the bytes of one TCP connection, from a launcher through the tunnel to its service.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use blueprint_common_tunnel::Tunnel;
use blueprint_common_types::{Health, ServiceKey};
use blueprint_hub_registry_core::RegistrySnapshot;
use blueprint_proto::v1;
use futures_util::future::{BoxFuture, FutureExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::{Status, Streaming};

use crate::{RegistrarHandle, status};

/// How long a service may take to become healthy: it is checked within a second of its registration.
const HEALTHY_WITHIN: Duration = Duration::from_secs(5);

/// How long a connection through the tunnel may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// How long the first message may take.
const FIRST_WITHIN: Duration = Duration::from_secs(5);

/// Bytes of one message, and messages that wait for a launcher.
const PIECE: usize = 32 * 1024;
const WAITING: usize = 4;

/// Bytes in both directions.
pub trait ReachStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> ReachStream for T {}

/// Opens connections over the overlay.
pub trait Reach: Send + Sync {
    /// Opens a TCP connection within a few seconds.
    ///
    /// # Errors
    ///
    /// One line for whoever asked.
    fn connect(&self, to: SocketAddr) -> BoxFuture<'_, Result<Box<dyn ReachStream>, String>>;
}

impl Reach for Tunnel {
    fn connect(&self, to: SocketAddr) -> BoxFuture<'_, Result<Box<dyn ReachStream>, String>> {
        async move {
            let opened = Self::connect(self, to, CONNECT_WITHIN).await;
            let stream = opened.map_err(|error| error.to_string())?;
            Ok::<Box<dyn ReachStream>, _>(Box::new(stream))
        }
        .boxed()
    }
}

/// Reads which service is meant, with the bytes that came along.
pub(crate) async fn first(
    inbound: &mut Streaming<v1::ForwardBytes>,
) -> Result<(ServiceKey, Vec<u8>), Status> {
    let first = timeout(FIRST_WITHIN, inbound.message()).await;
    let first = first.map_err(|_| status::bad_request("no message came"))??.unwrap_or_default();
    let to = first.to.ok_or_else(|| status::bad_request("the first message names no service"))?;
    Ok((ServiceKey { blueprint: to.blueprint_id, service: to.service_id }, first.content))
}

/// Opens a connection to a healthy target of the service; waits a moment for one.
pub(crate) async fn open(
    registrar: &RegistrarHandle,
    reach: &dyn Reach,
    service: ServiceKey,
) -> Result<Box<dyn ReachStream>, Status> {
    let mut snapshots = registrar.snapshots();
    let is_healthy = |snapshot: &Arc<RegistrySnapshot>| {
        snapshot.targets_of(service).any(|target| target.health == Health::Healthy)
    };
    let none = || {
        Status::unavailable(format!(
            "no target of {service} is healthy; `blueprint-hub node ls` shows the nodes"
        ))
    };
    let found = timeout(HEALTHY_WITHIN, async {
        // A copy: what is borrowed from the channel may not be kept over a wait.
        snapshots.wait_for(is_healthy).await.map(|snapshot| Arc::clone(&snapshot))
    });
    let snapshot = match found.await {
        Ok(Ok(snapshot)) => snapshot,
        Ok(Err(_)) => return Err(status::stopping()),
        Err(_) => return Err(none()),
    };
    let mut targets = snapshot.targets_of(service).filter(|target| target.health == Health::Healthy);
    let address = targets.next().map(|target| target.address).ok_or_else(none)?;
    let opened = reach.connect(address).await;
    opened.map_err(|error| Status::unavailable(format!("{service} at {address}: {error}")))
}

/// What goes back to the launcher.
pub(crate) type Outbox = mpsc::Sender<Result<v1::ForwardBytes, Status>>;

/// A channel for what goes back.
pub(crate) fn outbox() -> (Outbox, mpsc::Receiver<Result<v1::ForwardBytes, Status>>) {
    mpsc::channel(WAITING)
}

/// Copies both ways until both have ended, or one is broken.
pub(crate) async fn copy(
    stream: Box<dyn ReachStream>,
    early: Vec<u8>,
    inbound: Streaming<v1::ForwardBytes>,
    outbox: Outbox,
) {
    let (reader, writer) = tokio::io::split(stream);
    // Either fails where the other side is gone, and then both ends are dropped.
    let _ = tokio::try_join!(up(early, inbound, writer), down(reader, outbox));
}

/// A direction broke; whoever notices drops both.
struct Broken;

async fn up(
    early: Vec<u8>,
    mut inbound: Streaming<v1::ForwardBytes>,
    mut writer: WriteHalf<Box<dyn ReachStream>>,
) -> Result<(), Broken> {
    writer.write_all(&early).await.map_err(|_| Broken)?;
    while let Some(piece) = inbound.message().await.map_err(|_| Broken)? {
        writer.write_all(&piece.content).await.map_err(|_| Broken)?;
    }
    writer.shutdown().await.map_err(|_| Broken)
}

async fn down(mut reader: ReadHalf<Box<dyn ReachStream>>, outbox: Outbox) -> Result<(), Broken> {
    let mut buffer = vec![0; PIECE];
    loop {
        let count = tokio::select! {
            biased;
            () = outbox.closed() => return Err(Broken),
            count = reader.read(&mut buffer) => match count {
                Ok(count) => count,
                Err(error) => {
                    let status = Status::unavailable(format!("the connection broke: {error}"));
                    let _ = outbox.send(Err(status)).await;
                    return Err(Broken);
                }
            },
        };
        if count == 0 {
            return Ok(());
        }
        let content = buffer.get(..count).unwrap_or_default().to_vec();
        outbox.send(Ok(v1::ForwardBytes { to: None, content })).await.map_err(|_| Broken)?;
    }
}
