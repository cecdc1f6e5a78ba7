//! `qos.QosMetrics`, for an operator who sees everything, and for a machine that sees what it may reach or serves.

use std::sync::Arc;

use blueprint_common_types::{AgentId, ServiceKey, Timestamp, WgPublicKey};
use blueprint_hub_registry_core::qos::{
    Curve, CurvePoint, DEFAULT_POINTS, HistoryAsk, MAX_POINTS, QosError, Subject, thin,
};
use blueprint_proto::qos;
use blueprint_proto::qos::qos_metrics_server::QosMetrics;
use tonic::{Request, Response, Status};
use tracing::{debug, warn};

use super::desk::{Desk, share_of};
use crate::find;

/// Most pages of a service that are read for one answer.
const MAX_PAGES: u32 = 600;

/// Bytes of names and values in one answer about the past.
const MOST_BYTES: usize = 3 * 1024 * 1024;

/// What the packets of one machine go by, and its questions at most: false where it asks too often.
pub(crate) trait Reach: Send + Sync {
    /// Whether a machine may begin TCP with a port of another.
    fn may_connect(&self, from: &WgPublicKey, to: &WgPublicKey, port: u16) -> bool;

    /// Counts a question; false where there were too many.
    fn may_ask(&self, agent: AgentId) -> bool;
}

/// Who asks.
#[derive(Clone)]
pub(crate) enum Viewer {
    /// The operator.
    Operator,
    /// A machine.
    Machine(AgentId, Arc<dyn Reach>),
}

/// The service, for one viewer.
#[derive(Clone)]
pub(crate) struct QosService {
    pub(crate) desk: Desk,
    pub(crate) viewer: Viewer,
}

impl QosService {
    /// The service that is asked about, if the viewer may see it.
    fn asked(&self, blueprint: u64, service: u64) -> Result<ServiceKey, Status> {
        let key = ServiceKey { blueprint, service };
        if let Viewer::Machine(agent, reach) = &self.viewer {
            if !reach.may_ask(*agent) {
                return Err(Status::resource_exhausted("this machine asks too often; ask once in a second"));
            }
            let snapshot = self.desk.snapshot();
            let view = snapshot.agents.get(agent);
            let own =
                view.ok_or_else(|| Status::permission_denied("this machine is no node of the hub any more"))?;
            let may = |to: &WgPublicKey, port| reach.may_connect(&own.agent.wireguard_key, to, port);
            let runs = self.desk.parts.workloads.view().records.get(&key).and_then(|record| record.node);
            if runs != Some(*agent) && !find::is_seen(&snapshot, *agent, key, may) {
                debug!(agent = %agent, service = %key, "a node asked about a service that it may not reach");
                return Err(unknown(key));
            }
        }
        if self.desk.is_known(key) { Ok(key) } else { Err(unknown(key)) }
    }
}

/// The same for what is not there, and for what may not be seen.
fn unknown(service: ServiceKey) -> Status {
    Status::not_found(format!(
        "no service {service} is known here, or the policy does not let this caller reach it"
    ))
}

fn status(error: QosError, service: ServiceKey) -> Status {
    match error {
        QosError::Unknown(_) => unknown(service),
        QosError::NoSample(_) | QosError::NoMetrics { .. } => Status::unavailable(error.to_string()),
        QosError::Busy(_) => Status::unavailable(error.to_string()),
        QosError::Range(text) => Status::invalid_argument(text),
        QosError::Store(error) => {
            warn!(%error, %service, "a question about quality of service failed");
            Status::unavailable("the hub cannot read its store now; try again")
        }
    }
}

#[tonic::async_trait]
impl QosMetrics for QosService {
    async fn get_status(
        &self,
        request: Request<qos::GetStatusRequest>,
    ) -> Result<Response<qos::GetStatusResponse>, Status> {
        let asked = request.into_inner();
        let service = self.asked(asked.blueprint_id, asked.service_id)?;
        let standing = self.desk.stands(service).await.map_err(|error| status(error, service))?;
        let started = standing.started_at;
        Ok(Response::new(qos::GetStatusResponse {
            status_code: standing.code.number(),
            status_message: Some(standing.message),
            // In whole seconds of both, so that the three numbers of one answer add up.
            uptime: started.map_or(0, |started| standing.now.as_secs().saturating_sub(started.as_secs())),
            start_time: started.map_or(0, Timestamp::as_secs),
            last_heartbeat: standing.sampled_at.map(Timestamp::as_secs),
            timestamp: standing.now.as_secs(),
            service_id: service.service,
            blueprint_id: service.blueprint,
        }))
    }

