//! Joining: turns a token into an identity, once.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use blueprint_common_types::{
    AgentId, JoinToken, OverlayLease, ParseProofKindError, ProofKind, Secret, Timestamp, TokenHash, TokenId,
    WgPublicKey, identity_id,
};
use blueprint_hub_registry_core::{
    Agent, AuditEvent, AuditKind, CloudIdentity, JoinCommit, JoinError, JoinRefusal, ReserveError,
    ServiceGrant, check_clock, check_name,
};
use blueprint_proto::v1;
use tonic::{Request, Response, Status};
use tracing::{error, info, warn};

use crate::authority::Issued;
use crate::checks::NoPlace;
use crate::identity::Connection;
use crate::proof::{Proof, ProofFailure};
use crate::shared::Shared;
use crate::status;

/// The `Enrollment` service.
#[derive(Debug, Clone)]
pub(crate) struct Enroll {
    pub(crate) shared: Arc<Shared>,
}

#[tonic::async_trait]
impl v1::enrollment_server::Enrollment for Enroll {
    async fn join(&self, request: Request<v1::JoinRequest>) -> Result<Response<v1::JoinResponse>, Status> {
        let source = request.extensions().get::<Connection>().map(|connection| connection.source);
        let source = source.ok_or_else(status::internal)?;
        if !self.shared.gate.lock().is_open(source.ip(), Instant::now()) {
            self.shared.metrics.joins("turned_away");
            return Err(status::busy("too many refused joins from this address; try again in a minute"));
        }
        let request = request.into_inner();
        match Box::pin(self.join_now(&request, source.ip())).await {
            Ok(response) => {
                self.shared.metrics.joins("accepted");
                Ok(Response::new(response))
            }
            Err(Failure::Refused { refusal, audited }) => {
                self.shared.metrics.joins(refusal.code());
                self.shared.gate.lock().note(source.ip());
                warn!(target: "audit", %source, name = %short(&request.name), reason = refusal.code(), %refusal, "join refused");
                if !audited {
                    self.audit_refusal(&request, source, &refusal).await;
                }
                Err(status::refused(&refusal, Timestamp::from(SystemTime::now())))
            }
            Err(Failure::Unchecked(status)) => {
                self.shared.metrics.joins("identity_unchecked");
                self.shared.gate.lock().note(source.ip());
                Err(status)
            }
            Err(Failure::NoPlace(why)) => {
                self.shared.metrics.joins(why.label());
                Err(status::busy(why.text()))
            }
            Err(Failure::Status(status)) => {
                self.shared.metrics.joins("failed");
                Err(status)
            }
        }
    }

    async fn challenge(
        &self,
        request: Request<v1::ChallengeRequest>,
    ) -> Result<Response<v1::ChallengeResponse>, Status> {
        let source = request.extensions().get::<Connection>().map(|connection| connection.source);
        let source = source.ok_or_else(status::internal)?;
        if !self.shared.gate.lock().is_open(source.ip(), Instant::now()) {
            self.shared.metrics.joins("turned_away");
            return Err(status::busy("too many refused joins from this address; try again in a minute"));
        }
        let kinds: Vec<_> = self.shared.identities.kinds().iter().map(ToString::to_string).collect();
        if kinds.is_empty() {
            self.shared.metrics.joins("identity_off");
            return Err(status::no_identities());
        }
        let nonce = self.shared.identities.challenge().ok_or_else(status::internal)?;
        Ok(Response::new(v1::ChallengeResponse { nonce, kinds }))
    }
}

/// What a machine may join with.
struct Right {
    id: TokenId,
    hash: TokenHash,
    /// In place of a token.
    identity: Option<CloudIdentity>,
}

impl Right {
    fn of_token(token: &JoinToken) -> Self {
        Self { id: token.id(), hash: token.hash(), identity: None }
    }

    fn of_identity(identity: CloudIdentity) -> Self {
        let id = identity_id(identity.kind, &identity.account, &identity.instance);
        // No token has this hash, and none is looked for.
        Self { id, hash: TokenHash::from_bytes([0; 32]), identity: Some(identity) }
    }
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.identity {
            Some(identity) => write!(f, "identity {identity}"),
            None => write!(f, "token {}", self.id),
        }
    }
}

/// Why a join failed.
enum Failure {
    /// It is refused; `audited` where the store wrote the row with its decision.
    Refused { refusal: JoinRefusal, audited: bool },
    /// What it shows cannot be checked now. It counts against its address as a refusal does.
    Unchecked(Status),
    /// Too many of them are checked.
    NoPlace(NoPlace),
    /// The hub cannot do it now.
    Status(Status),
}

impl From<JoinRefusal> for Failure {
    fn from(refusal: JoinRefusal) -> Self {
        Self::Refused { refusal, audited: false }
    }
}

impl From<crate::Stopping> for Failure {
    fn from(_: crate::Stopping) -> Self {
        Self::Status(status::stopping())
    }
}

