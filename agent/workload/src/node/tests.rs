//! A node under hubs that are away or do harm.

use blueprint_common_runtime::tasks::Supervisor;
use blueprint_common_types::workload::{RpcKind, Sha256Digest};
use blueprint_proto::v1::bridge_request::Call;
use futures_util::future::{BoxFuture, FutureExt};
use tonic::Status;

use super::*;
use crate::artefact::PushedError;
use crate::{DescribeError, Described, Offer, PushedReader, RpcStream};

/// A hub that is never there, or whose answer is more than the agent can bear.
#[derive(Default)]
struct Away {
    /// When it was asked, where asking fells who asks.
    felled: Option<Mutex<Vec<tokio::time::Instant>>>,
}

impl HubPort for Away {
    fn describe(&self, _: ServiceKey, _: u64) -> BoxFuture<'_, Result<Described, DescribeError>> {
        async {
            if let Some(felled) = &self.felled {
                felled.lock().push(tokio::time::Instant::now());
                panic!("it is a test");
            }
            Err(DescribeError::Away("it is a test".to_owned()))
        }
        .boxed()
    }
    fn bridge(&self, _: ServiceKey, _: Call) -> BoxFuture<'_, Result<(), Status>> {
        async { Err(Status::unavailable("")) }.boxed()
    }
    fn strangers(&self, _: ServiceKey, _: u32) -> BoxFuture<'_, Result<(), Status>> {
        async { Err(Status::unavailable("")) }.boxed()
    }
    fn registration(
        &self,
        _: ServiceKey,
        _: u64,
        _: Result<Vec<u8>, String>,
    ) -> BoxFuture<'_, Result<(), Status>> {
        async { Err(Status::unavailable("")) }.boxed()
    }
    fn artefact(
        &self,
        _: ServiceKey,
        _: u64,
        _: Sha256Digest,
        _: u64,
    ) -> BoxFuture<'_, Result<PushedReader, PushedError>> {
        async { Err(PushedError { reason: "it is a test".to_owned(), may_pass: true }) }.boxed()
    }
    fn rpc(&self, _: ServiceKey, _: u64, _: RpcKind) -> BoxFuture<'_, Result<RpcStream, String>> {
        async { Err("it is a test".to_owned()) }.boxed()
    }
    fn offer(&self, _: Offer) -> Result<(), String> {
        Ok(())
    }
    fn withdraw(&self, _: Seat) {}
}

fn node(folder: &tempfile::TempDir, hub: Arc<Away>) -> (Node, NodeHandle, Supervisor) {
    let config = WorkloadConfig {
        state: folder.path().join("state"),
        runtime: folder.path().join("run"),
        agent: "/nonexistent".into(),
        cgroups: None,
        allow_unlimited: false,
        testing: false,
        engine: "/nonexistent".into(),
        node: "node".to_owned(),
        proxy: None,
        logs: logs::LogLimits::DEFAULT,
    };
    let supervisor = Supervisor::new();
    let (node, handle) = Node::new(config, hub, supervisor.child_spawner()).unwrap();
    (node, handle, supervisor)
}

#[tokio::test(start_paused = true)]
async fn a_task_that_falls_over_is_started_again_later_each_time_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let hub = Arc::new(Away { felled: Some(Mutex::default()) });
    let (node, handle, _supervisor) = node(&folder, Arc::clone(&hub));
    let service = ServiceKey { blueprint: 7, service: 42 };
    let (stop, seat) = (CancellationToken::new(), Seat::first(service));
    let test = async {
        let mut statuses = handle.statuses();
        handle.assign(Assigned::from([(seat, Assignment { generation: 3, ends: false })]));
        let fallen = |all: &Arc<Statuses>| all.get(&seat).is_some_and(|one| one.restarts == 4);
        let told = statuses.wait_for(fallen).await.unwrap()[&seat].clone();
        assert!(told.reason.contains("fault of the agent") || told.reason.is_empty(), "{told:?}");
        // Taken back while it rests: forgotten at once.
        handle.assign(Assigned::new());
        statuses.wait_for(|all| all.is_empty()).await.unwrap();
        stop.cancel();
    };
    tokio::join!(node.run(stop.clone()), test);
    let asked = hub.felled.as_ref().unwrap().lock().clone();
    let waits: Vec<_> = asked.windows(2).map(|pair| (pair[1] - pair[0]).as_millis() / 100).collect();
    assert_eq!(waits, [5, 10, 20]);
}

#[tokio::test]
async fn what_is_to_end_and_does_not_run_has_ended_until_it_is_taken_back() {
    let folder = tempfile::tempdir().unwrap();
    let (node, handle, _supervisor) = node(&folder, Arc::default());
    let service = ServiceKey { blueprint: 7, service: 42 };
    let (stop, seat) = (CancellationToken::new(), Seat::first(service));
    let test = async {
        let mut statuses = handle.statuses();
        handle.assign(Assigned::from([(seat, Assignment { generation: 3, ends: true })]));
        let told = statuses.wait_for(|all| !all.is_empty()).await.unwrap()[&seat].clone();
        assert_eq!((told.generation, told.state, told.exit_code), (3, WorkloadState::Ended, None));
        // One that runs as far as it can without a hub ends, too, and is told once its task is gone.
        handle.assign(Assigned::from([(seat, Assignment { generation: 4, ends: false })]));
        let pending = |all: &Arc<Statuses>| all.get(&seat).is_some_and(|one| one.generation == 4);
        statuses.wait_for(pending).await.unwrap();
        handle.assign(Assigned::new());
        statuses.wait_for(|all| all.is_empty()).await.unwrap();
        stop.cancel();
    };
    tokio::join!(node.run(stop.clone()), test);
}
