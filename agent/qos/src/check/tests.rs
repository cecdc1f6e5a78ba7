use tokio::net::TcpListener;

use super::*;

const TIMEOUT: Duration = Duration::from_secs(5);

fn http() -> HealthCheck {
    "http:/healthz".parse().unwrap()
}

/// Checks a service that gives `answer` to one request; gives the result and the request.
async fn check_against(answer: &[u8]) -> (CheckResult, String) {
    check_as(&http(), answer).await
}

async fn check_as(how: &HealthCheck, answer: &[u8]) -> (CheckResult, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serve = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            assert_ne!(stream.read_buf(&mut request).await.unwrap(), 0);
        }
        // The check hangs up as soon as it has the status line.
        let _ = stream.write_all(answer).await;
        String::from_utf8(request).unwrap()
    };
    tokio::join!(check(how, address, TIMEOUT), serve)
}

#[tokio::test]
async fn an_answer_below_400_is_ok() {
    for status in ["HTTP/1.1 200 OK", "HTTP/1.0 204", "HTTP/1.1 302 Found"] {
        let (result, request) = check_against(format!("{status}\r\n\r\n").as_bytes()).await;
        assert!(result.ok && result.reason.is_empty(), "{status}: {result:?}");
        assert!(request.starts_with("GET /healthz HTTP/1.1\r\nhost: 127.0.0.1:"), "{request}");
    }
}

#[tokio::test]
async fn the_reason_names_what_is_wrong() {
    let (result, _) = check_against(b"HTTP/1.1 503 Service Unavailable\r\n\r\n").await;
    assert_eq!((result.ok, result.reason.as_str()), (false, "answers 503"));
    for answer in [&b"SSH-2.0-x\r\n"[..], b"", &[0xff; 4096], b"HTTP/1.1 999 x\n", b"HTTP/1.1 20\n"] {
        let (result, _) = check_against(answer).await;
        assert_eq!((result.ok, result.reason.as_str()), (false, "does not answer in HTTP/1"));
    }
}

#[tokio::test]
async fn a_port_that_nobody_listens_on_refuses_both_checks() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    assert!(check(&HealthCheck::Tcp, address, TIMEOUT).await.ok);
    drop(listener);
    for how in [HealthCheck::Tcp, http(), HealthCheck::Grpc(String::new())] {
        let result = check(&how, address, TIMEOUT).await;
        assert!(result.is_refused() && result.reason == "connection refused", "{result:?}");
    }
}

#[tokio::test]
async fn only_the_statuses_that_were_named_are_ok() {
    let how: HealthCheck = "http:200-204:/ok".parse().unwrap();
    for (status, is_ok) in [(199, false), (200, true), (204, true), (205, false), (302, false)] {
        let answer = format!("HTTP/1.1 {status} x\r\n\r\n");
        let (result, _) = check_as(&how, answer.as_bytes()).await;
        assert_eq!(result.ok, is_ok, "{status}: {result:?}");
    }
}

/// A real gRPC server with the standard health service; gives its address and what sets a service's status.
async fn grpc_server() -> (SocketAddr, tonic_health::server::HealthReporter) {
    let (reporter, health) = tonic_health::server::health_reporter();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    let serve = tonic::transport::Server::builder().add_service(health).serve_with_incoming(incoming);
    #[expect(clippy::disallowed_methods, reason = "the service of a test has no supervisor")]
    tokio::task::spawn(serve);
    (address, reporter)
}

#[tokio::test]
async fn a_grpc_service_is_healthy_where_it_says_serving() {
    let (address, reporter) = grpc_server().await;
    let whole: HealthCheck = "grpc".parse().unwrap();
    let one: HealthCheck = "grpc:demo.v1.Jobs".parse().unwrap();
    let result = check(&whole, address, TIMEOUT).await;
    assert!(result.ok && result.reason.is_empty(), "{result:?}");
    let unknown = check(&one, address, TIMEOUT).await;
    assert_eq!(
        (unknown.ok, unknown.reason.as_str()),
        (false, "its grpc.health.v1.Health does not know \"demo.v1.Jobs\"")
    );
    reporter.set_service_status("demo.v1.Jobs", tonic_health::ServingStatus::Serving).await;
    assert!(check(&one, address, TIMEOUT).await.ok);
    reporter.set_service_status("demo.v1.Jobs", tonic_health::ServingStatus::NotServing).await;
    let ill = check(&one, address, TIMEOUT).await;
    assert_eq!((ill.ok, ill.reason.as_str()), (false, "answers NOT_SERVING"));
    assert!(check(&whole, address, TIMEOUT).await.ok, "the server as a whole still serves");
}

#[tokio::test]
async fn a_grpc_check_says_what_is_not_there() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serve = tonic::transport::Server::builder()
        .add_routes(tonic::service::Routes::default())
        .serve_with_incoming(tokio_stream::wrappers::TcpListenerStream::new(listener));
    #[expect(clippy::disallowed_methods, reason = "the service of a test has no supervisor")]
    tokio::task::spawn(serve);
    let result = check(&HealthCheck::Grpc(String::new()), address, TIMEOUT).await;
    assert_eq!((result.ok, result.reason.as_str()), (false, "has no grpc.health.v1.Health"));
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap();
    let result = check(&HealthCheck::Grpc(String::new()), address, Duration::from_millis(200)).await;
    assert_eq!((result.ok, result.reason.as_str()), (false, "no answer within 200ms"));
}

#[tokio::test(start_paused = true)]
async fn a_service_that_says_nothing_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let result = check(&http(), listener.local_addr().unwrap(), Duration::from_secs(2)).await;
    assert_eq!((result.ok, result.reason.as_str()), (false, "no answer within 2s"));
}
