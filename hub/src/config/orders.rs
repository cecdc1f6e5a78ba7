//! What the operator wants of orders that say nothing else.

use blueprint_common_runtime::config::{Key, Problems, Settings, Span};
use blueprint_common_types::Micros;
use blueprint_hub_admin::{Preferences, Spot};
use blueprint_hub_provision_core::placement::Strategy;

pub(super) const STRATEGY: Key = Key::new(
    "provision.strategy",
    "cheapest",
    "How a machine is chosen where an order does not say: cheapest, first-match, hybrid, local-only, or preferred:NAME,NAME for \
     providers in this order.",
);
pub(super) const SPOT: Key = Key::new(
    "provision.spot",
    "asked",
    "Machines that the provider may take back: asked (where an order asks for them), never, or preferred (for every order that they \
     fit).",
);
pub(super) const REGION: Key = Key::new(
    "provision.region",
    "any",
    "Where machines stand whose order does not say: a provider's region, an area (us-east), a country (de) or a continent (eu); any \
     for everywhere.",
);
pub(super) const MAX_ORDER_HOURLY: Key = Key::new(
    "provision.max_order_hourly",
    "off",
    "Most that an hour of all machines of one order may cost, in US dollars, whatever the order says; or off.",
);
pub(super) const TTL: Key = Key::new(
    "provision.ttl",
    "off",
    "How long a deployment lives whose order does not say, 1 min to 365 days; off for without end.",
);

/// Reads the keys; every problem is noted.
pub(super) fn take(settings: &Settings, problems: &mut Problems) -> Option<Preferences> {
    let strategy = settings.take::<String>(STRATEGY.path, problems).and_then(|name| {
        let strategy = Strategy::named(&name);
        if strategy.is_none() {
            let why = "one of cheapest, first-match, hybrid, local-only, preferred:NAME,NAME was expected";
            settings.refuse(STRATEGY.path, why, problems);
        }
        strategy
    });
    let spot = settings.take::<String>(SPOT.path, problems).and_then(|word| match word.as_str() {
        "asked" => Some(Spot::Asked),
        "never" => Some(Spot::Never),
        "preferred" => Some(Spot::Preferred),
        _ => {
            settings.refuse(SPOT.path, "one of asked, never and preferred was expected", problems);
            None
        }
    });
    let region =
        settings.take::<String>(REGION.path, problems).map(|name| Some(name).filter(|name| name != "any"));
    let max_order_hourly = or_off::<Micros>(settings, &MAX_ORDER_HOURLY, problems);
    let ttl = or_off::<Span>(settings, &TTL, problems);
    let ttl_secs = ttl.map(|ttl| ttl.map(|Span(span)| span.as_secs()));
    if ttl_secs.flatten().is_some_and(|ttl| !(60..=365 * 24 * 3600).contains(&ttl)) {
        settings.refuse(TTL.path, "not within 1 min and 365 days", problems);
    }
    Some(Preferences {
        strategy: Some(strategy?),
        spot: spot?,
        region: region?,
        max_order_hourly: max_order_hourly?,
        ttl_secs: ttl_secs?,
    })
}

/// A value, or `off`.
fn or_off<T>(settings: &Settings, key: &Key, problems: &mut Problems) -> Option<Option<T>>
where
    T: std::str::FromStr,
    T::Err: std::fmt::Display,
{
    if settings.text(key.path) == Some("off") {
        return Some(None);
    }
    settings.take::<T>(key.path, problems).map(Some)
}
