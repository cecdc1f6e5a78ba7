//! Deployments and their machines: request keys, transitions, and tokens bound to one machine.

use blueprint_common_types::{JoinToken, Micros, ProofKind, ServiceKey};
use blueprint_hub_provision_core::cost::egress::EgressPrice;
use blueprint_hub_provision_core::cost::{Limits, Usage, committed};
use blueprint_hub_provision_core::lifecycle::{
    Begun, BoundToken, CreateDeploymentError, Deployment, LifecycleStore, Record, RecordState, Wanted,
};
use blueprint_hub_provision_core::resource::Arch;
use blueprint_hub_provision_core::{Candidate, DeploymentId, InstanceKey};
use blueprint_hub_registry_core::{
    AuditKind, CloudIdentity, JoinCommit, JoinError, JoinRefusal, ServiceGrant, Store,
};
use blueprint_hub_store::SqliteStore;

use crate::schema::take_back_to;
use crate::support::{MINUTE, NOW, commit, id, store};

pub(crate) fn deployment(number: u8, request_key: &str) -> Deployment {
    let offer = |plan: &str, hourly| Candidate {
        provider: "sim".to_owned(),
        plan: plan.to_owned(),
        region: "local".to_owned(),
        spot: plan == "large",
        disk_gb: if plan == "large" { u32::MAX } else { 0 },
        arch: if plan == "large" { Arch::Arm64 } else { Arch::X86_64 },
        hourly: Micros::new(hourly),
        stopped_hourly: Micros::new(hourly / 3),
        egress: (plan == "large").then_some(EgressPrice { gb: Micros::new(90_000), included_gb: 3 }),
    };
    Deployment {
        id: DeploymentId::from_bytes([number; 10]),
        name: format!("demo-{number}"),
        request_key: request_key.to_owned(),
        asked: "2 x sim".to_owned(),
        replicas: 2,
        plan: vec![offer("small", 5000), offer("large", u64::from(u32::MAX) * 4)],
        spread: blueprint_hub_provision_core::lifecycle::Spread::None,
        service: Some(ServiceKey { blueprint: u64::MAX, service: 42 }),
        wanted: Wanted::Running,
        created_at: NOW,
        expires_at: Some(NOW.plus(MINUTE)),
        changed_at: NOW,
    }
}

pub(crate) fn record(deployment: &Deployment) -> Record {
    Record {
        key: InstanceKey::of(&deployment.id, 1),
        deployment: deployment.id.clone(),
        number: 1,
        candidate: deployment.plan.last().unwrap().clone(),
        state: RecordState::Planned,
        attempt: 0,
        created_at: NOW,
        since: NOW,
        called_at: None,
        made_at: None,
        is_off: false,
        switched_at: None,
        deleted_at: None,
        provider_id: None,
        agent: None,
        agent_attempt: 0,
        reason: String::new(),
    }
}

/// The record as it is called for, and a token of its own.
async fn call(store: &SqliteStore, record: &Record) -> (Record, JoinToken) {
    let mut record = record.turned(RecordState::Calling, "", NOW);
    record.attempt += 1;
    record.called_at = Some(NOW);
    let token = JoinToken::random().unwrap();
    let bound = BoundToken {
        id: token.id(),
        hash: token.hash(),
        attempt: record.attempt,
        expires_at: NOW.plus(15 * MINUTE),
        service: None,
    };
    assert_eq!(store.begin_call(record.clone(), bound, Limits::default()).await.unwrap(), Begun::Stored);
    (record, token)
}

fn joins(number: u16, token: &JoinToken, name: &str) -> JoinCommit {
    let mut commit = commit(number, token);
    name.clone_into(&mut commit.agent.name);
    commit
}

async fn refusal(store: &SqliteStore, commit: JoinCommit) -> JoinRefusal {
    match store.join(commit).await {
        Err(JoinError::Refused(refusal)) => refusal,
        other => unreachable!("{other:?}"),
    }
}

