//! Prices of machines that may be taken back, as Azure's public price list has them now. It asks for no credentials and gets none.

use std::collections::BTreeMap;

use blueprint_common_types::Micros;
use blueprint_hub_provider_kit::{redacted, retry_after};
use blueprint_hub_provision_core::ProviderError;
use bytes::Bytes;
use http::header::ACCEPT;
use http::{Request, StatusCode, Uri};
use serde::Deserialize;

use crate::api::now;
use crate::cloud::Azure;

const CALL: &str = "retail prices";

/// Most pages of one region; it has some 2000 rows for Linux and Windows together, and a page 100 or more.
const MAX_PAGES: usize = 60;

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
    arm_region_name: String,
    #[serde(default)]
    arm_sku_name: String,
    #[serde(default)]
    meter_name: String,
    #[serde(default)]
    product_name: String,
    unit_of_measure: String,
    #[serde(rename = "type")]
    kind: String,
}

impl Azure {
    /// What an hour of each kind costs, by names in lower case.
    ///
    /// # Errors
    ///
    /// As the list answers; half of it is an error.
    pub(crate) async fn spot_prices(&self, region: &str) -> Result<BTreeMap<String, Micros>, ProviderError> {
        let mut path = format!(
            "/api/retail/prices?api-version=2023-01-01-preview&$filter=serviceName%20eq%20%27Virtual%20Machines%27%20and%20\
             armRegionName%20eq%20%27{region}%27%20and%20priceType%20eq%20%27Consumption%27%20and%20\
             endswith(meterName,%20%27Spot%27)"
        );
        let endpoint = self.config.prices_endpoint.trim_end_matches('/');
        let own: Option<Uri> = endpoint.parse().ok();
        let mut prices = BTreeMap::new();
        for _ in 0..MAX_PAGES {
            let page = self.page(endpoint, &path).await?;
            for item in page.items.iter().filter(|item| item.is_wanted(region)) {
                let Some(price) = price(item.retail_price) else { continue };
                // Of two prices for one kind the dearer counts: none is shown too low.
                let dearest = prices.entry(item.arm_sku_name.to_ascii_lowercase()).or_insert(price);
                *dearest = price.max(*dearest);
            }
            let Some(link) = page.next_page_link.filter(|link| !link.is_empty()) else { return Ok(prices) };
            let link: Option<Uri> = link.parse().ok();
            let is_own = |link: &Uri| own.as_ref().is_some_and(|own| own.host() == link.host());
            let next = link.filter(is_own).and_then(|link| Some(link.path_and_query()?.as_str().to_owned()));
            path = next.ok_or_else(|| other("a page leads to another host".to_owned()))?;
        }
        Err(other(format!("the list has more than {MAX_PAGES} pages")))
    }

    async fn page(&self, endpoint: &str, path: &str) -> Result<Page, ProviderError> {
        let request = Request::get(format!("{endpoint}{path}")).header(ACCEPT, "application/json");
        let request = request.body(Bytes::new()).map_err(|_| ProviderError::Reject {
            reason: format!("{endpoint} makes no URL; check prices.azure_endpoint"),
        })?;
        let answer = self.config.http.send(CALL, request).await?;
        match answer.status() {
            StatusCode::OK => serde_json::from_slice(answer.body())
                .map_err(|error| other(format!("wrong at line {} column {}", error.line(), error.column()))),
            StatusCode::TOO_MANY_REQUESTS => {
                Err(ProviderError::Throttle { retry_after: retry_after(answer.headers(), now()) })
            }
            status => Err(other(format!("status {}: {}", status.as_u16(), redacted(answer.body())))),
        }
    }
}

impl Item {
    /// A machine of Linux for an hour, in US dollars.
    fn is_wanted(&self, region: &str) -> bool {
        let is_other = |name: &&str| self.product_name.contains(name);
        self.kind == "Consumption"
            && self.currency_code == "USD"
            && self.unit_of_measure == "1 Hour"
            && self.arm_region_name == region
            && self.meter_name.ends_with("Spot")
            && !["Windows", "Cloud Services", "Dedicated Host"].iter().any(is_other)
    }
}

fn other(why: String) -> ProviderError {
    ProviderError::Other { call: CALL, source: why.into() }
}

/// A price as the list writes it; `None` for what no machine costs.
fn price(amount: f64) -> Option<Micros> {
    let is_sane = amount.is_finite() && amount > 0.0 && amount <= 1000.0;
    let price = is_sane.then(|| format!("{amount:.6}"))?.parse::<Micros>().ok()?;
    (price > Micros::ZERO).then_some(price)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn an_hour_of_linux_is_read_and_nothing_else() {
        let item = |change: &dyn Fn(&mut Value)| {
            let mut item = json!({
                "currencyCode": "USD", "retailPrice": 0.0192, "armRegionName": "eastus", "armSkuName": "Standard_D2s_v5",
                "meterName": "D2s v5 Spot", "productName": "Virtual Machines Dsv5 Series", "unitOfMeasure": "1 Hour", "type": "Consumption",
            });
            change(&mut item);
            serde_json::from_value::<Item>(item).unwrap().is_wanted("eastus")
        };
        assert!(item(&|_| {}));
        for (field, value) in [
            ("currencyCode", "EUR"),
            ("armRegionName", "westus"),
            ("meterName", "D2s v5"),
            ("meterName", "D2s v5 Low Priority"),
            ("productName", "Virtual Machines Dsv5 Series Windows"),
            ("unitOfMeasure", "1 Month"),
            ("type", "Reservation"),
        ] {
            assert!(!item(&|item| item[field] = value.into()), "{field}");
        }
        for wrong in [0.0, -1.0, f64::NAN, 1e9, 1e-9] {
            assert_eq!(price(wrong), None, "{wrong}");
        }
        assert_eq!(price(0.0192).map(Micros::get), Some(19_200));
    }
}
