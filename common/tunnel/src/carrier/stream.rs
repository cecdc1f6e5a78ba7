//! A link over a byte stream, usually TLS on TCP 443.
//!
//! TCP inside TCP piles up what the outer connection repeats, so everything between the engine and
//! the network is kept short: the outbox, the socket ([`tune`]), and nothing waits for anything else.
//! What does not fit is lost, which is what tells the inner flows to slow down.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::CarrierError;
use super::frame::{DATAGRAM_MAX, Decoder, KEEPALIVE};
use super::outbox::Outbox;
use crate::links::{BATCH_BYTES_MAX, Batch, LinkIngress};

/// How long nothing is sent before a keepalive is.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(10);
/// How long nothing comes before the link counts as dead: three keepalives fit in it.
const SILENT_AFTER: Duration = Duration::from_secs(30);
/// What one read call asks for.
const CHUNK_BYTES: usize = 64 << 10;
/// Bytes that the kernel holds unsent before it says that the socket is full: 1 ms at 1 Gbit/s.
const UNSENT_BYTES: u32 = 128 << 10;

/// Makes the sink of a link and the pump that carries it over a stream.
///
/// At most `capacity_bytes` wait beside as many that are being written; 256 KiB to 1 MiB keep a
/// link busy without adding more than a few milliseconds to it.
pub fn stream_sink(capacity_bytes: usize) -> (Arc<Outbox>, StreamPump) {
    let outbox = Arc::new(Outbox::new(capacity_bytes, DATAGRAM_MAX));
    (Arc::clone(&outbox), StreamPump { outbox })
}

/// Prepares the socket below a TLS stream: no delay of small writes, and little unsent in the kernel.
///
/// # Errors
///
/// Those of setting options; a kernel that lacks one of the optional ones is no error.
pub fn tune(socket: &TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let socket = SockRef::from(socket);
    // Best effort: without them the link works, with more delay under load and a later end.
    let _ = socket.set_tcp_notsent_lowat(UNSENT_BYTES);
    let _ = socket.set_tcp_user_timeout(Some(SILENT_AFTER));
    Ok(())
}

/// Carries one link over one stream.
#[derive(Debug)]
pub struct StreamPump {
    outbox: Arc<Outbox>,
}

impl StreamPump {
    /// Runs the link over `io`, whose handshake is done, until `stop` or until it fails.
    ///
    /// # Errors
    ///
    /// Every end but the one by `stop`.
    ///
    /// # Cancel safety
    ///
    /// Dropping it ends the link: the sink drops everything from then on.
    pub async fn run<IO, I>(self, io: IO, mut ingress: I, stop: CancellationToken) -> Result<(), CarrierError>
    where
        IO: AsyncRead + AsyncWrite,
        I: LinkIngress,
    {
        let (reader, writer) = tokio::io::split(io);
        tokio::select! {
            biased;
            () = stop.cancelled() => Ok(()),
            end = read(reader, &mut ingress) => end,
            end = write(writer, &self.outbox) => end,
        }
    }
}

impl Drop for StreamPump {
    fn drop(&mut self) {
        self.outbox.close();
    }
}

/// Writes what waits, a whole buffer at a time.
async fn write<IO: AsyncWrite>(mut writer: WriteHalf<IO>, outbox: &Outbox) -> Result<(), CarrierError> {
    let mut buffer = Vec::new();
    loop {
        if outbox.swap(&mut buffer) {
            send(&mut writer, &buffer).await?;
        } else if timeout(KEEPALIVE_AFTER, outbox.ready()).await.is_err() {
            // A quiet link gives its memory back.
            buffer = Vec::new();
            send(&mut writer, &KEEPALIVE).await?;
        }
    }
}

async fn send<IO: AsyncWrite>(writer: &mut WriteHalf<IO>, frames: &[u8]) -> Result<(), CarrierError> {
    writer.write_all(frames).await.map_err(ended)?;
    writer.flush().await.map_err(ended)
}

/// Hands every datagram that comes to `ingress`.
async fn read<IO, I>(reader: ReadHalf<IO>, ingress: &mut I) -> Result<(), CarrierError>
where
    IO: AsyncRead,
    I: LinkIngress,
{
    let mut reader = Reader {
        io: reader,
        chunk: vec![0; CHUNK_BYTES].into_boxed_slice(),
        decoder: Decoder::default(),
        batch: Batch::with_capacity(BATCH_BYTES_MAX),
    };
    loop {
        let fill = poll_fn(|context| reader.poll_fill(context, ingress));
        timeout(SILENT_AFTER, fill).await.map_err(|_| CarrierError::Silent)??;
        // A stream that is always ready must not keep the other half waiting.
        tokio::task::consume_budget().await;
    }
}

struct Reader<IO> {
    io: ReadHalf<IO>,
    chunk: Box<[u8]>,
    decoder: Decoder,
    batch: Batch,
}

impl<IO: AsyncRead> Reader<IO> {
    /// Reads until nothing is there or a batch is full, and delivers it.
    fn poll_fill(
        &mut self,
        context: &mut Context<'_>,
        ingress: &mut impl LinkIngress,
    ) -> Poll<Result<(), CarrierError>> {
        let mut has_read = false;
        loop {
            let mut chunk = ReadBuf::new(&mut self.chunk);
            match Pin::new(&mut self.io).poll_read(context, &mut chunk) {
                Poll::Ready(Ok(())) if chunk.filled().is_empty() => {
                    return Poll::Ready(Err(CarrierError::Closed));
                }
                Poll::Ready(Ok(())) => has_read = true,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(ended(error))),
                Poll::Pending => {
                    deliver(&mut self.batch, ingress);
                    return if has_read { Poll::Ready(Ok(())) } else { Poll::Pending };
                }
            }
            let mut rest = chunk.filled();
            let mut has_delivered = false;
            loop {
                rest = self.decoder.decode(rest, &mut self.batch)?;
                if rest.is_empty() {
                    break;
                }
                deliver(&mut self.batch, ingress);
                has_delivered = true;
            }
            if has_delivered {
                deliver(&mut self.batch, ingress);
                return Poll::Ready(Ok(()));
            }
        }
    }
}

fn deliver(batch: &mut Batch, ingress: &mut impl LinkIngress) {
    if !batch.is_empty() {
        ingress.receive(batch);
        batch.clear();
    }
}

/// A TLS stream that ends without saying so was closed as much as one that said it: nothing in a
/// link depends on having come to an end.
fn ended(error: io::Error) -> CarrierError {
    const CLOSED: [io::ErrorKind; 3] =
        [io::ErrorKind::UnexpectedEof, io::ErrorKind::ConnectionReset, io::ErrorKind::BrokenPipe];
    if CLOSED.contains(&error.kind()) { CarrierError::Closed } else { CarrierError::Stream(error) }
}
