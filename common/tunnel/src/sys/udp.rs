//! A UDP socket of packet threads: runs of datagrams in one call, with the local address of each.
//!
//! Datagrams of one length to or from one address cross the kernel boundary together (`UDP_SEGMENT`,
//! `UDP_GRO`) where the kernel can do it; where it cannot, they go one by one.
//!
//! # Invariants
//!
//! - A thread that sends sees its stop flag within [`WAIT`], one that waits for datagrams when it is interrupted.
//! - No call allocates.
//! - What the network refuses is dropped and counted; only a broken socket is an error.
//! - Every datagram carries the "don't fragment" mark, and the kernel's idea of the path MTU is ignored:
//!   the tunnel measures the MTU itself, with its own authenticated packets, so that a forged ICMP message
//!   cannot shrink it. A datagram that is longer than the MTU of the interface is refused (`EMSGSIZE`).

#![expect(unsafe_code, reason = "sendmsg, recvmsg and socket options take raw pointers")]

use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use libc::{c_int, msghdr};
use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, Socket, Type};

use super::check;
use super::control::{Control, for_each, narrow};
use super::interrupt::{Entered, Interruptible};
use super::poll::wait_writable;

/// Longest time that a call waits for room.
pub(crate) const WAIT: Duration = Duration::from_millis(200);
/// Socket buffers asked for; smaller ones lose datagrams when several flows burst (measured 21 Nov: 8 MiB lose
/// none where 2 MiB do).
const SOCKET_BUFFER_BYTES: c_int = 8 << 20;
/// Bytes in one call: the payload of the largest datagram over IPv4 (65535 - 20 - 8).
const BUNDLE_BYTES: usize = 65_507;
/// Datagrams in one call (`UDP_MAX_SEGMENTS` of Linux before 6.9).
const BUNDLE_COUNT: usize = 64;
/// Refused bundles, without a success between them, after which none is tried any more.
const REFUSALS_MAX: u32 = 16;

/// What one call to [`UdpSocket::receive`] brought: datagrams of one sender, one behind the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Received {
    /// Bytes of all datagrams together.
    pub(crate) len: usize,
    /// Bytes from the start of one datagram to that of the next, at least 1; the last may be shorter.
    pub(crate) stride: usize,
    /// Who sent them; a mapped IPv4 address is given as IPv4.
    pub(crate) remote: SocketAddr,
    /// Which of our addresses they were sent to, where the kernel tells.
    pub(crate) local: Option<IpAddr>,
    /// The two bits of explicit congestion notification (RFC 3168, section 5).
    pub(crate) ecn: u8,
}

/// A bound UDP socket that many threads may use at once.
#[derive(Debug)]
pub(crate) struct UdpSocket {
    fd: OwnedFd,
    is_v6: bool,
    refusals: AtomicU32,
    /// Somebody else has the socket too, and made it non-blocking.
    is_shared: AtomicBool,
    reader: Interruptible,
}

/// Where datagrams of one call go to and come from.
struct Way {
    to: SockAddr,
    from: Option<IpAddr>,
    flags: c_int,
}

