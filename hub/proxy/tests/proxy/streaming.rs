//! Bodies in both directions, of any length, at the pace of the slower side.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Notify, mpsc};

use crate::rig::{Body, BoxError, LONG, Rig, empty, read_head, text};

const CHUNK: usize = 16 << 10;

/// A body of `total` bytes that counts what was taken from it.
struct Counted {
    left: usize,
    taken: Arc<AtomicUsize>,
}

impl http_body::Body for Counted {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let size = CHUNK.min(self.left);
        if size == 0 {
            return Poll::Ready(None);
        }
        self.left -= size;
        self.taken.fetch_add(size, Ordering::SeqCst);
        Poll::Ready(Some(Ok(Frame::data(Bytes::from(vec![7; size])))))
    }
}

/// Waits until a counter has stood still for a while, and returns it.
async fn settled(counter: &AtomicUsize) -> usize {
    let mut last = usize::MAX;
    let mut same = 0;
    while same < 10 {
        tokio::time::sleep(Duration::from_millis(30)).await;
        let now = counter.load(Ordering::SeqCst);
        same = if now == last && now > 0 { same + 1 } else { 0 };
        last = now;
    }
    last
}

/// A body that is sent chunk by chunk from outside.
fn channel() -> (mpsc::Sender<Frame<Bytes>>, Body) {
    let (sender, receiver) = mpsc::channel(1);
    let stream = futures_util::stream::unfold(receiver, |mut receiver| async {
        receiver.recv().await.map(|frame| (Ok::<_, BoxError>(frame), receiver))
    });
    (sender, StreamBody::new(stream).boxed_unsync())
}

/// Sends back what it gets, frame by frame.
async fn echo(request: Request<Incoming>) -> Response<Body> {
    Response::new(request.into_body().map_err(Into::into).boxed_unsync())
}

#[tokio::test]
async fn both_directions_stream_at_once() {
    let rig = Rig::new().await;
    rig.route(&[rig.service(echo)]);
    let mut http1 = rig.http1().await;
    let mut http2 = rig.http2().await;
    let (up1, body1) = channel();
    let (up2, body2) = channel();
    let first = http1.send_request(rig.request("POST", "/", body1)).await.unwrap();
    let second = http2.send_request(rig.request("POST", "http://hub/", body2)).await.unwrap();
    for (up, response) in [(up1, first), (up2, second)] {
        let mut down = response.into_body();
        for number in 0..20 {
            // Each chunk is back before the next is sent: nothing waits for the end of the request.
            let sent = Bytes::from(format!("chunk {number}"));
            up.send(Frame::data(sent.clone())).await.unwrap();
            let frame = tokio::time::timeout(LONG, down.frame()).await.unwrap().unwrap().unwrap();
            assert_eq!(frame.into_data().unwrap(), sent);
        }
        drop(up);
        // HTTP/2 may mark the end with a frame of no bytes.
        let rest = tokio::time::timeout(LONG, down.collect()).await.unwrap().unwrap();
        assert!(rest.to_bytes().is_empty());
    }
}

#[tokio::test]
async fn a_service_that_reads_slowly_slows_the_client_down() {
    const TOTAL: usize = 24 << 20;
    let rig = Rig::new().await;
    let resume = Arc::new(Notify::new());
    let resumed = Arc::clone(&resume);
    let address = rig.raw_service(move |mut stream| {
        let resumed = Arc::clone(&resumed);
        async move {
            read_head(&mut stream).await;
            resumed.notified().await;
            let (mut buffer, mut end) = (vec![0; 1 << 20], Vec::new());
            while !end.ends_with(b"0\r\n\r\n") {
                let count = stream.read(&mut buffer).await.unwrap();
                end.extend_from_slice(&buffer[count.saturating_sub(5)..count]);
                end.drain(..end.len().saturating_sub(5));
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
        }
    });
    rig.route(&[address]);
    for is_http2 in [false, true] {
        let taken = Arc::new(AtomicUsize::new(0));
        let body = Counted { left: TOTAL, taken: Arc::clone(&taken) }.boxed_unsync();
        let sent: BoxFuture<'_, _> = if is_http2 {
            let mut client = rig.http2().await;
            let request = rig.request("POST", "http://hub/", body);
            async move { client.send_request(request).await }.boxed()
        } else {
            let mut client = rig.http1().await;
            let request = rig.request("POST", "/", body);
            async move { client.send_request(request).await }.boxed()
        };
        let watched = async {
            let stuck_at = settled(&taken).await;
            assert!(stuck_at < 6 << 20, "{stuck_at} bytes were taken for a service that reads none");
            resume.notify_one();
        };
        let both = async { tokio::join!(sent, watched).0 };
        let response = tokio::time::timeout(LONG, both).await.unwrap().unwrap();
        assert_eq!(text(response).await, "ok");
        assert_eq!(taken.load(Ordering::SeqCst), TOTAL);
    }
}

