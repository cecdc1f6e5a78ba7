//! What EC2 sells: the embedded list for the configured regions, and spot prices as AWS tells them.

use std::collections::BTreeMap;

use blueprint_common_types::Micros;
use blueprint_hub_provision_core::ProviderError;
use blueprint_hub_provision_core::catalogue::{Catalogue, Offer};
use futures_util::future::{FutureExt, try_join_all};

use crate::action::Action;
use crate::answer::{AnswerError, next};
use crate::api::{Failure, now, unreadable};
use crate::cloud::AwsCloud;
use crate::config::Region;
use crate::query::Query;
use crate::xml::Node;

/// Name of this provider.
pub(crate) const NAME: &str = "aws";

/// Most pages of spot prices of a region, of 1000 rows: the largest has about 1000 kinds in six zones.
const MAX_PAGES: usize = 20;

/// The embedded list's offers in these regions, as they are sold as long as they are wanted.
///
/// # Errors
///
/// [`ProviderError::Reject`] where the list that this program was built with is damaged.
pub fn listed(regions: &[Region]) -> Result<Vec<Offer>, ProviderError> {
    let catalogue = Catalogue::embedded().map_err(|error| ProviderError::Reject {
        reason: format!("the price list of this program cannot be read: {error}"),
    })?;
    let is_ours = |offer: &&Offer| {
        &*offer.provider == NAME && regions.iter().any(|region| region.as_str() == &*offer.region)
    };
    // A spot price of some day says nothing of today's.
    let mut offers: Vec<_> = catalogue
        .offers()
        .iter()
        .filter(is_ours)
        .map(|offer| Offer { spot: None, ..offer.clone() })
        .collect();
    offers.sort_by(|one, other| {
        one.on_demand
            .cmp(&other.on_demand)
            .then_with(|| (&one.plan, &one.region).cmp(&(&other.plan, &other.region)))
    });
    Ok(offers)
}

impl AwsCloud {
    /// What can be ordered, by price.
    pub(crate) async fn sold(&self) -> Result<Vec<Offer>, ProviderError> {
        let mut offers = match self.offers.get() {
            Some(offers) => offers.clone(),
            None => {
                let listed = listed(&self.config.regions)?;
                self.offers.get_or_init(|| listed).clone()
            }
        };
        if !self.config.spot {
            return Ok(offers);
        }
        let prices = try_join_all(self.config.regions.iter().map(|region| self.spot_prices(region).boxed()));
        let prices: BTreeMap<_, _> =
            self.config.regions.iter().map(Region::as_str).zip(prices.await?).collect();
        for offer in &mut offers {
            let spot = prices.get(&*offer.region).and_then(|plans| plans.get(&*offer.plan)).copied();
            offer.spot = spot.filter(|spot| *spot > Micros::ZERO && *spot <= offer.on_demand);
        }
        Ok(offers)
    }

    /// What an hour of each kind costs now where it is dearest: a machine may come to stand in any zone.
    async fn spot_prices(&self, region: &Region) -> Result<BTreeMap<String, Micros>, ProviderError> {
        let action = Action::DescribeSpotPriceHistory;
        let failed = |failure: Failure| failure.into_error(action, region.as_str());
        // What is asked for at one moment is what counts then.
        let now = now().to_string();
        let query = Query::default()
            .with("StartTime", &now)
            .with("EndTime", &now)
            .list("ProductDescription", ["Linux/UNIX"])
            .with("MaxResults", "1000");
        let (mut prices, mut token) = (BTreeMap::new(), None::<String>);
        for _ in 0..MAX_PAGES {
            let page = match &token {
                Some(token) => query.clone().with("NextToken", token),
                None => query.clone(),
            };
            let answer = self.api.query(region.as_str(), action, &page).await.map_err(failed)?;
            add(&mut prices, &answer.root).map_err(|error| failed(unreadable(action, error)))?;
            token = next(&answer.root);
            if token.is_none() {
                break;
            }
        }
        Ok(prices)
    }
}

fn add(prices: &mut BTreeMap<String, Micros>, root: &Node) -> Result<(), AnswerError> {
    for item in root.items("spotPriceHistorySet") {
        let plan = item.text("instanceType").ok_or(AnswerError("instanceType"))?;
        let price = item.text("spotPrice").and_then(|price| price.parse::<Micros>().ok());
        let price = price.ok_or(AnswerError("spotPrice"))?;
        let dearest = prices.entry(plan.to_owned()).or_insert(price);
        *dearest = price.max(*dearest);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_has_these_regions_alone_with_its_date() {
        let regions = ["us-east-1".parse().unwrap(), "eu-central-1".parse().unwrap()];
        let offers = listed(&regions).unwrap();
        assert!(offers.len() > 1000, "{}", offers.len());
        assert!(offers.is_sorted_by_key(|offer| offer.on_demand));
        for offer in &offers {
            assert!(
                &*offer.provider == "aws" && regions.iter().any(|region| region.as_str() == &*offer.region)
            );
            assert_eq!(offer.spot, None);
        }
        assert!(offers.iter().any(|offer| &*offer.plan == "g5.xlarge" && offer.gpu.is_some()));
        assert!(listed(&["us-gov-west-1".parse().unwrap()]).unwrap().is_empty());
    }

    #[test]
    fn the_dearest_zone_is_reckoned_with() {
        let item = |zone: &str, price: &str| {
            format!(
                "<item><instanceType>m5.large</instanceType><spotPrice>{price}</spotPrice><availabilityZone>{zone}</availabilityZone></item>"
            )
        };
        let text = format!(
            "<R><spotPriceHistorySet>{}{}{}</spotPriceHistorySet></R>",
            item("a", "0.031200"),
            item("b", "0.045000"),
            item("c", "0.040100")
        );
        let mut prices = BTreeMap::new();
        add(&mut prices, &Node::parse(text.as_bytes()).unwrap()).unwrap();
        assert_eq!(prices.get("m5.large").map(|price| price.get()), Some(45_000));
        let odd = Node::parse(
            b"<R><spotPriceHistorySet><item><instanceType>x</instanceType></item></spotPriceHistorySet></R>",
        )
        .unwrap();
        assert_eq!(add(&mut prices, &odd), Err(AnswerError("spotPrice")));
    }
}
