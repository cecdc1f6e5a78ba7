//! Pushed artefacts on their way to agents: each only to the node of a workload that names it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;

use blueprint_common_types::workload::{Sha256Digest, WorkloadSpec};
use blueprint_common_types::{AgentId, ServiceKey};
use blueprint_hub_registry_core::{Agent, AuditEvent, AuditKind};
use blueprint_proto::v1;
use futures_util::Stream;
use futures_util::future::BoxFuture;
use futures_util::stream::try_unfold;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tracing::{error, info, warn};

use crate::shared::Shared;
use crate::{status, workload};
use blueprint_common_runtime::places::Place;

/// Bytes of one message.
const PIECE_BYTES: usize = 32 * 1024;

/// Artefacts that one agent may fetch at once.
pub(crate) const AT_ONCE: u32 = 2;

/// A file that is read from its start or from where it was asked.
pub type PushedFile = Box<dyn AsyncRead + Send + Unpin>;

/// What was pushed to the hub.
pub trait PushedFiles: Send + Sync {
    /// Opens an artefact at `offset`; `None` where it was not pushed. Behind its end nothing is read.
    ///
    /// # Errors
    ///
    /// What the file system says.
    fn open(&self, sha256: Sha256Digest, offset: u64) -> BoxFuture<'_, io::Result<Option<PushedFile>>>;
}

/// The answer as a stream: a piece is read when the agent has taken those before.
pub(crate) type Pieces = Pin<Box<dyn Stream<Item = Result<v1::ArtefactPiece, Status>> + Send>>;

/// Begins to give an artefact to the agent, if a workload that it is assigned names it.
pub(crate) async fn fetch(
    shared: &Arc<Shared>,
    agent: &Agent,
    request: v1::ArtefactRequest,
) -> Result<Pieces, Status> {
    let service = ServiceKey { blueprint: request.blueprint_id, service: request.service_id };
    let sha256: [u8; 32] =
        request.sha256.try_into().map_err(|_| status::bad_request("sha256 has not 32 bytes"))?;
    let sha256 = Sha256Digest::from_bytes(sha256);
    let refused = async |why: &'static str| {
        if !shared.is_news(agent.id, why) {
            return;
        }
        warn!(target: "audit", %service, agent = %agent.id, %sha256, why, "artefact refused to a node");
        let detail = format!("node {} asked for artefact {sha256}: {why}", agent.name);
        shared.audit_limited(AuditEvent::new(AuditKind::ArtefactRefuse, service, detail)).await;
    };
    let record = match workload::assigned(shared, agent, service, request.generation) {
        Ok(record) => record,
        Err(status) => {
            refused("the workload is not assigned to it").await;
            return Err(status);
        }
    };
    let names = serde_json::from_str::<WorkloadSpec>(&record.document)
        .is_ok_and(|spec| spec.source.pushed() == Some(&sha256));
    if record.generation != request.generation {
        return Err(workload::changed());
    }
    if !names {
        shared.metrics.refused("artefact_not_named");
        refused("its workload does not name it").await;
        return Err(Status::permission_denied(format!("the workload {service} does not name this artefact")));
    }
    let Some(fetch) = shared.fetches.begin(agent.id) else {
        shared.metrics.refused("artefact_too_many");
        return Err(Status::resource_exhausted(format!(
            "this node fetches {AT_ONCE} pushed artefacts already; ask again when one of them has come"
        )));
    };
    let file = shared.artefacts.open(sha256, request.offset).await.map_err(|error| {
        error!(%sha256, %error, "artefact not read");
        status::busy("the hub cannot read the artefact now")
    })?;
    let file = file.ok_or_else(|| {
        shared.metrics.refused("artefact_missing");
        // Short, and without the digest: the agent says that before it.
        Status::not_found("the hub does not have it; push it with `blueprint-hub artefact push FILE`")
    })?;
    info!(%service, agent = %agent.id, %sha256, offset = request.offset, "artefact goes to a node");
    let giving = Giving {
        shared: Arc::clone(shared),
        agent: agent.id,
        service,
        generation: record.generation,
        sha256,
        file,
        drain: shared.spawner.stop().drain,
        _fetch: fetch,
    };
    Ok(Box::pin(try_unfold(giving, Giving::next)))
}

/// An artefact on its way.
struct Giving {
    shared: Arc<Shared>,
    agent: AgentId,
    service: ServiceKey,
    generation: u64,
    sha256: Sha256Digest,
    file: PushedFile,
    drain: CancellationToken,
    _fetch: Place<AgentId>,
}

impl Giving {
    /// The next piece; `None` at the end of the file.
    async fn next(mut self) -> Result<Option<(v1::ArtefactPiece, Self)>, Status> {
        if self.drain.is_cancelled() {
            return Err(status::stopping());
        }
        // Who loses the workload on the way, or is removed, gets no more of it.
        if !self.shared.still_runs(self.agent, self.service, self.generation) {
            return Err(workload::changed());
        }
        let mut bytes = Vec::with_capacity(PIECE_BYTES);
        let most = u64::try_from(PIECE_BYTES).unwrap_or(u64::MAX);
        let read = (&mut self.file).take(most).read_to_end(&mut bytes).await;
        read.map_err(|error| {
            error!(sha256 = %self.sha256, %error, "artefact not read");
            status::busy("the hub cannot read the artefact now")
        })?;
        self.shared.metrics.artefact_sent(bytes.len());
        Ok((!bytes.is_empty()).then_some((v1::ArtefactPiece { bytes }, self)))
    }
}
