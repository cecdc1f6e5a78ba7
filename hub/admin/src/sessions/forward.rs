//! Forwards: connections and datagrams between where the operator is and a service, its node, or a node by its name.
//!
//! A forward is a session that stays open, and connections that name it. Those end with it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::extract::{Extension, Path, Request, State};
use axum::response::{IntoResponse, Response};
use blueprint_common_runtime::datagrams::{Datagrams, Passed, carry};
use blueprint_common_runtime::frames::{ALIVE, ExitFrame, Frame, FrameReader, SILENCE};
use blueprint_common_runtime::local_api::LocalStream;
use blueprint_common_types::{AgentId, DoorAsk, Health, PortAsk, ServiceKey};
use blueprint_hub_registry_core::policy::SessionKind;
use futures_util::future::{BoxFuture, FutureExt};
use http::StatusCode;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::io::AsyncWriteExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{interval, timeout};
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::{
    Asker, FORWARDS, OPENING, Of, Refusal, SessionStream, answer_of, cut, door, parts, runner, session_name,
    switching, upgrade_of,
};
use crate::AdminState;
use crate::error::ApiError;
use crate::nodes;
use crate::policy::Way;

/// Connections and flows of one forward at once.
const CONNECTIONS: usize = 256;

/// A flow of datagrams on which nothing passes for so long is over; its node ends it a little later.
const IDLE: Duration = Duration::from_secs(60);

/// How long the client may take to make its connection a stream, and a stream to take the last frame.
const CLIENT_WITHIN: Duration = Duration::from_secs(10);

/// Where one finds how to ask.
const SHAPE: &str = "docs/api.md shows what may be asked for";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Asked {
    /// Port of the node's loopback; the service's targets where absent.
    port: Option<u16>,
    /// The node listens on that port, instead of reaching it.
    #[serde(default)]
    reverse: bool,
    #[serde(default)]
    udp: bool,
    /// Name or id of the node that it has to be.
    node: Option<String>,
}

/// A forward that is open.
pub(crate) struct Forward {
    of: Of,
    kind: SessionKind,
    udp: bool,
    node: Option<String>,
    /// Number of the node's listener, and which node that is, where connections come from there.
    listener: Option<(AgentId, u64)>,
    _place: OwnedSemaphorePermit,
    places: Arc<Semaphore>,
    ended: CancellationToken,
    connections: AtomicU64,
    failed: AtomicU64,
    up: AtomicU64,
    down: AtomicU64,
}

pub(crate) async fn forward(
    State(state): State<AdminState>,
    way: Option<Extension<Way>>,
    Path((blueprint, service)): Path<(u64, u64)>,
    request: Request,
) -> Result<Response, ApiError> {
    let (upgrade, asked) = parts::<Asked>(request).await?;
    let kind = asked.kind()?;
    let of = Of::Service(ServiceKey { blueprint, service });
    let asker = Asker::new(of, way.map(|Extension(way)| way), kind);
    go(state, asker, asked, upgrade).await
}

/// A forward of ports of a node, whatever runs there.
pub(crate) async fn forward_node(
    State(state): State<AdminState>,
    way: Option<Extension<Way>>,
    Path(node): Path<String>,
    request: Request,
) -> Result<Response, ApiError> {
    let (upgrade, asked) = parts::<Asked>(request).await?;
    let kind = match asked.kind()? {
        SessionKind::Forward | SessionKind::Exec => {
            return Err(ApiError::invalid("a forward to a node needs the port of the node", SHAPE));
        }
        kind @ (SessionKind::Port(_) | SessionKind::Reverse(_)) => kind,
    };
    if asked.node.is_some() {
        return Err(ApiError::invalid("the path names the node already", SHAPE));
    }
    let way = way.map(|Extension(way)| way);
    let snapshot = state.hub.snapshot();
    let found =
        nodes::find(&snapshot, &node).map(|view| Of::Node(Some(view.agent.id), view.agent.name.clone()));
    drop(snapshot);
    match found {
        Ok(of) => go(state, Asker::new(of, way, kind), asked, upgrade).await,
        Err(error) => {
            let name = node.chars().filter(|c| !c.is_control()).take(64).collect();
            let asker = Asker::new(Of::Node(None, name), way, kind);
            Ok(asker.refuse(&state, error.into()).await)
        }
    }
}

