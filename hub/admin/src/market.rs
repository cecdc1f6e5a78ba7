//! The catalogue behind the routes, and how it may be used.

use std::collections::BTreeSet;
use std::net::Ipv6Addr;
use std::sync::OnceLock;

use blueprint_common_types::{Micros, Timestamp};
use blueprint_hub_provision_core::catalogue::{Catalogue, Day, Offer, PriceKind};
use tracing::error;

use crate::error::ApiError;
use crate::views::now;

/// What the hub knows of machines and prices.
#[derive(Debug)]
pub struct Market {
    /// Read at the first question: most hubs are asked none for days, and it takes some memory.
    catalogue: OnceLock<Option<Catalogue>>,
    own: Vec<Offer>,
    /// US dollars for a euro, where the operator has set it.
    pub usd_per_eur: Option<Micros>,
    /// Days after which the hub does not choose by a price that it did not ask for.
    pub max_age_days: u32,
    /// Providers that machines can be ordered of.
    pub configured: BTreeSet<String>,
    /// Whether agents reach this hub over IPv6.
    pub reaches_ipv6: bool,
}

impl Market {
    /// A market of the embedded catalogue and the offers of providers that know their own, `own`.
    #[must_use]
    pub fn new(
        usd_per_eur: Option<Micros>,
        max_age_days: u32,
        configured: BTreeSet<String>,
        own: Vec<Offer>,
    ) -> Self {
        Self { catalogue: OnceLock::new(), own, usd_per_eur, max_age_days, configured, reaches_ipv6: false }
    }

    /// The same for a hub that is advertised as `host`: by an IPv6 address or not.
    #[must_use]
    pub fn of(mut self, host: &str) -> Self {
        let host = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
        self.reaches_ipv6 = host.parse::<Ipv6Addr>().is_ok();
        self
    }

    /// The catalogue; the first call takes some 100 ms and belongs on a thread that may block.
    pub(crate) fn catalogue(&self) -> Result<&Catalogue, ApiError> {
        let read = || match Catalogue::embedded() {
            Ok(catalogue) => Some(catalogue.with(self.own.clone())),
            Err(error) => {
                error!(%error, "the price list that this program was built with cannot be read");
                None
            }
        };
        let catalogue = self.catalogue.get_or_init(read).as_ref();
        catalogue
            .ok_or_else(|| ApiError::unavailable("the hub's price list cannot be read; its log says why"))
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
        PriceKind::Cached => format!("asked {days} days ago"),
        PriceKind::Snapshot => format!("list of {}, {days} days old", offer.as_of),
        PriceKind::Template => "specification, not checked".to_owned(),
    }
}
