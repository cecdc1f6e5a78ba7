//! Raw forwards over real sockets: streams, datagrams, who may use them, and how they end.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use blueprint_common_runtime::accept::AcceptLimits;
use blueprint_common_types::Health;
use blueprint_hub_proxy::{ForwardConfig, Ledger, Pressure};
use blueprint_hub_proxy_core::limits::Limits;
use blueprint_hub_proxy_core::refused::RefusedBy;
use blueprint_hub_proxy_core::tls::ServiceTls;
use blueprint_hub_proxy_core::{Forward, ServiceSettings, Transport, Trust};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};
use tokio::time::{Instant, sleep, timeout};

use crate::rig::{LONG, Rig, SERVICE, closed_port, empty, mirror as mirror_http, text};
use crate::seen::Lines;

/// How soon a change of settings has to show.
const SOON: Duration = Duration::from_secs(2);

fn config(limits: AcceptLimits) -> ForwardConfig {
    let ports = "1024-65535".parse().unwrap();
    ForwardConfig { limits, ..ForwardConfig::new(Ipv4Addr::LOCALHOST.into(), ports) }
}

pub(crate) fn usual() -> ForwardConfig {
    ForwardConfig::new(Ipv4Addr::LOCALHOST.into(), "1024-65535".parse().unwrap())
}

async fn rig() -> Rig {
    Rig::with(|proxy| proxy.forwards = Some(usual())).await
}

/// A port that was free for both protocols.
pub(crate) async fn free_port() -> u16 {
    loop {
        let port = closed_port().await.port();
        if UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).await.is_ok() {
            return port;
        }
    }
}

pub(crate) fn forward(protocol: Transport, listen_port: u16, sources: &[&str]) -> Forward {
    let sources = sources.iter().map(|source| source.parse().unwrap()).collect();
    Forward { name: "raw".to_owned(), protocol, listen_port, sources, tls: false }
}

fn settle(rig: &Rig, forwards: Vec<Forward>) {
    rig.settle(ServiceSettings { forwards, ..ServiceSettings::default() });
}

pub(crate) async fn connect(port: u16) -> TcpStream {
    let open = async {
        loop {
            match TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await {
                Ok(stream) => return stream,
                Err(_) => sleep(Duration::from_millis(20)).await,
            }
        }
    };
    timeout(LONG, open).await.unwrap()
}

/// A service that says hello first, as PostgreSQL's clients expect of none but many others do, and then echoes until
/// its client is done; then it says goodbye.
pub(crate) fn talker(rig: &Rig) -> SocketAddr {
    rig.raw_service(|mut stream| async move {
        stream.write_all(b"hello ").await.unwrap();
        let mut got = Vec::new();
        stream.read_to_end(&mut got).await.unwrap();
        stream.write_all(&got).await.unwrap();
        stream.write_all(b" bye").await.unwrap();
    })
}

async fn is_closed(stream: &mut TcpStream) -> bool {
    matches!(timeout(LONG, stream.read(&mut [0; 8])).await.unwrap(), Ok(0) | Err(_))
}

#[tokio::test]
async fn bytes_pass_as_they_are_and_an_end_of_one_direction_alone() {
    let rig = rig().await;
    rig.route(&[talker(&rig)]);
    let port = free_port().await;
    settle(&rig, vec![forward(Transport::Tcp, port, &["127.0.0.0/8"])]);
    let mut client = connect(port).await;
    let sent: Vec<u8> = (0..2_000_000u32).map(|number| number.to_le_bytes()[0]).collect();
    let (mut read, mut write) = client.split();
    let send = async {
        write.write_all(&sent).await.unwrap();
        write.shutdown().await.unwrap();
    };
    let mut got = Vec::new();
    let (_, received) = tokio::join!(send, timeout(LONG, read.read_to_end(&mut got)));
    received.unwrap().unwrap();
    assert!(
        got.starts_with(b"hello ") && got.ends_with(b" bye") && got.get(6..got.len() - 4) == Some(&*sent)
    );
    sleep(Duration::from_millis(100)).await;
    rig.assert_metric("hub_proxy_forward_ended_total{protocol=\"tcp\",reason=\"closed\"} 1");
    rig.assert_metric("hub_proxy_forward_bytes_total{direction=\"up\"} 2000000");
    rig.assert_metric("hub_proxy_forward_bytes_total{direction=\"down\"} 2000010");
    rig.assert_metric("hub_proxy_forward_open{protocol=\"tcp\"} 0");
}

