//! The offers of a catalogue as placement goes through them: what holds for a whole provider, region or plan is found once,
//! when the catalogue is made, and not with every question.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use super::regions::{Row, Word, row_of};
use super::{CpuShare, Offer, ProviderFacts, facts};

/// Providers, their regions and plans; everything by its place in the list of offers, which is sorted by provider, plan and
/// region.
#[derive(Debug, Clone, Default)]
pub(crate) struct Directory {
    sellers: Vec<Seller>,
    /// By provider, then by name.
    regions: Vec<Region>,
    /// For each offer the place of its region among them.
    region_at: Vec<usize>,
}

/// A provider that offers something.
#[derive(Debug, Clone)]
pub(crate) struct Seller {
    /// Its name.
    pub(crate) name: Arc<str>,
    /// What holds for all of it; `None` where nothing is known of it.
    pub(crate) facts: Option<&'static ProviderFacts>,
    /// Its regions in the directory.
    pub(crate) regions: Range<usize>,
    /// What it sells, in the order of the offers.
    pub(crate) kinds: Vec<Kind>,
}

/// A plan: offers beside each other that differ by region, price and date alone.
#[derive(Debug, Clone)]
pub(crate) struct Kind {
    /// Their places in the list of offers; never empty.
    pub(crate) offers: Range<usize>,
    /// How much of its processors each has at all times.
    pub(crate) share: CpuShare,
}

/// A region in which something is offered.
#[derive(Debug, Clone)]
pub(crate) struct Region {
    /// Whose it is.
    pub(crate) provider: Arc<str>,
    /// Its name at its provider.
    pub(crate) name: Arc<str>,
    row: Option<&'static Row>,
}

impl Region {
    /// Whether it is what `word` means at its provider.
    pub(crate) fn is(&self, word: &Word<'_>) -> bool {
        word.means(&self.name, self.row)
    }
}

impl Directory {
    /// That of `offers`, which are sorted by provider, plan and region, each once.
    pub(super) fn of(offers: &[Offer]) -> Self {
        let mut directory = Self { region_at: Vec::with_capacity(offers.len()), ..Self::default() };
        let mut start = 0_usize;
        for own in offers.chunk_by(|a, b| a.provider == b.provider) {
            directory.add(start, own);
            start = start.saturating_add(own.len());
        }
        directory
    }

    /// Adds the offers of one provider, the first of which stands at `start`.
    fn add(&mut self, start: usize, offers: &[Offer]) {
        let Some(name) = offers.first().map(|offer| &offer.provider) else { return };
        let before = self.regions.len();
        let mut names = Names::of(offers.iter().map(|offer| &offer.region));
        let found = offers.iter().filter_map(|offer| names.find(&offer.region));
        self.region_at.extend(found.map(|at| before.saturating_add(at)));
        self.regions.extend(names.sorted.into_iter().map(|region| Region {
            provider: Arc::clone(name),
            name: Arc::clone(region),
            row: row_of(name, region),
        }));

        let (mut kinds, mut at) = (Vec::new(), start);
        for same in offers.chunk_by(is_one_kind) {
            let next = at.saturating_add(same.len());
            let share = same.first().map_or(CpuShare::Shared, Offer::cpu_share);
            kinds.push(Kind { offers: at..next, share });
            at = next;
        }
        let regions = before..self.regions.len();
        self.sellers.push(Seller { name: Arc::clone(name), facts: facts(name), regions, kinds });
    }

    /// Everybody who offers something, by name.
    pub(crate) fn sellers(&self) -> &[Seller] {
        &self.sellers
    }

    /// All regions, by provider and name.
    pub(crate) fn regions(&self) -> &[Region] {
        &self.regions
    }

    /// The region of the offer that stands at `offer`, by its place among all.
    pub(crate) fn region_at(&self, offer: usize) -> Option<usize> {
        self.region_at.get(offer).copied()
    }
}

/// Names, sorted. Who asks for one after the other in their order, as regions of plans stand, has each by one comparison.
struct Names<'a> {
    sorted: Vec<&'a Arc<str>>,
    /// Behind the one that was asked for last.
    next: usize,
}

