//! The QUIC carrier.

use tokio_util::sync::CancellationToken;

use super::*;

/// A hub on loopback, one agent that dials it, and both ends of the link.
pub(super) async fn pair(
    server: &QuicServer,
    at: SocketAddr,
    tls: &rustls::ClientConfig,
    limits: &QuicLimits,
) -> (std::result::Result<QuicLink, QuicError>, std::result::Result<QuicLink, QuicError>) {
    let socket = client_socket(at).unwrap();
    let accept = async { server.accept().await.unwrap().finish().await };
    tokio::join!(dial(socket, at, tls, "hub.test", limits), accept)
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let wait = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("{what}"));
}

/// Runs `test` beside a hub on `listen`.
async fn with_hub(listen: &str, limits: &QuicLimits, test: impl AsyncFnOnce(&Tls, &QuicServer, SocketAddr)) {
    let tls = Tls::new();
    let (shared, socket, at) = shared(listen, limits);
    let server = QuicServer::new(Arc::clone(&shared), &tls.server(), limits.clone()).unwrap();
    let (plain, _plain) = mpsc::unbounded_channel();
    tokio::select! {
        () = receive_shared(socket, &shared, plain) => {}
        () = test(&tls, &server, at) => {}
    }
}

async fn carries_both_ways(listen: &str) {
    let limits = QuicLimits::default();
    with_hub(listen, &limits, async |tls, server, at| {
        let (agent, hub) = pair(server, at, &tls.client(), &limits).await;
        let (agent, hub) = (agent.unwrap(), hub.unwrap());
        assert_eq!(agent.remote(), at);
        assert_eq!(hub.peer_certificates().len(), 1);
        let (up, down) = (agent.sink(), hub.sink());
        let (at_hub, mut hub_received) = Recorder::new();
        let (at_agent, mut agent_received) = Recorder::new();
        let stop = CancellationToken::new();
        let test = async {
            until("the MTU is not found", || up.max_datagram() > 1400 && down.max_datagram() > 1400).await;
            let mut lengths = vec![1400; 100];
            lengths.extend([4, 40, 1400, 5, 1399, 700, 700, 1434, 32]);
            for (number, length) in lengths.iter().enumerate() {
                let datagram = numbered(u32::try_from(number).unwrap(), *length);
                assert_eq!(up.send(&datagram, *length), 0);
                assert_eq!(down.send(&datagram, *length), 0);
            }
            expect_numbered(&mut hub_received, &lengths).await;
            expect_numbered(&mut agent_received, &lengths).await;
            stop.cancel();
        };
        let (first, second, ()) =
            tokio::join!(agent.run(at_agent, stop.clone()), hub.run(at_hub, stop.clone()), test);
        assert!(first.is_ok() && second.is_ok());
        assert_eq!(up.send(&[1; 40], 40), 1, "a link that has ended takes nothing");
    })
    .await;
}

#[tokio::test]
async fn datagrams_of_mixed_sizes_arrive_once_and_intact() {
    carries_both_ways("127.0.0.1:0").await;
}

#[tokio::test]
async fn a_socket_of_ipv6_works_as_well() {
    carries_both_ways("[::1]:0").await;
}

#[tokio::test]
async fn the_sink_never_blocks_and_counts_what_it_drops() {
    let limits = QuicLimits::default();
    with_hub("127.0.0.1:0", &limits, async |tls, server, at| {
        let (agent, _hub) = pair(server, at, &tls.client(), &limits).await;
        let sink = agent.unwrap().sink();
        assert_eq!(sink.send(&[1; 40], 40), 1, "the link was dropped with its pump");

        let (agent, _hub) = pair(server, at, &tls.client(), &limits).await;
        let agent = agent.unwrap();
        let sink = agent.sink();
        // Nobody runs the link, so nothing leaves the outbox.
        let run = vec![1; 1000 * 60];
        let mut dropped = 0;
        for _ in 0..20 {
            dropped += u64::try_from(sink.send(&run, 1000)).unwrap();
        }
        assert!(dropped > 0);
        assert_eq!((sink.dropped(), sink.sent() + sink.dropped()), (dropped, 1200));
        assert_eq!(sink.send(&[1; 3000], 3000), 1, "longer than the path takes");
    })
    .await;
}

