//! Alerts about costs: what is told once, what waits to be delivered, what is held, and what machines sent.

use std::collections::{BTreeMap, BTreeSet};

use blueprint_common_types::{JoinToken, Micros, ServiceKey};
use blueprint_hub_provision_core::catalogue::Day;
use blueprint_hub_provision_core::cost::alert::{
    AlertAction, AlertKind, AlertTerms, Anomaly, Delivery, DeliveryState, Finding, Hook, MAX_ALERTS, Mark,
    Period, Scope, THRESHOLDS,
};
use blueprint_hub_provision_core::cost::egress::EgressPrice;
use blueprint_hub_provision_core::cost::{CostStore, Limits, SetAlertError};
use blueprint_hub_provision_core::lifecycle::{
    Begun, BoundToken, CreateDeploymentError, Deployment, LifecycleStore, Record, RecordState, Spread, Wanted,
};
use blueprint_hub_provision_core::scaling::{ResizeError, ScaleStore, Terms, Tier};
use blueprint_hub_provision_core::{DeploymentId, InstanceKey};
use blueprint_hub_registry_core::{AuditKind, Store};
use blueprint_hub_store::SqliteStore;

use crate::lifecycle::{deployment, record};
use crate::schema::take_back_to;
use crate::support::{MINUTE, NOW, store};

const SIM_COUNTS: Limits = Limits {
    max_machines: None,
    max_hourly: None,
    max_monthly: None,
    max_order_hourly: None,
    counts_sim: true,
};

fn terms(action: AlertAction, cents: u64) -> AlertTerms {
    AlertTerms {
        scope: Scope::All,
        period: Period::Month,
        amount: Micros::new(cents * 10_000),
        thresholds: THRESHOLDS.into(),
        action,
        anomaly: Some(Anomaly { times: 3, floor: Micros::new(1) }),
        webhook: Some(Hook { shown: "https://hooks.example/...".to_owned(), sealed: "sealed".to_owned() }),
    }
}

fn finding(threshold: u16) -> Finding {
    Finding {
        mark: Mark { kind: AlertKind::Threshold, period: "2027-01".to_owned(), threshold },
        spent: Micros::new(70),
        forecast: Some(Micros::new(90)),
        text: format!("{threshold} %"),
    }
}

/// A machine of a stored deployment that runs since `NOW`.
async fn machine(store: &SqliteStore) -> Record {
    let (stored, _) = store.create_deployment(deployment(1, "key"), Limits::default()).await.unwrap();
    let mut made = record(&stored).turned(RecordState::Created, "", NOW);
    (made.made_at, made.provider_id) = (Some(NOW), Some("sim/1".to_owned()));
    store.save_instance(made.clone()).await.unwrap();
    made
}

#[tokio::test]
async fn what_was_told_is_told_once_also_after_a_restart_and_anew_for_another_amount() {
    let (dir, store) = store();
    let set = store.set_alert("team".to_owned(), terms(AlertAction::Notify, 10), NOW).await.unwrap();
    let fire = async |store: &SqliteStore, edition, at: &[u16]| {
        let findings = at.iter().map(|at| finding(*at)).collect();
        let new = store.fire("team".to_owned(), edition, findings, NOW).await.unwrap();
        new.into_iter().map(|event| event.finding.mark.threshold).collect::<Vec<_>>()
    };
    assert_eq!(fire(&store, set.edition, &[50]).await, [50]);
    assert_eq!(fire(&store, set.edition, &[50, 80]).await, [80]);
    drop(store);
    let store = SqliteStore::open(dir.path()).unwrap();
    assert_eq!(store.alerts().await.unwrap(), std::slice::from_ref(&set));
    assert_eq!(fire(&store, set.edition, &[50, 80]).await, [0u16; 0]);
    let marks: BTreeSet<Mark> = [50, 80].map(|at| finding(at).mark).into();
    assert_eq!(store.told(NOW).await.unwrap(), BTreeMap::from([("team".to_owned(), marks)]));

    // Another webhook is the same edition; another amount is not, and what is on its way for the old one is lost.
    let other = AlertTerms { webhook: None, ..terms(AlertAction::Hold, 10) };
    assert_eq!(store.set_alert("team".to_owned(), other, NOW).await.unwrap().edition, set.edition);
    let higher = store.set_alert("team".to_owned(), terms(AlertAction::Hold, 20), NOW).await.unwrap();
    assert_ne!(higher.edition, set.edition);
    assert_eq!(fire(&store, set.edition, &[100]).await, [0u16; 0]);
    assert_eq!(fire(&store, higher.edition, &[50]).await, [50]);
    assert!(store.remove_alert("team".to_owned(), NOW).await.unwrap());
    assert!(!store.remove_alert("team".to_owned(), NOW).await.unwrap());
    assert_eq!(fire(&store, higher.edition, &[80]).await, [0u16; 0]);
    let again = store.set_alert("team".to_owned(), terms(AlertAction::Hold, 20), NOW).await.unwrap();
    assert_eq!(fire(&store, again.edition, &[50]).await, [50], "it is a new one");
    let events = store.alert_events(Some("team".to_owned()), 100).await.unwrap();
    assert_eq!(events.iter().map(|event| event.finding.mark.threshold).collect::<Vec<_>>(), [50, 80, 50, 50]);
    let kinds: Vec<_> = store.audit_tail(100).await.unwrap().into_iter().map(|row| row.event.kind).collect();
    assert_eq!(kinds.iter().filter(|kind| **kind == AuditKind::AlertFire).count(), 4);
    assert_eq!(kinds.iter().filter(|kind| **kind == AuditKind::AlertRemove).count(), 1);
}

