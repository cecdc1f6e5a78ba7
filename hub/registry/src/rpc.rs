//! The operator's RPC, reached through the tunnel by workloads whose document names it, and by nobody else.
//!
//! Agents open connections to one TCP port of the hub's overlay address. The source address says which agent it is:
//! the tunnel lets nobody send from another's. The first line says for which workload and which of its two URLs; the
//! hub reads from the stored document where that leads and dials it on its own loopback. So a node cannot name a
//! place, and reaches no other port. Bytes pass while the workload stays with the agent, looked at each second, and
//! until both directions have been silent for the idle time. A workload has a part of its node's places.

mod carry;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use blueprint_common_tunnel::{ListenError, Listener, Tunnel};
use blueprint_common_types::workload::{RpcKind, WorkloadSpec};
use blueprint_common_types::{AgentId, ServiceKey};
use blueprint_hub_registry_core::{Agent, AuditEvent, AuditKind};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use self::carry::{Ended, carry};
use crate::shared::Shared;
use blueprint_common_runtime::places::Place;

/// Connections that one agent may have open at once.
pub(crate) const CONNECTIONS: u32 = 128;

/// And one workload of it: four of them fill a node.
pub(crate) const CONNECTIONS_OF_WORKLOAD: u32 = 32;

/// Connections above that which one agent may have told so at once; others are closed.
pub(crate) const TURNED_AWAY: u32 = 16;

/// Longest first line in bytes.
const MAX_LINE_BYTES: usize = 128;

/// Time for the first line.
const LINE_TIMEOUT: Duration = Duration::from_secs(5);

/// A service on the same machine either answers at once or not at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Tries to open the port, and the pause between them: it may still be closing.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(250);

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
    /// Its place among those of its workload.
    _place: Place<(AgentId, ServiceKey)>,
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
        return turn_away(&shared, agent.id, stream).await;
    };
    match open(&shared, &agent, &mut stream).await {
        Ok((way, local)) => {
            if stream.write_all(b"ok\n").await.is_ok() {
                pass(&shared, agent.id, &way, stream, local).await;
            }
        }
        Err(refusal) => {
            refuse(&shared, &agent, &refusal).await;
            let _ = stream.write_all(format!("refused {}\n", refusal.text).as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    }
}

/// Says why, to a few at once. Its line is read first: a connection that is closed with bytes unread is reset, and what
/// was said is lost with it.
async fn turn_away<S>(shared: &Shared, agent: AgentId, mut stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let Some(_place) = shared.rpc_turned_away.begin(agent) else { return };
    let _ = timeout(LINE_TIMEOUT, read_line(&mut stream)).await;
    let text = format!("refused this node has {CONNECTIONS} connections to RPCs already\n");
    let _ = stream.write_all(text.as_bytes()).await;
    let _ = stream.shutdown().await;
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
    let record = view.on(service, agent.id, generation);
    let Some(record) = record else {
        let text = format!("the workload {service} is not assigned to this node");
        return Err(Refusal { audited: Some(service), ..Refusal::new("rpc_not_assigned", text) });
    };
    if record.generation != generation {
        return Err(Refusal::new("rpc_changed", "the workload has changed meanwhile"));
    }
    let spec = serde_json::from_str::<WorkloadSpec>(&record.document);
    let Some(url) = spec.ok().and_then(|spec| spec.chain.loopback(kind)) else {
        let text = format!("the workload {service} names no {kind} RPC on the hub's loopback");
        return Err(Refusal { audited: Some(service), ..Refusal::new("rpc_not_named", text) });
    };
    let Some(place) = shared.rpc_of_workload.begin((agent.id, service)) else {
        let text =
            format!("the workload {service} has {CONNECTIONS_OF_WORKLOAD} connections to its RPC already");
        return Err(Refusal::new("rpc_too_many_of_workload", text));
    };
    Ok(Way { service, generation, places: url.addresses(), _place: place })
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

/// Passes bytes both ways for as long as they may, and counts.
async fn pass<S>(shared: &Shared, agent: AgentId, way: &Way, stream: S, local: TcpStream)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    shared.metrics.rpc_opened();
    let still_runs = || shared.still_runs(agent, way.service, way.generation);
    let service = way.service;
    match carry(stream, local, shared.rpc_idle, still_runs).await {
        Ended::Passed { up, down } => debug!(%service, up, down, "connection to an RPC ended"),
        Ended::Broken(error) => debug!(%service, %error, "connection to an RPC broke"),
        Ended::Gone => {
            shared.metrics.rpc_cut("not_assigned");
            debug!(%service, %agent, "connection to an RPC cut, the workload is not there any more");
        }
        Ended::Idle => {
            shared.metrics.rpc_cut("idle");
            debug!(%service, %agent, idle = ?shared.rpc_idle, "connection to an RPC cut, it was silent");
        }
    }
    shared.metrics.rpc_closed();
}

/// Counts and logs a refusal; once a minute for each agent and reason it is audited.
async fn refuse(shared: &Shared, agent: &Agent, refusal: &Refusal) {
    shared.metrics.refused(refusal.reason);
    let Some(service) = refusal.audited else {
        return debug!(agent = %agent.id, reason = refusal.reason, text = refusal.text, "RPC refused");
    };
    if shared.is_news(agent.id, refusal.reason) {
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
