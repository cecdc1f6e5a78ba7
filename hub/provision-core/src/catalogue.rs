//! What can be ordered, and what it costs: rows of many sources, each with its date and kind.

mod day;
mod facts;
mod gpu;
mod regions;
mod snapshot;
mod templates;

use std::sync::Arc;

use blueprint_common_types::Micros;
use serde::{Deserialize, Serialize};

use crate::resource::Arch;

pub use day::{Day, ParseDayError};
pub use facts::{Extras, Lifecycle, ProviderFacts, facts, is_one_machine, providers};
pub use gpu::{Gpu, GpuKind};
pub(crate) use regions::is_known as is_known_region;
pub use regions::{Area, area_of, region_matches};
pub use snapshot::SnapshotError;
pub use templates::{Template, templates};

/// How a price came to be known. Later ones are surer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PriceKind {
    /// Stated by the product's specification; never asked of the provider.
    Template,
    /// From the list that the hub was built with.
    Snapshot,
    /// Asked of the provider some time ago.
    Cached,
    /// Asked of the provider just now.
    Live,
}

/// Money of a price.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Currency {
    /// US dollar.
    Usd,
    /// Euro.
    Eur,
}

/// One kind of machine in one region, with its list price for an hour.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// Name of the provider, as the hub knows it: `aws`, `digitalocean`, ...
    pub provider: Arc<str>,
    /// The provider's name of the kind of machine.
    pub plan: Arc<str>,
    /// The provider's name of the region.
    pub region: Arc<str>,
    /// Kind of processor.
    pub arch: Arch,
    /// Processors, as the machine counts them.
    pub vcpus: u32,
    /// Whether they are given their full speed only for a while.
    pub is_burstable: bool,
    /// MiB of memory.
    pub memory_mib: u64,
    /// GB of disk that are in the price; 0 where a disk is billed apart.
    pub disk_gb: u32,
    /// Its GPUs.
    pub gpu: Option<Gpu>,
    /// Price of an hour as long as it is wanted.
    pub on_demand: Micros,
    /// Price of an hour of one that the provider may take back.
    pub spot: Option<Micros>,
    /// Money of both prices.
    pub currency: Currency,
    /// Day of the price.
    pub as_of: Day,
    /// Who said so.
    pub source: Arc<str>,
    /// How it came to be known.
    pub kind: PriceKind,
}

impl Offer {
    /// Whether its machines have no IPv4 address at all, so that they reach a hub over IPv6 alone.
    #[must_use]
    pub fn is_ipv6_only(&self) -> bool {
        &*self.provider == "vultr" && self.plan.ends_with("-v6")
    }

    /// One without disk, GPU or spot price, as its provider says now, for an hour at `on_demand` US dollars.
    #[must_use]
    pub fn live(
        provider: &str,
        plan: &str,
        region: &str,
        (vcpus, memory_mib): (u32, u64),
        on_demand: Micros,
    ) -> Self {
        Self {
            provider: provider.into(),
            plan: plan.into(),
            region: region.into(),
            arch: Arch::X86_64,
            vcpus,
            is_burstable: false,
            memory_mib,
            disk_gb: 0,
            gpu: None,
            on_demand,
            spot: None,
            currency: Currency::Usd,
            as_of: Day::FACTS,
            source: provider.into(),
            kind: PriceKind::Live,
        }
    }
}

/// Every offer that the hub knows, sorted by provider, plan and region, each once.
#[derive(Debug, Clone, Default)]
pub struct Catalogue {
    offers: Vec<Offer>,
}

impl Catalogue {
    /// What the hub was built with: the embedded price list, and the templates for providers that are not in it.
    ///
    /// It takes some 100 ms in a debug build and 4 MiB; keep it.
    ///
    /// # Errors
    ///
    /// The embedded list is damaged; it is checked by the crate's tests.
    pub fn embedded() -> Result<Self, SnapshotError> {
        let mut offers = snapshot::read(include_bytes!("../data/snapshot.csv.zst"))?;
        offers
            .extend(templates().iter().filter(|row| !snapshot::has(row.provider)).flat_map(Template::offers));
        Ok(Self::new(offers))
    }

