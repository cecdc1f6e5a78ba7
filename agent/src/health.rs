//! Checks the services of this machine, each every two seconds.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use blueprint_agent_qos::{CheckResult, HealthGate, Thresholds, check};
use futures_util::future::join_all;
use tokio::time::{Instant, sleep_until};
use tracing::info;

use crate::agent::AgentError;
use crate::service::ServiceSpec;
use crate::shared::{HealthMap, ServiceHealth, Shared};

/// Time from one round of checks to the next.
const INTERVAL: Duration = Duration::from_secs(2);

/// A service on the same machine that takes longer is not healthy. Less than [`INTERVAL`], so rounds do not pile up.
const TIMEOUT: Duration = Duration::from_millis(1500);

/// One service and what its checks said so far.
struct Watched {
    spec: ServiceSpec,
    gate: HealthGate,
    micros: u32,
}

/// Checks in rounds, and at once where the services change.
pub(crate) async fn run(shared: Arc<Shared>) -> Result<(), AgentError> {
    let mut changes = shared.watch_services();
    let mut watched: BTreeMap<u16, Watched> = BTreeMap::new();
    loop {
        let began_at = Instant::now();
        let table = Arc::clone(&changes.borrow_and_update());
        let mut specs: BTreeMap<u16, &ServiceSpec> =
            table.iter().map(|entry| (entry.spec.port, &entry.spec)).collect();
        watched.retain(|port, watched| specs.get(port).is_some_and(|spec| **spec == watched.spec));
        specs.retain(|port, _| !watched.contains_key(port));
        watched.extend(specs.into_iter().map(|(port, spec)| {
            let gate = HealthGate::new(Thresholds::default());
            (port, Watched { spec: spec.clone(), gate, micros: 0 })
        }));
        let Some(()) = shared.stop.run_until_cancelled(round(&mut watched)).await else { return Ok(()) };
        publish(&shared, &watched);
        tokio::select! {
            biased;
            () = shared.stop.cancelled() => return Ok(()),
            changed = changes.changed() => if changed.is_err() { return Ok(()) },
            () = sleep_until(began_at.checked_add(INTERVAL).unwrap_or(began_at)) => {}
        }
    }
}

async fn round(watched: &mut BTreeMap<u16, Watched>) {
    let checks = watched.values_mut().map(|watched| async {
        let result: CheckResult = check(&watched.spec.check, watched.spec.local, TIMEOUT).await;
        watched.micros = result.micros;
        if watched.gate.handle_result(&result) {
            let (health, reason) = (watched.gate.health(), watched.gate.reason());
            info!(service = %watched.spec.service, port = watched.spec.port, %health, reason, "service health changes");
        }
    });
    join_all(checks).await;
}

/// Lets the others see the result; the control stream is woken only by a change that the hub is told of.
fn publish(shared: &Shared, watched: &BTreeMap<u16, Watched>) {
    let health: HealthMap = watched
        .iter()
        .map(|(port, watched)| {
            let health = ServiceHealth {
                service: watched.spec.service,
                generation: watched.spec.run.map_or(0, |run| run.generation),
                health: watched.gate.health(),
                reason: watched.gate.reason().to_owned(),
                check_micros: watched.micros,
            };
            (*port, health)
        })
        .collect();
    shared.health.send_replace(Arc::new(health));
}
