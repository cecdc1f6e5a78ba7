//! How fast the carriers are between two threads of this machine, without WireGuard inside.
//!
//! `cargo test --release -p blueprint-common-tunnel -- --ignored --nocapture carrier_speed`

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use tokio::runtime::Builder;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_util::sync::CancellationToken;

use super::*;

/// What a full packet of 1420 bytes makes with WireGuard around it.
const DATAGRAM: usize = 1452;
/// One bundle of the engine.
const RUN: usize = 44 * DATAGRAM;
const LASTS: Duration = Duration::from_secs(3);

/// Counts what comes, and in how many batches.
#[derive(Default)]
struct Counts {
    bytes: AtomicU64,
    datagrams: AtomicU64,
    batches: AtomicU64,
}

struct Counter(Arc<Counts>);

impl LinkIngress for Counter {
    fn receive(&mut self, batch: &mut Batch) {
        let figure = |count| u64::try_from(count).unwrap();
        self.0.bytes.fetch_add(figure(batch.bytes().len()), Ordering::Relaxed);
        self.0.datagrams.fetch_add(figure(batch.len()), Ordering::Relaxed);
        self.0.batches.fetch_add(1, Ordering::Relaxed);
    }
}

/// Sends as fast as the link takes it, and says what came.
fn drive(name: &str, sink: &Outbox, counts: &Counts) {
    let patience = Instant::now();
    while sink.max_datagram() < DATAGRAM {
        assert!(patience.elapsed() < PATIENCE, "the path's MTU is not found");
        thread::park_timeout(Duration::from_millis(10));
    }
    let run = vec![0x5a; RUN];
    let (before, lost_before) = (counts.bytes.load(Ordering::Relaxed), sink.dropped());
    let began = Instant::now();
    while began.elapsed() < LASTS {
        if sink.send(&run, DATAGRAM) > 0 {
            thread::park_timeout(Duration::from_micros(100));
        }
    }
    let bytes = counts.bytes.load(Ordering::Relaxed) - before;
    let tenths = bytes * 80 / u64::try_from(began.elapsed().as_nanos()).unwrap();
    let (datagrams, batches) =
        (counts.datagrams.load(Ordering::Relaxed), counts.batches.load(Ordering::Relaxed).max(1));
    let text = format!(
        "{name}: {}.{} Gbit/s, {} datagrams in a batch; sent {}, came {datagrams}, refused at the sink {}\n",
        tenths / 10,
        tenths % 10,
        datagrams / batches,
        sink.sent(),
        sink.dropped() - lost_before
    );
    io::stderr().write_all(text.as_bytes()).unwrap();
    assert!(bytes > 0);
}

fn in_thread(name: &str, task: impl FnOnce() + Send + 'static) -> thread::JoinHandle<()> {
    thread::Builder::new().name(name.to_owned()).spawn(task).unwrap()
}

fn block_on<T>(task: impl Future<Output = T>) -> T {
    Builder::new_current_thread().enable_all().build().unwrap().block_on(task)
}

#[test]
#[ignore = "a measurement, to be run in release mode"]
fn carrier_speed_quic() {
    let limits = QuicLimits { max_payload: 1500, ..QuicLimits::default() };
    let tls = Arc::new(Tls::new());
    let counts = Arc::new(Counts::default());
    let stop = CancellationToken::new();
    let (to_client, at) = std::sync::mpsc::channel();
    let hub = in_thread("hub", {
        let (limits, tls, counts, stop) =
            (limits.clone(), Arc::clone(&tls), Arc::clone(&counts), stop.clone());
        move || {
            block_on(async {
                let (shared, socket, at) = shared("127.0.0.1:0", &limits);
                let server = QuicServer::new(Arc::clone(&shared), &tls.server(), limits).unwrap();
                let stopped = stop.clone();
                let receiver = in_thread("hub-rx", move || {
                    block_on(async {
                        let (plain, _plain) = mpsc::unbounded_channel();
                        stopped.run_until_cancelled(receive_shared(socket, &shared, plain)).await;
                    });
                });
                to_client.send(at).unwrap();
                let link = server.accept().await.unwrap().finish().await.unwrap();
                link.run(Counter(counts), stop).await.unwrap();
                receiver.join().unwrap();
            });
        }
    });
    let at = at.recv().unwrap();
    let (to_driver, sink) = std::sync::mpsc::channel();
    let agent = in_thread("agent", {
        let stop = stop.clone();
        move || {
            block_on(async {
                let socket = client_socket(at).unwrap();
                let link = dial(socket, at, &tls.client(), "hub.test", &limits).await.unwrap();
                to_driver.send(link.sink()).unwrap();
                link.run(Sink, stop).await.unwrap();
            });
        }
    });
    drive("quic", &sink.recv().unwrap(), &counts);
    stop.cancel();
    agent.join().unwrap();
    hub.join().unwrap();
}

#[test]
#[ignore = "a measurement, to be run in release mode"]
fn carrier_speed_tls() {
    let tls = Tls::new();
    let (acceptor, connector) =
        (TlsAcceptor::from(Arc::new(tls.server())), TlsConnector::from(Arc::new(tls.client())));
    let counts = Arc::new(Counts::default());
    let stop = CancellationToken::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    let hub = in_thread("hub", {
        let (counts, stop) = (Arc::clone(&counts), stop.clone());
        move || {
            block_on(async {
                let (socket, _) = listener.accept().unwrap();
                let socket = stream::tuned(socket);
                let io = acceptor.accept(socket).await.unwrap();
                let (_sink, pump) = stream_sink(512 << 10);
                pump.run(io, Counter(counts), stop).await.unwrap();
            });
        }
    });
    let (sink, pump) = stream_sink(512 << 10);
    let agent = in_thread("agent", {
        let stop = stop.clone();
        move || {
            block_on(async {
                let socket = stream::tuned(std::net::TcpStream::connect(at).unwrap());
                let io = connector.connect("hub.test".try_into().unwrap(), socket).await.unwrap();
                pump.run(io, Sink, stop).await.unwrap();
            });
        }
    });
    drive("tls", &sink, &counts);
    stop.cancel();
    agent.join().unwrap();
    hub.join().unwrap();
}
