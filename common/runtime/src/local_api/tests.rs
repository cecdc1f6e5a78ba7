//! Client and server over a real Unix socket.

use std::convert::Infallible;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::*;
use crate::cli::{CliError, Exit};
use crate::tasks::Supervisor;

/// Lets a test hold a request in work.
#[derive(Default)]
struct Gate {
    entered: Notify,
    open: Notify,
}

/// Answers `/echo` with what it got, `/slow` once the gate opens, and refuses the rest.
async fn answer(request: Request<Incoming>, gate: Arc<Gate>) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let method = request.method().to_string();
    let (status, body) = match request.uri().path() {
        "/echo" => {
            let body = request.into_body().collect().await?.to_bytes();
            let got: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
            (StatusCode::OK, json!({ "method": method, "got": got }).to_string())
        }
        "/slow" => {
            gate.entered.notify_one();
            gate.open.notified().await;
            (StatusCode::OK, "\"slow\"".to_owned())
        }
        "/empty" => (StatusCode::NO_CONTENT, String::new()),
        "/plain" => (StatusCode::BAD_REQUEST, "missing field `name`\n".to_owned()),
        _ => {
            let error = CliError::not_found("no such thing").hint("list them");
            (StatusCode::NOT_FOUND, error.to_json().to_string())
        }
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    Ok(response)
}

struct Fixture {
    _folder: tempfile::TempDir,
    path: PathBuf,
    supervisor: Supervisor,
    gate: Arc<Gate>,
}

impl Fixture {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("api.sock");
        let supervisor = Supervisor::new();
        let gate = Arc::new(Gate::default());
        let listener = bind_private(&path).await.unwrap();
        let make_service = {
            let gate = Arc::clone(&gate);
            move || {
                let gate = Arc::clone(&gate);
                service_fn(move |request| answer(request, Arc::clone(&gate)))
            }
        };
        let drain = supervisor.stop().drain;
        let run = serve(listener, make_service, supervisor.child_spawner(), drain);
        supervisor.spawn_essential("local-api", run);
        Self { _folder: folder, path, supervisor, gate }
    }

    fn client(&self) -> LocalClient {
        LocalClient::new(&self.path)
    }
}

/// Names in the folder of `path`.
fn neighbours(path: &Path) -> usize {
    fs::read_dir(path.parent().unwrap()).unwrap().count()
}

#[tokio::test]
async fn a_request_gets_its_answer() {
    let fixture = Fixture::start().await;
    let body = json!({ "name": "größe" });
    let answered = fixture.client().request(Method::POST, "/echo?x=1", Some(&body)).await.unwrap();
    assert_eq!(answered, (StatusCode::OK, json!({ "method": "POST", "got": body })));
    let answered = fixture.client().request(Method::DELETE, "/empty", None).await.unwrap();
    assert_eq!(answered, (StatusCode::NO_CONTENT, Value::Null));
}

#[tokio::test]
async fn a_refusal_becomes_the_error_of_the_command() {
    let fixture = Fixture::start().await;
    let (status, body) = fixture.client().request(Method::GET, "/none", None).await.unwrap();
    let error = CliError::from_response(status, &body);
    assert_eq!(error, CliError::not_found("no such thing").hint("list them"));
    let (status, body) = fixture.client().request(Method::GET, "/plain", None).await.unwrap();
    assert_eq!(CliError::from_response(status, &body), CliError::usage("missing field `name`"));
}

#[tokio::test]
async fn an_answer_is_read_a_line_at_a_time_and_what_broke_off_is_no_line() {
    let fixture = Fixture::start().await;
    let mut lines = fixture.client().lines(Method::GET, "/plain").await.unwrap();
    assert_eq!(lines.status(), StatusCode::BAD_REQUEST);
    assert_eq!(lines.next().await.unwrap().as_deref(), Some("missing field `name`"));
    assert_eq!(lines.next().await.unwrap(), None);
    // Without an end of line it is not whole.
    let mut lines = fixture.client().lines(Method::GET, "/echo").await.unwrap();
    assert_eq!(lines.next().await.unwrap(), None);
    let refused = fixture.client().lines(Method::GET, "/none").await.unwrap();
    let error = CliError::from_response(refused.status(), &refused.rest().await.unwrap());
    assert_eq!(error, CliError::not_found("no such thing").hint("list them"));
}

