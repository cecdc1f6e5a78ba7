//! Prices that providers were asked for while the hub runs: what is taken of an answer, and who asks and keeps them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use blueprint_common_types::{Micros, Timestamp};
use futures_util::future::BoxFuture;

use super::{Catalogue, Offer, PriceKind, SnapshotError, snapshot};
use crate::ProviderError;
use crate::lifecycle::RecordsResult;

/// Most rows of one list; the longest that is known has some 17,000.
pub const MAX_ROWS: usize = 100_000;

/// Longest time for one list, unless its source says otherwise: one that comes in pages has up to 60, each of which may take a
/// second.
const ASK_WITHIN: Duration = Duration::from_secs(180);

/// Pause before a provider that failed is asked again, where nothing else is said.
const AGAIN_AFTER: Duration = Duration::from_secs(3600);

/// Most that an hour of any machine may cost, in either money: eight of the largest GPUs are at about 100.
const MOST_HOURLY: Micros = Micros::new(1_000_000_000);

/// How many times a price may be that of the list before, or a part of it, to be believed: old lists were wrong by 2.
const FAR: u64 = 10;

/// What a provider sells, as it said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PriceList {
    /// Whose.
    pub provider: String,
    /// When it was asked.
    pub asked_at: Timestamp,
    /// Its rows.
    pub offers: Vec<Offer>,
}

impl PriceList {
    /// The rows as text, to be kept.
    #[must_use]
    pub fn rows(&self) -> String {
        snapshot::write(&self.offers)
    }

    /// The list that was kept as `rows`.
    ///
    /// # Errors
    ///
    /// Where a row cannot be read.
    pub fn read(provider: String, asked_at: Timestamp, rows: &str) -> Result<Self, SnapshotError> {
        Ok(Self { provider, asked_at, offers: snapshot::read_text(rows, PriceKind::Cached)? })
    }

    /// How many regions it has anything of.
    #[must_use]
    pub fn regions(&self) -> usize {
        self.offers.iter().map(|offer| &*offer.region).collect::<BTreeSet<_>>().len()
    }
}

/// Why a row of an answer is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Oddity {
    /// Of another provider than was asked.
    Foreign,
    /// No processor, no memory, no name.
    NoMachine,
    /// A price of nothing: providers write that for what they do not sell.
    ZeroPrice,
    /// More than any machine costs.
    AbsurdPrice,
    /// More than ten times the price that was known, or less than a tenth of it.
    FarFromKnown,
    /// Beyond the most rows that are kept.
    TooMany,
}

impl Oddity {
    /// One word for logs and the API.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Foreign => "foreign",
            Self::NoMachine => "no_machine",
            Self::ZeroPrice => "zero_price",
            Self::AbsurdPrice => "absurd_price",
            Self::FarFromKnown => "far_from_known",
            Self::TooMany => "too_many",
        }
    }
}

/// What is taken of an answer, and what is not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sifted {
    /// The rows that are taken.
    pub offers: Vec<Offer>,
    /// How many are not, by reason.
    pub odd: BTreeMap<Oddity, usize>,
}

/// Takes of `offers`, which `provider` gave, what can be believed beside what is `known`.
#[must_use]
pub fn sift(provider: &str, offers: Vec<Offer>, known: &Catalogue) -> Sifted {
    let mut before: BTreeMap<(&str, &str), Micros> = BTreeMap::new();
    for offer in known.offers().iter().filter(|offer| &*offer.provider == provider) {
        before.insert((&offer.plan, &offer.region), offer.on_demand);
    }
    let mut sifted = Sifted::default();
    for offer in offers {
        let oddity = odd(provider, &offer, &before);
        let oddity = oddity.or((sifted.offers.len() >= MAX_ROWS).then_some(Oddity::TooMany));
        match oddity {
            Some(oddity) => *sifted.odd.entry(oddity).or_default() += 1,
            None => {
                // One that is not below the other price says nothing.
                let spot = offer.spot.filter(|spot| *spot > Micros::ZERO && *spot < offer.on_demand);
                sifted.offers.push(Offer { spot, kind: PriceKind::Cached, ..offer });
            }
        }
    }
    sifted
}

fn odd(provider: &str, offer: &Offer, before: &BTreeMap<(&str, &str), Micros>) -> Option<Oddity> {
    let price = offer.on_demand;
    if &*offer.provider != provider {
        return Some(Oddity::Foreign);
    }
    let is_nameless = offer.plan.is_empty() || offer.region.is_empty();
    if offer.vcpus == 0 || offer.memory_mib == 0 || is_nameless {
        return Some(Oddity::NoMachine);
    }
    if price == Micros::ZERO {
        return Some(Oddity::ZeroPrice);
    }
    if price > MOST_HOURLY {
        return Some(Oddity::AbsurdPrice);
    }
    let known = before.get(&(&*offer.plan, &*offer.region))?;
    let is_far =
        price.get() > known.get().saturating_mul(FAR) || price.get().saturating_mul(FAR) < known.get();
    is_far.then_some(Oddity::FarFromKnown)
}

/// Asks one provider what it sells.
pub trait PriceSource: Send + Sync {
    /// Whose prices; a name that the hub knows.
    fn provider(&self) -> &str;