#[tokio::test]
async fn fifty_requests_with_one_key_are_one_deployment() {
    let (dir, store) = store();
    let asked = (0..50u8).map(|number| store.create_deployment(deployment(number, "key"), Limits::default()));
    let answers = futures_util::future::join_all(asked).await;
    let answers: Vec<_> = answers.into_iter().map(Result::unwrap).collect();
    assert_eq!(answers.iter().filter(|(_, is_new)| *is_new).count(), 1);
    assert!(answers.iter().all(|(stored, _)| *stored == answers[0].0));
    let other = Deployment { asked: "3 x sim".to_owned(), ..deployment(60, "key") };
    let refused = store.create_deployment(other, Limits::default()).await.unwrap_err();
    assert!(matches!(refused, CreateDeploymentError::Mismatch { .. }), "{refused}");
    drop(store);
    let store = SqliteStore::open(dir.path()).unwrap();
    let again = store.create_deployment(deployment(70, "key"), Limits::default()).await.unwrap();
    assert_eq!(again, (answers[0].0.clone(), false));
    assert_eq!(store.load_lifecycle().await.unwrap().deployments.len(), 1);
}

/// A call waits for its turn while its deployment is ended, and an answer comes after that.
#[tokio::test]
async fn what_was_ended_is_neither_called_for_nor_brought_back_by_an_answer() {
    let (_dir, store) = store();
    let (stored, _) = store.create_deployment(deployment(1, "key"), Limits::default()).await.unwrap();
    let planned = record(&stored);
    store.save_instance(planned.clone()).await.unwrap();
    let second = Record { key: InstanceKey::of(&stored.id, 2), number: 2, ..planned.clone() };
    store.save_instance(second.clone()).await.unwrap();
    let (called, _) = call(&store, &second).await;
    store.set_wanted(stored.id.clone(), Wanted::Gone, "a test".to_owned(), NOW).await.unwrap();
    store.save_instance(called.turned(RecordState::Deleting, "unwanted", NOW)).await.unwrap();

    let late = Record { attempt: 1, ..planned.turned(RecordState::Calling, "", NOW) };
    let token = JoinToken::random().unwrap();
    let expires_at = NOW.plus(15 * MINUTE);
    let bound = BoundToken { id: token.id(), hash: token.hash(), attempt: 1, expires_at, service: None };
    assert_eq!(
        store.begin_call(late, bound, Limits::default()).await.unwrap(),
        Begun::Unwanted,
        "a machine of a deployment that ended is called for"
    );
    let mut made = called.turned(RecordState::Created, "", NOW);
    made.provider_id = Some("sim/2".to_owned());
    store.save_instance(made).await.unwrap();
    let records = store.load_lifecycle().await.unwrap().instances;
    let state = |key: &InstanceKey| records.get(key).map(|it| (it.state, it.provider_id.clone()));
    assert_eq!(state(&planned.key), Some((RecordState::Planned, None)));
    assert_eq!(state(&second.key), Some((RecordState::Deleting, Some("sim/2".to_owned()))));
    store.save_instance(called.turned(RecordState::Gone, "", NOW)).await.unwrap();
    store.save_instance(called.turned(RecordState::Created, "", NOW)).await.unwrap();
    let records = store.load_lifecycle().await.unwrap().instances;
    assert_eq!(records.get(&second.key).map(|it| it.state), Some(RecordState::Gone));
}