impl UdpSocket {
    /// Binds `listen`; an unspecified IPv6 address receives IPv4 too.
    ///
    /// With `reuse_port`, other sockets of this user may bind the same address, and the kernel spreads the
    /// senders over them.
    ///
    /// # Errors
    ///
    /// Those of creating and binding a socket; buffer sizes and offloads are best effort.
    pub(crate) fn bind(listen: SocketAddr, reuse_port: bool) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(listen), Type::DGRAM, Some(Protocol::UDP))?;
        if listen.is_ipv6() {
            socket.set_only_v6(!listen.ip().is_unspecified())?;
        }
        socket.set_write_timeout(Some(WAIT))?;
        if reuse_port {
            set_option(&socket, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)?;
        }
        enlarge_buffers(&socket);
        ask_for_details(&socket, listen.is_ipv6());
        socket.bind(&listen.into())?;
        Ok(Self {
            fd: socket.into(),
            is_v6: listen.is_ipv6(),
            refusals: AtomicU32::new(0),
            is_shared: AtomicBool::new(false),
            reader: Interruptible::new()?,
        })
    }

    /// A second handle of the socket, for a user that may make it non-blocking: from now on `wait` is kept by
    /// polling when sending, and [`Self::receive`] does not wait any more.
    ///
    /// # Errors
    ///
    /// Those of dup(2).
    pub(crate) fn share(&self) -> io::Result<std::net::UdpSocket> {
        self.is_shared.store(true, Ordering::Relaxed);
        Ok(self.fd.try_clone()?.into())
    }

    /// The address it is bound to, with the port that the kernel chose for port 0.
    ///
    /// # Errors
    ///
    /// Those of getsockname(2).
    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        let address =
            nix::sys::socket::getsockname::<nix::sys::socket::SockaddrStorage>(self.fd.as_raw_fd())?;
        let v4 = address.as_sockaddr_in().map(|v4| SocketAddr::from(*v4));
        let v6 = address.as_sockaddr_in6().map(|v6| SocketAddr::from(*v6));
        v4.or(v6).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Says that the calling thread is the one that waits here; [`Self::interrupt`] ends its waits while it holds this.
    pub(crate) fn enter(&self) -> Entered<'_> {
        self.reader.enter()
    }

    /// Ends the wait for datagrams that the reader is in, not one that it is about to begin; false where there is no
    /// reader any more.
    pub(crate) fn interrupt(&self) -> bool {
        self.reader.interrupt()
    }

    /// Takes what is there, or with `wait` what comes until [`Self::interrupt`]; `None` where that is nothing.
    ///
    /// `buffer` should hold 64 KiB: what does not fit is lost.
    ///
    /// # Errors
    ///
    /// Those of recvmsg(2) but `EAGAIN` and `EINTR`; the socket stays usable after most of them.
    pub(crate) fn receive(&self, buffer: &mut [u8], wait: bool) -> io::Result<Option<Received>> {
        let mut name = SockAddrStorage::zeroed();
        let mut control = Control::new();
        let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        let mut message = empty_message();
        message.msg_name = (&raw mut name).cast();
        message.msg_namelen = name.size_of();
        message.msg_iov = &raw mut part;
        message.msg_iovlen = narrow(1_usize);
        control.attach_room(&mut message);
        let flags = if wait { 0 } else { libc::MSG_DONTWAIT };
        let len = loop {
            // SAFETY: name, part, buffer and control live, unmoved and lent to nobody, until the call has returned.
            let result = unsafe { libc::recvmsg(self.fd.as_raw_fd(), &raw mut message, flags) };
            let Ok(len) = usize::try_from(result) else {
                let error = io::Error::last_os_error();
                match error.raw_os_error() {
                    // Nothing is said of whether something is there.
                    Some(libc::EINTR) if !wait => continue,
                    Some(libc::EAGAIN | libc::EINTR) => return Ok(None),
                    Some(_) | None => return Err(error),
                }
            };
            break len;
        };
        // SAFETY: recvmsg wrote an address of this length.
        let remote = unsafe { SockAddr::new(name, message.msg_namelen) }.as_socket();
        let remote = remote.map(canonical).ok_or(io::ErrorKind::InvalidData)?;
        let mut received = Received { len, stride: len.max(1), remote, local: None, ecn: 0 };
        // SAFETY: recvmsg set the length to what it wrote into `control`.
        unsafe { for_each(&message, |level, kind, data| received.note(level, kind, data)) };
        Ok(Some(received))
    }

    /// Sends `datagrams` as datagrams of `segment` bytes, the last of which may be shorter, and returns how many
    /// were dropped.
    ///
    /// They leave from the address `from`, where it is given, is of the family of `to` and is still ours.
    /// With `wait` a full socket is waited for, at most [`WAIT`]; without, it is a reason to drop. An IPv6
    /// destination cannot be reached through an IPv4 socket: all are dropped.
    ///
    /// # Errors
    ///
    /// `InvalidInput` where `segment` is 0, and what says that this is no usable socket (`EBADF`, `ENOTSOCK`,
    /// `EFAULT`, `EPIPE`).
    pub(crate) fn send(
        &self,
        datagrams: &[u8],
        segment: usize,
        to: SocketAddr,
        from: Option<IpAddr>,
        wait: bool,
    ) -> io::Result<usize> {
        if segment == 0 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let Some(target) = self.spell(to) else { return Ok(datagrams.len().div_ceil(segment)) };
        let from = from.map(|from| from.to_canonical());
        let from = from.filter(|from| from.is_ipv4() == to.ip().to_canonical().is_ipv4());
        let flags = if wait { libc::MSG_NOSIGNAL } else { libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT };
        let mut way = Way { to: target.into(), from, flags };
        let mut dropped = 0;
        for bundle in datagrams.chunks(bundle_bytes(segment)) {
            dropped += self.send_bundle(bundle, segment, &mut way)?;
        }
        Ok(dropped)
    }

    /// True while runs of datagrams go to the kernel in one call.
    pub(crate) fn has_bundles(&self) -> bool {
        self.refusals.load(Ordering::Relaxed) < REFUSALS_MAX
    }

    fn send_bundle(&self, bundle: &[u8], segment: usize, way: &mut Way) -> io::Result<usize> {
        if bundle.len() <= segment {
            return self.send_singly(bundle, segment, way);
        }
        if !self.has_bundles() {
            return self.send_singly(bundle, segment, way);
        }
        match self.send_from(bundle, segment, way) {
            Ok(()) => {
                self.note_success();
                Ok(0)
            }
            Err(error) if is_offload_refusal(&error) => {
                let dropped = self.send_singly(bundle, segment, way)?;
                // Where they do not go one by one either, bundling is not what is refused.
                if dropped == 0 {
                    self.refusals.fetch_add(1, Ordering::Relaxed);
                }
                Ok(dropped)
            }
            Err(error) => dropped_for(error, bundle.len().div_ceil(segment)),
        }
    }

    fn send_singly(&self, datagrams: &[u8], segment: usize, way: &mut Way) -> io::Result<usize> {
        let mut dropped = 0;
        for datagram in datagrams.chunks(segment) {
            if let Err(error) = self.send_from(datagram, segment, way) {
                dropped += dropped_for(error, 1)?;
            }
        }
        Ok(dropped)
    }

    /// Sends from the address of `way`, or, where that is refused, from any: it may be gone since the peer used it.
    fn send_from(&self, bundle: &[u8], segment: usize, way: &mut Way) -> io::Result<()> {
        let result = self.send_message(bundle, segment, way);
        let Err(error) = result else { return Ok(()) };
        let Some(from) = way.from.filter(|_| is_source_refusal(&error)) else { return Err(error) };
        way.from = None;
        let result = self.send_message(bundle, segment, way);
        if result.is_err() {
            way.from = Some(from);
        }
        result
    }

    fn send_message(&self, bundle: &[u8], segment: usize, way: &Way) -> io::Result<()> {
        let mut control = Control::new();
        if bundle.len() > segment {
            let segment = u16::try_from(segment).map_err(|_| io::ErrorKind::InvalidInput)?;
            control.push(libc::SOL_UDP, libc::UDP_SEGMENT, segment);
        }
        if let Some(from) = way.from {
            self.push_source(&mut control, from);
        }
        let mut part = libc::iovec { iov_base: bundle.as_ptr().cast_mut().cast(), iov_len: bundle.len() };
        let mut message = empty_message();
        message.msg_name = way.to.as_ptr().cast_mut().cast();
        message.msg_namelen = way.to.len();
        message.msg_iov = &raw mut part;
        message.msg_iovlen = narrow(1_usize);
        control.attach_pushed(&mut message);
        let mut flags = way.flags;
        loop {
            // SAFETY: address, part, bundle and control live and stay unchanged until the call has returned;
            // sendmsg only reads through these pointers.
            let result = unsafe { libc::sendmsg(self.fd.as_raw_fd(), &raw const message, flags) };
            if result >= 0 {
                return Ok(());
            }
            let error = io::Error::last_os_error();
            let waits = flags & libc::MSG_DONTWAIT == 0 && self.is_shared.load(Ordering::Relaxed);
            if waits && error.kind() == io::ErrorKind::WouldBlock && wait_writable(self.fd.as_fd(), WAIT)? {
                continue;
            }
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
            // Who is interrupted again and again would wait for ever.
            flags |= libc::MSG_DONTWAIT;
        }
    }

    fn push_source(&self, control: &mut Control, from: IpAddr) {
        match (from, self.is_v6) {
            (IpAddr::V4(from), false) => {
                let ours = libc::in_addr { s_addr: u32::from_ne_bytes(from.octets()) };
                let any = libc::in_addr { s_addr: 0 };
                let info = libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: ours, ipi_addr: any };
                control.push(libc::SOL_IP, libc::IP_PKTINFO, info);
            }
            (from, true) => {
                let address = match from {
                    IpAddr::V4(v4) => v4.to_ipv6_mapped(),
                    IpAddr::V6(v6) => v6,
                };
                let address = libc::in6_addr { s6_addr: address.octets() };
                let info = libc::in6_pktinfo { ipi6_addr: address, ipi6_ifindex: 0 };
                control.push(libc::SOL_IPV6, libc::IPV6_PKTINFO, info);
            }
            // Such a source never gets here: its destination has no spelling on this socket.
            (IpAddr::V6(_), false) => {}
        }
    }

    /// The address as this socket's family has to write it; `None` where it cannot reach it.
    fn spell(&self, to: SocketAddr) -> Option<SocketAddr> {
        match (canonical(to), self.is_v6) {
            (SocketAddr::V4(to), true) => {
                Some(SocketAddrV6::new(to.ip().to_ipv6_mapped(), to.port(), 0, 0).into())
            }
            (SocketAddr::V6(_), false) => None,
            (to @ SocketAddr::V4(_), false) | (to @ SocketAddr::V6(_), true) => Some(to),
        }
    }

    /// Forgets refusals after a bundle went, but not that bundling has ended.
    fn note_success(&self) {
        let refusals = self.refusals.load(Ordering::Relaxed);
        if refusals > 0 && refusals < REFUSALS_MAX {
            let _ = self.refusals.compare_exchange(refusals, 0, Ordering::Relaxed, Ordering::Relaxed);
        }
    }
}

