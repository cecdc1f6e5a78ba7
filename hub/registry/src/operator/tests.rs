//! The operator's gRPC over a real Unix socket: list, watch with resume, health, reflection.

use std::path::PathBuf;
use std::task::{Context, Poll};
use std::time::Duration;

use blueprint_common_runtime::tasks::Supervisor;
use blueprint_proto::v1::registry_client::RegistryClient;
use blueprint_proto::v1::watch_event::Change;
use futures_util::future::{BoxFuture, FutureExt};
use tokio::net::UnixStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use super::*;
use crate::registrar::tests::{Disk, open, session, start, targets};

/// Opens the socket, whatever the URI says.
pub(crate) struct OpenSocket(pub(crate) PathBuf);

impl tower_service::Service<http::Uri> for OpenSocket {
    type Response = TokioIo<UnixStream>;
    type Error = std::io::Error;
    type Future = BoxFuture<'static, std::io::Result<TokioIo<UnixStream>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Uri) -> Self::Future {
        let path = self.0.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }.boxed()
    }
}

/// Runs a registrar and the operator's side around `test`.
async fn with_operator<F: Future<Output = ()>>(test: impl FnOnce(RegistrarHandle, Channel) -> F) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("registry.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let (disk, stop, supervisor) =
        (std::sync::Arc::new(Disk::default()), CancellationToken::new(), Supervisor::new());
    let (handle, run) = start(&disk, &stop);
    let operator = async {
        let parts = crate::launcher::tests::idle(handle.clone()).await;
        let metrics = Metrics::new();
        serve_operator(listener, handle.clone(), (parts, None), &metrics, supervisor.child_spawner()).await
    };
    let checks = async {
        let endpoint = Endpoint::from_static("http://hub.test");
        let channel = endpoint.connect_with_connector(OpenSocket(path)).await.unwrap();
        test(handle.clone(), channel).await;
        stop.cancel();
        supervisor.shutdown();
    };
    let all = async { tokio::join!(run, operator, checks) };
    let (_, served, ()) = tokio::time::timeout(Duration::from_secs(20), all).await.unwrap();
    served.unwrap();
}

#[tokio::test]
async fn a_watch_goes_on_where_the_last_one_ended() {
    with_operator(|handle, channel| async move {
        let mut client = RegistryClient::new(channel);
        let empty = client.list(v1::ListRequest {}).await.unwrap().into_inner();
        assert!(empty.targets.is_empty());
        let request = v1::WatchRequest { after_index: empty.index, services: vec![] };
        let mut events = client.watch(request).await.unwrap().into_inner();

        let (_, _messages) = open(&handle, 1, 9).await;
        handle.report(session(1), 1, targets()).await.unwrap();
        let event = events.message().await.unwrap().unwrap();
        assert!(matches!(event.change, Some(Change::Upsert(target)) if target.service_id == 42));

        handle.report(session(1), 2, crate::registrar::Report::Targets(Vec::new())).await.unwrap();
        let gone = events.message().await.unwrap().unwrap();
        assert!(matches!(gone.change, Some(Change::Remove(_))));

        let again = v1::WatchRequest { after_index: event.index, services: vec![] };
        let mut events = client.watch(again).await.unwrap().into_inner();
        let event = events.message().await.unwrap().unwrap();
        assert_eq!(event.index, gone.index);
        assert!(matches!(event.change, Some(Change::Remove(_))));

        let unknown = v1::WatchRequest { after_index: gone.index + 1_000_000, services: vec![] };
        let mut events = client.watch(unknown).await.unwrap().into_inner();
        let event = events.message().await.unwrap().unwrap();
        assert!(matches!(event.change, Some(Change::Reset(_))), "an index of another life starts over");
    })
    .await;
}

#[tokio::test]
async fn health_and_reflection_answer() {
    with_operator(|_, channel| async move {
        let mut health = HealthClient::new(channel.clone());
        let service = "blueprint.v1.Registry".to_owned();
        let answer = loop {
            let request = HealthCheckRequest { service: service.clone() };
            match health.check(request).await {
                Ok(answer) => break answer.into_inner(),
                // Set by a task of its own, just after the start.
                Err(status) => assert_eq!(status.code(), tonic::Code::NotFound),
            }
        };
        assert_eq!(answer.status(), ServingStatus::Serving);

        let question = ServerReflectionRequest {
            host: String::new(),
            message_request: Some(MessageRequest::ListServices(String::new())),
        };
        let mut reflection = ServerReflectionClient::new(channel);
        let asked = tokio_stream::iter([question]);
        let mut answers = reflection.server_reflection_info(asked).await.unwrap().into_inner();
        let answer = answers.message().await.unwrap().unwrap().message_response;
        let Some(MessageResponse::ListServicesResponse(list)) = answer else { panic!("{answer:?}") };
        let names: Vec<_> = list.service.into_iter().map(|service| service.name).collect();
        assert!(names.contains(&service), "{names:?}");
        assert!(names.contains(&"grpc.health.v1.Health".to_owned()), "{names:?}");
    })
    .await;
}
