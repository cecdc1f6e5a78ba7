//! What a machine costs, all that is known counted.

use blueprint_common_types::Micros;

use super::Demand;
use crate::catalogue::{Currency, Extras, Offer, facts};

/// Hours of a month in estimates, a twelfth of a year.
pub const HOURS_PER_MONTH: u64 = 730;

/// What an hour of a machine costs in US dollars, by part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Total {
    /// The machine.
    pub compute: Micros,
    /// Disk beside its own.
    pub disk: Micros,
    /// Its public address.
    pub address: Micros,
    /// What it sends to the internet, spread over the month.
    pub egress: Micros,
}

impl Total {
    /// The parts of `offer` for `demand`, as one of `replicas`; `None` where its price is in euro and there is no rate.
    ///
    /// What may be sent for nothing is counted once for all replicas, as large providers do it.
    #[must_use]
    pub fn of(
        offer: &Offer,
        spot: bool,
        demand: &Demand,
        usd_per_eur: Option<Micros>,
        replicas: u32,
    ) -> Option<Self> {
        let extras = facts(&offer.provider).map(|facts| &facts.extras);
        let compute = Self::compute(offer, spot, usd_per_eur)?;
        Some(Self { compute, ..Self::beside(offer, extras, demand, replicas) })
    }

    /// What an hour of the machine itself costs in US dollars; `None` where its price is in euro and there is no rate.
    pub(super) fn compute(offer: &Offer, spot: bool, usd_per_eur: Option<Micros>) -> Option<Micros> {
        let price = offer.spot.filter(|_| spot).unwrap_or(offer.on_demand);
        match offer.currency {
            Currency::Usd => Some(price),
            Currency::Eur => Some(price.share(usd_per_eur?.get(), 1_000_000)),
        }
    }

    /// All but the machine itself, which is the same for one plan in all regions of a provider that sells by `extras`.
    pub(super) fn beside(offer: &Offer, extras: Option<&Extras>, demand: &Demand, replicas: u32) -> Self {
        let none =
            Self { compute: Micros::ZERO, disk: Micros::ZERO, address: Micros::ZERO, egress: Micros::ZERO };
        let Some(extras) = extras else { return none };
        let by_month = |amount: Micros| amount.share(1, HOURS_PER_MONTH);
        let missing_gb = demand.missing_disk_gb(offer, Some(extras));
        let billed_gb = demand.egress_gb.saturating_sub(extras.egress_free_gb / replicas.max(1));
        Self {
            disk: by_month(extras.disk_gb_month.times(missing_gb.into())),
            address: extras.ipv4_hourly,
            egress: by_month(extras.egress_gb.times(billed_gb.into())),
            ..none
        }
    }

    /// All of it for an hour.
    #[must_use]
    pub fn hourly(&self) -> Micros {
        [self.compute, self.disk, self.address, self.egress].into_iter().sum()
    }

    /// What an hour of it costs at `provider` while it is switched off: all but what it sends, where such a machine is
    /// billed in full or that is not known, else its disk and address.
    #[must_use]
    pub fn stopped(&self, provider: &str) -> Micros {
        let is_billed = facts(provider).is_none_or(|facts| facts.extras.bills_stopped);
        let compute = if is_billed { self.compute } else { Micros::ZERO };
        [compute, self.disk, self.address].into_iter().sum()
    }

    /// All of it for a day.
    #[must_use]
    pub fn daily(&self) -> Micros {
        self.hourly().times(24)
    }

    /// All of it for a month of 730 hours.
    #[must_use]
    pub fn monthly(&self) -> Micros {
        self.hourly().times(HOURS_PER_MONTH)
    }
}
