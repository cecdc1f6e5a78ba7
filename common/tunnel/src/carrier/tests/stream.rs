//! The stream carrier.

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_util::sync::CancellationToken;

use super::*;

type TlsClient = tokio_rustls::client::TlsStream<TcpStream>;
type TlsServer = tokio_rustls::server::TlsStream<TcpStream>;

/// A socket as the carrier wants it.
pub(super) fn tuned(socket: std::net::TcpStream) -> TcpStream {
    socket.set_nonblocking(true).unwrap();
    let socket = TcpStream::from_std(socket).unwrap();
    tune(&socket).unwrap();
    socket
}

/// Both ends of a TLS connection over loopback.
async fn tls_pair(tls: &Tls, client: rustls::ClientConfig) -> (Result<TlsClient>, Result<TlsServer>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(tls.server()));
    let connector = TlsConnector::from(Arc::new(client));
    let dial = async {
        let socket = TcpStream::connect(listener.local_addr().unwrap()).await?;
        tune(&socket)?;
        connector.connect("hub.test".try_into().unwrap(), socket).await
    };
    let accept = async {
        let (socket, _) = listener.accept().await?;
        tune(&socket)?;
        acceptor.accept(socket).await
    };
    tokio::join!(dial, accept)
}

#[tokio::test]
async fn datagrams_cross_tls_both_ways_and_intact() {
    let tls = Tls::new();
    let (agent, hub) = tls_pair(&tls, tls.client()).await;
    let (agent, hub) = (agent.unwrap(), hub.unwrap());
    assert_eq!(hub.get_ref().1.alpn_protocol(), Some(ALPN));
    let (up, agent_pump) = stream_sink(1 << 20);
    let (down, hub_pump) = stream_sink(1 << 20);
    let (at_hub, mut hub_received) = Recorder::new();
    let (at_agent, mut agent_received) = Recorder::new();
    let stop = CancellationToken::new();
    let test = async {
        let mut lengths = vec![1452; 300];
        lengths.extend([4, DATAGRAM_MAX, 40, 1452, 9000, 5, 1400]);
        for (number, length) in lengths.iter().enumerate() {
            let datagram = numbered(u32::try_from(number).unwrap(), *length);
            assert_eq!(up.send(&datagram, *length), 0);
            assert_eq!(down.send(&datagram, *length), 0);
        }
        expect_numbered(&mut hub_received, &lengths).await;
        expect_numbered(&mut agent_received, &lengths).await;
        stop.cancel();
    };
    let (first, second, ()) = tokio::join!(
        agent_pump.run(agent, at_agent, stop.clone()),
        hub_pump.run(hub, at_hub, stop.clone()),
        test
    );
    assert!(first.is_ok() && second.is_ok());
    assert_eq!(up.send(&[1; 40], 40), 1, "a link that has ended takes nothing");
}

#[tokio::test]
async fn tls_without_our_protocol_or_a_certificate_is_no_link() {
    let tls = Tls::new();
    let mut other = tls.client();
    other.alpn_protocols = vec![b"http/1.1".to_vec()];
    let (agent, hub) = tls_pair(&tls, other).await;
    assert!(agent.is_err() && hub.is_err());

    let (_, hub) = tls_pair(&tls, tls.client_without_certificate()).await;
    assert!(hub.is_err());

    // Another protocol of the same listener is let in, and told apart by its name.
    let mut api = tls.client();
    api.alpn_protocols = vec![b"h2".to_vec()];
    let (_, hub) = tls_pair(&tls, api).await;
    assert_eq!(hub.unwrap().get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
}

#[tokio::test]
async fn a_link_runs_through_an_http_proxy() {
    let tls = Tls::new();
    let hub_listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy_listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let hub_at = hub_listener.local_addr().unwrap();
    let proxy: ProxyUrl = format!("http://{}", proxy_listener.local_addr().unwrap()).parse().unwrap();
    let stop = CancellationToken::new();
    let (sink, pump) = stream_sink(256 << 10);
    let (recorder, mut received) = Recorder::new();

    let proxying = async {
        let (mut near, _) = proxy_listener.accept().await.unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            request.push(near.read_u8().await.unwrap());
        }
        assert!(request.starts_with(format!("CONNECT {hub_at} ").as_bytes()));
        let mut far = TcpStream::connect(hub_at).await.unwrap();
        near.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
    };
    let agent = async {
        let socket = connect(&proxy, &hub_at.ip().to_string(), hub_at.port(), PATIENCE).await.unwrap();
        let connector = TlsConnector::from(Arc::new(tls.client()));
        let io = connector.connect("hub.test".try_into().unwrap(), socket).await.unwrap();
        pump.run(io, Sink, stop.clone()).await
    };
    let hub = async {
        let acceptor = TlsAcceptor::from(Arc::new(tls.server()));
        let io = acceptor.accept(hub_listener.accept().await.unwrap().0).await.unwrap();
        let (_sink, pump) = stream_sink(256 << 10);
        pump.run(io, recorder, stop.clone()).await
    };
    let test = async {
        assert_eq!(sink.send(&numbered(0, 1452), 1452), 0);
        expect_numbered(&mut received, &[1452]).await;
        stop.cancel();
    };
    let (agent, hub, (), ()) = tokio::join!(agent, hub, proxying, test);
    assert!(agent.is_ok() && (hub.is_ok() || matches!(hub, Err(CarrierError::Closed))));
}

