//! Linode: `GET /v4/linode/types`, `/v4/regions` and `/v4/regions/availability`.

use std::collections::{BTreeMap, BTreeSet};

use blueprint_common_types::Timestamp;
use blueprint_hub_provision_core::catalogue::{Currency, Gpu, GpuKind, Offer};
use serde::Deserialize;

use super::{blank, hourly};

/// GPUs by the beginnings of plans: the API has no names of them. Kind, and MiB of each.
const GPUS: [(&str, &str, u32); 1] = [("g1-gpu-rtx6000-", "rtx-6000", 24 * 1024)];

/// A page of any list of this API.
#[derive(Debug, Deserialize)]
pub struct Page<T> {
    /// Its rows.
    pub data: Vec<T>,
    /// How many pages there are.
    pub pages: usize,
    /// How many rows all pages have.
    #[serde(default)]
    pub results: usize,
}

/// A kind of machine.
#[derive(Debug, Clone, Deserialize)]
pub struct Type {
    /// Its name in orders.
    pub id: String,
    /// `nanode`, `standard`, `dedicated`, `premium`, `highmem`, `gpu`, `accelerated`.
    class: String,
    price: Price,
    #[serde(default)]
    region_prices: Vec<RegionPrice>,
    /// MiB.
    memory: u64,
    /// MiB.
    disk: u64,
    vcpus: u32,
    #[serde(default)]
    gpus: u16,
    #[serde(default)]
    accelerated_devices: u16,
}

#[derive(Debug, Clone, Copy, Deserialize)]
struct Price {
    hourly: Option<f64>,
    /// A cap: machines that stand for a month cost no more.
    monthly: Option<f64>,
}

#[derive(Debug, Clone, Deserialize)]
struct RegionPrice {
    id: String,
    #[serde(flatten)]
    price: Price,
}

/// A place.
#[derive(Debug, Clone, Deserialize)]
pub struct Region {
    /// Its name in orders.
    pub id: String,
    /// What it can do, such as `Linodes` or `Metadata`.
    pub capabilities: BTreeSet<String>,
    /// `ok` or `outage`.
    #[serde(default)]
    pub status: String,
}

/// Whether a place has any left of a kind; of most kinds the API says nothing.
#[derive(Debug, Clone, Deserialize)]
pub struct Availability {
    region: String,
    plan: String,
    available: bool,
}

impl Availability {
    /// What tells two rows apart.
    #[must_use]
    pub fn id(&self) -> String {
        format!("{} {}", self.plan, self.region)
    }
}

/// One row for each kind and each place that has it, can do what is `needed`, and is not known to have none left. Prices that
/// cannot be are zero.
#[must_use]
pub fn offers(
    types: &[Type],
    regions: &[Region],
    stock: &[Availability],
    needed: &[&str],
    now: Timestamp,
) -> Vec<Offer> {
    let sold_out: BTreeSet<(&str, &str)> = stock
        .iter()
        .filter(|row| !row.available)
        .map(|row| (row.plan.as_str(), row.region.as_str()))
        .collect();
    let regions: Vec<_> = regions.iter().filter(|region| region.is_open() && region.can(needed)).collect();
    let rows = types.iter().flat_map(|kind| kind.offers(&regions, now));
    rows.filter(|offer| !sold_out.contains(&(&*offer.plan, &*offer.region))).collect()
}

impl Region {
    /// Whether it takes orders now.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.status.is_empty() || self.status == "ok"
    }

    /// Whether it can do all of this.
    #[must_use]
    pub fn can(&self, needed: &[&str]) -> bool {
        needed.iter().all(|one| self.capabilities.contains(*one))
    }
}

impl Type {
    /// What a region must be able to do to have it.
    fn needs(&self) -> &'static str {
        match self.class.as_str() {
            "gpu" => "GPU Linodes",
            "premium" => "Premium Plans",
            _ => "Linodes",
        }
    }

    /// One row for each region that has it; none for GPUs and other cards that are not known.
    fn offers(&self, regions: &[&Region], now: Timestamp) -> Vec<Offer> {
        let known = GPUS.iter().find(|(start, _, _)| self.id.starts_with(start));
        let gpu = known.and_then(|(_, kind, vram)| Some((GpuKind::named(kind)?, *vram)));
        if self.accelerated_devices > 0 || (self.gpus > 0 && gpu.is_none()) {
            return Vec::new();
        }
        let own: BTreeMap<&str, Price> = self
            .region_prices
            .iter()
            .filter(|row| row.price.hourly.is_some())
            .map(|row| (row.id.as_str(), row.price))
            .collect();
        let base = Offer {
            plan: self.id.as_str().into(),
            vcpus: self.vcpus,
            // Nanodes and standard plans share their processors, with what others leave of them.
            is_burstable: matches!(self.class.as_str(), "nanode" | "standard"),
            memory_mib: self.memory,
            disk_gb: u32::try_from(self.disk / 1024).unwrap_or(u32::MAX),
            gpu: gpu.filter(|_| self.gpus > 0).map(|(kind, vram)| Gpu::whole(kind, self.gpus, vram)),
            ..blank("linode", "linode /v4/linode/types", Currency::Usd, now)
        };
        let here = regions.iter().filter(|region| region.capabilities.contains(self.needs()));
        let offer = |region: &&Region| {
            let price = own.get(region.id.as_str()).unwrap_or(&self.price);
            let on_demand = hourly(price.hourly.unwrap_or(0.0), price.monthly);
            Offer { region: region.id.as_str().into(), on_demand, ..base.clone() }
        };
        here.map(offer).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(id: &str, status: &str, capabilities: &[&str]) -> Region {
        let capabilities = capabilities.iter().map(|text| (*text).to_owned()).collect();
        Region { id: id.to_owned(), capabilities, status: status.to_owned() }
    }

    #[test]
    fn only_regions_that_can_do_what_is_needed_sell() {
        let types: Vec<Type> = serde_json::from_value(serde_json::json!([{
            "id": "g6-nanode-1", "class": "nanode", "price": {"hourly": 0.0075, "monthly": 5.0}, "memory": 1024,
            "disk": 25600, "vcpus": 1,
        }]))
        .unwrap();
        let regions = [
            region("us-east", "ok", &["Linodes", "Metadata"]),
            region("old", "ok", &["Linodes"]),
            region("dark", "outage", &["Linodes", "Metadata"]),
        ];
        let rows = |needed: &[&str]| {
            let offers = offers(&types, &regions, &[], needed, Timestamp::from_millis(0));
            offers.iter().map(|offer| offer.region.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(rows(&[]), ["us-east", "old"]);
        assert_eq!(rows(&["Metadata"]), ["us-east"]);
        assert_eq!(rows(&["Metadata", "Cloud Firewall"]), Vec::<String>::new());
    }
}
