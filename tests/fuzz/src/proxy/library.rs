//! What the HTTP library makes of bytes that the guard let pass, set up as in the proxy.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};

use blueprint_hub_proxy_core::MAX_HEADERS;
use http::request::Parts;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::server::conn::http1;
use hyper::service::service_fn;

/// A head, and its body where it came whole.
pub(super) type Found = (Parts, Option<Vec<u8>>);

/// Bytes that are all there, and silence behind them: an end would drop what is not answered yet. What is written is
/// let go by.
struct Replay {
    bytes: Vec<u8>,
    read: usize,
}

impl Read for Replay {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let count = buffer.remaining().min(self.bytes.len() - self.read);
        if count == 0 {
            return Poll::Pending;
        }
        let from = self.read;
        buffer.put_slice(&self.bytes[from..from + count]);
        self.read += count;
        Poll::Ready(Ok(()))
    }
}

impl Write for Replay {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Whether there is more to do without another byte.
struct Again(AtomicBool);

impl Wake for Again {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Requests that the library reads.
pub(super) fn read(bytes: &[u8]) -> Vec<Found> {
    let found: Arc<Mutex<Vec<Found>>> = Arc::default();
    let all = Arc::clone(&found);
    let service = service_fn(move |request: Request<Incoming>| {
        let all = Arc::clone(&all);
        async move {
            let (parts, body) = request.into_parts();
            let number = {
                let mut all = all.lock().unwrap();
                all.push((parts, None));
                all.len() - 1
            };
            let body = body.collect().await.ok().map(|body| body.to_bytes().to_vec());
            all.lock().unwrap()[number].1 = body;
            let mut answer = Response::new(Empty::<Bytes>::new());
            // An answer that takes no tunnel and no upgrade for granted.
            *answer.status_mut() = http::StatusCode::FORBIDDEN;
            Ok::<_, Infallible>(answer)
        }
    });
    let mut builder = http1::Builder::new();
    builder.header_read_timeout(None).max_headers(MAX_HEADERS).max_buf_size(64 * 1024);
    let connection = builder.serve_connection(Replay { bytes: bytes.to_vec(), read: 0 }, service);
    let mut connection = pin!(connection);
    let again = Arc::new(Again(AtomicBool::new(true)));
    let waker = Waker::from(Arc::clone(&again));
    let mut context = Context::from_waker(&waker);
    while again.0.swap(false, Ordering::Relaxed) && connection.as_mut().poll(&mut context).is_pending() {}
    std::mem::take(&mut *found.lock().unwrap())
}
