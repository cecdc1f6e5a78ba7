//! The table of handshakes, shared by whoever fills it and whoever goes by it.

use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use blueprint_common_runtime::metrics::Metrics;
use blueprint_common_types::ServiceKey;
use parking_lot::Mutex;
use rustls::crypto::ring::Ticketer;
use rustls::server::ProducesTickets;

use super::material::Material;
use super::metrics::TlsMetrics;
use super::neighbour::{Named, Neighbour};
use super::table::{Parts, ServiceHandshake, TlsError, TlsTable};

/// Fills the table; every change is in force for the next handshake.
#[derive(Debug, Clone)]
pub struct TlsHandle(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    table: ArcSwap<TlsTable>,
    parts: Mutex<Parts>,
    tickets: Arc<dyn ProducesTickets>,
    metrics: TlsMetrics,
    neighbour: OnceLock<Named>,
}

impl TlsHandle {
    /// An empty table, by which every handshake fails. `fallback` meets clients until there is a certificate of
    /// the operator.
    ///
    /// # Errors
    ///
    /// Fails where the system has no source of randomness.
    pub fn new(fallback: Option<Material>, metrics: &Metrics) -> Result<Self, TlsError> {
        // Keys of tickets change every six hours, and an old one is good for six more.
        let tickets = Ticketer::new()?;
        let handle = Self(Arc::new(Inner {
            table: ArcSwap::default(),
            parts: Mutex::new(Parts { fallback, ..Parts::default() }),
            tickets,
            metrics: TlsMetrics::register(metrics),
            neighbour: OnceLock::new(),
        }));
        handle.change(|_| ());
        Ok(handle)
    }

    /// Leaves handshakes for the host name `name` to `neighbour` from now on; the first that is named stays.
    pub fn share(&self, name: &'static str, neighbour: Arc<dyn Neighbour>) {
        let _ = self.0.neighbour.set(Named { name, neighbour });
    }

    /// Whose handshakes for this host name are.
    pub(super) fn neighbour(&self, name: Option<&str>) -> Option<Arc<dyn Neighbour>> {
        let named = self.0.neighbour.get()?;
        name.is_some_and(|name| name.eq_ignore_ascii_case(named.name)).then(|| Arc::clone(&named.neighbour))
    }

    /// Replaces what meets clients where there is no other certificate for their host name.
    pub fn set_fallback(&self, fallback: Material) {
        self.change(|parts| parts.fallback = Some(fallback));
    }

    /// Whether the service has a TLS profile that handshakes can go by.
    pub(crate) fn serves(&self, service: ServiceKey) -> bool {
        self.table().of_service(service).is_some()
    }

    /// Whether a certificate of files or ACME is for exactly this host name.
    #[must_use]
    pub fn is_configured(&self, name: &str) -> bool {
        let parts = self.0.parts.lock();
        let mut materials = parts.ordered.iter().chain(&parts.configured);
        materials.any(|material| material.facts().hosts.iter().any(|host| host == name))
    }

    /// Replaces the certificates of files; the first is for names that no other has.
    pub fn set_configured(&self, configured: Vec<Material>) {
        self.change(|parts| parts.configured = configured);
    }

    /// Replaces the certificate that ACME has ordered, which goes before those of files.
    pub fn set_ordered(&self, ordered: Option<Material>) {
        self.change(|parts| parts.ordered = ordered);
    }

    /// Replaces what the TLS profiles of services say.
    pub fn set_services(&self, services: Vec<ServiceHandshake>) {
        self.change(|parts| parts.services = services);
    }

    /// Shows a certificate to whoever validates this host name by ACME; `None` ends that.
    pub fn set_challenge(&self, name: &str, material: Option<Material>) {
        self.change(|parts| match material {
            Some(material) => drop(parts.challenges.insert(name.to_ascii_lowercase(), material)),
            None => drop(parts.challenges.remove(&name.to_ascii_lowercase())),
        });
    }

    pub(super) fn tickets(&self) -> Arc<dyn ProducesTickets> {
        Arc::clone(&self.0.tickets)
    }

    pub(super) fn metrics(&self) -> &TlsMetrics {
        &self.0.metrics
    }

    pub(super) fn table(&self) -> arc_swap::Guard<Arc<TlsTable>> {
        self.0.table.load()
    }

    fn change(&self, how: impl FnOnce(&mut Parts)) {
        // Held until the table is swapped, so that of two changes the later one stays.
        let mut parts = self.0.parts.lock();
        how(&mut parts);
        self.0.table.store(Arc::new(TlsTable::build(&parts, &self.0.tickets)));
        let ends = parts.ordered.iter().chain(&parts.configured).map(Material::not_after).min();
        self.0.metrics.set_expiry(ends);
    }
}
