//! What agents say and ask of their workloads; each only of those it is assigned.

use std::sync::Arc;
use std::time::{Duration, Instant};

use blueprint_common_types::workload::{MAX_STEPS, RecoveryKind, RecoveryStep, WorkloadStatus};
use blueprint_common_types::{Health, ServiceKey, Timestamp};
use blueprint_hub_registry_core::workload::WorkloadRecord;
use blueprint_hub_registry_core::{Agent, AuditEvent, AuditKind, Rate, clean_line};
use blueprint_proto::v1;
use blueprint_proto::v1::bridge_request::Call;
use tonic::{Status, Streaming};
use tracing::{error, warn};

use crate::session::MAX_ROWS;
use crate::shared::Shared;
use crate::status;
use crate::workloads::lease_of;

/// Most bytes that a blueprint may capture for its registration.
const MAX_REGISTRATION_BYTES: usize = 1 << 20;

/// Longest wait for the next piece of it.
const PIECE_PATIENCE: Duration = Duration::from_secs(5);

/// What one workload may ask over its bridge: a hundred owners at its start, and four calls a second.
pub(crate) const BRIDGE_CALLS: Rate = Rate { burst: 128, every: Duration::from_millis(250) };

/// What an agent has to know to run a workload.
pub(crate) fn describe(
    shared: &Shared,
    agent: &Agent,
    request: &v1::WorkloadRequest,
) -> Result<v1::WorkloadResponse, Status> {
    let service = ServiceKey { blueprint: request.blueprint_id, service: request.service_id };
    let record = assigned(shared, agent, service, request.generation)?;
    if record.generation != request.generation {
        return Err(changed());
    }
    let sealed_keystore = shared.blueprints.keystore_for(&record, &agent.wireguard_key).map_err(|error| {
        error!(%service, agent = %agent.id, error, "keystore not sealed for its node");
        status::busy("the hub cannot seal the keys of the workload now")
    })?;
    Ok(v1::WorkloadResponse {
        document: record.document.clone(),
        sealed_keystore,
        rpc_port: shared.rpc_port.into(),
    })
}

/// Does what a blueprint asked for, if it is its own.
pub(crate) async fn bridge(
    shared: &Shared,
    agent: &Agent,
    request: v1::BridgeRequest,
) -> Result<v1::BridgeResponse, Status> {
    let service = ServiceKey { blueprint: request.blueprint_id, service: request.service_id };
    let record = assigned(shared, agent, service, 0)?;
    if !shared.bridge_calls.lock().take(service, Instant::now()) {
        shared.metrics.refused("bridge_too_many");
        return Err(Status::resource_exhausted(format!(
            "{service} asks its bridge too often; {} calls at once and one every {} ms are taken",
            BRIDGE_CALLS.burst,
            BRIDGE_CALLS.every.as_millis(),
        )));
    }
    if request.strangers > 0 {
        shared.metrics.refused("bridge_stranger");
        if shared.is_news(agent.id, "bridge_stranger") {
            let count = request.strangers;
            warn!(target: "audit", %service, agent = %agent.id, count, "processes of others tried a bridge");
            let detail = format!(
                "node {} refused {count} connections of processes that are not the workload's",
                agent.name
            );
            shared.audit_limited(AuditEvent::new(AuditKind::BridgeRefuse, service, detail)).await;
        }
        return Ok(v1::BridgeResponse {});
    }
    let call = request.call.ok_or_else(|| status::bad_request("the call is missing"))?;
    let asked = asked_service(&call);
    if asked != service.service {
        // Told apart on the node already; here for agents that do not.
        shared.metrics.refused("bridge_other_service");
        if shared.is_news(agent.id, "bridge_other_service") {
            warn!(target: "audit", %service, agent = %agent.id, asked, "blueprint asked for another service");
            let detail = format!("node {} asked for service {asked}", agent.name);
            shared.audit_limited(AuditEvent::new(AuditKind::BridgeRefuse, service, detail)).await;
        }
        return Err(Status::permission_denied(format!("this bridge belongs to service {}", service.service)));
    }
    if lease_of(&record).is_some() {
        // Its Manager decides, where the launcher is.
        shared.launchers.call(service, call).await?;
        return Ok(v1::BridgeResponse {});
    }
    let blueprints = Arc::clone(&shared.blueprints);
    // To its end, also where the node goes away meanwhile.
    let done = shared.spawner.finish("bridge call", async move { blueprints.bridge(service, call).await });
    done.await.ok_or_else(status::stopping)??;
    Ok(v1::BridgeResponse {})
}

