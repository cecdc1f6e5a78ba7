//! Two tunnels over loopback UDP, with the real core.

mod devices;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use blueprint_common_tunnel_core::{Config, Discard, Event, Limits, OverlayPrefixes, PeerConfig, Role};
use blueprint_common_types::{OverlayLease, WgPrivateKey, WgPublicKey};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::broadcast::Receiver;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::{ConnectError, Listener, TcpStream, Tunnel, TunnelConfig};

const LOCAL: &str = "127.0.0.1:0";
/// A receiving thread panics where a run of datagrams begins with this.
pub(crate) const POISON: &[u8] = b"panic, please";
/// Nothing here takes longer on an idle machine; a shared one is slower.
const PATIENCE: Duration = Duration::from_secs(60);

/// Keys and addresses of one end.
#[derive(Clone)]
pub(crate) struct Identity {
    private_key: WgPrivateKey,
    pub(crate) lease: OverlayLease,
    role: Role,
}

impl Identity {
    pub(crate) fn new(last: u8, role: Role) -> Self {
        let lease =
            OverlayLease { v4: [10, 77, 0, last].into(), v6: [0xfd77, 0, 0, 0, 0, 0, 0, last.into()].into() };
        Self { private_key: WgPrivateKey::random().unwrap(), lease, role }
    }

    pub(crate) fn key(&self) -> WgPublicKey {
        let secret = x25519_dalek::StaticSecret::from(*self.private_key.expose());
        WgPublicKey::from_bytes(x25519_dalek::PublicKey::from(&secret).to_bytes())
    }

    pub(crate) fn config(&self, listen: &str) -> TunnelConfig {
        let mut seed = [0; 32];
        blueprint_common_types::fill_random(&mut seed).unwrap();
        let prefixes =
            OverlayPrefixes { v4: "10.77.0.0/16".parse().unwrap(), v6: "fd77::/64".parse().unwrap() };
        let core = Config {
            private_key: self.private_key.clone(),
            addresses: self.lease,
            prefixes,
            role: self.role,
            mtu: 1420,
            limits: Limits::default(),
            answers_echoes: true,
            own_rules: None,
            seed,
        };
        TunnelConfig::new(listen.parse().unwrap(), core)
    }

    pub(crate) fn peer(&self, endpoint: Option<SocketAddr>) -> PeerConfig {
        PeerConfig {
            public_key: self.key(),
            allowed_ips: vec![
                format!("{}/32", self.lease.v4).parse().unwrap(),
                format!("{}/128", self.lease.v6).parse().unwrap(),
            ],
            endpoint: endpoint.map(Into::into),
            preshared_key: None,
            keepalive: Some(Duration::from_secs(25)),
        }
    }
}

/// A tunnel whose engine runs until it is dropped.
pub(crate) struct Running {
    pub(crate) tunnel: Tunnel,
    stop: CancellationToken,
    engine: JoinHandle<()>,
}

impl Running {
    pub(crate) fn start(config: TunnelConfig) -> Self {
        let (tunnel, engine) = Tunnel::bind(config).unwrap();
        let stop = CancellationToken::new();
        #[expect(clippy::disallowed_methods, reason = "a test has no supervisor")]
        let engine = tokio::spawn(engine.run(stop.clone()));
        Self { tunnel, stop, engine }
    }

    /// Ends it, and waits until it has.
    pub(crate) async fn end(self) {
        self.stop.cancel();
        self.engine.await.unwrap();
    }

    /// Ends it as a killed process would: nobody is told.
    pub(crate) async fn kill(self) {
        self.engine.abort();
        let _ = self.engine.await;
    }
}

struct Pair {
    hub: Running,
    spoke: Running,
    hub_id: Identity,
    spoke_id: Identity,
}

impl Pair {
    async fn start() -> Self {
        Self::start_with(|_| ()).await
    }

    async fn start_with(change: impl Fn(&mut TunnelConfig)) -> Self {
        let (hub_id, spoke_id) = (Identity::new(1, Role::Hub), Identity::new(2, Role::Spoke));
        let start = |id: &Identity| {
            let mut config = id.config(LOCAL);
            change(&mut config);
            Running::start(config)
        };
        let (hub, spoke) = (start(&hub_id), start(&spoke_id));
        let mut events = hub.tunnel.events();
        hub.tunnel.upsert_peer(spoke_id.peer(None)).await.unwrap();
        spoke.tunnel.upsert_peer(hub_id.peer(Some(hub.tunnel.local_addr()))).await.unwrap();
        spoke.tunnel.start_handshake(hub_id.key()).await;
        wait_for(&mut events, |event| matches!(event, Event::Handshake { .. })).await;
        Self { hub, spoke, hub_id, spoke_id }
    }