#[tokio::test]
async fn messages_wait_until_they_are_delivered_or_have_nowhere_to_go() {
    let (dir, store) = store();
    let set = store.set_alert("team".to_owned(), terms(AlertAction::Notify, 10), NOW).await.unwrap();
    let findings = THRESHOLDS.map(finding).to_vec();
    let events = store.fire("team".to_owned(), set.edition, findings, NOW).await.unwrap();
    let waiting = store.deliveries(NOW, 2).await.unwrap();
    assert_eq!((waiting.due.len(), waiting.next, waiting.waiting), (2, None, 3));
    assert_eq!(waiting.due[0], (events[0].clone(), set.terms.webhook.clone().unwrap()));
    let failed = events[0].delivery.tried(Err("no connection".to_owned()), NOW);
    store.note_delivery(events[0].id, failed.clone()).await.unwrap();
    store.note_delivery(events[1].id, events[1].delivery.tried(Ok(()), NOW)).await.unwrap();
    drop(store);
    let store = SqliteStore::open(dir.path()).unwrap();
    let waiting = store.deliveries(NOW, 10).await.unwrap();
    assert_eq!(waiting.due.iter().map(|(event, _)| event.id).collect::<Vec<_>>(), [events[2].id]);
    assert_eq!((waiting.next, waiting.waiting), (failed.next_at, 2));
    store.remove_alert("team".to_owned(), NOW).await.unwrap();
    assert_eq!(store.deliveries(NOW.plus(MINUTE), 10).await.unwrap().waiting, 0);
    // An answer that was on its way when the alert went.
    store.note_delivery(events[0].id, failed).await.unwrap();
    let states = async || {
        let events = store.alert_events(None, 10).await.unwrap();
        events.into_iter().map(|event| event.delivery.state).collect::<Vec<_>>()
    };
    use DeliveryState::{Delivered, Dropped};
    assert_eq!(states().await, [Dropped, Delivered, Dropped]);
    let arrived = Delivery { state: Delivered, attempts: 2, next_at: None, error: String::new() };
    store.note_delivery(events[0].id, arrived).await.unwrap();
    assert_eq!(states().await, [Delivered, Delivered, Dropped]);
}

#[tokio::test]
async fn there_are_as_many_alerts_as_there_may_be_and_messages_too() {
    let (_dir, store) = store();
    for number in 0..MAX_ALERTS {
        store.set_alert(format!("a{number}"), terms(AlertAction::Notify, 10), NOW).await.unwrap();
    }
    let error = store.set_alert("more".to_owned(), terms(AlertAction::Notify, 10), NOW).await.unwrap_err();
    assert!(matches!(error, SetAlertError::TooMany), "{error}");
    let known = store.set_alert("a7".to_owned(), terms(AlertAction::Notify, 11), NOW).await.unwrap();
    let many = (0..1001).map(finding).collect();
    let events = store.fire("a7".to_owned(), known.edition, many, NOW).await.unwrap();
    assert_eq!(events.iter().filter(|event| event.delivery.state == DeliveryState::Waiting).count(), 1000);
    let last = events.last().unwrap();
    assert_eq!(
        (last.delivery.state, last.delivery.error.as_str()),
        (DeliveryState::Dropped, "1000 messages wait already")
    );
}

