//! Vultr: `GET /v2/plans` and `/v2/plans-metal`.

use blueprint_common_types::Timestamp;
use blueprint_hub_provider_kit::HttpClient;
use blueprint_hub_provider_kit::plans::vultr::{Meta, Plan};
use blueprint_hub_provision_core::ProviderError;
use blueprint_hub_provision_core::catalogue::{Offer, PriceSource};
use futures_util::future::{BoxFuture, FutureExt};
use serde::Deserialize;

use crate::fetch::{Fetch, MAX_PAGES, endless};

/// What Vultr sells, by its own list.
#[derive(Debug, Clone)]
pub struct Vultr(Fetch);

#[derive(Debug, Deserialize)]
struct Page {
    #[serde(alias = "plans_metal")]
    plans: Vec<Plan>,
    meta: Meta,
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
            cursor = page.meta.next().map_err(|_| endless(call))?;
            if cursor.is_empty() {
                return Ok(plans);
            }
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
        "vultr"
    }

    fn origin(&self) -> String {
        self.0.origin()
    }

    fn ask(&self, now: Timestamp) -> BoxFuture<'_, Result<Vec<Offer>, ProviderError>> {
        self.list(now).boxed()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

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
}
