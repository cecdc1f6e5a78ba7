//! What DigitalOcean sells: `GET /v2/sizes`.

use std::collections::BTreeMap;
use std::sync::Arc;

use blueprint_common_types::{Micros, Timestamp};
use blueprint_hub_provision_core::catalogue::{Currency, Day, Gpu, GpuKind, Offer, PriceKind};
use blueprint_hub_provision_core::resource::Arch;
use serde::Deserialize;
use tracing::{debug, warn};

use crate::api::Rows;

/// Most that an hour of any size may cost, in US dollars: eight of the largest GPUs are at 24 (2026-05).
const MOST_PER_HOUR: f64 = 1000.0;

/// Hours of the month that monthly prices are reckoned with, and how far they may be off from that.
const MONTH: (f64, f64) = (730.0, 2.0);

/// GPUs by the names of `gpu_info.model`. What is not here is not offered: GPUs are never guessed.
const GPUS: [(&str, &str); 6] = [
    ("nvidia_h100", "h100"),
    ("nvidia_h200", "h200"),
    ("nvidia_l40s", "l40s"),
    ("nvidia_6000_ada", "rtx-6000-ada"),
    ("nvidia_rtx6000_ada", "rtx-6000-ada"),
    ("amd_mi300x", "mi300x"),
];

/// A size as the API shows it.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Size {
    slug: String,
    /// MiB, though the reference says megabytes: 1 GB is 1024.
    memory: u64,
    vcpus: u32,
    disk: u32,
    price_monthly: f64,
    price_hourly: f64,
    regions: Vec<String>,
    available: bool,
    #[serde(default)]
    gpu_info: Option<GpuInfo>,
}

#[derive(Debug, Clone, Deserialize)]
struct GpuInfo {
    #[serde(default)]
    count: u16,
    #[serde(default)]
    model: String,
    #[serde(default)]
    vram: Vram,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct Vram {
    #[serde(default)]
    amount: u32,
    #[serde(default)]
    unit: String,
}

/// A page of sizes.
#[derive(Debug, Deserialize)]
pub(crate) struct Sizes {
    sizes: Vec<Size>,
}

impl Rows for Sizes {
    type Row = Size;

    fn rows(self) -> Vec<Size> {
        self.sizes
    }

    fn id(row: &Size) -> String {
        row.slug.clone()
    }
}

/// Why a size is not offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Refusal {
    /// Not for sale now.
    Unavailable,
    /// A price of nothing, or of more than any machine costs.
    AbsurdPrice,
    /// The price of an hour does not fit that of a month.
    PricesDiffer,
    /// No processor, no memory, no name.
    NoMachine,
    /// A GPU that is not known.
    UnknownGpu,
}

impl Refusal {
    const fn label(self) -> &'static str {
        match self {
            Self::Unavailable => "unavailable",
            Self::AbsurdPrice => "absurd_price",
            Self::PricesDiffer => "prices_differ",
            Self::NoMachine => "no_machine",
            Self::UnknownGpu => "unknown_gpu",
        }
    }
}

