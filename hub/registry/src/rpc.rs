//! The operator's RPC, reached through the tunnel by workloads whose document names it, and by nobody else.
//!
//! Agents open connections to one TCP port of the hub's overlay address. The source address says which agent it is:
//! the tunnel lets nobody send from another's. The first line says for which workload and which of its two URLs; the
//! hub reads from the stored document where that leads and dials it on its own loopback. So a node cannot name a
//! place, and reaches no other port. Bytes pass while the workload stays with the agent, looked at each second.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use blueprint_common_tunnel::{ListenError, Listener, Tunnel};
use blueprint_common_types::workload::{RpcKind, WorkloadSpec};
use blueprint_common_types::{AgentId, ServiceKey};
use blueprint_hub_registry_core::{Agent, AuditEvent, AuditKind};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use crate::shared::Shared;

/// Connections that one agent may have open at once.
pub(crate) const CONNECTIONS: u32 = 128;

/// Longest first line in bytes.
const MAX_LINE_BYTES: usize = 128;

/// Time for the first line.
const LINE_TIMEOUT: Duration = Duration::from_secs(5);

/// A service on the same machine either answers at once or not at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Pause between two looks at whether the workload is still the agent's.
const LOOK: Duration = Duration::from_secs(1);

/// Bytes held per direction of a connection.
const BUFFER_BYTES: usize = 32 * 1024;

/// Refusals that are remembered, so that each is audited once.
const REMEMBERED: usize = 4096;

/// Tries to open the port, and the pause between them: it may still be closing.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(250);