impl AsFd for UdpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Received {
    /// Takes over what one control message says; what it does not know it leaves.
    fn note(&mut self, level: c_int, kind: c_int, data: &[u8]) {
        match (level, kind) {
            (libc::SOL_UDP, libc::UDP_GRO) => {
                let size = data.first_chunk().map_or(0, |bytes| c_int::from_ne_bytes(*bytes));
                if let Some(size) = usize::try_from(size).ok().filter(|size| *size > 0) {
                    self.stride = size;
                }
            }
            (libc::SOL_IP, libc::IP_PKTINFO) => {
                // struct in_pktinfo: the interface, the address to answer from, the one in the header.
                let address = data.get(4..).and_then(|rest| rest.first_chunk::<4>());
                self.local = address.map(|address| Ipv4Addr::from(*address).into()).filter(is_usable);
            }
            (libc::SOL_IPV6, libc::IPV6_PKTINFO) => {
                let address = data.first_chunk::<16>().map(|address| Ipv6Addr::from(*address));
                self.local = address.map(|address| IpAddr::from(address).to_canonical()).filter(is_usable);
            }
            (libc::SOL_IP, libc::IP_TOS) => self.ecn = data.first().map_or(0, |tos| tos & 0b11),
            (libc::SOL_IPV6, libc::IPV6_TCLASS) => {
                let class = data.first_chunk().map_or(0, |bytes| c_int::from_ne_bytes(*bytes));
                self.ecn = u8::try_from(class & 0b11).unwrap_or(0);
            }
            _ => {}
        }
    }
}