#[tokio::test]
async fn every_step_survives_a_restart_and_is_told_in_history_and_audit() {
    let (dir, store) = store();
    let (stored, _) = store.create_deployment(deployment(1, "key"), Limits::default()).await.unwrap();
    assert_eq!(stored, deployment(1, "key"));
    store.save_instance(record(&stored)).await.unwrap();
    let (called, _) = call(&store, &record(&stored)).await;
    let mut made = called.turned(RecordState::Created, "", NOW.plus(MINUTE));
    made.provider_id = Some("sim/1".to_owned());
    made.made_at = Some(NOW);
    store.save_instance(made.clone()).await.unwrap();
    store.save_instance(made.clone()).await.unwrap();
    let off = Record { is_off: true, switched_at: Some(NOW.plus(MINUTE)), ..made.clone() };
    store.save_instance(off.clone()).await.unwrap();
    store.save_instance(off.clone()).await.unwrap();
    let made = Record { is_off: false, switched_at: Some(NOW.plus(MINUTE * 2)), ..off };
    store.save_instance(made.clone()).await.unwrap();
    let gone = store.set_wanted(stored.id.clone(), Wanted::Gone, "by hand".to_owned(), NOW).await.unwrap();
    assert_eq!(gone.map(|it| it.wanted), Some(Wanted::Gone));
    let still = store.set_wanted(stored.id.clone(), Wanted::Running, "again".to_owned(), NOW).await.unwrap();
    assert_eq!(still.map(|it| it.wanted), Some(Wanted::Gone), "gone is for good");
    let doomed = made.turned(RecordState::Deleting, "terminated", NOW.plus(MINUTE));
    store.save_instance(doomed.clone()).await.unwrap();
    let doomed = Record { deleted_at: Some(NOW.plus(MINUTE * 2)), ..doomed };
    store.save_instance(doomed.clone()).await.unwrap();
    store.note_scan(NOW).await.unwrap();
    drop(store);

    let store = SqliteStore::open(dir.path()).unwrap();
    let records = store.load_lifecycle().await.unwrap();
    assert_eq!(records.instances.values().collect::<Vec<_>>(), [&doomed]);
    assert_eq!(records.scanned_at, Some(NOW));
    let events = store.lifecycle_events(Some(stored.id.clone()), 100).await.unwrap();
    let steps: Vec<_> = events.iter().map(|event| event.what.as_str()).collect();
    assert_eq!(steps, ["running", "planned", "calling", "created", "off", "on", "gone", "deleting"]);
    let rows = store.audit_tail(100).await.unwrap();
    let kinds: Vec<_> = rows.iter().map(|row| row.event.kind).collect();
    assert_eq!(
        kinds,
        [
            AuditKind::DeploymentCreate,
            AuditKind::InstanceCreate,
            AuditKind::JoinTokenCreate,
            AuditKind::DeploymentTerminate,
            AuditKind::InstanceDelete
        ]
    );
    store.note_scan(NOW.plus(MINUTE * 60 * 24 * 365)).await.unwrap();
    assert_eq!(store.load_lifecycle().await.unwrap().deployments.len(), 1, "it has a machine still");
    store.save_instance(doomed.turned(RecordState::Gone, "", NOW)).await.unwrap();
    store.note_scan(NOW.plus(MINUTE * 60 * 24 * 366)).await.unwrap();
    let left = store.load_lifecycle().await.unwrap();
    assert_eq!((left.deployments.len(), left.instances.len()), (0, 0));
}

/// A database from before disks and processors were kept: what it orders takes its plan's own disk.
#[tokio::test]
async fn orders_of_the_seventh_schema_are_read_on() {
    let (dir, store) = store();
    let (stored, _) = store.create_deployment(deployment(1, "key"), Limits::default()).await.unwrap();
    store.save_instance(record(&stored)).await.unwrap();
    drop(store);
    take_back_to(dir.path(), 7);
    let records = SqliteStore::open(dir.path()).unwrap().load_lifecycle().await.unwrap();
    let offers: Vec<_> = records.deployments.values().flat_map(|it| &it.plan).collect();
    assert_eq!(offers.len(), 2);
    for offer in offers.into_iter().chain(records.instances.values().map(|it| &it.candidate)) {
        assert_eq!((offer.disk_gb, offer.arch), (0, Arch::X86_64));
        assert_eq!(offer.stopped_hourly, offer.hourly);
        assert_eq!(offer.egress, None, "its price is not known, and so not zero");
    }
}

