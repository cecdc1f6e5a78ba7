//! Tells HTTP/2 from HTTP/1 by the first bytes, within a time limit.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};

use crate::delegate::delegate_write;

/// What an HTTP/2 client says first (RFC 9113, section 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The two protocols spoken here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// HTTP/1.0 and HTTP/1.1.
    Http1,
    /// HTTP/2, by prior knowledge or by ALPN.
    Http2,
}

/// Reads until the protocol is certain, and gives the bytes back in front of the rest.
///
/// # Errors
///
/// Those of reading; [`io::ErrorKind::UnexpectedEof`] where the client leaves without a word.
///
/// # Cancel safety
///
/// Dropping the future closes the connection.
pub(crate) async fn sniff<I: AsyncRead + Unpin>(mut io: I) -> io::Result<(Protocol, Prefixed<I>)> {
    let mut first = Vec::with_capacity(PREFACE.len());
    let protocol = loop {
        if !PREFACE.starts_with(&first) {
            break Protocol::Http1;
        }
        if first.len() == PREFACE.len() {
            break Protocol::Http2;
        }
        let missing = PREFACE.len().saturating_sub(first.len());
        let mut rest = (&mut io).take(u64::try_from(missing).unwrap_or(0));
        if rest.read_buf(&mut first).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    };
    Ok((protocol, Prefixed::new(Bytes::from(first), io)))
}

/// A stream with bytes put back in front of it.
pub(crate) struct Prefixed<I> {
    first: Bytes,
    io: I,
}

impl<I> Prefixed<I> {
    pub(crate) const fn new(first: Bytes, io: I) -> Self {
        Self { first, io }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Prefixed<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.first.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buffer);
        }
        let count = self.first.len().min(buffer.remaining());
        buffer.put_slice(self.first.get(..count).unwrap_or_default());
        self.first.advance(count);
        Poll::Ready(Ok(()))
    }
}

delegate_write!(Prefixed, io);

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    #[tokio::test]
    async fn the_first_bytes_decide_and_stay_readable() {
        let h2_and_more = [&PREFACE[..], b"more"].concat();
        for (bytes, protocol) in [
            (&b"GET / HTTP/1.1\r\n\r\n"[..], Protocol::Http1),
            (b"PRI", Protocol::Http1),
            (b"PRI * HTTP/1.1\r\n\r\n", Protocol::Http1),
            (h2_and_more.as_slice(), Protocol::Http2),
        ] {
            // One byte at a time, as a slow network would.
            let (mut client, server) = tokio::io::duplex(1);
            let sent = bytes.to_vec();
            let write = async move {
                client.write_all(&sent).await.unwrap();
                client.shutdown().await.unwrap();
            };
            let read = async {
                let (found, mut io) = sniff(server).await?;
                let mut all = Vec::new();
                io.read_to_end(&mut all).await?;
                Ok::<_, io::Error>((found, all))
            };
            let ((), read) = tokio::join!(write, read);
            match read {
                Ok((found, all)) => assert_eq!((found, all.as_slice()), (protocol, bytes)),
                Err(error) => {
                    assert_eq!(bytes, b"PRI", "only an unfinished preface is no protocol");
                    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
                }
            }
        }
    }
}