    fn at_spoke(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.spoke_id.lease.v4.into(), port)
    }

    async fn dial(&self, port: u16) -> Result<TcpStream, ConnectError> {
        self.hub.tunnel.connect(self.at_spoke(port), PATIENCE).await
    }
}

pub(crate) async fn wait_for(events: &mut Receiver<Event>, is_it: impl Fn(&Event) -> bool) {
    timeout(PATIENCE, async { while !is_it(&events.recv().await.unwrap()) {} }).await.unwrap();
}

/// Sends back what each of `count` connections sends, then ends it.
async fn echo(mut listener: Listener, count: usize) {
    let mut open = JoinSet::new();
    for _ in 0..count {
        let mut stream = listener.accept().await.unwrap();
        open.spawn(async move {
            let (mut from, mut to) = tokio::io::split(&mut stream);
            tokio::io::copy(&mut from, &mut to).await.unwrap();
            to.shutdown().await.unwrap();
        });
    }
    while let Some(done) = open.join_next().await {
        done.unwrap();
    }
}

fn pattern(seed: u32, length: usize) -> Vec<u8> {
    let mut state = seed | 1;
    std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    })
    .take(length)
    .collect()
}

/// Sends `data`, ends its half, and checks that exactly that comes back.
async fn exchange(stream: TcpStream, data: Vec<u8>) {
    let (mut from, mut to) = tokio::io::split(stream);
    let write = async {
        to.write_all(&data).await.unwrap();
        to.shutdown().await.unwrap();
    };
    let mut received = Vec::new();
    let (read, ()) =
        timeout(PATIENCE, async { tokio::join!(from.read_to_end(&mut received), write) }).await.unwrap();
    read.unwrap();
    assert!(received == data, "{} of {} bytes came back, or others", received.len(), data.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_megabytes_come_back_unchanged() {
    let pair = Pair::start().await;
    let listener = pair.spoke.tunnel.listen(80).await.unwrap();
    let stream = pair.dial(80).await.unwrap();
    tokio::join!(echo(listener, 1), exchange(stream, pattern(1, 10 << 20)));

    // And from the spoke to the hub, over IPv6.
    let listener = pair.hub.tunnel.listen(81).await.unwrap();
    let remote = SocketAddr::new(pair.hub_id.lease.v6.into(), 81);
    let stream = pair.spoke.tunnel.connect(remote, PATIENCE).await.unwrap();
    tokio::join!(echo(listener, 1), exchange(stream, pattern(2, 1 << 20)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_connections_at_once_each_get_their_own_bytes() {
    let pair = Pair::start().await;
    let listener = pair.spoke.tunnel.listen(80).await.unwrap();
    let tunnel = &pair.hub.tunnel;
    let clients = async {
        let mut clients = JoinSet::new();
        for seed in 0..200 {
            let (tunnel, remote) = (tunnel.clone(), pair.at_spoke(80));
            clients.spawn(async move {
                let stream = tunnel.connect(remote, PATIENCE).await.unwrap();
                exchange(stream, pattern(seed, 40_000)).await;
            });
        }
        while let Some(done) = clients.join_next().await {
            done.unwrap();
        }
    };
    tokio::join!(echo(listener, 200), clients);
}

#[tokio::test]
async fn refused_unrouted_and_silent_addresses_are_told_apart() {
    let pair = Pair::start().await;
    assert_eq!(pair.dial(9).await.unwrap_err(), ConnectError::Refused);
    let strange = "10.77.0.9:80".parse().unwrap();
    assert_eq!(pair.hub.tunnel.connect(strange, PATIENCE).await.unwrap_err(), ConnectError::NoRoute);
    let remote = pair.at_spoke(80);
    let tunnel = pair.hub.tunnel.clone();
    pair.spoke.kill().await;
    let short = Duration::from_millis(50);
    assert_eq!(tunnel.connect(remote, short).await.unwrap_err(), ConnectError::TimedOut);
    pair.hub.kill().await;
    assert_eq!(tunnel.connect(remote, short).await.unwrap_err(), ConnectError::Stopped);
}

#[tokio::test]
async fn one_half_goes_on_after_the_other_has_ended() {
    let pair = Pair::start().await;
    let mut listener = pair.spoke.tunnel.listen(80).await.unwrap();
    let mut dialed = pair.dial(80).await.unwrap();
    let mut accepted = listener.accept().await.unwrap();
    dialed.write_all(b"question").await.unwrap();
    dialed.shutdown().await.unwrap();
    let mut text = String::new();
    timeout(PATIENCE, accepted.read_to_string(&mut text)).await.unwrap().unwrap();
    assert_eq!(text, "question");
    accepted.write_all(b"answer").await.unwrap();
    drop(accepted);
    text.clear();
    timeout(PATIENCE, dialed.read_to_string(&mut text)).await.unwrap().unwrap();
    assert_eq!(text, "answer");
}

#[tokio::test]
async fn a_stopped_engine_resets_its_connections_at_once() {
    let pair = Pair::start().await;
    let mut listener = pair.spoke.tunnel.listen(80).await.unwrap();
    let mut dialed = pair.dial(80).await.unwrap();
    let mut accepted = listener.accept().await.unwrap();
    pair.spoke.stop.cancel();
    let mut byte = [0];
    assert!(timeout(PATIENCE, dialed.read(&mut byte)).await.unwrap().is_err());
    assert!(timeout(PATIENCE, accepted.read(&mut byte)).await.unwrap().is_err());
    assert!(timeout(PATIENCE, listener.accept()).await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn removing_a_peer_resets_its_connections_on_both_sides_and_no_others() {
    let pair = Pair::start().await;
    let mut listener = pair.spoke.tunnel.listen(80).await.unwrap();
    let mut dialed = pair.dial(80).await.unwrap();
    let mut accepted = listener.accept().await.unwrap();
    let stranger = Identity::new(3, Role::Spoke);
    pair.hub.tunnel.upsert_peer(stranger.peer(None)).await.unwrap();

    pair.hub.tunnel.remove_peer(stranger.key()).await;
    dialed.write_all(b"x").await.unwrap();
    assert_eq!(timeout(PATIENCE, accepted.read_u8()).await.unwrap().unwrap(), b'x');

    pair.hub.tunnel.remove_peer(pair.spoke_id.key()).await;
    for stream in [&mut dialed, &mut accepted] {
        let error = timeout(Duration::from_secs(5), stream.read_u8()).await.unwrap().unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }
    assert!(matches!(pair.dial(80).await, Err(ConnectError::NoRoute)));
}

#[tokio::test]
async fn a_full_backlog_refuses_and_is_counted() {
    let pair = Pair::start_with(|config| config.backlog = 2).await;
    let _listener = pair.spoke.tunnel.listen(80).await.unwrap();
    let (first, second) = (pair.dial(80).await, pair.dial(80).await);
    assert!(first.is_ok() && second.is_ok());
    assert_eq!(pair.dial(80).await.unwrap_err(), ConnectError::Refused);
    timeout(PATIENCE, async {
        while pair.spoke.tunnel.snapshot().discards.get("backlog_full") != Some(&1) {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn strangers_and_unreachable_peers_do_not_stop_the_engine() {
    let pair = Pair::start().await;
    let stranger = tokio::net::UdpSocket::bind(LOCAL).await.unwrap();
    let unreachable = Identity::new(3, Role::Spoke);
    let nowhere = stranger.local_addr().unwrap();
    for length in 0..200 {
        let noise = pattern(7, length);
        stranger.send_to(&noise, pair.hub.tunnel.local_addr()).await.unwrap();
    }
    drop(stranger);
    // Nobody listens there any more: the kernel reports it, the engine goes on.
    pair.hub.tunnel.upsert_peer(unreachable.peer(Some(nowhere))).await.unwrap();
    pair.hub.tunnel.start_handshake(unreachable.key()).await;
    pair.hub
        .tunnel
        .set_endpoint(unreachable.key(), "[2001:db8::1]:1".parse::<SocketAddr>().unwrap().into())
        .await;
    pair.hub.tunnel.start_handshake(unreachable.key()).await;
    let listener = pair.spoke.tunnel.listen(80).await.unwrap();
    let stream = pair.dial(80).await.unwrap();
    tokio::join!(echo(listener, 1), exchange(stream, pattern(3, 10_000)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_that_comes_back_elsewhere_is_found_again() {
    let Pair { hub, spoke, hub_id, spoke_id } = Pair::start().await;
    let old = hub.tunnel.local_addr();
    hub.kill().await;

    let hub = Running::start(hub_id.config(LOCAL));
    assert_ne!(hub.tunnel.local_addr(), old);
    let mut events = hub.tunnel.events();
    hub.tunnel.upsert_peer(spoke_id.peer(None)).await.unwrap();
    let began_at = Instant::now();
    spoke.tunnel.set_endpoint(hub_id.key(), hub.tunnel.local_addr().into()).await;
    spoke.tunnel.start_handshake(hub_id.key()).await;
    wait_for(&mut events, |event| matches!(event, Event::Handshake { .. })).await;

    let listener = spoke.tunnel.listen(80).await.unwrap();
    let remote = SocketAddr::new(spoke_id.lease.v4.into(), 80);
    let stream = hub.tunnel.connect(remote, PATIENCE).await.unwrap();
    tokio::join!(echo(listener, 1), exchange(stream, pattern(5, 10_000)));
    assert!(began_at.elapsed() < Duration::from_secs(5), "{:?}", began_at.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spoke_that_comes_back_elsewhere_is_followed() {
    let Pair { hub, spoke, hub_id, spoke_id } = Pair::start().await;
    spoke.kill().await;

    let mut events = hub.tunnel.events();
    let spoke = Running::start(spoke_id.config(LOCAL));
    let began_at = Instant::now();
    spoke.tunnel.upsert_peer(hub_id.peer(Some(hub.tunnel.local_addr()))).await.unwrap();
    spoke.tunnel.start_handshake(hub_id.key()).await;
    let elsewhere = spoke.tunnel.local_addr();
    wait_for(
        &mut events,
        |event| matches!(event, Event::Roam { endpoint, .. } if endpoint.remote == elsewhere),
    )
    .await;

    let listener = spoke.tunnel.listen(80).await.unwrap();
    let remote = SocketAddr::new(spoke_id.lease.v4.into(), 80);
    let stream = hub.tunnel.connect(remote, PATIENCE).await.unwrap();
    tokio::join!(echo(listener, 1), exchange(stream, pattern(5, 10_000)));
    assert!(began_at.elapsed() < Duration::from_secs(5), "{:?}", began_at.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_question_is_answered_within_milliseconds() {
    let pair = Pair::start().await;
    let mut listener = pair.spoke.tunnel.listen(80).await.unwrap();
    let mut dialed = pair.dial(80).await.unwrap();
    let mut accepted = listener.accept().await.unwrap();
    let answer = async {
        let mut byte = [0];
        while accepted.read(&mut byte).await.unwrap() > 0 {
            accepted.write_all(&byte).await.unwrap();
        }
    };
    let ask = async {
        let mut times = Vec::new();
        for byte in 0..=255 {
            let began_at = Instant::now();
            dialed.write_all(&[byte]).await.unwrap();
            assert_eq!(dialed.read_u8().await.unwrap(), byte);
            times.push(began_at.elapsed());
        }
        dialed.shutdown().await.unwrap();
        times.sort();
        times[times.len() / 2]
    };
    let (median, ()) = tokio::join!(ask, answer);
    // Far above what it takes (a fifth of a millisecond), and below any timer: no step waits for one.
    assert!(median < Duration::from_millis(5), "{median:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fault_of_ours_in_a_packet_thread_costs_one_run_of_datagrams() {
    let pair = Pair::start().await;
    let stranger = std::net::UdpSocket::bind(LOCAL).unwrap();
    for end in [&pair.hub, &pair.spoke] {
        for _ in 0..3 {
            stranger.send_to(POISON, end.tunnel.local_addr()).unwrap();
        }
    }
    let listener = pair.spoke.tunnel.listen(80).await.unwrap();
    let stream = pair.dial(80).await.unwrap();
    tokio::join!(echo(listener, 1), exchange(stream, pattern(1, 1 << 20)));
    for end in [&pair.hub, &pair.spoke] {
        timeout(PATIENCE, async {
            while end.tunnel.snapshot().stats.discarded(Discard::OwnPanic) < 3 {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })
        .await
        .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fault_of_ours_in_the_stack_costs_the_connection_that_it_came_from() {
    let pair = Pair::start().await;
    let mut listener = pair.spoke.tunnel.listen(80).await.unwrap();
    let mut other = pair.dial(80).await.unwrap();
    let mut accepted_other = listener.accept().await.unwrap();
    for _ in 0..3 {
        let mut broken = pair.dial(80).await.unwrap();
        let mut accepted = listener.accept().await.unwrap();
        broken.write_all(POISON).await.unwrap();
        let mut byte = [0];
        assert!(timeout(PATIENCE, accepted.read(&mut byte)).await.unwrap().is_err(), "the stream is told");
        // What the peer sends again finds no connection there and is answered by a reset.
        assert!(timeout(PATIENCE, broken.read(&mut byte)).await.unwrap().is_err(), "and so is the peer");
        other.write_all(&[7; 5000]).await.unwrap();
        let mut received = vec![0; 5000];
        timeout(PATIENCE, accepted_other.read_exact(&mut received)).await.unwrap().unwrap();
        assert_eq!(received, [7; 5000]);
    }
    tokio::join!(echo(listener, 1), async {
        exchange(pair.dial(80).await.unwrap(), pattern(1, 1 << 20)).await;
    });
    let counted = async {
        while pair.spoke.tunnel.snapshot().stats.discarded(Discard::OwnPanic) < 3 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, counted).await.unwrap();
    assert_eq!(pair.spoke.tunnel.snapshot().stats.discarded(Discard::OwnPanic), 3);
}
