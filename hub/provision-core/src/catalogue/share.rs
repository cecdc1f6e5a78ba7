//! How much of its processors a machine has at all times. No price list says it, so it stands here, written down by hand; each function
//! names the page that it was held against, and when that was.

use super::Offer;

/// How much of its processors a machine has at all times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CpuShare {
    /// All of them.
    Dedicated,
    /// This many thousandths of each, and more while it has saved some up.
    Baseline(u16),
    /// What the others on the same host leave; the provider promises no number.
    Shared,
}

impl CpuShare {
    /// Thousandths of a processor that `vcpus` of these are promised to be at all times; `None` where nothing is promised.
    #[must_use]
    pub const fn promised_millis(self, vcpus: u32) -> Option<u32> {
        match self {
            Self::Dedicated => Some(vcpus.saturating_mul(1000)),
            Self::Baseline(permille) => Some(vcpus.saturating_mul(u32_of(permille))),
            Self::Shared => None,
        }
    }

    /// A short word for programs.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Dedicated => "dedicated",
            Self::Baseline(_) => "baseline",
            Self::Shared => "shared",
        }
    }
}

const fn u32_of(value: u16) -> u32 {
    let [low, high] = value.to_le_bytes();
    u32::from_le_bytes([low, high, 0, 0])
}

/// Scaleway, "Cost-optimized" and "Development": kinds with shared vCPUs, and those whose name says the same.
const SHARED_OF_SCALEWAY: [&str; 7] = ["STARDUST", "DEV1-", "GP1-", "PLAY2-", "PRO2-", "COPARM1-", "BASIC"];

impl CpuShare {
    /// That of a plan; `None` where nothing is known of it but what its list says.
    #[must_use]
    pub fn of(provider: &str, plan: &str) -> Option<Self> {
        let begins = |names: &[&str]| names.iter().any(|name| plan.starts_with(name));
        match provider {
            "aws" => baseline(of_aws(plan)),
            "azure" => baseline(of_azure(plan)),
            "gcp" => baseline(of_gcp(plan)),
            "digitalocean" => begins(&["s-"]).then_some(Self::Shared),
            "linode" => begins(&["g6-nanode-", "g6-standard-"]).then_some(Self::Shared),
            "scaleway" => begins(&SHARED_OF_SCALEWAY).then_some(Self::Shared),
            "vultr" => begins(&["vc2-", "vhf-", "vhp-"]).then_some(Self::Shared),
            _ => None,
        }
    }
}

impl Offer {
    /// How much of its processors it has at all times. One that its list calls burstable, and of which nothing else is known, is
    /// promised nothing.
    #[must_use]
    pub fn cpu_share(&self) -> CpuShare {
        let known = CpuShare::of(&self.provider, &self.plan);
        known.unwrap_or(if self.is_burstable { CpuShare::Shared } else { CpuShare::Dedicated })
    }
}

fn baseline(permille: Option<u16>) -> Option<CpuShare> {
    permille.map(CpuShare::Baseline)
}

/// AWS, "Key concepts for burstable performance instances": the baseline of each vCPU. All rows were held against its credit table, as
/// AWS's own archive of the User Guide has it (June 2023); t3.large and more, and t2.large and more, against quotations of September 2026.
/// What an instance earns says the same: `t2.2xlarge` 81.6 credits an hour, which are 17 % of eight vCPUs.
fn of_aws(plan: &str) -> Option<u16> {
    let (family, size) = plan.split_once('.')?;
    match (family, size) {
        ("t2" | "t3" | "t3a" | "t4g", "nano") => Some(50),
        ("t2" | "t3" | "t3a" | "t4g", "micro") => Some(100),
        ("t2" | "t3" | "t3a" | "t4g", "small" | "medium") => Some(200),
        ("t2" | "t3" | "t3a" | "t4g", "large") => Some(300),
        ("t2", "xlarge") => Some(225),
        ("t2", "2xlarge") => Some(170),
        ("t3" | "t3a" | "t4g", "xlarge" | "2xlarge") => Some(400),
        _ => None,
    }
}

/// Azure, "B-series" (first version: by size, the base of the machine over its processors, rounded down) and "Bsv2", "Basv2",
/// "Bpsv2" (by the letters behind the size).
fn of_azure(plan: &str) -> Option<u16> {
    let size = plan.strip_prefix("Standard_B")?;
    if let Some(second) = size.strip_suffix("_v2") {
        let letters = second.trim_start_matches(|c: char| c.is_ascii_digit());
        return match letters {
            "ts" | "ats" | "pts" => Some(200),
            "ls" | "als" | "pls" => Some(300),
            "s" | "as" | "ps" => Some(400),
            _ => None,
        };
    }
    match size {
        "1ls" => Some(50),
        "1s" => Some(100),
        "1ms" | "2s" => Some(200),
        "2ms" => Some(300),
        "4ms" => Some(225),
        "8ms" | "12ms" | "16ms" | "20ms" => Some(168),
        _ => None,
    }
}

