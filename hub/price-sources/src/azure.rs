//! Azure: the retail price API. It knows prices and no machines, so the rest of a row is that of the built-in list.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use blueprint_common_types::Timestamp;
use blueprint_hub_provider_kit::HttpClient;
use blueprint_hub_provision_core::ProviderError;
use blueprint_hub_provision_core::catalogue::{Catalogue, Currency, Offer, PriceKind, PriceSource};
use futures_util::future::{BoxFuture, FutureExt};
use http::Uri;
use serde::Deserialize;

use crate::fetch::{Fetch, MAX_PAGES, blank, endless, price};

const NAME: &str = "azure";

const CALL: &str = "retail prices";

/// What Azure charges in some regions, by its own list: 100 rows of some 6,000 a region come with each answer.
#[derive(Debug)]
pub struct Azure {
    fetch: Fetch,
    regions: Vec<String>,
    known: OnceLock<BTreeMap<String, Offer>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Page {
    items: Vec<Item>,
    #[serde(default)]
    next_page_link: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Item {
    currency_code: String,
    retail_price: f64,
    #[serde(default)]
    tier_minimum_units: f64,
    arm_region_name: String,
    #[serde(default)]
    arm_sku_name: String,
    #[serde(default)]
    sku_name: String,
    #[serde(default)]
    product_name: String,
    unit_of_measure: String,
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    is_primary_meter_region: bool,
}

impl Azure {
    /// The public API.
    pub const ENDPOINT: &str = "https://prices.azure.com";

    /// Asks `endpoint`, [`ENDPOINT`](Self::ENDPOINT) or a stand-in for it, for these regions.
    #[must_use]
    pub fn new(http: HttpClient, endpoint: &str, regions: Vec<String>) -> Self {
        Self { fetch: Fetch::new(http, endpoint.to_owned()), regions, known: OnceLock::new() }
    }

    /// Machines by their names in lower case, without prices.
    fn known(&self) -> Result<&BTreeMap<String, Offer>, ProviderError> {
        if let Some(known) = self.known.get() {
            return Ok(known);
        }
        let catalogue = Catalogue::embedded().map_err(|error| ProviderError::Reject {
            reason: format!("the price list of this program cannot be read: {error}"),
        })?;
        let own = catalogue.offers().iter().filter(|offer| &*offer.provider == NAME);
        let known = own.map(|offer| (offer.plan.to_ascii_lowercase(), offer.clone())).collect();
        Ok(self.known.get_or_init(|| known))
    }

    async fn items(&self, region: &str) -> Result<Vec<Item>, ProviderError> {
        let is_name = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        if region.is_empty() || !region.bytes().all(is_name) {
            let reason = format!("{region:?} is no region of Azure; they are named like eastus");
            return Err(ProviderError::Reject { reason });
        }
        let mut path = format!(
            "/api/retail/prices?api-version=2023-01-01-preview&$filter=serviceName%20eq%20%27Virtual%20Machines%27%20and%20\
             armRegionName%20eq%20%27{region}%27%20and%20priceType%20eq%20%27Consumption%27"
        );
        let mut items = Vec::new();
        for _ in 0..MAX_PAGES {
            let (page, _) = self.fetch.get::<Page>(CALL, &path).await?;
            items.extend(page.items);
            match page.next_page_link.filter(|link| !link.is_empty()) {
                None => return Ok(items),
                Some(link) => path = self.path_of(&link)?,
            }
        }
        Err(endless(CALL))
    }

    /// Path and query of a link to the same host; links to others are not followed.
    fn path_of(&self, link: &str) -> Result<String, ProviderError> {
        let origin = self.fetch.origin();
        let link: Option<Uri> = link.parse().ok();
        let own: Option<Uri> = origin.parse().ok();
        let is_own = |link: &Uri| own.as_ref().is_some_and(|own| own.host() == link.host());
        let path = link.filter(is_own).and_then(|link| Some(link.path_and_query()?.as_str().to_owned()));
        path.ok_or_else(|| ProviderError::Reject { reason: format!("a page of {origin} leads elsewhere") })
    }

    async fn list(&self, now: Timestamp) -> Result<Vec<Offer>, ProviderError> {
        let mut offers = Vec::new();
        for region in &self.regions {
            let items = self.items(region).await?;
            offers.extend(rows(&items, region, self.known()?, now));
        }
        Ok(offers)
    }
}

impl PriceSource for Azure {
    fn provider(&self) -> &str {
        NAME
    }

    fn origin(&self) -> String {
        self.fetch.origin()
    }

    fn ask(&self, now: Timestamp) -> BoxFuture<'_, Result<Vec<Offer>, ProviderError>> {
        self.list(now).boxed()
    }
}

impl Item {
    /// True for the hourly price of a Linux machine.
    fn is_wanted(&self, region: &str) -> bool {
        let is_other = |text: &&str| self.product_name.contains(*text) || self.sku_name.contains(*text);
        self.currency_code == "USD"
            && self.kind == "Consumption"
            && self.unit_of_measure == "1 Hour"
            && self.is_primary_meter_region
            && self.tier_minimum_units == 0.0
            && self.arm_region_name == region
            && !["Windows", "Cloud Services", "Low Priority", "Dedicated Host"].iter().any(is_other)
    }
}

/// The offers of one region: machines that are known and have an hourly price.
fn rows(items: &[Item], region: &str, known: &BTreeMap<String, Offer>, now: Timestamp) -> Vec<Offer> {
    let mut rows: BTreeMap<&str, Offer> = BTreeMap::new();
    let mut spots = BTreeMap::new();
    for item in items.iter().filter(|item| item.is_wanted(region)) {
        let Some(offer) = known.get(&item.arm_sku_name.to_ascii_lowercase()) else { continue };
        if item.sku_name.ends_with(" Spot") {
            spots.insert(item.arm_sku_name.as_str(), price(item.retail_price));
            continue;
        }
        let fresh = blank(NAME, "azure retail prices", Currency::Usd, now);
        let row = Offer {
            region: region.into(),
            on_demand: price(item.retail_price),
            spot: None,
            as_of: fresh.as_of,
            source: fresh.source,
            kind: PriceKind::Live,
            ..offer.clone()
        };
        // Of two meters for one machine the dearer counts: a price is never shown too low.
        let dearer = rows.get(item.arm_sku_name.as_str()).is_none_or(|other| row.on_demand > other.on_demand);
        if dearer {
            rows.insert(&item.arm_sku_name, row);
        }
    }
    rows.into_iter().map(|(name, offer)| Offer { spot: spots.get(name).copied(), ..offer }).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::served::{client, served};

    fn item(sku: &str, name: &str, price: f64, change: impl Fn(&mut Value)) -> Value {
        let mut item = json!({
            "currencyCode": "USD", "tierMinimumUnits": 0.0, "retailPrice": price, "unitPrice": price, "armRegionName": "eastus",
            "location": "US East", "meterName": name, "productName": "Virtual Machines Dsv5 Series", "skuName": name,
            "serviceName": "Virtual Machines", "unitOfMeasure": "1 Hour", "type": "Consumption", "isPrimaryMeterRegion": true,
            "armSkuName": sku,
        });
        change(&mut item);
        item
    }

    const FIRST: &str = "/api/retail/prices?api-version=2023-01-01-preview&$filter=serviceName%20eq%20%27Virtual%20Machines%27%20and%20armRegionName%20eq%20%27eastus%27%20and%20priceType%20eq%20%27Consumption%27";

    #[tokio::test]
    async fn prices_of_known_machines_are_taken_over_all_pages() {
        let d4 = "Standard_D4s_v5";
        let first = vec![
            item(d4, "D4s v5", 0.2, |_| ()),
            item(d4, "D4s v5 Spot", 0.05, |_| ()),
            item(d4, "D4s v5 Low Priority", 0.04, |_| ()),
            item(d4, "D4s v5", 0.376, |item| {
                item["productName"] = "Virtual Machines Dsv5 Series Windows".into()
            }),
            item(d4, "D4s v5", 900.0, |item| item["type"] = "Reservation".into()),
            item("Standard_Unheard_Of", "X", 0.001, |_| ()),
        ];
        let second = vec![
            item("standard_d8s_v5", "D8s v5", 0.4, |_| ()),
            item("Standard_D2s_v5", "D2s v5", 0.1, |item| item["isPrimaryMeterRegion"] = false.into()),
        ];
        let next = "/api/retail/prices?$skip=100";
        let endpoint = served(vec![
            (
                FIRST,
                json!({"Items": first, "NextPageLink": format!("http://127.0.0.1:443{next}"), "Count": 100}),
            ),
            (next, json!({"Items": second, "NextPageLink": null, "Count": 2})),
        ]);
        let azure = Azure::new(client(), &endpoint, vec!["eastus".into()]);
        let offers = azure.ask(Timestamp::from_millis(1_795_219_200_000)).await.unwrap();
        let rows: Vec<_> = offers
            .iter()
            .map(|o| (&*o.plan, o.vcpus, o.on_demand.get(), o.spot.map(blueprint_common_types::Micros::get)))
            .collect();
        assert_eq!(
            rows,
            [("Standard_D4s_v5", 4, 200_000, Some(50_000)), ("Standard_D8s_v5", 8, 400_000, None)]
        );
        assert!(offers.iter().all(|offer| offer.as_of.to_string() == "2026-11-21"));
    }

    #[tokio::test]
    async fn links_to_others_and_odd_regions_are_refused() {
        let endpoint = served(vec![(
            FIRST,
            json!({"Items": [], "NextPageLink": "http://169.254.169.254/latest", "Count": 0}),
        )]);
        for region in ["eastus", "a'b", ""] {
            let azure = Azure::new(client(), &endpoint, vec![region.into()]);
            let error = azure.ask(Timestamp::from_millis(0)).await.unwrap_err();
            assert!(matches!(error, ProviderError::Reject { .. }), "{region}: {error}");
        }
    }
}
