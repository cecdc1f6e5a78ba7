//! A client of HTTP/1.1 that keeps its connection.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use blueprint_common_runtime::tasks::Spawner;
use bytes::Bytes;
use futures_util::stream;
use http::{Method, Request};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper::body::Frame;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::spoke::SERVICE;

/// One piece of a request's body.
static PIECE: [u8; 64 * 1024] = [b'x'; 64 * 1024];

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Where a service is reached, and with what.
#[derive(Debug, Clone)]
pub(crate) enum Way {
    /// The service itself.
    Direct(SocketAddr),
    /// Through a hub's proxy, with an access token.
    Proxied {
        /// The proxy.
        proxy: SocketAddr,
        /// The service's number.
        service: &'static str,
        /// The right to call it.
        token: String,
    },
}

impl Way {
    /// Through the proxy to the service that every spoke of this bench offers.
    pub(crate) const fn proxied(proxy: SocketAddr, token: String) -> Self {
        Self::Proxied { proxy, service: SERVICE, token }
    }

    const fn address(&self) -> SocketAddr {
        match self {
            Self::Direct(address) => *address,
            Self::Proxied { proxy, .. } => *proxy,
        }
    }
}

/// What came back.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Answer {
    /// Bytes of its body.
    pub(crate) bytes: u64,
    /// When the first of them was there.
    pub(crate) first_byte: Instant,
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Client {
    way: Way,
    sender: SendRequest<Body>,
}

impl Client {
    /// Opens a connection.
    ///
    /// # Errors
    ///
    /// Fails where nobody listens.
    pub(crate) async fn connect(way: &Way, spawner: &Spawner) -> Result<Self> {
        let address = way.address();
        let stream = TcpStream::connect(address).await.with_context(|| format!("cannot reach {address}"))?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // How it ends shows in the requests.
        spawner.spawn("client connection", connection);
        Ok(Self { way: way.clone(), sender })
    }

    /// `GET path`, whole.
    ///
    /// # Errors
    ///
    /// Fails where the answer is not 200 or breaks off.
    pub(crate) async fn get(&mut self, path: &str) -> Result<Answer> {
        self.exchange(Method::GET, path, Empty::new().boxed_unsync()).await
    }

    /// `POST path` with `pieces` times 64 KiB, sent while the answer is read.
    ///
    /// # Errors
    ///
    /// As [`Self::get`].
    pub(crate) async fn post(&mut self, path: &str, pieces: usize) -> Result<Answer> {
        let frames = (0..pieces).map(|_| Ok(Frame::data(Bytes::from_static(&PIECE))));
        self.exchange(Method::POST, path, BodyExt::boxed_unsync(StreamBody::new(stream::iter(frames)))).await
    }

    async fn exchange(&mut self, method: Method, path: &str, body: Body) -> Result<Answer> {
        let mut request = Request::builder().method(method).uri(path);
        request = request.header("host", self.way.address().to_string());
        if let Way::Proxied { service, token, .. } = &self.way {
            request =
                request.header("x-service-id", *service).header("authorization", format!("Bearer {token}"));
        }
        self.sender.ready().await?;
        let response = self.sender.send_request(request.body(body)?).await?;
        let status = response.status();
        let mut body = response.into_body();
        let (mut bytes, mut first_byte) = (0u64, None);
        while let Some(frame) = body.frame().await {
            let length = frame?.data_ref().map_or(0, Bytes::len);
            if length > 0 {
                first_byte.get_or_insert_with(Instant::now);
            }
            bytes = bytes.saturating_add(u64::try_from(length)?);
        }
        ensure!(status == 200, "{path} was answered with {status}");
        Ok(Answer { bytes, first_byte: first_byte.context("an answer without a byte")? })
    }
}
