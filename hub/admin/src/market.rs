//! The catalogue behind the routes, and how it may be used.

use std::collections::BTreeSet;
use std::net::Ipv6Addr;
use std::sync::Arc;

use blueprint_common_types::{Micros, Timestamp};
use blueprint_hub_provision_core::catalogue::{Catalogue, Day, Offer, PriceKind, PriceList};
use blueprint_hub_provision_core::placement::Strategy;
use parking_lot::Mutex;
use tokio::sync::watch;
use tracing::error;

use crate::error::ApiError;
use crate::views::now;

/// Whether orders go to machines that the provider may take back at any time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Spot {
    /// Where the order asks for it.
    #[default]
    Asked,
    /// Never, also where the order asks for it.
    Never,
    /// Always, where one fits.
    Preferred,
}

/// What holds for orders that say nothing else.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Preferences {
    /// How to choose among machines; by price where `None`.
    pub strategy: Option<Strategy>,
    /// Machines that may be taken back.
    pub spot: Spot,
    /// Where; anywhere where `None`.
    pub region: Option<String>,
    /// Most that an hour of all machines of one order may cost, in US dollars, whatever the order says.
    pub max_order_hourly: Option<Micros>,
    /// How long a deployment lives, in seconds; without end where `None`.
    pub ttl_secs: Option<u64>,
}

/// What the hub knows of machines and prices.
#[derive(Debug)]
pub struct Market {
    /// Read at the first question, since most hubs are asked none for days and it takes some memory; and made anew where the
    /// lists are others than those that it was made with.
    made: Mutex<Option<Made>>,
    own: Vec<Offer>,
    lists: watch::Receiver<Arc<Vec<PriceList>>>,
    /// US dollars for a euro, where the operator has set it.
    pub usd_per_eur: Option<Micros>,
    /// Days after which the hub does not choose by a price that it did not ask for.
    pub max_age_days: u32,
    /// Providers that machines can be ordered of.
    pub configured: BTreeSet<String>,
    /// Whether agents reach this hub over IPv6.
    pub reaches_ipv6: bool,
    /// What the operator wants of orders.
    pub preferences: Preferences,
}

#[derive(Debug)]
struct Made {
    catalogue: Arc<Catalogue>,
    with: Arc<Vec<PriceList>>,
}

impl Market {
    /// A market of the embedded catalogue, what providers said since (`lists`), and the offers of providers that know their own,
    /// `own`.
    #[must_use]
    pub fn new(
        usd_per_eur: Option<Micros>,
        max_age_days: u32,
        configured: BTreeSet<String>,
        own: Vec<Offer>,
        lists: watch::Receiver<Arc<Vec<PriceList>>>,
    ) -> Self {
        let made = Mutex::new(None);
        Self {
            made,
            own,
            lists,
            usd_per_eur,
            max_age_days,
            configured,
            reaches_ipv6: false,
            preferences: Preferences::default(),
        }
    }

    /// The same with what the operator wants of orders.
    #[must_use]
    pub fn preferring(mut self, preferences: Preferences) -> Self {
        self.preferences = preferences;
        self
    }

    /// The same for a hub that is advertised as `host`: by an IPv6 address or not.
    #[must_use]
    pub fn of(mut self, host: &str) -> Self {
        let host = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
        self.reaches_ipv6 = host.parse::<Ipv6Addr>().is_ok();
        self
    }

    /// The catalogue; the first call, and the first with other lists, takes some 100 ms and belongs on a thread that may block.
    pub(crate) fn catalogue(&self) -> Result<Arc<Catalogue>, ApiError> {
        let lists = Arc::clone(&self.lists.borrow());
        let mut made = self.made.lock();
        if let Some(made) = made.as_ref().filter(|made| Arc::ptr_eq(&made.with, &lists)) {
            return Ok(Arc::clone(&made.catalogue));
        }
        let catalogue = Catalogue::embedded().map_err(|error| {
            error!(%error, "the price list that this program was built with cannot be read");
            ApiError::unavailable("the hub's price list cannot be read; its log says why")
        })?;
        let catalogue = Arc::new(catalogue.with_lists(&lists).with(self.own.clone()));
        *made = Some(Made { catalogue: Arc::clone(&catalogue), with: lists });
        Ok(catalogue)
    }

    /// Whether the catalogue has been read.
    #[cfg(test)]
    pub(crate) fn is_read(&self) -> bool {
        self.made.lock().is_some()
    }
}

/// Today, for ages of prices.
pub(crate) fn today() -> Day {
    let now: Timestamp = now();
    Day::from(now)
}

/// How sure a price is, for people.
pub(crate) fn freshness(offer: &Offer) -> String {
    let days = offer.as_of.days_until(today());
    match offer.kind {
        PriceKind::Live => "live".to_owned(),
        PriceKind::Cached if days == 0 => "asked today".to_owned(),
        PriceKind::Cached if days == 1 => "asked yesterday".to_owned(),
        PriceKind::Cached => format!("asked {days} days ago"),
        PriceKind::Snapshot => format!("list of {}, {days} days old", offer.as_of),
        PriceKind::Template => "specification, not checked".to_owned(),
    }
}
