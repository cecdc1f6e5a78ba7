//! Datagrams on a stream of bytes, each behind its length, and flows of them told apart by their source.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

/// Longest datagram in bytes.
pub const MAX_DATAGRAM: usize = 65_507;

/// Datagrams that wait for one flow; more are dropped, as a network does.
const QUEUE: usize = 64;

/// Bytes that wait for all flows of a socket; what would be more is dropped.
const HELD: usize = 4 << 20;

/// Something that datagrams go to and come from.
pub trait Datagrams: Send + Sync {
    /// Sends one.
    ///
    /// # Errors
    ///
    /// Those of the socket.
    fn send<'a>(&'a self, data: &'a [u8]) -> BoxFuture<'a, io::Result<()>>;

    /// The next one that came, into `buffer`; its length.
    ///
    /// # Errors
    ///
    /// Those of the socket.
    fn recv<'a>(&'a self, buffer: &'a mut [u8]) -> BoxFuture<'a, io::Result<usize>>;
}

/// A socket that is connected.
impl Datagrams for UdpSocket {
    fn send<'a>(&'a self, data: &'a [u8]) -> BoxFuture<'a, io::Result<()>> {
        async move { Self::send(self, data).await.map(drop) }.boxed()
    }

    fn recv<'a>(&'a self, buffer: &'a mut [u8]) -> BoxFuture<'a, io::Result<usize>> {
        Self::recv(self, buffer).boxed()
    }
}

/// Bytes that passed.
#[derive(Debug, Default)]
pub struct Passed {
    /// From the stream to the datagrams' side.
    pub up: AtomicU64,
    /// Back.
    pub down: AtomicU64,
}

/// Carries datagrams both ways until the stream ends, one side breaks, or nothing passes for `idle`.
///
/// # Cancel safety
///
/// Dropping it ends the flow.
pub async fn carry<S>(stream: S, datagrams: &dyn Datagrams, idle: Duration, passed: &Passed)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut reader, mut writer) = tokio::io::split(stream);
    let last = Mutex::new(Instant::now());
    let note = |counter: &AtomicU64, count: usize| {
        *last.lock() = Instant::now();
        counter.fetch_add(u64::try_from(count).unwrap_or(u64::MAX), Ordering::Relaxed);
    };
    let up = async {
        let mut buffer = vec![0; MAX_DATAGRAM];
        while let Ok(Some(count)) = read_one(&mut reader, &mut buffer).await {
            note(&passed.up, count);
            // One that nobody takes is lost, as in a network.
            let _ = datagrams.send(buffer.get(..count).unwrap_or_default()).await;
        }
    };
    let down = async {
        let mut buffer = vec![0; MAX_DATAGRAM];
        loop {
            match datagrams.recv(&mut buffer).await {
                Ok(count) => {
                    note(&passed.down, count);
                    if write_one(&mut writer, buffer.get(..count).unwrap_or_default()).await.is_err() {
                        return;
                    }
                }
                // What was sent came to a closed port.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                Err(_) => return,
            }
        }
    };
    let quiet = async {
        loop {
            let until = last.lock().checked_add(idle);
            match until.filter(|until| *until > Instant::now()) {
                Some(until) => sleep_until(until).await,
                None => return,
            }
        }
    };
    tokio::select! {
        () = up => {}
        () = down => {}
        () = quiet => {}
    }
}

async fn read_one<R: AsyncRead + Unpin>(reader: &mut R, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    let count = match reader.read_u16().await {
        Ok(count) => usize::from(count),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    };
    let place = buffer.get_mut(..count).ok_or_else(|| io::Error::other("a datagram is too long"))?;
    reader.read_exact(place).await?;
    Ok(Some(count))
}

async fn write_one<W: AsyncWrite + Unpin>(writer: &mut W, data: &[u8]) -> io::Result<()> {
    let length = u16::try_from(data.len()).map_err(io::Error::other)?;
    writer.write_all(&[&length.to_be_bytes()[..], data].concat()).await?;
    writer.flush().await
}

/// What waits for the flows of a socket.
#[derive(Debug, Default)]
struct Inboxes {
    senders: Mutex<BTreeMap<SocketAddr, mpsc::Sender<Vec<u8>>>>,
    held: AtomicUsize,
    dropped: AtomicU64,
}

impl Inboxes {
    /// Queues one; counts it where there is no room. Called with the lock of the senders.
    fn put(&self, sender: &mpsc::Sender<Vec<u8>>, data: Vec<u8>) {
        let count = data.len();
        let has_room = self.held.load(Ordering::Relaxed).saturating_add(count) <= HELD;
        // Before it can be taken out.
        self.held.fetch_add(count, Ordering::Relaxed);
        if !has_room || sender.try_send(data).is_err() {
            self.taken(count);
            self.drop_one();
        }
    }

    fn taken(&self, count: usize) {
        self.held.fetch_sub(count, Ordering::Relaxed);
    }

    fn drop_one(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }
}

/// A socket whose datagrams are told apart by their source.
#[derive(Debug)]
pub struct Flows {
    socket: Arc<UdpSocket>,
    inboxes: Arc<Inboxes>,
    most: usize,
    buffer: Vec<u8>,
}

/// The datagrams of one source; answers go back to it. It leaves the table when dropped.
#[derive(Debug)]
pub struct Flow {
    socket: Arc<UdpSocket>,
    from: SocketAddr,
    inboxes: Arc<Inboxes>,
    inbox: tokio::sync::Mutex<mpsc::Receiver<Vec<u8>>>,
}

impl Flows {
    /// Takes a bound socket; at most `most` sources at once, and what others send is dropped.
    #[must_use]
    pub fn new(socket: UdpSocket, most: usize) -> Self {
        Self { socket: Arc::new(socket), inboxes: Arc::default(), most, buffer: vec![0; MAX_DATAGRAM] }
    }

