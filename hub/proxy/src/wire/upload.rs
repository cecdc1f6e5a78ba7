//! A request on its way to a service.

use std::fmt::Write as _;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use http_body::Body;
use tokio::io::AsyncWrite;

use super::{BodyLength, WireError};
use crate::body::LentBody;

/// Ends a body in chunks; trailers are left out, as RFC 9110, section 6.5.1, lets everybody do.
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// Writes the head, then the body as it comes.
pub(super) struct Upload {
    /// The head, or the size of a chunk.
    out: BytesMut,
    data: Bytes,
    /// What ends a chunk, or all of them.
    tail: &'static [u8],
    body: Option<(LentBody, BodyLength)>,
}

impl Upload {
    pub(super) fn new(head: BytesMut, body: Option<(LentBody, BodyLength)>) -> Self {
        Self { out: head, data: Bytes::new(), tail: &[], body }
    }

    /// Ready once everything is with the connection.
    pub(super) fn poll<W: AsyncWrite + Unpin>(
        &mut self,
        io: &mut W,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), WireError>> {
        loop {
            let mut waits = false;
            if self.data.is_empty() && self.tail.is_empty() && self.body.is_some() {
                waits = self.poll_body(cx)?.is_pending();
            }
            if self.is_written() {
                ready!(Pin::new(&mut *io).poll_flush(cx))?;
                if waits {
                    return Poll::Pending;
                }
                if self.body.is_none() {
                    return Poll::Ready(Ok(()));
                }
                continue;
            }
            ready!(self.poll_write(io, cx))?;
        }
    }

    fn is_written(&self) -> bool {
        self.out.is_empty() && self.data.is_empty() && self.tail.is_empty()
    }

    /// Takes the next piece of the body.
    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WireError>> {
        let Some((body, length)) = &mut self.body else { return Poll::Ready(Ok(())) };
        let frame = ready!(Pin::new(&mut *body).poll_frame(cx)).transpose()?;
        let data = frame.map(|frame| frame.into_data().unwrap_or_default());
        let is_over = data.is_none() || body.is_end_stream();
        if let Some(data) = data.filter(|data| !data.is_empty()) {
            match length {
                BodyLength::Sized(left) => {
                    let count = u64::try_from(data.len()).unwrap_or(u64::MAX);
                    *left = left.checked_sub(count).ok_or(WireError::Length)?;
                }
                BodyLength::Chunked => {
                    // Writing to a buffer that grows cannot fail.
                    let _ = write!(self.out, "{:x}\r\n", data.len());
                    self.tail = b"\r\n";
                }
            }
            self.data = data;
        }
        if is_over {
            match length {
                BodyLength::Sized(0) => {}
                BodyLength::Sized(_) => return Poll::Ready(Err(WireError::Length)),
                BodyLength::Chunked if self.data.is_empty() => self.tail = LAST_CHUNK,
                BodyLength::Chunked => self.tail = b"\r\n0\r\n\r\n",
            }
            self.body = None;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_write<W: AsyncWrite + Unpin>(
        &mut self,
        io: &mut W,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), WireError>> {
        let count = if self.data.is_empty() && self.tail.is_empty() {
            ready!(Pin::new(io).poll_write(cx, &self.out))?
        } else {
            let parts = [&*self.out, &*self.data, self.tail];
            if io.is_write_vectored() {
                ready!(Pin::new(io).poll_write_vectored(cx, &parts.map(IoSlice::new)))?
            } else {
                let first = parts.into_iter().find(|part| !part.is_empty()).unwrap_or_default();
                ready!(Pin::new(io).poll_write(cx, first))?
            }
        };
        if count == 0 {
            return Poll::Ready(Err(io::Error::from(io::ErrorKind::WriteZero).into()));
        }
        let here = count.min(self.out.len());
        self.out.advance(here);
        let rest = count.saturating_sub(here);
        let here = rest.min(self.data.len());
        self.data.advance(here);
        self.tail = self.tail.get(rest.saturating_sub(here)..).unwrap_or_default();
        Poll::Ready(Ok(()))
    }
}
