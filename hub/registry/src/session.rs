//! What joined agents call: renewal, leaving, and the session stream.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use blueprint_common_types::{AgentId, Timestamp};
use blueprint_hub_registry_core::{Agent, AuditEvent, AuditKind, OfferedTarget, RenewError};
use blueprint_proto::v1;
use blueprint_proto::v1::agent_message::Body as FromAgent;
use blueprint_proto::v1::goodbye::Reason;
use blueprint_proto::v1::hub_message::Body as FromHub;
use futures_util::Stream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use tracing::{debug, error, info, warn};

use crate::artefact::Pieces;
use crate::identity::{AgentIdentity, Connection};
use crate::registrar::{Opening, Outbox, Report, SessionRef};
use crate::shared::Shared;
use crate::{artefact, find, status, workload};

/// Messages to one agent that wait at most; see [`crate::registrar`].
const OUTBOX: usize = 32;
/// Most messages that an agent may send at once, and how fast the allowance comes back.
const BURST: u32 = 50;
const MESSAGE_PAUSE: Duration = Duration::from_millis(100);
/// An agent that says nothing for this many heartbeats has lost its stream.
const SILENT_HEARTBEATS: u32 = 4;
/// Most targets and service samples in one message; more is a malformed message.
pub(crate) const MAX_ROWS: usize = 256;

static NEXT_SESSION: AtomicU64 = AtomicU64::new(1);

/// The `AgentControl` service.
#[derive(Debug, Clone)]
pub(crate) struct Control {
    pub(crate) shared: Arc<Shared>,
}

type HubStream = Pin<Box<dyn Stream<Item = Result<v1::HubMessage, Status>> + Send>>;

#[tonic::async_trait]
impl v1::agent_control_server::AgentControl for Control {
    type SessionStream = HubStream;
    type ArtefactStream = Pieces;

    async fn renew(&self, request: Request<v1::RenewRequest>) -> Result<Response<v1::RenewResponse>, Status> {
        let identity = self.identity(&request)?;
        self.known(identity.agent)?;
        let now = SystemTime::now();
        let next = identity.generation.saturating_add(1);
        let shared = &self.shared;
        let issued = shared
            .authority
            .issue_agent(
                &request.into_inner().certificate_request,
                identity.agent,
                next,
                now,
                shared.certificate_ttl,
            )
            .map_err(|error| status::bad_request(error.to_string()))?;
        let serial = issued.serial.to_vec();
        match shared
            .store
            .renew(identity.agent, identity.generation, serial, issued.not_after, now.into())
            .await
        {
            Ok(generation) => {
                let _ = shared.registrar.renewed(identity.agent, generation).await;
                info!(target: "audit", agent = %identity.agent, generation, until = %issued.not_after, "certificate renewed");
                Ok(Response::new(v1::RenewResponse { credential: Some(shared.credential(issued)) }))
            }
            Err(error @ RenewError::Outdated { .. }) => {
                warn!(target: "audit", agent = %identity.agent, %error, "renewal refused");
                shared.metrics.refused("certificate_outdated");
                Err(status::outdated())
            }
            Err(RenewError::UnknownAgent) => Err(status::revoked()),
            Err(RenewError::Store(error)) => {
                error!(%error, "renewal not stored");
                Err(status::busy("the hub cannot write to its store now"))
            }
        }
    }

    async fn session(
        &self,
        request: Request<Streaming<v1::AgentMessage>>,
    ) -> Result<Response<HubStream>, Status> {
        let identity = self.identity(&request)?;
        let agent = self.known(identity.agent)?;
        if identity.not_after <= Timestamp::from(SystemTime::now()) {
            self.shared.metrics.refused("certificate_expired");
            return Err(status::unauthenticated(
                "certificate_expired",
                "the certificate ran out; renew it first",
            ));
        }
        if identity.generation.saturating_add(1) < agent.generation {
            self.shared.metrics.refused("certificate_outdated");
            let detail = format!(
                "session with certificate {}, the newest is {}",
                identity.generation, agent.generation
            );
            self.shared.audit_limited(AuditEvent::new(AuditKind::CertificateRefuse, agent.id, detail)).await;
            return Err(status::outdated());
        }
        let mut inbound = request.into_inner();
        let hello = read_hello(&mut inbound, self.shared.heartbeat).await?;
        let (outbox, receiver) = mpsc::channel(OUTBOX);
        let session =
            SessionRef { agent: identity.agent, session: NEXT_SESSION.fetch_add(1, Ordering::Relaxed) };
        let welcome = v1::Welcome {
            config: Some(self.shared.facts.config_for(agent.lease)),
            agent_seq: 0,
            target_ttl_secs: secs(self.shared.target_ttl),
            heartbeat_secs: secs(self.shared.heartbeat),
        };
        let opening = Opening {
            session,
            process: hello.process_id,
            agent_version: hello.agent_version.chars().take(64).collect(),
            outbox: outbox.clone(),
            welcome,
        };
        let opened = self.shared.registrar.open(opening).await.map_err(|_| status::stopping())?;
        opened.ok_or_else(status::revoked)?;
        let shared = Arc::clone(&self.shared);
        // Boxed, because the layers around a task take the size of its future again.
        let run = Box::pin(run(shared, session, identity, inbound, outbox));
        self.shared.spawner.spawn("agent session", run);
        let numbered = futures_util::StreamExt::enumerate(ReceiverStream::new(receiver));
        let numbered = futures_util::StreamExt::map(numbered, |(position, message)| {
            Ok(v1::HubMessage { seq: u64::try_from(position).unwrap_or(u64::MAX), ..*message })
        });
        Ok(Response::new(Box::pin(numbered)))
    }

