//! Who holds a workload, and what becomes of it when he goes.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering::Relaxed;
use std::time::SystemTime;

use blueprint_common_types::workload::WorkloadState;
use blueprint_hub_registry_core::workload::{WorkloadChange, WorkloadRecord};
use blueprint_proto::v1::launcher_event::Body as Event;
use blueprint_proto::v1::launcher_message::Body as Message;
use tokio_util::sync::CancellationToken;

use super::super::*;
use super::rig::*;

/// A login that a launcher brings along.
fn login(user: &str) -> Option<v1::RegistryLogin> {
    Some(v1::RegistryLogin { user: user.to_owned(), password: "secret".to_owned() })
}

/// A document with an image of a registry.
fn image() -> String {
    let digest = "07".repeat(32);
    format!(r#"{{"source": {{"type": "container", "image": "r.example:5000/a", "digest": "{digest}"}}}}"#)
}

#[tokio::test]
async fn a_workload_that_cannot_be_taken_back_is_tried_again_before_its_launcher_is_told() {
    with_hub(nowhere(), |hub| async move {
        let mut run = hub.run(request("a")).await.unwrap();
        hub.kept.failures.store(1, Relaxed);
        hub.report(WorkloadState::Ended, Some(0)).await;
        assert_eq!(run.state().await, "ended");
        let Event::Exit(exit) = run.next().await else { panic!("an exit") };
        assert_eq!(exit.code, Some(0));
        assert_eq!((hub.kept.failures.load(Relaxed), hub.kept.records.lock().len()), (0, 0));
    })
    .await;
}

#[tokio::test]
async fn a_workload_that_cannot_be_taken_back_keeps_its_lease_where_its_launcher_goes_meanwhile() {
    with_hub(nowhere(), |hub| async move {
        for asks_for_the_end in [false, true] {
            let mut run = hub.run(request("a")).await.unwrap();
            hub.kept.failures.store(2, Relaxed);
            if asks_for_the_end {
                let stop = Message::Stop(v1::LauncherStop {});
                run.say.send(v1::LauncherMessage { body: Some(stop) }).await.unwrap();
                // What is heard later shows that this was heard.
                let (kept, asked) = tokio::join!(hub.launchers.keep(SERVICE, Ok(Vec::new())), async {
                    let Event::Captured(captured) = run.next().await else { panic!("what was captured") };
                    run.answer(captured.id, Code::Ok, "").await;
                });
                let ((), ()) = (kept.unwrap(), asked);
            } else {
                hub.report(WorkloadState::Ended, Some(0)).await;
                assert_eq!(run.state().await, "ended");
                hub.kept.is_tried.cancelled().await;
            }
            drop(run);
            let mut views = hub.workloads.views();
            views.wait_for(|view| view.records.is_empty()).await.unwrap();
            assert_eq!(hub.kept.failures.load(Relaxed), 0);
        }
    })
    .await;
}

#[tokio::test]
async fn the_next_hub_takes_back_what_is_left_and_tries_until_it_has() {
    let kept = Arc::new(Kept::default());
    let lease = r#"{"source": {"type": "testing", "path": "/bin/b"}, "lease": {"launcher": "a", "secs": 1}}"#;
    let record = WorkloadRecord {
        service: SERVICE,
        generation: 3,
        document: lease.to_owned(),
        nodes: BTreeSet::new(),
        node: None,
        keystore: None,
        changed_at: SystemTime::now().into(),
        version: 1,
        slot: 0,
    };
    kept.records.lock().insert(SERVICE, record);
    kept.failures.store(1, Relaxed);
    with_kept(kept, nowhere(), |hub| async move {
        let mut views = hub.workloads.views();
        views.wait_for(|view| view.records.is_empty()).await.unwrap();
        assert_eq!(*hub.kept.removed.lock(), ["its launcher is gone"]);
    })
    .await;
}

#[tokio::test]
async fn a_launcher_that_comes_back_while_its_workload_is_forgotten_starts_it_anew() {
    with_hub(nowhere(), |hub| async move {
        let mut run = hub.run(request("a")).await.unwrap();
        let first = hub.kept.records.lock()[&SERVICE].changed_at;
        let gate = CancellationToken::new();
        *hub.kept.gate.lock() = Some(gate.clone());
        hub.report(WorkloadState::Ended, Some(0)).await;
        assert_eq!(run.state().await, "ended");
        hub.kept.is_tried.cancelled().await;
        // It asks while the removal is under way, and before it is done.
        let asks = hub.run(request("a"));
        tokio::pin!(asks);
        let early = timeout(Duration::from_millis(200), asks.as_mut()).await;
        gate.cancel();
        let again = match early {
            Ok(again) => again,
            Err(_) => asks.await,
        };
        let _again = again.unwrap();
        let records = hub.kept.records.lock();
        assert!(records[&SERVICE].changed_at > first, "what is forgotten is stored again");
    })
    .await;
}

#[tokio::test]
async fn a_launcher_whose_wish_is_not_stored_leaves_the_lease_that_is() {
    with_hub(nowhere(), |hub| async move {
        let run = hub.run(request("a")).await.unwrap();
        hub.kept.failures.store(1, Relaxed);
        let wish = v1::LauncherStart { take_over: true, ..request("b") };
        assert_eq!(hub.run(wish).await.err().unwrap().code(), Code::Unavailable);
        drop(run);
        let mut views = hub.workloads.views();
        views.wait_for(|view| view.records.is_empty()).await.unwrap();
        assert_eq!(*hub.kept.removed.lock(), ["its launcher is gone"]);
    })
    .await;
}

#[tokio::test]
async fn the_same_launcher_goes_on_another_one_starts_anew_and_one_that_stays_away_loses_it() {
    with_hub(nowhere(), |hub| async move {
        let generation = |hub: &Hub| hub.workloads.view().records[&SERVICE].generation;
        let run = hub.run(v1::LauncherStart { lease_secs: 60, ..request("a") }).await.unwrap();
        let first = generation(&hub);
        drop(run);
        let run = hub.run(v1::LauncherStart { lease_secs: 60, ..request("a") }).await.unwrap();
        assert_eq!(generation(&hub), first, "it came back and goes on");
        let refused = hub.run(request("b")).await.err().unwrap();
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
        let second = hub.run(v1::LauncherStart { take_over: true, ..request("b") }).await.unwrap();
        assert!(
            generation(&hub) > first,
            "a new process of the Manager expects a new process of its blueprint"
        );
        let mut events = run.events;
        let ended = loop {
            match events.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("an end without a word"),
                Err(status) => break status,
            }
        };
        assert_eq!(ended.code(), Code::Aborted);
        let mut views = hub.workloads.views();
        drop(second);
        views.wait_for(|view| view.records.is_empty()).await.unwrap();
        assert_eq!(*hub.kept.removed.lock(), ["its launcher is gone"]);
    })
    .await;
}

