//! Vultr: `GET /v2/plans` and `/v2/plans-metal`.

use std::collections::BTreeMap;

use blueprint_common_types::Timestamp;
use blueprint_hub_provider_kit::HttpClient;
use blueprint_hub_provision_core::ProviderError;
use blueprint_hub_provision_core::catalogue::{Currency, Gpu, GpuKind, Offer, PriceSource};
use futures_util::future::{BoxFuture, FutureExt};
use serde::Deserialize;
use serde_json::Value;

use crate::fetch::{Fetch, MAX_PAGES, blank, endless, price};

const NAME: &str = "vultr";

/// What Vultr sells, by its own list.
#[derive(Debug, Clone)]
pub struct Vultr(Fetch);

#[derive(Debug, Deserialize)]
struct Page {
    #[serde(alias = "plans_metal")]
    plans: Vec<Plan>,
    meta: Meta,
}

#[derive(Debug, Deserialize)]
struct Meta {
    #[serde(default)]
    links: Links,
}

#[derive(Debug, Default, Deserialize)]
struct Links {
    #[serde(default)]
    next: String,
}

#[derive(Debug, Deserialize)]
struct Plan {
    id: String,
    /// Processors of a virtual machine.
    #[serde(default)]
    vcpu_count: u32,
    /// Threads of a whole machine.
    #[serde(default)]
    cpu_threads: u32,
    /// MiB.
    ram: u64,
    #[serde(default)]
    disk: u32,
    #[serde(default)]
    disk_count: Option<u32>,
    #[serde(flatten)]
    cost: Cost,
    #[serde(default)]
    location_cost: Option<BTreeMap<String, Cost>>,
    /// `hourly`, or `monthly` for what is billed by whole months.
    #[serde(default)]
    invoice_type: String,
    #[serde(default)]
    locations: Vec<String>,
    #[serde(default)]
    deploy_ondemand: Option<bool>,
    #[serde(default)]
    gpu_type: String,
    #[serde(default)]
    gpu_vram_gb: Option<u32>,
    /// A number, or a text such as `1/4`.
    #[serde(default)]
    gpu_count: Value,
}

#[derive(Debug, Deserialize)]
struct Cost {
    #[serde(default)]
    hourly_cost: f64,
}

impl Vultr {
    /// The public API.
    pub const ENDPOINT: &str = "https://api.vultr.com";

    /// Asks `endpoint`, [`ENDPOINT`](Self::ENDPOINT) or a stand-in for it.
    #[must_use]
    pub fn new(http: HttpClient, endpoint: &str) -> Self {
        Self(Fetch::new(http, endpoint.to_owned()))
    }

    async fn plans(&self, call: &'static str, path: &str) -> Result<Vec<Plan>, ProviderError> {
        let (mut plans, mut cursor) = (Vec::new(), String::new());
        for _ in 0..MAX_PAGES {
            let (page, _) = self.0.get::<Page>(call, &format!("{path}per_page=500{cursor}")).await?;
            plans.extend(page.plans);
            let next = page.meta.links.next;
            if next.is_empty() {
                return Ok(plans);
            }
            // It goes into a query: letters, digits and what Base64 has besides.
            let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"-_=".contains(&b);
            if !next.bytes().all(is_plain) {
                return Err(endless(call));
            }
            cursor = format!("&cursor={next}");
        }
        Err(endless(call))
    }

    async fn list(&self, now: Timestamp) -> Result<Vec<Offer>, ProviderError> {
        let mut plans = self.plans("list-plans", "/v2/plans?type=all&").await?;
        plans.extend(self.plans("list-metal-plans", "/v2/plans-metal?").await?);
        Ok(plans.iter().flat_map(|plan| plan.offers(now)).collect())
    }
}

impl PriceSource for Vultr {
    fn provider(&self) -> &str {
        NAME
    }

    fn origin(&self) -> String {
        self.0.origin()
    }

    fn ask(&self, now: Timestamp) -> BoxFuture<'_, Result<Vec<Offer>, ProviderError>> {
        self.list(now).boxed()
    }
}

impl Plan {
    /// One row for each place; none for what is not sold by the hour, or has GPUs that are not known.
    fn offers(&self, now: Timestamp) -> Vec<Offer> {
        let is_sold = self.deploy_ondemand != Some(false) && self.invoice_type != "monthly";
        let gpu = match self.gpu() {
            Ok(gpu) if is_sold => gpu,
            Ok(_) | Err(()) => return Vec::new(),
        };
        let base = Offer {
            plan: self.id.as_str().into(),
            vcpus: self.vcpu_count.max(self.cpu_threads),
            memory_mib: self.ram,
            disk_gb: self.disk.saturating_mul(self.disk_count.unwrap_or(1).max(1)),
            gpu,
            on_demand: price(self.cost.hourly_cost),
            ..blank(NAME, "vultr /v2/plans", Currency::Usd, now)
        };
        let costs = self.location_cost.as_ref();
        let places = self.locations.iter().filter(|place| !place.is_empty());
        let offer = |place: &String| {
            let here = costs.and_then(|costs| costs.get(place)).map(|cost| price(cost.hourly_cost));
            Offer { region: place.as_str().into(), on_demand: here.unwrap_or(base.on_demand), ..base.clone() }
        };
        places.map(offer).collect()
    }