#[tokio::test]
async fn forwards_are_in_the_logs_and_sums_and_under_the_limits_of_their_service() {
    let lines = Lines::read();
    let ledger = Ledger::default();
    let rig = Rig::with(|proxy| {
        proxy.forwards = Some(usual());
        proxy.ledger = ledger.clone();
    })
    .await;
    let target = talker(&rig);
    rig.route(&[target]);
    let (port, closed) = (free_port().await, free_port().await);
    let forwards = vec![
        forward(Transport::Tcp, port, &["127.0.0.0/8"]),
        Forward { name: "closed".to_owned(), ..forward(Transport::Tcp, closed, &["192.0.2.0/24"]) },
    ];
    let limits = Limits { concurrent: 1, ..Limits::default() };
    let settings = ServiceSettings { forwards, limits, ..ServiceSettings::default() };
    rig.settle(settings.clone());
    let mut first = connect(port).await;
    first.read_exact(&mut [0; 6]).await.unwrap();
    assert!(is_closed(&mut connect(port).await).await, "one connection at once");
    rig.route(&[rig.service(mirror_http)]);
    let response = rig.http1().await.send_request(rig.request("GET", "/", empty())).await.unwrap();
    assert_eq!(response.status(), 200, "requests are counted apart from connections");
    let answered = text(response).await.len();
    rig.route(&[target]);
    assert!(is_closed(&mut connect(closed).await).await);
    first.write_all(&[7; 1000]).await.unwrap();
    first.shutdown().await.unwrap();
    let mut rest = Vec::new();
    timeout(LONG, first.read_to_end(&mut rest)).await.unwrap().unwrap();

    let found = lines.requests(2).await;
    let line = found.iter().find(|line| line["protocol"] == "tcp").unwrap();
    for (field, value) in [
        ("source", "127.0.0.1"),
        ("service", "7/42"),
        ("forward", "raw"),
        ("ended", "closed"),
        ("target_address", &target.to_string()),
    ] {
        assert_eq!(line[field], value, "{field} in {line}");
    }
    assert_eq!((&line["bytes_in"], &line["bytes_out"]), (&1000.into(), &1010.into()));
    assert_eq!(line["request_id"].as_str().unwrap().len(), 32);
    let used = ledger.usage(SERVICE).unwrap().total;
    assert_eq!((used.requests, used.bytes_in), (2, 1000), "the connection and the request");
    assert_eq!(used.bytes_out, 1010 + u64::try_from(answered).unwrap());

    // What a change of settings cuts is in the audit log, as what is refused is.
    let second = async {
        loop {
            let mut stream = connect(port).await;
            if stream.read_exact(&mut [0; 6]).await.is_ok() {
                return stream;
            }
        }
    };
    let mut second = timeout(LONG, second).await.unwrap();
    rig.settle(ServiceSettings { forwards: Vec::new(), ..settings });
    assert!(is_closed(&mut second).await);
    lines.requests(3).await;
    let codes: BTreeSet<_> = ledger.take_refused().iter().map(|row| (row.by.code, row.by.service)).collect();
    for code in ["forward_source", "forward_limit", "forward_cut"] {
        assert!(codes.contains(&(code, Some(SERVICE))), "{code} is not in {codes:?}");
    }
}

#[tokio::test]
async fn who_is_not_named_gets_nothing_and_no_target_is_told() {
    let rig = rig().await;
    rig.route(&[talker(&rig)]);
    let (closed, narrow) = (free_port().await, free_port().await);
    settle(
        &rig,
        vec![
            forward(Transport::Tcp, closed, &["192.0.2.0/24", "::/0"]),
            Forward { name: "narrow".to_owned(), ..forward(Transport::Tcp, narrow, &["127.0.0.2/32"]) },
        ],
    );
    assert!(is_closed(&mut connect(closed).await).await);
    assert!(is_closed(&mut connect(narrow).await).await, "that is 127.0.0.1");
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((Ipv4Addr::new(127, 0, 0, 2), 0).into()).unwrap();
    let mut named = socket.connect((Ipv4Addr::LOCALHOST, narrow).into()).await.unwrap();
    let mut hello = [0; 6];
    timeout(LONG, named.read_exact(&mut hello)).await.unwrap().unwrap();
    assert_eq!(&hello, b"hello ");
    rig.assert_metric("hub_proxy_forward_refused_total{reason=\"source\"} 2");
}

