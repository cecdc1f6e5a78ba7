//! Datagrams from the overlay to a service of this machine: one flow per address and port of the other end.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use blueprint_common_runtime::tasks::Spawner;
use blueprint_common_tunnel::{UdpError, UdpSocket};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::forward::LISTEN_PAUSE;
use crate::service::ServiceSpec;
use crate::shared::Shared;

/// Flows of one service at once.
const MAX_FLOWS: usize = 4096;

/// Datagrams that wait for one flow.
const QUEUE: usize = 16;

/// A flow on which nothing passes for so long is over; the hub ends it after 60 s.
const IDLE: Duration = Duration::from_secs(75);

/// Longest datagram; a tunnel's MTU is at most 9000 bytes.
const MAX_DATAGRAM: usize = 9000;

/// Flows of one service, by their other end.
type Flows = Arc<Mutex<BTreeMap<SocketAddr, mpsc::Sender<Vec<u8>>>>>;

/// Takes the datagrams of one service until `stop`, and ends its flows with that.
pub(crate) async fn run(shared: Arc<Shared>, spec: ServiceSpec, stop: CancellationToken, spawner: Spawner) {
    let _ = stop.run_until_cancelled(receive(&shared, &spec, &stop, &spawner)).await;
    debug!(service = %spec.service, port = spec.port, "service closed to datagrams");
}

async fn receive(shared: &Arc<Shared>, spec: &ServiceSpec, stop: &CancellationToken, spawner: &Spawner) {
    let stats = shared.streams.of(spec.port);
    let socket = loop {
        match shared.spoke.plane().tunnel().listen_udp(spec.port).await {
            Ok(socket) => break Arc::new(socket),
            Err(error) => {
                debug!(service = %spec.service, port = spec.port, %error, "overlay port not open yet");
                sleep(LISTEN_PAUSE).await;
            }
        }
    };
    info!(service = %spec.service, port = spec.port, local = %spec.local, "service offered over UDP");
    let flows = Flows::default();
    let mut buffer = vec![0; MAX_DATAGRAM];
    while let Ok((count, from)) = socket.recv_from(&mut buffer).await {
        let data = buffer.get(..count).unwrap_or_default().to_vec();
        let known = flows.lock().get(&from).cloned();
        if let Some(sender) = known {
            // A full queue drops, as a network does.
            let _ = sender.try_send(data);
            continue;
        }
        if flows.lock().len() >= MAX_FLOWS {
            stats.refused.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        stats.accepted.fetch_add(1, Ordering::Relaxed);
        let (sender, inbox) = mpsc::channel(QUEUE);
        let _ = sender.try_send(data);
        flows.lock().insert(from, sender);
        let entry = Entry { flows: Arc::clone(&flows), from };
        let (socket, stats, local) = (Arc::clone(&socket), Arc::clone(&stats), spec.local);
        let stop = stop.clone();
        spawner.spawn_base("datagrams", async move {
            let carried = stop.run_until_cancelled(carry(&socket, local, &entry, inbox)).await;
            if let Some(Err(error)) = carried {
                stats.failed.fetch_add(1, Ordering::Relaxed);
                debug!(%local, %error, "service takes no datagram");
            }
        });
    }
}

/// A flow in the table; leaves it when dropped.
struct Entry {
    flows: Flows,
    from: SocketAddr,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.flows.lock().remove(&self.from);
    }
}

/// Passes the datagrams of one flow until nothing passes, or one side takes none.
async fn carry(
    socket: &UdpSocket,
    local: SocketAddr,
    entry: &Entry,
    mut inbox: mpsc::Receiver<Vec<u8>>,
) -> io::Result<()> {
    let any: SocketAddr = match local {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let service = tokio::net::UdpSocket::bind(any).await?;
    service.connect(local).await?;
    let mut buffer = vec![0; MAX_DATAGRAM];
    loop {
        let next = async {
            tokio::select! {
                queued = inbox.recv() => queued.map_or(Next::End, Next::ToService),
                received = service.recv(&mut buffer) => Next::Back(received),
            }
        };
        match timeout(IDLE, next).await {
            Err(_) | Ok(Next::End) => return Ok(()),
            Ok(Next::ToService(data)) => service.send(&data).await.map(drop)?,
            Ok(Next::Back(received)) => {
                let data = buffer.get(..received?).unwrap_or_default();
                match socket.send_to(data, entry.from).await {
                    Ok(()) => {}
                    Err(UdpError::TooLong { bytes, max }) => {
                        debug!(bytes, max, "answer does not fit the tunnel")
                    }
                    Err(UdpError::NoRoute | UdpError::Refused | UdpError::Stopped) => return Ok(()),
                }
            }
        }
    }
}

/// What a flow does next.
enum Next {
    ToService(Vec<u8>),
    Back(io::Result<usize>),
    End,
}