/// A deployment that runs for months and is short of machines again and again.
#[tokio::test]
async fn machines_of_a_running_deployment_are_forgotten_and_their_numbers_are_not_given_again() {
    const DAY: u32 = 24 * 60;
    let (_dir, store) = store();
    let (stored, _) = store.create_deployment(deployment(1, "key"), Limits::default()).await.unwrap();
    let one = |number: u32, state, day: u32| Record {
        key: InstanceKey::of(&stored.id, number),
        number,
        ..record(&stored).turned(state, "none left", NOW.plus(MINUTE * DAY * day))
    };
    let numbers = async |store: &SqliteStore| {
        let records = store.load_lifecycle().await.unwrap().instances;
        records.values().map(|record| record.number).collect::<std::collections::BTreeSet<_>>()
    };
    store.save_instance(one(1, RecordState::Active, 0)).await.unwrap();
    for number in 2..=300 {
        store.save_instance(one(number, RecordState::Failed, 0)).await.unwrap();
    }
    for number in 301..=1000 {
        store.save_instance(one(number, RecordState::Failed, 8)).await.unwrap();
    }
    store.note_scan(NOW.plus(MINUTE * DAY * 8 + MINUTE)).await.unwrap();
    let expected = std::iter::once(1).chain(301..=1000).collect();
    assert_eq!(numbers(&store).await, expected, "what ended lately stays, however many it is");
    store.note_scan(NOW.plus(MINUTE * DAY * 10)).await.unwrap();
    assert_eq!(numbers(&store).await, std::iter::once(1).chain(501..=1000).collect());
    store.note_scan(NOW.plus(MINUTE * DAY * 80)).await.unwrap();
    assert_eq!(numbers(&store).await, [1, 1000].into(), "that which runs and the last number");
    let events = store.lifecycle_events(None, 10_000).await.unwrap();
    assert_eq!(events.len(), 1001, "history stays as long as that of deployments that ended");
    store.note_scan(NOW.plus(MINUTE * DAY * 97)).await.unwrap();
    let events = store.lifecycle_events(None, 10_000).await.unwrap();
    assert_eq!(events.len(), 700);
}

#[tokio::test]
async fn a_token_is_good_for_its_own_machine_once_and_while_that_is_wanted() {
    let (_dir, store) = store();
    let (stored, _) = store.create_deployment(deployment(1, "key"), Limits::default()).await.unwrap();
    store.save_instance(record(&stored)).await.unwrap();
    let (called, first) = call(&store, &record(&stored)).await;
    let (called, second) = call(&store, &called).await;
    let key = called.key.as_str();
    assert_eq!(refusal(&store, joins(1, &first, "thief")).await, JoinRefusal::Bound);
    let agent = store.join(joins(2, &second, key)).await.unwrap();
    assert_eq!(refusal(&store, joins(3, &second, key)).await, JoinRefusal::Used);
    assert_eq!(refusal(&store, joins(3, &first, key)).await, JoinRefusal::Bound, "one machine joins, ever");
    // What is stored of the machine afterwards leaves alone who joined.
    store.save_instance(called.turned(RecordState::Created, "", NOW)).await.unwrap();
    let records = store.load_lifecycle().await.unwrap();
    let joined = records.instances.values().next().unwrap();
    assert_eq!((joined.agent, joined.agent_attempt, agent.id), (Some(id(2)), 2, id(2)));

    let two = Record { key: InstanceKey::of(&stored.id, 2), number: 2, ..record(&stored) };
    store.save_instance(two.clone()).await.unwrap();
    let (called, token) = call(&store, &two).await;
    store.save_instance(called.turned(RecordState::Deleting, "terminated", NOW)).await.unwrap();
    assert_eq!(refusal(&store, joins(4, &token, called.key.as_str())).await, JoinRefusal::Used);
}

fn proves(number: u16, instance: &str, name: &str) -> JoinCommit {
    let identity = CloudIdentity {
        kind: ProofKind::Aws,
        account: "123456789012".to_owned(),
        instance: instance.to_owned(),
        provider_ids: vec![format!("eu-central-1/{instance}")],
        unordered: None,
    };
    let token = JoinToken::random().unwrap();
    JoinCommit { identity: Some(identity), ..joins(number, &token, name) }
}

