//! First packets of QUIC from addresses that nobody has proved, as many as a sender likes (promise P18).

use std::cell::Cell;
use std::net::Ipv4Addr;
use std::time::Instant;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use quinn::crypto::rustls::QuicClientConfig;
use quinn_proto::{Endpoint, EndpointConfig};

use super::*;

/// Senders, each with an address of its own; none of them ever answers, as if it were forged.
const SENDERS: u8 = 50;
/// First packets that are sent in one go.
const BURST: usize = 20;

/// Makes first packets, each of a connection of its own.
struct Initials {
    endpoint: Endpoint,
    config: quinn::ClientConfig,
}

impl Initials {
    fn new(tls: &Tls) -> Self {
        let tls = QuicClientConfig::try_from(tls.client()).unwrap();
        let endpoint = Endpoint::new(Arc::new(EndpointConfig::default()), None, false, None);
        Self { endpoint, config: quinn::ClientConfig::new(Arc::new(tls)) }
    }

    fn next(&mut self, at: SocketAddr) -> Vec<u8> {
        let (_, mut connection) =
            self.endpoint.connect(Instant::now(), self.config.clone(), at, "hub.test").unwrap();
        let mut packet = Vec::new();
        let _ = connection.poll_transmit(Instant::now(), 1, &mut packet).unwrap();
        assert!(packet.len() >= 1200, "{}", packet.len());
        packet
    }
}

/// What the senders sent and what came back, in bytes.
#[derive(Default)]
struct Counts {
    sent: Cell<usize>,
    answered: Cell<usize>,
}

/// Sends bursts of first packets from all addresses in turn, for ever.
async fn flood(initials: &mut Initials, at: SocketAddr, counts: &Counts) {
    let senders: Vec<_> = (1..=SENDERS)
        .map(|last| {
            let socket = UdpSocket::bind((Ipv4Addr::new(127, 0, 99, last), 0)).unwrap();
            socket.set_nonblocking(true).unwrap();
            socket
        })
        .collect();
    let mut in_turn = senders.iter().cycle();
    let mut answer = [0; 2048];
    loop {
        for sender in in_turn.by_ref().take(BURST) {
            let packet = initials.next(at);
            if sender.send_to(&packet, at).is_ok() {
                counts.sent.set(counts.sent.get() + packet.len());
            }
            while let Ok(count) = sender.recv(&mut answer) {
                counts.answered.set(counts.answered.get() + count);
            }
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn first_packets_from_many_addresses_hold_little_and_keep_no_agent_out() {
    let limits = QuicLimits { unvalidated_max: 8, handshakes_max: 64, ..QuicLimits::default() };
    let tls = Tls::new();
    let (shared, socket, at) = shared("127.0.0.1:0", &limits);
    let server = QuicServer::new(Arc::clone(&shared), &tls.server(), limits.clone()).unwrap();
    let (plain, _plain) = mpsc::unbounded_channel();
    let (counts, mut initials) = (Counts::default(), Initials::new(&tls));
    let most = Cell::new((0, 0));
    let (told, mut links) = mpsc::unbounded_channel();
    let accept = async {
        let mut handshakes = FuturesUnordered::new();
        loop {
            tokio::select! {
                Some(handshake) = server.accept() => {
                    let is_proved = handshake.is_proved();
                    handshakes.push(async move { (is_proved, handshake.finish().await) });
                }
                Some((is_proved, Ok(link))) = handshakes.next() => told.send((is_proved, link)).unwrap(),
            }
            let (under_way, open) = most.get();
            most.set((under_way.max(server.under_way()), open.max(server.open())));
        }
    };
    let honest = async {
        while server.retried() < 200 {
            tokio::task::yield_now().await;
        }
        let mut joined = Vec::new();
        for _ in 0..5 {
            let client = tls.client();
            let agent = dial(client_socket(at).unwrap(), at, &client, "hub.test", &limits);
            joined.push(timeout(PATIENCE, agent).await.unwrap().expect("an honest agent is kept out"));
            let (is_proved, link) = timeout(PATIENCE, links.recv()).await.unwrap().unwrap();
            assert!(is_proved, "it came in by a Retry");
            joined.push(link);
        }
        joined
    };
    let joined = tokio::select! {
        () = receive_shared(socket, &shared, plain) => unreachable!(),
        () = accept => unreachable!(),
        () = flood(&mut initials, at, &counts) => unreachable!(),
        joined = honest => joined,
    };
    assert_eq!(joined.len(), 10);
    let (under_way, open) = most.get();
    // Those of the flood, and one honest agent after the other.
    assert!(under_way <= 8 + 1, "{under_way} handshakes were under way");
    assert!(open <= 8 + 5 + 8, "{open} connections took memory");
    assert!(server.retried() >= 200 && server.ignored() == 0, "{server:?}");
    let (sent, answered) = (counts.sent.get(), counts.answered.get());
    assert!(answered < sent, "{answered} bytes were sent to addresses that sent {sent}");
}
