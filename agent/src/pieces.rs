//! An artefact of the hub, read as the bytes of one file.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use blueprint_proto::v1::ArtefactPiece;
use bytes::{Buf, Bytes};
use futures_util::{Stream, StreamExt};
use tokio::io::{AsyncRead, ReadBuf};
use tonic::Status;

/// Reads a stream of pieces; the next is asked for once the last was read.
#[derive(Debug)]
pub(crate) struct Pieces<S> {
    pieces: S,
    left: Bytes,
}

impl<S> Pieces<S> {
    pub(crate) const fn new(pieces: S) -> Self {
        Self { pieces, left: Bytes::new() }
    }
}

impl<S: Stream<Item = Result<ArtefactPiece, Status>> + Unpin> AsyncRead for Pieces<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.left.is_empty() {
            match ready!(this.pieces.poll_next_unpin(cx)) {
                Some(Ok(piece)) => this.left = Bytes::from(piece.bytes),
                Some(Err(status)) => return Poll::Ready(Err(io::Error::other(status.message().to_owned()))),
                None => return Poll::Ready(Ok(())),
            }
        }
        let count = this.left.len().min(buffer.remaining());
        buffer.put_slice(this.left.get(..count).unwrap_or_default());
        this.left.advance(count);
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test]
    async fn pieces_become_bytes_and_an_error_ends_them() {
        let piece = |text: &str| Ok(ArtefactPiece { bytes: text.as_bytes().to_vec() });
        let mut whole = Pieces::new(stream::iter([piece("ab"), piece(""), piece("cde")]));
        let mut first = [0; 3];
        whole.read_exact(&mut first).await.unwrap();
        let mut rest = Vec::new();
        whole.read_to_end(&mut rest).await.unwrap();
        assert_eq!((&first, rest.as_slice()), (b"abc", b"de".as_slice()));

        let mut broken = Pieces::new(stream::iter([piece("ab"), Err(Status::aborted("it has changed"))]));
        let mut bytes = Vec::new();
        let error = broken.read_to_end(&mut bytes).await.unwrap_err();
        assert_eq!((bytes.as_slice(), error.to_string().as_str()), (b"ab".as_slice(), "it has changed"));
    }
}
