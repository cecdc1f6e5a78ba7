//! Linode: `GET /v4/linode/types`, `/v4/regions` and `/v4/regions/availability`.

use blueprint_common_types::Timestamp;
use blueprint_hub_provider_kit::HttpClient;
use blueprint_hub_provider_kit::plans::linode::{Availability, Page, Region, Type, offers};
use blueprint_hub_provision_core::ProviderError;
use blueprint_hub_provision_core::catalogue::{Offer, PriceSource};
use futures_util::future::{BoxFuture, FutureExt};
use serde::de::DeserializeOwned;

use crate::fetch::{Fetch, MAX_PAGES, endless};

/// What Linode sells, by its own list.
#[derive(Debug, Clone)]
pub struct Linode(Fetch);

impl Linode {
    /// The public API.
    pub const ENDPOINT: &str = "https://api.linode.com";

    /// Asks `endpoint`, [`ENDPOINT`](Self::ENDPOINT) or a stand-in for it.
    #[must_use]
    pub fn new(http: HttpClient, endpoint: &str) -> Self {
        Self(Fetch::new(http, endpoint.to_owned()))
    }

    async fn all<T: DeserializeOwned>(
        &self,
        call: &'static str,
        path: &str,
    ) -> Result<Vec<T>, ProviderError> {
        let mut rows = Vec::new();
        for number in 1..=MAX_PAGES {
            let path = format!("{path}?page={number}&page_size=500");
            let (page, _) = self.0.get::<Page<T>>(call, &path).await?;
            rows.extend(page.data);
            if number >= page.pages {
                return Ok(rows);
            }
        }
        Err(endless(call))
    }

    async fn list(&self, now: Timestamp) -> Result<Vec<Offer>, ProviderError> {
        let types: Vec<Type> = self.all("get-linode-types", "/v4/linode/types").await?;
        let regions: Vec<Region> = self.all("get-regions", "/v4/regions").await?;
        let stock: Vec<Availability> =
            self.all("get-regions-availability", "/v4/regions/availability").await?;
        Ok(offers(&types, &regions, &stock, &[], now))
    }
}

impl PriceSource for Linode {
    fn provider(&self) -> &str {
        "linode"
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

    fn page(rows: &Value) -> Value {
        json!({"data": rows, "page": 1, "pages": 1, "results": 9})
    }

    #[tokio::test]
    async fn types_are_offers_where_regions_have_them() {
        let types = json!([
            {"id": "g6-nanode-1", "class": "nanode", "price": {"hourly": 0.0075, "monthly": 5.0},
             "region_prices": [{"id": "id-cgk", "hourly": 0.009, "monthly": 6.0}], "memory": 1024, "disk": 25600,
             "vcpus": 1, "gpus": 0, "accelerated_devices": 0, "transfer": 1000, "successor": null},
            {"id": "g1-gpu-rtx6000-2", "class": "gpu", "price": {"hourly": 3.0, "monthly": 2000.0},
             "region_prices": [], "memory": 65536, "disk": 1_310_720, "vcpus": 16, "gpus": 2},
            {"id": "g2-gpu-rtx4000a1-s", "class": "gpu", "price": {"hourly": 0.52}, "memory": 16384, "disk": 524_288,
             "vcpus": 4, "gpus": 1},
            {"id": "g1-accelerated-netint-vpu-t1u1-s", "class": "accelerated", "price": {"hourly": 0.42},
             "memory": 16384, "disk": 307_200, "vcpus": 8, "gpus": 0, "accelerated_devices": 1},
            {"id": "g7-premium-2", "class": "premium", "price": {"hourly": null}, "memory": 4096, "disk": 81920,
             "vcpus": 2, "gpus": 0},
        ]);
        let regions = json!([
            {"id": "us-east", "country": "us", "status": "ok", "capabilities": ["Linodes", "GPU Linodes"]},
            {"id": "id-cgk", "country": "id", "status": "ok", "capabilities": ["Linodes", "Premium Plans"]},
            {"id": "outage", "country": "us", "status": "outage", "capabilities": ["Linodes"]},
            {"id": "de-fra-2", "country": "de", "status": "ok", "capabilities": ["Linodes"]},
        ]);
        let stock = json!([{"region": "de-fra-2", "plan": "g6-nanode-1", "available": false}]);
        let endpoint = served(vec![
            ("/v4/linode/types?page=1&page_size=500", page(&types)),
            ("/v4/regions?page=1&page_size=500", page(&regions)),
            ("/v4/regions/availability?page=1&page_size=500", page(&stock)),
        ]);
        let offers = Linode::new(client(), &endpoint).ask(Timestamp::from_millis(0)).await.unwrap();
        let rows: Vec<_> = offers.iter().map(|o| (&*o.plan, &*o.region, o.on_demand.get())).collect();
        assert_eq!(
            rows,
            [
                ("g6-nanode-1", "us-east", 7500),
                ("g6-nanode-1", "id-cgk", 9000),
                ("g1-gpu-rtx6000-2", "us-east", 3_000_000),
                // Without a price it is a row that nobody takes.
                ("g7-premium-2", "id-cgk", 0),
            ]
        );
        let gpu = offers.get(2).unwrap().gpu.clone().unwrap();
        assert_eq!((gpu.kind.as_str(), gpu.count(), gpu.vram_mib), ("rtx-6000", 2, 24 * 1024));
        assert!(offers.first().unwrap().is_burstable && offers.first().unwrap().disk_gb == 25);
    }

    #[tokio::test]
    async fn a_missing_list_is_an_error() {
        let endpoint = served(vec![("/v4/linode/types?page=1&page_size=500", page(&json!([])))]);
        let error = Linode::new(client(), &endpoint).ask(Timestamp::from_millis(0)).await.unwrap_err();
        assert!(matches!(error, ProviderError::Other { call: "get-regions", .. }), "{error}");
    }
}
