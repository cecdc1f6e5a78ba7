//! Ports of this machine's loopback: one that is reached, and one that is listened on.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use blueprint_common_runtime::datagrams::{Datagrams, Flows, Passed, carry};
use blueprint_common_runtime::frames::{ALIVE, Frame, FrameReader, SILENCE};
use blueprint_common_runtime::tasks::Spawner;
use blueprint_common_tunnel::TcpStream as TunnelStream;
use blueprint_common_types::{DoorAnswer, DoorRefusal, PortAsk, PortRanges};
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::oneshot;
use tokio::time::{interval, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::say;

/// A program on the same machine either answers at once or not at all.
const CONNECT_WITHIN: Duration = Duration::from_secs(3);

/// How long the hub may take to come for a connection.
const TAKE_WITHIN: Duration = Duration::from_secs(10);

/// Connections and flows of one listener at once.
const OF_LISTENER: usize = 256;

/// A flow of datagrams on which nothing passes for so long is over.
const IDLE: Duration = Duration::from_secs(75);

/// Bytes held for a direction of a connection.
const BUFFER_BYTES: usize = 32 << 10;

/// By the numbers of listener and connection.
type Waiting = BTreeMap<(u64, u64), oneshot::Sender<TunnelStream>>;

/// Connections that came to a listener, and wait for the hub.
#[derive(Clone, Default)]
pub(super) struct Arrivals {
    waiting: Arc<Mutex<Waiting>>,
    last: Arc<AtomicU64>,
}

impl Arrivals {
    fn number(&self) -> u64 {
        self.last.fetch_add(1, Ordering::Relaxed).saturating_add(1)
    }

    /// Hands a connection out, once.
    pub(super) fn take(&self, listener: u64, connection: u64) -> Result<Port, DoorRefusal> {
        let waiting = self.waiting.lock().remove(&(listener, connection));
        waiting.map(Port::Taken).ok_or_else(|| {
            DoorRefusal::new("gone", "the connection is gone", "whoever opened it on the node may try again")
        })
    }
}

/// What was opened.
pub(super) enum Port {
    Tcp(TcpStream),
    Udp(UdpSocket),
    Taken(oneshot::Sender<TunnelStream>),
    TcpListener(TcpListener),
    UdpListener(UdpSocket),
}

/// Checks a port against those that this machine's owner opened.
fn check(ask: &PortAsk, may: &PortRanges, code: &str, key: &str) -> Result<SocketAddr, DoorRefusal> {
    if may.contains(ask.port) {
        return Ok((Ipv4Addr::LOCALHOST, ask.port).into());
    }
    let text = format!("the node does not allow this for port {}", ask.port);
    let hint =
        format!("whoever owns the node names the port in {key} of agent.toml and starts its agent again");
    Err(DoorRefusal::new(code, text, hint))
}

fn failed(place: SocketAddr, what: &str, error: &io::Error) -> DoorRefusal {
    let text = format!("{place} on the node {what}: {error}");
    DoorRefusal::new("port_failed", text, "look on the node at what has the port")
}

/// Reaches a port.
pub(super) async fn connect(ask: PortAsk, may: &PortRanges) -> Result<Port, DoorRefusal> {
    let place = check(&ask, may, "forward_off_node", "forward.connect_ports")?;
    let refused = |error: io::Error| failed(place, "takes no connection", &error);
    if ask.udp {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(refused)?;
        socket.connect(place).await.map_err(refused)?;
        return Ok(Port::Udp(socket));
    }
    let opened = timeout(CONNECT_WITHIN, TcpStream::connect(place)).await;
    let stream = opened.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(refused)?;
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%error, "no TCP_NODELAY");
    }
    Ok(Port::Tcp(stream))
}

/// Listens on a port.
pub(super) async fn listen(ask: PortAsk, may: &PortRanges) -> Result<Port, DoorRefusal> {
    let place = check(&ask, may, "reverse_off_node", "forward.listen_ports")?;
    let refused = |error: io::Error| failed(place, "cannot be listened on", &error);
    let port = if ask.udp {
        Port::UdpListener(UdpSocket::bind(place).await.map_err(refused)?)
    } else {
        Port::TcpListener(TcpListener::bind(place).await.map_err(refused)?)
    };
    let service = ask.service.map(|service| service.to_string());
    info!(%place, udp = ask.udp, service, "the operator listens on this machine");
    Ok(port)
}

impl Port {
    /// Answers, and carries what comes until one side is gone.
    pub(super) async fn carry(self, mut stream: TunnelStream, arrivals: &Arrivals, spawner: &Spawner) {
        let listener = match &self {
            Self::TcpListener(_) | Self::UdpListener(_) => arrivals.number(),
            Self::Tcp(_) | Self::Udp(_) | Self::Taken(_) => 0,
        };
        if !say(&mut stream, &DoorAnswer::Open { listener }).await {
            return;
        }
        match self {
            Self::Tcp(local) => splice(stream, local).await,
            Self::Udp(socket) => carry(stream, &socket, IDLE, &Passed::default()).await,
            // Whoever waited is gone where it cannot be given.
            Self::Taken(waiting) => drop(waiting.send(stream)),
            Self::TcpListener(local) => {
                hold(stream, Came::Tcp(local), (arrivals, listener), spawner).await;
            }
            Self::UdpListener(socket) => {
                let flows = Flows::new(socket, OF_LISTENER);
                hold(stream, Came::Udp(flows), (arrivals, listener), spawner).await;
            }
        }
    }
}

