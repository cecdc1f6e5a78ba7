//! Launchers over a real Unix socket, with workloads kept in memory and a node that says what it is told to.

mod leases;
mod output;
mod rig;

use blueprint_common_types::ServiceKey;
use blueprint_common_types::workload::WorkloadState;
use blueprint_proto::v1::bridge_request::Call;
use blueprint_proto::v1::launcher_event::Body as Event;
use blueprint_proto::v1::launcher_message::Body as Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::registrar::tests::{session, targets};
pub(crate) use rig::idle;
use rig::*;

#[tokio::test]
async fn a_launcher_hears_of_its_workload_answers_for_its_manager_and_gets_the_exit_code() {
    with_hub(nowhere(), |hub| async move {
        let mut run = hub.run(request("a")).await.unwrap();
        hub.report(WorkloadState::Starting, None).await;
        assert_eq!(run.state().await, "starting");
        hub.report(WorkloadState::Running, None).await;
        assert_eq!(run.state().await, "running");
        assert!(matches!(run.next().await, Event::Greeted(_)));

        let call = Call::Unregister(
            blueprint_proto::blueprint_manager_bridge::UnregisterBlueprintServiceProxyRequest {
                service_id: 42,
            },
        );
        let answers = async {
            let Event::Call(call) = run.next().await else { panic!("a call") };
            assert!(matches!(call.request.unwrap().call, Some(Call::Unregister(_))));
            run.answer(call.id, Code::NotFound, "no such service").await;
        };
        let (answer, ()) = tokio::join!(hub.launchers.call(SERVICE, call), answers);
        let status = answer.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::NotFound, "no such service"));

        run.say.send(v1::LauncherMessage { body: Some(Message::Stop(v1::LauncherStop {})) }).await.unwrap();
        hub.report(WorkloadState::Ended, Some(7)).await;
        assert_eq!(run.state().await, "ended");
        let Event::Exit(exit) = run.next().await else { panic!("an exit") };
        assert_eq!((exit.code, exit.reason.as_str()), (Some(7), ""));
        assert!(hub.workloads.view().records.is_empty(), "forgotten before it is told");
        assert_eq!(*hub.kept.removed.lock(), ["it ended"]);
    })
    .await;
}

#[tokio::test]
async fn a_report_wakes_readers_only_with_news_and_copies_no_document() {
    with_hub(nowhere(), |hub| async move {
        let _run = hub.run(request("a")).await.unwrap();
        let (agent, none) = (session(1).agent, ServiceKey { blueprint: 9, service: 9 });
        let mut views = hub.workloads.views();
        let before = Arc::clone(&views.borrow_and_update());
        let status = hub.status(WorkloadState::Starting, None);
        hub.workloads.report(agent, vec![status.clone()]).await.unwrap();
        // An answer shows that what came before it was heard.
        assert!(!hub.workloads.remove(none).await.unwrap());
        let after = Arc::clone(&views.borrow_and_update());
        assert_eq!(after.statuses[&SERVICE], status);
        assert!(Arc::ptr_eq(&before.records[&SERVICE], &after.records[&SERVICE]));
        hub.workloads.report(agent, vec![status.clone()]).await.unwrap();
        assert!(!hub.workloads.remove(none).await.unwrap());
        assert!(!views.has_changed().unwrap(), "the same again is no news");
    })
    .await;
}

#[tokio::test]
async fn bytes_go_both_ways_and_each_direction_ends_by_itself() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let echo = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        all.reverse();
        stream.write_all(&all).await.unwrap();
    };
    let test = with_hub(address, |hub| async move {
        let (say, receiver) = mpsc::channel(8);
        let to = Some(v1::ForwardTo { blueprint_id: 7, service_id: 42 });
        say.send(v1::ForwardBytes { to, content: b"ab".to_vec() }).await.unwrap();
        hub.registrar.report(session(1), 1, targets()).await.unwrap();
        let mut answer =
            hub.client.clone().forward(ReceiverStream::new(receiver)).await.unwrap().into_inner();
        let large = vec![b'x'; 300_000];
        for piece in large.chunks(60_000) {
            say.send(v1::ForwardBytes { to: None, content: piece.to_vec() }).await.unwrap();
        }
        drop(say);
        let mut got = Vec::new();
        while let Some(piece) = answer.message().await.unwrap() {
            got.extend(piece.content);
        }
        assert_eq!(got.len(), large.len() + 2);
        assert!(got.ends_with(b"xba"));
    });
    tokio::join!(echo, test);
}