#[tokio::test]
async fn an_ordered_machine_joins_by_its_identity_once_and_its_token_is_dead_then() {
    let (_dir, store) = store();
    let (stored, _) = store.create_deployment(deployment(1, "key"), Limits::default()).await.unwrap();
    let planned = record(&stored);
    let planned = Record {
        candidate: Candidate { provider: "aws".to_owned(), ..planned.candidate.clone() },
        ..planned
    };
    store.save_instance(planned.clone()).await.unwrap();
    let (called, token) = call(&store, &planned).await;
    let name = called.key.as_str();
    assert_eq!(refusal(&store, proves(1, "i-1", name)).await, JoinRefusal::NotOrdered, "nobody knows it yet");
    let created = called.turned(RecordState::Created, "", NOW);
    store
        .save_instance(Record { provider_id: Some("eu-central-1/i-1".to_owned()), ..created })
        .await
        .unwrap();
    assert_eq!(refusal(&store, proves(1, "i-2", name)).await, JoinRefusal::NotOrdered, "another machine");
    assert_eq!(refusal(&store, proves(1, "i-1", "thief")).await, JoinRefusal::NotOrdered, "another name");
    let agent = store.join(proves(2, "i-1", name)).await.unwrap();
    let service = ServiceKey { blueprint: u64::MAX, service: 42 };
    assert_eq!(agent.services, ServiceGrant::Only([service].into()), "what its deployment offers");
    assert_eq!(refusal(&store, proves(3, "i-1", name)).await, JoinRefusal::IdentityUsed(id(2)));
    assert_eq!(
        refusal(&store, joins(3, &token, name)).await,
        JoinRefusal::Used,
        "the token in its user data"
    );
    let joined = store.load_lifecycle().await.unwrap().instances.values().next().unwrap().agent;
    assert_eq!(joined, Some(id(2)));
    // Removed is removed: the machine does not come back by itself.
    assert!(store.remove_agent(id(2), NOW).await.unwrap());
    assert_eq!(refusal(&store, proves(3, "i-1", name)).await, JoinRefusal::IdentityUsed(id(2)));
    let rows = store.audit_tail(1).await.unwrap();
    assert_eq!(rows[0].event.subject, "aws/123456789012/i-1");
    assert!(rows[0].event.detail.starts_with("identity_used: "), "{rows:?}");
}

/// A call's answer was lost and another was made: the machine of the first is the one that is listed, and joins.
#[tokio::test]
async fn an_identity_binds_the_machine_that_it_names_whichever_call_made_it() {
    let (_dir, store) = store();
    let (stored, _) = store.create_deployment(deployment(1, "key"), Limits::default()).await.unwrap();
    let services: Option<ServiceGrant> = Some("7/42".parse().unwrap());
    // As the providers write them.
    for (number, kind, provider_id) in
        [(1u16, ProofKind::Aws, "eu-central-1/i-0a"), (2, ProofKind::Gcp, "europe-west3-a/4711")]
    {
        let candidate = Candidate { provider: kind.name().to_owned(), ..record(&stored).candidate };
        let key = InstanceKey::of(&stored.id, number.into());
        let planned = Record { key, number: number.into(), candidate, ..record(&stored) };
        store.save_instance(planned.clone()).await.unwrap();
        let (called, _) = call(&store, &planned).await;
        let (called, _) = call(&store, &called).await;
        let shows = |by: u16, name: &str, id: &str| {
            let identity = CloudIdentity {
                kind,
                account: "account-1".to_owned(),
                instance: id.rsplit('/').next().unwrap().to_owned(),
                provider_ids: vec![id.to_owned()],
                unordered: services.clone(),
            };
            JoinCommit { identity: Some(identity), ..proves(by, "i", name) }
        };
        let name = called.key.as_str();
        let early = refusal(&store, shows(number + 10, name, provider_id)).await;
        assert_eq!(early, JoinRefusal::NotOrdered, "it is no stranger while its cloud's name is not known");
        let created = called.turned(RecordState::Created, "", NOW);
        store.save_instance(Record { provider_id: Some(provider_id.to_owned()), ..created }).await.unwrap();
        let twin = refusal(&store, shows(number + 10, name, "elsewhere/4712")).await;
        assert_eq!(twin, JoinRefusal::NotOrdered, "its twin is no stranger");
        let agent = store.join(shows(number, name, provider_id)).await.unwrap();
        let bound = store.load_lifecycle().await.unwrap().instances[&called.key].clone();
        assert_eq!((bound.agent, bound.agent_attempt), (Some(agent.id), 0), "{kind}");
        assert!(store.join(shows(number + 20, "another", "elsewhere/4713")).await.is_ok(), "a stranger");
    }
}