impl<'a> Names<'a> {
    /// Each of `names` once.
    fn of(names: impl Iterator<Item = &'a Arc<str>>) -> Self {
        Self { sorted: names.collect::<BTreeSet<_>>().into_iter().collect(), next: 0 }
    }

    /// The place of a name.
    fn find(&mut self, name: &Arc<str>) -> Option<usize> {
        let is_next = self.sorted.get(self.next).is_some_and(|next| *next == name);
        let at = if is_next { self.next } else { self.sorted.binary_search(&name).ok()? };
        self.next = at.saturating_add(1);
        Some(at)
    }
}

/// Whether two offers are the same machine, wherever it stands and whatever it costs.
fn is_one_kind(a: &Offer, b: &Offer) -> bool {
    a.plan == b.plan
        && (a.arch, a.vcpus, a.is_burstable, a.memory_mib, a.disk_gb, &a.gpu)
            == (b.arch, b.vcpus, b.is_burstable, b.memory_mib, b.disk_gb, &b.gpu)
}

#[cfg(test)]
mod tests {
    use blueprint_common_types::Micros;

    use super::*;
    use crate::catalogue::{Catalogue, region_matches};

    #[test]
    fn every_offer_is_found_once_with_what_holds_for_it() {
        let catalogue = Catalogue::embedded().unwrap();
        let (offers, directory) = (catalogue.offers(), catalogue.directory());
        let mut seen = 0;
        for seller in directory.sellers() {
            assert_eq!(seller.facts, facts(&seller.name));
            for kind in &seller.kinds {
                assert_eq!(kind.offers.start, seen, "one after the other, none twice");
                seen = kind.offers.end;
                let first = offers.get(kind.offers.start).unwrap();
                for at in kind.offers.clone() {
                    let offer = offers.get(at).unwrap();
                    assert_eq!((&offer.provider, &offer.plan), (&seller.name, &first.plan));
                    assert_eq!(
                        (offer.vcpus, offer.memory_mib, offer.disk_gb, &offer.gpu),
                        (first.vcpus, first.memory_mib, first.disk_gb, &first.gpu)
                    );
                    assert_eq!(kind.share, offer.cpu_share());
                    let region = directory.region_at(at).unwrap();
                    assert!(seller.regions.contains(&region));
                    assert_eq!(directory.regions().get(region).unwrap().name, offer.region);
                }
            }
        }
        assert_eq!(seen, offers.len());
        assert!(directory.sellers().is_sorted_by_key(|seller| &seller.name));
    }

    #[test]
    fn a_word_means_the_same_regions_with_and_without_a_directory() {
        let catalogue = Catalogue::embedded().unwrap();
        let directory = catalogue.directory();
        for seller in directory.sellers() {
            for wanted in ["us-east", "eu-west", "eu", "de", "us-east-1", "fr-par-1", "par1", "", "atlantis"]
            {
                let word = Word::at(&seller.name, wanted);
                for region in directory.regions().get(seller.regions.clone()).unwrap() {
                    let is_it = region_matches(&seller.name, &region.name, wanted);
                    assert_eq!(region.is(&word), is_it, "{} {} {wanted}", seller.name, region.name);
                }
            }
        }
    }

    /// Lists of two days may say different things of one plan.
    #[test]
    fn a_plan_that_is_another_machine_elsewhere_is_another_kind() {
        let offer = |region, memory| Offer::live("sim", "small", region, (2, memory), Micros::new(5000));
        let catalogue = Catalogue::new(vec![offer("a", 4096), offer("b", 4096), offer("c", 2048)]);
        let kinds: Vec<_> = catalogue.directory().sellers().iter().flat_map(|seller| &seller.kinds).collect();
        assert_eq!(kinds.iter().map(|kind| kind.offers.clone()).collect::<Vec<_>>(), [0..2, 2..3]);
        assert!(Catalogue::default().directory().sellers().is_empty());
    }
}
