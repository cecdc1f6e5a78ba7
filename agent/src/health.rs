//! Checks the services of this machine, each at its own pace.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use blueprint_agent_qos::{CheckResult, HealthGate, check};
use blueprint_agent_workload::Healths;
use blueprint_agent_workload::container::Health as ImageHealth;
use blueprint_common_types::{Health, HealthCheck, fill_random};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, sleep_until};
use tracing::info;

use crate::agent::AgentError;
use crate::service::{Entry, Origin, ServiceSpec};
use crate::shared::{HealthMap, ServiceHealth, Shared};

/// Pause before the next check of a healthy service at whose port nobody listens: that is no slow answer, and who asks where
/// the service is shall not be sent there.
const REFUSED_AGAIN: Duration = Duration::from_millis(300);

/// One service and what its checks said so far.
struct Watched {
    spec: ServiceSpec,
    origin: Origin,
    /// Tells its checks from those of what had the port before.
    number: u64,
    gate: HealthGate,
    micros: u32,
}

/// A check that is due or under way: of which port, in which number, and what it found.
type Checks = FuturesUnordered<BoxFuture<'static, (u16, u64, CheckResult)>>;

/// Checks each service at its own pace, and at once where the services change. One check of each is under way at most.
pub(crate) async fn run(shared: Arc<Shared>) -> Result<(), AgentError> {
    let mut changes = shared.watch_services();
    let mut watched: BTreeMap<u16, Watched> = BTreeMap::new();
    let mut checks = Checks::new();
    let mut next = 0u64;
    changes.mark_changed();
    loop {
        tokio::select! {
            biased;
            () = shared.stop.cancelled() => return Ok(()),
            changed = changes.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
                let table = Arc::clone(&changes.borrow_and_update());
                let mut entries: BTreeMap<u16, &Entry> =
                    table.iter().map(|entry| (entry.spec.port, entry)).collect();
                watched.retain(|port, watched| {
                    entries.get(port).is_some_and(|it| it.spec == watched.spec && it.origin == watched.origin)
                });
                entries.retain(|port, _| !watched.contains_key(port));
                for (port, entry) in entries {
                    let (spec, number) = (entry.spec.clone(), next);
                    next = next.saturating_add(1);
                    checks.push(Box::pin(one_check(spec.clone(), number, Instant::now())));
                    let gate = HealthGate::new(spec.pace, Instant::now().into_std());
                    watched.insert(port, Watched { spec, origin: entry.origin, number, gate, micros: 0 });
                }
                // What is not checked yet is told with its first result, what is gone at once.
                publish(&shared, &watched);
            }
            Some((port, number, result)) = checks.next() => {
                let Some(one) = watched.get_mut(&port).filter(|one| one.number == number) else { continue };
                let pause = match judged(&shared, &one.spec, result) {
                    Some(result) => {
                        one.handle(&result);
                        one.pause(&result)
                    }
                    None => one.spec.pace.pause(random()),
                };
                let now = Instant::now();
                let at = now.checked_add(pause).unwrap_or(now);
                checks.push(Box::pin(one_check(one.spec.clone(), number, at)));
                publish(&shared, &watched);
            }
        }
    }
}

impl Watched {
    /// The pause before the next check, after this one.
    fn pause(&self, result: &CheckResult) -> Duration {
        let pause = self.spec.pace.pause(random());
        let is_news = result.is_refused() && self.gate.health() == Health::Healthy;
        if is_news { pause.min(REFUSED_AGAIN) } else { pause }
    }

    fn handle(&mut self, result: &CheckResult) {
        self.micros = result.micros;
        if self.gate.handle_result(result, Instant::now().into_std()) {
            let (health, reason) = (self.gate.health(), self.gate.reason());
            info!(service = %self.spec.service, port = self.spec.port, %health, reason, "service health changes");
        }
    }
}

/// A result together with what the check of the image says, where a container offers the service: both have to be good, and
/// until the image's has said anything, nothing is known. What is not to be checked is not.
fn judged(shared: &Shared, spec: &ServiceSpec, result: CheckResult) -> Option<CheckResult> {
    let is_checked = spec.check != HealthCheck::Unchecked;
    let seat = spec.seat().filter(|_| is_checked && result.ok);
    match seat.and_then(|seat| shared.node.get()?.image_health(seat)) {
        Some(ImageHealth::Starting) => None,
        Some(ImageHealth::Unhealthy { said }) => {
            Some(CheckResult { ok: false, reason: format!("the check of its image fails: {said}"), ..result })
        }
        Some(ImageHealth::Healthy) | None => Some(result),
    }
}

async fn one_check(spec: ServiceSpec, number: u64, at: Instant) -> (u16, u64, CheckResult) {
    sleep_until(at).await;
    (spec.port, number, check(&spec.check, spec.local, spec.pace.timeout()).await)
}

/// Spreads checks; where the system has no randomness they keep to their pace.
fn random() -> u8 {
    let mut byte = [128u8];
    let _ = fill_random(&mut byte);
    let [byte] = byte;
    byte
}

/// Lets the others see the result; the control stream is woken only by a change that the hub is told of, workloads only by
/// one of theirs.
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
    let of_workloads = watched.values().filter(|watched| watched.origin == Origin::Workload);
    let healths: Healths = of_workloads
        .filter_map(|watched| {
            let found = (watched.gate.health(), watched.gate.reason().to_owned());
            // Of two versions of a service each knows its own.
            Some((watched.spec.seat()?, found))
        })
        .collect();
    shared.workload_health.send_if_modified(|told| {
        let is_news = **told != healths;
        if is_news {
            *told = Arc::new(healths);
        }
        is_news
    });
}