#[tokio::test]
async fn plain_wireguard_on_the_same_socket_does_not_reach_quic() {
    let limits = QuicLimits::default();
    let tls = Tls::new();
    let (shared, socket, at) = shared("127.0.0.1:0", &limits);
    let server = QuicServer::new(Arc::clone(&shared), &tls.server(), limits.clone()).unwrap();
    let (plain, mut received) = mpsc::unbounded_channel();
    let test = async {
        let wireguard = UdpSocket::bind("127.0.0.1:0").unwrap();
        wireguard.send_to(&[4, 0, 0, 0, 9, 9], at).unwrap();
        assert_eq!(timeout(PATIENCE, received.recv()).await.unwrap().unwrap(), [4, 0, 0, 0, 9, 9]);
        // Garbage that is neither changes nothing.
        wireguard.send_to(&[0x40; 1200], at).unwrap();
        wireguard.send_to(&[0xc0; 20], at).unwrap();
        wireguard.send_to(&[], at).unwrap();
        let (agent, hub) = pair(&server, at, &tls.client(), &limits).await;
        assert!(agent.is_ok() && hub.is_ok());
    };
    tokio::select! {
        () = receive_shared(socket, &shared, plain) => {}
        () = test => {}
    }
}

#[tokio::test]
async fn a_client_without_our_protocol_or_a_certificate_is_refused() {
    let limits = QuicLimits::default();
    with_hub("127.0.0.1:0", &limits, async |tls, server, at| {
        let (_, hub) = pair(server, at, &tls.client_without_certificate(), &limits).await;
        assert!(matches!(hub, Err(QuicError::Handshake(_))), "{hub:?}");

        let stranger = Tls { authority: Tls::new().authority, roots: Arc::clone(&tls.roots) };
        let (_, hub) = pair(server, at, &stranger.client(), &limits).await;
        assert!(matches!(hub, Err(QuicError::Handshake(_))), "{hub:?}");

        let mut other = tls.client();
        other.alpn_protocols = vec![b"h3".to_vec()];
        let other = quinn::crypto::rustls::QuicClientConfig::try_from(other).unwrap();
        let mut endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
        endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(other)));
        tokio::select! {
            there = endpoint.connect(at, "hub.test").unwrap() => assert!(there.is_err()),
            here = server.accept() => panic!("{here:?}"),
        }
        assert_eq!(server.refused(), 1);

        let client = tls.client();
        let wrong_name = dial(client_socket(at).unwrap(), at, &client, "other.test", &limits);
        let accept = async { server.accept().await.unwrap().finish().await };
        let (there, _) = tokio::join!(wrong_name, accept);
        assert!(matches!(there, Err(QuicError::Handshake(_))), "{there:?}");
    })
    .await;
}

#[tokio::test]
async fn above_the_limit_an_address_has_to_be_proved_first() {
    let limits = QuicLimits { unvalidated_max: 0, ..QuicLimits::default() };
    with_hub("127.0.0.1:0", &limits, async |tls, server, at| {
        let (agent, hub) = pair(server, at, &tls.client(), &limits).await;
        assert!(agent.is_ok() && hub.is_ok());
        assert_eq!((server.retried(), server.ignored()), (1, 0));
    })
    .await;

    let limits = QuicLimits { handshakes_max: 0, ..QuicLimits::default() };
    with_hub("127.0.0.1:0", &limits, async |tls, server, at| {
        let client = tls.client();
        let dial = dial(client_socket(at).unwrap(), at, &client, "hub.test", &limits);
        let (agent, accepted) = tokio::join!(
            timeout(Duration::from_millis(500), dial),
            timeout(Duration::from_millis(500), server.accept()),
        );
        assert!(agent.is_err() && accepted.is_err());
        assert!(server.ignored() > 0);
    })
    .await;
}

#[tokio::test]
async fn the_other_end_learns_when_a_link_ends() {
    let limits = QuicLimits::default();
    with_hub("127.0.0.1:0", &limits, async |tls, server, at| {
        let (agent, hub) = pair(server, at, &tls.client(), &limits).await;
        let sink = agent.as_ref().unwrap().sink();
        let agent = agent.unwrap().run(Sink, CancellationToken::new());
        drop(hub.unwrap());
        let end = timeout(PATIENCE, agent).await.unwrap();
        assert!(matches!(end, Err(CarrierError::Closed)), "{end:?}");
        assert_eq!(sink.send(&[1; 40], 40), 1);
    })
    .await;
}

#[test]
fn a_shared_socket_holds_no_more_than_its_bound() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _guard = runtime.enter();
    let (shared, _socket, at) = shared("127.0.0.1:0", &QuicLimits::default());
    let run = vec![0x40; 60_000];
    let taken = (0..200).filter(|_| shared.offer(at, None, 0, &run, 1200)).count();
    assert_eq!(taken, (4 << 20) / 60_000);
    assert_eq!(shared.dropped(), u64::try_from((200 - taken) * 50).unwrap());
    assert!(!shared.offer(at, None, 0, &vec![0; 70_000], 1200));
}
