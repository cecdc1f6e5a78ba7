//! The messages of one agent's session, from its hello to its end.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use blueprint_common_types::workload::WorkloadStatus;
use blueprint_common_types::{AgentId, Timestamp};
use blueprint_hub_registry_core::{Buckets, OfferedTarget, QosSample, Rate};
use blueprint_proto::v1;
use blueprint_proto::v1::agent_message::Body as FromAgent;
use blueprint_proto::v1::goodbye::Reason;
use blueprint_proto::v1::hub_message::Body as FromHub;
use tokio::time::{Instant, sleep_until};
use tonic::Streaming;
use tracing::{debug, info, warn};

use super::MAX_ROWS;
use crate::identity::AgentIdentity;
use crate::registrar::{Outbox, Report, SessionRef};
use crate::shared::Shared;
use crate::{late, workload};

/// Most messages that an agent may send at once, and how fast the allowance comes back.
const BURST: u32 = 50;
const MESSAGE_PAUSE: Duration = Duration::from_millis(100);

/// Reports of workloads that one agent may have looked at: 64 workloads that start at once, and five a second.
pub(crate) const REPORTS: Rate = Rate { burst: 64, every: Duration::from_millis(200) };

/// An agent that says nothing for this many heartbeats has lost its stream.
const SILENT_HEARTBEATS: u32 = 4;

/// Reads the agent's messages until the stream ends, and then closes the session.
pub(super) async fn run(
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
    let mut reports = Reports::new(session.agent);
    let ended = loop {
        allowance.wait().await;
        tokio::select! {
            biased;
            () = drain.cancelled() => break Some(Reason::Shutdown),
            () = &mut expiry => break Some(Reason::Expired),
            () = outbox.closed() => break None,
            () = sleep_until(reports.again), if reports.held.is_some() => {
                if reports.tell(&shared).await.is_err() {
                    break None;
                }
            }
            read = tokio::time::timeout(patience, inbound.message()) => match read {
                Ok(Ok(Some(message))) => {
                    if let Err(why) = apply(&shared, session, &mut reports, message).await {
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
async fn apply(
    shared: &Shared,
    session: SessionRef,
    reports: &mut Reports,
    message: v1::AgentMessage,
) -> Result<(), String> {
    let report = match message.body {
        Some(FromAgent::Targets(set)) => Report::Targets(offered(set)?),
        Some(FromAgent::Qos(report)) => qos(report)?,
        Some(FromAgent::Workloads(report)) => {
            if reports.take(workload::statuses(report)?) {
                shared.metrics.refused("reports_too_many");
            }
            reports.tell(shared).await?;
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
                generation: target.generation,
            })
        })
        .collect()
}

fn qos(report: v1::QosReport) -> Result<Report, String> {
    let QosSample { at, machine, tunnel, services } = late::sample(report)?;
    Ok(Report::Qos(at, machine, tunnel, services))
}

/// What the agent says of its workloads. Each report says all of them, so of those that come too fast only the newest is
/// looked at, once there is room. One that is held when the session ends is lost: the next session begins with a report.
struct Reports {
    agent: AgentId,
    held: Option<Vec<WorkloadStatus>>,
    /// When to try again with what is held.
    again: Instant,
}

impl Reports {
    fn new(agent: AgentId) -> Self {
        Self { agent, held: None, again: Instant::now() }
    }

    /// Takes a report; true where one that was held gives way to it, and is refused so.
    fn take(&mut self, report: Vec<WorkloadStatus>) -> bool {
        self.held.replace(report).is_some()
    }

    /// What may be looked at now, within the agent's rate.
    fn due(&mut self, rates: &mut Buckets<AgentId>, now: Instant) -> Option<Vec<WorkloadStatus>> {
        if self.held.is_none() || now < self.again {
            return None;
        }
        if !rates.take(self.agent, now.into_std()) {
            self.again = now.checked_add(REPORTS.every).unwrap_or(now);
            return None;
        }
        self.held.take()
    }

    /// Hands on what is due.
    async fn tell(&mut self, shared: &Shared) -> Result<(), String> {
        let due = self.due(&mut shared.reports.lock(), Instant::now());
        let Some(report) = due else { return Ok(()) };
        shared.workloads.report(self.agent, report).await.map_err(|error| error.to_string())
    }
}

/// Ten messages a second, fifty at once: an agent that sends more is read more slowly.
struct Allowance {
    left: u32,
    refilled: Instant,
}

impl Allowance {
    fn new() -> Self {
        Self { left: BURST, refilled: Instant::now() }
    }

    async fn wait(&mut self) {
        let now = Instant::now();
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

#[cfg(test)]
mod tests {
    use blueprint_common_types::ServiceKey;
    use blueprint_common_types::workload::WorkloadState;

    use super::*;

    fn report(number: u32) -> Vec<WorkloadStatus> {
        let service = ServiceKey { blueprint: 7, service: 42 };
        let status = WorkloadStatus::new(service, 1, WorkloadState::Running, Timestamp::from_millis(0));
        vec![WorkloadStatus { restarts: number, ..status }]
    }

    #[tokio::test(start_paused = true)]
    async fn reports_that_come_too_fast_are_refused_but_for_the_newest() {
        let (mut rates, now) = (Buckets::new(REPORTS, 8), Instant::now());
        let mut reports = Reports::new(AgentId::from_bytes([1; 16]));
        let (mut looked_at, mut refused) = (0, 0);
        for number in 0..1000 {
            refused += u32::from(reports.take(report(number)));
            looked_at += u32::from(reports.due(&mut rates, now).is_some());
        }
        assert_eq!((looked_at, refused), (REPORTS.burst, 1000 - REPORTS.burst - 1));
        assert!(reports.again > now && reports.due(&mut rates, now).is_none());
        let last = reports.due(&mut rates, reports.again);
        assert_eq!(last, Some(report(999)), "the newest is looked at in the end");
        assert_eq!(reports.due(&mut rates, reports.again), None);
    }

    #[tokio::test(start_paused = true)]
    async fn another_session_of_the_agent_gets_no_allowance_of_its_own() {
        let (mut rates, now) = (Buckets::new(REPORTS, 8), Instant::now());
        let agent = AgentId::from_bytes([1; 16]);
        let looked_at = (0..500).filter(|number| {
            let mut reports = Reports::new(agent);
            reports.take(report(*number));
            reports.due(&mut rates, now).is_some()
        });
        assert_eq!(u32::try_from(looked_at.count()).unwrap(), REPORTS.burst);
    }
}
