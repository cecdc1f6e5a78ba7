//! One `GET` over a connection that stands, for a small page: metrics, and what else one part of the product asks another.

use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT, CONTENT_TYPE, HOST, USER_AGENT};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

/// Longest content type in bytes that is kept.
const MAX_KIND: usize = 256;

/// What is asked.
#[derive(Debug, Clone, Copy)]
pub struct Get<'a> {
    /// Host and port, as the other end knows itself.
    pub host: &'a str,
    /// Path with its query.
    pub path: &'a str,
    /// Media types that are taken.
    pub accept: &'a str,
    /// Who asks.
    pub agent: &'a str,
    /// Longest body in bytes.
    pub most: usize,
}

/// An answer, whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Its status.
    pub status: StatusCode,
    /// Its content type, `text/plain` where it names none.
    pub kind: String,
    /// Its bytes, as they came.
    pub body: Bytes,
}

/// Why there is no answer: nobody spoke HTTP, the connection broke, or the body is longer than what is taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct GetError(String);

impl GetError {
    fn of(error: &(dyn std::error::Error + 'static)) -> Self {
        Self(crate::Chain(error).to_string())
    }
}

impl Get<'_> {
    /// Asks over `stream` and reads the answer; follows no redirect and waits without end.
    ///
    /// # Errors
    ///
    /// See [`GetError`].
    ///
    /// # Cancel safety
    ///
    /// Dropping it closes the stream.
    pub async fn send<S>(self, stream: S) -> Result<Page, GetError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| GetError::of(&error))?;
        let request = Request::get(self.path)
            .header(HOST, self.host)
            .header(USER_AGENT, self.agent)
            .header(ACCEPT, self.accept)
            .body(Empty::<Bytes>::new())
            .map_err(|error| GetError::of(&error))?;
        let exchange = async {
            let answer = sender.send_request(request).await.map_err(|error| GetError::of(&error))?;
            let status = answer.status();
            let kind = answer.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
            let kind = kind.filter(|kind| kind.len() <= MAX_KIND).unwrap_or("text/plain").to_owned();
            let body = read(answer.into_body(), self.most).await?;
            Ok(Page { status, kind, body })
        };
        tokio::pin!(connection, exchange);
        tokio::select! {
            biased;
            answered = &mut exchange => answered,
            ended = &mut connection => match ended {
                // The connection is over before the answer is read: what came is still there.
                Ok(()) => exchange.await,
                Err(error) => Err(GetError::of(&error)),
            },
        }
    }
}

/// Reads a body into one piece: of frames that hold a byte each nothing else is kept.
async fn read(mut body: Incoming, most: usize) -> Result<Bytes, GetError> {
    let mut all = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| GetError::of(&error))?;
        let Ok(data) = frame.into_data() else { continue };
        if data.len() > most.saturating_sub(all.len()) {
            return Err(GetError(format!("the page is longer than {most} bytes")));
        }
        all.extend_from_slice(&data);
    }
    Ok(all.freeze())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const GET: Get<'static> =
        Get { host: "here:1", path: "/m?x=1", accept: "text/plain", agent: "test", most: 1000 };

    /// Asks somebody who gives these bytes and hangs up.
    async fn ask(answer: &[u8]) -> (Result<Page, GetError>, String) {
        let (near, mut far) = tokio::io::duplex(64 * 1024);
        let serve = async {
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                assert_ne!(far.read_buf(&mut request).await.unwrap(), 0);
            }
            let _ = far.write_all(answer).await;
            drop(far);
            String::from_utf8(request).unwrap()
        };
        tokio::join!(GET.send(near), serve)
    }

    #[tokio::test]
    async fn a_page_comes_with_its_kind_however_it_is_framed() {
        for answer in [
            &b"HTTP/1.1 200 OK\r\ncontent-type: text/x\r\ncontent-length: 4\r\n\r\na 1\n"[..],
            b"HTTP/1.1 200 OK\r\ncontent-type: text/x\r\ntransfer-encoding: chunked\r\n\r\n4\r\na 1\n\r\n0\r\n\r\n",
            b"HTTP/1.0 200 OK\r\ncontent-type: text/x\r\n\r\na 1\n",
        ] {
            let (page, request) = ask(answer).await;
            let body = Bytes::from_static(b"a 1\n");
            assert_eq!(page.unwrap(), Page { status: StatusCode::OK, kind: "text/x".to_owned(), body });
            assert!(request.starts_with("GET /m?x=1 HTTP/1.1\r\nhost: here:1\r\n"), "{request}");
        }
    }

    #[tokio::test]
    async fn what_is_no_answer_is_an_error_and_a_refusal_is_one() {
        let (found, _) = ask(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n").await;
        assert_eq!(found.unwrap().status, StatusCode::NOT_FOUND);
        let mut long = b"HTTP/1.0 200 OK\r\n\r\n".to_vec();
        long.resize(long.len() + GET.most + 1, b'a');
        for bad in [&long[..], b"SSH-2.0-x\r\n", b"", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nshort"] {
            assert!(ask(bad).await.0.is_err(), "{}", String::from_utf8_lossy(bad));
        }
    }
}