    async fn workload(
        &self,
        request: Request<v1::WorkloadRequest>,
    ) -> Result<Response<v1::WorkloadResponse>, Status> {
        let identity = self.identity(&request)?;
        let agent = self.known(identity.agent)?;
        workload::describe(&self.shared, &agent, &request.into_inner()).map(Response::new)
    }

    async fn bridge(
        &self,
        request: Request<v1::BridgeRequest>,
    ) -> Result<Response<v1::BridgeResponse>, Status> {
        let identity = self.identity(&request)?;
        let agent = self.known(identity.agent)?;
        workload::bridge(&self.shared, &agent, request.into_inner()).await.map(Response::new)
    }

    async fn artefact(&self, request: Request<v1::ArtefactRequest>) -> Result<Response<Pieces>, Status> {
        let identity = self.identity(&request)?;
        let agent = self.known(identity.agent)?;
        artefact::fetch(&self.shared, &agent, request.into_inner()).await.map(Response::new)
    }

    async fn registration(
        &self,
        request: Request<Streaming<v1::RegistrationPiece>>,
    ) -> Result<Response<v1::RegistrationResponse>, Status> {
        let identity = self.identity(&request)?;
        let agent = self.known(identity.agent)?;
        workload::registration(&self.shared, &agent, request.into_inner()).await.map(Response::new)
    }

    async fn find(&self, request: Request<v1::FindRequest>) -> Result<Response<v1::FindResponse>, Status> {
        let identity = self.identity(&request)?;
        let agent = self.known(identity.agent)?;
        find::find(&self.shared, &agent, request.into_inner()).await.map(Response::new)
    }

    async fn leave(&self, request: Request<v1::LeaveRequest>) -> Result<Response<v1::LeaveResponse>, Status> {
        let identity = self.identity(&request)?;
        let agent = self.known(identity.agent)?;
        remove(&self.shared, &agent, AuditKind::AgentLeave).await?;
        Ok(Response::new(v1::LeaveResponse {}))
    }
}

impl Control {
    fn identity<T>(&self, request: &Request<T>) -> Result<AgentIdentity, Status> {
        request.extensions().get::<Connection>().and_then(|connection| connection.identity).ok_or_else(|| {
            self.shared.metrics.refused("no_certificate");
            status::unauthenticated("no_certificate", "this call needs the certificate that joining gives")
        })
    }

    fn known(&self, agent: AgentId) -> Result<Arc<Agent>, Status> {
        let snapshot = self.shared.registrar.snapshot();
        snapshot.agents.get(&agent).map(|view| Arc::clone(&view.agent)).ok_or_else(|| {
            self.shared.metrics.refused("revoked");
            status::revoked()
        })
    }
}

/// Forgets an agent everywhere: store first, then tunnel, registry and session.
pub(crate) async fn remove(shared: &Shared, agent: &Agent, kind: AuditKind) -> Result<(), Status> {
    let now = Timestamp::from(SystemTime::now());
    shared.store.remove_agent(agent.id, now).await.map_err(|error| {
        error!(%error, agent = %agent.id, "agent not removed");
        status::busy("the hub cannot write to its store now")
    })?;
    shared.peers.remove(agent).await;
    shared.registrar.removed(agent.id).await.map_err(|_| status::stopping())?;
    shared.carriers.cut(agent.id);
    info!(target: "audit", agent = %agent.id, name = agent.name, how = kind.name(), "agent removed");
    if kind == AuditKind::AgentLeave {
        shared.audit(AuditEvent::new(kind, agent.id, format!("name {}", agent.name))).await;
    }
    Ok(())
}

async fn read_hello(
    inbound: &mut Streaming<v1::AgentMessage>,
    patience: Duration,
) -> Result<v1::Hello, Status> {
    let first = tokio::time::timeout(patience, inbound.message())
        .await
        .map_err(|_| status::bad_request("a session starts with hello, and none came"))??;
    match first.and_then(|message| message.body) {
        Some(FromAgent::Hello(hello)) => Ok(hello),
        Some(_) | None => Err(status::bad_request("a session starts with hello")),
    }
}

