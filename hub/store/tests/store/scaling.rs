//! Terms of services, sizes of deployments, and machines that leave.

use std::collections::BTreeSet;

use blueprint_common_types::{Micros, ServiceKey};
use blueprint_hub_provision_core::DeploymentId;
use blueprint_hub_provision_core::cost::Limits;
use blueprint_hub_provision_core::lifecycle::{
    Deployment, LifecycleStore, Record, RecordState, Spread, Wanted,
};
use blueprint_hub_provision_core::scaling::{
    MAX_SCALE_EVENTS, Phase, ResizeError, ScaleStore, Scaling, Terms, Tier,
};
use blueprint_hub_registry_core::{AuditFilter, Store};
use blueprint_hub_store::SqliteStore;

use crate::lifecycle::{deployment, record};
use crate::schema::take_back_to;
use crate::support::{MINUTE, NOW, store};

const SERVICE: ServiceKey = ServiceKey { blueprint: u64::MAX, service: 42 };

/// A deployment with one machine, and the terms of its service.
async fn scaled(store: &SqliteStore) -> (Deployment, Scaling) {
    let asked = Deployment { expires_at: None, spread: Spread::Regions, ..deployment(1, "key") };
    let (stored, _) = store.create_deployment(asked, Limits::default()).await.unwrap();
    let candidate = stored.plan.first().cloned().unwrap();
    store.save_instance(Record { candidate, ..record(&stored) }).await.unwrap();
    let terms =
        Terms { target_rate: Some(9), paid_until: Some(NOW.plus(MINUTE)), ..Terms::of(Tier::Standard) };
    let scaling = store.set_scaling(SERVICE, stored.id.clone(), terms, None, NOW).await.unwrap().unwrap();
    (stored, scaling)
}

async fn size(store: &SqliteStore, id: &DeploymentId) -> u32 {
    store.load_lifecycle().await.unwrap().deployments.get(id).unwrap().replicas
}

#[tokio::test]
async fn terms_phases_and_sizes_survive_a_restart_each_with_its_reason() {
    let (dir, store) = store();
    let (stored, scaling) = scaled(&store).await;
    assert_eq!(store.scalings().await.unwrap(), std::slice::from_ref(&scaling));
    let key = record(&stored).key;
    let keys = BTreeSet::from([key.clone()]);
    let (nobody, limits) = (BTreeSet::new(), Limits::default());
    store.resize(scaling.clone(), 5, nobody.clone(), "load".to_owned(), limits, NOW).await.unwrap();
    store.mark_leaving(scaling.clone(), keys.clone(), nobody.clone(), "idle".to_owned(), NOW).await.unwrap();
    // What is marked already keeps its time.
    let later = NOW.plus(MINUTE);
    store
        .mark_leaving(scaling.clone(), keys.clone(), nobody.clone(), "idle".to_owned(), later)
        .await
        .unwrap();
    assert!(store.set_phase(scaling, Phase::Draining, "not paid".to_owned(), later).await.unwrap());
    drop(store);

    let store = SqliteStore::open(dir.path()).unwrap();
    let records = store.load_lifecycle().await.unwrap();
    assert_eq!(records.deployments.get(&stored.id).unwrap().spread, Spread::Regions);
    let mark = records.leaving.get(&key).copied().unwrap();
    assert_eq!((size(&store, &stored.id).await, mark.since, mark.is_released), (5, NOW, false));
    let known = store.scalings().await.unwrap();
    assert_eq!((known[0].phase, known[0].phase_since), (Phase::Draining, later));
    // New terms do not pay by themselves: the phase follows the time that was paid for.
    let terms = Terms::of(Tier::Premium);
    let before = known.first().cloned();
    let scaling = store.set_scaling(SERVICE, stored.id.clone(), terms, before, later).await.unwrap().unwrap();
    assert_eq!(scaling.phase, Phase::Draining);

    store.resize(scaling.clone(), 0, keys.clone(), "drained".to_owned(), limits, later).await.unwrap();
    let records = store.load_lifecycle().await.unwrap();
    let mark = records.leaving.get(&key).copied().unwrap();
    assert_eq!((mark.is_released, mark.is_given_up), (true, false));
    // What is released does not come back.
    store.mark_leaving(scaling.clone(), nobody, keys, "load".to_owned(), later).await.unwrap();
    assert!(store.load_lifecycle().await.unwrap().leaving.contains_key(&key));
    assert_eq!(size(&store, &stored.id).await, 0);
    let told = store.scale_events(SERVICE, 100).await.unwrap();
    let told: Vec<_> = told.iter().map(|event| (event.what.as_str(), event.replicas)).collect();
    let expected = [
        ("set", 2),
        ("grow", 5),
        ("drain", 5),
        ("drain", 5),
        ("phase", 5),
        ("set", 5),
        ("shrink", 0),
        ("keep", 0),
    ];
    assert_eq!(told, expected);
    let filter = AuditFilter {
        since: None,
        kind: Some("scaling.act".to_owned()),
        service: None,
        hash: None,
        limit: 100,
    };
    assert_eq!(store.audit_find(filter).await.unwrap().len(), 6, "one for each step");
}