/// A link over a pipe of `bytes`, and the other end of the pipe.
fn link(bytes: usize) -> (DuplexStream, impl Future<Output = std::result::Result<(), CarrierError>>, Probe) {
    let (near, far) = duplex(bytes);
    let (sink, pump) = stream_sink(64 << 10);
    let (recorder, received) = Recorder::new();
    let stop = CancellationToken::new();
    let run = pump.run(near, recorder, stop);
    (far, run, Probe { sink, received })
}

struct Probe {
    sink: Arc<Outbox>,
    received: mpsc::UnboundedReceiver<Vec<u8>>,
}

#[tokio::test]
async fn chopped_writes_make_the_same_datagrams() {
    let (mut far, run, mut probe) = link(7);
    let test = async {
        let lengths = [5, 300, 4, 1452, 33];
        for (number, length) in lengths.iter().enumerate() {
            let datagram = numbered(u32::try_from(number).unwrap(), *length);
            far.write_u16(u16::try_from(*length).unwrap()).await.unwrap();
            for piece in datagram.chunks(3) {
                far.write_all(piece).await.unwrap();
            }
            far.write_u16(0).await.unwrap();
        }
        expect_numbered(&mut probe.received, &lengths).await;
    };
    tokio::select! {
        end = run => panic!("{end:?}"),
        () = test => {}
    }
}

#[tokio::test]
async fn a_hostile_length_ends_the_link() {
    let (mut far, run, _probe) = link(64);
    far.write_all(&[0xff, 0xff, 1, 2, 3]).await.unwrap();
    let end = timeout(PATIENCE, run).await.unwrap();
    assert!(matches!(end, Err(CarrierError::Frame(FrameError::TooLong { length: 0xffff }))), "{end:?}");
}

#[tokio::test]
async fn a_stream_that_ends_is_closed() {
    let (far, run, probe) = link(64);
    drop(far);
    let end = timeout(PATIENCE, run).await.unwrap();
    assert!(matches!(end, Err(CarrierError::Closed)), "{end:?}");
    assert_eq!(probe.sink.send(&[1; 40], 40), 1);
}

#[tokio::test]
async fn a_reader_that_stops_costs_datagrams_and_no_time() {
    let (_far, run, probe) = link(100);
    let test = async {
        let datagrams = vec![7; 100 * 1000];
        let mut dropped = 0;
        for _ in 0..5 {
            dropped += probe.sink.send(&datagrams, 1000);
            tokio::task::yield_now().await;
        }
        assert_eq!(probe.sink.dropped(), u64::try_from(dropped).unwrap());
        assert_eq!(probe.sink.sent() + probe.sink.dropped(), 500);
        // One buffer is being written, one waits.
        assert!((65..=130).contains(&probe.sink.sent()), "{}", probe.sink.sent());
    };
    tokio::select! {
        end = run => panic!("{end:?}"),
        () = test => {}
    }
}

#[tokio::test(start_paused = true)]
async fn keepalives_keep_a_quiet_link_and_silence_ends_it() {
    let (mut far, run, _probe) = link(1 << 10);
    let began = tokio::time::Instant::now();
    let other_end = async {
        for _ in 0..6 {
            assert_eq!(far.read_u16().await.unwrap(), 0);
            far.write_u16(0).await.unwrap();
        }
        assert_eq!(began.elapsed().as_secs(), 60);
        std::future::pending::<()>().await;
    };
    tokio::select! {
        end = run => assert!(matches!(end, Err(CarrierError::Silent)), "{end:?}"),
        () = other_end => {}
    }
    assert_eq!(began.elapsed().as_secs(), 90);
}
