//! Questions over TCP: a length of two bytes before each (RFC 1035, 4.2.2).

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{self, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use super::{Shared, Side};
use crate::message::{MAX_QUESTION, Room};

/// Connections at once, of all and of one address.
const CONNECTIONS: usize = 256;
const CONNECTIONS_OF_ONE: usize = 8;

/// Time for a question, and for its answer to be taken.
const PATIENCE: Duration = Duration::from_secs(5);

/// Questions on one connection.
const QUESTIONS: usize = 64;

/// Who has connections open.
#[derive(Debug, Default)]
pub(super) struct Seats {
    taken: Mutex<BTreeMap<IpAddr, usize>>,
}

impl Seats {
    /// Takes one; false where there is none left.
    fn take(&self, source: IpAddr) -> bool {
        let mut taken = self.taken.lock();
        let (all, own) = (taken.values().sum::<usize>(), taken.get(&source).copied().unwrap_or(0));
        let has_room = all < CONNECTIONS && own < CONNECTIONS_OF_ONE;
        if has_room {
            taken.insert(source, own.saturating_add(1));
        }
        has_room
    }

    fn give_back(&self, source: IpAddr) {
        let mut taken = self.taken.lock();
        match taken.get_mut(&source) {
            Some(own) if *own > 1 => *own = own.saturating_sub(1),
            _ => {
                taken.remove(&source);
            }
        }
    }
}

/// A seat that is given back when it is dropped, however its connection ends.
struct Seat {
    shared: Arc<Shared>,
    source: IpAddr,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.shared.seats.give_back(self.source);
    }
}

impl Shared {
    /// Serves one connection beside the others, or closes it where there are too many.
    pub(super) fn stream<S>(self: &Arc<Self>, stream: S, source: SocketAddr, side: Side)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        if !self.seats.take(source.ip()) {
            return self.metrics.query("too_many_connections");
        }
        let seat = Seat { shared: Arc::clone(self), source: source.ip() };
        self.spawner.spawn("dns connection", async move {
            // Whoever breaks off his own connection needs no word of it.
            let _ = seat.shared.questions(stream, source.ip(), side).await;
            drop(seat);
        });
    }

    async fn questions<S>(&self, mut stream: S, source: IpAddr, side: Side) -> io::Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        for _ in 0..QUESTIONS {
            let question = timeout(PATIENCE, read(&mut stream)).await??;
            let answer = {
                let snapshot = self.directory.snapshot();
                let asker = self.asker(&snapshot, source, side);
                asker.and_then(|asker| self.answer(&question, (asker, Room::Stream), &snapshot))
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