/// Takes what a blueprint captured for its registration, for the launcher that started it.
pub(crate) async fn registration(
    shared: &Shared,
    agent: &Agent,
    mut pieces: Streaming<v1::RegistrationPiece>,
) -> Result<v1::RegistrationResponse, Status> {
    let first = next_piece(&mut pieces).await?.unwrap_or_default();
    let workload = first.workload.ok_or_else(|| status::bad_request("the first piece names no workload"))?;
    let service = ServiceKey { blueprint: workload.blueprint_id, service: workload.service_id };
    let record = assigned(shared, agent, service, workload.generation)?;
    if lease_of(&record).is_none() || record.generation != workload.generation {
        shared.metrics.refused("registration_not_asked");
        return Err(Status::failed_precondition("no launcher waits for the registration of this workload"));
    }
    let failure = clean_line(&first.failure);
    let mut content = first.content;
    while let Some(piece) = next_piece(&mut pieces).await? {
        if content.len().saturating_add(piece.content.len()) > MAX_REGISTRATION_BYTES {
            shared.metrics.refused("registration_too_large");
            return Err(status::bad_request(format!("more than {MAX_REGISTRATION_BYTES} bytes")));
        }
        content.extend_from_slice(&piece.content);
    }
    let inputs = if failure.is_empty() { Ok(content) } else { Err(failure) };
    // The node forgets them with this answer: they are the launcher's by then, written and synced.
    shared.launchers.keep(service, inputs).await?;
    Ok(v1::RegistrationResponse {})
}

async fn next_piece(
    pieces: &mut Streaming<v1::RegistrationPiece>,
) -> Result<Option<v1::RegistrationPiece>, Status> {
    let piece = tokio::time::timeout(PIECE_PATIENCE, pieces.message()).await;
    piece.map_err(|_| Status::deadline_exceeded("the next piece did not come"))?
}

const fn asked_service(call: &Call) -> u64 {
    match call {
        Call::Register(call) => call.service_id,
        Call::Unregister(call) => call.service_id,
        Call::AddOwner(call) => call.service_id,
        Call::RemoveOwner(call) => call.service_id,
        Call::UpdateTls(call) => call.service_id,
    }
}

/// What an agent is told that asks by an assignment that is over.
pub(crate) fn changed() -> Status {
    Status::aborted("the workload has changed meanwhile; the newer assignment is on its way")
}

/// The workload, where it is this agent's; of two versions the one of this generation, where it is one of them.
pub(crate) fn assigned(
    shared: &Shared,
    agent: &Agent,
    service: ServiceKey,
    generation: u64,
) -> Result<Arc<WorkloadRecord>, Status> {
    let view = shared.workloads.view();
    view.on(service, agent.id, generation).cloned().ok_or_else(|| {
        shared.metrics.refused("workload_not_assigned");
        if shared.is_news(agent.id, "workload_not_assigned") {
            warn!(target: "audit", %service, agent = %agent.id, "agent asked for a workload that is not its own");
        }
        Status::permission_denied("this workload is not assigned to this node")
    })
}

/// One step; a newer agent may have kinds that this hub does not know.
fn read_step(step: &v1::RecoveryStep) -> Option<RecoveryStep> {
    let kind = RecoveryKind::find(&step.kind)?;
    Some(RecoveryStep { at: Timestamp::from_millis(step.at_millis), kind, reason: clean_line(&step.reason) })
}

/// Reads a report; a newer agent may have states that this hub does not know, which are left out.
pub(crate) fn statuses(report: v1::WorkloadReport) -> Result<Vec<WorkloadStatus>, String> {
    if report.workloads.len() > MAX_ROWS {
        return Err(format!("{} workloads in one message", report.workloads.len()));
    }
    let read = |row: v1::WorkloadStatus| {
        Some(WorkloadStatus {
            service: ServiceKey { blueprint: row.blueprint_id, service: row.service_id },
            generation: row.generation,
            state: row.state.parse().ok()?,
            reason: clean_line(&row.reason),
            health: row.health.and_then(|health| v1::Health::try_from(health).ok()).map(Health::from),
            health_reason: clean_line(&row.health_reason),
            asks_move: row.asks_move,
            refused: row.refused,
            steps: row.steps.iter().rev().take(MAX_STEPS).rev().filter_map(read_step).collect(),
            restarts: row.restarts,
            pid: row.pid,
            exit_code: row.exit_code,
            since: Timestamp::from_millis(row.since_millis),
        })
    };
    Ok(report.workloads.into_iter().filter_map(read).collect())
}
