//! What joined agents call: renewal, leaving, the session stream, and what their workloads ask.

mod stream;

pub(crate) use stream::REPORTS;

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use blueprint_common_types::workload::Inventory;
use blueprint_common_types::{AgentId, Timestamp};
use blueprint_hub_registry_core::{Agent, AuditEvent, AuditKind, RenewError};
use blueprint_proto::v1;
use blueprint_proto::v1::agent_message::Body as FromAgent;
use futures_util::Stream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming};
use tracing::{error, info, warn};

use crate::artefact::Pieces;
use crate::identity::{AgentIdentity, Connection};
use crate::logs::Credits;
use crate::registrar::{Opening, SessionRef};
use crate::shared::Shared;
use crate::watch::{Events, MayConnect};
use crate::{artefact, find, late, logs, status, workload};

/// Messages to one agent that wait at most; see [`crate::registrar`].
const OUTBOX: usize = 32;
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
    type LogsStream = Credits;
    type WatchStream = Events;

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
            runs_workloads: hello.runs_workloads.unwrap_or(true),
            inventory: hello.inventory.map(read_inventory),
            outbox: outbox.clone(),
            welcome,
        };
        let opened = self.shared.registrar.open(opening).await.map_err(|_| status::stopping())?;
        opened.ok_or_else(status::revoked)?;
        let shared = Arc::clone(&self.shared);
        // Boxed, because the layers around a task take the size of its future again.
        let run = Box::pin(stream::run(shared, session, identity, inbound, outbox));
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

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Result<Response<Events>, Status> {
        let identity = self.identity(&request)?;
        let agent = self.known(identity.agent)?;
        find::count(&self.shared, agent.id, "watch_too_often")?;
        let tunnel = self.shared.tunnel.clone();
        let may_connect: MayConnect = Arc::new(move |from, to, port| tunnel.may_connect(from, to, port));
        let known = (self.shared.registrar.clone(), may_connect);
        let begun = self.shared.watches.begin(&request.into_inner(), agent.id, known, &self.shared.spawner);
        if begun.as_ref().is_err_and(|status| status.code() == Code::ResourceExhausted) {
            self.shared.metrics.refused("watch_too_many");
        }
        begun.map(Response::new)
    }

    async fn logs(&self, request: Request<Streaming<v1::LogPiece>>) -> Result<Response<Credits>, Status> {
        let identity = self.identity(&request)?;
        let agent = self.known(identity.agent)?;
        logs::take(&self.shared, &agent, request.into_inner()).await.map(Response::new)
    }

    async fn late(&self, request: Request<v1::LateSamples>) -> Result<Response<v1::LateAnswer>, Status> {
        let identity = self.identity(&request)?;
        let agent = self.known(identity.agent)?;
        late::take(&self.shared, &agent, request.into_inner()).await.map(Response::new)
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

/// What the agent says of its machine, within bounds.
fn read_inventory(said: v1::Inventory) -> Inventory {
    let line = |text: &str| text.chars().filter(|c| !c.is_control()).take(64).collect::<String>();
    Inventory {
        cpu_millis: said.cpu_millis,
        memory_bytes: said.memory_bytes,
        gpus: u8::try_from(said.gpus).unwrap_or(u8::MAX),
        gpu_models: said.gpu_models.iter().take(16).map(|model| line(model)).collect(),
        arch: line(&said.arch),
        slots: u8::try_from(said.slots).unwrap_or(u8::MAX),
        limits_held: said.limits_held,
        runs_unlimited: said.runs_unlimited,
        gpu_vram_bytes: said.gpu_vram_bytes.into_iter().take(16).collect(),
    }
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

fn secs(duration: Duration) -> u32 {
    u32::try_from(duration.as_secs()).unwrap_or(u32::MAX).max(1)
}
