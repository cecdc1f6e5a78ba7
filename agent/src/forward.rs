//! From the overlay to the services of this machine.
//!
//! Each service has a listener on its overlay port; each accepted stream is spliced to the service's local
//! address. Bytes pass as they are, in both directions, and an end of one direction is passed on alone.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use blueprint_common_runtime::tasks::Spawner;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::agent::AgentError;
use crate::relay;
use crate::service::ServiceSpec;
use crate::shared::Shared;

/// Streams of one service that are open at once.
const MAX_STREAMS: usize = 1024;

/// Bytes held per direction of a stream.
const BUFFER_BYTES: usize = 32 * 1024;

/// A service on the same machine either answers at once or not at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Pause before a port that cannot be opened is tried again: it may still be closing.
pub(crate) const LISTEN_PAUSE: Duration = Duration::from_millis(250);

/// What the streams of one overlay port did.
#[derive(Debug, Default)]
pub(crate) struct StreamStats {
    pub(crate) open: AtomicUsize,
    pub(crate) accepted: AtomicU64,
    /// Closed at once because there were too many.
    pub(crate) refused: AtomicU64,
    /// Closed because the service took no connection.
    pub(crate) failed: AtomicU64,
}

/// The streams of all services.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    by_port: Mutex<BTreeMap<u16, Arc<StreamStats>>>,
    open: AtomicUsize,
    ended: Notify,
}

impl Streams {
    /// Counters of a port; they last as long as the agent.
    pub(crate) fn of(&self, port: u16) -> Arc<StreamStats> {
        Arc::clone(self.by_port.lock().entry(port).or_default())
    }

    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::Acquire)
    }

    /// Waits until no stream is open.
    pub(crate) async fn idle(&self) {
        loop {
            let ended = self.ended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            if self.open() == 0 {
                return;
            }
            ended.await;
        }
    }
}

/// An open stream in the counters; leaves them when dropped.
struct Counted {
    shared: Arc<Shared>,
    stats: Arc<StreamStats>,
    _permit: OwnedSemaphorePermit,
}

impl Counted {
    fn new(shared: &Arc<Shared>, stats: &Arc<StreamStats>, permit: OwnedSemaphorePermit) -> Self {
        stats.accepted.fetch_add(1, Ordering::Relaxed);
        stats.open.fetch_add(1, Ordering::Relaxed);
        shared.streams.open.fetch_add(1, Ordering::AcqRel);
        Self { shared: Arc::clone(shared), stats: Arc::clone(stats), _permit: permit }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.stats.open.fetch_sub(1, Ordering::Relaxed);
        self.shared.streams.open.fetch_sub(1, Ordering::AcqRel);
        self.shared.streams.ended.notify_waiters();
    }
}

/// Opens and closes listeners as services come and go, until nothing more is to be taken.
pub(crate) async fn run(shared: Arc<Shared>, spawner: Spawner) -> Result<(), AgentError> {
    let mut running: BTreeMap<u16, (ServiceSpec, CancellationToken)> = BTreeMap::new();
    let mut changes = shared.watch_services();
    loop {
        let table = Arc::clone(&changes.borrow_and_update());
        let wanted: BTreeMap<u16, &ServiceSpec> =
            table.iter().map(|entry| (entry.spec.port, &entry.spec)).collect();
        running.retain(|port, (spec, stop)| {
            let stays = wanted.get(port).is_some_and(|wanted| *wanted == spec);
            if !stays {
                stop.cancel();
            }
            stays
        });
        for (port, spec) in wanted {
            running.entry(port).or_insert_with(|| {
                let stop = shared.closed.child_token();
                let listen = listen(Arc::clone(&shared), spec.clone(), stop.clone(), spawner.clone());
                spawner.spawn("service", listen);
                if spec.udp {
                    let relay = relay::run(Arc::clone(&shared), spec.clone(), stop.clone(), spawner.clone());
                    spawner.spawn_base("service datagrams", relay);
                }
                (spec.clone(), stop)
            });
        }
        tokio::select! {
            biased;
            () = shared.stop.cancelled() => break,
            () = shared.closed.cancelled() => break,
            changed = changes.changed() => if changed.is_err() { break },
        }
    }
    shared.closed.cancel();
    // It stays until the agent ends, so that its end is not taken for a failure.
    shared.stop.cancelled().await;
    Ok(())
}