#[tokio::test]
async fn a_change_of_settings_ends_what_it_takes_away_within_two_seconds() {
    let rig = rig().await;
    rig.route(&[talker(&rig)]);
    let port = free_port().await;
    settle(&rig, vec![forward(Transport::Tcp, port, &["127.0.0.0/8"])]);
    let mut first = connect(port).await;
    first.read_exact(&mut [0; 6]).await.unwrap();

    // Other networks beside it: nothing changes for who is in.
    settle(&rig, vec![forward(Transport::Tcp, port, &["127.0.0.0/8", "10.0.0.0/8"])]);
    sleep(SOON).await;
    first.write_all(b"x").await.unwrap();
    let begin = Instant::now();
    settle(&rig, vec![forward(Transport::Tcp, port, &["10.0.0.0/8"])]);
    assert!(is_closed(&mut first).await);
    assert!(begin.elapsed() < SOON, "{:?}", begin.elapsed());
    assert!(is_closed(&mut connect(port).await).await, "it listens, for others");

    settle(&rig, vec![forward(Transport::Tcp, port, &["127.0.0.0/8"])]);
    sleep(Duration::from_millis(700)).await;
    let mut second = connect(port).await;
    second.read_exact(&mut [0; 6]).await.unwrap();
    let begin = Instant::now();
    settle(&rig, vec![]);
    assert!(is_closed(&mut second).await);
    let gone = async {
        while TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.is_err() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(LONG, gone).await.unwrap();
    assert!(begin.elapsed() < SOON, "{:?}", begin.elapsed());
    rig.assert_metric("hub_proxy_forward_ended_total{protocol=\"tcp\",reason=\"source_removed\"} 1");
    rig.assert_metric("hub_proxy_forward_ended_total{protocol=\"tcp\",reason=\"forward_removed\"} 1");
}

#[tokio::test]
async fn a_hidden_service_has_no_forwards_and_a_hub_short_of_memory_lets_nobody_in() {
    let pressure = Pressure::default();
    let rig = Rig::with(|proxy| {
        proxy.forwards = Some(usual());
        proxy.pressure = pressure.clone();
    })
    .await;
    rig.route(&[talker(&rig)]);
    let port = free_port().await;
    let forwards = vec![forward(Transport::Tcp, port, &["127.0.0.0/8"])];
    settle(&rig, forwards.clone());
    let mut open = connect(port).await;
    open.read_exact(&mut [0; 6]).await.unwrap();

    pressure.set(true);
    assert!(is_closed(&mut connect(port).await).await, "short of memory");
    pressure.set(false);

    let begin = Instant::now();
    rig.settle(ServiceSettings { forwards: forwards.clone(), hidden: true, ..ServiceSettings::default() });
    assert!(is_closed(&mut open).await && begin.elapsed() < SOON, "{:?}", begin.elapsed());
    assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.is_err(), "nothing listens");
    settle(&rig, forwards);
    connect(port).await.read_exact(&mut [0; 6]).await.unwrap();
    let refused = rig.metrics.encode();
    assert!(refused.contains("hub_proxy_forward_refused_total{reason=\"overloaded\"} 1"), "{refused}");
}

