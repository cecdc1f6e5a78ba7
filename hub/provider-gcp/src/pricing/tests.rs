use serde_json::{Value, json};

use super::*;

fn row(description: &str, usage: &str, unit: &str, nanos: u64, regions: &[&str]) -> Value {
    json!({
        "description": description, "category": { "usageType": usage }, "serviceRegions": regions,
        "pricingInfo": [{ "pricingExpression": { "usageUnit": unit, "tieredRates": [
            { "unitPrice": { "currencyCode": "USD", "units": "0", "nanos": 0 } },
            { "unitPrice": { "currencyCode": "USD", "units": "0", "nanos": nanos } },
        ] } }],
    })
}

fn parts(rows: Vec<Value>) -> Parts {
    let mut parts = Parts::default();
    for row in rows {
        parts.add(&serde_json::from_value(row).unwrap());
    }
    parts
}

fn known(plan: &str) -> Offer {
    let known = listed(&[KNOWN.parse().unwrap()], false).unwrap();
    known.into_iter().find(|offer| &*offer.plan == plan).unwrap()
}

#[test]
fn a_machine_costs_what_its_parts_do() {
    let both = [KNOWN, "europe-west1"];
    let parts = parts(vec![
        row("E2 Instance Core running in Americas", "OnDemand", "h", 21_811_590, &both),
        row("E2 Instance Ram running in Americas", "OnDemand", "GiBy.h", 2_923_530, &both),
        row("Spot Preemptible E2 Instance Core running in Americas", "Preemptible", "h", 6_543_000, &both),
        row("Spot Preemptible E2 Instance Ram running in Americas", "Preemptible", "GiBy.h", 877_000, &both),
        // None of these is a part of a machine on demand.
        row("E2 Custom Instance Core running in Americas", "OnDemand", "h", 90_000_000, &both),
        row("Commitment v1: E2 Cpu in Americas for 1 Year", "Commit1Yr", "h", 90_000_000, &both),
        row("E2 Instance Core running in Americas", "Commit1Yr", "h", 90_000_000, &both),
        row("E2 Instance Core running in Americas", "OnDemand", "mo", 90_000_000, &both),
        row("Spot Preemptible E2 Instance Core running in Americas", "OnDemand", "h", 90_000_000, &both),
    ]);
    let hour = |plan: &str, is_spot: bool| parts.hour(&known(plan), "europe-west1", is_spot).map(Micros::get);
    assert_eq!(hour("e2-standard-2", false), Some(67_012));
    assert_eq!(hour("e2-standard-2", true), Some(20_102));
    // A quarter of a processor, and a GiB.
    assert_eq!(hour("e2-micro", false), Some(8_377));
    assert_eq!(hour("n2-standard-4", false), None, "its parts have no price");
    assert_eq!(parts.hour(&known("e2-standard-2"), "asia-east1", false), None);
    assert!(parts.is_believed(&known("e2-standard-2")) && parts.is_believed(&known("e2-micro")));
    assert!(!parts.is_believed(&known("n2-standard-4")));
}

#[test]
fn what_is_far_from_the_known_price_is_not_believed() {
    // Words that mean something else by now, or a price of a minute.
    let parts = parts(vec![
        row("E2 Instance Core running in Americas", "OnDemand", "h", 363_526, &[KNOWN]),
        row("E2 Instance Ram running in Americas", "OnDemand", "GiBy.h", 48_725, &[KNOWN]),
    ]);
    assert!(!parts.is_believed(&known("e2-standard-2")));
}

#[test]
fn amounts_that_are_none_are_left_out() {
    let mut odd = row("E2 Instance Core running in Americas", "OnDemand", "h", 0, &[KNOWN]);
    let sku = |row: &Value| serde_json::from_value::<Sku>(row.clone()).unwrap().nanos(Part::Core);
    assert_eq!(sku(&odd), None);
    let last = "/pricingInfo/0/pricingExpression/tieredRates/1/unitPrice";
    for (units, currency, nanos) in [
        ("1", "USD", Some(1_000_000_000)),
        ("-1", "USD", None),
        ("1", "EUR", None),
        ("99999999999", "USD", None),
    ] {
        *odd.pointer_mut(last).unwrap() = json!({ "currencyCode": currency, "units": units, "nanos": 0 });
        assert_eq!(sku(&odd), nanos, "{units} {currency}");
    }
}
