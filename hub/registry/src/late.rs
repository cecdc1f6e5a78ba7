//! Samples that agents could not send when they took them.

mod pages;

use std::time::{Duration, Instant};

use blueprint_common_types::{ServiceKey, TargetKey, Timestamp};
use blueprint_hub_registry_core::{Agent, QosSample, Rate, RegistrySnapshot};
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
    let (mut samples, mut pages) = (Vec::with_capacity(request.samples.len()), Vec::new());
    for v1::LateSample { number, report, page } in request.samples {
        if number <= through {
            return Err(malformed(format!("sample {number} comes after {through}")));
        }
        through = number;
        match (report, page) {
            (Some(report), None) => samples.push(sample(report).map_err(&malformed)?),
            (None, Some(page)) => pages.push(pages::read(page).map_err(&malformed)?),
            (None, None) => return Err(malformed(format!("sample {number} is empty"))),
            (Some(_), Some(_)) => return Err(malformed(format!("sample {number} is two things"))),
        }
    }
    let told =
        samples.iter().flat_map(|sample| &sample.services).map(|service| (service.service, service.port));
    let told = told.chain(pages.iter().map(|page| (page.service, page.port)));
    let recorded = recorded(shared, agent, told).await?;
    let refused_pages = pages::take(shared, agent, pages, &recorded).await?;
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
    let refused = refusals.len() + left_out + not_offered + refused_pages;
    Ok(v1::LateAnswer { through, refused: u32::try_from(refused).unwrap_or(u32::MAX) })
}

/// What of these was recorded of the agent before, and is not offered now: the registry does not know it any more.
async fn recorded(
    shared: &Shared,
    agent: &Agent,
    told: impl Iterator<Item = (ServiceKey, u16)>,
) -> Result<Recorded, Status> {
    let snapshot = shared.registrar.snapshot();
    let mut asked = Recorded::new();
    for (service, port) in told.filter(|told| !offers(&snapshot, agent, *told)) {
        if asked.len() >= MAX_ASKED {
            break;
        }
        asked.insert((service, port));
    }
    drop(snapshot);
    if asked.is_empty() {
        return Ok(asked);
    }
    shared.store.recorded_targets(agent.id, asked).await.map_err(|_| not_stored())
}

/// Whether the agent offers a service at a port now.
fn offers(snapshot: &RegistrySnapshot, agent: &Agent, (service, port): (ServiceKey, u16)) -> bool {
    snapshot.targets.contains_key(&TargetKey { service, agent: agent.id, port })
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