#[tokio::test]
async fn what_was_decided_before_the_operator_spoke_is_not_done() {
    let (_dir, store) = store();
    let (stored, old) = scaled(&store).await;
    let paid = Terms { paid_until: None, ..old.terms.clone() };
    // The same moment by the clock, and still another edition.
    let set = async |terms: Terms, before| {
        store.set_scaling(SERVICE, stored.id.clone(), terms, before, NOW).await.unwrap()
    };
    let new = set(paid.clone(), Some(old.clone())).await.unwrap();
    assert!(new.changed_at > old.changed_at);
    assert_eq!(set(Terms::of(Tier::Basic), Some(old.clone())).await, None, "the payment is not lost");
    assert_eq!(set(Terms::of(Tier::Basic), None).await, None);

    let keys = BTreeSet::from([record(&stored).key]);
    let (why, limits) = (String::new, Limits::default());
    let stale = async |old: Scaling| {
        let nobody = BTreeSet::new();
        let marked = store.mark_leaving(old.clone(), keys.clone(), nobody, why(), NOW).await.unwrap();
        let turned = store.set_phase(old.clone(), Phase::Draining, why(), NOW).await.unwrap();
        let resized = store.resize(old.clone(), 0, keys.clone(), why(), limits, NOW).await.unwrap();
        let key = record(&stored).key;
        let replaced = store.replace(old.clone(), key, why(), limits, NOW).await.unwrap();
        let ended = store.end(old, why(), NOW).await.unwrap();
        assert_eq!((marked, turned, resized, replaced, ended), (false, false, false, false, false));
    };
    stale(old.clone()).await;
    assert_eq!(store.scalings().await.unwrap(), std::slice::from_ref(&new));
    let records = store.load_lifecycle().await.unwrap();
    assert!(records.leaving.is_empty());
    let known = records.deployments.get(&stored.id).unwrap();
    assert_eq!((known.replicas, known.wanted), (stored.replicas, Wanted::Running));

    // An end is one change, and nobody pays for it afterwards without being told.
    assert!(store.end(new.clone(), "not paid".to_owned(), NOW).await.unwrap());
    assert_eq!(set(paid.clone(), Some(new.clone())).await, None);
    assert_eq!(store.scalings().await.unwrap()[0].phase, Phase::Ended);
    let records = store.load_lifecycle().await.unwrap();
    assert_eq!(records.deployments.get(&stored.id).unwrap().wanted, Wanted::Gone);
    store.remove_scaling(SERVICE, NOW).await.unwrap();
    stale(new).await;
}

#[tokio::test]
async fn limits_are_asked_for_what_is_more_than_before_alone() {
    let (_dir, store) = store();
    let (stored, scaling) = scaled(&store).await;
    let limits = Limits { max_hourly: Some(Micros::new(20_000)), counts_sim: true, ..Limits::default() };
    let resize =
        async |to| store.resize(scaling.clone(), to, BTreeSet::new(), "load".to_owned(), limits, NOW).await;
    resize(4).await.unwrap();
    let refused = resize(5).await.unwrap_err();
    assert!(matches!(refused, ResizeError::OverLimit(_)), "{refused}");
    assert!(refused.to_string().contains("provision.max_hourly"), "{refused}");
    assert_eq!(size(&store, &stored.id).await, 4, "nothing was changed");
    resize(1).await.unwrap();
    assert_eq!(size(&store, &stored.id).await, 1);
}

