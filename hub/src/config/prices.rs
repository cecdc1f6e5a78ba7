//! Prices of machines: what the hub may rely on.

use std::sync::Arc;

use blueprint_common_runtime::config::{Problems, Settings};
use blueprint_common_types::Micros;
use blueprint_hub_admin::Market;

use super::ProviderSettings;

/// How prices are used.
#[derive(Debug, Clone)]
pub(crate) struct PriceConfig {
    pub(crate) usd_per_eur: Option<Micros>,
    pub(crate) max_price_age_days: u32,
}

impl PriceConfig {
    pub(super) fn take(settings: &Settings, problems: &mut Problems) -> Option<Self> {
        let usd_per_eur = settings.take_optional::<Micros>("provision.usd_per_eur", problems);
        // A rate that is out of this by far is a mistake that would cost money.
        let bounds = Micros::new(100_000)..=Micros::new(10_000_000);
        if usd_per_eur.is_some_and(|rate| !bounds.contains(&rate)) {
            settings.refuse("provision.usd_per_eur", "not within 0.1 and 10", problems);
        }
        let max_price_age_days = settings.take_within("provision.max_price_age_days", 0..=3650, problems);
        Some(Self { usd_per_eur, max_price_age_days: max_price_age_days? })
    }

    /// What is known of machines and prices.
    pub(crate) fn market(&self, providers: &ProviderSettings, host: &str) -> Arc<Market> {
        let (names, own) = (providers.names(), providers.own_offers());
        Arc::new(Market::new(self.usd_per_eur, self.max_price_age_days, names, own).of(host))
    }
}