/// The offers of these sizes in these regions (all of them where none is named), sorted by price, plan and region.
pub(crate) fn of(sizes: &[Size], regions: &[String], at: Timestamp) -> Vec<Offer> {
    let (provider, source): (Arc<str>, Arc<str>) = ("digitalocean".into(), "digitalocean /v2/sizes".into());
    let mut refused: BTreeMap<Refusal, usize> = BTreeMap::new();
    let mut offers = Vec::new();
    for size in sizes {
        let (price, gpu) = match size.check() {
            Ok(checked) => checked,
            Err(refusal) => {
                debug!(plan = size.slug, reason = refusal.label(), "size not offered");
                *refused.entry(refusal).or_default() += 1;
                continue;
            }
        };
        let plan: Arc<str> = size.slug.as_str().into();
        let wanted = |region: &&String| regions.is_empty() || regions.contains(region);
        offers.extend(size.regions.iter().filter(wanted).map(|region| Offer {
            provider: Arc::clone(&provider),
            plan: Arc::clone(&plan),
            region: region.as_str().into(),
            arch: Arch::X86_64,
            vcpus: size.vcpus,
            is_burstable: false,
            memory_mib: size.memory,
            disk_gb: size.disk,
            gpu: gpu.clone(),
            on_demand: price,
            spot: None,
            currency: Currency::Usd,
            as_of: Day::from(at),
            source: Arc::clone(&source),
            kind: PriceKind::Live,
        }));
    }
    for (refusal, count) in refused {
        match refusal {
            Refusal::Unavailable | Refusal::UnknownGpu => {}
            Refusal::AbsurdPrice | Refusal::PricesDiffer | Refusal::NoMachine => {
                warn!(
                    provider = "digitalocean",
                    reason = refusal.label(),
                    count,
                    "sizes left out of the offers"
                );
            }
        }
    }
    offers.sort_by(|a, b| (a.on_demand, &a.plan, &a.region).cmp(&(b.on_demand, &b.plan, &b.region)));
    offers.dedup_by(|a, b| (&a.plan, &a.region) == (&b.plan, &b.region));
    offers
}

impl Size {
    fn check(&self) -> Result<(Micros, Option<Gpu>), Refusal> {
        if !self.available {
            return Err(Refusal::Unavailable);
        }
        if self.slug.is_empty() || self.vcpus == 0 || self.memory == 0 {
            return Err(Refusal::NoMachine);
        }
        let price = self.price()?;
        let gpu = match &self.gpu_info {
            Some(info) => Some(info.gpu().ok_or(Refusal::UnknownGpu)?),
            None if is_gpu(&self.slug) => return Err(Refusal::UnknownGpu),
            None => None,
        };
        Ok((price, gpu))
    }

    /// The price of an hour. The API gives single-precision floats (0.00743999984115362 is 0.00744); millionths undo that.
    fn price(&self) -> Result<Micros, Refusal> {
        let is_sane = |price: f64, most: f64| price.is_finite() && price > 0.0 && price <= most;
        if !is_sane(self.price_hourly, MOST_PER_HOUR)
            || !is_sane(self.price_monthly, MOST_PER_HOUR * MONTH.0 * MONTH.1)
        {
            return Err(Refusal::AbsurdPrice);
        }
        let ratio = self.price_hourly * MONTH.0 / self.price_monthly;
        if !(1.0 / MONTH.1..=MONTH.1).contains(&ratio) {
            return Err(Refusal::PricesDiffer);
        }
        let price: Micros = format!("{:.6}", self.price_hourly).parse().map_err(|_| Refusal::AbsurdPrice)?;
        if price == Micros::ZERO { Err(Refusal::AbsurdPrice) } else { Ok(price) }
    }
}

/// True for the plans whose droplets are hidden from usual lists.
pub(crate) fn is_gpu(plan: &str) -> bool {
    plan.starts_with("gpu-")
}

