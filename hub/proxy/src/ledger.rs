//! What was used and what was refused, for bills and for the audit log.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use blueprint_common_runtime::accept::AcceptStats;
use blueprint_common_types::ServiceKey;
use blueprint_hub_proxy_core::refused::{RefusedBy, RefusedRow, RefusedTable};
use blueprint_hub_proxy_core::source_network;
use blueprint_hub_proxy_core::upstream::{Load, Upstreams};
use blueprint_hub_proxy_core::usage::{Clients, OTHER, ServiceUsage, UsageSum, UsageTable, Used};
use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::Gauge;

/// Counts; shared by the proxy and by whoever reads.
#[derive(Debug, Clone, Default)]
pub struct Ledger(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    usage: Mutex<UsageTable>,
    refused: Mutex<RefusedTable>,
    by_code: Mutex<BTreeMap<&'static str, u64>>,
    requests: Gauge,
    connections: OnceLock<Vec<Arc<AcceptStats>>>,
    /// Requests at their targets.
    targets: Arc<Mutex<Upstreams>>,
    /// Streams of raw forwards at theirs.
    forwards: Arc<Mutex<Upstreams>>,
}

impl Ledger {
    /// Adds sums that were kept before this start.
    pub fn restore(&self, sums: impl IntoIterator<Item = UsageSum>) {
        self.0.usage.lock().restore(sums);
    }

    /// The sums that changed since the last call, to be kept.
    #[must_use]
    pub fn take_changed(&self) -> Vec<UsageSum> {
        self.0.usage.lock().take_changed()
    }

    /// Gives these once more: they could not be kept.
    pub fn keep_changed(&self, sums: &[UsageSum]) {
        self.0.usage.lock().keep_changed(sums);
    }

    /// What a service has used since counting began; `None` where nobody called it.
    #[must_use]
    pub fn usage(&self, service: ServiceKey) -> Option<ServiceUsage> {
        self.0.usage.lock().service(service).cloned()
    }

    /// The refusals since the last call, as a bounded number of rows for the audit log.
    #[must_use]
    pub fn take_refused(&self) -> Vec<RefusedRow> {
        self.0.refused.lock().take()
    }

    /// Counts these once more: they could not be written.
    pub fn keep_refused(&self, rows: impl IntoIterator<Item = RefusedRow>) {
        self.0.refused.lock().put_back(rows);
    }

    /// What clients do now, and what was refused since the start of the hub.
    #[must_use]
    pub fn clients(&self) -> Clients {
        Clients {
            connections: self.0.connections.get().into_iter().flatten().map(|stats| stats.open()).sum(),
            requests: u64::try_from(self.0.requests.get()).unwrap_or(0),
            refused: self.0.by_code.lock().clone(),
        }
    }

    /// What a target did: requests of which the end is known, those of them that failed, and those that are open, raw
    /// forwards included.
    #[must_use]
    pub fn tally(&self, service: ServiceKey, address: SocketAddr) -> (u64, u64, u32) {
        let (requests, failed, open) = self.0.targets.lock().tally(service, address);
        let raw = self.0.forwards.lock().open_at(service, address);
        (requests, failed, open.saturating_add(raw))
    }

    /// What clients ask of a target now and have asked: requests, and connections and flows of raw forwards.
    #[must_use]
    pub fn load(&self, service: ServiceKey, address: SocketAddr) -> Load {
        let now = Instant::now();
        let requests = self.0.targets.lock().load(service, address, now);
        requests.plus(self.0.forwards.lock().load(service, address, now))
    }

    pub(crate) fn targets(&self) -> Arc<Mutex<Upstreams>> {
        Arc::clone(&self.0.targets)
    }

    pub(crate) fn forwards(&self) -> Arc<Mutex<Upstreams>> {
        Arc::clone(&self.0.forwards)
    }

    /// Counts the connections of these loops; those of the first proxy where several share a ledger.
    pub(crate) fn follow(&self, connections: Vec<Arc<AcceptStats>>) {
        let _ = self.0.connections.set(connections);
    }

    /// How many requests are being answered.
    pub(crate) fn requests(&self) -> Gauge {
        self.0.requests.clone()
    }

    pub(crate) fn count_refused(&self, code: &'static str) {
        let mut by_code = self.0.by_code.lock();
        let count = by_code.entry(code).or_default();
        *count = count.saturating_add(1);
    }

    pub(crate) fn add(&self, service: ServiceKey, key: Option<&str>, used: &Used) {
        self.0.usage.lock().add(service, key, used);
    }

    /// Counts a refusal for the audit log; without a source where nobody has proved that it comes from there.
    pub(crate) fn refuse(
        &self,
        service: Option<ServiceKey>,
        code: &'static str,
        source: Option<IpAddr>,
        identity: Option<&str>,
    ) {
        let by = RefusedBy { service, code, source: source.map(source_network) };
        self.0.refused.lock().add(by, identity);
    }
}

/// One of the sums.
type Value = fn(&Used) -> u64;

/// The sums by service as metrics; those of keys are in the JSON API only.
#[derive(Debug)]
pub(crate) struct UsageCollector(pub(crate) Ledger);

impl Collector for UsageCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let name =
            |service: Option<ServiceKey>| service.map_or_else(|| OTHER.to_owned(), |key| key.to_string());
        let rows: Vec<(String, Used)> =
            self.0.0.usage.lock().totals().map(|(service, used)| (name(service), *used)).collect();
        let kind = ConstCounter::new(0u64).metric_type();
        let counts: [(&str, &str, Value); 4] = [
            ("hub_proxy_service_requests", "Requests that reached the service", |used| used.requests),
            ("hub_proxy_service_refused", "Requests to the service that were refused", |used| used.refused),
            ("hub_proxy_service_received_bytes", "Bytes of bodies from its clients", |used| used.bytes_in),
            ("hub_proxy_service_sent_bytes", "Bytes of bodies to its clients", |used| used.bytes_out),
        ];
        for (metric, help, value) in counts {
            let mut family = encoder.encode_descriptor(metric, help, None, kind)?;
            for (service, used) in &rows {
                let counter = ConstCounter::new(value(used));
                counter.encode(family.encode_family(&[("service", service.as_str())])?)?;
            }
        }
        let help = "Time during which its requests were open, added up";
        let mut family = encoder.encode_descriptor("hub_proxy_service_open_seconds", help, None, kind)?;
        for (service, used) in &rows {
            let counter = ConstCounter::new(used.open.as_secs_f64());
            counter.encode(family.encode_family(&[("service", service.as_str())])?)?;
        }
        Ok(())
    }
}
