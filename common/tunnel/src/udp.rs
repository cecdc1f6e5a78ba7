//! The UDP carrier: one socket, datagrams in and out in batches.
//!
//! Several datagrams of one length to or from one address cross the kernel boundary in one call
//! (`UDP_SEGMENT`, `UDP_GRO`) where the kernel can do it; where it cannot, one call carries one.
//! No error of the socket ends the carrier: what could not be sent is dropped and counted, as a
//! network would do it.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::os::fd::AsRawFd;

use blueprint_common_tunnel_core::Transmit;
use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt, sockopt,
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;

/// Socket buffers asked for; a burst of 256 KiB for each of several flows must not overrun them.
const SOCKET_BUFFER_BYTES: usize = 8 << 20;
/// Largest datagram, and largest bundle of them, that the kernel hands over.
const RECEIVE_BYTES: usize = 65_535;
/// Largest bundle sent: payload of the largest UDP datagram over IPv4 with some room for options.
const BUNDLE_BYTES: usize = 65_000;
/// Datagrams in one bundle (`UDP_MAX_SEGMENTS` of Linux before 6.9).
const BUNDLE_COUNT: usize = 64;
/// Datagrams that wait for the socket; beyond it the newest are dropped.
const OUTBOX_MAX: usize = 4096;

/// What went wrong since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct CarrierErrors {
    /// Datagrams dropped because the kernel refused them.
    pub(crate) send: u64,
    /// Datagrams dropped because too many waited for the socket.
    pub(crate) outbox_full: u64,
    /// Failed receive calls.
    pub(crate) receive: u64,
}

/// Outcome of one receive call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Received {
    /// So many datagrams came.
    Datagrams(usize),
    /// Nothing is there; the socket says when that changes.
    Nothing,
    /// The call failed; counted.
    Failed,
}

/// A bound UDP socket and the datagrams that wait for it.
#[derive(Debug)]
pub(crate) struct Carrier {
    socket: UdpSocket,
    is_v6: bool,
    bundles: Bundles,
    buffer: Vec<u8>,
    control: Vec<u8>,
    outbox: VecDeque<Transmit>,
    errors: CarrierErrors,
}