/// Accepts the streams of one service until `stop`; streams that are open go on.
async fn listen(shared: Arc<Shared>, spec: ServiceSpec, stop: CancellationToken, spawner: Spawner) {
    let _ = stop.run_until_cancelled(accept(&shared, &spec, &spawner)).await;
    debug!(service = %spec.service, port = spec.port, "service closed to new streams");
}

async fn accept(shared: &Arc<Shared>, spec: &ServiceSpec, spawner: &Spawner) {
    let stats = shared.streams.of(spec.port);
    let places = Arc::new(Semaphore::new(MAX_STREAMS));
    let mut listener = loop {
        match shared.spoke.plane().tunnel().listen(spec.port).await {
            Ok(listener) => break listener,
            Err(error) => {
                debug!(service = %spec.service, port = spec.port, %error, "overlay port not open yet");
                sleep(LISTEN_PAUSE).await;
            }
        }
    };
    info!(service = %spec.service, port = spec.port, local = %spec.local, "service offered");
    while let Some(stream) = listener.accept().await {
        let Ok(permit) = Arc::clone(&places).try_acquire_owned() else {
            stats.refused.fetch_add(1, Ordering::Relaxed);
            debug!(service = %spec.service, limit = MAX_STREAMS, "stream refused, too many");
            continue;
        };
        let counted = Counted::new(shared, &stats, permit);
        let spec = spec.clone();
        let stop = shared.stop.clone();
        spawner.spawn("stream", async move {
            let _ = stop.run_until_cancelled(carry(stream, &spec, &counted.stats)).await;
        });
    }
}

/// Connects to the service and passes bytes until both directions have ended.
async fn carry<S>(stream: S, spec: &ServiceSpec, stats: &StreamStats)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let connected = timeout(CONNECT_TIMEOUT, TcpStream::connect(spec.local)).await;
    let local = match connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
        Ok(local) => local,
        Err(error) => {
            stats.failed.fetch_add(1, Ordering::Relaxed);
            warn!(service = %spec.service, local = %spec.local, %error, "service takes no connection");
            return;
        }
    };
    if let Err(error) = local.set_nodelay(true) {
        debug!(%error, "no TCP_NODELAY");
    }
    match splice(stream, local).await {
        Ok((up, down)) => debug!(service = %spec.service, up, down, "stream ended"),
        Err(error) => debug!(service = %spec.service, %error, "stream broke"),
    }
}

/// Passes bytes both ways until both directions have ended; gives the bytes of each.
async fn splice<A, B>(mut a: A, mut b: B) -> io::Result<(u64, u64)>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    tokio::io::copy_bidirectional_with_sizes(&mut a, &mut b, BUFFER_BYTES, BUFFER_BYTES).await
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio::net::TcpListener;

    use super::*;

    fn spec(local: std::net::SocketAddr) -> ServiceSpec {
        let service = blueprint_common_types::ServiceKey { blueprint: 7, service: 42 };
        ServiceSpec {
            service,
            port: 80,
            local,
            check: blueprint_common_types::HealthCheck::Tcp,
            pace: blueprint_common_types::CheckPace::default(),
            metrics: blueprint_common_types::MetricsPlace::default(),
            udp: false,
            run: None,
        }
    }

    #[tokio::test]
    async fn bytes_pass_both_ways_and_one_end_does_not_end_the_other() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let spec = spec(listener.local_addr().unwrap());
        let (mut client, stream) = duplex(1024);
        let stats = StreamStats::default();
        let service = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            // Reads to the end: the client's half-close has to arrive here.
            stream.read_to_end(&mut request).await.unwrap();
            stream.write_all(&request.repeat(3)).await.unwrap();
            stream.shutdown().await.unwrap();
            request.len()
        };
        let asked = async {
            client.write_all(&[7; 100_000]).await.unwrap();
            client.shutdown().await.unwrap();
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).await.unwrap();
            answer.len()
        };
        let (received, answered, ()) = tokio::join!(service, asked, carry(stream, &spec, &stats));
        assert_eq!((received, answered), (100_000, 300_000));
    }

    #[tokio::test]
    async fn a_service_that_is_not_there_ends_the_stream_and_is_counted() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let spec = spec(listener.local_addr().unwrap());
        drop(listener);
        let (mut client, stream) = duplex(1024);
        let stats = StreamStats::default();
        carry(stream, &spec, &stats).await;
        assert_eq!(stats.failed.load(Ordering::Relaxed), 1);
        assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn idle_is_at_once_where_nothing_is_open() {
        let streams = Streams::default();
        streams.idle().await;
        assert!(Arc::ptr_eq(&streams.of(80), &streams.of(80)));
    }
}
