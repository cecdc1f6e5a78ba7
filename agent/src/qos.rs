//! Samples the machine and its services at the pace that the hub names.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use blueprint_agent_qos::{Sampler, ServiceProbe};
use blueprint_common_types::{Health, ServiceKey, WorkloadUse};
use blueprint_proto::v1;
use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::agent::AgentError;
use crate::late::Late;
use crate::recent::Recent;
use crate::shared::{Samples, Shared};

/// Samples, keeps the last result for status and metrics, and sends each to the control stream, or keeps it for later.
pub(crate) async fn run(
    shared: Arc<Shared>,
    reports: mpsc::Sender<v1::QosReport>,
    late: Arc<Late>,
) -> Result<(), AgentError> {
    let mut sampler = Sampler::new(shared.state.folder());
    let mut pace = shared.spoke.pace();
    let epoch = || shared.spoke.identity().tunnel.epoch;
    let mut recent = Recent::new(epoch());
    loop {
        for report in recent.unstored(epoch()) {
            late.keep(report).await;
        }
        let uses = uses(&shared).await;
        let probes = probes(&shared, &uses);
        // It reads many small files of /proc, some of which the kernel takes its time to write.
        let sampled = tokio::task::spawn_blocking(move || {
            let mut samples = sample(&mut sampler, &probes);
            samples.uses = probes.iter().filter_map(|probe| Some((probe.port, probe.uses?))).collect();
            (sampler, samples)
        });
        let Some(sampled) = shared.stop.run_until_cancelled(sampled).await else { return Ok(()) };
        let (returned, samples) = sampled.map_err(|_| AgentError::Ended { part: "sampler" })?;
        sampler = returned;
        let report = report(&shared, &samples);
        // What can go to the hub goes there at once; what cannot is kept, also where the stream is busy.
        if shared.spoke.caller().is_none() {
            late.keep(report).await;
        } else {
            match reports.try_send(report.clone()) {
                Ok(()) => recent.note(report, Instant::now()),
                Err(_) => late.keep(report).await,
            }
        }
        shared.samples.send_replace(Arc::new(samples));
        let wait = *pace.borrow_and_update();
        tokio::select! {
            biased;
            () = shared.stop.cancelled() => return Ok(()),
            changed = pace.changed() => if changed.is_err() { return Ok(()) },
            () = sleep(wait) => {}
        }
    }
}

/// What the workloads of this machine use, by service and generation.
async fn uses(shared: &Shared) -> BTreeMap<(ServiceKey, u64), WorkloadUse> {
    match shared.node.get() {
        Some(node) => shared.stop.run_until_cancelled(node.uses()).await.unwrap_or_default(),
        None => BTreeMap::new(),
    }
}

fn probes(shared: &Shared, uses: &BTreeMap<(ServiceKey, u64), WorkloadUse>) -> Vec<ServiceProbe> {
    let health = Arc::clone(&shared.health.borrow());
    let probe = |spec: &crate::service::ServiceSpec| {
        let known = health.get(&spec.port);
        ServiceProbe {
            service: spec.service,
            port: spec.port,
            local: spec.local,
            health: known.map_or(Health::Unknown, |known| known.health),
            check_micros: known.map_or(0, |known| known.check_micros),
            uses: spec.run.and_then(|run| uses.get(&(spec.service, run.generation)).copied()),
        }
    };
    shared.services().iter().map(|entry| probe(&entry.spec)).collect()
}

fn sample(sampler: &mut Sampler, probes: &[ServiceProbe]) -> Samples {
    let now = Instant::now();
    Samples {
        machine: sampler.sample_machine(now),
        services: probes.iter().map(|probe| sampler.sample_service(probe, now)).collect(),
        uses: BTreeMap::new(),
    }
}

fn report(shared: &Shared, samples: &Samples) -> v1::QosReport {
    v1::QosReport {
        time_millis: blueprint_common_spoke::now().as_millis(),
        machine: Some(samples.machine.into()),
        tunnel: Some(shared.spoke.plane().sample().into()),
        services: samples.services.iter().map(|sample| (*sample).into()).collect(),
    }
}
