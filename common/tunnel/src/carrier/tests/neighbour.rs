//! A shared socket with links and connections of another protocol.

use std::net::Ipv4Addr;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use tokio_util::sync::CancellationToken;

use super::*;

/// The neighbour's protocol.
const OTHER: &[u8] = b"h3";

/// An endpoint of the neighbour.
fn neighbour(socket: &Arc<NeighbourSocket>, tls: &Tls) -> quinn::Endpoint {
    let (chain, key) = tls.certificate("other.test", ExtendedKeyUsagePurpose::ServerAuth);
    let mut config = rustls::ServerConfig::builder_with_provider(crypto_provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    config.alpn_protocols = vec![OTHER.to_vec()];
    let config = quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(config).unwrap()));
    socket.endpoint(config).unwrap()
}

/// A client that offers this protocol, and its endpoint.
async fn client(
    tls: &Tls,
    at: SocketAddr,
    alpn: &[u8],
) -> std::result::Result<(quinn::Endpoint, quinn::Connection), quinn::ConnectionError> {
    let mut config = tls.client_without_certificate();
    config.alpn_protocols = vec![alpn.to_vec()];
    let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(config).unwrap()));
    let endpoint = quinn::Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let connection = endpoint.connect_with(config, at, "other.test").unwrap().await?;
    Ok((endpoint, connection))
}

/// Sends back what comes on one stream after the other.
async fn echo(endpoint: &quinn::Endpoint, refused: &std::cell::Cell<u32>) {
    let mut connections = futures_util::stream::FuturesUnordered::new();
    loop {
        tokio::select! {
            Some(incoming) = endpoint.accept() => {
                let Ok(connecting) = incoming.accept() else {
                    refused.set(refused.get() + 1);
                    continue;
                };
                connections.push(async move {
                    let connection = connecting.await?;
                    loop {
                        let (mut send, mut recv) = connection.accept_bi().await?;
                        let said = recv.read_to_end(1 << 20).await.unwrap();
                        send.write_all(&said).await.unwrap();
                        send.finish().unwrap();
                    }
                    #[expect(unreachable_code, reason = "it says which errors there are")]
                    Ok::<(), quinn::ConnectionError>(())
                });
            }
            Some(_) = futures_util::StreamExt::next(&mut connections) => {}
        }
    }
}

async fn say(connection: &quinn::Connection, bytes: usize) {
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    let said = vec![7; bytes];
    send.write_all(&said).await.unwrap();
    send.finish().unwrap();
    assert_eq!(timeout(PATIENCE, recv.read_to_end(bytes)).await.unwrap().unwrap(), said);
}

#[tokio::test]
async fn links_and_another_protocol_share_a_socket() {
    let limits = QuicLimits::default();
    let tls = Tls::new();
    let (shared, socket, at) = shared("127.0.0.1:0", &limits);
    let server = QuicServer::new(Arc::clone(&shared), &tls.server(), limits.clone()).unwrap();
    let beside = shared.neighbour().unwrap();
    assert!(shared.neighbour().is_none(), "there is one");
    let (endpoint, side) = (neighbour(&beside, &tls), beside.side());
    drop(beside);
    let (plain, mut wireguard) = mpsc::unbounded_channel();
    let refused = std::cell::Cell::new(0);
    let test = async {
        let client_tls = tls.client();
        let accept = async { server.accept().await.unwrap().finish().await };
        let dialled = dial(client_socket(at).unwrap(), at, &client_tls, "hub.test", &limits);
        let (agent, hub) = tokio::join!(dialled, accept);
        let (agent, hub) = (agent.unwrap(), hub.unwrap());
        let (up, stop) = (agent.sink(), CancellationToken::new());
        let (at_hub, mut received) = Recorder::new();
        let beside_each_other = async {
            let (_kept, other) = timeout(PATIENCE, client(&tls, at, OTHER)).await.unwrap().unwrap();
            let lengths = [1000; 300];
            for (number, length) in lengths.iter().enumerate() {
                let number = u32::try_from(number).unwrap();
                assert_eq!(up.send(&numbered(number, *length), *length), 0);
                if number % 30 == 0 {
                    say(&other, 50_000).await;
                }
            }
            expect_numbered(&mut received, &lengths).await;
            // A protocol that neither speaks, broken first packets, and what is neither QUIC nor for anybody.
            let wrong = timeout(PATIENCE, client(&tls, at, b"h9")).await.unwrap();
            assert!(wrong.is_err() && server.refused() == 0);
            assert_eq!(refused.get(), 1);
            let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
            let mut broken = vec![0xc0, 0, 0, 0, 1, 8, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0x44, 0x90];
            broken.resize(1200, 0x55);
            for junk in [&broken[..], &[0x40; 100], &[0xc0; 20], &[0xff; 1400], &[4, 0, 0, 0, 1]] {
                stranger.send_to(junk, at).unwrap();
            }
            assert_eq!(timeout(PATIENCE, wireguard.recv()).await.unwrap().unwrap(), [4, 0, 0, 0, 1]);
            say(&other, 1000).await;
            assert_eq!((side.unreadable(), side.lost(), shared.dropped()), (1, 0, 0));
            stop.cancel();
        };
        let (one, two, ()) =
            tokio::join!(agent.run(Sink, stop.clone()), hub.run(at_hub, stop.clone()), beside_each_other);
        assert!(one.is_ok() && two.is_ok());
    };
    tokio::select! {
        () = receive_shared(socket, &shared, plain) => {}
        () = echo(&endpoint, &refused) => {}
        () = test => {}
    }
}

#[tokio::test]
async fn links_go_on_when_the_neighbour_has_left() {
    let limits = QuicLimits::default();
    let tls = Tls::new();
    let (shared, socket, at) = shared("127.0.0.1:0", &limits);
    let server = QuicServer::new(Arc::clone(&shared), &tls.server(), limits.clone()).unwrap();
    drop(shared.neighbour().unwrap());
    let (plain, _plain) = mpsc::unbounded_channel();
    let test = async {
        let client_tls = tls.client();
        let accept = async { server.accept().await.unwrap().finish().await };
        let dialled = dial(client_socket(at).unwrap(), at, &client_tls, "hub.test", &limits);
        let (agent, hub) = timeout(PATIENCE, async { tokio::join!(dialled, accept) }).await.unwrap();
        assert!(agent.is_ok() && hub.is_ok());
        let other = tokio::select! {
            other = client(&tls, at, OTHER) => other,
            here = server.accept() => panic!("{here:?}"),
        };
        assert!(other.is_err() && server.refused() == 1, "it is refused where links are served");
    };
    tokio::select! {
        () = receive_shared(socket, &shared, plain) => {}
        () = test => {}
    }
}

#[tokio::test]
async fn a_flood_for_the_neighbour_leaves_the_links_their_room() {
    let (shared, _socket, at) = shared("127.0.0.1:0", &QuicLimits::default());
    let beside = shared.neighbour().unwrap();
    let side = beside.side();
    let mut first = vec![0xc0, 0, 0, 0, 1, 8];
    first.resize(1200, 1);
    let taken = (0..2000).filter(|_| shared.offer(at, None, 0, &first, 1200)).count();
    assert_eq!(taken, 1024);
    assert_eq!((side.lost(), shared.dropped()), (976, 0));
    // A whole bundle of them is as many.
    assert!(!shared.offer(at, None, 0, &first.repeat(20), 1200));
    assert_eq!(side.lost(), 996);
    drop(beside);
    assert!(shared.offer(at, None, 0, &first, 1200), "now it is for the links");
}