async fn splice(mut stream: TunnelStream, mut local: TcpStream) {
    let spliced =
        tokio::io::copy_bidirectional_with_sizes(&mut stream, &mut local, BUFFER_BYTES, BUFFER_BYTES).await;
    if let Err(error) = spliced {
        debug!(%error, "a forwarded connection broke");
    }
}

/// Where connections come from.
enum Came {
    Tcp(TcpListener),
    Udp(Flows),
}

/// One that came.
enum One {
    Tcp(TcpStream),
    Udp(Box<dyn Datagrams>),
}

impl Came {
    async fn next(&mut self) -> io::Result<One> {
        match self {
            Self::Tcp(listener) => listener.accept().await.map(|(stream, _)| One::Tcp(stream)),
            Self::Udp(flows) => flows.next().await.map(|flow| One::Udp(Box::new(flow))),
        }
    }
}

/// Tells the hub what comes, for as long as it is there; what was taken ends with this.
async fn hold(
    stream: TunnelStream,
    mut came: Came,
    (arrivals, listener): (&Arrivals, u64),
    spawner: &Spawner,
) {
    let (reader, mut writer) = tokio::io::split(stream);
    let mut frames = FrameReader::new(reader);
    let ended = CancellationToken::new();
    let _ended = ended.clone().drop_guard();
    let places = Arc::new(tokio::sync::Semaphore::new(OF_LISTENER));
    let listen = async {
        // The hub says nothing here but that it is there.
        while let Ok(Ok(Some(Frame::Alive))) = timeout(SILENCE, frames.next()).await {}
    };
    let tell = async {
        let mut ticks = interval(ALIVE);
        loop {
            let frame = tokio::select! {
                _ = ticks.tick() => Frame::Alive,
                one = came.next() => match one {
                    Ok(one) => {
                        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                            debug!(most = OF_LISTENER, "connection of a forward refused, too many");
                            continue;
                        };
                        let connection = arrivals.number();
                        let key = (listener, connection);
                        let (sender, taken) = oneshot::channel();
                        arrivals.waiting.lock().insert(key, sender);
                        let (arrivals, ended) = (arrivals.clone(), ended.clone());
                        spawner.spawn_base("forwarded connection", async move {
                            let _ = ended.run_until_cancelled(wait_and_carry(one, taken)).await;
                            arrivals.waiting.lock().remove(&key);
                            drop(place);
                        });
                        Frame::Arrived(connection)
                    }
                    // Out of files, perhaps; the next tick tries again.
                    Err(error) => {
                        debug!(%error, "no connection of a forward can be taken");
                        ticks.tick().await;
                        Frame::Alive
                    }
                },
            };
            if frame.write(&mut writer).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = listen => {}
        () = tell => {}
    }
    let dropped = match &came {
        Came::Tcp(_) => 0,
        Came::Udp(flows) => flows.dropped(),
    };
    info!(listener, dropped, "the operator listens on this machine no more");
}

async fn wait_and_carry(one: One, taken: oneshot::Receiver<TunnelStream>) {
    let Ok(Ok(stream)) = timeout(TAKE_WITHIN, taken).await else { return };
    match one {
        One::Tcp(local) => splice(stream, local).await,
        One::Udp(flow) => carry(stream, flow.as_ref(), IDLE, &Passed::default()).await,
    }
}

#[cfg(test)]
mod tests {
    use blueprint_common_types::ServiceKey;

    use super::*;

    #[tokio::test]
    async fn only_ports_that_the_owner_named_are_reached_or_listened_on() {
        let local = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = local.local_addr().unwrap().port();
        let ask = PortAsk { service: Some(ServiceKey { blueprint: 7, service: 42 }), port, udp: false };
        let (none, some): (PortRanges, PortRanges) =
            (PortRanges::default(), port.to_string().parse().unwrap());
        let code = |begun: Result<Port, DoorRefusal>| begun.map(drop).map_err(|refusal| refusal.code);
        assert_eq!(code(connect(ask.clone(), &none).await), Err("forward_off_node".to_owned()));
        assert_eq!(code(listen(ask.clone(), &none).await), Err("reverse_off_node".to_owned()));
        assert_eq!(code(connect(ask.clone(), &some).await), Ok(()));
        assert_eq!(code(listen(ask.clone(), &some).await), Err("port_failed".to_owned()), "it is taken");
        drop(local);
        assert_eq!(code(connect(ask, &some).await), Err("port_failed".to_owned()), "nobody listens");
    }

    #[test]
    fn a_connection_is_handed_out_once() {
        let arrivals = Arrivals::default();
        let (sender, _taken) = oneshot::channel();
        arrivals.waiting.lock().insert((1, 2), sender);
        assert!(arrivals.take(2, 1).is_err());
        assert!(arrivals.take(1, 2).is_ok());
        assert!(arrivals.take(1, 2).is_err());
    }
}
