//! What is ordered, and what is not.

use blueprint_hub_provision_core::resource::Arch;

use super::super::view;
use super::*;

#[test]
fn what_has_one_place_alone_is_not_spread_in_silence() {
    let offer = |provider: &str, region: &str| Candidate {
        provider: provider.to_owned(),
        plan: "s1".to_owned(),
        region: region.to_owned(),
        spot: false,
        disk_gb: 8,
        arch: Arch::X86_64,
        hourly: Micros::new(1),
        stopped_hourly: Micros::new(1),
        egress: None,
    };
    let plan = [offer("scaleway", "fr-par-1"), offer("scaleway", "fr-par-2")];
    let error = check_places(&plan, Spread::Regions, 2).unwrap_err();
    assert!(format!("{error:?}").contains("all that fit are at fr-par of scaleway"), "{error:?}");
    assert!(check_places(&plan, Spread::Providers, 2).is_err());
    assert!(check_places(&plan, Spread::None, 2).is_ok());
    assert!(check_places(&plan, Spread::Regions, 1).is_ok());
    let plan = [plan[0].clone(), offer("scaleway", "nl-ams-1"), offer("aws", "eu-west-1")];
    assert!(check_places(&plan, Spread::Regions, 2).is_ok());
    assert!(check_places(&plan, Spread::Providers, 2).is_ok());
}

#[test]
fn a_name_that_stands_is_not_given_twice() {
    let (standing, mut records) = view::tests::records(Wanted::Running, &[]);
    let (status, _, message, hint) = free(&records, &standing.name).unwrap_err().parts();
    assert_eq!(status, StatusCode::CONFLICT);
    assert_eq!(message, format!("deployment demo is there as {}", standing.id));
    assert!(hint.contains(standing.id.as_str()), "{hint}");
    assert!(free(&records, "").is_ok() && free(&records, "other").is_ok());
    for deployment in records.deployments.values_mut() {
        deployment.wanted = Wanted::Gone;
    }
    assert!(free(&records, &standing.name).is_ok(), "what is being ended leaves its name");
}

#[test]
fn nothing_is_ordered_that_is_dearer_than_what_was_agreed_to() {
    let offer = |hourly| Candidate {
        provider: "sim".to_owned(),
        plan: format!("of-{hourly}"),
        region: "local".to_owned(),
        spot: false,
        disk_gb: 8,
        arch: Arch::X86_64,
        hourly: Micros::new(hourly),
        stopped_hourly: Micros::new(hourly),
        egress: None,
    };
    let confirmed: Confirmed =
        serde_json::from_value(json!({ "hourly": "0.02", "most_hourly": "0.06" })).unwrap();
    let plan = [10_000, 30_000, 40_000].map(offer).to_vec();
    let heeded = confirmed.heed(plan.clone(), Spread::None, 2).unwrap();
    assert_eq!(heeded, plan[..2], "what was dearer than the dearest is left out");
    let error = confirmed.heed(plan, Spread::None, 3).unwrap_err();
    assert!(format!("{error:?}").contains("price_changed"), "{error:?}");
    assert!(confirmed.heed([10_001, 9_000].map(offer).to_vec(), Spread::None, 2).is_err());
    let wrong = json!({ "hourly": "-1", "most_hourly": "0.06" });
    assert!(serde_json::from_value::<Confirmed>(wrong).is_err());
}