#[tokio::test]
async fn a_client_that_reads_slowly_slows_the_service_down() {
    const TOTAL: usize = 24 << 20;
    let rig = Rig::new().await;
    let taken = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&taken);
    let address = rig.service(move |_| {
        let body = Counted { left: TOTAL, taken: Arc::clone(&counter) };
        async { Response::new(body.boxed_unsync()) }
    });
    rig.route(&[address]);
    let mut client = rig.connect().await;
    let request = format!("GET / HTTP/1.1\r\n{}Connection: close\r\n\r\n", rig.admitted());
    client.write_all(request.as_bytes()).await.unwrap();
    let stuck_at = settled(&taken).await;
    assert!(stuck_at < 6 << 20, "{stuck_at} bytes were taken for a client that reads none");
    let mut count = 0;
    let mut buffer = vec![0; 1 << 20];
    loop {
        match tokio::time::timeout(LONG, client.read(&mut buffer)).await.unwrap().unwrap() {
            0 => break,
            read => count += read,
        }
    }
    assert_eq!(taken.load(Ordering::SeqCst), TOTAL);
    assert!(count > TOTAL, "{count} bytes arrived");
}

#[tokio::test]
async fn answers_without_a_body_keep_their_length() {
    let rig = Rig::new().await;
    let address = rig.service(|request: Request<Incoming>| async move {
        let mut response = Response::new(empty());
        response.headers_mut().insert("content-length", HeaderValue::from_static("1234"));
        if request.uri().path() == "/unchanged" {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
        }
        response
    });
    rig.route(&[address]);
    let mut client = rig.http1().await;
    let response = client.send_request(rig.request("HEAD", "/", empty())).await.unwrap();
    assert_eq!(
        (response.status(), &response.headers()["content-length"]),
        (StatusCode::OK, &"1234".parse().unwrap())
    );
    let response = client.send_request(rig.request("GET", "/unchanged", empty())).await.unwrap();
    assert_eq!(response.status(), StatusCode::NOT_MODIFIED);
    assert_eq!(text(response).await, "");
}

#[tokio::test]
async fn grpc_goes_over_http2_to_the_service_and_its_trailers_come_back() {
    let rig = Rig::new().await;
    let address = rig.raw_service(|stream| async move {
        let service = hyper::service::service_fn(|request: Request<Incoming>| async move {
            assert_eq!(request.headers()["te"], "trailers");
            assert_eq!(request.version(), http::Version::HTTP_2);
            let (sender, body) = channel();
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", HeaderValue::from_static("0"));
            sender.send(Frame::data(Bytes::from_static(b"message"))).await.unwrap();
            #[expect(clippy::disallowed_methods, reason = "the service of a test is not the product")]
            tokio::spawn(async move { sender.send(Frame::trailers(trailers)).await });
            Ok::<_, std::convert::Infallible>(Response::new(body))
        });
        let executor = hyper_util::rt::TokioExecutor::new();
        let builder = hyper::server::conn::http2::Builder::new(executor);
        let _ = builder.serve_connection(TokioIo::new(stream), service).await;
    });
    rig.route(&[address]);
    let mut client = rig.http2().await;
    let mut request = rig.request("POST", "http://hub/pkg.Service/Call", empty());
    request.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc+proto"));
    request.headers_mut().insert("te", HeaderValue::from_static("trailers"));
    let response = client.send_request(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let collected = response.into_body().collect().await.unwrap();
    assert_eq!(collected.trailers().unwrap()["grpc-status"], "0");
    assert_eq!(collected.to_bytes(), "message");
}