/// What is held is looked at where the intent is stored: nobody has to have told it.
#[tokio::test]
async fn an_alert_that_is_spent_holds_orders_and_calls_until_it_is_released_or_raised() {
    let (dir, store) = store();
    let made = machine(&store).await;
    // Its price is 17179.869180 an hour.
    let later = NOW.plus(MINUTE * 60);
    let hold = |cents| terms(AlertAction::Hold, cents);
    store.set_alert("team".to_owned(), hold(1_717_986), NOW).await.unwrap();
    let order = async |store: &SqliteStore, number: u8, limits| {
        let asked = Deployment { created_at: later, ..deployment(number, &format!("key-{number}")) };
        store.create_deployment(asked, limits).await
    };
    let refused = order(&store, 2, SIM_COUNTS).await.unwrap_err();
    assert!(matches!(refused, CreateDeploymentError::Held(_)), "{refused}");
    let text = "alert team holds orders of all: $17179.86918 of $17179.86 was spent (2027-01)";
    assert_eq!(refused.to_string(), text);
    order(&store, 3, Limits::default()).await.unwrap();
    drop(store);
    let store = SqliteStore::open(dir.path()).unwrap();
    assert!(order(&store, 4, SIM_COUNTS).await.is_err(), "after a restart");

    let call = async |number: u32| {
        let planned = Record { key: InstanceKey::of(&made.deployment, number), number, ..made.clone() }
            .turned(RecordState::Planned, "", NOW);
        let planned = Record { made_at: None, provider_id: None, ..planned };
        store.save_instance(planned.clone()).await.unwrap();
        let token = JoinToken::random().unwrap();
        let (id, hash, expires_at) = (token.id(), token.hash(), later.plus(15 * MINUTE));
        let bound = BoundToken { id, hash, attempt: 1, expires_at, service: None };
        let called = Record { attempt: 1, ..planned.turned(RecordState::Calling, "", later) };
        store.begin_call(called, bound, SIM_COUNTS).await.unwrap()
    };
    assert!(matches!(call(2).await, Begun::Held(held) if held.alert == "team"));
    assert!(store.release_alert("team".to_owned(), "2027-01".to_owned(), later).await.unwrap());
    assert_eq!(call(3).await, Begun::Stored);
    store.set_alert("team".to_owned(), hold(1), later).await.unwrap();
    assert!(matches!(call(4).await, Begun::Held(_)), "another amount was not released");
    store.set_alert("team".to_owned(), hold(5_000_000), later).await.unwrap();
    assert_eq!(call(4).await, Begun::Stored);
    // The life of one deployment, and another one.
    let own = AlertTerms {
        scope: Scope::Deployment(made.deployment.clone()),
        period: Period::Total,
        ..terms(AlertAction::Terminate, 1)
    };
    store.set_alert("own".to_owned(), own, later).await.unwrap();
    assert!(matches!(call(5).await, Begun::Held(held) if held.alert == "own"));
    order(&store, 5, SIM_COUNTS).await.unwrap();
}

#[tokio::test]
async fn what_is_spread_is_held_by_an_alert_of_any_of_its_providers() {
    let (_dir, store) = store();
    machine(&store).await;
    let own = AlertTerms { scope: Scope::Provider("sim".to_owned()), ..terms(AlertAction::Hold, 1) };
    store.set_alert("sim".to_owned(), own, NOW).await.unwrap();
    let later = NOW.plus(MINUTE * 60);
    let asked = |number: u8, spread| {
        let mut asked = deployment(number, &format!("key-{number}"));
        asked.plan[0].provider = "elsewhere".to_owned();
        (asked.spread, asked.created_at, asked.expires_at) = (spread, later, None);
        asked
    };
    let refused = store.create_deployment(asked(2, Spread::Providers), SIM_COUNTS).await.unwrap_err();
    assert!(matches!(&refused, CreateDeploymentError::Held(held) if held.alert == "sim"), "{refused}");
    // All of these are ordered of the first.
    let (alone, _) = store.create_deployment(asked(3, Spread::None), SIM_COUNTS).await.unwrap();
    let one = Deployment { replicas: 1, ..asked(4, Spread::Providers) };
    let (spread, _) = store.create_deployment(one, SIM_COUNTS).await.unwrap();
    let grow = async |number: u64, of: &DeploymentId| {
        let service = ServiceKey { blueprint: 9, service: number };
        let terms = Terms::of(Tier::Standard);
        let scaling = store.set_scaling(service, of.clone(), terms, None, later).await.unwrap().unwrap();
        store.resize(scaling, 4, BTreeSet::new(), "load".to_owned(), SIM_COUNTS, later).await
    };
    assert!(matches!(grow(1, &spread.id).await, Err(ResizeError::Held(held)) if held.alert == "sim"));
    assert!(grow(2, &alone.id).await.unwrap(), "none of it would be there");
}

