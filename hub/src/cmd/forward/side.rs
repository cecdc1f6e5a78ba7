//! Connections of a forward, and what passed.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use blueprint_common_runtime::cli::bytes;
use blueprint_common_runtime::datagrams::{Datagrams, Flow, Flows, Passed, carry};
use blueprint_common_runtime::local_api::LocalStream;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::time::timeout;

/// A flow of datagrams on which nothing passes for so long is over.
const IDLE: Duration = Duration::from_secs(60);

/// How long a program here may take to take a connection.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// Bytes held for a direction.
const CHUNK: usize = 32 << 10;

/// This side of a forward.
pub(super) enum Local {
    Tcp(TcpListener),
    Udp(SocketAddr, Flows),
    /// Where connections that come to the node lead, and whether they are flows of datagrams.
    Reverse(SocketAddr, bool),
}

/// A connection or a flow that came.
pub(super) enum One {
    Tcp(TcpStream),
    Udp(Flow),
    /// To the node, with this number.
    Arrived(u64),
}

/// The end of a connection on this side.
pub(super) enum Near {
    Tcp(TcpStream),
    Flow(Flow),
    Udp(UdpSocket),
}

impl Local {
    /// The next connection; none come where the node listens.
    pub(super) async fn next(&mut self) -> io::Result<One> {
        match self {
            Self::Tcp(listener) => listener.accept().await.map(|(stream, _)| One::Tcp(stream)),
            Self::Udp(_, flows) => flows.next().await.map(One::Udp),
            Self::Reverse(..) => std::future::pending().await,
        }
    }

    /// Whether datagrams come here.
    pub(super) const fn is_udp(&self) -> bool {
        matches!(self, Self::Udp(..))
    }

    /// Where it is.
    pub(super) fn place(&self) -> SocketAddr {
        match self {
            Self::Tcp(listener) => {
                listener.local_addr().unwrap_or_else(|_| (Ipv4Addr::UNSPECIFIED, 0).into())
            }
            Self::Udp(place, _) | Self::Reverse(place, _) => *place,
        }
    }

    /// Where what comes to the node leads, and whether that is datagrams; `None` where this side listens.
    pub(super) const fn far(&self) -> Option<(SocketAddr, bool)> {
        match self {
            Self::Reverse(place, is_udp) => Some((*place, *is_udp)),
            Self::Tcp(_) | Self::Udp(..) => None,
        }
    }
}

impl Near {
    /// Connects for one that came to the node.
    pub(super) async fn reach(place: SocketAddr, is_udp: bool) -> io::Result<Self> {
        if is_udp {
            let any: IpAddr = match place {
                SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
            };
            let socket = UdpSocket::bind((any, 0)).await?;
            socket.connect(place).await?;
            return Ok(Self::Udp(socket));
        }
        let stream = timeout(CONNECT_WITHIN, TcpStream::connect(place)).await;
        Ok(Self::Tcp(stream.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?))
    }

    /// Carries it to its end.
    pub(super) async fn carry(self, hub: LocalStream, counts: &Counts) {
        counts.connections.fetch_add(1, Ordering::Relaxed);
        match self {
            Self::Tcp(local) => splice(local, hub, &counts.up, &counts.down).await,
            Self::Flow(flow) => datagrams(hub, &flow, counts).await,
            Self::Udp(socket) => datagrams(hub, &socket, counts).await,
        }
    }
}

async fn datagrams(hub: LocalStream, here: &dyn Datagrams, counts: &Counts) {
    let passed = Passed::default();
    carry(hub, here, IDLE, &passed).await;
    // What comes from the hub goes up in the eyes of that function.
    counts.down.fetch_add(passed.up.load(Ordering::Relaxed), Ordering::Relaxed);
    counts.up.fetch_add(passed.down.load(Ordering::Relaxed), Ordering::Relaxed);
}

async fn splice(local: TcpStream, hub: LocalStream, up: &AtomicU64, down: &AtomicU64) {
    // Where it cannot be had, small pieces wait for a moment.
    let _ = local.set_nodelay(true);
    let (local_reader, local_writer) = local.into_split();
    let (hub_reader, hub_writer) = tokio::io::split(hub);
    // Whichever breaks takes the other along.
    let _ = tokio::try_join!(pump(local_reader, hub_writer, up), pump(hub_reader, local_writer, down));
}

async fn pump<R, W>(mut reader: R, mut writer: W, passed: &AtomicU64) -> io::Result<()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut buffer = vec![0; CHUNK];
    loop {
        let count = reader.read(&mut buffer).await?;
        if count == 0 {
            return writer.shutdown().await;
        }
        writer.write_all(buffer.get(..count).unwrap_or_default()).await?;
        writer.flush().await?;
        passed.fetch_add(u64::try_from(count).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

/// What passed.
#[derive(Debug, Default)]
pub(super) struct Counts {
    begun: AtomicBool,
    connections: AtomicU64,
    failed: AtomicU64,
    up: AtomicU64,
    down: AtomicU64,
}

impl Counts {
    /// The forward was open once.
    pub(super) fn begin(&self) {
        self.begun.store(true, Ordering::Relaxed);
    }

    pub(super) fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Relaxed)
    }

    pub(super) fn fail(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }

    fn all(&self) -> [u64; 4] {
        [&self.connections, &self.failed, &self.up, &self.down].map(|counter| counter.load(Ordering::Relaxed))
    }

    pub(super) fn json(&self) -> Value {
        let [connections, failed, up, down] = self.all();
        json!({"connections": connections, "failed": failed, "bytes_from_here": up, "bytes_to_here": down})
    }

    pub(super) fn line(&self) -> String {
        let [connections, failed, up, down] = self.all();
        format!(
            "{connections} connections, {failed} failed; {} from here, {} to here",
            bytes(up),
            bytes(down)
        )
    }
}
