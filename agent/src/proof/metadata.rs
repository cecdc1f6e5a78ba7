//! One question to the metadata service of a cloud: plain HTTP to an address of the machine's own link, by no proxy.

use std::net::SocketAddr;

use blueprint_common_types::Secret;
use bytes::Bytes;
use http::header::{HOST, HeaderValue};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// What is asked.
pub(super) struct Question<'q> {
    pub(super) method: &'q str,
    pub(super) path: &'q str,
    /// How the service calls itself.
    pub(super) host: &'q str,
    pub(super) headers: &'q [(&'static str, Secret<String>)],
}

/// Asks, and gives the body of an answer of at most `most` bytes; follows no redirect and waits without end.
pub(super) async fn ask(place: SocketAddr, question: Question<'_>, most: usize) -> Result<Vec<u8>, String> {
    let Question { method, path, host, headers } = question;
    let stream = TcpStream::connect(place).await.map_err(|error| format!("no metadata service: {error}"))?;
    let mut request = Request::builder().method(method).uri(path).header(HOST, host);
    for (name, value) in headers {
        let mut value =
            HeaderValue::from_str(value.expose().trim()).map_err(|_| format!("{name} is no header"))?;
        value.set_sensitive(true);
        request = request.header(*name, value);
    }
    let request = request.body(Full::default()).map_err(|error| error.to_string())?;
    let (status, body) = exchange(stream, request, most, "the metadata service").await?;
    if status == StatusCode::OK {
        Ok(body)
    } else {
        Err(format!("the metadata service answered with {status}"))
    }
}

/// Sends one request on a connection of its own to `who`, and reads an answer of at most `most` bytes.
pub(super) async fn exchange<S>(
    stream: S,
    request: Request<Full<Bytes>>,
    most: usize,
    who: &str,
) -> Result<(StatusCode, Vec<u8>), String>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let broken = |error: hyper::Error| format!("{who} does not speak HTTP: {error}");
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let exchange = async {
        let answer = sender.send_request(request).await.map_err(broken)?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), most).collect().await;
        let body = body.map_err(|_| format!("{who} answered too much, or broke off"))?;
        Ok((status, body.to_bytes().to_vec()))
    };
    // The connection moves the bytes of the exchange and ends with it.
    tokio::pin!(connection, exchange);
    tokio::select! {
        biased;
        answered = &mut exchange => answered,
        _ = &mut connection => exchange.await,
    }
}
