//! Kinds of machines, and what of them an engine has room for.

use blueprint_common_types::Micros;
use blueprint_hub_provision_core::catalogue::Offer;
use blueprint_hub_provision_core::resource::Arch;
use serde::Deserialize;

/// Processes and threads of one machine at most: those of its agent and of its workloads.
pub(crate) const MAX_PROCESSES: u32 = 4096;

/// One kind of machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) name: &'static str,
    pub(crate) vcpus: u32,
    pub(crate) memory_mib: u64,
    /// Nominal: engines do not bound it.
    disk_gb: u32,
    /// Millionths of a dollar for an hour. Nobody bills it; it keeps machines comparable, and below every cloud's.
    hourly: u64,
}

const fn plan(name: &'static str, (vcpus, memory_mib): (u32, u64), disk_gb: u32, hourly: u64) -> Plan {
    Plan { name, vcpus, memory_mib, disk_gb, hourly }
}

/// All kinds, the cheapest first.
const PLANS: [Plan; 3] = [
    plan("docker-small", (1, 1024), 10, 1000),
    plan("docker-medium", (2, 2048), 20, 2000),
    plan("docker-large", (4, 8192), 40, 4000),
];

impl Plan {
    pub(crate) fn named(name: &str) -> Option<Self> {
        PLANS.into_iter().find(|plan| plan.name == name)
    }

    /// Bytes of memory.
    pub(crate) const fn memory_bytes(&self) -> u64 {
        self.memory_mib << 20
    }
}

/// What an engine runs on: `GET /info`, as far as it matters here.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Machine {
    #[serde(rename = "NCPU")]
    vcpus: u64,
    #[serde(rename = "MemTotal")]
    memory_bytes: u64,
}

impl Machine {
    /// Whether one machine of a kind fits, beside others that have so much of its memory.
    pub(crate) fn has_room(&self, plan: &Plan, taken_bytes: u64) -> bool {
        u64::from(plan.vcpus) <= self.vcpus
            && taken_bytes.saturating_add(plan.memory_bytes()) <= self.memory_bytes
    }
}

/// What engines of one place sell under the name of a provider; with `on`, what one of that size has room for.
fn sold(provider: &str, region: &str, arch: Arch, on: Option<&Machine>) -> Vec<Offer> {
    let fits = |plan: &&Plan| on.is_none_or(|machine| machine.has_room(plan, 0));
    let offer = |plan: &Plan| {
        let size = (plan.vcpus, plan.memory_mib);
        Offer {
            disk_gb: plan.disk_gb,
            arch,
            ..Offer::live(provider, plan.name, region, size, Micros::new(plan.hourly))
        }
    };
    PLANS.iter().filter(fits).map(offer).collect()
}

/// What the engine of this host sells as `local-docker`, before it is asked how much of it has room.
#[must_use]
pub fn offers() -> Vec<Offer> {
    let arch = if cfg!(target_arch = "aarch64") { Arch::Arm64 } else { Arch::X86_64 };
    sold("local-docker", "local", arch, None)
}

/// What an engine has room for while it has no machines.
pub(crate) fn offers_on(provider: &str, region: &str, arch: Arch, machine: &Machine) -> Vec<Offer> {
    sold(provider, region, arch, Some(machine))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_fits_the_host_is_sold() {
        let machine = Machine { vcpus: 2, memory_bytes: 3 << 30 };
        let names: Vec<_> = offers_on("docker", "rack-1", Arch::X86_64, &machine)
            .into_iter()
            .map(|offer| offer.plan)
            .collect();
        assert_eq!(names, ["docker-small".into(), "docker-medium".into()]);
        let small = Plan::named("docker-small").unwrap();
        assert!(machine.has_room(&small, 2 << 30) && !machine.has_room(&small, (2 << 30) + 1));
    }
}