#[tokio::test]
async fn a_service_whose_callers_show_certificates_has_no_forwards() {
    let rig = rig().await;
    rig.route(&[talker(&rig)]);
    let port = free_port().await;
    settle(&rig, vec![forward(Transport::Tcp, port, &["127.0.0.0/8"])]);
    let mut open = connect(port).await;
    open.read_exact(&mut [0; 6]).await.unwrap();

    let begin = Instant::now();
    let mut trust = Trust::clone(&rig.trust.load());
    let tls = ServiceTls { requires_client: true, authorities: [1; 32], revoked: BTreeSet::new() };
    trust.tls.insert(SERVICE, tls);
    rig.trust.store(Arc::new(trust));
    assert!(is_closed(&mut open).await && begin.elapsed() < SOON, "{:?}", begin.elapsed());
    assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.is_err(), "nothing listens");
}

#[tokio::test]
async fn targets_are_healthy_ones_and_the_next_is_tried() {
    let rig = rig().await;
    let port = free_port().await;
    let good = talker(&rig);
    settle(&rig, vec![forward(Transport::Tcp, port, &["127.0.0.1/32"])]);
    rig.route(&[closed_port().await, closed_port().await, good]);
    for _ in 0..4 {
        connect(port).await.read_exact(&mut [0; 6]).await.unwrap();
    }
    rig.route(&[closed_port().await]);
    assert!(is_closed(&mut connect(port).await).await);
    rig.route_as(&[good], Health::Unhealthy, "tired");
    assert!(is_closed(&mut connect(port).await).await);
    rig.assert_metric("hub_proxy_forward_refused_total{reason=\"target_unreachable\"} 1");
    rig.assert_metric("hub_proxy_forward_refused_total{reason=\"no_healthy_target\"} 1");
}

#[tokio::test]
async fn one_source_has_so_many_connections_and_no_more() {
    let rig = rig().await;
    rig.route(&[talker(&rig)]);
    let port = free_port().await;
    settle(&rig, vec![forward(Transport::Tcp, port, &["127.0.0.0/8"])]);
    let mut held = Vec::new();
    for _ in 0..256 {
        let mut stream = connect(port).await;
        stream.read_exact(&mut [0; 6]).await.unwrap();
        held.push(stream);
    }
    assert!(is_closed(&mut connect(port).await).await);
    rig.assert_metric("hub_proxy_forward_refused_total{reason=\"full_from_source\"} 1");
    held.pop();
    sleep(Duration::from_millis(300)).await;
    connect(port).await.read_exact(&mut [0; 6]).await.unwrap();
}

/// A service that sends every datagram back, with the port of whom it came from before it.
async fn mirror(rig: &Rig) -> SocketAddr {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = socket.local_addr().unwrap();
    rig.spawner.spawn("mirror", async move {
        let mut buffer = [0; 2048];
        while let Ok((count, from)) = socket.recv_from(&mut buffer).await {
            let text = [from.port().to_be_bytes().as_slice(), buffer.get(..count).unwrap()].concat();
            let _ = socket.send_to(&text, from).await;
        }
    });
    address
}

struct UdpClient(UdpSocket);

impl UdpClient {
    async fn new(port: u16) -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        socket.connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
        Self(socket)
    }

    /// The answer to one datagram and the port that the service saw, within `wait`.
    async fn ask(&self, data: &[u8], wait: Duration) -> Option<(u16, Vec<u8>)> {
        self.0.send(data).await.ok()?;
        let mut buffer = [0; 2048];
        let count = timeout(wait, self.0.recv(&mut buffer)).await.ok()?.ok()?;
        let (port, rest) = buffer.get(..count)?.split_at_checked(2)?;
        Some((u16::from_be_bytes(port.try_into().ok()?), rest.to_vec()))
    }

    /// The same, again until there is one.
    async fn ask_long(&self, data: &[u8]) -> (u16, Vec<u8>) {
        let asked = async {
            loop {
                match self.ask(data, Duration::from_millis(200)).await {
                    Some(answer) => return answer,
                    None => sleep(Duration::from_millis(20)).await,
                }
            }
        };
        timeout(LONG, asked).await.unwrap()
    }
}

