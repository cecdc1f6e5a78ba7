//! What Google charges now: the Cloud Billing Catalogue, which has prices of processors and memory and none of machines.
//!
//! A kind of machine costs what its parts do. Which parts belong to which family only their descriptions say, in words that Google
//! may change; so each kind is reckoned for the region whose prices the built-in list has, too, and is left out where the two are
//! far apart. Only rows that the built-in list has are renewed: others are not ordered, and a price of one would be an offer that nobody can take.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use blueprint_common_types::Micros;
use blueprint_hub_provision_core::ProviderError;
use blueprint_hub_provision_core::catalogue::{Day, Offer, PriceKind};
use serde::Deserialize;
use tracing::warn;

use crate::action::Action;
use crate::api::{Answer, now};
use crate::cloud::GcpCloud;
use crate::config::Region;
use crate::offers::listed;

/// Most pages of 5000 prices: Compute Engine has some ten of them.
const MAX_PAGES: usize = 60;

/// What is asked of a price: whole answers are several times as long.
const FIELDS: &str = "nextPageToken,skus(description,category(usageType),serviceRegions,\
                      pricingInfo(pricingExpression(usageUnit,tieredRates(unitPrice))))";

/// Families of machines, and how descriptions of their parts begin.
const FAMILIES: [(&str, &str); 10] = [
    ("c2", "Compute optimized"),
    ("c2d", "C2D AMD Instance"),
    ("c3", "C3 Instance"),
    ("c3d", "C3D Instance"),
    ("e2", "E2 Instance"),
    ("m1", "Memory-optimized Instance"),
    ("n1", "N1 Predefined Instance"),
    ("n2", "N2 Instance"),
    ("n2d", "N2D AMD Instance"),
    ("t2d", "T2D AMD Instance"),
];

/// Thousandths of a processor that machines with a share of one are billed for.
const SHARES: [(&str, u64); 3] = [("e2-micro", 250), ("e2-small", 500), ("e2-medium", 1000)];

/// The region whose prices the built-in list has from elsewhere.
const KNOWN: &str = "us-central1";

/// Hundredths of the known price that a reckoned one may have.
const BELIEVED: std::ops::RangeInclusive<u64> = 75..=133;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Page {
    skus: Vec<Sku>,
    #[serde(default)]
    next_page_token: String,
}

