//! What holds for a whole provider: what its hourly price leaves out, how it bills, whether it still exists.

use std::time::Duration;

use blueprint_common_types::Micros;

/// Whether machines can be ordered of a provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifecycle {
    /// They can.
    Open,
    /// They cannot any more.
    Discontinued {
        /// Last day, as `YYYY-MM-DD`.
        since: &'static str,
        /// Who sells the like.
        alternatives: &'static str,
    },
}

/// What the price of an hour leaves out. Amounts in US dollars; list prices of November 2026, to be checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extras {
    /// A public IPv4 address for an hour.
    pub ipv4_hourly: Micros,
    /// A GB of disk beside the plan's own for a month; zero where none can be had with a machine.
    pub disk_gb_month: Micros,
    /// Whether the plan's own disk is lost when the machine stops, so that it holds no data and no system.
    pub loses_own_disk: bool,
    /// A GB sent to the internet.
    pub egress_gb: Micros,
    /// GB of each month that cost nothing.
    pub egress_free_gb: u32,
    /// Seconds that are billed at least.
    pub minimum_secs: u32,
    /// Seconds that a started part of is billed whole.
    pub granularity_secs: u32,
    /// Whether a machine that is stopped is billed in full.
    pub bills_stopped: bool,
    /// Control plane of a managed Kubernetes cluster, for an hour.
    pub kubernetes_hourly: Micros,
}

/// What holds for a whole provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProviderFacts {
    /// Its name here.
    pub name: &'static str,
    /// Its name for people.
    pub shown: &'static str,
    /// Whether machines can be ordered.
    pub lifecycle: Lifecycle,
    /// Costs beside the price.
    pub extras: Extras,
    /// Whether it sells machines that it may take back.
    pub has_spot: bool,
    /// Whether each plan is one machine, which is there once.
    pub plans_are_machines: bool,
}

impl ProviderFacts {
    /// Why nothing is ordered there; `None` where it can be.
    #[must_use]
    pub fn discontinued(&self) -> Option<String> {
        match self.lifecycle {
            Lifecycle::Open => None,
            Lifecycle::Discontinued { since, alternatives } => {
                Some(format!("{} ended on {since}; the like is sold by {alternatives}", self.shown))
            }
        }
    }

    /// Regions that are known, by the provider's own names.
    pub fn regions(&self) -> impl Iterator<Item = &'static str> {
        super::regions::of(self.name)
    }
}

/// Everything in the price; billed by started hours, also when stopped.
const ALL_IN: Extras = Extras {
    ipv4_hourly: Micros::ZERO,
    disk_gb_month: Micros::ZERO,
    loses_own_disk: false,
    egress_gb: Micros::ZERO,
    egress_free_gb: 0,
    minimum_secs: 3600,
    granularity_secs: 3600,
    bills_stopped: true,
    kubernetes_hourly: Micros::ZERO,
};

const fn extras(ipv4: u64, disk: u64, egress: u64, free: u32) -> Extras {
    Extras {
        ipv4_hourly: Micros::new(ipv4),
        disk_gb_month: Micros::new(disk),
        egress_gb: Micros::new(egress),
        egress_free_gb: free,
        ..ALL_IN
    }
}

/// Billed by seconds, a minute at least.
const fn by_seconds(extras: Extras) -> Extras {
    Extras { minimum_secs: 60, granularity_secs: 1, ..extras }
}

/// Disk and address are billed apart, and alone while the machine is stopped.
const fn large(extras: Extras) -> Extras {
    Extras {
        loses_own_disk: true,
        bills_stopped: false,
        kubernetes_hourly: Micros::new(100_000),
        ..by_seconds(extras)
    }
}

const fn provider(name: &'static str, shown: &'static str, has_spot: bool, extras: Extras) -> ProviderFacts {
    ProviderFacts { name, shown, lifecycle: Lifecycle::Open, extras, has_spot, plans_are_machines: false }
}

/// Name of the first plugin.
const PLUGIN: &str = "external";

