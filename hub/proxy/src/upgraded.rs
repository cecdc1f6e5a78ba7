//! Connections that went on in another protocol: bytes in both directions, until an end or a revocation.

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use blueprint_common_runtime::lanes;
use blueprint_hub_proxy_core::{CanonicalRequest, ExtendedConnect, Refusal, WebSocketKey, response_headers};
use http::header::{CONNECTION, HeaderValue, SEC_WEBSOCKET_ACCEPT, UPGRADE};
use http::{HeaderMap, Request, StatusCode, Version};
use hyper::ext::Protocol;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional_with_sizes};
use tokio::time::interval;
use tracing::debug;

use crate::open::{Counted, OpenRequest, SETTLE_EVERY};
use crate::watch::Watch;
use crate::wire::Upgraded;

/// Bytes under way in each direction: frames of a WebSocket are small, and there may be thousands of these.
const BUFFER: usize = 8 * 1024;

/// Whether a request may go on in another protocol; marks an extended CONNECT (RFC 8441) for the core.
pub(crate) fn asked<B>(request: &mut Request<B>) -> bool {
    let is_websocket = |protocol: &Protocol| protocol.as_str() == "websocket";
    let is_connect = request.extensions().get::<Protocol>().is_some_and(is_websocket);
    if is_connect {
        request.extensions_mut().insert(ExtendedConnect);
    }
    is_connect || request.headers().contains_key(UPGRADE)
}

/// The key of the handshake with the service, where the client's has none.
pub(crate) fn key(request: &CanonicalRequest) -> Result<Option<WebSocketKey>, Refusal> {
    // Without randomness nothing of the hub works: the client is to come again.
    request.is_translated().then(WebSocketKey::random).transpose().map_err(|_| Refusal::Draining)
}

/// What says in the client's version of HTTP that both have agreed.
pub(crate) fn status(version: Version) -> StatusCode {
    if version == Version::HTTP_2 { StatusCode::OK } else { StatusCode::SWITCHING_PROTOCOLS }
}

/// The headers of that answer.
pub(crate) fn headers(of_service: HeaderMap, status: StatusCode) -> HeaderMap {
    let mut headers = response_headers(of_service);
    if status == StatusCode::SWITCHING_PROTOCOLS {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    } else {
        headers.remove(SEC_WEBSOCKET_ACCEPT);
        headers.remove(http::header::CONTENT_LENGTH);
    }
    headers
}

/// Copies until either end closes or `watch` says that it is over.
pub(crate) async fn join(client: OnUpgrade, mut service: Upgraded, mut open: OpenRequest, mut watch: Watch) {
    // The connection that it came from ends here for the HTTP library.
    let _held = lanes::hold();
    let client = match client.await {
        Ok(client) => client,
        Err(error) => return debug!(%error, "upgrade did not happen"),
    };
    let mut client = Tally { io: TokioIo::new(client), counted: open.counted().clone() };
    let mut settles = interval(SETTLE_EVERY);
    let mut copy = pin!(copy_bidirectional_with_sizes(&mut client, &mut service, BUFFER, BUFFER));
    loop {
        tokio::select! {
            copied = copy.as_mut() => {
                if let Err(error) = copied {
                    debug!(%error, "upgraded connection broke off");
                }
                return;
            }
            refusal = watch.ended() => return open.note_cut(&refusal),
            now = settles.tick() => open.settle_now_and_then(now.into_std()),
        }
    }
}

/// The client's end, whose bytes are counted.
struct Tally<I> {
    io: I,
    counted: Counted,
}

impl<I: AsyncRead + Unpin> AsyncRead for Tally<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buffer))?;
        self.counted.receive(buffer.filled().len().saturating_sub(before));
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Tally<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.io).poll_write(cx, bytes))?;
        self.counted.send(count);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
