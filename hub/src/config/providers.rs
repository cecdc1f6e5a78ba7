//! Section `providers`: which clouds there are.

use std::collections::BTreeSet;

use blueprint_common_runtime::config::{Key, Problems, Settings};
use blueprint_hub_provider_sim::Faults;
use blueprint_hub_provision_core::catalogue::Offer;

use super::digitalocean::DigitalOceanSettings;

pub(super) const SIM: Key = Key::new(
    "providers.sim.enabled",
    "false",
    "Offer the provider sim, whose machines are processes of this host that run real agents and end with the hub; the \
     agent has to lie beside the hub's program.",
);
pub(super) const SIM_FAULTS: Key = Key::new(
    "providers.sim.faults",
    "none",
    "What goes wrong in the simulated cloud, such as seed=7,latency_ms=50,errors=10,lost=5,doubles=20,late_ms=3000,quota=4 \
     (of 100 calls).",
);
/// The clouds that machines can be ordered of.
#[derive(Debug, Clone)]
pub(crate) struct ProviderSettings {
    /// Faults of the simulated cloud; `None` where there is none.
    pub(crate) sim: Option<Faults>,
    /// DigitalOcean, where it is switched on.
    pub(crate) digitalocean: Option<DigitalOceanSettings>,
}

impl ProviderSettings {
    pub(super) fn take(settings: &Settings, problems: &mut Problems) -> Option<Self> {
        let enabled = settings.take::<bool>(SIM.path, problems);
        let faults = settings.take::<Faults>(SIM_FAULTS.path, problems);
        let digitalocean = DigitalOceanSettings::take(settings, problems);
        Some(Self { sim: enabled?.then_some(faults?), digitalocean: digitalocean? })
    }

    /// Their names.
    pub(crate) fn names(&self) -> BTreeSet<String> {
        let sim = self.sim.iter().map(|_| "sim");
        sim.chain(self.digitalocean.iter().map(|_| "digitalocean")).map(str::to_owned).collect()
    }

    /// What those of them sell whose prices are known without asking.
    pub(crate) fn own_offers(&self) -> Vec<Offer> {
        self.sim.iter().flat_map(|_| blueprint_hub_provider_sim::offers()).collect()
    }
}
