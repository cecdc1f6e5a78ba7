//! An answer whose head has come.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode};
use hyper::body::{Body, Incoming};

use crate::{Connection, WireError};

/// An answer whose head has come; its body comes as it is read.
pub struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Incoming,
    /// `None` once it is done.
    connection: Option<Connection>,
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer").field("status", &self.status).finish_non_exhaustive()
    }
}

impl Answer {
    pub(crate) fn new(response: Response<Incoming>, connection: Option<Connection>) -> Self {
        let (head, body) = response.into_parts();
        Self { status: head.status, headers: head.headers, body, connection }
    }

    /// Its status.
    #[must_use]
    pub const fn status(&self) -> StatusCode {
        self.status
    }

    /// Its head.
    #[must_use]
    pub const fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// The next bytes of the body; `None` at its end.
    pub fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, hyper::Error>>> {
        loop {
            if let Some(connection) = &mut self.connection
                && connection.as_mut().poll(cx).is_ready()
            {
                self.connection = None;
            }
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    // Trailers say nothing here.
                    if let Ok(bytes) = frame.into_data() {
                        return Poll::Ready(Some(Ok(bytes)));
                    }
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
    }

    /// The next bytes of the body; `None` at its end.
    ///
    /// # Errors
    ///
    /// Where the connection breaks off.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, hyper::Error> {
        poll_fn(|cx| self.poll_chunk(cx)).await.transpose()
    }

    /// All that is left of the body, at most `max` bytes.
    ///
    /// # Errors
    ///
    /// [`WireError::Broken`] and [`WireError::TooLong`].
    pub async fn collect(&mut self, max: usize) -> Result<Vec<u8>, WireError> {
        let mut bytes = Vec::new();
        while let Some(chunk) = self.chunk().await? {
            if bytes.len().saturating_add(chunk.len()) > max {
                return Err(WireError::TooLong { max });
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }
}