/// One price.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sku {
    #[serde(default)]
    description: String,
    #[serde(default)]
    category: Category,
    #[serde(default)]
    service_regions: Vec<String>,
    #[serde(default)]
    pricing_info: Vec<Info>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Category {
    usage_type: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Info {
    pricing_expression: Expression,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Expression {
    usage_unit: String,
    #[serde(default)]
    tiered_rates: Vec<Rate>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rate {
    unit_price: Money,
}

/// An amount: whole units as text, and what is beyond them in billionths.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Money {
    currency_code: String,
    #[serde(default)]
    units: String,
    #[serde(default)]
    nanos: u64,
}

/// A part of machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Core,
    Memory,
}

/// What one price is of: family, part, and whether of Spot machines.
type Of = (&'static str, Part, bool);

/// Prices of parts of machines, in billionths of a US dollar for an hour, by region.
#[derive(Debug, Default)]
struct Parts(BTreeMap<(Of, String), u64>);

impl Sku {
    /// What it is a price of; `None` for what no machine here is made of, such as commitments and custom machines.
    fn of(&self) -> Option<Of> {
        let (head, _) = self.description.split_once(" running in ")?;
        let (head, is_spot) = match head.strip_prefix("Spot Preemptible ") {
            Some(rest) => (rest, true),
            None => (head, false),
        };
        if self.category.usage_type != if is_spot { "Preemptible" } else { "OnDemand" } {
            return None;
        }
        let (words, part) = match head.strip_suffix(" Core") {
            Some(words) => (words, Part::Core),
            None => (head.strip_suffix(" Ram")?, Part::Memory),
        };
        FAMILIES.iter().find(|(_, own)| *own == words).map(|(family, _)| (*family, part, is_spot))
    }

    /// Billionths of a dollar for an hour of it; the dearest of its steps, since the first ones may be free.
    fn nanos(&self, part: Part) -> Option<u64> {
        let unit = match part {
            Part::Core => "h",
            Part::Memory => "GiBy.h",
        };
        let expressions = self.pricing_info.iter().map(|info| &info.pricing_expression);
        let rates = expressions.filter(|one| one.usage_unit == unit).flat_map(|one| &one.tiered_rates);
        let nanos = |rate: &Rate| {
            let Money { currency_code, units, nanos } = &rate.unit_price;
            let units = if units.is_empty() { 0 } else { units.parse::<u64>().ok()? };
            let whole = units.checked_mul(1_000_000_000)?.checked_add(*nanos)?;
            (currency_code == "USD").then_some(whole)
        };
        rates.filter_map(nanos).max().filter(|nanos| *nanos > 0)
    }
}

impl Parts {
    fn add(&mut self, sku: &Sku) {
        let Some(of) = sku.of() else { return };
        let Some(nanos) = sku.nanos(of.1) else { return };
        for region in &sku.service_regions {
            // Of two prices for one part the dearer counts: none is shown too low.
            let dearest = self.0.entry((of, region.clone())).or_insert(nanos);
            *dearest = nanos.max(*dearest);
        }
    }

    /// The price of an hour of such a machine in a region, rounded up; `None` where a part of it has none.
    fn hour(&self, like: &Offer, region: &str, is_spot: bool) -> Option<Micros> {
        let (family, _) = like.plan.split_once('-')?;
        let (family, _) = FAMILIES.iter().find(|(own, _)| *own == family)?;
        let price = |part: Part| self.0.get(&((*family, part, is_spot), region.to_owned())).copied();
        let share = SHARES.iter().find(|(plan, _)| *plan == &*like.plan).map(|(_, share)| *share);
        let thousandths = share.unwrap_or_else(|| u64::from(like.vcpus).saturating_mul(1000));
        let cores = price(Part::Core)?.checked_mul(thousandths)?.div_ceil(1000);
        let memory = price(Part::Memory)?.checked_mul(like.memory_mib)?.div_ceil(1024);
        Some(Micros::new(cores.checked_add(memory)?.div_ceil(1000)))
    }

    /// Whether what is reckoned for a machine is near what the built-in list says of it.
    fn is_believed(&self, known: &Offer) -> bool {
        let reckoned = self.hour(known, KNOWN, false).map_or(0, Micros::get);
        let hundredths = reckoned.saturating_mul(100).checked_div(known.on_demand.get());
        hundredths.is_some_and(|hundredths| BELIEVED.contains(&hundredths))
    }
}

impl GcpCloud {
    /// What can be ordered, with prices as Google tells them now; kinds that cannot be reckoned are left out.
    pub(crate) async fn priced(&self) -> Result<Vec<Offer>, ProviderError> {
        let orderable = self.orderable()?;
        let parts = self.parts().await?;
        let source: Arc<str> = "gcp Cloud Billing Catalogue".into();
        let known_region: Region = KNOWN.parse().map_err(|error: crate::config::ParseGcpError| {
            ProviderError::Reject { reason: error.to_string() }
        })?;
        let mut known = listed(&[known_region], false)?;
        // What is built in beside processors and memory is priced apart.
        known.retain(|offer| offer.gpu.is_none() && offer.disk_gb == 0 && !offer.plan.ends_with("-lssd"));
        let all = known.len();
        known.retain(|offer| parts.is_believed(offer));
        if known.is_empty() {
            let source = "no price of it is near what was known: its words or units are others by now".into();
            return Err(ProviderError::Other { call: Action::ListSkus.name(), source });
        }
        if known.len() < all {
            warn!(
                provider = "gcp",
                count = all - known.len(),
                "kinds of machines are left out of the price list, for their parts have no price that can be believed"
            );
        }
        let sold = self.sold_kinds().await?;
        let mut offers = Vec::new();
        for region in &self.config.regions {
            for like in &known {
                let row = (region.to_string(), like.plan.to_string(), like.vcpus, like.memory_mib);
                let is_ours = orderable.contains(&row) && sold.contains(&row);
                let Some(on_demand) = parts.hour(like, region.as_str(), false).filter(|_| is_ours) else {
                    continue;
                };
                let spot = parts.hour(like, region.as_str(), true).filter(|_| self.config.spot);
                offers.push(Offer {
                    region: region.as_str().into(),
                    on_demand,
                    spot: spot.filter(|spot| *spot <= on_demand),
                    as_of: Day::from(now()),
                    source: Arc::clone(&source),
                    kind: PriceKind::Live,
                    ..like.clone()
                });
            }
        }
        Ok(offers)
    }

    /// Region, name, processors and MiB of the rows that the built-in list has in the configured regions, at least one.
    fn orderable(&self) -> Result<BTreeSet<(String, String, u32, u64)>, ProviderError> {
        let listed = listed(&self.config.regions, false)?;
        let has_none = |region: &&Region| listed.iter().all(|offer| &*offer.region != region.as_str());
        let without: Vec<_> = self.config.regions.iter().filter(has_none).map(ToString::to_string).collect();
        if listed.is_empty() {
            let reason = format!(
                "the built-in price list has no machines in {}, so that none can be ordered there; docs/gcp.md names the regions \
                 that it has",
                without.join(", ")
            );
            return Err(ProviderError::Reject { reason });
        }
        for region in without {
            warn!(
                provider = "gcp",
                region, "region is not in the built-in price list, nothing is ordered there"
            );
        }
        let row =
            |offer: Offer| (offer.region.to_string(), offer.plan.to_string(), offer.vcpus, offer.memory_mib);
        Ok(listed.into_iter().map(row).collect())
    }

    async fn parts(&self) -> Result<Parts, ProviderError> {
        let action = Action::ListSkus;
        let lacks = |what: &str| ProviderError::Other { call: action.name(), source: what.into() };
        let (mut parts, mut next) = (Parts::default(), None::<String>);
        for _ in 0..MAX_PAGES {
            let mut query = vec![("currencyCode", "USD"), ("pageSize", "5000"), ("fields", FIELDS)];
            if let Some(token) = &next {
                query.push(("pageToken", token));
            }
            let answer = self.api.call::<Page>(action, "", &query, None).await;
            let Answer { body, .. } =
                answer.map_err(|failure| failure.into_error(action, "Compute Engine"))?;
            body.skus.iter().for_each(|sku| parts.add(sku));
            match Some(body.next_page_token).filter(|token| !token.is_empty()) {
                None => return Ok(parts),
                Some(token) if next.as_ref() == Some(&token) => break,
                more => next = more,
            }
        }
        Err(lacks("the list of prices does not end"))
    }
}

#[cfg(test)]
mod tests;
