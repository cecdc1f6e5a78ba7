//! Datagrams of a forward: one flow per address and port of a client.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use blueprint_common_runtime::accept::ACCEPT_PAUSE;
use blueprint_common_runtime::tasks::Spawner;
use blueprint_common_tunnel::UdpError;
use blueprint_hub_proxy_core::Transport;
use parking_lot::Mutex;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::account::Account;
use super::counters::{Dropped, End, Refused};
use super::{Chosen, Line, Seat, WATCH_EVERY};
use crate::dial::Datagrams;

/// A flow on which nothing passes for so long is over; RFC 4787 asks two minutes of a NAT, which this is not.
const IDLE: Duration = Duration::from_secs(60);

/// Longest datagram; the tunnel's MTU is at most 9000 bytes.
const MAX_DATAGRAM: usize = 9000;

/// Datagrams that wait for one flow.
const QUEUE: usize = 32;

/// Bytes that wait for all flows of all forwards together.
const QUEUE_BYTES: usize = 16 << 20;

/// Flows of one forward, by their client.
type Flows = Arc<Mutex<BTreeMap<SocketAddr, mpsc::Sender<Queued>>>>;

/// A datagram that waits.
struct Queued {
    data: Vec<u8>,
    all: Arc<AtomicUsize>,
}

impl Queued {
    fn new(data: &[u8], all: &Arc<AtomicUsize>) -> Option<Self> {
        let before = all.fetch_add(data.len(), Ordering::Relaxed);
        // Made also where there is no room, so that what was added is taken off again.
        let made = Self { data: data.to_vec(), all: Arc::clone(all) };
        (before.saturating_add(data.len()) <= QUEUE_BYTES).then_some(made)
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        self.all.fetch_sub(self.data.len(), Ordering::Relaxed);
    }
}

/// Receives until the forward goes or the drain begins; its flows go with it.
pub(super) async fn listen(line: Arc<Line>, socket: Arc<UdpSocket>, spawner: Spawner) {
    let drain = spawner.stop().drain;
    let _all = line.stop.clone().drop_guard();
    let flows = Flows::default();
    let mut buffer = vec![0; MAX_DATAGRAM.saturating_add(1)];
    loop {
        let received = tokio::select! {
            biased;
            () = line.stop.cancelled() => return,
            () = drain.cancelled() => return,
            received = socket.recv_from(&mut buffer) => received,
        };
        let (data, client) = match received {
            Ok((count, client)) => (buffer.get(..count).unwrap_or_default(), client),
            Err(error) => {
                warn!(service = %line.service, %error, "receiving of a forward failed");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        if let Err(dropped) = take(&line, &flows, &socket, data, client, &spawner) {
            line.shared.counters.count_dropped(dropped);
        }
    }
}

/// Gives a datagram to the flow of its client, which begins with it where there is none.
fn take(
    line: &Arc<Line>,
    flows: &Flows,
    socket: &Arc<UdpSocket>,
    data: &[u8],
    client: SocketAddr,
    spawner: &Spawner,
) -> Result<(), Dropped> {
    if data.len() > MAX_DATAGRAM {
        return Err(Dropped::TooLong);
    }
    let known = flows.lock().get(&client).cloned();
    let (sender, fresh) = match known {
        Some(sender) => (sender, None),
        None => {
            let Some(seat) = line.admit(&line.shared.udp, client.ip()) else { return Ok(()) };
            let (sender, inbox) = mpsc::channel(QUEUE);
            flows.lock().insert(client, sender.clone());
            let entry = Entry { flows: Arc::clone(flows), client, _seat: seat };
            (sender, Some((entry, inbox)))
        }
    };
    let queued = Queued::new(data, &line.shared.queued_bytes).ok_or(Dropped::QueueFull)?;
    sender.try_send(queued).map_err(|_| Dropped::QueueFull)?;
    if let Some((entry, inbox)) = fresh {
        let drain = spawner.stop().drain;
        spawner
            .spawn_base("forward flow", carry(Arc::clone(line), Arc::clone(socket), (entry, inbox), drain));
    }
    Ok(())
}

/// A flow in the table; leaves it when dropped.
struct Entry {
    flows: Flows,
    client: SocketAddr,
    _seat: Seat,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.flows.lock().remove(&self.client);
    }
}

/// Passes the datagrams of one client until its flow ends.
async fn carry(
    line: Arc<Line>,
    socket: Arc<UdpSocket>,
    (entry, inbox): (Entry, mpsc::Receiver<Queued>),
    drain: CancellationToken,
) {
    let source = entry.client.ip();
    let Some(chosen) = line.choose(&[]) else { return line.refuse(Refused::NoTarget, source) };
    let target = match line.shared.dialer.connect_udp(chosen.address).await {
        Ok(target) => target,
        Err(error) => {
            debug!(service = %line.service, target = %chosen.address, %error, "no way to the target");
            return line.refuse(Refused::Unreachable, source);
        }
    };
    let Chosen { address, agent, at } = chosen;
    debug!(service = %line.service, %source, %agent, target = %address, "flow of a forward begins");
    let account = Account::begin(&line, Transport::Udp, source, address);
    let client = entry.client;
    let mut flow = Flow { line: &line, socket: &socket, client, target, address, account };
    let ended = line.stop.run_until_cancelled(flow.run(inbox)).await;
    // The listener ends with the drain, too, and its flows with it: nothing was removed then.
    let end = ended.unwrap_or(if drain.is_cancelled() { End::Stopped } else { End::Removed });
    drop(at);
    flow.account.end(end);
}

struct Flow<'l> {
    line: &'l Line,
    socket: &'l UdpSocket,
    client: SocketAddr,
    target: Box<dyn Datagrams>,
    address: SocketAddr,
    account: Account,
}

