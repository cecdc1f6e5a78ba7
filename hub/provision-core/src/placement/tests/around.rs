//! Plans around what cannot be had just now.

use super::*;

/// Two plans of the simulated cloud in two regions.
fn catalogue() -> Catalogue {
    let offer = |plan: &str, region: &str, hourly| {
        let spot = Some(Micros::new(hourly - 1));
        Offer { spot, disk_gb: 20, ..Offer::live("sim", plan, region, (2, 4096), Micros::new(hourly)) }
    };
    Catalogue::new(vec![
        offer("small", "local", 1000),
        offer("small", "local-2", 1200),
        offer("large", "local", 2000),
        offer("large", "local-2", 2400),
    ])
}

fn gone(plan: Option<&str>, region: &str, spot: Option<bool>, secs: u64) -> Unavailable {
    Unavailable {
        provider: "sim".to_owned(),
        region: Some(region.to_owned()),
        plan: plan.map(str::to_owned),
        spot,
        class: ErrorClass::Capacity,
        until: Timestamp::from_millis(secs * 1000),
    }
}

fn small() -> Demand {
    machine(1000, 1, |_| ())
}

fn told(plan: &[Choice<'_>]) -> Vec<String> {
    let name = |it: &Choice<'_>| {
        format!("{}@{}{}", it.offer.plan, it.offer.region, if it.spot { " spot" } else { "" })
    };
    plan.iter().map(name).collect()
}

#[test]
fn what_cannot_be_had_now_is_not_in_the_plan_and_is_named_with_its_end() {
    let (catalogue, demand, how) = (catalogue(), small(), Strategy::Cheapest);
    let known = [gone(Some("small"), "local", Some(false), 300), gone(Some("small"), "elsewhere", None, 900)];
    let asked = Question { unavailable: &known, ..question(&demand, &how) };
    let around = place_around(&catalogue, &asked).unwrap();
    assert_eq!(told(&around.placement.plan), ["small@local-2", "large@local", "large@local-2"]);
    let passed: Vec<_> = around.passed.iter().map(|(choice, known)| (choice.clone(), known)).collect();
    assert_eq!(told(&[passed[0].0.clone()]), ["small@local"]);
    assert_eq!((passed.len(), passed[0].1, around.waits_until), (1, &known[0], None));
    let again = place_around(&catalogue, &asked).unwrap();
    assert_eq!(told(&again.placement.plan), told(&around.placement.plan), "the same for the same");
    let free = place_around(&catalogue, &question(&demand, &how)).unwrap();
    assert_eq!(told(&free.placement.plan)[0], "small@local");
    assert!(free.passed.is_empty() && free.waits_until.is_none());
}

#[test]
fn a_spot_machine_that_cannot_be_had_leaves_the_others_of_its_plan() {
    let (catalogue, how) = (catalogue(), Strategy::Cheapest);
    let demand = machine(1000, 1, |spec| spec.allow_spot = true);
    let known = [gone(Some("small"), "local", Some(true), 300)];
    let asked = Question { unavailable: &known, ..question(&demand, &how) };
    let plan = told(&place_around(&catalogue, &asked).unwrap().placement.plan);
    assert_eq!(plan[0], "small@local");
    assert!(!plan.contains(&"small@local spot".to_owned()), "{plan:?}");
}

#[test]
fn where_nothing_can_be_had_now_the_order_waits_for_the_first_of_its_plan() {
    let (catalogue, demand, how) = (catalogue(), small(), Strategy::Cheapest);
    let known = [
        gone(None, "local-2", None, 500),
        gone(None, "local", None, 300),
        gone(Some("small"), "local", None, 900),
    ];
    let asked = Question { unavailable: &known, ..question(&demand, &how) };
    let around = place_around(&catalogue, &asked).unwrap();
    assert_eq!(
        told(&around.placement.plan),
        ["small@local", "small@local-2", "large@local", "large@local-2"]
    );
    let until: Vec<_> = around.passed.iter().map(|(_, known)| known.until.as_secs()).collect();
    assert_eq!(until, [900, 500, 300, 500], "of several what holds longest");
    assert_eq!(around.waits_until, Some(Timestamp::from_millis(300_000)));
    let text = place(&catalogue, &asked).unwrap_err().to_string();
    let wanted = "no machine fits: nearest is large of sim in local, which cannot be had: there was no capacity, or its machine \
                  never joined; it is ordered again from 1970-01-01T00:05:00Z";
    assert_eq!(text, wanted, "what can be had first is the nearest");
    // What does not fit at all is no matter of time.
    let large = machine(64_000, 1, |_| ());
    let asked = Question { demand: &large, ..asked };
    let error = place_around(&catalogue, &asked).unwrap_err();
    assert!(matches!(&error, NoFit::Machine { code: Some("cpu"), .. }), "{error}");
}

#[test]
fn what_is_to_be_spread_keeps_its_places() {
    let (catalogue, demand, how) = (catalogue(), small(), Strategy::Cheapest);
    let known = [gone(None, "local", None, 300)];
    let asked =
        Question { unavailable: &known, replicas: 2, spread: Spread::Regions, ..question(&demand, &how) };
    let around = place_around(&catalogue, &asked).unwrap();
    let plan = told(&around.placement.plan);
    assert_eq!(plan, ["small@local-2", "large@local-2", "small@local", "large@local"]);
    assert_eq!((around.passed.len(), around.waits_until), (2, None));
    let known = [gone(Some("small"), "local", None, 300)];
    let asked = Question { unavailable: &known, ..asked };
    let plan = told(&place_around(&catalogue, &asked).unwrap().placement.plan);
    assert_eq!(plan, ["small@local-2", "large@local", "large@local-2"], "both places are left");
}

#[test]
fn of_machines_that_are_there_once_as_many_are_kept_as_are_asked_for() {
    let host =
        |plan: &str| Offer { disk_gb: 20, ..Offer::live("ssh", plan, "here", (2, 4096), Micros::ZERO) };
    let catalogue = Catalogue::new(vec![host("one"), host("two"), host("three")]);
    let (demand, how) = (small(), Strategy::Cheapest);
    let known = [Unavailable { provider: "ssh".to_owned(), ..gone(Some("one"), "here", None, 300) }];
    let plan = |replicas| {
        let asked = Question { unavailable: &known, replicas, ..question(&demand, &how) };
        let around = place_around(&catalogue, &asked).unwrap();
        (told(&around.placement.plan), around.waits_until)
    };
    assert_eq!(plan(2), (vec!["three@here".to_owned(), "two@here".to_owned()], None));
    assert_eq!(plan(3).0, ["three@here", "two@here", "one@here"], "what can be had comes first");
}