    /// Whom it asks, for people: a host, or an account.
    fn origin(&self) -> String;

    /// Longest time that [`ask`](Self::ask) may take; 180 s unless said otherwise.
    fn within(&self) -> Duration {
        ASK_WITHIN
    }

    /// Pause before it is asked again after a failure, where the hub asks by itself; an hour unless said otherwise.
    fn again_after(&self) -> Duration {
        AGAIN_AFTER
    }

    /// What is sold, with list prices as of `now`.
    ///
    /// # Errors
    ///
    /// As the provider answers; a list that is not whole is an error.
    fn ask(&self, now: Timestamp) -> BoxFuture<'_, Result<Vec<Offer>, ProviderError>>;
}

/// Durable price lists; the newest of each provider.
pub trait PriceStore: Send + Sync {
    /// All of them: provider, when it was asked, rows as text.
    fn price_lists(&self) -> BoxFuture<'_, RecordsResult<Vec<(String, Timestamp, String)>>>;

    /// Keeps a list in place of the one before.
    fn set_price_list(
        &self,
        provider: String,
        asked_at: Timestamp,
        rows: String,
    ) -> BoxFuture<'_, RecordsResult<()>>;
}

/// How it stands with the prices of one provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PriceListView {
    /// Whose.
    pub provider: String,
    /// Who is asked.
    pub origin: String,
    /// When it was asked last and answered; `None` where it never was.
    pub asked_at: Option<Timestamp>,
    /// Rows that are kept.
    pub rows: usize,
    /// Regions that they are of.
    pub regions: usize,
    /// Rows of the last answer since the hub started that were not taken, by reason.
    pub odd: BTreeMap<Oddity, usize>,
    /// Why it could not be asked the last time, since the hub started.
    pub error: Option<String>,
}

/// Why prices were not asked for, or not kept.
#[derive(Debug, thiserror::Error)]
pub enum PriceError {
    /// Nobody can be asked for prices of this provider.
    #[error("the hub cannot ask for prices of {provider:?}; it can for {known}")]
    Unknown {
        /// What was named.
        provider: String,
        /// Those that can be asked.
        known: String,
    },
    /// It is being asked.
    #[error("{0} is being asked already")]
    Busy(String),
    /// It could not be reached, or asks for a pause; what was known stays.
    #[error("{provider} was not reached: {reason}")]
    Unreached {
        /// Who.
        provider: String,
        /// What happened, one line.
        reason: String,
    },
    /// It answered with what is no price list; what was known stays.
    #[error("{provider} was not understood: {reason}")]
    Failed {
        /// Who.
        provider: String,
        /// What happened, one line.
        reason: String,
    },
    /// The list could not be stored; what was known stays.
    #[error(transparent)]
    Store(#[from] crate::lifecycle::RecordsError),
}

/// What the operator's side asks about prices.
pub trait PriceDesk: Send + Sync {
    /// Every provider that can be asked, by name.
    fn lists(&self) -> Vec<PriceListView>;

    /// Asks a provider now; what it said is kept when this resolves, and is what the hub goes by.
    fn refresh(&self, provider: String) -> BoxFuture<'_, Result<PriceListView, PriceError>>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::Currency;

    fn offer(plan: &str, micros: u64) -> Offer {
        Offer::live("vultr", plan, "ewr", (2, 2048), Micros::new(micros))
    }

    #[test]
    fn what_cannot_be_believed_is_counted_and_left_out() {
        let known = Catalogue::new(vec![offer("known", 10_000)]);
        let rows = vec![
            offer("good", 5000),
            offer("free", 0),
            offer("absurd", 1_000_000_001),
            offer("known", 999),
            Offer { vcpus: 0, ..offer("none", 5000) },
            Offer { provider: "linode".into(), ..offer("other", 5000) },
            Offer { spot: Some(Micros::new(6000)), ..offer("spot", 5000) },
        ];
        let sifted = sift("vultr", rows, &known);
        let plans: Vec<_> = sifted.offers.iter().map(|offer| &*offer.plan).collect();
        assert_eq!(plans, ["good", "spot"]);
        assert!(sifted.offers.iter().all(|offer| offer.kind == PriceKind::Cached && offer.spot.is_none()));
        assert_eq!(sifted.odd.values().sum::<usize>(), 5);
        assert_eq!(sifted.odd.get(&Oddity::FarFromKnown), Some(&1));
        for (price, is_taken) in [(1000, true), (100_000, true), (100_001, false)] {
            assert_eq!(
                sift("vultr", vec![offer("known", price)], &known).offers.len(),
                usize::from(is_taken)
            );
        }
    }

    #[test]
    fn a_list_is_kept_as_text() {
        let offers = vec![Offer { kind: PriceKind::Cached, currency: Currency::Eur, ..offer("a", 5000) }];
        let list = PriceList { provider: "vultr".into(), asked_at: Timestamp::from_millis(5), offers };
        let read = PriceList::read("vultr".into(), list.asked_at, &list.rows()).unwrap();
        assert_eq!((read.regions(), &read), (1, &list));
        assert!(PriceList::read("vultr".into(), list.asked_at, "nonsense").is_err());
    }
}