    /// A catalogue of `offers`. Of two for one plan and region the surer one is kept, of two equally sure ones the later.
    #[must_use]
    pub fn new(mut offers: Vec<Offer>) -> Self {
        offers.sort_by(|a, b| {
            let name = |offer: &Offer| (offer.provider.clone(), offer.plan.clone(), offer.region.clone());
            name(a).cmp(&name(b)).then_with(|| (b.kind, b.as_of).cmp(&(a.kind, a.as_of)))
        });
        offers.dedup_by(|a, b| (&a.provider, &a.plan, &a.region) == (&b.provider, &b.plan, &b.region));
        Self { offers }
    }

    /// All of them.
    #[must_use]
    pub fn offers(&self) -> &[Offer] {
        &self.offers
    }

    /// The same with `newer` rows put in; what they do not name stays.
    #[must_use]
    pub fn with(&self, newer: Vec<Offer>) -> Self {
        let mut offers = self.offers.clone();
        offers.extend(newer);
        Self::new(offers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_list_is_sound() {
        let catalogue = Catalogue::embedded().unwrap();
        assert!(catalogue.offers().len() > 21_000, "{}", catalogue.offers().len());
        for offer in catalogue.offers() {
            assert!(offer.on_demand > Micros::ZERO, "{offer:?}");
            assert!(offer.on_demand < Micros::new(1_000_000_000), "{offer:?}");
            assert!(
                offer.spot.is_none_or(|spot| spot > Micros::ZERO && spot <= offer.on_demand),
                "{offer:?}"
            );
            assert!(offer.vcpus > 0 && offer.memory_mib > 0, "{offer:?}");
            assert!(facts(&offer.provider).is_some(), "{offer:?}");
        }
        let names: std::collections::BTreeSet<_> =
            catalogue.offers().iter().map(|offer| &*offer.provider).collect();
        let wanted =
            ["aws", "azure", "digitalocean", "equinix", "gcp", "hivelocity", "linode", "scaleway", "vultr"];
        assert!(names.into_iter().eq(wanted));
    }

    /// Prices that were looked up by hand, and rows that are known to be traps.
    #[test]
    fn spot_checks_of_the_embedded_list() {
        let catalogue = Catalogue::embedded().unwrap();
        let find = |provider: &str, plan: &str, region: &str| {
            catalogue.offers().iter().find(|offer| {
                &*offer.provider == provider && &*offer.plan == plan && &*offer.region == region
            })
        };
        let price = |provider, plan, region| find(provider, plan, region).map(|offer| offer.on_demand.get());
        assert_eq!(price("azure", "Standard_D4s_v5", "eastus"), Some(192_000));
        assert_eq!(price("gcp", "n2-standard-4", "us-central1"), Some(194_200));
        assert_eq!(price("aws", "m7g.large", "us-east-1"), Some(81_600));
        // Inflated on purpose in the list that it came from: 0.03353 there.
        assert_eq!(price("gcp", "e2-micro", "us-central1"), Some(8_380));
        // Two of eight processors are usable, names of the form \d-\d.
        assert_eq!(price("azure", "Standard_E8-2s_v5", "eastus"), None);
        let slice = find("aws", "g6f.large", "us-east-1").and_then(|offer| offer.gpu.clone()).unwrap();
        assert!(!slice.is_whole(), "{slice:?}");
        let slice =
            find("azure", "Standard_NV6ads_A10_v5", "eastus").and_then(|offer| offer.gpu.clone()).unwrap();
        assert!(!slice.is_whole(), "{slice:?}");
        // Cards with programmable gates are no GPUs.
        assert!(!catalogue.offers().iter().any(|offer| offer.plan.starts_with("Standard_NP")));
    }

    #[test]
    fn the_surer_and_the_later_price_is_kept() {
        let row = |kind, day: &str, micros| {
            let mut offer =
                templates().iter().find(|row| row.id == "do-basic-1gb").unwrap().offers().remove(0);
            offer.kind = kind;
            offer.as_of = day.parse().unwrap();
            offer.on_demand = Micros::new(micros);
            offer
        };
        let catalogue = Catalogue::new(vec![
            row(PriceKind::Template, "2026-01-01", 1),
            row(PriceKind::Live, "2025-01-01", 2),
            row(PriceKind::Live, "2025-01-02", 3),
        ]);
        assert_eq!(catalogue.offers().len(), 1);
        assert_eq!(catalogue.offers().first().unwrap().on_demand.get(), 3);
        assert_eq!(catalogue.with(vec![row(PriceKind::Snapshot, "2027-01-01", 9)]).offers().len(), 1);
    }
}
