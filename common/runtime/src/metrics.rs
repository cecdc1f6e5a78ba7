//! The registry of metrics of the process, and its text form.

use std::fmt;

use parking_lot::Mutex;
use prometheus_client::registry::Registry;

/// Media type of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All metrics of one process; shared by `Arc`.
///
/// The lock is taken to register and to read, never to count: counters are atomics that the parts hold.
#[derive(Default)]
pub struct Metrics {
    registry: Mutex<Registry>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    /// Makes an empty registry.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets a part register its metrics.
    pub fn with<T>(&self, register: impl FnOnce(&mut Registry) -> T) -> T {
        register(&mut self.registry.lock())
    }

    /// The `OpenMetrics` text of everything registered.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to a string fails only where a metric's own encoder does; what came before it is kept.
        if let Err(error) = prometheus_client::encoding::text::encode(&mut text, &self.registry.lock()) {
            tracing::error!(%error, "metrics are incomplete");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::metrics::counter::Counter;

    #[test]
    fn a_registered_counter_is_in_the_text() {
        let metrics = Metrics::new();
        let counter = Counter::<u64>::default();
        metrics.with(|registry| {
            registry.register("hub_test_joins", "joins so far", counter.clone());
        });
        counter.inc_by(3);
        let text = metrics.encode();
        assert!(text.contains("hub_test_joins_total 3"), "{text}");
        assert!(text.ends_with("# EOF\n"), "{text}");
    }
}
