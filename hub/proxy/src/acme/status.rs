//! What ACME is doing, for operators and their alarms.

use std::collections::BTreeSet;
use std::sync::atomic::AtomicU64;

use blueprint_common_runtime::metrics::Metrics;
use blueprint_common_types::Timestamp;
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use crate::metrics::set_time;
use crate::tls::Material;

/// Longest error that is kept, in characters.
const MAX_ERROR: usize = 512;

/// A moment of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AcmeState {
    /// Host names that are ordered.
    pub names: BTreeSet<String>,
    /// End of the certificate in use; `None` where there is none yet.
    pub not_after: Option<Timestamp>,
    /// When the next order is made.
    pub next_at: Timestamp,
    /// Orders that failed since the last one that did not.
    pub failures: u32,
    /// What the last of them failed with.
    pub error: Option<String>,
    /// What came and is not on the disk yet, and why; a restart would order it again.
    pub unsaved: Option<String>,
}

/// Shared by the task and those who ask.
#[derive(Debug)]
pub struct AcmeStatus {
    state: Mutex<AcmeState>,
    material: Mutex<Option<Material>>,
    orders: Family<[(&'static str, &'static str); 1], Counter>,
    next: Gauge<f64, AtomicU64>,
    unsaved: Gauge,
}

impl AcmeStatus {
    pub(super) fn register(metrics: &Metrics, names: &BTreeSet<String>) -> Self {
        let state = AcmeState { names: names.clone(), ..AcmeState::default() };
        let made = Self {
            state: Mutex::new(state),
            material: Mutex::default(),
            orders: Family::default(),
            next: Gauge::default(),
            unsaved: Gauge::default(),
        };
        for result in ["done", "failed"] {
            let _ = made.orders.get_or_create(&[("result", result)]);
        }
        metrics.with(|registry| {
            registry.register(
                "hub_proxy_acme_orders",
                "Certificates ordered by ACME, by whether they came",
                made.orders.clone(),
            );
            registry.register(
                "hub_proxy_acme_next_order_timestamp_seconds",
                "When the next order is made, in seconds since 1970",
                made.next.clone(),
            );
            registry.register(
                "hub_proxy_acme_unsaved",
                "1 while what came by ACME is in use and cannot be written to the state folder",
                made.unsaved.clone(),
            );
        });
        made
    }

    /// How things are now.
    #[must_use]
    pub fn state(&self) -> AcmeState {
        self.state.lock().clone()
    }

    pub(super) fn material(&self) -> Option<Material> {
        self.material.lock().clone()
    }

    pub(super) fn set_material(&self, material: Material) {
        self.state.lock().not_after = Some(material.not_after());
        *self.material.lock() = Some(material);
    }

    pub(super) fn set_next(&self, at: Timestamp) {
        self.state.lock().next_at = at;
        set_time(&self.next, at);
    }

    pub(super) fn set_unsaved(&self, why: Option<String>) {
        self.unsaved.set(i64::from(why.is_some()));
        self.state.lock().unsaved = why.as_deref().map(bounded);
    }

    pub(super) fn note_success(&self, until: Timestamp) {
        self.orders.get_or_create(&[("result", "done")]).inc();
        let mut state = self.state.lock();
        state.not_after = Some(until);
        state.failures = 0;
        state.error = None;
    }

    pub(super) fn note_failure(&self, error: &str, failures: u32) {
        self.orders.get_or_create(&[("result", "failed")]).inc();
        let mut state = self.state.lock();
        state.failures = failures;
        state.error = Some(bounded(error));
    }
}

fn bounded(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(MAX_ERROR).collect()
}