    async fn get_resource_usage(
        &self,
        request: Request<qos::GetResourceUsageRequest>,
    ) -> Result<Response<qos::GetResourceUsageResponse>, Status> {
        let asked = request.into_inner();
        let service = self.asked(asked.blueprint_id, asked.service_id)?;
        let used = self.desk.uses(service).await.map_err(|error| status(error, service))?;
        Ok(Response::new(qos::GetResourceUsageResponse {
            cpu_usage: used.cpu_percent,
            memory_usage: used.memory_bytes,
            total_memory: used.memory_total_bytes,
            disk_usage: used.disk_bytes,
            total_disk: used.disk_total_bytes,
            network_rx_bytes: used.network_rx_bytes,
            network_tx_bytes: used.network_tx_bytes,
            timestamp: used.at.as_secs(),
        }))
    }

    async fn get_blueprint_metrics(
        &self,
        request: Request<qos::GetBlueprintMetricsRequest>,
    ) -> Result<Response<qos::GetBlueprintMetricsResponse>, Status> {
        let asked = request.into_inner();
        let service = self.asked(asked.blueprint_id, asked.service_id)?;
        let (at, custom_metrics) = self.desk.says(service).await.map_err(|error| status(error, service))?;
        Ok(Response::new(qos::GetBlueprintMetricsResponse { custom_metrics, timestamp: at.as_secs() }))
    }

    async fn get_historical_metrics(
        &self,
        request: Request<qos::GetHistoricalMetricsRequest>,
    ) -> Result<Response<qos::GetHistoricalMetricsResponse>, Status> {
        let asked = request.into_inner();
        let service = self.asked(asked.blueprint_id, asked.service_id)?;
        let _place = match &self.viewer {
            Viewer::Operator => None,
            Viewer::Machine(agent, _) => Some(self.desk.askers.begin(*agent).ok_or_else(|| {
                Status::resource_exhausted(
                    "this machine asks about the past already; ask again after the answer",
                )
            })?),
        };
        let time = |seconds: u64| Timestamp::from_millis(seconds.saturating_mul(1000));
        let ask = HistoryAsk {
            from: asked.start_time.map(time),
            // The second that is named belongs to it.
            until: asked.end_time.map(|end| time(end.saturating_add(1))),
            step: None,
            points: usize::try_from(asked.max_data_points).unwrap_or(MAX_POINTS),
            // The protocol cannot say that nothing is known of a figure: a zero would be a measurement.
            is_sampled: true,
        };
        let mut answer = qos::GetHistoricalMetricsResponse::default();
        match asked.metrics_type() {
            qos::MetricsType::System => {
                let curve = self.desk.past(Subject::Service(service), ask).await;
                let Curve { points, .. } = curve.map_err(|error| status(error, service))?;
                let snapshot = self.desk.snapshot();
                let agents = snapshot.targets_of(service).map(|target| &target.key.agent);
                let agents: std::collections::BTreeSet<_> = agents.collect();
                let processors = self.desk.processors(&snapshot, agents.into_iter());
                answer.system_metrics = points.into_iter().map(|point| system(point, processors)).collect();
            }
            qos::MetricsType::Blueprint => {
                let range =
                    (ask.from.unwrap_or_default(), ask.until.unwrap_or(Timestamp::from_millis(u64::MAX)));
                if range.0 >= range.1 {
                    return Err(Status::invalid_argument("the range ends before it begins"));
                }
                let turn = self.desk.turn().await.map_err(|error| status(error, service))?;
                let pages = self.desk.parts.store.pages(service, range, MAX_PAGES).await;
                let pages = pages.map_err(|error| status(error.into(), service))?;
                drop(turn);
                let most = if ask.points == 0 { DEFAULT_POINTS } else { ask.points };
                let mut room = MOST_BYTES;
                // The newest are the last to go.
                for (at, page) in thin(pages, most).into_iter().rev() {
                    let length: usize = page.iter().map(|(name, value)| name.len() + value.len() + 8).sum();
                    let Some(left) = room.checked_sub(length) else { break };
                    room = left;
                    let point = qos::BlueprintMetrics { custom_metrics: page, timestamp: at.as_secs() };
                    answer.blueprint_metrics.push(point);
                }
                answer.blueprint_metrics.reverse();
            }
        }
        Ok(Response::new(answer))
    }
}

fn system(point: CurvePoint, processors: u16) -> qos::SystemMetrics {
    qos::SystemMetrics {
        cpu_usage: share_of(point.cpu_percent, processors),
        memory_usage: point.memory_bytes,
        total_memory: point.memory_total_bytes,
        disk_usage: point.disk_bytes,
        total_disk: point.disk_total_bytes,
        network_rx_bytes: point.network_rx_bytes,
        network_tx_bytes: point.network_tx_bytes,
        timestamp: point.at.as_secs(),
    }
}