impl Carrier {
    /// Binds `listen`; an unspecified IPv6 address receives IPv4 too.
    ///
    /// # Errors
    ///
    /// Those of creating and binding a socket; buffer sizes and offloads are best effort.
    pub(crate) fn bind(listen: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(listen), Type::DGRAM, Some(Protocol::UDP))?;
        if listen.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        enlarge_buffers(&socket);
        socket.set_nonblocking(true)?;
        socket.bind(&listen.into())?;
        // Refused by kernels before 5.0: every datagram then comes alone.
        let _ = setsockopt(&socket, sockopt::UdpGroSegment, &true);
        Ok(Self {
            socket: UdpSocket::from_std(socket.into())?,
            is_v6: listen.is_ipv6(),
            bundles: Bundles::default(),
            buffer: vec![0; RECEIVE_BYTES],
            control: cmsg_space!(i32),
            outbox: VecDeque::new(),
            errors: CarrierErrors::default(),
        })
    }

    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    pub(crate) const fn errors(&self) -> CarrierErrors {
        self.errors
    }

    /// Hands everything that one receive call brings to `each`.
    pub(crate) fn receive(&mut self, mut each: impl FnMut(SocketAddr, &[u8])) -> Received {
        let Self { socket, buffer, control, .. } = self;
        let fd = socket.as_raw_fd();
        let call = || {
            let mut parts = [IoSliceMut::new(buffer)];
            let message = recvmsg::<SockaddrStorage>(fd, &mut parts, Some(control), MsgFlags::empty())?;
            let stride = message.cmsgs()?.find_map(stride_of).unwrap_or(message.bytes);
            Ok((message.address.and_then(|address| socket_addr(&address)), message.bytes, stride))
        };
        match socket.try_io(Interest::READABLE, call) {
            Ok((Some(from), length, stride)) => {
                let datagrams = self.buffer.get(..length).unwrap_or_default().chunks(stride.max(1));
                let count = datagrams.len();
                datagrams.for_each(|datagram| each(from, datagram));
                Received::Datagrams(count)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Received::Nothing,
            Ok((None, ..)) | Err(_) => {
                self.errors.receive += 1;
                Received::Failed
            }
        }
    }

    /// Adds a datagram to what [`Self::flush`] sends.
    pub(crate) fn enqueue(&mut self, transmit: Transmit) {
        if self.outbox.len() < OUTBOX_MAX {
            self.outbox.push_back(transmit);
        } else {
            self.errors.outbox_full += 1;
        }
    }

    /// Sends what waits until the socket takes no more; true where all of it is gone.
    ///
    /// Buffers that are no longer needed go to `recycle`.
    pub(crate) fn flush(&mut self, mut recycle: impl FnMut(Vec<u8>)) -> bool {
        while let Some(first) = self.outbox.front() {
            let count = if self.bundles.are_allowed() { self.bundle_len() } else { 1 };
            let Some(to) = self.reachable(first.to) else {
                self.outbox.pop_front();
                self.errors.send += 1;
                continue;
            };
            match self.send(to, count) {
                Ok(()) => {
                    self.outbox.drain(..count).for_each(|sent| recycle(sent.payload));
                    self.bundles.sent(count);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                Err(error) if count > 1 && is_offload_refusal(&error) => self.bundles.refused(count),
                Err(_) => {
                    self.outbox.drain(..count);
                    self.bundles.sent(1);
                    self.errors.send += u64::try_from(count).unwrap_or(0);
                }
            }
        }
        true
    }

    /// How many datagrams at the front may go as one bundle: equal lengths, the last may be shorter.
    fn bundle_len(&self) -> usize {
        let Some(first) = self.outbox.front() else { return 0 };
        let (size, mut total, mut count) = (first.payload.len(), 0, 0);
        for next in self.outbox.iter().take(BUNDLE_COUNT) {
            let length = next.payload.len();
            total += length;
            if next.to != first.to || length > size || total > BUNDLE_BYTES {
                break;
            }
            count += 1;
            if length < size {
                break;
            }
        }
        count.max(1)
    }

    fn send(&self, to: SockaddrStorage, count: usize) -> io::Result<()> {
        let mut parts = [IoSlice::new(&[]); BUNDLE_COUNT];
        for (part, transmit) in parts.iter_mut().zip(self.outbox.iter().take(count)) {
            *part = IoSlice::new(&transmit.payload);
        }
        let parts = parts.get(..count).unwrap_or_default();
        let size = parts.first().map_or(0, |part| part.len());
        let size = u16::try_from(size).map_err(|_| io::ErrorKind::InvalidInput)?;
        let segment = [ControlMessage::UdpGsoSegments(&size)];
        let control: &[ControlMessage<'_>] = if count > 1 { &segment } else { &[] };
        let fd = self.socket.as_raw_fd();
        self.socket.try_io(Interest::WRITABLE, || {
            sendmsg(fd, parts, control, MsgFlags::empty(), Some(&to))?;
            Ok(())
        })
    }

    /// The address as this socket's family has to spell it; `None` where it cannot reach it.
    fn reachable(&self, to: SocketAddr) -> Option<SockaddrStorage> {
        match (to, self.is_v6) {
            (SocketAddr::V4(to), false) => Some(to.into()),
            (SocketAddr::V6(to), true) => Some(to.into()),
            (SocketAddr::V4(to), true) => {
                Some(SocketAddrV6::new(to.ip().to_ipv6_mapped(), to.port(), 0, 0).into())
            }
            (SocketAddr::V6(_), false) => None,
        }
    }

    /// Returns once a receive call may bring something.
    ///
    /// # Cancel safety
    ///
    /// Dropping it loses nothing.
    pub(crate) async fn readable(&self) {
        // It fails only where the runtime is shutting down, which drops the engine anyway.
        if self.socket.readable().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Returns once the socket may take a datagram.
    ///
    /// # Cancel safety
    ///
    /// Dropping it loses nothing.
    pub(crate) async fn writable(&self) {
        if self.socket.writable().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Whether datagrams go in bundles.
///
/// A bundle that is refused goes one by one: the way to one peer may be narrower than the others'
/// (`EINVAL` where a segment exceeds its MTU). Only a kernel or device that refuses again and again
/// is not asked any more.
#[derive(Debug, Default)]
struct Bundles {
    singles: usize,
    refusals: u32,
}

impl Bundles {
    /// Refusals without a success between them after which bundles end for good.
    const REFUSALS_MAX: u32 = 16;

    const fn are_allowed(&self) -> bool {
        self.singles == 0 && self.refusals < Self::REFUSALS_MAX
    }

    const fn refused(&mut self, count: usize) {
        self.singles = count;
        self.refusals += 1;
    }

    const fn sent(&mut self, count: usize) {
        self.singles = self.singles.saturating_sub(count);
        if count > 1 {
            self.refusals = 0;
        }
    }
}

/// True for what `UDP_SEGMENT` fails with where an ordinary datagram may still go (udp(7)).
fn is_offload_refusal(error: &io::Error) -> bool {
    let refusals = [Errno::EIO, Errno::EINVAL, Errno::EMSGSIZE, Errno::EOPNOTSUPP, Errno::ENOPROTOOPT];
    error.raw_os_error().is_some_and(|code| refusals.contains(&Errno::from_raw(code)))
}

/// Asks for large buffers: first past the system's limit, which takes a capability, then up to it.
fn enlarge_buffers(socket: &Socket) {
    if setsockopt(socket, sockopt::RcvBufForce, &SOCKET_BUFFER_BYTES).is_err() {
        let _ = socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES);
    }
    if setsockopt(socket, sockopt::SndBufForce, &SOCKET_BUFFER_BYTES).is_err() {
        let _ = socket.set_send_buffer_size(SOCKET_BUFFER_BYTES);
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "an enum of nix with a variant per kernel feature")]
fn stride_of(message: ControlMessageOwned) -> Option<usize> {
    match message {
        ControlMessageOwned::UdpGroSegments(size) => usize::try_from(size).ok().filter(|size| *size > 0),
        _ => None,
    }
}

/// The sender's address, with a mapped IPv4 address as what it is.
fn socket_addr(address: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| SocketAddr::from(*v4));
    let address = v4.or_else(|| address.as_sockaddr_in6().map(|v6| SocketAddr::from(*v6)))?;
    match address.ip().to_canonical() {
        ip @ IpAddr::V4(_) => Some(SocketAddr::new(ip, address.port())),
        IpAddr::V6(_) => Some(address),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn transmit(to: SocketAddr, length: usize) -> Transmit {
        Transmit { to, payload: vec![u8::try_from(length % 251).unwrap(); length] }
    }

    /// Sends datagrams of these lengths and returns those that arrive.
    async fn carry(from: &mut Carrier, to: &mut Carrier, at: SocketAddr, lengths: &[usize]) -> Vec<usize> {
        for length in lengths {
            from.enqueue(transmit(at, *length));
        }
        from.writable().await;
        assert!(from.flush(drop));
        let mut received = Vec::new();
        let receive = async {
            while received.len() < lengths.len() {
                to.readable().await;
                to.receive(|_, datagram| {
                    assert_eq!(datagram, transmit(at, datagram.len()).payload);
                    received.push(datagram.len());
                });
            }
        };
        tokio::time::timeout(Duration::from_secs(20), receive).await.unwrap();
        received
    }

    #[tokio::test]
    async fn datagrams_of_any_lengths_arrive_as_they_were_sent() {
        let mut from = Carrier::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let mut to = Carrier::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let at = to.local_addr().unwrap();
        let mut lengths = vec![1452; 150];
        lengths.extend([40, 40, 1452, 1452, 9, 1, 2000, 2000, 1999, 2000]);
        assert_eq!(carry(&mut from, &mut to, at, &lengths).await, lengths);

        // Without bundles it is the same, only slower.
        from.bundles.refusals = Bundles::REFUSALS_MAX;
        assert_eq!(carry(&mut from, &mut to, at, &lengths).await, lengths);
        assert_eq!(from.errors(), CarrierErrors::default());
    }

    #[tokio::test]
    async fn a_bundle_ends_at_another_address_or_after_a_shorter_datagram() {
        let mut carrier = Carrier::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let (here, there) = ("127.0.0.1:9".parse().unwrap(), "127.0.0.2:9".parse().unwrap());
        let mut check = |datagrams: &[(SocketAddr, usize)], expected: usize| {
            carrier.outbox = datagrams.iter().map(|(to, length)| transmit(*to, *length)).collect();
            assert_eq!(carrier.bundle_len(), expected, "{datagrams:?}");
        };
        check(&[(here, 100), (here, 100), (there, 100)], 2);
        check(&[(here, 100), (here, 60), (here, 60)], 2);
        check(&[(here, 60), (here, 100)], 1);
        check(&[(here, 100); 80], BUNDLE_COUNT);
        check(&[(here, 1452); 64], BUNDLE_BYTES / 1452);
        check(&[], 0);
    }

    #[tokio::test]
    async fn what_cannot_be_sent_is_counted_and_the_rest_goes() {
        let mut from = Carrier::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let mut to = Carrier::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let at = to.local_addr().unwrap();
        from.enqueue(transmit("[::1]:9".parse().unwrap(), 10));
        from.enqueue(transmit(at, 65_530));
        assert_eq!(carry(&mut from, &mut to, at, &[10]).await, [10]);
        assert_eq!(from.errors().send, 2);
    }

    #[test]
    fn a_refused_bundle_does_not_end_bundles_for_everybody() {
        let mut bundles = Bundles::default();
        bundles.refused(2);
        assert!(!bundles.are_allowed());
        bundles.sent(1);
        bundles.sent(1);
        assert!(bundles.are_allowed());
        for _ in 0..Bundles::REFUSALS_MAX {
            bundles.refused(0);
        }
        assert!(!bundles.are_allowed());
    }
}