impl GpuInfo {
    /// The reference does not say whether `vram` is that of one or of all; the smaller one is taken, as for every lower bound.
    fn gpu(&self) -> Option<Gpu> {
        let model = self.model.to_ascii_lowercase();
        let (_, kind) = GPUS.iter().find(|(name, _)| *name == model)?;
        let is_gib = self.vram.unit.eq_ignore_ascii_case("gib") || self.vram.unit.eq_ignore_ascii_case("gb");
        if self.count == 0 || self.vram.amount == 0 || !is_gib {
            return None;
        }
        let each = self.vram.amount / u32::from(self.count);
        Some(Gpu::whole(GpuKind::named(kind)?, self.count, each.saturating_mul(1024)))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn size(change: impl Fn(&mut Value)) -> Size {
        let mut size = json!({
            "slug": "s-1vcpu-1gb", "memory": 1024, "vcpus": 1, "disk": 25, "transfer": 1.0, "price_monthly": 6.0,
            "price_hourly": 0.008_930_000_476_539_135, "regions": ["fra1", "nyc1"], "available": true, "description": "Basic",
        });
        change(&mut size);
        serde_json::from_value(size).unwrap()
    }

    fn prices(sizes: &[Size], regions: &[&str]) -> Vec<(String, String, u64)> {
        let regions: Vec<_> = regions.iter().map(|region| (*region).to_owned()).collect();
        let offers = of(sizes, &regions, Timestamp::from_millis(1_795_219_200_000));
        offers.iter().map(|o| (o.plan.to_string(), o.region.to_string(), o.on_demand.get())).collect()
    }

    #[test]
    fn a_size_is_an_offer_in_each_of_its_regions() {
        let row = |region: &str| ("s-1vcpu-1gb".to_owned(), region.to_owned(), 8930);
        assert_eq!(prices(&[size(|_| ())], &[]), [row("fra1"), row("nyc1")]);
        assert_eq!(prices(&[size(|_| ())], &["nyc1", "ams3"]), [row("nyc1")]);
        let offer = of(&[size(|_| ())], &[], Timestamp::from_millis(1_795_219_200_000)).remove(0);
        assert_eq!((offer.kind, offer.as_of.to_string().as_str()), (PriceKind::Live, "2026-11-21"));
        assert_eq!((offer.vcpus, offer.memory_mib, offer.disk_gb), (1, 1024, 25));
    }

    #[test]
    fn the_cheapest_comes_first() {
        let cheap = size(|size| {
            size["slug"] = "s-1vcpu-512mb-10gb".into();
            size["price_hourly"] = 0.00595.into();
            size["price_monthly"] = 4.into();
        });
        let rows = prices(&[size(|_| ()), cheap], &["fra1"]);
        assert_eq!(rows.iter().map(|row| row.2).collect::<Vec<_>>(), [5950, 8930]);
    }

    #[test]
    fn traps_are_not_offered() {
        for (field, value, refusal) in [
            ("available", json!(false), Refusal::Unavailable),
            ("price_hourly", json!(0.0), Refusal::AbsurdPrice),
            ("price_hourly", json!(-0.1), Refusal::AbsurdPrice),
            ("price_hourly", json!(1e300), Refusal::AbsurdPrice),
            ("price_hourly", json!(0.000_000_1), Refusal::PricesDiffer),
            ("price_hourly", json!(6.0), Refusal::PricesDiffer),
            ("price_monthly", json!(0), Refusal::AbsurdPrice),
            ("vcpus", json!(0), Refusal::NoMachine),
            ("memory", json!(0), Refusal::NoMachine),
            ("slug", json!("gpu-mystery"), Refusal::UnknownGpu),
            (
                "gpu_info",
                json!({"count": 1, "model": "nvidia_x9000", "vram": {"amount": 8, "unit": "gib"}}),
                Refusal::UnknownGpu,
            ),
            (
                "gpu_info",
                json!({"count": 0, "model": "nvidia_h100", "vram": {"amount": 80, "unit": "gib"}}),
                Refusal::UnknownGpu,
            ),
        ] {
            let size = size(|size| size[field] = value.clone());
            assert_eq!(size.check().unwrap_err(), refusal, "{field} {value}");
            assert!(prices(&[size], &[]).is_empty());
        }
    }

    #[test]
    fn gpus_are_counted_and_their_memory_is_a_lower_bound() {
        let gpu = |count, amount| {
            let size = size(|size| {
                size["slug"] = "gpu-h100".into();
                size["gpu_info"] = json!({"count": count, "model": "nvidia_h100", "vram": {"amount": amount, "unit": "gib"}});
            });
            let gpu = size.check().unwrap().1.unwrap();
            (gpu.kind.as_str(), gpu.count(), gpu.vram_mib)
        };
        assert_eq!(gpu(1, 80), ("h100", 1, 80 * 1024));
        assert_eq!(gpu(8, 640), ("h100", 8, 80 * 1024));
        for (_, kind) in GPUS {
            assert!(GpuKind::named(kind).is_some(), "{kind}");
        }
    }
}