    /// Its GPUs; an error for those that are not known.
    fn gpu(&self) -> Result<Option<Gpu>, ()> {
        if self.gpu_type.is_empty() {
            return if self.id.starts_with("vcg-") || self.id.contains("gpu") { Err(()) } else { Ok(None) };
        }
        let kind = GpuKind::named(&self.gpu_type.replace('_', " ")).ok_or(())?;
        let thousandths = match &self.gpu_count {
            Value::Number(count) => count.as_u64().and_then(|count| count.checked_mul(1000)).ok_or(())?,
            Value::String(text) => fraction(text).ok_or(())?,
            Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => return Err(()),
        };
        let count_millis = u32::try_from(thousandths).ok().filter(|count| *count > 0).ok_or(())?;
        let vram_mib = self.gpu_vram_gb.unwrap_or(0).saturating_mul(1024);
        // The API tells the memory of all of them.
        Ok(Some(Gpu { kind, count_millis, vram_mib: vram_mib / (count_millis / 1000).max(1) }))
    }
}

/// Thousandths of `1/4`, or of a whole number.
fn fraction(text: &str) -> Option<u64> {
    let (above, below) = text.split_once('/').unwrap_or((text, "1"));
    let (above, below): (u64, u64) = (above.trim().parse().ok()?, below.trim().parse().ok()?);
    above.checked_mul(1000)?.checked_div(below)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::served::{client, served};

    fn plans() -> Value {
        json!({"plans": [
            {"id": "vc2-1c-1gb", "vcpu_count": 1, "ram": 1024, "disk": 25, "disk_count": 1, "bandwidth": 1024,
             "monthly_cost": 5, "hourly_cost": 0.007, "type": "vc2", "locations": ["ewr", "sao", ""],
             "location_cost": {"sao": {"hourly_cost": 0.010, "monthly_cost": 7}}},
            {"id": "vcg-a16-2c-8g-2vram", "vcpu_count": 2, "ram": 8192, "disk": 50, "hourly_cost": 0.059,
             "monthly_cost": 43, "locations": ["ewr"], "gpu_type": "NVIDIA_A16", "gpu_vram_gb": 2, "gpu_count": "1/8"},
            {"id": "vcg-mystery", "vcpu_count": 2, "ram": 8192, "hourly_cost": 0.1, "locations": ["ewr"],
             "gpu_type": "NVIDIA_X9", "gpu_count": 1},
            {"id": "not-sold", "vcpu_count": 2, "ram": 8192, "hourly_cost": 0.1, "locations": ["ewr"],
             "deploy_ondemand": false},
        ], "meta": {"total": 5, "links": {"next": "bmV4dA==", "prev": ""}}})
    }

    #[tokio::test]
    async fn plans_of_all_pages_and_places_are_offers() {
        let second = json!({"plans": [
            {"id": "vhf-1c-2gb", "vcpu_count": 1, "ram": 2048, "disk": 64, "hourly_cost": 0.018, "locations": ["ewr"]},
        ], "meta": {"total": 5, "links": {"next": "", "prev": "x"}}});
        let metal = json!({"plans_metal": [
            {"id": "vbm-4c-32gb", "cpu_count": 4, "cpu_threads": 8, "ram": 32768, "disk": 240, "disk_count": 2,
             "hourly_cost": 0.179, "monthly_cost": 120, "locations": ["ewr"], "invoice_type": "hourly"},
            {"id": "vbm-month", "cpu_threads": 8, "ram": 32768, "hourly_cost": 0.1, "locations": ["ewr"],
             "invoice_type": "monthly"},
        ], "meta": {"total": 2, "links": {"next": "", "prev": ""}}});
        let endpoint = served(vec![
            ("/v2/plans?type=all&per_page=500", plans()),
            ("/v2/plans?type=all&per_page=500&cursor=bmV4dA==", second),
            ("/v2/plans-metal?per_page=500", metal),
        ]);
        let offers = Vultr::new(client(), &endpoint).ask(Timestamp::from_millis(0)).await.unwrap();
        let rows: Vec<_> =
            offers.iter().map(|o| (&*o.plan, &*o.region, o.vcpus, o.on_demand.get())).collect();
        assert_eq!(
            rows,
            [
                ("vc2-1c-1gb", "ewr", 1, 7000),
                ("vc2-1c-1gb", "sao", 1, 10_000),
                ("vcg-a16-2c-8g-2vram", "ewr", 2, 59_000),
                ("vhf-1c-2gb", "ewr", 1, 18_000),
                ("vbm-4c-32gb", "ewr", 8, 179_000),
            ]
        );
        let slice = offers.iter().find_map(|offer| offer.gpu.clone()).unwrap();
        assert!(!slice.is_whole() && slice.count_millis == 125, "{slice:?}");
        assert_eq!(offers.last().unwrap().disk_gb, 480);
    }

    #[tokio::test]
    async fn half_a_list_is_an_error() {
        let endpoint = served(vec![("/v2/plans?type=all&per_page=500", plans())]);
        let error = Vultr::new(client(), &endpoint).ask(Timestamp::from_millis(0)).await.unwrap_err();
        assert!(matches!(error, ProviderError::Other { call: "list-plans", .. }), "{error}");
    }

    #[test]
    fn slices_are_read() {
        for (text, thousandths) in
            [("1/4", Some(250)), ("2", Some(2000)), ("1/0", None), ("", None), ("a/b", None)]
        {
            assert_eq!(fraction(text), thousandths, "{text}");
        }
    }
}