impl Asked {
    fn kind(&self) -> Result<SessionKind, ApiError> {
        match (self.port, self.reverse) {
            (Some(0), _) => Err(ApiError::invalid("port 0 is no port", SHAPE)),
            (None, true) => Err(ApiError::invalid("reverse needs the port of the node", SHAPE)),
            (None, false) => Ok(SessionKind::Forward),
            (Some(port), false) => Ok(SessionKind::Port(port)),
            (Some(port), true) => Ok(SessionKind::Reverse(port)),
        }
    }
}

async fn go(state: AdminState, asker: Asker, asked: Asked, upgrade: OnUpgrade) -> Result<Response, ApiError> {
    let (answered, answer) = oneshot::channel();
    let spawner = state.spawner.clone();
    spawner.spawn("forward", async move {
        let begun = match begin(&state, &asker, asked).await {
            Ok(begun) => begun,
            Err(refusal) => return drop(answered.send(asker.refuse(&state, refusal).await)),
        };
        state.sessions.began("forward");
        // Where nobody waits for it the connection is gone, which `run` finds.
        let _ = answered.send(switching());
        Box::pin(run(state, asker, begun, upgrade)).await;
    });
    answer_of(answer).await
}

type Begun = (String, Arc<Forward>, Option<Box<dyn SessionStream>>);

async fn begin(state: &AdminState, asker: &Asker, asked: Asked) -> Result<Begun, Refusal> {
    let grant = asker.pass(state).await?;
    let Asker { of, who, kind } = asker;
    let kind = *kind;
    if let (SessionKind::Forward, Of::Service(service)) = (kind, of)
        && state.hub.snapshot().targets_of(*service).next().is_none()
    {
        let hint = "`blueprint-hub service ls` shows what is offered";
        return Err(Refusal::new(
            StatusCode::NOT_FOUND,
            "not_found",
            format!("nobody offers service {service}"),
            hint,
        ));
    }
    let place = Arc::clone(&state.sessions.forward_places).try_acquire_owned();
    let place =
        place.map_err(|_| Refusal::too_many(format!("{FORWARDS} forwards are open on this hub already")))?;
    let runner = match kind {
        SessionKind::Port(_) | SessionKind::Reverse(_) => Some(runner(state, of, asked.node.as_deref())?),
        SessionKind::Forward | SessionKind::Exec => None,
    };
    let name = session_name()?;
    let protocol = if asked.udp { "udp" } else { "tcp" };
    let at = match (of, &runner) {
        (Of::Node(..), Some(runner)) => format!(" of node {} ({})", runner.name, runner.node),
        (Of::Node(..), None) | (Of::Service(_), _) => String::new(),
    };
    asker
        .begin(state, format!("session {name} by {who}, grant {grant:?}: {kind}{at} over {protocol}"))
        .await?;
    let (mut listener, mut node) = (None, None);
    if let (SessionKind::Reverse(port), Some(runner)) = (kind, runner) {
        let ask = DoorAsk::Listen(PortAsk { service: of.service(), port, udp: asked.udp });
        let (stream, number) = match door::open(state, &runner, &ask).await {
            Ok(opened) => opened,
            Err(refusal) => return Err(asker.not_begun(state, &name, refusal).await),
        };
        (listener, node) = (Some((runner.node, number)), Some(stream));
    }
    let forward = Arc::new(Forward {
        of: of.clone(),
        kind,
        udp: asked.udp,
        node: asked.node,
        listener,
        _place: place,
        places: Arc::new(Semaphore::new(CONNECTIONS)),
        ended: CancellationToken::new(),
        connections: AtomicU64::new(0),
        failed: AtomicU64::new(0),
        up: AtomicU64::new(0),
        down: AtomicU64::new(0),
    });
    state.sessions.forwards.lock().insert(name.clone(), Arc::clone(&forward));
    info!(%of, %kind, session = name, "a forward is open");
    Ok((name, forward, node))
}

