//! One connection that carries one link.

use std::collections::VecDeque;
use std::mem;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use quinn::{Connection, ConnectionError, SendDatagramError, VarInt};
use rustls_pki_types::CertificateDer;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::QuicError;
use super::drivers::Drivers;
use crate::carrier::CarrierError;
use crate::carrier::frame;
use crate::carrier::outbox::Outbox;
use crate::links::{BATCH_BYTES_MAX, Batch, LinkIngress};

/// Frames that wait for the link's task.
const OUTBOX_BYTES: usize = 512 << 10;
/// Buffers kept for reuse: one is filled, one is sent, and one is held by a packet being built.
const SPENT_MAX: usize = 4;
/// What quinn counts for a datagram in its send buffer beside the bytes.
const DATAGRAM_OVERHEAD_BYTES: usize = size_of::<Bytes>();
/// How often a quiet link looks for a changed MTU: often while the search for it runs (tens of round
/// trips), rarely later.
const MTU_SOON: Duration = Duration::from_millis(50);
const MTU_LATER: Duration = Duration::from_secs(5);
/// Looks at the MTU before a quiet link counts as settled.
const MTU_LOOKS: u32 = 60;

/// An established connection.
#[derive(Debug)]
pub struct QuicLink {
    connection: Connection,
    outbox: Arc<Outbox>,
    drivers: Drivers,
}

impl QuicLink {
    pub(super) fn new(connection: Connection, drivers: Drivers) -> Result<Self, QuicError> {
        let max = connection.max_datagram_size().ok_or(QuicError::NoDatagrams)?;
        let outbox = Arc::new(Outbox::new(OUTBOX_BYTES, max));
        Ok(Self { connection, outbox, drivers })
    }

    /// The sink of the link. It takes datagrams at once; [`Self::run`] carries them, and all else that the connection needs.
    pub fn sink(&self) -> Arc<Outbox> {
        Arc::clone(&self.outbox)
    }

    /// The other end's address at present; it may change while the link runs.
    pub fn remote(&self) -> SocketAddr {
        let remote = self.connection.remote_address();
        SocketAddr::new(remote.ip().to_canonical(), remote.port())
    }

    /// The address that the other end sends to, where the system tells.
    pub fn local_ip(&self) -> Option<IpAddr> {
        self.connection.local_ip().map(|ip| ip.to_canonical())
    }

    /// The other end's certificate chain, its own first.
    pub fn peer_certificates(&self) -> Vec<CertificateDer<'static>> {
        let identity = self.connection.peer_identity();
        identity.and_then(|chain| chain.downcast().ok()).map(|chain| *chain).unwrap_or_default()
    }

    /// The smoothed round-trip time of the path.
    pub fn rtt(&self) -> Duration {
        self.connection.rtt()
    }

    /// Runs the link until `stop` or until it fails, on the thread of its endpoint.
    ///
    /// # Errors
    ///
    /// Every end but the one by `stop`.
    ///
    /// # Cancel safety
    ///
    /// Dropping it ends the link: the sink drops everything from then on.
    pub async fn run<I: LinkIngress + 'static>(
        self,
        ingress: I,
        stop: CancellationToken,
    ) -> Result<(), CarrierError> {
        let thread = Arc::clone(self.drivers.thread());
        let mut task = Task(thread.handle().spawn(self.carry(ingress, stop)));
        // It does not panic, and ends early only with its thread.
        (&mut task.0).await.unwrap_or(Err(CarrierError::Closed))
    }

    async fn carry(
        mut self,
        mut ingress: impl LinkIngress,
        stop: CancellationToken,
    ) -> Result<(), CarrierError> {
        let (connection, outbox) = (&self.connection, &*self.outbox);
        let work = async {
            tokio::select! {
                biased;
                () = stop.cancelled() => Ok(()),
                end = receive(connection, &mut ingress) => end,
                end = transmit(connection, outbox) => end,
            }
        };
        self.drivers.beside(|| Some(connection.remote_address()), work).await
    }
}

/// A task that ends with its handle.
struct Task<T>(JoinHandle<T>);

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Drop for QuicLink {
    fn drop(&mut self) {
        self.outbox.close();
        self.connection.close(VarInt::from(0_u8), b"");
    }
}

