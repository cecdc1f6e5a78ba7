//! What AWS charges for machines on demand: the price list by `GetProducts`, which takes a call for 100 prices.

use std::collections::BTreeMap;
use std::sync::Arc;

use blueprint_common_types::Micros;
use blueprint_hub_provider_kit::plans::rounded_up;
use blueprint_hub_provision_core::ProviderError;
use blueprint_hub_provision_core::catalogue::{Day, Offer, PriceKind};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::action::Action;
use crate::api::{Failure, now, unreadable};
use crate::cloud::AwsCloud;
use crate::config::Region;

/// Where the price list of all regions is asked for, and that of China's.
const PLACES: [&str; 2] = ["us-east-1", "cn-northwest-1"];

/// Most pages of a region, of 100 rows: the largest has some 1,200 kinds of machines.
const MAX_PAGES: usize = 50;

/// What tells the price of a machine with Linux, on nobody's own host, without software and without a reservation, from the
/// dozens of others that one kind has.
const FILTERS: [(&str, &str); 5] = [
    ("operatingSystem", "Linux"),
    ("tenancy", "Shared"),
    ("capacitystatus", "Used"),
    ("preInstalledSw", "NA"),
    ("operation", "RunInstances"),
];

/// A page of prices; each is a document of its own, as text.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Page {
    price_list: Vec<String>,
    #[serde(default)]
    next_token: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Priced {
    product: Product,
    terms: Terms,
}

#[derive(Debug, Deserialize)]
struct Product {
    attributes: BTreeMap<String, Value>,
}

#[derive(Debug, Deserialize)]
struct Terms {
    #[serde(rename = "OnDemand", default)]
    on_demand: BTreeMap<String, Term>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Term {
    price_dimensions: BTreeMap<String, Dimension>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Dimension {
    unit: String,
    price_per_unit: BTreeMap<String, String>,
}

impl AwsCloud {
    /// What can be ordered, with on-demand prices as AWS tells them now; plans that it does not price are left out.
    pub(crate) async fn priced(&self) -> Result<Vec<Offer>, ProviderError> {
        let (known, source): (_, Arc<str>) = (self.sold().await?, "aws GetProducts".into());
        let mut offers = Vec::new();
        for region in &self.config.regions {
            let prices = self.on_demand(region).await?;
            let here = known.iter().filter(|offer| &*offer.region == region.as_str());
            offers.extend(here.filter_map(|offer| {
                let on_demand = *prices.get(&*offer.plan)?;
                Some(Offer {
                    on_demand,
                    spot: offer.spot.filter(|spot| *spot <= on_demand),
                    as_of: Day::from(now()),
                    source: Arc::clone(&source),
                    kind: PriceKind::Live,
                    ..offer.clone()
                })
            }));
        }
        Ok(offers)
    }

    async fn on_demand(&self, region: &Region) -> Result<BTreeMap<String, Micros>, ProviderError> {
        let action = Action::GetProducts;
        let failed = |failure: Failure| failure.into_error(action, region.as_str());
        let [all, china] = PLACES;
        let place = if region.as_str().starts_with("cn-") { china } else { all };
        let own = [("regionCode", region.as_str())];
        let filters: Vec<_> = FILTERS
            .iter()
            .chain(&own)
            .map(|(field, value)| json!({ "Type": "TERM_MATCH", "Field": field, "Value": value }))
            .collect();
        let (mut prices, mut token) = (BTreeMap::new(), None::<String>);
        for _ in 0..MAX_PAGES {
            let mut body = json!({ "ServiceCode": "AmazonEC2", "Filters": filters, "MaxResults": 100 });
            if let (Some(token), Some(body)) = (&token, body.as_object_mut()) {
                body.insert("NextToken".to_owned(), json!(token));
            }
            let answer = self.api.json(place, action, &body).await.map_err(failed)?;
            let page: Page =
                serde_json::from_value(answer).map_err(|error| failed(unreadable(action, error)))?;
            for text in &page.price_list {
                let priced: Priced =
                    serde_json::from_str(text).map_err(|error| failed(unreadable(action, error)))?;
                if let Some((plan, price)) = priced.hour(region) {
                    // Of two prices for one plan the dearer counts: none is shown too low.
                    let dearest = prices.entry(plan.to_owned()).or_insert(price);
                    *dearest = price.max(*dearest);
                }
            }
            token = page.next_token.filter(|token| !token.is_empty());
            if token.is_none() {
                return Ok(prices);
            }
        }
        let source = format!("the price list of {region} has more than {MAX_PAGES} pages").into();
        Err(ProviderError::Other { call: action.name(), source })
    }
}

impl Priced {
    /// Plan, and price of an hour in US dollars; `None` for what is no such price, whatever was asked for.
    fn hour(&self, region: &Region) -> Option<(&str, Micros)> {
        let attribute = |name: &str| self.product.attributes.get(name).and_then(Value::as_str);
        let is_asked = FILTERS.iter().all(|(name, value)| attribute(name) == Some(value));
        if !is_asked || attribute("regionCode") != Some(region.as_str()) {
            return None;
        }
        let dimensions = self.terms.on_demand.values().flat_map(|term| term.price_dimensions.values());
        let dollars =
            dimensions.filter(|one| one.unit == "Hrs").filter_map(|one| one.price_per_unit.get("USD"));
        // Ten decimals are given, of which six count; a part of a millionth is a whole one.
        let price = dollars.filter_map(|text| rounded_up(text)).max()?;
        Some((attribute("instanceType")?, price)).filter(|(_, price)| *price > Micros::ZERO)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn priced(change: impl Fn(&mut Value)) -> Priced {
        let mut row = json!({
            "product": {"productFamily": "Compute Instance", "sku": "S", "attributes": {
                "instanceType": "m7g.large", "regionCode": "us-east-1", "operatingSystem": "Linux", "tenancy": "Shared",
                "capacitystatus": "Used", "preInstalledSw": "NA", "operation": "RunInstances", "vcpu": "2", "memory": "8 GiB",
            }},
            "serviceCode": "AmazonEC2",
            "terms": {"OnDemand": {"S.J": {"priceDimensions": {"S.J.6": {
                "unit": "Hrs", "beginRange": "0", "endRange": "Inf", "pricePerUnit": {"USD": "0.0816000000"},
            }}, "sku": "S", "effectiveDate": "2026-11-01T00:00:00Z"}}},
        });
        change(&mut row);
        serde_json::from_value(row).unwrap()
    }

    #[test]
    fn an_hour_of_the_machine_that_was_asked_for_is_read() {
        let region: Region = "us-east-1".parse().unwrap();
        assert_eq!(priced(|_| ()).hour(&region), Some(("m7g.large", Micros::new(81_600))));
        for (path, value) in [
            ("/product/attributes/operatingSystem", json!("Windows")),
            ("/product/attributes/tenancy", json!("Host")),
            ("/product/attributes/regionCode", json!("us-west-2")),
            ("/product/attributes/capacitystatus", json!("UnusedCapacityReservation")),
            ("/terms/OnDemand/S.J/priceDimensions/S.J.6/unit", json!("Quantity")),
            ("/terms/OnDemand/S.J/priceDimensions/S.J.6/pricePerUnit", json!({"CNY": "1"})),
            ("/terms/OnDemand/S.J/priceDimensions/S.J.6/pricePerUnit/USD", json!("0.0000000000")),
            ("/terms/OnDemand", json!({})),
        ] {
            let other = priced(|row| *row.pointer_mut(path).unwrap() = value.clone());
            assert_eq!(other.hour(&region), None, "{path}");
        }
    }
}