impl Flow<'_> {
    async fn run(&mut self, mut inbox: mpsc::Receiver<Queued>) -> End {
        let mut last = Instant::now();
        let mut watch = interval(WATCH_EVERY);
        watch.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut buffer = vec![0; MAX_DATAGRAM];
        loop {
            tokio::select! {
                biased;
                _ = watch.tick() => {
                    self.account.settle_now_and_then();
                    if !self.line.forward.load().admits(self.client.ip()) {
                        return End::Source;
                    }
                    if !self.line.is_healthy(self.address) {
                        return End::Target;
                    }
                    if last.elapsed() >= IDLE {
                        return End::Idle;
                    }
                }
                received = self.target.recv(&mut buffer) => match received {
                    Ok(count) => {
                        last = Instant::now();
                        self.send_back(buffer.get(..count).unwrap_or_default()).await;
                    }
                    // Nobody listens there: the next datagram may find another target.
                    Err(error) => return broken(self.line, &error),
                },
                queued = inbox.recv() => {
                    let Some(queued) = queued else { return End::Removed };
                    last = Instant::now();
                    match self.target.send(&queued.data).await {
                        Ok(()) => _ = self.account.up.fetch_add(length(&queued.data), Ordering::Relaxed),
                        Err(UdpError::TooLong { .. }) => self.line.shared.counters.count_dropped(Dropped::TooLong),
                        Err(error @ (UdpError::NoRoute | UdpError::Refused | UdpError::Stopped)) => {
                            return broken(self.line, &error);
                        }
                    }
                }
            }
        }
    }

    async fn send_back(&mut self, data: &[u8]) {
        match self.socket.send_to(data, self.client).await {
            Ok(_) => _ = self.account.down.fetch_add(length(data), Ordering::Relaxed),
            Err(_) => self.line.shared.counters.count_dropped(Dropped::Failed),
        }
    }
}

fn broken(line: &Line, error: &UdpError) -> End {
    debug!(service = %line.service, %error, "flow of a forward broke");
    line.shared.counters.count_dropped(Dropped::Failed);
    End::Broken
}

fn length(data: &[u8]) -> u64 {
    u64::try_from(data.len()).unwrap_or(u64::MAX)
}
