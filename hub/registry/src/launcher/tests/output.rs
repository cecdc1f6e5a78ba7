//! What a launcher is given of its blueprint's output, and told of its workload.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use blueprint_common_types::LogCursor;
use blueprint_common_types::workload::WorkloadState;
use blueprint_proto::v1::launcher_event::Body as Event;
use tokio_util::sync::CancellationToken;

use super::super::*;
use super::rig::*;
use crate::registrar::tests::session;

#[tokio::test]
async fn what_a_blueprint_wrote_is_given_to_the_launcher_that_holds_it_and_to_nobody_else() {
    with_hub(nowhere(), |hub| async move {
        let node = session(1).agent;
        let asked = |launcher: &str| v1::LauncherLogs {
            blueprint_id: 7,
            service_id: 42,
            launcher: launcher.to_owned(),
            node: node.to_string(),
            generation: 5,
            after: Some(v1::LogCursor { ring: 9, seq: 1 }),
            follow: true,
        };
        let read = |asked: v1::LauncherLogs| {
            let mut client = hub.client.clone();
            async move { client.logs(asked).await.map(Response::into_inner) }
        };
        let code = |read: Result<_, Status>| read.err().map(|status| status.code());
        assert_eq!(code(read(asked("a")).await), Some(Code::PermissionDenied), "it holds nothing");
        let mut run = hub.run(request("a")).await.unwrap();
        let mut given = read(asked("a")).await.unwrap();
        let piece = given.message().await.unwrap().unwrap();
        let texts: Vec<_> = piece.lines.iter().map(|line| line.text.as_str()).collect();
        assert_eq!(texts, ["line 2", "line 3"], "none from before it had the workload");
        assert_eq!((piece.missed, piece.ring, piece.reached, piece.is_last), (1, 9, Some(3), true));
        let broken = given.message().await.unwrap_err();
        assert_eq!(
            (broken.code(), broken.message()),
            (Code::Unavailable, "the node broke off: it is silent")
        );
        let (to, ask) = hub.wrote.asked.lock().pop().unwrap();
        assert_eq!((to, ask.after, ask.follow), (node, Some(LogCursor { ring: 9, seq: 1 }), true));
        assert_eq!(code(read(asked("b")).await), Some(Code::PermissionDenied));
        let unnamed = v1::LauncherLogs { node: "one".to_owned(), ..asked("a") };
        assert_eq!(code(read(unnamed).await), Some(Code::InvalidArgument));

        // Its last lines are its own once it ended, too.
        hub.report(WorkloadState::Ended, Some(0)).await;
        while !matches!(run.next().await, Event::Exit(_)) {}
        assert!(hub.workloads.view().records.is_empty());
        assert!(read(asked("a")).await.is_ok());
        assert_eq!(code(read(asked("b")).await), Some(Code::PermissionDenied));
        let _next = hub.run(request("b")).await.unwrap();
        assert_eq!(code(read(asked("a")).await), Some(Code::PermissionDenied), "somebody else's by now");
    })
    .await;
}

#[tokio::test]
async fn a_launcher_that_lost_its_service_gets_no_line_of_the_next_one() {
    with_hub(nowhere(), |hub| async move {
        let asked = v1::LauncherLogs {
            blueprint_id: 7,
            service_id: 42,
            launcher: "a".to_owned(),
            node: session(1).agent.to_string(),
            follow: true,
            ..v1::LauncherLogs::default()
        };
        let _run = hub.run(request("a")).await.unwrap();
        for is_lost in [false, true] {
            let again = CancellationToken::new();
            *hub.wrote.again.lock() = Some(again.clone());
            let mut given = hub.client.clone().logs(asked.clone()).await.unwrap().into_inner();
            assert_eq!(given.message().await.unwrap().unwrap().lines.len(), 3);
            let take_over = v1::LauncherStart { take_over: true, ..request("b") };
            let _next = if is_lost { Some(hub.run(take_over).await.unwrap()) } else { None };
            again.cancel();
            let next = given.message().await;
            if is_lost {
                assert_eq!(next.unwrap_err().code(), Code::PermissionDenied);
            } else {
                assert_eq!(next.unwrap().unwrap().lines[0].text, "line 4");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_launcher_is_told_why_no_node_takes_its_workload_and_when_that_changes() {
    with_hub(nowhere(), |hub| async move {
        let node = session(1).agent;
        hub.registrar.set_data_plane(node, false).await.unwrap();
        let mut run = hub.run(request("a")).await.unwrap();
        let told = run.status().await;
        let why = (told.state.as_str(), told.reason.as_str());
        assert_eq!(why, ("unplaced", "no node that it may run on is connected"));
        hub.registrar.set_data_plane(node, true).await.unwrap();
        let mut views = hub.workloads.views();
        views.wait_for(|view| view.records[&SERVICE].node.is_some()).await.unwrap();
        hub.report(WorkloadState::Starting, None).await;
        assert_eq!(run.state().await, "starting");
    })
    .await;
}

#[tokio::test]
async fn what_was_captured_is_taken_only_once_the_launcher_says_that_it_has_it() {
    with_hub(nowhere(), |hub| async move {
        let inputs = || Ok(b"inputs".to_vec());
        let nobody = hub.launchers.keep(SERVICE, inputs()).await.unwrap_err();
        assert_eq!(nobody.code(), Code::Unavailable, "its node keeps it and asks again");
        let mut run = hub.run(request("a")).await.unwrap();
        let is_written = AtomicBool::new(false);
        for code in [Code::Unavailable, Code::Ok] {
            let launcher = async {
                let Event::Captured(captured) = run.next().await else { panic!("what was captured") };
                assert_eq!((captured.content.as_slice(), captured.failure.as_str()), (&b"inputs"[..], ""));
                is_written.store(code == Code::Ok, Relaxed);
                run.answer(captured.id, code, "no space left").await;
            };
            let (kept, ()) = tokio::join!(hub.launchers.keep(SERVICE, inputs()), launcher);
            assert_eq!(kept.is_ok(), is_written.load(Relaxed));
            assert_eq!(kept.map_or_else(|status| status.code(), |()| Code::Ok), code);
        }
        let launcher = async {
            let Event::Captured(captured) = run.next().await else { panic!("why nothing was captured") };
            assert_eq!((captured.content.len(), captured.failure.as_str()), (0, "no file"));
            run.answer(captured.id, Code::Ok, "").await;
        };
        let (kept, ()) = tokio::join!(hub.launchers.keep(SERVICE, Err("no file".to_owned())), launcher);
        kept.unwrap();
    })
    .await;
}
