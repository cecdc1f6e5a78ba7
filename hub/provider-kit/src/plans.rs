//! What a provider's list of plans means, for whoever asks for it: the plugin that sells them, and the price list that needs no
//! account. Nothing here calls anybody.

pub mod linode;
pub mod vultr;

use blueprint_common_types::{Micros, Timestamp};
use blueprint_hub_provision_core::catalogue::{Catalogue, Currency, Day, Offer, PriceKind, sift};
use blueprint_hub_provision_core::resource::Arch;
use tracing::warn;

/// Hours of the month that monthly prices are reckoned with, and how many times an hour's price may be off from that. Caps on
/// a month are some tenths below it.
const MONTH: (f64, f64) = (730.0, 2.0);

/// A price as APIs write them; zero where it is none, which nobody takes.
#[must_use]
pub fn price(amount: f64) -> Micros {
    let is_sane = amount.is_finite() && (0.0..=1e9).contains(&amount);
    // Single-precision floats are common; millionths undo what that did.
    if is_sane { format!("{amount:.6}").parse().unwrap_or(Micros::ZERO) } else { Micros::ZERO }
}

/// A decimal number in millionths, rounded up, so that no price is shown too low; `None` where it is no such number.
#[must_use]
pub fn rounded_up(text: &str) -> Option<Micros> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let (kept, rest) = part.split_at_checked(6).unwrap_or((part, ""));
    let kept: Micros = format!("{whole}.{kept:0<6}").parse().ok()?;
    if !rest.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let more = u64::from(rest.bytes().any(|byte| byte != b'0'));
    kept.get().checked_add(more).map(Micros::new)
}

/// The price of an hour beside that of a month; zero, which nobody takes, where one of them must be wrong.
#[must_use]
pub fn hourly(hourly: f64, monthly: Option<f64>) -> Micros {
    let ratio = monthly.map_or(1.0, |monthly| hourly * MONTH.0 / monthly);
    if (1.0 / MONTH.1..=MONTH.1).contains(&ratio) { price(hourly) } else { Micros::ZERO }
}

/// A row to which plan, region and machine are added.
#[must_use]
pub fn blank(provider: &str, source: &str, currency: Currency, at: Timestamp) -> Offer {
    Offer {
        provider: provider.into(),
        plan: "".into(),
        region: "".into(),
        arch: Arch::X86_64,
        vcpus: 0,
        is_burstable: false,
        memory_mib: 0,
        disk_gb: 0,
        gpu: None,
        on_demand: Micros::ZERO,
        spot: None,
        currency,
        as_of: Day::from(at),
        source: source.into(),
        kind: PriceKind::Live,
    }
}

/// Those of `offers` that can be ordered in `regions` (all of them where none is named), each once, by price, plan and region.
/// What cannot be believed is left out, with a line in the log.
#[must_use]
pub fn orderable(provider: &str, offers: Vec<Offer>, regions: &[String]) -> Vec<Offer> {
    let is_wanted =
        |offer: &Offer| regions.is_empty() || regions.iter().any(|region| **region == *offer.region);
    let sifted = sift(provider, offers, &Catalogue::default());
    for (oddity, count) in sifted.odd {
        warn!(provider, reason = oddity.label(), count, "plans left out of the offers");
    }
    let mut offers: Vec<_> = sifted
        .offers
        .into_iter()
        .filter(is_wanted)
        .map(|offer| Offer { kind: PriceKind::Live, ..offer })
        .collect();
    offers.sort_by(|a, b| (a.on_demand, &a.plan, &a.region).cmp(&(b.on_demand, &b.plan, &b.region)));
    offers.dedup_by(|a, b| (&a.plan, &a.region) == (&b.plan, &b.region));
    offers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prices_are_never_rounded_down() {
        for (text, micros) in [
            ("0.0816000000", Some(81_600)),
            ("0.0816000001", Some(81_601)),
            ("12", Some(12_000_000)),
            ("0.5", Some(500_000)),
            ("-1", None),
            ("1.0000000x", None),
            ("", None),
        ] {
            assert_eq!(rounded_up(text).map(Micros::get), micros, "{text}");
        }
    }

    #[test]
    fn prices_are_exact_and_nonsense_is_nothing() {
        for (amount, micros) in [
            (0.0075, 7500),
            (0.007_439_999_841_153_62, 7440),
            (3.150_000_095_367_431_6, 3_150_000),
            (0.0, 0),
            (-1.0, 0),
            (f64::NAN, 0),
            (1e300, 0),
        ] {
            assert_eq!(price(amount).get(), micros, "{amount}");
        }
    }

    #[test]
    fn an_hour_fits_its_month() {
        for (hour, month, micros) in [
            (0.0075, Some(5.0), 7500),
            (0.0075, None, 7500),
            (5.0, Some(5.0), 0),
            (0.000_075, Some(5.0), 0),
            (0.0075, Some(0.0), 0),
            (0.0075, Some(-5.0), 0),
            (0.0, Some(0.0), 0),
            (f64::NAN, Some(f64::NAN), 0),
        ] {
            assert_eq!(hourly(hour, month).get(), micros, "{hour} {month:?}");
        }
    }

    #[test]
    fn what_can_be_ordered_is_sorted_and_has_a_price() {
        let offer = |plan: &str, region: &str, hour: f64| Offer {
            plan: plan.into(),
            region: region.into(),
            vcpus: 1,
            memory_mib: 1024,
            on_demand: price(hour),
            ..blank("linode", "a test", Currency::Usd, Timestamp::from_millis(0))
        };
        let offers =
            vec![offer("b", "x", 2.0), offer("b", "y", 1.0), offer("a", "x", 1.0), offer("c", "x", 0.0)];
        let rows = |regions: &[&str]| {
            let regions: Vec<_> = regions.iter().map(|region| (*region).to_owned()).collect();
            let rows = orderable("linode", offers.clone(), &regions);
            rows.iter().map(|row| format!("{} {}", row.plan, row.region)).collect::<Vec<_>>()
        };
        assert_eq!(rows(&[]), ["a x", "b y", "b x"]);
        assert_eq!(rows(&["x"]), ["a x", "b x"]);
        assert!(orderable("linode", offers.clone(), &[]).iter().all(|row| row.kind == PriceKind::Live));
    }
}