#[tokio::test]
async fn a_machine_that_was_not_ordered_joins_where_a_rule_lets_it_and_again_when_it_is_forgotten() {
    let (dir, store) = store();
    let rule = |number, instance: &str| {
        let commit = proves(number, instance, "anything");
        let unordered = Some("7/42".parse().unwrap());
        JoinCommit {
            identity: commit.identity.clone().map(|identity| CloudIdentity { unordered, ..identity }),
            ..commit
        }
    };
    assert_eq!(store.join(rule(1, "i-1")).await.unwrap().services, "7/42".parse().unwrap());
    assert_eq!(refusal(&store, rule(2, "i-1")).await, JoinRefusal::IdentityUsed(id(1)));
    let parallel = (10..30).map(|number| store.join(rule(number, "i-2")));
    let joined = futures_util::future::join_all(parallel).await;
    assert_eq!(joined.iter().filter(|joined| joined.is_ok()).count(), 1, "one of twenty at once");
    drop(store);
    let store = SqliteStore::open(dir.path()).unwrap();
    let listed = store.list_identities().await.unwrap();
    assert_eq!(listed.iter().map(|row| row.instance.as_str()).collect::<Vec<_>>(), ["i-1", "i-2"]);
    let forget = |instance: &str| {
        store.forget_identity("aws".to_owned(), "123456789012".to_owned(), instance.to_owned(), NOW)
    };
    assert!(!forget("i-3").await.unwrap());
    assert!(forget("i-1").await.unwrap());
    assert!(store.join(rule(3, "i-1")).await.is_ok());
}

