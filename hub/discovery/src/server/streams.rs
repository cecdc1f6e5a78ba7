//! Questions over TCP: a length of two bytes before each (RFC 1035, 4.2.2).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use blueprint_common_runtime::places::{Place, Places};
use tokio::io::{self, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::{Shared, Side};
use crate::message::{MAX_QUESTION, Room};
use crate::zone::Asker;

/// Connections at once of all, and of one asker.
const CONNECTIONS: usize = 256;
const CONNECTIONS_OF_ONE: u32 = 8;

/// Time for a question, and for its answer to be taken.
const PATIENCE: Duration = Duration::from_secs(5);

/// Questions on one connection.
const QUESTIONS: usize = 64;

/// Who has connections open. Those of one side do not take those of the other.
#[derive(Debug)]
pub(super) struct Seats {
    all: Arc<Semaphore>,
    each: Arc<Places<Asker>>,
}

impl Default for Seats {
    fn default() -> Self {
        Self { all: Arc::new(Semaphore::new(CONNECTIONS)), each: Places::new(CONNECTIONS_OF_ONE) }
    }
}

impl Seats {
    /// Takes a seat, until what is given is dropped; `None` where there is none left.
    fn take(&self, asker: Asker) -> Option<(OwnedSemaphorePermit, Place<Asker>)> {
        Some((Arc::clone(&self.all).try_acquire_owned().ok()?, self.each.begin(asker)?))
    }
}

impl Shared {
    /// Serves one connection beside the others, or closes it where there are too many.
    pub(super) fn stream<S>(self: &Arc<Self>, stream: S, source: SocketAddr, side: Side)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let Some(asker) = self.asker(&self.directory.snapshot(), source.ip(), side) else { return };
        let seats = if side == Side::Local { &self.local_seats } else { &self.seats };
        let Some(seat) = seats.take(asker) else {
            return self.metrics.query("too_many_connections");
        };
        let shared = Arc::clone(self);
        // What is asked while the hub drains is answered; the grace does not wait for who asks.
        self.spawner.spawn_base("dns connection", async move {
            // Whoever breaks off his own connection needs no word of it.
            let _ = shared.questions(stream, asker).await;
            drop(seat);
        });
    }

    async fn questions<S>(&self, mut stream: S, asker: Asker) -> io::Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        for _ in 0..QUESTIONS {
            let question = timeout(PATIENCE, read(&mut stream)).await??;
            let answer = {
                let snapshot = self.directory.snapshot();
                self.answer(&question, (asker, Room::Stream), &snapshot)
            };
            let Some(answer) = answer else { break };
            timeout(PATIENCE, write(&mut stream, &answer)).await??;
        }
        stream.shutdown().await
    }
}

async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let length = usize::from(stream.read_u16().await?);
    if length > MAX_QUESTION {
        return Err(io::Error::other("the question is too long"));
    }
    let mut question = vec![0; length];
    stream.read_exact(&mut question).await?;
    Ok(question)
}

async fn write(stream: &mut (impl AsyncWrite + Unpin), answer: &[u8]) -> io::Result<()> {
    let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
    let mut framed = length.to_be_bytes().to_vec();
    framed.extend_from_slice(answer);
    stream.write_all(&framed).await?;
    stream.flush().await
}
