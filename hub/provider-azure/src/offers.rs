//! What can be ordered: the built-in list for the configured regions, without what the subscription may not have there.

use std::collections::BTreeMap;
use std::sync::Arc;

use blueprint_common_types::Micros;
use blueprint_hub_provision_core::ProviderError;
use blueprint_hub_provision_core::catalogue::{Catalogue, Offer};
use futures_util::future::try_join_all;

use crate::cloud::{Azure, NAME};
use crate::sizes::Sizes;

impl Azure {
    /// What can be ordered, by price, then by name.
    pub(crate) async fn sold(&self) -> Result<Vec<Offer>, ProviderError> {
        let listed = match self.listed.get() {
            Some(listed) => listed,
            None => {
                let listed = listed(&self.config.regions)?;
                self.listed.get_or_init(|| listed)
            }
        };
        let regions = self.config.regions.iter();
        let sizes = try_join_all(regions.clone().map(|region| self.sizes(region))).await?;
        let sizes: BTreeMap<&str, Arc<Sizes>> = regions.clone().map(String::as_str).zip(sizes).collect();
        let mut spots = BTreeMap::new();
        if self.config.spot {
            let prices = try_join_all(regions.clone().map(|region| self.spot_prices(region))).await?;
            spots = regions.map(String::as_str).zip(prices).collect();
        }
        Ok(listed.iter().filter_map(|offer| offered(offer, &sizes, &spots)).collect())
    }
}

/// An offer of the list, where its region sells it to this subscription.
fn offered(
    offer: &Offer,
    sizes: &BTreeMap<&str, Arc<Sizes>>,
    spots: &BTreeMap<&str, BTreeMap<String, Micros>>,
) -> Option<Offer> {
    let plan = offer.plan.to_ascii_lowercase();
    let size = sizes.get(&*offer.region)?.get(&plan)?;
    if size.arch != offer.arch {
        return None;
    }
    let spot = spots.get(&*offer.region).and_then(|prices| prices.get(&plan)).copied();
    let spot = spot.filter(|spot| size.can_be_spot && *spot <= offer.on_demand);
    Some(Offer { spot, ..offer.clone() })
}

/// The built-in list's offers in these regions, with the list's dates. The prices that Azure gives to anybody, where they were
/// asked for, go before these wherever machines are chosen.
///
/// # Errors
///
/// [`ProviderError::Reject`] where the list that this program was built with is damaged.
fn listed(regions: &[String]) -> Result<Vec<Offer>, ProviderError> {
    let catalogue = Catalogue::embedded().map_err(|error| ProviderError::Reject {
        reason: format!("the price list of this program cannot be read: {error}"),
    })?;
    let is_ours =
        |offer: &&Offer| &*offer.provider == NAME && regions.iter().any(|region| **region == *offer.region);
    let mut offers: Vec<_> = catalogue.offers().iter().filter(is_ours).cloned().collect();
    offers.sort_by(|one, other| {
        (one.on_demand, &one.plan, &one.region).cmp(&(other.on_demand, &other.plan, &other.region))
    });
    Ok(offers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_has_these_regions_alone() {
        let offers = listed(&["eastus".to_owned(), "westeurope".to_owned()]).unwrap();
        assert!(offers.len() > 1000, "{}", offers.len());
        assert!(offers.iter().all(|offer| &*offer.provider == "azure"));
        let regions: std::collections::BTreeSet<_> = offers.iter().map(|offer| &*offer.region).collect();
        assert!(regions.into_iter().eq(["eastus", "westeurope"]));
        assert!(listed(&["moon".to_owned()]).unwrap().is_empty());
    }
}