/// Fifty orders at once, and room for four machines: what is asked for is looked at in the transaction that stores it.
#[tokio::test]
async fn orders_that_come_together_do_not_pass_a_limit_together() {
    let (_dir, store) = store();
    let limits = Limits { max_machines: Some(5), counts_sim: true, ..Limits::default() };
    let orders =
        (0..50u8).map(|number| store.create_deployment(deployment(number, &format!("key-{number}")), limits));
    let answers = futures_util::future::join_all(orders).await;
    let (stored, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    assert_eq!(stored.len(), 2, "two machines each");
    let error = refused.into_iter().find_map(Result::err).unwrap();
    assert!(matches!(&error, CreateDeploymentError::OverLimit(_)), "{error}");
    assert_eq!(error.to_string(), "provision.max_machines is 5: 4 is used, and 2 more is asked for");
    let again = stored.into_iter().find_map(Result::ok).unwrap().0;
    let (known, is_new) = store.create_deployment(again.clone(), limits).await.unwrap();
    assert_eq!((known.id, is_new), (again.id, false), "who asks again is not refused");

    // Five calls at once, of which the limit leaves room for three.
    let tight = Limits { max_machines: Some(3), ..limits };
    let mut calls = Vec::new();
    for number in 1..=5 {
        let planned = Record {
            key: InstanceKey::of(&known_id(&store).await, number),
            number,
            ..record(&known_deployment(&store).await)
        };
        store.save_instance(planned.clone()).await.unwrap();
        let token = JoinToken::random().unwrap();
        let (id, hash, expires_at) = (token.id(), token.hash(), NOW.plus(15 * MINUTE));
        let bound = BoundToken { id, hash, attempt: 1, expires_at, service: None };
        let called = Record { attempt: 1, ..planned.turned(RecordState::Calling, "", NOW) };
        calls.push(store.begin_call(called, bound, tight));
    }
    let begun = futures_util::future::join_all(calls).await;
    let stored = begun.iter().filter(|begun| matches!(begun, Ok(Begun::Stored))).count();
    assert_eq!(stored, 3, "{begun:?}");
}

/// Fifty orders at once of one name, each with a key of its own: the name is looked at in the transaction that stores it.
#[tokio::test]
async fn of_orders_that_come_together_one_gets_the_name() {
    let (_dir, store) = store();
    let named = |number: u8, name: &str| {
        let asked = Deployment { name: name.to_owned(), ..deployment(number, &format!("key-{number}")) };
        store.create_deployment(asked, Limits::default())
    };
    let answers = futures_util::future::join_all((0..50).map(|number| named(number, "web"))).await;
    let (stored, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    let (first, is_new) = stored.into_iter().map(Result::unwrap).next().unwrap();
    assert!(is_new);
    assert_eq!(refused.len(), 49);
    for error in refused.into_iter().map(Result::unwrap_err) {
        let is_it =
            matches!(&error, CreateDeploymentError::Named { name, id } if name == "web" && *id == first.id);
        assert!(is_it, "{error}");
    }
    assert_eq!(store.load_lifecycle().await.unwrap().deployments.len(), 1);
    let again = store.create_deployment(first.clone(), Limits::default()).await.unwrap();
    assert_eq!((&again.0.id, again.1), (&first.id, false), "who asks again is not refused");

    let stopped = store.set_wanted(first.id.clone(), Wanted::Stopped, String::new(), NOW).await.unwrap();
    assert_eq!(stopped.unwrap().wanted, Wanted::Stopped);
    assert!(named(60, "web").await.is_err(), "what is switched off keeps its name");
    store.set_wanted(first.id.clone(), Wanted::Gone, String::new(), NOW).await.unwrap();
    assert!(named(61, "web").await.unwrap().1, "what is being ended leaves it");
    assert!(named(62, "").await.unwrap().1 && named(63, "").await.unwrap().1, "no name is no name");
}

async fn known_deployment(store: &SqliteStore) -> Deployment {
    store.load_lifecycle().await.unwrap().deployments.into_values().next().unwrap()
}

async fn known_id(store: &SqliteStore) -> DeploymentId {
    known_deployment(store).await.id
}

/// A machine that ran an hour, was off for two, ran another and was deleted; its deployment is forgotten before its costs.
#[tokio::test]
async fn what_a_machine_cost_is_kept_by_the_price_of_each_time_and_outlives_it() {
    let (_dir, store) = store();
    let (stored, _) = store.create_deployment(deployment(1, "key"), Limits::default()).await.unwrap();
    store.save_instance(record(&stored)).await.unwrap();
    let (called, _) = call(&store, &record(&stored)).await;
    let hour = |count: u32| NOW.plus(MINUTE * 60 * count);
    let mut made = called.turned(RecordState::Created, "", hour(0));
    (made.made_at, made.provider_id) = (Some(hour(0)), Some("sim/1".to_owned()));
    store.save_instance(made.clone()).await.unwrap();
    for (is_off, at) in [(true, hour(1)), (false, hour(3))] {
        let switched = Record { is_off, switched_at: Some(at), ..made.clone() };
        store.save_instance(switched.clone()).await.unwrap();
        store.save_instance(switched).await.unwrap();
    }
    store.save_instance(made.turned(RecordState::Deleting, "", hour(3))).await.unwrap();
    // An answer that was on its way changes nothing.
    store.save_instance(made.clone()).await.unwrap();
    store.save_instance(made.turned(RecordState::Gone, "", hour(4))).await.unwrap();
    let spans = store.spans(NOW).await.unwrap();
    let price = made.candidate.hourly;
    let shown: Vec<_> = spans.iter().map(|span| (span.from, span.until, span.is_off, span.hourly)).collect();
    let expected = [
        (hour(0), Some(hour(1)), false, price),
        (hour(1), Some(hour(3)), true, made.candidate.stopped_hourly),
        (hour(3), Some(hour(4)), false, price),
    ];
    assert_eq!(shown, expected);
    assert!(store.spans(hour(5)).await.unwrap().is_empty());

    let limits = Limits { counts_sim: true, ..Limits::default() };
    let records = store.load_lifecycle().await.unwrap();
    assert_eq!(limits.spent(&spans, hour(4)), price.times(2).plus(made.candidate.stopped_hourly.times(2)));
    assert_ne!(committed(&records, &spans, &limits, hour(4)), Usage::default());
    store.set_wanted(stored.id, Wanted::Gone, String::new(), hour(4)).await.unwrap();
    store.note_scan(NOW.plus(MINUTE * 60 * 24 * 399)).await.unwrap();
    assert!(store.load_lifecycle().await.unwrap().deployments.is_empty());
    assert_eq!(store.spans(NOW).await.unwrap().len(), 3);
    store.note_scan(NOW.plus(MINUTE * 60 * 24 * 401)).await.unwrap();
    assert!(store.spans(NOW).await.unwrap().is_empty());
}