impl Enroll {
    async fn join_now(&self, request: &v1::JoinRequest, source: IpAddr) -> Result<v1::JoinResponse, Failure> {
        let now = SystemTime::now();
        let agent = self.agent(request, now.into())?;
        check_clock(Timestamp::from_millis(request.clock_millis), now.into())?;
        // Before there is a place: who has the hub ask others cannot hold the places of machines with tokens.
        let right = self.right(request, agent.wireguard_key, source).await?;
        let _slot = self
            .shared
            .joins
            .try_acquire()
            .map_err(|_| Failure::Status(status::busy("too many machines join at this moment")))?;
        let agent = Agent { token: right.id, ..agent };
        let lease = self.shared.registrar.reserve(right.id).await?.map_err(|error| match error {
            ReserveError::Full => Failure::from(JoinRefusal::Full),
            ReserveError::Busy => Failure::Status(status::busy("another machine is joining with this token")),
        })?;
        let agent = Agent { lease, ..agent };
        let with = right.to_string();
        match self.commit(request, right, agent, now).await {
            Ok((agent, issued)) => {
                self.shared.registrar.joined(agent.clone()).await?;
                self.shared.peers.add(&agent).await;
                info!(target: "audit", agent = %agent.id, name = agent.name, address = %agent.lease.v4, with, "agent joined");
                Ok(v1::JoinResponse {
                    credential: Some(self.shared.credential(issued)),
                    hub_id: self.shared.authority.hub().as_bytes().to_vec(),
                    agent_id: agent.id.as_bytes().to_vec(),
                    tunnel: Some(self.shared.facts.config_for(agent.lease)),
                })
            }
            Err(failure) => {
                self.shared.registrar.release(lease).await?;
                Err(failure)
            }
        }
    }

    /// Reads the token, or has the proof checked.
    async fn right(
        &self,
        request: &v1::JoinRequest,
        key: WgPublicKey,
        source: IpAddr,
    ) -> Result<Right, Failure> {
        let Some(proof) = &request.proof else {
            let token: JoinToken = request.token.parse().map_err(|_| JoinRefusal::Unknown)?;
            return Ok(Right::of_token(&token));
        };
        if !request.token.is_empty() {
            let text = "a machine joins with a token or with an identity, not with both";
            return Err(JoinRefusal::BadRequest(text.to_owned()).into());
        }
        let kind: ProofKind = proof
            .kind
            .parse()
            .map_err(|error: ParseProofKindError| JoinRefusal::BadRequest(error.to_string()))?;
        let _check = self.shared.checks.begin(kind, source, Instant::now()).map_err(Failure::NoPlace)?;
        let proof = Proof {
            kind,
            name: request.name.clone(),
            nonce: proof.nonce.clone(),
            document: Secret::new(proof.document.clone()),
            certificate_request: request.certificate_request.clone(),
            key,
        };
        match self.shared.identities.check(proof).await {
            Ok(identity) => Ok(Right::of_identity(identity)),
            Err(ProofFailure::Refused(refusal)) => {
                let (code, why) = (refusal.code(), refusal.to_string());
                Err(JoinRefusal::Proof { code, why: format!("{kind}: {why}") }.into())
            }
            Err(ProofFailure::Unavailable(why)) => {
                if self.shared.checks.is_to_be_said(kind, Instant::now()) {
                    error!(%kind, why, "identities of machines not checked; it is said once a minute");
                }
                let text = "the hub cannot check identities of this kind now; its log says why";
                Err(Failure::Unchecked(status::busy(text)))
            }
        }
    }

    /// Checks every field and makes the agent to be, without right and addresses.
    fn agent(&self, request: &v1::JoinRequest, now: Timestamp) -> Result<Agent, Failure> {
        check_name(&request.name)?;
        let key: [u8; 32] = request
            .wireguard_public_key
            .as_slice()
            .try_into()
            .map_err(|_| JoinRefusal::BadRequest("the WireGuard key is not 32 bytes".to_owned()))?;
        let key = WgPublicKey::from_bytes(key);
        if key == self.shared.facts.hub_public_key {
            return Err(JoinRefusal::BadRequest("the WireGuard key is the hub's own".to_owned()).into());
        }
        let id = AgentId::random().map_err(|_| Failure::Status(status::internal()))?;
        Ok(Agent {
            id,
            name: request.name.clone(),
            wireguard_key: key,
            lease: OverlayLease { v4: [0, 0, 0, 0].into(), v6: [0; 16].into() },
            joined_at: now,
            generation: 1,
            token: TokenId::from_bytes([0; 8]),
            services: ServiceGrant::FirstClaim,
            agent_version: short(&request.agent_version),
        })
    }

    /// Signs, and makes token use, agent and certificate one transaction.
    async fn commit(
        &self,
        request: &v1::JoinRequest,
        right: Right,
        agent: Agent,
        now: SystemTime,
    ) -> Result<(Agent, Issued), Failure> {
        let life = self.shared.certificate_ttl;
        let issued = self
            .shared
            .authority
            .issue_agent(&request.certificate_request, agent.id, agent.generation, now, life)
            .map_err(|error| JoinRefusal::BadRequest(error.to_string()))?;
        let commit = JoinCommit {
            token_id: right.id,
            token_hash: right.hash,
            identity: right.identity,
            agent,
            certificate_serial: issued.serial.to_vec(),
            not_after: issued.not_after,
            now: now.into(),
        };
        match self.shared.store.join(commit).await {
            Ok(agent) => Ok((agent, issued)),
            Err(JoinError::Refused(refusal)) => Err(Failure::Refused { refusal, audited: true }),
            Err(JoinError::Store(error)) => {
                error!(%error, "join not stored");
                Err(Failure::Status(status::busy("the hub cannot write to its store now")))
            }
        }
    }

    /// The store audits its own refusals; this is for those decided before it was asked.
    async fn audit_refusal(&self, request: &v1::JoinRequest, source: SocketAddr, refusal: &JoinRefusal) {
        let subject = request
            .token
            .parse::<JoinToken>()
            .map_or_else(|_| "-".to_owned(), |token| token.id().to_string());
        let detail =
            format!("{}: {refusal}; from {}, name {:?}", refusal.code(), source.ip(), short(&request.name));
        self.shared.audit_limited(AuditEvent::new(AuditKind::JoinRefuse, subject, detail)).await;
    }
}

/// At most 64 characters of a text that an unknown machine sent, for one line of a log.
fn short(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(64).collect()
}

/// How long one join may take before its connection is closed.
pub(crate) const JOIN_DEADLINE: Duration = Duration::from_secs(10);