/// True for an address that an answer may come from.
fn is_usable(address: &IpAddr) -> bool {
    !address.is_unspecified() && !address.is_multicast()
}

/// Bytes of the largest bundle of such datagrams; at least one datagram.
fn bundle_bytes(segment: usize) -> usize {
    (BUNDLE_BYTES / segment).clamp(1, BUNDLE_COUNT).saturating_mul(segment)
}

/// A mapped IPv4 address as what it is.
fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        ip @ IpAddr::V4(_) => SocketAddr::new(ip, address.port()),
        IpAddr::V6(_) => address,
    }
}

/// `count` where the datagrams were lost to the network, the error where the socket is broken.
fn dropped_for(error: io::Error, count: usize) -> io::Result<usize> {
    match error.raw_os_error() {
        Some(libc::EBADF | libc::ENOTSOCK | libc::EFAULT | libc::EPIPE) => Err(error),
        Some(_) | None => Ok(count),
    }
}

/// True for what `UDP_SEGMENT` fails with where an ordinary datagram may still go (udp(7)).
fn is_offload_refusal(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EIO | libc::EINVAL | libc::EMSGSIZE | libc::EOPNOTSUPP | libc::ENOPROTOOPT)
    )
}

/// True for what a source address that is not ours any more fails with.
fn is_source_refusal(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENETUNREACH | libc::EADDRNOTAVAIL))
}

