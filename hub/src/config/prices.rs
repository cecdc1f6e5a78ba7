//! Prices of machines: what the hub may rely on, and whom it asks.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use blueprint_common_runtime::config::{Key, Problems, Settings, Span};
use blueprint_common_types::Micros;
use blueprint_hub_admin::{Market, Preferences};
use blueprint_hub_price_sources::Aws;
use blueprint_hub_provision::PriceLists;
use http::Uri;
use tokio::sync::watch;

use super::{ProviderSettings, orders};

pub(super) const EVERY: Key = Key::new(
    "prices.every",
    "off",
    "Ask providers for their prices again once a list is so old, 1 h to 30 days; or off, so that nobody is asked but by \
     `blueprint-hub prices refresh` and by orders.",
);
pub(super) const AZURE_REGIONS: Key = Key::new(
    "prices.azure_regions",
    "eastus,westeurope",
    "Regions of Azure that prices are asked for, up to 20; a region takes some 60 answers.",
);
pub(super) const AWS_REGIONS: Key = Key::new(
    "prices.aws_regions",
    "us-east-1",
    "Regions of AWS that prices are asked for without an account, up to 6, or off; a region takes some 300 MB. With \
     providers.aws.enabled the account is asked for its own regions, which takes some MB.",
);
pub(super) const VULTR: Key = Key::unset(
    "prices.vultr_endpoint",
    "URL that Vultr's prices are asked of in its place; for stand-ins. http only to addresses of this machine.",
);
pub(super) const LINODE: Key = Key::unset("prices.linode_endpoint", "The same for Linode.");
pub(super) const SCALEWAY: Key = Key::unset("prices.scaleway_endpoint", "The same for Scaleway.");
pub(super) const AZURE: Key = Key::unset("prices.azure_endpoint", "The same for Azure.");
pub(super) const AWS: Key = Key::unset("prices.aws_endpoint", "The same for the public list of AWS.");

/// How prices are used, and whom they are asked of.
#[derive(Debug, Clone)]
pub(crate) struct PriceConfig {
    pub(crate) usd_per_eur: Option<Micros>,
    pub(crate) max_price_age_days: u32,
    /// Age at which a list is asked for again; `None` where nobody is asked.
    pub(crate) every: Option<Duration>,
    pub(crate) azure_regions: Vec<String>,
    /// Regions of AWS whose public list is asked for; none where nobody is.
    pub(crate) aws_regions: Vec<String>,
    /// In place of AWS, Vultr, Linode, Scaleway and Azure.
    pub(crate) endpoints: [Option<String>; 5],
    /// What the operator wants of orders.
    pub(crate) preferences: Preferences,
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
        let every = every(settings, problems);
        let azure_regions = azure_regions(settings, problems);
        let aws_regions = aws_regions(settings, problems);
        let preferences = orders::take(settings, problems);
        let endpoints = [AWS, VULTR, LINODE, SCALEWAY, AZURE].map(|key| endpoint(settings, &key, problems));
        Some(Self {
            usd_per_eur,
            max_price_age_days: max_price_age_days?,
            every: every?,
            azure_regions: azure_regions?,
            aws_regions: aws_regions?,
            endpoints,
            preferences: preferences?,
        })
    }

    /// What is known of machines and prices, with the `lists` of what providers said.
    pub(crate) fn market(
        &self,
        providers: &ProviderSettings,
        host: &str,
        lists: watch::Receiver<PriceLists>,
    ) -> Arc<Market> {
        let (names, own) = (providers.names(), providers.own_offers());
        let market = Market::new(self.usd_per_eur, self.max_price_age_days, names, own, lists);
        Arc::new(market.of(host).preferring(self.preferences.clone()))
    }
}

fn every(settings: &Settings, problems: &mut Problems) -> Option<Option<Duration>> {
    let text = settings.take::<String>(EVERY.path, problems)?;
    if text == "off" {
        return Some(None);
    }
    let (least, most) = (Duration::from_secs(3600), Duration::from_secs(30 * 24 * 3600));
    match text.parse::<Span>() {
        Ok(Span(every)) if (least..=most).contains(&every) => Some(Some(every)),
        Ok(_) | Err(_) => {
            settings.refuse(EVERY.path, "a time from 1h to 30d, or off was expected", problems);
            None
        }
    }
}

fn azure_regions(settings: &Settings, problems: &mut Problems) -> Option<Vec<String>> {
    let text = settings.take::<String>(AZURE_REGIONS.path, problems)?;
    let regions: Vec<_> = text.split(',').map(|region| region.trim().to_owned()).collect();
    let is_name = |text: &String| {
        !text.is_empty() && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
    };
    if regions.len() > 20 || !regions.iter().all(is_name) {
        let why = "1 to 20 regions such as eastus,westeurope were expected";
        settings.refuse(AZURE_REGIONS.path, why, problems);
        return None;
    }
    Some(regions)
}

fn aws_regions(settings: &Settings, problems: &mut Problems) -> Option<Vec<String>> {
    let text = settings.take::<String>(AWS_REGIONS.path, problems)?;
    if text == "off" {
        return Some(Vec::new());
    }
    let regions: BTreeSet<_> = text.split(',').map(|region| region.trim().to_owned()).collect();
    let is_of = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let is_name = |text: &String| text.contains('-') && text.len() <= 32 && text.bytes().all(is_of);
    if regions.len() > Aws::MAX_REGIONS || !regions.iter().all(is_name) {
        let why = "1 to 6 regions such as us-east-1,eu-central-1, or off, were expected";
        settings.refuse(AWS_REGIONS.path, why, problems);
        return None;
    }
    // Those of China have another list, in their own money.
    if regions.iter().any(|region| region.starts_with("cn-")) {
        settings.refuse(AWS_REGIONS.path, "regions of China are not in this list: take them out", problems);
        return None;
    }
    Some(regions.into_iter().collect())
}

fn endpoint(settings: &Settings, key: &Key, problems: &mut Problems) -> Option<String> {
    let text = settings.take_optional::<String>(key.path, problems)?;
    if !is_endpoint(&text) {
        let why =
            "is no URL of a host alone: https://HOST, or http://127.0.0.1:PORT for a stand-in, was expected";
        settings.refuse(key.path, why, problems);
        return None;
    }
    Some(text)
}

/// Whether a text is the URL of a host alone that may be called.
pub(super) fn is_endpoint(text: &str) -> bool {
    let Ok(uri) = text.parse::<Uri>() else { return false };
    let host = uri.host().unwrap_or_default();
    let is_here = matches!(host, "127.0.0.1" | "[::1]" | "localhost");
    let is_bare = uri.path_and_query().is_none_or(|path| path.as_str() == "/") && !text.contains('@');
    let is_known = uri.scheme_str() == Some("https") || (uri.scheme_str() == Some("http") && is_here);
    !host.is_empty() && is_bare && is_known
}