#[tokio::test]
async fn a_replica_is_given_up_once_and_only_where_it_joined_and_nothing_else_was_said() {
    let (dir, store) = store();
    let (stored, scaling) = scaled(&store).await;
    let own = record(&stored);
    let replace = async |store: &SqliteStore, scaling: &Scaling| {
        let (key, why) = (own.key.clone(), "its agent is away".to_owned());
        store.replace(scaling.clone(), key, why, Limits::default(), NOW).await.unwrap()
    };
    assert!(!replace(&store, &scaling).await, "it did not join");
    store.save_instance(own.turned(RecordState::Active, "", NOW)).await.unwrap();
    let terms = Terms { min: 1, ..scaling.terms.clone() };
    let set = store.set_scaling(SERVICE, stored.id.clone(), terms, Some(scaling.clone()), NOW).await;
    let new = set.unwrap().unwrap();
    assert!(!replace(&store, &scaling).await, "the operator spoke meanwhile");
    assert!(replace(&store, &new).await);
    assert!(!replace(&store, &new).await, "twice");
    drop(store);
    let store = SqliteStore::open(dir.path()).unwrap();
    let records = store.load_lifecycle().await.unwrap();
    let mark = records.leaving.get(&own.key).copied().unwrap();
    assert_eq!((mark.is_released, mark.is_given_up), (true, true));
    assert_eq!(size(&store, &stored.id).await, stored.replicas, "as many are wanted as before");
    let told = store.scale_events(SERVICE, 100).await.unwrap();
    let last = told.last().map(|event| (event.what.as_str(), event.reason.as_str()));
    assert_eq!(last, Some(("replace", "its agent is away")));

    // What drains goes its own way, and what is switched off is not made up for.
    let (_dir, store) = crate::support::store();
    let (stored, scaling) = scaled(&store).await;
    store.save_instance(record(&stored).turned(RecordState::Active, "", NOW)).await.unwrap();
    store.set_wanted(stored.id.clone(), Wanted::Stopped, String::new(), NOW).await.unwrap();
    assert!(!replace(&store, &scaling).await);
    store.set_wanted(stored.id.clone(), Wanted::Running, String::new(), NOW).await.unwrap();
    let keys = BTreeSet::from([own.key.clone()]);
    store.mark_leaving(scaling.clone(), keys, BTreeSet::new(), "idle".to_owned(), NOW).await.unwrap();
    assert!(!replace(&store, &scaling).await);
}

#[tokio::test]
async fn a_replica_is_not_given_up_where_nothing_may_take_its_place() {
    let (_dir, store) = store();
    let (stored, scaling) = scaled(&store).await;
    let own = record(&stored).turned(RecordState::Active, "", NOW);
    let candidate = stored.plan.first().cloned().unwrap();
    store.save_instance(Record { candidate, ..own.clone() }).await.unwrap();
    let replace = async |max_hourly| {
        let max_hourly = Some(Micros::new(max_hourly));
        let limits = Limits { max_hourly, counts_sim: true, ..Limits::default() };
        store.replace(scaling.clone(), own.key.clone(), "its agent is away".to_owned(), limits, NOW).await
    };
    // One that the operator lowered meanwhile.
    let refused = replace(1).await.unwrap_err();
    assert!(matches!(refused, ResizeError::OverLimit(_)), "{refused}");
    let records = store.load_lifecycle().await.unwrap();
    assert!(records.leaving.is_empty(), "nothing was changed");
    // What is enough for those that are wanted is enough: the one that goes does not count beside the one that comes.
    let hourly = stored.plan.first().map_or(0, |offer| offer.hourly.get());
    assert!(replace(hourly * u64::from(stored.replicas)).await.unwrap());
}

#[tokio::test]
async fn a_service_without_terms_has_nothing_that_drains_and_history_is_bounded() {
    let (_dir, store) = store();
    let (stored, scaling) = scaled(&store).await;
    let keys = BTreeSet::from([record(&stored).key]);
    store.mark_leaving(scaling, keys, BTreeSet::new(), "idle".to_owned(), NOW).await.unwrap();
    assert!(store.remove_scaling(SERVICE, NOW).await.unwrap());
    assert!(store.load_lifecycle().await.unwrap().leaving.is_empty());
    assert!(!store.remove_scaling(SERVICE, NOW).await.unwrap());
    for _ in 0..MAX_SCALE_EVENTS + 10 {
        store.note_held(SERVICE, "a limit".to_owned(), NOW).await.unwrap();
    }
    let told = store.scale_events(SERVICE, u32::MAX).await.unwrap();
    assert_eq!(u32::try_from(told.len()).unwrap(), MAX_SCALE_EVENTS);
}

#[tokio::test]
async fn a_machine_that_is_forgotten_leaves_no_mark() {
    let (_dir, store) = store();
    let (stored, scaling) = scaled(&store).await;
    let own = record(&stored);
    let keys = BTreeSet::from([own.key.clone()]);
    store.mark_leaving(scaling, keys, BTreeSet::new(), "idle".to_owned(), NOW).await.unwrap();
    store.set_wanted(stored.id.clone(), Wanted::Gone, String::new(), NOW).await.unwrap();
    store.save_instance(own.turned(RecordState::Gone, "", NOW)).await.unwrap();
    store.note_scan(NOW.plus(MINUTE * 60 * 24 * 100)).await.unwrap();
    let records = store.load_lifecycle().await.unwrap();
    assert!(records.instances.is_empty() && records.leaving.is_empty());
}

#[tokio::test]
async fn a_database_of_before_gets_sizes_as_they_were_ordered() {
    let (dir, store) = store();
    let (stored, _) = store.create_deployment(deployment(1, "key"), Limits::default()).await.unwrap();
    drop(store);
    take_back_to(dir.path(), 16);
    let store = SqliteStore::open(dir.path()).unwrap();
    let records = store.load_lifecycle().await.unwrap();
    assert_eq!(records.deployments.get(&stored.id), Some(&stored));
    assert!(store.scalings().await.unwrap().is_empty());
}