#[tokio::test]
async fn what_an_operator_keeps_is_not_taken_over_by_accident_and_his_word_counts_at_once() {
    with_hub(nowhere(), |hub| async move {
        let change = |document: &str| WorkloadChange {
            service: SERVICE,
            document: document.to_owned(),
            nodes: BTreeSet::new(),
            keystore: None,
            replaces: None,
            by: None,
            summary: String::new(),
            now: SystemTime::now().into(),
        };
        let operators = r#"{"source": {"type": "testing", "path": "/bin/own"}}"#;
        hub.workloads.set(change(operators)).await.unwrap();
        let refused = hub.run(request("a")).await.err().unwrap();
        assert_eq!(refused.code(), Code::AlreadyExists);
        assert!(refused.message().contains("blueprint-hub workload rm"), "{refused}");
        let mut run = hub.run(v1::LauncherStart { take_over: true, ..request("a") }).await.unwrap();
        hub.workloads.set(change(operators)).await.unwrap();
        let Event::Exit(exit) = run.next().await else { panic!("an exit") };
        assert_eq!((exit.code, exit.reason.as_str()), (None, "the operator took it back"));
        assert_eq!(hub.workloads.view().records[&SERVICE].document, operators, "it is left alone");
        for bad in [
            v1::LauncherStart { document: "{}".to_owned(), ..request("a") },
            v1::LauncherStart { launcher: "a b".to_owned(), ..request("a") },
            v1::LauncherStart { lease_secs: 100_000, ..request("a") },
            v1::LauncherStart { envelope_key: vec![1], ..request("a") },
            v1::LauncherStart { registry_login: login("u"), ..request("a") },
            v1::LauncherStart { registry_login: login("u:v"), document: image(), ..request("a") },
        ] {
            assert_eq!(hub.run(bad).await.err().unwrap().code(), Code::InvalidArgument);
        }
        let unknown = v1::LauncherStart { nodes: vec!["nobody".to_owned()], ..request("a") };
        assert_eq!(hub.run(unknown).await.err().unwrap().code(), Code::NotFound);
        let private = v1::LauncherStart {
            registry_login: login("u"),
            document: image(),
            take_over: true,
            ..request("a")
        };
        let _run = hub.run(private).await.unwrap();
        let record = Arc::clone(&hub.workloads.view().records[&SERVICE]);
        assert_eq!(record.keystore.as_deref(), Some("0 files, u of r.example:5000"));
        assert!(!record.document.contains("secret"), "{}", record.document);
    })
    .await;
}