fn empty_message() -> msghdr {
    // SAFETY: all zeros is a valid header: null pointers with lengths of 0.
    unsafe { MaybeUninit::zeroed().assume_init() }
}

/// Asks for large buffers: first past the system's limit, which takes a capability, then up to it.
fn enlarge_buffers(socket: &Socket) {
    for (force, plain) in [(libc::SO_RCVBUFFORCE, libc::SO_RCVBUF), (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF)] {
        if set_option(socket, libc::SOL_SOCKET, force, SOCKET_BUFFER_BYTES).is_err() {
            let _ = set_option(socket, libc::SOL_SOCKET, plain, SOCKET_BUFFER_BYTES);
        }
    }
}

/// Asks for runs, local addresses and congestion marks, and for datagrams that nobody fragments.
///
/// Each is best effort: an old kernel without one of them still carries datagrams. IPv4 options also hold
/// for the IPv4 side of an IPv6 socket.
fn ask_for_details(socket: &Socket, is_v6: bool) {
    let common = [
        (libc::SOL_UDP, libc::UDP_GRO, 1),
        (libc::SOL_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE),
        (libc::SOL_IP, libc::IP_RECVTOS, 1),
    ];
    let v4 = [(libc::SOL_IP, libc::IP_PKTINFO, 1)];
    let v6 = [
        (libc::SOL_IPV6, libc::IPV6_RECVPKTINFO, 1),
        (libc::SOL_IPV6, libc::IPV6_RECVTCLASS, 1),
        (libc::SOL_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE),
    ];
    let own: &[_] = if is_v6 { &v6 } else { &v4 };
    for (level, name, value) in common.iter().chain(own) {
        let _ = set_option(socket, *level, *name, *value);
    }
}

/// Asks the kernel to refuse datagrams that it would have to fragment.
///
/// # Errors
///
/// Those of setsockopt(2).
pub(crate) fn never_fragment(socket: &impl AsFd, is_v6: bool) -> io::Result<()> {
    if is_v6 {
        set_option(socket, libc::SOL_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DO)
    } else {
        set_option(socket, libc::SOL_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DO)
    }
}

/// Datagrams that a socket's queue had no room for since it was made; 0 where the kernel does not tell.
pub(crate) fn dropped(socket: &impl AsFd) -> u64 {
    // `SK_MEMINFO_DROPS` is the last of nine (linux/sock_diag.h).
    let mut counts = [0_u32; 9];
    let mut size: libc::socklen_t = narrow(size_of_val(&counts));
    let (fd, to) = (socket.as_fd().as_raw_fd(), counts.as_mut_ptr());
    // SAFETY: the kernel writes at most `size` bytes of `counts`; both live until the call has returned.
    let result =
        unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_MEMINFO, to.cast(), &raw mut size) };
    let [.., drops] = counts;
    if result == 0 { drops.into() } else { 0 }
}

/// Sets an option whose value is an `int`.
fn set_option(socket: &impl AsFd, level: c_int, name: c_int, value: c_int) -> io::Result<()> {
    let fd = socket.as_fd().as_raw_fd();
    let size = narrow(size_of::<c_int>());
    // SAFETY: the kernel reads `size` bytes of `value`, which lives until the call has returned.
    check(unsafe { libc::setsockopt(fd, level, name, (&raw const value).cast(), size) })?;
    Ok(())
}

#[cfg(test)]
mod tests;