#[tokio::test]
async fn datagrams_go_to_one_target_and_back_to_whom_they_are_for() {
    let rig = rig().await;
    rig.route(&[mirror(&rig).await]);
    let port = free_port().await;
    settle(&rig, vec![forward(Transport::Udp, port, &["127.0.0.1/32"])]);
    let (one, two) = (UdpClient::new(port).await, UdpClient::new(port).await);
    let (first, got) = one.ask_long(b"one").await;
    assert_eq!(got, b"one");
    let (second, got) = two.ask_long(b"two").await;
    assert_eq!(got, b"two");
    assert_ne!(first, second, "each client has a flow of its own");
    for round in 0..50u8 {
        assert_eq!(one.ask(&[round; 1200], LONG).await, Some((first, vec![round; 1200])));
        assert_eq!(two.ask(&[], LONG).await, Some((second, vec![])), "an empty one is one, too");
    }
    assert_eq!(one.ask(&[1; 1393], Duration::from_millis(200)).await, None);
    rig.assert_metric("hub_proxy_forward_datagrams_dropped_total{reason=\"too_long\"} 1");
    assert_eq!(one.ask(b"still", LONG).await, Some((first, b"still".to_vec())));
    rig.assert_metric("hub_proxy_forward_open{protocol=\"udp\"} 2");
}

#[tokio::test]
async fn datagrams_of_strangers_and_to_removed_forwards_go_nowhere() {
    let ledger = Ledger::default();
    let rig = Rig::with(|proxy| {
        proxy.forwards = Some(usual());
        proxy.ledger = ledger.clone();
    })
    .await;
    rig.route(&[mirror(&rig).await]);
    let port = free_port().await;
    settle(&rig, vec![forward(Transport::Udp, port, &["127.0.0.1/32"])]);
    let one = UdpClient::new(port).await;
    one.ask_long(b"one").await;
    let stranger = UdpSocket::bind((Ipv4Addr::new(127, 0, 0, 2), 0)).await.unwrap();
    stranger.connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
    let stranger = UdpClient(stranger);
    assert_eq!(stranger.ask(b"let me in", Duration::from_millis(300)).await, None);
    rig.assert_metric("hub_proxy_forward_refused_total{reason=\"source\"} 1");
    let other_stranger = UdpSocket::bind((Ipv4Addr::new(127, 9, 9, 9), 0)).await.unwrap();
    other_stranger.send_to(b"me, too", (Ipv4Addr::LOCALHOST, port)).await.unwrap();
    sleep(Duration::from_millis(100)).await;
    let rows: Vec<_> = ledger.take_refused().into_iter().map(|row| (row.by, row.count)).collect();
    let by = RefusedBy { service: Some(SERVICE), code: "forward_source", source: None };
    assert_eq!(rows, [(by, 2)], "a source that can be forged makes no rows");

    let other = mirror(&rig).await;
    rig.route(&[other]);
    sleep(Duration::from_millis(1300)).await;
    rig.assert_metric("hub_proxy_forward_ended_total{protocol=\"udp\",reason=\"target_gone\"} 1");
    assert_eq!(one.ask_long(b"other").await.1, b"other", "the next one goes to the new target");

    settle(&rig, vec![forward(Transport::Udp, port, &["127.0.0.2/32"])]);
    sleep(SOON).await;
    assert_eq!(one.ask(b"x", Duration::from_millis(300)).await, None);
    assert_eq!(stranger.ask_long(b"in").await.1, b"in");
    settle(&rig, vec![]);
    sleep(SOON).await;
    assert_eq!(stranger.ask(b"x", Duration::from_millis(300)).await, None);
    rig.assert_metric("hub_proxy_forward_ended_total{protocol=\"udp\",reason=\"source_removed\"} 1");
    rig.assert_metric("hub_proxy_forward_ended_total{protocol=\"udp\",reason=\"forward_removed\"} 1");
    rig.assert_metric("hub_proxy_forward_open{protocol=\"udp\"} 0");
}

#[tokio::test]
async fn a_hub_that_stops_cuts_nothing_that_the_audit_log_would_name() {
    let lines = Lines::read();
    let ledger = Ledger::default();
    let rig = Rig::with(|proxy| {
        proxy.forwards = Some(usual());
        proxy.ledger = ledger.clone();
    })
    .await;
    rig.route(&[mirror(&rig).await]);
    let port = free_port().await;
    settle(&rig, vec![forward(Transport::Udp, port, &["127.0.0.1/32"])]);
    UdpClient::new(port).await.ask_long(b"one").await;
    rig.supervisor.shutdown();
    let found = lines.requests(1).await;
    assert_eq!((&found[0]["ended"], &found[0]["bytes_in"]), (&"stopped".into(), &3.into()), "{found:?}");
    rig.assert_metric("hub_proxy_forward_ended_total{protocol=\"udp\",reason=\"stopped\"} 1");
    rig.assert_metric("hub_proxy_forward_ended_total{protocol=\"udp\",reason=\"forward_removed\"} 0");
    assert_eq!(ledger.take_refused(), []);
}