/// Hands every datagram that comes to `ingress`, in as few batches as possible.
async fn receive(connection: &Connection, ingress: &mut impl LinkIngress) -> Result<(), CarrierError> {
    let mut batch = Batch::with_capacity(BATCH_BYTES_MAX);
    loop {
        let mut next = Some(connection.read_datagram().await);
        while let Some(datagram) = next {
            let datagram = datagram.map_err(ended)?;
            if !batch.push(&datagram) {
                ingress.receive(&mut batch);
                batch.clear();
                batch.push(&datagram);
            }
            next = connection.read_datagram().now_or_never();
        }
        if !batch.is_empty() {
            ingress.receive(&mut batch);
            batch.clear();
        }
        tokio::task::consume_budget().await;
    }
}

/// Hands what waits to the connection, and waits where that has no room.
async fn transmit(connection: &Connection, outbox: &Outbox) -> Result<(), CarrierError> {
    let mut looks = 0;
    let mut spent = Spent::default();
    let mut frames = Vec::new();
    loop {
        if frames.capacity() == 0 {
            frames = spent.reuse();
        }
        let has_frames = outbox.swap(&mut frames);
        outbox.set_max_datagram(connection.max_datagram_size().unwrap_or(0));
        if has_frames {
            let frames = Bytes::from(mem::take(&mut frames));
            spent.add(frames.clone());
            send(connection, outbox, frames).await?;
            continue;
        }
        let pause = if looks < MTU_LOOKS { MTU_SOON } else { MTU_LATER };
        if timeout(pause, outbox.ready()).await.is_err() {
            looks += 1;
            // A quiet link gives its memory back.
            spent = Spent::default();
            frames = Vec::new();
        }
    }
}

/// Buffers whose datagrams quinn may still hold, oldest first, to be used again once it does not: a
/// fresh one for each would spend more on page faults than on copying.
#[derive(Debug, Default)]
struct Spent(VecDeque<Bytes>);

impl Spent {
    fn add(&mut self, frames: Bytes) {
        if self.0.len() == SPENT_MAX {
            self.0.pop_front();
        }
        self.0.push_back(frames);
    }

    /// An empty buffer, with the memory of one that is no longer in use where there is one.
    fn reuse(&mut self) -> Vec<u8> {
        match self.0.pop_front_if(|frames| frames.is_unique()) {
            Some(mut frames) => {
                frames.truncate(0);
                frames.into()
            }
            None => Vec::new(),
        }
    }
}

async fn send(connection: &Connection, outbox: &Outbox, mut frames: Bytes) -> Result<(), CarrierError> {
    let mut space = connection.datagram_send_buffer_space();
    while let Ok(Some((datagram, _))) = frame::split(&frames) {
        let length = datagram.len();
        let datagram = frames.slice(frame::HEAD..frame::HEAD + length);
        let _ = frames.split_to(frame::HEAD + length);
        let sent = if let Some(left) = space.checked_sub(length + DATAGRAM_OVERHEAD_BYTES) {
            space = left;
            connection.send_datagram(datagram)
        } else {
            let sent = connection.send_datagram_wait(datagram).await;
            space = connection.datagram_send_buffer_space();
            sent
        };
        match sent {
            Ok(()) => {}
            // The path has become narrower since the engine asked.
            Err(SendDatagramError::TooLarge) => outbox.drop_taken(1),
            Err(SendDatagramError::ConnectionLost(error)) => return Err(ended(error)),
            Err(SendDatagramError::UnsupportedByPeer | SendDatagramError::Disabled) => {
                return Err(CarrierError::Closed);
            }
        }
    }
    Ok(())
}

fn ended(error: ConnectionError) -> CarrierError {
    match error {
        ConnectionError::TimedOut => CarrierError::Silent,
        ConnectionError::ApplicationClosed(_) | ConnectionError::LocallyClosed | ConnectionError::Reset => {
            CarrierError::Closed
        }
        ConnectionError::VersionMismatch
        | ConnectionError::TransportError(_)
        | ConnectionError::ConnectionClosed(_)
        | ConnectionError::CidsExhausted => CarrierError::Quic(error),
    }
}
