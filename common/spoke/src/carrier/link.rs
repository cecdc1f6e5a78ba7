//! Connections of the carriers that have them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use blueprint_common_runtime::Chain;
use blueprint_common_tunnel::carrier::{CarrierError, QuicLimits, client_socket, stream_sink, tune};
use blueprint_common_tunnel::{CarrierKind, Link, LinkSink, carrier};
use blueprint_common_tunnel_core::Endpoint;
use blueprint_common_types::HUB_TLS_NAME;
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::attempt::{Base, TryError};
use crate::dial::{DialError, HubAddress, dial_stream};
use crate::tls;

/// Frames of a TLS link that wait at most.
const OUTBOX_BYTES: usize = 512 << 10;

static NEXT: AtomicU64 = AtomicU64::new(0);

/// A connection that carries the tunnel's datagrams; it ends when the last handle goes.
#[derive(Debug)]
pub struct LiveLink {
    pub(crate) number: u64,
    pub(crate) endpoint: Endpoint,
    is_over: Arc<AtomicBool>,
    _stop: DropGuard,
}

impl LiveLink {
    /// True once the connection has ended.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }
}

/// A connection ended.
#[derive(Debug)]
pub(crate) struct Gone {
    pub(crate) rung: usize,
    pub(crate) number: u64,
    pub(crate) reason: String,
}

/// Who is told of a connection's end, and for which rung.
pub(crate) type Watcher = Option<(mpsc::Sender<Gone>, usize)>;

/// Opens a QUIC connection that carries the tunnel.
pub(super) async fn open_quic(
    base: &Base,
    remote: SocketAddr,
    watcher: Watcher,
) -> Result<LiveLink, TryError> {
    let tls = tls::carrier_config(&base.identity.credential).map_err(DialError::SetUp)?;
    let socket = client_socket(remote).map_err(TryError::Socket)?;
    let quic = carrier::dial(socket, remote, &tls, HUB_TLS_NAME, &QuicLimits::default()).await?;
    let sink: Arc<dyn LinkSink> = quic.sink();
    let link = base.tunnel.attach(CarrierKind::Quic, quic.remote(), sink).ok_or(TryError::Full)?;
    Ok(start(base, &link.endpoint(), "quic carrier", watcher, |stop| quic.run(link, stop)))
}

/// Opens a TLS stream that carries the tunnel.
pub(super) async fn open_tls(base: &Base, hub: &HubAddress, watcher: Watcher) -> Result<LiveLink, TryError> {
    let tls = tls::carrier_config(&base.identity.credential).map_err(DialError::SetUp)?;
    let known = if base.proxy.is_some() { Vec::new() } else { base.addresses(&hub.host).await? };
    let (stream, reached) = dial_stream(hub, known, Arc::new(tls), base.proxy.as_ref()).await?;
    if stream.get_ref().1.alpn_protocol() != Some(carrier::ALPN) {
        return Err(TryError::NoCarrier);
    }
    tune(stream.get_ref().0).map_err(TryError::Socket)?;
    let (sink, pump) = stream_sink(OUTBOX_BYTES);
    let sink: Arc<dyn LinkSink> = sink;
    let link: Link = base.tunnel.attach(CarrierKind::Tls, reached, sink).ok_or(TryError::Full)?;
    Ok(start(base, &link.endpoint(), "tls carrier", watcher, |stop| pump.run(stream, link, stop)))
}

/// Runs a connection in a task of its own.
fn start<F>(
    base: &Base,
    endpoint: &Endpoint,
    name: &'static str,
    watcher: Watcher,
    run: impl FnOnce(CancellationToken) -> F,
) -> LiveLink
where
    F: Future<Output = Result<(), CarrierError>> + Send + 'static,
{
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let (stop, is_over) = (base.stop.child_token(), Arc::new(AtomicBool::new(false)));
    let (running, over) = (Box::pin(run(stop.clone())), Arc::clone(&is_over));
    base.spawner.spawn_base(name, async move {
        let ended = running.await;
        over.store(true, Ordering::Relaxed);
        if let (Some((gone, rung)), Err(error)) = (watcher, ended) {
            // Full where many end at once: the echo tells of those that are in use.
            let _ = gone.try_send(Gone { rung, number, reason: Chain(&error).to_string() });
        }
    });
    LiveLink { number, endpoint: *endpoint, is_over, _stop: stop.drop_guard() }
}
