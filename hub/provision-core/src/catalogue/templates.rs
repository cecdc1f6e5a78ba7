//! The 31 templates of the product's specification.
//!
//! Prices, GPUs, regions and some names are the specification's and are kept exactly, even where the provider asks for
//! something else today: they are marked [`PriceKind::Template`], and never win over a price that was asked for. Where the
//! specification is silent (names of plans, sizes in the middle) real plans were chosen.

use blueprint_common_types::Micros;

use super::{Currency, Day, Gpu, GpuKind, Offer, PriceKind, regions};
use crate::resource::Arch;

/// One row of the specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Template {
    /// Its name.
    pub id: &'static str,
    /// Provider that sells it.
    pub provider: &'static str,
    /// The provider's name of the plan.
    pub plan: &'static str,
    /// Processors.
    pub vcpus: u32,
    /// MiB of memory.
    pub memory_mib: u64,
    /// GB of disk.
    pub disk_gb: u32,
    /// GB that it may send in a month before that costs; `None` where it is not metered.
    pub transfer_gb: Option<u32>,
    /// Price of an hour in US dollars.
    pub hourly: Micros,
    /// Price of a month in US dollars; not the price of 730 hours.
    pub monthly: Micros,
    /// Its GPU as the specification names it.
    pub gpu: Option<&'static str>,
    /// Kind of processor.
    pub arch: Arch,
    /// What today's provider says that the specification does not.
    pub note: &'static str,
}

/// Memory of a template's GPU in MiB, by the specification's name of it.
fn vram_mib(name: &str) -> u32 {
    match name {
        "NVIDIA H100 80GB" => 80 * 1024,
        "NVIDIA RTX 4090" | "NVIDIA RTX 6000" => 24 * 1024,
        _ => 16 * 1024,
    }
}

impl Template {
    /// Its GPU as catalogues know it.
    #[must_use]
    pub fn gpu(&self) -> Option<Gpu> {
        let name = self.gpu?;
        GpuKind::named(name).map(|kind| Gpu::whole(kind, 1, vram_mib(name)))
    }

    /// Regions in the specification's words; `au-sydney` and its like are understood wherever a region is named.
    #[must_use]
    pub fn regions(&self) -> &'static [&'static str] {
        REGIONS.iter().find(|(provider, _)| *provider == self.provider).map_or(&[], |(_, regions)| regions)
    }

    /// One offer for each region, by the provider's own names.
    #[must_use]
    pub fn offers(&self) -> Vec<Offer> {
        let offer = |region: &'static str| Offer {
            provider: self.provider.into(),
            plan: self.plan.into(),
            region: region.into(),
            arch: self.arch,
            vcpus: self.vcpus,
            is_burstable: self.plan.starts_with("t3."),
            memory_mib: self.memory_mib,
            disk_gb: self.disk_gb,
            gpu: self.gpu(),
            on_demand: self.hourly,
            spot: None,
            currency: Currency::Usd,
            as_of: Day::FACTS,
            source: "specification".into(),
            kind: PriceKind::Template,
        };
        let own = regions::of(self.provider).filter(|own| {
            self.regions().iter().any(|wanted| regions::region_matches(self.provider, own, wanted))
        });
        own.map(offer).collect()
    }
}

#[rustfmt::skip]
const REGIONS: &[(&str, &[&str])] = &[
    ("hivelocity", &["atlanta", "tampa", "los-angeles", "new-york", "miami"]),
    ("digitalocean", &["nyc1", "nyc3", "sfo3", "lon1", "fra1", "sgp1", "tor1", "ams3"]),
    ("vultr", &["ewr", "ord", "dfw", "sea", "lax", "ams", "fra", "sgp", "syd"]),
    ("aws", &["us-east-1", "us-west-2", "eu-west-1", "ap-southeast-1", "ap-northeast-1"]),
    ("equinix", &["da", "sv", "ny", "am", "sg", "ty", "fr"]),
    ("linode", &["us-east", "us-west", "us-central", "us-southeast", "eu-west", "eu-central", "ap-south",
        "ap-northeast", "ap-southeast", "ca-central", "au-sydney"]),
    ("scaleway", &["par1", "par2", "ams1", "ams2", "waw1"]),
];