#[tokio::test]
async fn a_clock_that_was_set_to_another_period_lifts_no_hold() {
    let (_dir, store) = store();
    let mut made = machine(&store).await;
    let later = NOW.plus(MINUTE * 60);
    // The machine is gone, so that nothing is spent in any other month.
    for state in [RecordState::Deleting, RecordState::Gone] {
        made = made.turned(state, "", later);
        store.save_instance(made.clone()).await.unwrap();
    }
    store.set_alert("team".to_owned(), terms(AlertAction::Hold, 1), NOW).await.unwrap();
    let year_later = NOW.plus(MINUTE * 60 * 24 * 365);
    let order = async || {
        let asked = deployment(2, "key-2");
        let asked = Deployment { created_at: year_later, ..asked };
        store.create_deployment(asked, SIM_COUNTS).await
    };
    store.note_scan(later).await.unwrap();
    let refused = order().await.unwrap_err();
    assert!(matches!(&refused, CreateDeploymentError::Held(held) if held.period == "2027-01"), "{refused}");
    // The clock is believed now.
    store.note_scan(year_later).await.unwrap();
    order().await.unwrap();
}

/// What the watch decided may be old by the time it is stored: the operator was told that it is called off.
#[tokio::test]
async fn what_was_released_raised_changed_or_removed_meanwhile_ends_nothing() {
    let (_dir, store) = store();
    let made = machine(&store).await;
    let later = NOW.plus(MINUTE * 60);
    let wanted = async || store.load_lifecycle().await.unwrap().deployments[&made.deployment].wanted;
    let set = async |action, cents| {
        store.set_alert("team".to_owned(), terms(action, cents), later).await.unwrap().edition
    };
    let end = async |edition| {
        let doomed = vec![made.deployment.clone(), DeploymentId::from_bytes([9; 10])];
        store.end_by_alert("team".to_owned(), edition, doomed, SIM_COUNTS, later).await.unwrap()
    };
    let old = set(AlertAction::Terminate, 1).await;
    assert!(store.release_alert("team".to_owned(), "2027-01".to_owned(), later).await.unwrap());
    assert_eq!(end(old).await, [], "released");
    let raised = set(AlertAction::Terminate, 5_000_000).await;
    assert_eq!((end(old).await, end(raised).await), (vec![], vec![]), "raised");
    let held = set(AlertAction::Hold, 1).await;
    assert_eq!(end(held).await, [], "another action");
    let last = set(AlertAction::Terminate, 1).await;
    assert_eq!(last, held);
    assert!(store.remove_alert("team".to_owned(), later).await.unwrap());
    assert_eq!(end(last).await, [], "removed");
    assert_eq!(wanted().await, Wanted::Running);
    let last = set(AlertAction::Terminate, 1).await;
    assert_eq!(end(last).await, std::slice::from_ref(&made.deployment));
    assert_eq!((wanted().await, end(last).await), (Wanted::Gone, vec![]), "once");
}

#[tokio::test]
async fn what_machines_sent_adds_up_by_day_and_outlives_them() {
    let (dir, store) = store();
    let made = machine(&store).await;
    let stranger = InstanceKey::of(&DeploymentId::from_bytes([9; 10]), 1);
    let today = Day::from(NOW);
    let sent = |bytes| BTreeMap::from([(made.key.clone(), bytes), (stranger.clone(), 1)]);
    for bytes in [7, 5] {
        store.add_egress(sent(bytes), today).await.unwrap();
    }
    drop(store);
    let store = SqliteStore::open(dir.path()).unwrap();
    store.add_egress(sent(1), Day::from(NOW.plus(MINUTE * 24 * 60))).await.unwrap();
    let rows = store.egress(today).await.unwrap();
    let shown: Vec<_> = rows.iter().map(|row| (&row.key, row.day, row.bytes, row.price)).collect();
    let price = Some(EgressPrice { gb: Micros::new(90_000), included_gb: 3 });
    let next = Day::from(NOW.plus(MINUTE * 24 * 60));
    assert_eq!(shown, [(&made.key, today, 12, price), (&made.key, next, 1, price)]);
    assert_eq!(store.egress(next).await.unwrap().len(), 1);
    store.note_scan(NOW.plus(MINUTE * 60 * 24 * 399)).await.unwrap();
    assert_eq!(store.egress(today).await.unwrap().len(), 2);
    store.note_scan(NOW.plus(MINUTE * 60 * 24 * 402)).await.unwrap();
    assert!(store.egress(today).await.unwrap().is_empty());
}

/// Machines from before prices of sending were kept have none: what they send is counted, and its cost is unknown.
#[tokio::test]
async fn a_database_of_the_tenth_schema_is_read_on() {
    let (dir, store) = store();
    let made = machine(&store).await;
    drop(store);
    take_back_to(dir.path(), 10);
    let store = SqliteStore::open(dir.path()).unwrap();
    store.add_egress(BTreeMap::from([(made.key.clone(), 8)]), Day::from(NOW)).await.unwrap();
    let rows = store.egress(Day::from(NOW)).await.unwrap();
    assert_eq!(rows.iter().map(|row| (row.bytes, row.price)).collect::<Vec<_>>(), [(8, None)]);
    assert!(store.alerts().await.unwrap().is_empty());
}