/// Agents whose refusals were audited, with the reason.
pub(crate) type Audited = Mutex<BTreeSet<(AgentId, &'static str)>>;

/// Opens the port of the overlay.
///
/// # Errors
///
/// Where it cannot be had: another program of this machine may have it.
pub(crate) async fn listen(tunnel: &Tunnel, port: u16) -> Result<Listener, ListenError> {
    let mut tries = TRIES;
    loop {
        match tunnel.listen(port).await {
            Err(ListenError::InUse { .. }) if tries > 0 => tries = tries.saturating_sub(1),
            opened => return opened,
        }
        sleep(PAUSE).await;
    }
}

/// Takes connections until the tunnel ends.
pub(crate) async fn run(shared: Arc<Shared>, mut listener: Listener) {
    while let Some(stream) = listener.accept().await {
        let source = stream.peer_addr();
        let task = serve(Arc::clone(&shared), stream, source);
        // What a workload does while the hub drains may still need its chain; the grace does not wait for it.
        shared.spawner.spawn_base("workload rpc", task);
    }
}

/// Why a connection is refused: the label of the metric, and a line for the agent.
#[derive(Debug)]
struct Refusal {
    reason: &'static str,
    text: String,
    /// The service that was asked for, where the audit log hears of it.
    audited: Option<ServiceKey>,
}

impl Refusal {
    fn new(reason: &'static str, text: impl Into<String>) -> Self {
        Self { reason, text: text.into(), audited: None }
    }
}

/// A workload and where its URL leads.
#[derive(Debug)]
struct Way {
    service: ServiceKey,
    generation: u64,
    places: Vec<SocketAddr>,
}

async fn serve<S>(shared: Arc<Shared>, mut stream: S, source: SocketAddr)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let snapshot = shared.registrar.snapshot();
    let agent = snapshot.agents.values().find(|view| view.agent.lease.contains(source.ip()));
    let Some(agent) = agent.map(|view| Arc::clone(&view.agent)) else {
        shared.metrics.refused("rpc_stranger");
        return debug!(%source, "connection for an RPC refused: the address is no node's");
    };
    drop(snapshot);
    let Some(_place) = shared.rpc_places.begin(agent.id) else {
        shared.metrics.refused("rpc_too_many");
        let text = format!("refused this node has {CONNECTIONS} connections to RPCs already\n");
        let _ = stream.write_all(text.as_bytes()).await;
        return;
    };
    match open(&shared, &agent, &mut stream).await {
        Ok((way, local)) => {
            if stream.write_all(b"ok\n").await.is_ok() {
                carry(&shared, agent.id, &way, stream, local).await;
            }
        }
        Err(refusal) => {
            refuse(&shared, &agent, &refusal).await;
            let _ = stream.write_all(format!("refused {}\n", refusal.text).as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    }
}

async fn open<S>(shared: &Shared, agent: &Agent, stream: &mut S) -> Result<(Way, TcpStream), Refusal>
where
    S: AsyncRead + Unpin,
{
    let malformed = |why: &str| Refusal::new("rpc_malformed", format!("the first line: {why}"));
    let line = timeout(LINE_TIMEOUT, read_line(stream)).await;
    let line = line.map_err(|_| malformed("it did not come in time"))?;
    let line = line.map_err(|error| malformed(&error.to_string()))?;
    let (service, generation, kind) = parse(&line).ok_or_else(|| malformed("it is none of this version"))?;
    let way = judge(shared, agent, service, generation, kind)?;
    let local = dial(&way.places).await.map_err(|error| {
        let place = way.places.first().map(SocketAddr::to_string).unwrap_or_default();
        Refusal::new("rpc_unreachable", format!("the operator's RPC at {place} takes no connection: {error}"))
    })?;
    Ok((way, local))
}

/// Reads `bp-rpc/1 BLUEPRINT/SERVICE GENERATION http|ws`.
fn parse(line: &str) -> Option<(ServiceKey, u64, RpcKind)> {
    let mut words = line.split(' ');
    let (version, service, generation, kind) = (words.next()?, words.next()?, words.next()?, words.next()?);
    if version != "bp-rpc/1" || words.next().is_some() {
        return None;
    }
    Some((service.parse().ok()?, generation.parse().ok()?, kind.parse().ok()?))
}

/// Reads up to the first line feed, byte by byte: what comes behind it is not ours.
async fn read_line<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<String> {
    let mut line = Vec::new();
    loop {
        match stream.read_u8().await? {
            b'\n' => break,
            byte if line.len() < MAX_LINE_BYTES => line.push(byte),
            _ => return Err(io::Error::other(format!("longer than {MAX_LINE_BYTES} bytes"))),
        }
    }
    String::from_utf8(line).map_err(io::Error::other)
}

/// Where the URL leads, if the workload is the agent's and its URL is one of this machine's loopback.
fn judge(
    shared: &Shared,
    agent: &Agent,
    service: ServiceKey,
    generation: u64,
    kind: RpcKind,
) -> Result<Way, Refusal> {
    let view = shared.workloads.view();
    let record = view.records.get(&service).filter(|record| record.node == Some(agent.id));
    let Some(record) = record else {
        let text = format!("the workload {service} is not assigned to this node");
        return Err(Refusal { audited: Some(service), ..Refusal::new("rpc_not_assigned", text) });
    };
    if record.generation != generation {
        return Err(Refusal::new("rpc_changed", "the workload has changed meanwhile"));
    }
    let spec = serde_json::from_str::<WorkloadSpec>(&record.document);
    match spec.ok().and_then(|spec| spec.chain.loopback(kind)) {
        Some(url) => Ok(Way { service, generation, places: url.addresses() }),
        None => {
            let text = format!("the workload {service} names no {kind} RPC on the hub's loopback");
            Err(Refusal { audited: Some(service), ..Refusal::new("rpc_not_named", text) })
        }
    }
}

/// Connects to the first place that takes a connection.
async fn dial(places: &[SocketAddr]) -> io::Result<TcpStream> {
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for place in places {
        match timeout(CONNECT_TIMEOUT, TcpStream::connect(place)).await {
            Ok(Ok(stream)) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Ok(Err(error)) => last = error,
            Err(_) => last = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(last)
}

/// Passes bytes both ways until both directions have ended, or the workload is not the agent's any more.
async fn carry<S>(shared: &Shared, agent: AgentId, way: &Way, mut stream: S, mut local: TcpStream)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    shared.metrics.rpc_opened();
    let lost = async {
        while shared.still_runs(agent, way.service, way.generation) {
            sleep(LOOK).await;
        }
    };
    let passed =
        tokio::io::copy_bidirectional_with_sizes(&mut stream, &mut local, BUFFER_BYTES, BUFFER_BYTES);
    tokio::select! {
        biased;
        passed = passed => match passed {
            Ok((up, down)) => debug!(service = %way.service, up, down, "connection to an RPC ended"),
            Err(error) => debug!(service = %way.service, %error, "connection to an RPC broke"),
        },
        () = lost => debug!(service = %way.service, %agent, "connection to an RPC cut, the workload is not there any more"),
    }
    shared.metrics.rpc_closed();
}

/// Counts, logs and, once for each agent and reason, audits a refusal.
async fn refuse(shared: &Shared, agent: &Agent, refusal: &Refusal) {
    shared.metrics.refused(refusal.reason);
    let Some(service) = refusal.audited else {
        return debug!(agent = %agent.id, reason = refusal.reason, text = refusal.text, "RPC refused");
    };
    let is_news = {
        let mut audited = shared.rpc_audited.lock();
        audited.len() < REMEMBERED && audited.insert((agent.id, refusal.reason))
    };
    if is_news {
        warn!(target: "audit", %service, agent = %agent.id, reason = refusal.reason, "RPC refused to a node");
        let detail = format!("node {}: {}", agent.name, refusal.text);
        shared.audit_limited(AuditEvent::new(AuditKind::RpcRefuse, service, detail)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_first_line_names_workload_assignment_and_url_and_nothing_else() {
        let service = ServiceKey { blueprint: 7, service: 42 };
        assert_eq!(parse("bp-rpc/1 7/42 3 http"), Some((service, 3, RpcKind::Http)));
        assert_eq!(parse("bp-rpc/1 7/42 3 ws"), Some((service, 3, RpcKind::Ws)));
        for bad in [
            "",
            "bp-rpc/2 7/42 3 http",
            "bp-rpc/1 7/42 3",
            "bp-rpc/1 7/42 3 tcp",
            "bp-rpc/1 7/42 3 http 127.0.0.1:22",
            "bp-rpc/1  7/42 3 http",
            "bp-rpc/1 7 3 http",
            "bp-rpc/1 7/42 -3 http",
            "GET / HTTP/1.1\r",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[tokio::test]
    async fn a_line_leaves_what_follows_and_has_a_bound() {
        let mut stream = &b"bp-rpc/1 7/42 3 http\nPOST /"[..];
        assert_eq!(read_line(&mut stream).await.unwrap(), "bp-rpc/1 7/42 3 http");
        assert_eq!(stream, b"POST /");
        let endless = vec![b'a'; MAX_LINE_BYTES + 1];
        assert!(read_line(&mut endless.as_slice()).await.is_err());
        assert!(read_line(&mut &b"cut off"[..]).await.is_err());
        assert!(read_line(&mut &b"\xff\n"[..]).await.is_err());
    }

    #[tokio::test]
    async fn the_next_place_is_tried_and_a_closed_one_is_an_error() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let open = listener.local_addr().unwrap();
        let closed = {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            listener.local_addr().unwrap()
        };
        assert_eq!(dial(&[closed, open]).await.unwrap().peer_addr().unwrap(), open);
        assert!(dial(&[closed]).await.is_err() && dial(&[]).await.is_err());
    }
}
