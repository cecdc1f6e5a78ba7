//! What can be ordered, and what it costs: rows of many sources, each with its date and kind.

mod asked;
mod day;
mod directory;
mod facts;
mod gpu;
mod regions;
mod share;
mod snapshot;
mod templates;

use std::collections::BTreeSet;
use std::sync::Arc;

use blueprint_common_types::Micros;
use serde::{Deserialize, Serialize};

use crate::resource::Arch;

pub use asked::{
    MAX_ROWS, Oddity, PriceDesk, PriceError, PriceList, PriceListView, PriceSource, PriceStore, Sifted, sift,
};
pub use day::{Day, ParseDayError};
use directory::Directory;
pub(crate) use directory::{Kind, Region, Seller};
pub use facts::{
    Extras, Lifecycle, ProviderFacts, delivered_within, facts, is_one_machine, is_plugin, listed_within,
    providers,
};
pub use gpu::{Gpu, GpuKind};
pub use regions::{Area, area_of, region_matches, region_of};
pub(crate) use regions::{Word, is_known as is_known_region};
pub use share::CpuShare;
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
    /// What it is called by; a catalogue has each name once, and is sorted by it.
    fn name(&self) -> (&str, &str, &str) {
        (&self.provider, &self.plan, &self.region)
    }

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
    directory: Directory,
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
        offers
            .sort_by(|a, b| a.name().cmp(&b.name()).then_with(|| (b.kind, b.as_of).cmp(&(a.kind, a.as_of))));
        offers.dedup_by(|a, b| a.name() == b.name());
        let directory = Directory::of(&offers);
        Self { offers, directory }
    }

    /// All of them.
    #[must_use]
    pub fn offers(&self) -> &[Offer] {
        &self.offers
    }

    /// The same by provider and plan, as placement goes through them.
    pub(crate) const fn directory(&self) -> &Directory {
        &self.directory
    }

    /// The same with `newer` rows put in; what they do not name stays.
    #[must_use]
    pub fn with(&self, newer: Vec<Offer>) -> Self {
        if newer.is_empty() {
            return self.clone();
        }
        let mut offers = self.offers.clone();
        offers.extend(newer);
        Self::new(offers)
    }

    /// An offer of the list that a hub was built with, at the price that its provider told since, where that is known here.
    #[must_use]
    pub fn newer(&self, offer: Offer) -> Offer {
        if offer.kind != PriceKind::Snapshot {
            return offer;
        }
        let found = self.offers.binary_search_by(|row| row.name().cmp(&offer.name())).ok();
        match found.and_then(|at| self.offers.get(at)).filter(|row| row.kind > PriceKind::Snapshot) {
            Some(row) => Offer {
                on_demand: row.on_demand,
                as_of: row.as_of,
                source: row.source.clone(),
                kind: row.kind,
                // That of the same asking; a list that has none may go with prices of Spot that were asked by themselves.
                spot: row.spot.or(offer.spot).filter(|spot| *spot < row.on_demand),
                ..offer
            },
            None => offer,
        }
    }

    /// The same with lists that providers gave since. Where a list has anything of a region, it has all that is sold there:
    /// other rows of the provider are dropped there. A list that is older than a row of its provider is left out.
    #[must_use]
    pub fn with_lists(&self, lists: &[PriceList]) -> Self {
        if lists.is_empty() {
            return self.clone();
        }
        let mut offers = self.offers.clone();
        for list in lists {
            let day = Day::from(list.asked_at);
            let is_own = |offer: &Offer| *offer.provider == *list.provider;
            if offers.iter().any(|offer| is_own(offer) && offer.as_of > day) {
                continue;
            }
            let regions: BTreeSet<&str> = list.offers.iter().map(|offer| &*offer.region).collect();
            offers.retain(|offer| !is_own(offer) || !regions.contains(&*offer.region));
            offers.extend(list.offers.iter().cloned());
        }
        Self::new(offers)
    }
}

#[cfg(test)]
mod tests {
    use blueprint_common_types::Timestamp;

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
        let names: BTreeSet<_> = catalogue.offers().iter().map(|offer| &*offer.provider).collect();
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
    fn a_list_replaces_what_is_known_of_its_regions() {
        let embedded = Catalogue::embedded().unwrap();
        let mut row = embedded
            .offers()
            .iter()
            .find(|offer| &*offer.provider == "azure" && &*offer.region == "eastus")
            .unwrap()
            .clone();
        row.kind = PriceKind::Cached;
        let list = |asked_at| PriceList { provider: "azure".into(), asked_at, offers: vec![row.clone()] };
        let count = |catalogue: &Catalogue, region: &str| {
            let of = |offer: &&Offer| &*offer.provider == "azure" && &*offer.region == region;
            catalogue.offers().iter().filter(of).count()
        };
        let newer = embedded.with_lists(&[list(Timestamp::from_millis(1_795_219_200_000))]);
        assert_eq!(count(&newer, "eastus"), 1, "what it does not name is not sold any more");
        assert_eq!(count(&newer, "westeurope"), count(&embedded, "westeurope"));
        let older = embedded.with_lists(&[list(Timestamp::from_millis(0))]);
        assert_eq!(count(&older, "eastus"), count(&embedded, "eastus"));
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
