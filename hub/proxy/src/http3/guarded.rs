//! QUIC streams as the HTTP/3 library gets to read them: past a guard, in small pieces.

use std::task::{Context, Poll, ready};

use blueprint_hub_proxy_core::guard::FrameGuard;
use bytes::Bytes;
use h3::error::Code;
use h3::quic::{self, ConnectionErrorIncoming, StreamErrorIncoming, StreamId, WriteBuf};

/// Bytes of a one-way stream that is not the control stream: clients have nothing to say there, since the hub keeps no
/// dynamic table (RFC 9204).
const MAX_OTHER: usize = 4 * 1024;

/// A connection, or what opens streams on it, whose incoming streams are guarded.
pub(super) struct Guarded<T>(T);

/// A connection whose incoming streams are guarded.
pub(super) type Connection = Guarded<h3_quinn::Connection>;

impl Connection {
    pub(super) fn new(connection: quinn::Connection) -> Self {
        Self(h3_quinn::Connection::new(connection))
    }
}

impl<T> quic::OpenStreams<Bytes> for Guarded<T>
where
    T: quic::OpenStreams<
            Bytes,
            BidiStream = h3_quinn::BidiStream<Bytes>,
            SendStream = h3_quinn::SendStream<Bytes>,
        >,
{
    type BidiStream = Both;
    type SendStream = T::SendStream;

    fn poll_open_bidi(&mut self, cx: &mut Context<'_>) -> Poll<Result<Both, StreamErrorIncoming>> {
        self.0.poll_open_bidi(cx).map_ok(Both::new)
    }

    fn poll_open_send(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Self::SendStream, StreamErrorIncoming>> {
        self.0.poll_open_send(cx)
    }

    fn close(&mut self, code: Code, reason: &[u8]) {
        self.0.close(code, reason);
    }
}

impl quic::Connection<Bytes> for Connection {
    type RecvStream = Incoming<h3_quinn::RecvStream>;
    type OpenStreams = Guarded<h3_quinn::OpenStreams>;

    fn poll_accept_recv(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Self::RecvStream, ConnectionErrorIncoming>> {
        quic::Connection::<Bytes>::poll_accept_recv(&mut self.0, cx)
            .map_ok(|stream| Incoming::new(stream, Guard::Kind))
    }

    fn poll_accept_bidi(&mut self, cx: &mut Context<'_>) -> Poll<Result<Both, ConnectionErrorIncoming>> {
        quic::Connection::<Bytes>::poll_accept_bidi(&mut self.0, cx).map_ok(Both::new)
    }

    fn opener(&self) -> Self::OpenStreams {
        Guarded(quic::Connection::<Bytes>::opener(&self.0))
    }
}

/// What is looked for in a stream.
enum Guard {
    /// The number that says what a one-way stream is; its first byte is enough.
    Kind,
    /// Frames.
    Frames(FrameGuard),
    /// Nothing but an end; so many bytes may come before.
    Other(usize),
}

impl Guard {
    /// Gives the length of the next piece.
    fn take(&mut self, input: &[u8]) -> Result<usize, StreamErrorIncoming> {
        let refuse = |error: Box<dyn std::error::Error + Send + Sync>| StreamErrorIncoming::Unknown(error);
        match self {
            Self::Kind => {
                let is_control = input.first() == Some(&0);
                *self = if is_control { Self::Frames(FrameGuard::default()) } else { Self::Other(MAX_OTHER) };
                Ok(1)
            }
            Self::Frames(guard) => guard.take(input).map_err(|fault| refuse(fault.into())),
            Self::Other(left) => {
                *left = left.checked_sub(input.len()).ok_or_else(|| refuse("a stream without use".into()))?;
                Ok(input.len())
            }
        }
    }
}

/// The incoming half of a stream.
pub(super) struct Incoming<S> {
    inner: S,
    guard: Guard,
    held: Bytes,
}

impl<S: quic::RecvStream<Buf = Bytes>> Incoming<S> {
    const fn new(inner: S, guard: Guard) -> Self {
        Self { inner, guard, held: Bytes::new() }
    }
}

impl<S: quic::RecvStream<Buf = Bytes>> quic::RecvStream for Incoming<S> {
    type Buf = Bytes;

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, StreamErrorIncoming>> {
        while self.held.is_empty() {
            match ready!(self.inner.poll_data(cx))? {
                Some(bytes) => self.held = bytes,
                None => return Poll::Ready(Ok(None)),
            }
        }
        let count = self.guard.take(&self.held)?;
        Poll::Ready(Ok(Some(self.held.split_to(count.min(self.held.len())))))
    }

    fn stop_sending(&mut self, error_code: u64) {
        self.inner.stop_sending(error_code);
    }

    fn recv_id(&self) -> StreamId {
        self.inner.recv_id()
    }
}

/// A stream in both directions.
pub(super) struct Both(Incoming<h3_quinn::BidiStream<Bytes>>);

impl Both {
    fn new(inner: h3_quinn::BidiStream<Bytes>) -> Self {
        Self(Incoming::new(inner, Guard::Frames(FrameGuard::default())))
    }
}

impl quic::RecvStream for Both {
    type Buf = Bytes;

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, StreamErrorIncoming>> {
        self.0.poll_data(cx)
    }

    fn stop_sending(&mut self, error_code: u64) {
        self.0.stop_sending(error_code);
    }

    fn recv_id(&self) -> StreamId {
        self.0.recv_id()
    }
}

impl quic::SendStream<Bytes> for Both {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        self.0.inner.poll_ready(cx)
    }

    fn send_data<T: Into<WriteBuf<Bytes>>>(&mut self, data: T) -> Result<(), StreamErrorIncoming> {
        self.0.inner.send_data(data)
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        self.0.inner.poll_finish(cx)
    }

    fn reset(&mut self, reset_code: u64) {
        self.0.inner.reset(reset_code);
    }

    fn send_id(&self) -> StreamId {
        self.0.inner.send_id()
    }
}

impl quic::BidiStream<Bytes> for Both {
    type SendStream = h3_quinn::SendStream<Bytes>;
    type RecvStream = Incoming<h3_quinn::RecvStream>;

    fn split(self) -> (Self::SendStream, Self::RecvStream) {
        let Incoming { inner, guard, held } = self.0;
        let (send, recv) = inner.split();
        (send, Incoming { inner: recv, guard, held })
    }
}