/// Reads the agent's messages until the stream ends, and then closes the session.
async fn run(
    shared: Arc<Shared>,
    session: SessionRef,
    identity: AgentIdentity,
    mut inbound: Streaming<v1::AgentMessage>,
    outbox: Outbox,
) {
    shared.metrics.session_opened();
    info!(agent = %session.agent, session = session.session, "session opened");
    let life = identity.not_after.since(Timestamp::from(SystemTime::now()));
    let expiry = tokio::time::sleep(life);
    tokio::pin!(expiry);
    let drain = shared.spawner.stop().drain;
    let patience = shared.heartbeat.saturating_mul(SILENT_HEARTBEATS);
    let mut allowance = Allowance::new();
    let ended = loop {
        allowance.wait().await;
        tokio::select! {
            biased;
            () = drain.cancelled() => break Some(Reason::Shutdown),
            () = &mut expiry => break Some(Reason::Expired),
            () = outbox.closed() => break None,
            read = tokio::time::timeout(patience, inbound.message()) => match read {
                Ok(Ok(Some(message))) => {
                    if let Err(why) = apply(&shared, session, message).await {
                        warn!(agent = %session.agent, %why, "session closed for a malformed message");
                        shared.metrics.refused("malformed");
                        break None;
                    }
                }
                Ok(Ok(None)) => break None,
                Ok(Err(status)) => {
                    debug!(agent = %session.agent, %status, "session stream ended");
                    break None;
                }
                Err(_) => {
                    info!(agent = %session.agent, silent_for = ?patience, "session closed, the agent is silent");
                    break None;
                }
            },
        }
    };
    if let Some(reason) = ended {
        let body = Some(FromHub::Goodbye(v1::Goodbye { reason: reason.into() }));
        let _ = outbox.try_send(Box::new(v1::HubMessage { seq: 0, body }));
    }
    shared.metrics.session_closed();
    info!(agent = %session.agent, session = session.session, reason = ?ended, "session closed");
    let _ = shared.registrar.close(session).await;
}

/// Hands one message to the registrar.
async fn apply(shared: &Shared, session: SessionRef, message: v1::AgentMessage) -> Result<(), String> {
    let report = match message.body {
        Some(FromAgent::Targets(set)) => Report::Targets(offered(set)?),
        Some(FromAgent::Qos(report)) => qos(report)?,
        Some(FromAgent::Workloads(report)) => {
            let statuses = workload::statuses(report)?;
            let told = shared.workloads.report(session.agent, statuses).await;
            told.map_err(|error| error.to_string())?;
            Report::Alive
        }
        Some(FromAgent::Heartbeat(_) | FromAgent::State(_)) => Report::Alive,
        Some(FromAgent::Hello(_)) => return Err("a second hello".to_owned()),
        // A newer agent may say things this hub does not know; they are acknowledged and left out.
        None => Report::Alive,
    };
    shared.registrar.report(session, message.seq, report).await.map_err(|error| error.to_string())
}

fn offered(set: v1::TargetSet) -> Result<Vec<OfferedTarget>, String> {
    if set.targets.len() > MAX_ROWS {
        return Err(format!("{} targets in one message", set.targets.len()));
    }
    set.targets
        .into_iter()
        .map(|target| {
            Ok(OfferedTarget {
                service: blueprint_common_types::ServiceKey {
                    blueprint: target.blueprint_id,
                    service: target.service_id,
                },
                port: u16::try_from(target.port)
                    .ok()
                    .filter(|port| *port != 0)
                    .ok_or("a port out of range")?,
                health: target.health().into(),
                reason: target.reason.chars().take(256).collect(),
            })
        })
        .collect()
}

fn qos(report: v1::QosReport) -> Result<Report, String> {
    if report.services.len() > MAX_ROWS {
        return Err(format!("{} service samples in one message", report.services.len()));
    }
    let services = report.services.into_iter().map(TryInto::try_into).collect::<Result<Vec<_>, _>>();
    Ok(Report::Qos(
        Timestamp::from_millis(report.time_millis),
        report.machine.unwrap_or_default().into(),
        report.tunnel.unwrap_or_default().into(),
        services.map_err(|error: blueprint_proto::ConvertError| error.to_string())?,
    ))
}

fn secs(duration: Duration) -> u32 {
    u32::try_from(duration.as_secs()).unwrap_or(u32::MAX).max(1)
}

/// Ten messages a second, fifty at once: an agent that sends more is read more slowly.
struct Allowance {
    left: u32,
    refilled: tokio::time::Instant,
}

impl Allowance {
    fn new() -> Self {
        Self { left: BURST, refilled: tokio::time::Instant::now() }
    }

    async fn wait(&mut self) {
        let now = tokio::time::Instant::now();
        let pause = MESSAGE_PAUSE.as_millis().max(1);
        let earned = now.saturating_duration_since(self.refilled).as_millis().checked_div(pause).unwrap_or(0);
        if let Ok(earned) = u32::try_from(earned)
            && earned > 0
        {
            self.left = self.left.saturating_add(earned).min(BURST);
            self.refilled = now;
        }
        match self.left.checked_sub(1) {
            Some(left) => self.left = left,
            None => tokio::time::sleep(MESSAGE_PAUSE).await,
        }
    }
}
