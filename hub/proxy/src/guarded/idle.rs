//! Between two requests: a connection that idles gives back what the HTTP library holds for it.
//!
//! The library keeps 16 KiB of buffers for as long as it serves a connection. So one that has been quiet for a second
//! is taken out of its hands, and given back with the first bytes of the next request.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tracing::debug;

use super::{Framing, Guarded};

/// How long nothing happens before a connection is taken from the library.
pub(super) const QUIET: Duration = Duration::from_secs(1);

/// What is no longer is written in one piece: to copy so much costs less than a system call with several pieces does
/// beyond one (1.3 KiB in two pieces over loopback: 4.3 against 4.5 us, 2026-11-23).
const JOINED: usize = 4 * 1024;

/// All of it in `room`, where it is several pieces and fits.
fn join<'a>(buffers: &[IoSlice<'_>], room: &'a mut ReadBuf<'_>) -> Option<&'a [u8]> {
    let length = buffers.iter().map(|buffer| buffer.len()).fold(0, usize::saturating_add);
    if buffers.len() < 2 || length > room.capacity() {
        return None;
    }
    buffers.iter().for_each(|buffer| room.put_slice(buffer));
    Some(room.filled())
}

impl Framing {
    /// The connection has been quiet for [`QUIET`], between two requests, and everything is with the client. Says so once.
    pub(crate) fn is_quiet(&self) -> bool {
        std::mem::take(&mut self.0.lock().is_quiet)
    }
}

impl<I: AsyncRead + Unpin> Guarded<I> {
    /// Takes the connection back from the library, which had read `unread` of it. [`Self::next`] comes next.
    pub(crate) fn rest(&mut self, unread: &Bytes) {
        if !unread.is_empty() {
            // The guard passed these already.
            let pending = std::mem::take(&mut self.pending);
            self.pending.extend_from_slice(unread);
            self.pending.extend_from_slice(&pending);
            self.passed = self.passed.saturating_add(unread.len());
        }
        self.timer = None;
    }

    /// Waits for the first bytes of the next request; false where none come, for the client left or was quiet for too
    /// long.
    pub(crate) async fn next(&mut self) -> bool {
        self.is_resting = true;
        let has_come = poll_fn(|cx| self.poll_next(cx)).await;
        self.is_resting = false;
        // It was for the end of the rest, a minute away: the next silence is to be noticed after a second.
        self.timer = None;
        has_come.unwrap_or_else(|error| {
            debug!(%error, "a client that idled is gone");
            false
        })
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        if !self.pending.is_empty() {
            return Poll::Ready(Ok(true));
        }
        match self.poll_more(cx)? {
            Poll::Ready(count) => Poll::Ready(Ok(count > 0)),
            Poll::Pending => self.poll_times(cx).map(|_| Ok(false)),
        }
    }
}

impl<I: AsyncWrite + Unpin> Guarded<I> {
    /// The library may hold more of what it writes until it could flush all of it.
    fn note_flush(&mut self, flushed: Poll<io::Result<()>>) -> Poll<io::Result<()>> {
        self.is_flushed = matches!(flushed, Poll::Ready(Ok(())));
        flushed
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Guarded<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.is_flushed = false;
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.io).poll_flush(cx);
        self.note_flush(flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.is_flushed = false;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.is_flushed = false;
        let mut room = [const { MaybeUninit::uninit() }; JOINED];
        match join(buffers, &mut ReadBuf::uninit(&mut room)) {
            Some(joined) => Pin::new(&mut self.io).poll_write(cx, joined),
            None => Pin::new(&mut self.io).poll_write_vectored(cx, buffers),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(pieces: &[&[u8]]) -> Option<Vec<u8>> {
        let buffers: Vec<_> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
        let mut room = [const { MaybeUninit::uninit() }; JOINED];
        join(&buffers, &mut ReadBuf::uninit(&mut room)).map(<[u8]>::to_vec)
    }

    #[test]
    fn short_pieces_are_joined_in_their_order_and_long_ones_are_left() {
        assert_eq!(joined(&[b"ab", b"", b"c"]).as_deref(), Some(&b"abc"[..]));
        let (half, more) = ([b'x'; JOINED / 2], [b'y'; JOINED / 2 + 1]);
        assert_eq!(joined(&[&half, &half]).map(|joined| joined.len()), Some(JOINED));
        assert_eq!(joined(&[&half, &more]), None);
        assert_eq!((joined(&[]), joined(&[b"alone"])), (None, None));
    }
}
