//! Whom a list believes.

use blueprint_hub_provision_core::ErrorClass;

use super::*;
use crate::claim::tests::claim;
use crate::inventory::Format;
use crate::key::tests::KEY;

fn hosts(names: &[&str]) -> Vec<OwnHost> {
    let block = |name: &&str| {
        format!(
            "[[host]]\nname = \"{name}\"\naddress = \"{name}\"\nhost_key = \"{KEY}\"\nidentity = \"/k/id\"\ncpu = 8\n\
             memory_mib = 32000\ndisk_gb = 400\n"
        )
    };
    let text: String = names.iter().map(block).collect();
    let inventory = Inventory::parse(&text, Format::Toml).unwrap();
    names.iter().map(|name| inventory.host(name).unwrap().clone()).collect()
}

fn cloud(folder: &std::path::Path) -> OwnHosts {
    let file = folder.join("hosts.toml");
    std::fs::write(&file, "").unwrap();
    OwnHosts::open(SshConfig { hub: claim(1).tags.hub, hosts: file, dir: folder.join("ssh") })
}

fn says(claim: Claim) -> Result<Found, HostError> {
    Ok(Found { claim: Some((claim, InstanceState::Running)), unfit: None })
}

/// What is believed of hosts that answer in this order.
async fn believed(cloud: &OwnHosts, found: Vec<(OwnHost, Result<Found, HostError>)>) -> Vec<String> {
    let mut copies = cloud.copies.all().await.unwrap();
    let places = Places::of(cloud.config.hub, &copies, &found);
    let mut all = Vec::new();
    for (host, found) in found {
        let copy = copies.remove(host.name());
        all.extend(cloud.judge(&host, found, copy, &places).await.unwrap());
    }
    all.into_iter().map(|instance| instance.provider_id).collect()
}

#[tokio::test]
async fn a_host_does_not_speak_for_another_however_late_it_answers() {
    let folder = tempfile::tempdir().unwrap();
    let cloud = cloud(folder.path());
    let [victim, liar] = <[_; 2]>::try_from(hosts(&["rack-1", "rack-2"])).unwrap();
    cloud.copies.write("rack-1", &claim(1)).await.unwrap();
    let real = Place::of("rack-1", &claim(1)).to_string();
    for attempt in [1, 2] {
        let late = vec![(victim.clone(), says(claim(1))), (liar.clone(), says(claim(attempt)))];
        assert_eq!(believed(&cloud, late).await, std::slice::from_ref(&real), "{attempt}");
        let early = vec![(liar.clone(), says(claim(attempt))), (victim.clone(), says(claim(1)))];
        assert_eq!(believed(&cloud, early).await, std::slice::from_ref(&real), "{attempt}");
        let away = Err(HostError::Unreached { said: String::new() });
        let alone = vec![(victim.clone(), away), (liar.clone(), says(claim(attempt)))];
        assert_eq!(believed(&cloud, alone).await, std::slice::from_ref(&real), "{attempt}");
    }
    assert_eq!(cloud.copies.all().await.unwrap().into_keys().collect::<Vec<_>>(), ["rack-1"]);
    // A later attempt on the host that has it is believed.
    let again = vec![(victim, says(claim(2))), (liar, says(claim(2)))];
    assert_eq!(believed(&cloud, again).await, [Place::of("rack-1", &claim(2)).to_string()]);
}

#[tokio::test]
async fn two_hosts_with_one_claim_that_this_hub_knows_of_neither_are_not_believed() {
    let folder = tempfile::tempdir().unwrap();
    let cloud = cloud(folder.path());
    let [one, two] = <[_; 2]>::try_from(hosts(&["rack-1", "rack-2"])).unwrap();
    let both = vec![(one.clone(), says(claim(1))), (two, says(claim(1)))];
    assert!(believed(&cloud, both).await.is_empty());
    assert!(cloud.copies.all().await.unwrap().is_empty());
    let found = believed(&cloud, vec![(one, says(claim(1)))]).await;
    assert_eq!(found, [Place::of("rack-1", &claim(1)).to_string()]);
}

#[tokio::test]
async fn a_host_that_something_is_done_on_counts_as_its_copy_and_keeps_nobody_waiting() {
    let folder = tempfile::tempdir().unwrap();
    let cloud = cloud(folder.path());
    let host = hosts(&["rack-1"]).pop().unwrap();
    cloud.copies.write("rack-1", &claim(1)).await.unwrap();
    let held = cloud.turn(&host).await.unwrap();
    let found = cloud.ask(&host, Instant::now() + ASK_WITHIN).await;
    assert!(matches!(found, Err(HostError::Busy { .. })), "{found:?}");
    assert_eq!(believed(&cloud, vec![(host.clone(), found)]).await.len(), 1);
    let refused = timeout(TURN_WITHIN * 2, cloud.turn(&host)).await.unwrap().unwrap_err();
    assert_eq!(refused.told("delete", &host, false).class(), ErrorClass::Again);
    drop(held);
    cloud.turn(&host).await.unwrap();
}

#[test]
fn what_fails_at_one_host_pauses_no_calls_to_the_others() {
    let host = hosts(&["rack-1"]).pop().unwrap();
    let said = || String::from("x");
    for is_order in [true, false] {
        for error in [
            HostError::Refused { said: said() },
            HostError::Lost { said: said() },
            HostError::Nonsense { said: said() },
            HostError::Busy { said: said() },
            HostError::Unreached { said: said() },
            HostError::HostKey,
        ] {
            let is_harmless = error.is_harmless();
            let told = error.told("create", &host, is_order);
            assert!(!told.counts_for_breaker(), "{told:?}");
            assert_eq!(told.class() == ErrorClass::Unknown, !is_harmless, "{told:?}");
        }
    }
}

#[tokio::test]
async fn an_inventory_that_is_none_is_told_by_calls_and_keeps_nothing_from_starting() {
    let folder = tempfile::tempdir().unwrap();
    let cloud = cloud(folder.path());
    std::fs::write(&cloud.config.hosts, "[[host]]\nname = 1\n").unwrap();
    let cloud = OwnHosts::open(cloud.config);
    assert_eq!(cloud.offers().await.unwrap_err().class(), ErrorClass::Reject);
    assert_eq!(cloud.list().await.unwrap_err().class(), ErrorClass::Again);
    std::fs::write(&cloud.config.hosts, "").unwrap();
    assert!(cloud.list().await.unwrap().instances.is_empty());
}