async fn run(state: AdminState, asker: Asker, (name, forward, node): Begun, upgrade: OnUpgrade) {
    let reason = match timeout(CLIENT_WITHIN, upgrade).await {
        Ok(Ok(upgraded)) => {
            let drain = state.spawner.stop().drain;
            let client = TokioIo::new(upgraded);
            Box::pin(hold(client, node, &name, [drain.cancelled().boxed(), asker.shut(&state).boxed()])).await
        }
        Ok(Err(_)) | Err(_) => "its client left at once".to_owned(),
    };
    state.sessions.forwards.lock().remove(&name);
    forward.ended.cancel();
    let Forward { connections, failed, up, down, of, .. } = forward.as_ref();
    info!(%of, session = name, reason, "a forward is closed");
    let counts = [connections, failed, up, down].map(|counter| counter.load(Ordering::Relaxed));
    let [connections, failed, up, down] = counts;
    let detail = format!(
        "session {name}: {reason}; {connections} connections, {failed} failed; bytes from the operator {up}, to the operator {down}"
    );
    asker.end(&state, detail).await;
}

/// Stays until the client, the node or the hub is gone; says why.
async fn hold(
    client: LocalStream,
    node: Option<Box<dyn SessionStream>>,
    name: &str,
    [drain, shut]: [BoxFuture<'_, ()>; 2],
) -> String {
    let (reader, mut writer) = tokio::io::split(client);
    let mut from_client = FrameReader::new(reader);
    let (node_reader, mut node_writer) = match node.map(tokio::io::split) {
        Some((reader, writer)) => (Some(FrameReader::new(reader)), Some(writer)),
        None => (None, None),
    };
    // Frames to the client come from two sides.
    let (out, mut waiting) = tokio::sync::mpsc::channel::<Frame>(16);
    let listen = async {
        // It says nothing but that it is there.
        while let Ok(Some(Frame::Alive)) = from_client.next().await {}
        "its client closed it".to_owned()
    };
    let relay = async {
        let Some(mut frames) = node_reader else { return std::future::pending().await };
        loop {
            match timeout(SILENCE, frames.next()).await {
                Ok(Ok(Some(Frame::Alive))) => {}
                Ok(Ok(Some(frame @ Frame::Arrived(_)))) => drop(out.send(frame).await),
                Ok(Ok(Some(_))) => return "its node sent what is no arrival".to_owned(),
                Ok(Ok(None) | Err(_)) => return "its node is gone".to_owned(),
                Err(_) => return "its node is silent".to_owned(),
            }
        }
    };
    let tick = async {
        let mut ticks = interval(ALIVE);
        loop {
            ticks.tick().await;
            let _ = out.try_send(Frame::Alive);
            if let Some(node) = &mut node_writer
                && Frame::Alive.write(node).await.is_err()
            {
                // The other direction hears it.
                return std::future::pending::<String>().await;
            }
        }
    };
    let write = async {
        let mut frame = Frame::Session(name.to_owned());
        while frame.write(&mut writer).await.is_ok() {
            match waiting.recv().await {
                Some(next) => frame = next,
                None => break,
            }
        }
        "its client is gone".to_owned()
    };
    let reason = tokio::select! {
        biased;
        () = drain => "the hub is stopping".to_owned(),
        () = shut => "the policy does not allow it any more".to_owned(),
        reason = listen => reason,
        reason = relay => reason,
        reason = tick => reason,
        reason = write => reason,
    };
    let last = async {
        let _ = Frame::Exit(ExitFrame { code: None, reason: reason.clone() }).write(&mut writer).await;
        let _ = writer.shutdown().await;
    };
    let _ = timeout(CLIENT_WITHIN, last).await;
    reason
}

/// A connection of a forward that the operator's side began.
pub(crate) async fn connect(
    State(state): State<AdminState>,
    Path(name): Path<String>,
    request: Request,
) -> Result<Response, ApiError> {
    one(state, &name, None, request).await
}

/// A connection of a forward that came to its node.
pub(crate) async fn arrived(
    State(state): State<AdminState>,
    Path((name, connection)): Path<(String, u64)>,
    request: Request,
) -> Result<Response, ApiError> {
    one(state, &name, Some(connection), request).await
}

/// Where a connection of a forward leads.
enum Road {
    Stream(Box<dyn SessionStream>),
    Datagrams(Box<dyn Datagrams>),
}

async fn one(
    state: AdminState,
    name: &str,
    connection: Option<u64>,
    mut request: Request,
) -> Result<Response, ApiError> {
    let upgrade = upgrade_of(&mut request)?;
    let forward = state.sessions.forwards.lock().get(name).cloned().ok_or_else(|| {
        ApiError::not_found(
            "there is no such forward any more",
            "open another one: the hub may have been started again",
        )
    })?;
    let Ok(place) = Arc::clone(&forward.places).try_acquire_owned() else {
        forward.failed.fetch_add(1, Ordering::Relaxed);
        return Ok(Refusal::too_many(format!("{CONNECTIONS} connections of this forward are open already"))
            .into_response());
    };
    let opened = match state.sessions.opening.try_acquire() {
        Ok(_opening) => open(&state, &forward, connection).await,
        Err(_) => {
            let text = format!("{OPENING} connections of forwards are being opened already");
            Err(Refusal::unavailable(text, "try again once nodes have answered"))
        }
    };
    let way = match opened {
        Ok(way) => way,
        Err(refusal) => {
            forward.failed.fetch_add(1, Ordering::Relaxed);
            return Ok(refusal.into_response());
        }
    };
    forward.connections.fetch_add(1, Ordering::Relaxed);
    state.spawner.spawn_base("forwarded connection", async move {
        let Forward { ended, up, down, .. } = forward.as_ref();
        let work = async {
            let Ok(Ok(upgraded)) = timeout(CLIENT_WITHIN, upgrade).await else { return };
            let client = TokioIo::new(upgraded);
            match way {
                Road::Stream(stream) => super::pipe::splice(client, stream, up, down).await,
                Road::Datagrams(flow) => {
                    let passed = Passed::default();
                    carry(client, flow.as_ref(), IDLE, &passed).await;
                    up.fetch_add(passed.up.load(Ordering::Relaxed), Ordering::Relaxed);
                    down.fetch_add(passed.down.load(Ordering::Relaxed), Ordering::Relaxed);
                }
            }
        };
        let _ = ended.run_until_cancelled(Box::pin(work)).await;
        drop(place);
    });
    Ok(switching())
}

async fn open(state: &AdminState, forward: &Forward, connection: Option<u64>) -> Result<Road, Refusal> {
    let Forward { of, kind, udp, node, listener, .. } = forward;
    let mismatch = || {
        Refusal::new(
            StatusCode::BAD_REQUEST,
            "invalid",
            "the forward has another direction",
            "see docs/api.md",
        )
    };
    match (kind, connection, listener) {
        (SessionKind::Forward, None, _) => match of {
            Of::Service(service) => target(state, forward, *service).await,
            Of::Node(..) => Err(mismatch()),
        },
        (SessionKind::Port(port), None, _) => {
            let runner = runner(state, of, node.as_deref())?;
            let ask = DoorAsk::Connect(PortAsk { service: of.service(), port: *port, udp: *udp });
            door::open(state, &runner, &ask).await.map(|(stream, _)| Road::Stream(stream))
        }
        (SessionKind::Reverse(_), Some(connection), Some((agent, listener))) => {
            let runner = runner(state, of, node.as_deref())?;
            if runner.node != *agent {
                let hint = "open the forward again";
                return Err(Refusal::unavailable("the workload runs on another node now", hint));
            }
            let ask = DoorAsk::Take { listener: *listener, connection };
            door::open(state, &runner, &ask).await.map(|(stream, _)| Road::Stream(stream))
        }
        _ => Err(mismatch()),
    }
}

/// A way to a healthy target of the service.
async fn target(state: &AdminState, forward: &Forward, service: ServiceKey) -> Result<Road, Refusal> {
    let Forward { udp, node, .. } = forward;
    let snapshot = state.hub.snapshot();
    let is_wanted = |name: &str, id: AgentId| {
        node.as_deref().is_none_or(|wanted| wanted == name || wanted == id.to_string())
    };
    let found = snapshot
        .targets_of(service)
        .find(|target| target.health == Health::Healthy && is_wanted(&target.agent_name, target.key.agent));
    let address = found.map(|target| target.address).ok_or_else(|| {
        let hint = "`blueprint-hub service show BLUEPRINT/SERVICE` says what its checks found";
        Refusal::unavailable(format!("no target of {service} is healthy"), hint)
    })?;
    let overlay = state.hub.overlay();
    let opened = if *udp {
        overlay.connect_udp(address).await.map(Road::Datagrams)
    } else {
        overlay.connect(address).await.map(Road::Stream)
    };
    opened.map_err(|error| {
        let text = format!("{service} at {address}: {}", cut(&error));
        Refusal::unavailable(text, "the machine may be away: `blueprint-hub node ls` says so")
    })
}
