//! Calls under both names of the service, who sees what, and what is left out of pages.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::task::{Context, Poll};

use blueprint_common_types::{Health, OverlayLease, ServiceKey, TargetKey};
use blueprint_hub_registry_core::{RegistrySnapshot, TargetRecord};
use tower_service::Service;

use super::*;
use crate::find::is_seen;

/// Gives back the path that it was asked for.
struct Echo;

impl Service<http::Request<()>> for Echo {
    type Response = String;
    type Error = Infallible;
    type Future = std::future::Ready<Result<String, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<()>) -> Self::Future {
        std::future::ready(Ok(request.uri().path().to_owned()))
    }
}

#[tokio::test]
async fn the_early_name_of_the_service_leads_to_the_same_calls() {
    let mut service = Renamed(Echo);
    for (asked, served) in [
        ("/qos.QoSMetrics/GetStatus", "/qos.QosMetrics/GetStatus"),
        ("/qos.QosMetrics/GetStatus", "/qos.QosMetrics/GetStatus"),
        ("/blueprint.v1.Registry/List", "/blueprint.v1.Registry/List"),
    ] {
        let request = http::Request::builder().uri(format!("http://hub{asked}")).body(()).unwrap();
        assert_eq!(service.call(request).await.unwrap(), served);
    }
}

#[test]
fn without_a_target_nothing_is_seen_and_a_machine_sees_its_own() {
    let key = ServiceKey { blueprint: 7, service: 42 };
    let agent = blueprint_common_types::AgentId::from_bytes([1; 16]);
    let other = blueprint_common_types::AgentId::from_bytes([2; 16]);
    let mut snapshot = RegistrySnapshot::default();
    assert!(!is_seen(&snapshot, agent, key, |_, _| true));
    let lease = OverlayLease { v4: [10, 88, 0, 2].into(), v6: [0xfd00, 0, 0, 0, 0, 0, 0, 2].into() };
    let target = TargetKey { service: key, agent, port: 80 };
    let record = TargetRecord {
        key: target,
        health: Health::Unhealthy,
        reason: String::new(),
        address: (lease.v4, 80).into(),
        expires_at: blueprint_common_types::Timestamp::from_millis(9),
        agent_name: "one".to_owned(),
        generation: 0,
        weight: 100,
    };
    snapshot.targets.insert(target, record);
    snapshot.by_service.insert(key, vec![target]);
    assert!(is_seen(&snapshot, agent, key, |_, _| false), "what it serves, also while it is sick");
    assert!(!is_seen(&snapshot, other, key, |_, _| false), "the default");
}

#[test]
fn a_page_that_is_kept_is_cut_at_its_bounds() {
    let long: BTreeMap<String, String> =
        (0..1000).map(|number| (format!("metric_{number:04}_{}", "x".repeat(100)), "1".to_owned())).collect();
    let kept = cut(long);
    assert!(
        kept.len() < 128 && kept.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() <= 8192
    );
    let short = (0..1000).map(|number| (format!("m{number}"), "1".to_owned())).collect();
    assert_eq!(cut(short).len(), 128);
}

#[test]
fn rounds_go_around_so_that_every_service_has_its_turn() {
    let known = (0..1200).map(|service| ServiceKey { blueprint: 1, service });
    let mut next = ServiceKey { blueprint: 0, service: 0 };
    let mut asked = std::collections::BTreeSet::new();
    for round in 1..=3 {
        let (services, after) = pages::turn(known.clone(), next);
        assert_eq!(services.len(), 500);
        asked.extend(services);
        assert_eq!(asked.len(), (500 * round).min(1200));
        next = after;
    }
    let few = pages::turn(known.take(3), next);
    assert_eq!(few.0.len(), 3, "also where it begins after all there are");
}