/// Id, plan, processors, MiB, GB of disk, GB of transfer, price of an hour and of a month in micros, note.
type Row = (&'static str, &'static str, u32, u64, u32, Option<u32>, u64, u64, &'static str);

const fn template(provider: &'static str, row: Row) -> Template {
    Template {
        id: row.0,
        provider,
        plan: row.1,
        vcpus: row.2,
        memory_mib: row.3,
        disk_gb: row.4,
        transfer_gb: row.5,
        hourly: Micros::new(row.6),
        monthly: Micros::new(row.7),
        gpu: None,
        arch: Arch::X86_64,
        note: row.8,
    }
}

const fn with_gpu(gpu: &'static str, template: Template) -> Template {
    Template { gpu: Some(gpu), ..template }
}

const fn on_arm(template: Template) -> Template {
    Template { arch: Arch::Arm64, ..template }
}

const ENDED: &str = "not sold any more since 2026-06-30";

#[rustfmt::skip]
static TEMPLATES: [Template; 31] = [
    template("hivelocity", ("hive-small", "hive-small", 4, 16_384, 480, Some(20_000), 120_000, 85_000_000, "stock of the day")),
    template("hivelocity", ("hive-medium", "hive-medium", 8, 32_768, 960, Some(20_000), 210_000, 150_000_000, "stock of the day")),
    template("hivelocity", ("hive-large", "hive-large", 16, 65_536, 1_920, Some(20_000), 420_000, 300_000_000, "stock of the day")),
    with_gpu("NVIDIA RTX 4090", template("hivelocity", ("hive-gpu", "hive-gpu", 16, 65_536, 1_920, Some(20_000), 800_000, 575_000_000, "Hivelocity GPU Bare Metal; stock of the day"))),
    template("digitalocean", ("do-basic-1gb", "s-1vcpu-1gb", 1, 1_024, 25, Some(1_000), 7_000, 5_000_000, "listed at 6 a month today")),
    template("digitalocean", ("do-basic-4gb", "s-2vcpu-4gb", 2, 4_096, 80, Some(4_000), 30_000, 20_000_000, "listed at 24 a month today")),
    template("digitalocean", ("do-basic-8gb", "s-4vcpu-8gb", 4, 8_192, 160, Some(5_000), 60_000, 40_000_000, "listed at 48 a month today")),
    template("digitalocean", ("do-basic-32gb", "s-8vcpu-32gb", 8, 32_768, 640, Some(6_000), 238_000, 160_000_000, "today -amd and -intel variants")),
    template("vultr", ("vultr-vc2-512mb", "vc2-1c-0.5gb-v6", 1, 512, 10, Some(500), 4_000, 2_500_000, "IPv6 only")),
    template("vultr", ("vultr-vc2-4gb", "vc2-2c-4gb", 2, 4_096, 80, Some(3_000), 30_000, 20_000_000, "")),
    template("vultr", ("vultr-hf-16gb", "vhf-4c-16gb", 4, 16_384, 384, Some(5_000), 143_000, 96_000_000, "")),
    template("vultr", ("vultr-bare-metal", "vbm-6c-32gb", 6, 32_768, 1_920, Some(5_000), 340_000, 240_000_000, "listed at 185 a month today")),
    template("aws", ("aws-t3-micro", "t3.micro", 2, 1_024, 20, Some(100), 10_400, 7_500_000, "burstable: 10 % of each processor for ever")),
    template("aws", ("aws-t3-medium", "t3.medium", 2, 4_096, 40, Some(100), 41_600, 30_000_000, "burstable: 20 % of each processor for ever")),
    template("aws", ("aws-c5-xlarge", "c5.xlarge", 4, 8_192, 80, Some(100), 170_000, 124_000_000, "")),
    template("aws", ("aws-c5-2xlarge", "c5.2xlarge", 8, 16_384, 160, Some(100), 340_000, 248_000_000, "")),
    template("equinix", ("c3.small.x86", "c3.small.x86", 8, 32_768, 960, Some(20_000), 500_000, 350_000_000, ENDED)),
    template("equinix", ("c3.medium.x86", "c3.medium.x86", 24, 65_536, 960, Some(20_000), 1_500_000, 1_050_000_000, ENDED)),
    with_gpu("NVIDIA Tesla V100", template("equinix", ("g2.large.x86", "g2.large.x86", 24, 196_608, 480, Some(20_000), 3_000_000, 2_100_000_000, ENDED))),
    template("linode", ("g6-nanode-1", "g6-nanode-1", 1, 1_024, 25, Some(1_000), 7_500, 5_000_000, "")),
    template("linode", ("g6-standard-2", "g6-standard-2", 2, 4_096, 80, Some(4_000), 36_000, 24_000_000, "")),
    template("linode", ("g6-standard-4", "g6-standard-4", 4, 8_192, 160, Some(5_000), 72_000, 48_000_000, "")),
    template("linode", ("g6-dedicated-2", "g6-dedicated-2", 2, 4_096, 80, Some(4_000), 54_000, 36_000_000, "")),
    template("linode", ("g6-dedicated-8", "g6-dedicated-8", 8, 16_384, 320, Some(6_000), 216_000, 144_000_000, "")),
    with_gpu("NVIDIA RTX 6000", template("linode", ("g1-gpu-rtx6000-1", "g1-gpu-rtx6000-1", 8, 32_768, 640, Some(16_000), 1_500_000, 1_000_000_000, "in some regions; the account has to be enabled for GPUs"))),
    template("scaleway", ("STARDUST1-S", "STARDUST1-S", 1, 1_024, 10, None, 4_500, 3_000_000, "")),
    template("scaleway", ("DEV1-S", "DEV1-S", 2, 2_048, 20, None, 9_900, 7_000_000, "")),
    on_arm(template("scaleway", ("BASIC2-A4C-8G", "BASIC2-A4C-8G", 4, 8_192, 0, None, 57_000, 38_000_000, "ARM"))),
    template("scaleway", ("GP1-XS", "GP1-XS", 4, 16_384, 150, None, 102_000, 68_000_000, "")),
    with_gpu("NVIDIA T4", template("scaleway", ("RENDER-S", "RENDER-S", 10, 43_008, 400, None, 440_000, 293_000_000, "the provider says P100 and EUR 1.221 an hour today; in fr-par alone"))),
    with_gpu("NVIDIA H100 80GB", template("scaleway", ("H100-1-80G", "H100-1-80G", 24, 245_760, 0, None, 3_300_000, 2_200_000_000, "in some regions"))),
];

/// All 31, by provider in the specification's order.
#[must_use]
pub fn templates() -> &'static [Template] {
    &TEMPLATES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_what_the_specification_says() {
        let all = templates();
        assert_eq!(all.len(), 31);
        let of = |provider: &str| all.iter().filter(|row| row.provider == provider).collect::<Vec<_>>();
        for (provider, count, hourly, monthly, region_count) in [
            ("hivelocity", 4, (120_000, 800_000), (85_000_000, 575_000_000), 5),
            ("digitalocean", 4, (7_000, 238_000), (5_000_000, 160_000_000), 8),
            ("vultr", 4, (4_000, 340_000), (2_500_000, 240_000_000), 9),
            ("aws", 4, (10_400, 340_000), (7_500_000, 248_000_000), 5),
            ("equinix", 3, (500_000, 3_000_000), (350_000_000, 2_100_000_000), 7),
            ("linode", 6, (7_500, 1_500_000), (5_000_000, 1_000_000_000), 11),
            ("scaleway", 6, (4_500, 3_300_000), (3_000_000, 2_200_000_000), 5),
        ] {
            let rows = of(provider);
            let range = |price: fn(&Template) -> u64| {
                let prices = rows.iter().map(|row| price(row));
                (prices.clone().min().unwrap(), prices.max().unwrap())
            };
            assert_eq!(rows.len(), count, "{provider}");
            assert_eq!(range(|row| row.hourly.get()), hourly, "{provider}");
            assert_eq!(range(|row| row.monthly.get()), monthly, "{provider}");
            for row in &rows {
                assert_eq!(row.regions().len(), region_count, "{provider}");
                let known = |wanted: &&str| {
                    regions::of(provider).any(|own| regions::region_matches(provider, own, wanted))
                };
                assert!(row.regions().iter().all(known), "{provider}");
            }
        }
        let gpus: Vec<_> =
            all.iter().filter(|row| row.gpu.is_some()).map(|row| (row.id, row.hourly.get())).collect();
        let wanted = [
            ("hive-gpu", 800_000),
            ("g2.large.x86", 3_000_000),
            ("g1-gpu-rtx6000-1", 1_500_000),
            ("RENDER-S", 440_000),
            ("H100-1-80G", 3_300_000),
        ];
        assert_eq!(gpus, wanted);
        assert!(
            all.iter().all(|row| row.gpu.is_some() == row.gpu().is_some()),
            "a GPU that catalogues do not know"
        );
    }

    #[test]
    fn ids_are_unique() {
        let ids: std::collections::BTreeSet<_> = templates().iter().map(|row| row.id).collect();
        assert_eq!(ids.len(), 31);
    }
}