    /// Datagrams that were dropped, since there was no room for them or for their source.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.inboxes.dropped.load(Ordering::Relaxed)
    }

    /// The next new source; hands out meanwhile what comes from those that are known.
    ///
    /// # Errors
    ///
    /// Those of the socket.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing that was received.
    pub async fn next(&mut self) -> io::Result<Flow> {
        loop {
            let (count, from) = match self.socket.recv_from(&mut self.buffer).await {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
                Err(error) => return Err(error),
            };
            let data = self.buffer.get(..count).unwrap_or_default().to_vec();
            let mut senders = self.inboxes.senders.lock();
            if let Some(sender) = senders.get(&from) {
                self.inboxes.put(sender, data);
                continue;
            }
            if senders.len() >= self.most {
                self.inboxes.drop_one();
                continue;
            }
            let (sender, inbox) = mpsc::channel(QUEUE);
            self.inboxes.put(&sender, data);
            senders.insert(from, sender);
            drop(senders);
            return Ok(Flow {
                socket: Arc::clone(&self.socket),
                from,
                inboxes: Arc::clone(&self.inboxes),
                inbox: tokio::sync::Mutex::new(inbox),
            });
        }
    }
}

impl Datagrams for Flow {
    fn send<'a>(&'a self, data: &'a [u8]) -> BoxFuture<'a, io::Result<()>> {
        async move { self.socket.send_to(data, self.from).await.map(drop) }.boxed()
    }

    fn recv<'a>(&'a self, buffer: &'a mut [u8]) -> BoxFuture<'a, io::Result<usize>> {
        async move {
            let data = self.inbox.lock().await.recv().await;
            let data = data.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
            self.inboxes.taken(data.len());
            let place =
                buffer.get_mut(..data.len()).ok_or_else(|| io::Error::other("a datagram is too long"))?;
            place.copy_from_slice(&data);
            Ok(data.len())
        }
        .boxed()
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.inboxes.senders.lock().remove(&self.from);
        // Nothing comes in any more; what is there goes with it.
        while let Ok(data) = self.inbox.get_mut().try_recv() {
            self.inboxes.taken(data.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn bound() -> UdpSocket {
        UdpSocket::bind("127.0.0.1:0").await.unwrap()
    }

    #[tokio::test]
    async fn datagrams_keep_their_borders_and_go_back_to_whom_they_came_from() {
        let (listening, echo) = (bound().await, bound().await);
        let (place, echo_place) = (listening.local_addr().unwrap(), echo.local_addr().unwrap());
        let mut flows = Flows::new(listening, 2);
        let (near, far) = tokio::io::duplex(1000);
        let (client, target) = (bound().await, bound().await);
        client.connect(place).await.unwrap();
        target.connect(echo_place).await.unwrap();
        let idle = Duration::from_secs(10);
        let passed = [Passed::default(), Passed::default()];
        let work = async {
            let flow = flows.next().await.unwrap();
            let next = async { drop(flows.next().await) };
            tokio::join!(carry(near, &flow, idle, &passed[0]), carry(far, &target, idle, &passed[1]), next);
        };
        let serve = async {
            let mut buffer = vec![0; MAX_DATAGRAM];
            loop {
                let (count, from) = echo.recv_from(&mut buffer).await.unwrap();
                echo.send_to(&buffer[..count], from).await.unwrap();
            }
        };
        let ask = async {
            for size in [1, 0, 1400, 40_000] {
                client.send(&vec![7; size]).await.unwrap();
                let mut buffer = vec![0; MAX_DATAGRAM];
                assert_eq!(client.recv(&mut buffer).await.unwrap(), size);
            }
        };
        tokio::select! {
            () = ask => {}
            () = serve => unreachable!("it serves for ever"),
            () = work => unreachable!("nobody ended it"),
        }
        assert_eq!(passed[0].down.load(Ordering::Relaxed), 41_401);
    }

    #[tokio::test]
    async fn what_waits_is_bounded_by_its_bytes_and_given_back() {
        let mut flows = Flows::new(bound().await, 2);
        let place = flows.socket.local_addr().unwrap();
        let client = bound().await;
        client.send_to(&[1; 1000], place).await.unwrap();
        let flow = flows.next().await.unwrap();
        let inboxes = Arc::clone(&flows.inboxes);
        let held = || inboxes.held.load(Ordering::Relaxed);
        assert_eq!(held(), 1000);
        let put = |count: usize| {
            let senders = inboxes.senders.lock();
            inboxes.put(senders.values().next().unwrap(), vec![0; count]);
        };
        put(HELD - 1000);
        assert_eq!((held(), flows.dropped()), (HELD, 0));
        put(1);
        assert_eq!((held(), flows.dropped()), (HELD, 1));
        let mut buffer = vec![0; MAX_DATAGRAM];
        assert_eq!(flow.recv(&mut buffer).await.unwrap(), 1000);
        put(1);
        assert_eq!((held(), flows.dropped()), (HELD - 999, 1));
        drop(flow);
        assert_eq!(held(), 0);
    }

    #[tokio::test]
    async fn a_flow_that_is_silent_ends_and_leaves_the_table() {
        let mut flows = Flows::new(bound().await, 1);
        let place = flows.socket.local_addr().unwrap();
        let clients = [bound().await, bound().await];
        clients[0].send_to(b"a", place).await.unwrap();
        let flow = flows.next().await.unwrap();
        let (near, _far) = tokio::io::duplex(64);
        carry(near, &flow, Duration::from_millis(50), &Passed::default()).await;
        drop(flow);
        clients[1].send_to(b"b", place).await.unwrap();
        assert!(flows.next().await.is_ok(), "there is room again");
    }
}