/// Google, "General-purpose machine family", shared-core machine types: the sustained share of each vCPU. E2 have two, which get 12.5, 25
/// and 50 % of the time (quotations up to September 2026); `f1-micro` and `g1-small` have one of 0.2 and 0.5.
fn of_gcp(plan: &str) -> Option<u16> {
    match plan {
        "e2-micro" => Some(125),
        "e2-small" => Some(250),
        "e2-medium" | "g1-small" => Some(500),
        "f1-micro" => Some(200),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use blueprint_common_types::Micros;

    use super::*;
    use crate::catalogue::Catalogue;

    fn share(provider: &str, plan: &str) -> CpuShare {
        Offer::live(provider, plan, "here", (2, 1024), Micros::new(1000)).cpu_share()
    }

    #[test]
    fn what_is_promised_of_two_processors_is_known_by_the_plan() {
        for (provider, plan, promised, code) in [
            ("aws", "t3.micro", Some(200), "baseline"),
            ("aws", "t2.xlarge", Some(450), "baseline"),
            ("aws", "t2.2xlarge", Some(340), "baseline"),
            ("aws", "t4g.nano", Some(100), "baseline"),
            ("gcp", "e2-medium", Some(1000), "baseline"),
            ("aws", "m5.large", Some(2000), "dedicated"),
            ("gcp", "e2-micro", Some(250), "baseline"),
            ("gcp", "e2-standard-2", Some(2000), "dedicated"),
            ("azure", "Standard_B1ls", Some(100), "baseline"),
            ("azure", "Standard_B2ms", Some(600), "baseline"),
            ("azure", "Standard_B2als_v2", Some(600), "baseline"),
            ("azure", "Standard_D2s_v5", Some(2000), "dedicated"),
            ("digitalocean", "s-2vcpu-4gb", None, "shared"),
            ("digitalocean", "c-2", Some(2000), "dedicated"),
            ("linode", "g6-standard-2", None, "shared"),
            ("linode", "g6-dedicated-2", Some(2000), "dedicated"),
            ("vultr", "vc2-2c-4gb", None, "shared"),
            ("scaleway", "DEV1-S", None, "shared"),
            ("scaleway", "PRO2-XS", None, "shared"),
            ("scaleway", "POP2-2C-8G", Some(2000), "dedicated"),
        ] {
            let share = share(provider, plan);
            assert_eq!((share.promised_millis(2), share.code()), (promised, code), "{plan}");
        }
    }

    /// AWS's table has what each kind earns in an hour, in minutes of a vCPU, beside its vCPUs; the share follows from both.
    #[test]
    fn shares_of_aws_are_what_a_machine_earns() {
        let catalogue = Catalogue::embedded().unwrap();
        for (plan, tenths_of_credits) in [
            ("t2.nano", 30),
            ("t2.micro", 60),
            ("t2.small", 120),
            ("t2.medium", 240),
            ("t2.large", 360),
            ("t2.xlarge", 540),
            ("t2.2xlarge", 816),
            ("t3.nano", 60),
            ("t3a.micro", 120),
            ("t4g.small", 240),
            ("t3.medium", 240),
            ("t3a.large", 360),
            ("t4g.xlarge", 960),
            ("t3.2xlarge", 1920),
        ] {
            let offer = catalogue.offers().iter().find(|offer| &*offer.plan == plan).unwrap();
            let earned = offer.cpu_share().promised_millis(offer.vcpus).unwrap() * 60 / 100;
            assert_eq!(earned, tenths_of_credits, "{plan} of {} vCPUs", offer.vcpus);
        }
    }

    /// A kind that a list calls burstable, and that nobody entered here, is no whole one.
    #[test]
    fn no_burstable_plan_of_the_list_counts_as_dedicated() {
        let catalogue = Catalogue::embedded().unwrap();
        let mut unknown: Vec<_> = catalogue
            .offers()
            .iter()
            .filter(|offer| offer.is_burstable)
            .inspect(|offer| assert_ne!(offer.cpu_share(), CpuShare::Dedicated, "{offer:?}"))
            .filter(|offer| offer.cpu_share() == CpuShare::Shared)
            .map(|offer| (offer.provider.clone(), offer.plan.clone()))
            .collect();
        unknown.dedup();
        assert_eq!(unknown, [], "burstable plans without a baseline");
    }
}
