//! The body of an answer on its way from a service.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::task::{Context, Poll, ready};

use blueprint_hub_proxy_core::answer::{AnswerBody, Chunk, Dechunker};
use bytes::{Bytes, BytesMut};
use http_body::{Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::WireError;

/// Least room that is made for a read, in bytes.
pub(super) const LEAST_ROOM: usize = 8 * 1024;

/// Most bytes read ahead of one answer.
const MOST_ROOM: usize = 64 * 1024;

/// Where less is left a read is not worth its system call.
const WORTH_A_READ: usize = 2 * 1024;

/// How much of a body is to come.
enum Left {
    Nothing,
    Sized(u64),
    Chunked(Dechunker),
    UntilClose,
}

/// Reads a body.
pub(super) struct Download {
    read: BytesMut,
    left: Left,
    /// Grows while a service sends faster than it is read.
    room: usize,
    stays_open: bool,
}

impl Download {
    /// A body of which `read` has come already.
    pub(super) fn new(framing: AnswerBody, read: BytesMut, stays_open: bool) -> Self {
        let left = match framing {
            AnswerBody::None | AnswerBody::Upgraded => Left::Nothing,
            AnswerBody::Sized(length) => Left::Sized(length),
            AnswerBody::Chunked => Left::Chunked(Dechunker::default()),
            AnswerBody::UntilClose => Left::UntilClose,
        };
        Self { read, left, room: LEAST_ROOM, stays_open }
    }

    pub(super) const fn is_over(&self) -> bool {
        matches!(self.left, Left::Nothing)
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        match self.left {
            Left::Nothing => SizeHint::with_exact(0),
            Left::Sized(left) => SizeHint::with_exact(left),
            Left::Chunked(_) | Left::UntilClose => SizeHint::default(),
        }
    }

    /// The room to read into, where the connection may serve another request.
    pub(super) fn into_room(self) -> Option<BytesMut> {
        let may_stay = self.is_over() && self.stays_open && self.read.is_empty();
        may_stay.then(|| if self.room > LEAST_ROOM { BytesMut::new() } else { self.read })
    }

    /// All that is to come, where that is here already.
    pub(super) fn whole(&mut self) -> Option<Bytes> {
        let length = match self.left {
            Left::Nothing => 0,
            Left::Sized(left) => usize::try_from(left).ok()?,
            Left::Chunked(_) | Left::UntilClose => return None,
        };
        if length > self.read.len() {
            return None;
        }
        self.left = Left::Nothing;
        Some(if length == 0 { Bytes::new() } else { self.read.split_to(length).freeze() })
    }

    /// The next piece.
    pub(super) fn poll<R: AsyncRead + Unpin>(
        &mut self,
        io: &mut R,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Frame<Bytes>>, WireError>> {
        loop {
            match &mut self.left {
                Left::Nothing => return Poll::Ready(Ok(None)),
                Left::Sized(left) if !self.read.is_empty() => {
                    let here = usize::try_from(*left).unwrap_or(usize::MAX).min(self.read.len());
                    *left = left.saturating_sub(u64::try_from(here).unwrap_or(u64::MAX));
                    if *left == 0 {
                        self.left = Left::Nothing;
                    }
                    return Poll::Ready(Ok(Some(Frame::data(self.read.split_to(here).freeze()))));
                }
                Left::UntilClose if !self.read.is_empty() => {
                    return Poll::Ready(Ok(Some(Frame::data(self.read.split().freeze()))));
                }
                Left::Chunked(chunks) => match chunks.next(&mut self.read)? {
                    Chunk::Data(data) => return Poll::Ready(Ok(Some(Frame::data(data)))),
                    Chunk::Trailers(trailers) => {
                        self.left = Left::Nothing;
                        return Poll::Ready(Ok(Some(Frame::trailers(trailers))));
                    }
                    Chunk::End => {
                        self.left = Left::Nothing;
                        return Poll::Ready(Ok(None));
                    }
                    Chunk::More => {}
                },
                Left::Sized(_) | Left::UntilClose => {}
            }
            let count = ready!(fill(io, &mut self.read, self.room, cx))?;
            if count == 0 {
                let is_end = matches!(self.left, Left::UntilClose);
                self.left = Left::Nothing;
                self.stays_open = false;
                return Poll::Ready(if is_end { Ok(None) } else { Err(WireError::Ended) });
            }
            if self.read.len() == self.read.capacity() {
                self.room = self.room.saturating_mul(2).min(MOST_ROOM);
            }
        }
    }
}

/// Reads what is there into `buffer`, which is given room; 0 at the end.
pub(super) fn fill<R: AsyncRead + Unpin>(
    io: &mut R,
    buffer: &mut BytesMut,
    room: usize,
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    if buffer.capacity().saturating_sub(buffer.len()) < WORTH_A_READ.max(room / 4) {
        buffer.reserve(room);
    }
    pin!(io.read_buf(buffer)).poll(cx)
}
