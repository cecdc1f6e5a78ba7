//! Joins, renewals and removals.

use std::collections::BTreeMap;
use std::sync::Arc;

use blueprint_common_types::{AccessToken, JoinToken, ServiceKey};
use blueprint_hub_registry_core::{
    AccessScope, AccessTokenRecord, AuditKind, Change, ChangeBody, JoinCommit, JoinError, JoinRefusal,
    JoinTokenRecord, RenewError, Store,
};
use blueprint_hub_store::SqliteStore;

use crate::support::{MINUTE, NOW, agent, commit, id, record, store, target, token};

async fn refusal(store: &SqliteStore, commit: JoinCommit) -> JoinRefusal {
    match store.join(commit).await {
        Err(JoinError::Refused(refusal)) => refusal,
        other => unreachable!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_a_hundred_parallel_joins_with_one_token_exactly_one_succeeds() {
    let (_dir, store) = store();
    let token = token(&store, 1).await;
    let store = Arc::new(store);
    let mut joins = tokio::task::JoinSet::new();
    for n in 0..100 {
        let (store, commit) = (Arc::clone(&store), commit(n, &token));
        joins.spawn(async move { store.join(commit).await });
    }
    let results = joins.join_all().await;
    let used = |result: &&Result<_, _>| matches!(result, Err(JoinError::Refused(JoinRefusal::Used)));
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    assert_eq!(results.iter().filter(used).count(), 99);

    let loaded = store.load().await.unwrap();
    assert_eq!(loaded.agents.len(), 1);
    let rows = store.audit_tail(1000).await.unwrap();
    let count = |kind| rows.iter().filter(|row| row.event.kind == kind).count();
    assert_eq!((count(AuditKind::JoinAccept), count(AuditKind::JoinRefuse)), (1, 99));
    assert!(rows.iter().filter(|r| r.event.kind == AuditKind::JoinRefuse).all(|r| {
        r.event.subject == token.id().to_string() && r.event.detail.starts_with("token_used: ")
    }));
    assert_eq!(store.audit_verify().await.unwrap().broken_at, None);
    assert_eq!(store.list_join_tokens().await.unwrap()[0].uses_left, 0);
}

#[tokio::test]
async fn the_address_of_a_token_is_kept_and_audited() {
    let (_dir, store) = store();
    let address = "10.88.0.11".parse().unwrap();
    let fixed = JoinTokenRecord { address: Some(address), ..record(&JoinToken::random().unwrap(), 1) };
    store.create_join_token(fixed.clone()).await.unwrap();
    token(&store, 1).await;
    let listed = store.list_join_tokens().await.unwrap();
    assert_eq!(listed.iter().find(|token| token.id == fixed.id), Some(&fixed));
    assert_eq!(listed.iter().filter(|token| token.address.is_none()).count(), 1);
    let rows = store.audit_tail(2).await.unwrap();
    assert!(rows.iter().any(|row| row.event.detail.ends_with(", address 10.88.0.11")), "{rows:?}");
}

#[tokio::test]
async fn every_reason_to_refuse_a_token_is_told_apart_and_audited() {
    let (_dir, store) = store();
    let good = token(&store, 2).await;
    let stranger = JoinToken::random().unwrap();
    let wrong = JoinCommit { token_hash: stranger.hash(), ..commit(1, &good) };
    assert_eq!(refusal(&store, commit(1, &stranger)).await, JoinRefusal::Unknown);
    assert_eq!(refusal(&store, wrong).await, JoinRefusal::WrongSecret);
    let late = |n, after| JoinCommit { now: NOW.plus(after), ..commit(n, &good) };
    assert_eq!(refusal(&store, late(1, 15 * MINUTE)).await, JoinRefusal::Expired);
    store.join(late(1, 15 * MINUTE - std::time::Duration::from_millis(1))).await.unwrap();
    store.join(commit(2, &good)).await.unwrap();
    assert_eq!(refusal(&store, commit(3, &good)).await, JoinRefusal::Used);
    assert!(store.revoke_join_token(good.id(), NOW).await.unwrap());
    assert!(!store.revoke_join_token(good.id(), NOW).await.unwrap());
    assert_eq!(refusal(&store, commit(3, &good)).await, JoinRefusal::Unknown);

    let rows = store.audit_tail(100).await.unwrap();
    let refused = rows.iter().filter(|row| row.event.kind == AuditKind::JoinRefuse);
    let codes: Vec<_> = refused.filter_map(|row| row.event.detail.split(':').next()).collect();
    assert_eq!(
        codes,
        ["token_unknown", "token_wrong_secret", "token_expired", "token_used", "token_unknown"]
    );
}

#[tokio::test]
async fn an_agent_is_loaded_as_it_joined_with_the_tokens_grant() {
    let (dir, store) = store();
    let token = token(&store, 1).await;
    let joined = store.join(commit(5, &token)).await.unwrap();
    assert_eq!(joined.services.to_string(), "7/42");
    drop(store);
    let store = SqliteStore::open(dir.path()).unwrap();
    assert_eq!(store.load().await.unwrap().agents, [joined]);
}

#[tokio::test]
async fn a_wireguard_key_joins_once_and_the_refusal_gives_the_use_back() {
    let (_dir, store) = store();
    let token = token(&store, 2).await;
    store.join(commit(1, &token)).await.unwrap();
    let mut again = commit(2, &token);
    again.agent.wireguard_key = agent(1, &token).wireguard_key;
    let refused = refusal(&store, again).await;
    assert_eq!(refused.code(), "bad_request");
    assert!(refused.to_string().contains(&id(1).to_string()), "{refused}");
    assert_eq!(store.list_join_tokens().await.unwrap()[0].uses_left, 1);
    store.join(commit(2, &token)).await.unwrap();
}

#[tokio::test]
async fn a_join_that_fails_half_way_leaves_nothing() {
    let (_dir, store) = store();
    let token = token(&store, 2).await;
    store.join(commit(1, &token)).await.unwrap();
    let before = store.audit_tail(100).await.unwrap();
    let mut clash = commit(2, &token);
    clash.certificate_serial = commit(1, &token).certificate_serial;
    assert!(matches!(store.join(clash).await, Err(JoinError::Store(_))));
    assert_eq!(store.load().await.unwrap().agents.len(), 1);
    assert_eq!(store.list_join_tokens().await.unwrap()[0].uses_left, 1);
    assert_eq!(store.audit_tail(100).await.unwrap(), before);
}

#[tokio::test]
async fn a_copied_state_is_noticed_at_renewal_and_a_lost_answer_is_not_mistaken_for_it() {
    let (_dir, store) = store();
    let token = token(&store, 1).await;
    store.join(commit(1, &token)).await.unwrap();
    let end = NOW.plus(30 * 60 * MINUTE);
    let renew = |presented, serial: u8| store.renew(id(1), presented, vec![9, serial, 0], end, NOW);
    assert_eq!(renew(1, 1).await.unwrap(), 2);
    assert_eq!(renew(1, 2).await.unwrap(), 2, "the answer was lost");
    assert_eq!(renew(1, 3).await.unwrap(), 2, "and lost again");
    assert_eq!(renew(2, 4).await.unwrap(), 3);
    let outdated = renew(1, 5).await.unwrap_err();
    assert!(matches!(outdated, RenewError::Outdated { presented: 1, current: 3 }), "{outdated:?}");
    let unknown = store.renew(id(2), 1, vec![1], end, NOW).await.unwrap_err();
    assert!(matches!(unknown, RenewError::UnknownAgent));
    assert_eq!(store.load().await.unwrap().agents[0].generation, 3);
    let last = store.audit_tail(2).await.unwrap();
    assert!(last.iter().all(|row| row.event.kind == AuditKind::CertificateRefuse));
}

#[tokio::test]
async fn a_removed_agent_takes_everything_along_and_stays_revoked() {
    let (_dir, store) = store();
    let token = token(&store, 2).await;
    store.join(commit(1, &token)).await.unwrap();
    store.join(commit(2, &token)).await.unwrap();
    let service = ServiceKey { blueprint: u64::MAX, service: 42 };
    let bodies = |n| {
        [ChangeBody::Claim { service, agent: id(n) }, ChangeBody::Upsert(target(n, service, 8080))]
            .map(|body| Change { index: 0, body })
    };
    let first = store.load().await.unwrap().index;
    store.save_changes(&bodies(1), first + 2).await.unwrap();
    let loaded = store.load().await.unwrap();
    assert_eq!(loaded.targets, [target(1, service, 8080)]);
    assert_eq!(loaded.claims, BTreeMap::from([(service, id(1))]));
    assert_eq!(loaded.index, first + 2);

    assert!(store.remove_agent(id(1), NOW).await.unwrap());
    assert!(!store.remove_agent(id(1), NOW).await.unwrap());
    store.save_changes(&bodies(1), first + 3).await.unwrap();
    let loaded = store.load().await.unwrap();
    assert_eq!((loaded.agents.len(), loaded.targets.len(), loaded.claims.len()), (1, 0, 0));
    assert_eq!(loaded.revoked, BTreeMap::from([(id(1), NOW.plus(24 * 60 * MINUTE))]));

    store.save_changes(&bodies(2), first + 4).await.unwrap();
    let gone = [ChangeBody::Remove(target(2, service, 8080)), ChangeBody::Unclaim { service, agent: id(2) }]
        .map(|body| Change { index: 0, body });
    store.save_changes(&gone, first + 5).await.unwrap();
    let loaded = store.load().await.unwrap();
    assert_eq!((loaded.targets.len(), loaded.claims.len(), loaded.index), (0, 0, first + 5));
}

#[tokio::test]
async fn access_tokens_and_old_join_tokens_are_kept_as_long_as_promised() {
    let (_dir, store) = store();
    let access = AccessToken::random().unwrap();
    let mut saved = AccessTokenRecord {
        id: access.id(),
        hash: access.hash(),
        label: "ci".to_owned(),
        created_at: NOW,
        expires_at: None,
        revoked_at: None,
        services: AccessScope::All,
    };
    store.create_access_token(saved.clone()).await.unwrap();
    assert_eq!(store.list_access_tokens().await.unwrap(), [saved.clone()]);
    let later = NOW.plus(MINUTE);
    assert!(store.revoke_access_token(access.id(), later).await.unwrap());
    assert!(!store.revoke_access_token(access.id(), later).await.unwrap());
    saved.revoked_at = Some(later);
    assert_eq!(store.list_access_tokens().await.unwrap(), [saved]);

    let old = token(&store, 1).await;
    assert_eq!(store.list_join_tokens().await.unwrap()[0].id, old.id());
    let month_later = NOW.plus(MINUTE * 31 * 24 * 60);
    let young = JoinTokenRecord { created_at: month_later, ..record(&JoinToken::random().unwrap(), 1) };
    store.create_join_token(young.clone()).await.unwrap();
    assert_eq!(store.list_join_tokens().await.unwrap(), [young]);
}

#[tokio::test]
async fn epochs_and_settings_outlive_the_process_and_indexes_never_come_twice() {
    let (dir, store) = store();
    assert_eq!(store.epoch_next().await.unwrap(), 1);
    store.meta_set("hub_id", "one").await.unwrap();
    store.meta_set("hub_id", "two").await.unwrap();
    let index = store.load().await.unwrap().index;
    drop(store);
    let store = SqliteStore::open(dir.path()).unwrap();
    assert_eq!(store.epoch_next().await.unwrap(), 2);
    assert_eq!(store.meta_get("hub_id").await.unwrap().as_deref(), Some("two"));
    assert_eq!(store.meta_get("nothing").await.unwrap(), None);
    assert!(store.load().await.unwrap().index > index + 4096);
}
