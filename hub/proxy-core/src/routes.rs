//! Where services are: the targets the proxy may send to.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use blueprint_common_types::{AgentId, Health, ServiceKey};

/// One reachable place of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Overlay address of the agent and the port offered; never a name, never chosen by a client.
    pub address: SocketAddr,
    /// What is known of it; only [`Health::Healthy`] gets requests.
    pub health: Health,
    /// Why it is not healthy, in the agent's or the hub's words; may be empty.
    pub reason: String,
    /// Whose it is.
    pub agent: AgentId,
    /// Its part of the requests, in hundredths; less than 100 while its service is updated.
    pub weight: u8,
}

/// All services of this hub and their targets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RouteTable {
    services: BTreeMap<ServiceKey, Vec<Target>>,
}

impl RouteTable {
    /// Builds the table. A service that is known but has no target right now is given in `known`.
    pub fn new(
        known: impl IntoIterator<Item = ServiceKey>,
        targets: impl IntoIterator<Item = (ServiceKey, Target)>,
    ) -> Self {
        let mut services: BTreeMap<ServiceKey, Vec<Target>> =
            known.into_iter().map(|service| (service, Vec::new())).collect();
        for (service, target) in targets {
            services.entry(service).or_default().push(target);
        }
        Self { services }
    }

    /// Targets of `service`, healthy or not; `None` for a service nobody ever offered.
    #[must_use]
    pub fn targets(&self, service: &ServiceKey) -> Option<&[Target]> {
        self.services.get(service).map(Vec::as_slice)
    }

    /// Every service known, in order.
    pub fn services(&self) -> impl Iterator<Item = &ServiceKey> {
        self.services.keys()
    }
}