/// `docs/prices.md` says where the amounts come from.
static PROVIDERS: [ProviderFacts; 15] = [
    provider("aws", "AWS EC2", true, large(extras(5_000, 80_000, 90_000, 100))),
    provider("azure", "Azure", true, large(extras(5_000, 75_000, 87_000, 100))),
    provider("digitalocean", "DigitalOcean", false, by_seconds(extras(0, 0, 10_000, 500))),
    provider("docker", "containers of other hosts", false, by_seconds(ALL_IN)),
    ProviderFacts {
        name: "equinix",
        shown: "Equinix Metal",
        lifecycle: Lifecycle::Discontinued {
            since: "2026-06-30",
            alternatives: "Hivelocity, Vultr Bare Metal, Latitude.sh and OpenMetal",
        },
        extras: ALL_IN,
        has_spot: false,
        plans_are_machines: false,
    },
    provider(PLUGIN, "a plugin of the operator's", false, by_seconds(ALL_IN)),
    provider("gcp", "Google Cloud", true, large(extras(5_000, 100_000, 120_000, 1))),
    provider("hivelocity", "Hivelocity", false, extras(0, 0, 10_000, 10_000)),
    provider("linode", "Linode (Akamai)", false, extras(0, 0, 5_000, 1_000)),
    provider("local-docker", "containers of this host", false, by_seconds(ALL_IN)),
    provider("local-vm", "machines of this host", false, by_seconds(ALL_IN)),
    provider("scaleway", "Scaleway", false, extras(4_400, 95_000, 0, 0)),
    provider("sim", "simulated cloud on this host", true, by_seconds(ALL_IN)),
    ProviderFacts {
        plans_are_machines: true,
        ..provider("ssh", "the operator's own machines", false, by_seconds(ALL_IN))
    },
    provider("vultr", "Vultr", false, extras(0, 0, 10_000, 500)),
];

/// Every provider that the hub knows of, by name.
#[must_use]
pub fn providers() -> &'static [ProviderFacts] {
    &PROVIDERS
}

/// What holds for `provider`; `None` for one that the hub does not know. Plugins are called `external-NAME`, and for each holds what does
/// for `external`.
#[must_use]
pub fn facts(provider: &str) -> Option<&'static ProviderFacts> {
    let name = if is_plugin(provider) { PLUGIN } else { provider };
    PROVIDERS.iter().find(|facts| facts.name == name)
}

/// Whether a provider is one of several plugins of the operator's.
#[must_use]
pub fn is_plugin(provider: &str) -> bool {
    let own = provider.strip_prefix(PLUGIN).and_then(|rest| rest.strip_prefix('-'));
    own.is_some_and(|own| !own.is_empty())
}

/// Longest time from an order to the first boot of its machine, beyond the minutes that every cloud takes: an hour at
/// Hivelocity, where people may have to look (5 to 60 min by its own words), and for whole machines of Vultr; none elsewhere.
#[must_use]
pub fn delivered_within(provider: &str, plan: &str) -> Duration {
    let is_metal = provider == "vultr" && plan.starts_with("vbm-");
    if is_metal { Duration::from_secs(3600) } else { listed_within(provider) }
}

/// Longest time from an order to the first list with its machine, beyond that of every cloud: at Hivelocity what is not delivered
/// may not be listed.
#[must_use]
pub fn listed_within(provider: &str) -> Duration {
    if provider == "hivelocity" { Duration::from_secs(3600) } else { Duration::ZERO }
}

/// Whether each plan of `provider` is one machine, which is there once.
#[must_use]
pub fn is_one_machine(provider: &str) -> bool {
    facts(provider).is_some_and(|facts| facts.plans_are_machines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_sorted_and_what_ended_says_so() {
        assert!(PROVIDERS.is_sorted_by_key(|facts| facts.name));
        let ended: Vec<_> = PROVIDERS.iter().filter_map(ProviderFacts::discontinued).collect();
        assert_eq!(ended.len(), 1);
        assert!(ended.first().unwrap().contains("2026-06-30"));
        assert_eq!(facts("hetzner"), None);
        assert_eq!(facts("external-rack"), facts("external"));
        assert!(facts("external-").is_none() && facts("externals").is_none());
        assert!(is_one_machine("ssh") && !is_one_machine("aws") && !is_one_machine("hetzner"));
        assert_eq!(facts("linode").unwrap().regions().count(), 10);
    }

    #[test]
    fn whole_machines_take_their_time_and_are_listed_at_once_where_the_cloud_does_so() {
        let hour = Duration::from_secs(3600);
        assert_eq!((delivered_within("hivelocity", "bm-525"), listed_within("hivelocity")), (hour, hour));
        assert_eq!(delivered_within("vultr", "vbm-4c-32gb"), hour);
        assert_eq!(delivered_within("vultr", "vc2-1c-1gb"), Duration::ZERO);
        assert_eq!(listed_within("vultr"), Duration::ZERO);
    }
}
