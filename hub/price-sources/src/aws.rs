//! AWS: the price list of EC2 that anybody may fetch, a CSV file of some 300 MB for each region.
//!
//! It is read as it comes, and a thousand prices of it are kept. With an account AWS answers the same in some MB
//! (`GetProducts`), so this is for hubs without one. Lists that others make of it are smaller; who may use those is not said, and
//! what is wrong in them is nobody's fault. Rows have the machine that the built-in list says: the file knows its processors by names of
//! marketing, and a kind in a region that the built-in list lacks cannot be ordered.

mod list;
mod records;

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::time::Duration;

use blueprint_common_types::{Micros, Timestamp};
use blueprint_hub_provider_kit::{HttpClient, HttpConfig};
use blueprint_hub_provision_core::ProviderError;
use blueprint_hub_provision_core::catalogue::{Catalogue, Day, Offer, PriceKind, PriceSource};
use futures_util::future::{BoxFuture, FutureExt};

use crate::fetch::Fetch;
use list::{List, Told};

const NAME: &str = "aws";

const CALL: &str = "the price list of EC2";

/// Longest time for one region: 1 MB a second do.
const REGION_WITHIN: Duration = Duration::from_secs(300);

/// Most bytes of one region; the largest had some 300 MB in September 2026.
const MAX_BYTES: usize = 1 << 30;

/// What AWS charges in some regions, by its own list.
#[derive(Debug)]
pub struct Aws {
    fetch: Fetch,
    regions: Vec<String>,
    known: OnceLock<Vec<Offer>>,
}

impl Aws {
    /// The public list.
    pub const ENDPOINT: &str = "https://pricing.us-east-1.amazonaws.com";

    /// Most regions that are asked for, so that [`within`](PriceSource::within) has a bound.
    pub const MAX_REGIONS: usize = 6;

    /// How the list is fetched: 1 GiB and 300 s for each region at most.
    #[must_use]
    pub fn calls() -> HttpConfig {
        HttpConfig { max_body: MAX_BYTES, answer_within: REGION_WITHIN, ..HttpConfig::default() }
    }

    /// Asks `endpoint`, [`ENDPOINT`](Self::ENDPOINT) or a stand-in for it, for these regions, by a client for [`calls`](Self::calls).
    #[must_use]
    pub fn new(http: HttpClient, endpoint: &str, regions: Vec<String>) -> Self {
        Self { fetch: Fetch::new(http, endpoint.to_owned()), regions, known: OnceLock::new() }
    }

    /// The rows that can be ordered, of all regions.
    fn known(&self) -> Result<&[Offer], ProviderError> {
        if let Some(known) = self.known.get() {
            return Ok(known);
        }
        let catalogue = Catalogue::embedded().map_err(|error| ProviderError::Reject {
            reason: format!("the price list of this program cannot be read: {error}"),
        })?;
        let known = catalogue.offers().iter().filter(|offer| &*offer.provider == NAME).cloned().collect();
        Ok(self.known.get_or_init(|| known))
    }

    /// The machines that are known in a region, by name.
    fn known_in(&self, region: &str) -> Result<BTreeMap<&str, &Offer>, ProviderError> {
        let all = self.known()?;
        let here = all.iter().filter(|offer| &*offer.region == region);
        let here: BTreeMap<_, _> = here.map(|offer| (&*offer.plan, offer)).collect();
        if here.is_empty() {
            let mut regions: Vec<&str> = all.iter().map(|offer| &*offer.region).collect();
            regions.sort_unstable();
            regions.dedup();
            let reason = format!(
                "the built-in list has no machines in {region:?} of AWS, so that none can be ordered there; name some of {} in \
                 prices.aws_regions",
                regions.join(", ")
            );
            return Err(ProviderError::Reject { reason });
        }
        Ok(here)
    }

    async fn list(&self, now: Timestamp) -> Result<Vec<Offer>, ProviderError> {
        let mut offers = Vec::new();
        // What cannot be asked for is told before anything is fetched.
        let known: Result<Vec<_>, _> = self.regions.iter().map(|region| self.known_in(region)).collect();
        for (region, known) in self.regions.iter().zip(&known?) {
            let path = format!("/offers/v1.0/aws/AmazonEC2/current/{region}/index.csv");
            let mut list = List::new(region, known);
            self.fetch.read(CALL, &path, &mut |piece| list.take(piece)).await?;
            let told = list
                .finish(Day::from(now))
                .map_err(|error| ProviderError::Other { call: CALL, source: Box::new(error) })?;
            offers.extend(rows(&told, known, now));
        }
        Ok(offers)
    }
}

impl PriceSource for Aws {
    fn provider(&self) -> &str {
        NAME
    }

    fn origin(&self) -> String {
        self.fetch.origin()
    }

    fn within(&self) -> Duration {
        let regions = u32::try_from(self.regions.len()).unwrap_or(u32::MAX);
        // Half a minute for the way there.
        REGION_WITHIN.saturating_add(Duration::from_secs(30)).saturating_mul(regions)
    }

    fn again_after(&self) -> Duration {
        // It may have brought nearly all of its hundreds of megabytes before it failed.
        Duration::from_secs(24 * 3600)
    }

    fn ask(&self, now: Timestamp) -> BoxFuture<'_, Result<Vec<Offer>, ProviderError>> {
        self.list(now).boxed()
    }
}

/// The offers of one region: machines that are known and have a price.
fn rows(told: &Told<'_>, known: &BTreeMap<&str, &Offer>, now: Timestamp) -> Vec<Offer> {
    let source = format!("aws price list of {}", told.published).into();
    let row = |(plan, on_demand): (&&str, &Micros)| {
        let offer = *known.get(plan)?;
        Some(Offer {
            on_demand: *on_demand,
            // A spot price of some day says nothing of today's.
            spot: None,
            as_of: Day::from(now),
            source: std::sync::Arc::clone(&source),
            kind: PriceKind::Live,
            ..offer.clone()
        })
    };
    told.prices.iter().filter_map(row).collect()
}

#[cfg(test)]
mod tests;
