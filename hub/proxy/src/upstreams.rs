//! Requests at their targets: the core's bookkeeping behind one lock, which is held for no longer than it
//! takes to count.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use blueprint_common_types::ServiceKey;
use blueprint_hub_proxy_core::upstream::{
    Event, Outcome, OverBudget, Picked, UpstreamSettings, Upstreams, Wanted,
};
use blueprint_hub_proxy_core::{Refusal, Target};
use parking_lot::Mutex;
use tracing::info;

use crate::ids::mix;
use crate::metrics::ProxyMetrics;

/// Step of the generator of Steele, Lea and Flood (splitmix64).
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// The targets of all services, as every request shares them.
#[derive(Debug, Clone)]
pub(crate) struct Targets(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    upstreams: Arc<Mutex<Upstreams>>,
    random: AtomicU64,
    metrics: Arc<ProxyMetrics>,
}

impl Targets {
    pub(crate) fn new(metrics: Arc<ProxyMetrics>, upstreams: Arc<Mutex<Upstreams>>) -> Self {
        let mut seed = [0u8; 8];
        // Without a seed the choice can be foretold, which gains nobody anything.
        let _ = blueprint_common_types::fill_random(&mut seed);
        let random = AtomicU64::new(u64::from_le_bytes(seed));
        Self(Arc::new(Shared { upstreams, random, metrics }))
    }

    /// Picks a target and counts a request there until the result is dropped.
    pub(crate) fn begin(
        &self,
        service: ServiceKey,
        targets: &[Target],
        settings: &UpstreamSettings,
        tried: &[SocketAddr],
        now: Instant,
    ) -> Result<AtTarget, Refusal> {
        // Where there is no choice there is nothing to draw.
        let random = if targets.len() > 1 { self.random() } else { 0 };
        let wanted = Wanted { service, targets, settings, tried, random };
        let picked = self.0.upstreams.lock().begin(&wanted, now)?;
        Ok(AtTarget { targets: self.clone(), picked, is_reported: false })
    }

    /// Picks a second target for a request that is open at those of `tried`, and counts it there until the result is dropped;
    /// `None` where no other is without doubt, or the budget of retries is spent.
    pub(crate) fn begin_second(
        &self,
        service: ServiceKey,
        targets: &[Target],
        settings: &UpstreamSettings,
        tried: &[SocketAddr],
        now: Instant,
    ) -> Option<AtTarget> {
        let wanted = Wanted { service, targets, settings, tried, random: self.random() };
        match self.0.upstreams.lock().begin_second(&wanted, now) {
            Ok(picked) => picked.map(|picked| AtTarget { targets: self.clone(), picked, is_reported: false }),
            Err(OverBudget) => {
                self.0.metrics.retries_over_budget.inc();
                None
            }
        }
    }

    /// Whether a request may be sent a second time.
    pub(crate) fn may_retry(&self, service: ServiceKey) -> bool {
        let may = self.0.upstreams.lock().may_retry(service, Instant::now());
        if !may {
            self.0.metrics.retries_over_budget.inc();
        }
        may
    }

    /// Nothing of the service is healthy: what comes back starts anew.
    pub(crate) fn forget(&self, service: ServiceKey) {
        self.0.upstreams.lock().forget(service);
    }

    fn random(&self) -> u64 {
        mix(self.0.random.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP))
    }

    fn log(&self, event: Event, picked: &Picked) {
        let (service, target) = (picked.service, picked.address);
        match event {
            Event::Ejected => {
                self.0.metrics.ejections.inc();
                info!(%service, %target, "target ejected: it failed several times in a row");
            }
            Event::Returned => info!(%service, %target, "target is back"),
            Event::CircuitOpened => {
                self.0.metrics.circuits_opened.inc();
                info!(%service, "circuit opened: no target can be reached");
            }
            Event::CircuitClosed => info!(%service, "circuit closed: a target can be reached"),
        }
    }
}

/// One request that is open at a target.
#[derive(Debug)]
pub(crate) struct AtTarget {
    targets: Targets,
    picked: Picked,
    is_reported: bool,
}

impl AtTarget {
    /// Where it is.
    pub(crate) const fn address(&self) -> SocketAddr {
        self.picked.address
    }

    /// Says how the target took it; the first word counts.
    pub(crate) fn report(&mut self, outcome: Outcome, now: Instant) {
        if std::mem::replace(&mut self.is_reported, true) {
            return;
        }
        let event = self.targets.0.upstreams.lock().report(&self.picked, outcome, now);
        if let Some(event) = event {
            self.targets.log(event, &self.picked);
        }
    }
}

impl Drop for AtTarget {
    fn drop(&mut self) {
        if !self.is_reported {
            self.report(Outcome::Unknown, Instant::now());
        }
        self.targets.0.upstreams.lock().end(&self.picked);
    }
}
