//! Reads questions from datagrams and streams, and sends the answers.

mod streams;

use std::net::{IpAddr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use blueprint_common_runtime::metrics::Metrics;
use blueprint_common_runtime::tasks::Spawner;
use blueprint_common_tunnel::{Listener, UdpSocket};
use blueprint_common_types::AgentId;
use blueprint_hub_registry_core::{Buckets, Rate, RegistrySnapshot};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tracing::{debug, warn};

use self::streams::Seats;
use crate::message::{MAX_QUESTION, Reply, Room, reply};
use crate::metrics::DnsMetrics;
use crate::zone::{Asker, Reach, Zone};

/// Questions of one machine: programs that ask before each connection have enough, and who searches names has not.
const QUESTIONS: Rate = Rate { burst: 200, every: Duration::from_millis(20) };

/// Machines whose questions are counted at once.
const COUNTED: usize = 16_384;

/// Pause after a socket failed, so that one that always fails costs no processor.
const PAUSE: Duration = Duration::from_millis(100);

/// What the server asks of the hub.
pub trait Directory: Reach + Send + Sync + 'static {
    /// Everything the registry knows now.
    fn snapshot(&self) -> Arc<RegistrySnapshot>;
}

/// Where a question comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    /// The overlay: machines, and the hub's own through its network device.
    Overlay,
    /// A loopback address of the hub's machine.
    Local,
}

/// The DNS server of a hub. Clones are the same server.
#[derive(Clone)]
pub struct DnsServer {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for DnsServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DnsServer").field("zone", &self.shared.zone).finish_non_exhaustive()
    }
}

struct Shared {
    zone: Zone,
    directory: Arc<dyn Directory>,
    metrics: DnsMetrics,
    spawner: Spawner,
    asked: Mutex<Buckets<AgentId>>,
    seats: Seats,
    local_seats: Seats,
}

impl DnsServer {
    /// Serves `zone` from what `directory` knows.
    #[must_use]
    pub fn new(zone: Zone, directory: Arc<dyn Directory>, metrics: &Metrics, spawner: Spawner) -> Self {
        let shared = Shared {
            zone,
            directory,
            metrics: DnsMetrics::new(metrics),
            spawner,
            asked: Mutex::new(Buckets::new(QUESTIONS, COUNTED)),
            seats: Seats::default(),
            local_seats: Seats::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Answers machines over UDP until the tunnel ends. The tunnel lets nobody send from another's address.
    pub async fn serve_overlay(self, socket: UdpSocket) {
        let mut buffer = [0u8; MAX_QUESTION + 1];
        while let Ok((length, source)) = socket.recv_from(&mut buffer).await {
            let Some(bytes) = buffer.get(..length) else { continue };
            if let Some(answer) = self.shared.datagram(bytes, source, Side::Overlay)
                && let Err(error) = socket.send_to(&answer, source).await
            {
                debug!(%source, %error, "an answer of the DNS was not sent");
            }
        }
    }

    /// The same over TCP.
    pub async fn serve_overlay_streams(self, mut listener: Listener) {
        while let Some(stream) = listener.accept().await {
            let source = stream.peer_addr();
            self.shared.stream(stream, source, Side::Overlay);
        }
    }

    /// Answers programs of the hub's own machine, which see everything; `socket` is bound to a loopback address.
    pub async fn serve_local(self, socket: tokio::net::UdpSocket) {
        let mut buffer = [0u8; MAX_QUESTION + 1];
        loop {
            let (length, source) = match socket.recv_from(&mut buffer).await {
                Ok(received) => received,
                Err(error) => {
                    warn!(%error, "the DNS on loopback cannot read");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            let Some(bytes) = buffer.get(..length) else { continue };
            if let Some(answer) = self.shared.datagram(bytes, source, Side::Local)
                && let Err(error) = socket.send_to(&answer, source).await
            {
                debug!(%source, %error, "an answer of the DNS was not sent");
            }
        }
    }

    /// The same over TCP.
    pub async fn serve_local_streams(self, listener: TcpListener) {
        loop {
            match listener.accept().await {
                Ok((stream, source)) => self.shared.stream(stream, source, Side::Local),
                Err(error) => {
                    warn!(%error, "the DNS on loopback cannot accept");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
}

impl Shared {
    /// The answer to a datagram; `None` where nothing is sent.
    fn datagram(&self, bytes: &[u8], source: SocketAddr, side: Side) -> Option<Vec<u8>> {
        let snapshot = self.directory.snapshot();
        let asker = self.asker(&snapshot, source.ip(), side)?;
        self.answer(bytes, (asker, Room::Datagram), &snapshot)
    }

    /// The answer to one question of somebody known.
    fn answer(&self, bytes: &[u8], from: (Asker, Room), snapshot: &RegistrySnapshot) -> Option<Vec<u8>> {
        if let Asker::Node(id) = from.0
            && !self.asked.lock().take(id, Instant::now())
        {
            self.metrics.query("too_many");
            return None;
        }
        if bytes.len() > MAX_QUESTION {
            self.metrics.query("malformed");
            return None;
        }
        // A question that the library stumbles over is lost, and not the server with it.
        let answered =
            catch_unwind(AssertUnwindSafe(|| reply(&self.zone, bytes, from, snapshot, &*self.directory)));
        let Reply { result, bytes } = answered.unwrap_or(Reply { result: "failed", bytes: None });
        self.metrics.query(result);
        bytes
    }

    /// Who has the address; counts a stranger.
    fn asker(&self, snapshot: &RegistrySnapshot, source: IpAddr, side: Side) -> Option<Asker> {
        // The tunnel lets no machine send from the hub's address: who has it is a program of the hub's machine.
        if side == Side::Local || self.zone.is_hub(source) {
            return Some(Asker::Operator);
        }
        let agent = snapshot.index_of_agents.at(source);
        if agent.is_none() {
            self.metrics.query("stranger");
        }
        agent.map(Asker::Node)
    }
}
