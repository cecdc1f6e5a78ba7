//! Samples that agents could not send when they took them.

use std::time::{Duration, Instant};

use blueprint_common_types::{ServiceSample, TargetKey, Timestamp};
use blueprint_hub_registry_core::{Agent, QosSample, Rate};
use blueprint_proto::v1;
use futures_util::future::join_all;
use tonic::Status;

use crate::qos::Kept;
use crate::registrar::{LateTaken, Recorded};
use crate::session::MAX_ROWS;
use crate::shared::Shared;
use crate::status;

/// Most samples of one call.
const MAX_SAMPLES: usize = 64;

/// Targets that the store is asked about in one call; samples of more are left out, and counted.
const MAX_ASKED: usize = 128;

/// Calls of one agent: a day by the minute is some 25 of them.
pub(crate) const CALLS: Rate = Rate { burst: 32, every: Duration::from_millis(150) };

/// Takes samples into the history, each with its own time, and answers once they are stored; what cannot be taken is counted
/// and dealt with as well.
pub(crate) async fn take(
    shared: &Shared,
    agent: &Agent,
    request: v1::LateSamples,
) -> Result<v1::LateAnswer, Status> {
    if !shared.late_calls.lock().take(agent.id, Instant::now()) {
        shared.metrics.refused("late_too_many");
        return Err(Status::resource_exhausted("late samples come too fast; the rest is taken in a moment"));
    }
    let malformed = |why: String| {
        shared.metrics.refused("late_malformed");
        status::bad_request(why)
    };
    if request.samples.len() > MAX_SAMPLES {
        return Err(malformed(format!("{} samples in one call", request.samples.len())));
    }
    let mut through = 0;
    let mut samples = Vec::with_capacity(request.samples.len());
    for v1::LateSample { number, report } in request.samples {
        if number <= through {
            return Err(malformed(format!("sample {number} comes after {through}")));
        }
        through = number;
        let report = report.ok_or_else(|| malformed(format!("sample {number} is empty")))?;
        samples.push(sample(report).map_err(&malformed)?);
    }
    let recorded = recorded(shared, agent, &samples).await?;
    let LateTaken { refusals, not_offered, kept } =
        shared.registrar.late(agent.id, samples, recorded).await.map_err(|_| status::stopping())?;
    // The agent forgets what is acknowledged.
    let kept = join_all(kept).await;
    if kept.contains(&Kept::NotYet) {
        return Err(not_stored());
    }
    let left_out = kept.iter().filter(|kept| matches!(kept, Kept::LeftOut(_))).count();
    for refusal in &refusals {
        shared.metrics.refused(refusal.label());
    }
    let refused = refusals.len() + left_out + not_offered;
    Ok(v1::LateAnswer { through, refused: u32::try_from(refused).unwrap_or(u32::MAX) })
}

/// What of these was recorded of the agent before, and is not offered now: the registry does not know it any more.
async fn recorded(shared: &Shared, agent: &Agent, samples: &[QosSample]) -> Result<Recorded, Status> {
    let snapshot = shared.registrar.snapshot();
    let is_gone = |service: &ServiceSample| {
        let target = TargetKey { service: service.service, agent: agent.id, port: service.port };
        !snapshot.targets.contains_key(&target)
    };
    let gone = samples.iter().flat_map(|sample| &sample.services).filter(|service| is_gone(service));
    let mut asked = Recorded::new();
    for service in gone {
        if asked.len() >= MAX_ASKED {
            break;
        }
        asked.insert((service.service, service.port));
    }
    if asked.is_empty() {
        return Ok(asked);
    }
    shared.store.recorded_targets(agent.id, asked).await.map_err(|_| not_stored())
}

fn not_stored() -> Status {
    Status::unavailable("late samples cannot be stored now; send them again")
}

/// A report as it is kept.
pub(crate) fn sample(report: v1::QosReport) -> Result<QosSample, String> {
    if report.services.len() > MAX_ROWS {
        return Err(format!("{} service samples in one message", report.services.len()));
    }
    let services = report.services.into_iter().map(TryInto::try_into).collect::<Result<Vec<_>, _>>();
    Ok(QosSample {
        at: Timestamp::from_millis(report.time_millis),
        machine: report.machine.unwrap_or_default().into(),
        tunnel: report.tunnel.unwrap_or_default().into(),
        services: services.map_err(|error: blueprint_proto::ConvertError| error.to_string())?,
    })
}