#[tokio::test]
async fn what_is_open_at_the_last_is_in_the_sums_and_the_log() {
    let lines = Lines::read();
    let ledger = Ledger::default();
    let rig = Rig::with(|proxy| {
        proxy.forwards = Some(usual());
        proxy.ledger = ledger.clone();
    })
    .await;
    rig.route(&[talker(&rig)]);
    let port = free_port().await;
    settle(&rig, vec![forward(Transport::Tcp, port, &["127.0.0.1/32"])]);
    let mut client = connect(port).await;
    client.read_exact(&mut [0; 6]).await.unwrap();
    rig.supervisor.shutdown();
    timeout(LONG, rig.supervisor.run(Duration::from_millis(100))).await.unwrap().unwrap();
    let found = lines.requests(1).await;
    assert_eq!((&found[0]["ended"], &found[0]["bytes_out"]), (&"stopped".into(), &6.into()), "{found:?}");
    let used = ledger.usage(SERVICE).unwrap().total;
    assert_eq!((used.requests, used.bytes_out), (1, 6));
    let text = rig.metrics.encode();
    assert!(text.contains("hub_proxy_forward_open{protocol=\"tcp\"} 0"), "{text}");
}

#[tokio::test]
async fn without_a_range_of_ports_nothing_listens() {
    let rig = Rig::new().await;
    rig.route(&[talker(&rig)]);
    let port = free_port().await;
    settle(&rig, vec![forward(Transport::Tcp, port, &["0.0.0.0/0"])]);
    sleep(Duration::from_millis(1200)).await;
    assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.is_err());
}

#[tokio::test]
async fn one_forward_has_a_fourth_of_all_places_and_starves_no_other() {
    let limits = AcceptLimits { total: 12, per_ip: 12 };
    let rig = Rig::with(|proxy| proxy.forwards = Some(config(limits))).await;
    rig.route(&[talker(&rig)]);
    let (crowded, quiet) = (free_port().await, free_port().await);
    let named = |name: &str, protocol, port| Forward {
        name: name.to_owned(),
        ..forward(protocol, port, &["127.0.0.0/8"])
    };
    settle(&rig, vec![named("a", Transport::Tcp, crowded), named("b", Transport::Tcp, quiet)]);
    let mut held = Vec::new();
    for _ in 0..3 {
        let mut stream = connect(crowded).await;
        stream.read_exact(&mut [0; 6]).await.unwrap();
        held.push(stream);
    }
    for _ in 0..5 {
        assert!(is_closed(&mut connect(crowded).await).await, "a fourth of twelve is three");
    }
    rig.assert_metric("hub_proxy_forward_refused_total{reason=\"full_in_forward\"} 5");
    rig.assert_metric("hub_proxy_forward_refused_total{reason=\"full\"} 0");
    connect(quiet).await.read_exact(&mut [0; 6]).await.unwrap();
    drop(held.pop());
    let again = async {
        while connect(crowded).await.read_exact(&mut [0; 6]).await.is_err() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(LONG, again).await.expect("a place that is given back is one");

    rig.route(&[mirror(&rig).await]);
    settle(&rig, vec![named("c", Transport::Udp, crowded), named("d", Transport::Udp, quiet)]);
    let clients =
        [UdpClient::new(crowded).await, UdpClient::new(crowded).await, UdpClient::new(crowded).await];
    for client in &clients {
        client.ask_long(b"one").await;
    }
    let fourth = UdpClient::new(crowded).await;
    assert_eq!(fourth.ask(b"more", Duration::from_millis(200)).await, None);
    UdpClient::new(quiet).await.ask_long(b"one").await;
}