#[tokio::test]
async fn the_socket_is_private_and_alone() {
    let fixture = Fixture::start().await;
    assert_eq!(fs::metadata(&fixture.path).unwrap().permissions().mode() & 0o7777, 0o600);
    assert_eq!(neighbours(&fixture.path), 1);
}

#[tokio::test]
async fn an_answering_socket_is_not_taken_over_and_a_stale_one_is() {
    let fixture = Fixture::start().await;
    let error = bind_private(&fixture.path).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse, "{error}");
    fixture.client().request(Method::GET, "/echo", None).await.unwrap();

    let stale = fixture.path.with_file_name("stale.sock");
    drop(bind_private(&stale).await.unwrap());
    assert!(stale.exists());
    let _listener = bind_private(&stale).await.unwrap();
    assert_eq!(neighbours(&stale), 2);
}

#[tokio::test]
async fn a_file_with_the_name_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("precious");
    fs::write(&path, "data").unwrap();
    let error = bind_private(&path).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::AlreadyExists, "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "data");
}

#[tokio::test]
async fn a_path_too_long_for_a_socket_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x".repeat(120));
    let error = bind_private(&path).await.unwrap_err();
    assert!(error.to_string().contains("xxx"), "{error}");
}

#[tokio::test]
async fn nobody_listening_is_not_running() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("api.sock");
    let absent = LocalClient::new(&path).request(Method::GET, "/", None).await;
    assert!(matches!(absent, Err(LocalError::NotRunning { .. })), "{absent:?}");
    drop(bind_private(&path).await.unwrap());
    let stale = LocalClient::new(&path).request(Method::GET, "/", None).await.unwrap_err();
    assert!(matches!(stale, LocalError::NotRunning { .. }), "{stale:?}");
    assert_eq!(CliError::from(stale).exit, Exit::Unavailable);
}

#[tokio::test]
async fn a_path_that_is_none_is_refused_before_anything_is_sent() {
    let fixture = Fixture::start().await;
    let refused = fixture.client().request(Method::GET, "a b", None).await;
    assert!(matches!(refused, Err(LocalError::BadRequest(_))), "{refused:?}");
}

#[tokio::test]
async fn drain_finishes_the_request_in_work_and_takes_no_more() {
    let fixture = Fixture::start().await;
    let (client, spawner) = (fixture.client(), fixture.supervisor.child_spawner());
    let slow = async { client.request(Method::GET, "/slow", None).await.unwrap() };
    let drained = async {
        fixture.gate.entered.notified().await;
        fixture.supervisor.shutdown();
        // Left are the connection in work, not the listener.
        while spawner.open() > 1 {
            tokio::task::yield_now().await;
        }
        let refused = fixture.client().request(Method::GET, "/echo", None).await;
        assert!(matches!(refused, Err(LocalError::NotRunning { .. })), "{refused:?}");
        fixture.gate.open.notify_one();
    };
    let (answered, ()) = tokio::join!(slow, drained);
    assert_eq!(answered, (StatusCode::OK, json!("slow")));
    fixture.supervisor.run(Duration::from_secs(60)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn silence_is_an_error_after_the_timeout() {
    let fixture = Fixture::start().await;
    let client = fixture.client().timeout(Duration::from_secs(3));
    let silent = client.request(Method::GET, "/slow", None).await.unwrap_err();
    assert!(matches!(silent, LocalError::TimedOut { .. }), "{silent:?}");
    assert!(silent.to_string().ends_with("within 3 s"), "{silent}");
}

#[tokio::test]
async fn a_server_that_hangs_up_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("api.sock");
    let listener = bind_private(&path).await.unwrap();
    let hang_up = async {
        drop(listener.accept().await.unwrap());
        Ok::<_, Infallible>(())
    };
    let client = LocalClient::new(&path);
    let (broken, _) = tokio::join!(client.request(Method::GET, "/", None), hang_up);
    assert!(matches!(broken, Err(LocalError::Exchange(_))), "{broken:?}");
}
