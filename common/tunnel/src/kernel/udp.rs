//! UDP over the overlay by the kernel's own sockets.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};

use blueprint_common_types::OverlayLease;
use tokio::net::UdpSocket;
use tokio::sync::mpsc::Sender;

use super::own_of;
use crate::command::Command;
use crate::datagram::{OVERHEAD_V4, OVERHEAD_V6};
use crate::error::{ConnectError, ListenError, UdpError};
use crate::sys;

/// What both kinds of socket need to know.
#[derive(Debug)]
struct Common {
    mtu: usize,
    /// Closed once the engine has ended.
    engine: Sender<Command>,
}

impl Common {
    /// Longest datagram to an address.
    fn max(&self, to: SocketAddr) -> usize {
        self.mtu.saturating_sub(if to.is_ipv4() { OVERHEAD_V4 } else { OVERHEAD_V6 })
    }

    fn check_len(&self, data: &[u8], to: SocketAddr) -> Result<(), UdpError> {
        let (bytes, max) = (data.len(), self.max(to));
        if bytes > max { Err(UdpError::TooLong { bytes, max }) } else { Ok(()) }
    }

    async fn unless_stopped<T>(
        &self,
        work: impl Future<Output = io::Result<T>>,
    ) -> Result<io::Result<T>, UdpError> {
        tokio::select! {
            biased;
            () = self.engine.closed() => Err(UdpError::Stopped),
            result = work => Ok(result),
        }
    }

    /// What an error of sending means. A full queue of the device loses the datagram, as any queue on its way may.
    fn of_send(&self, error: &io::Error, data: &[u8], to: SocketAddr) -> Result<(), UdpError> {
        match error.raw_os_error() {
            Some(libc::EMSGSIZE) => Err(UdpError::TooLong { bytes: data.len(), max: self.max(to) }),
            Some(libc::ENOBUFS) => Ok(()),
            _ => Err(UdpError::NoRoute),
        }
    }
}

/// Opens a socket at one of our addresses; no datagram of it is ever cut into fragments.
fn open(ip: IpAddr, port: u16) -> io::Result<UdpSocket> {
    let socket = std::net::UdpSocket::bind(SocketAddr::new(ip, port))?;
    socket.set_nonblocking(true)?;
    sys::udp::never_fragment(&socket, ip.is_ipv6())?;
    UdpSocket::from_std(socket)
}

/// A port of both our overlay addresses.
#[derive(Debug)]
pub(crate) struct KernelSocket {
    own: OverlayLease,
    port: u16,
    v4: UdpSocket,
    /// Absent where the machine has no IPv6.
    v6: Option<UdpSocket>,
    common: Common,
}

impl KernelSocket {
    pub(crate) fn bind(
        own: &OverlayLease,
        port: u16,
        mtu: usize,
        engine: Sender<Command>,
    ) -> Result<Self, ListenError> {
        if port == 0 {
            return Err(ListenError::Zero);
        }
        let v4 = open(own.v4.into(), port).map_err(|_| ListenError::InUse { port })?;
        let v6 = match open(own.v6.into(), port) {
            Ok(socket) => Some(socket),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                return Err(ListenError::InUse { port });
            }
            Err(_) => None,
        };
        Ok(Self { own: *own, port, v4, v6, common: Common { mtu, engine } })
    }

    pub(crate) const fn port(&self) -> u16 {
        self.port
    }

    pub(crate) async fn send_to(&self, data: &[u8], to: SocketAddr) -> Result<(), UdpError> {
        self.common.check_len(data, to)?;
        let socket = if to.is_ipv4() { Some(&self.v4) } else { self.v6.as_ref() };
        let socket = socket.filter(|_| !self.own.contains(to.ip())).ok_or(UdpError::NoRoute)?;
        match self.common.unless_stopped(socket.send_to(data, to)).await? {
            Ok(_) => Ok(()),
            Err(error) => self.common.of_send(&error, data, to),
        }
    }

    pub(crate) async fn recv_from(&self, buffer: &mut [u8]) -> Result<(usize, SocketAddr), UdpError> {
        loop {
            // The socket takes no part in the scheduler's budget: who floods a port would keep its task running.
            tokio::task::coop::consume_budget().await;
            let arrival = async {
                let Some(v6) = &self.v6 else { return self.v4.readable().await.map(|()| &self.v4) };
                tokio::select! {
                    ready = self.v4.readable() => ready.map(|()| &self.v4),
                    ready = v6.readable() => ready.map(|()| v6),
                }
            };
            // Errors are those of datagrams sent before, which nobody asks about.
            let Ok(socket) = self.common.unless_stopped(arrival).await? else { continue };
            if let Ok(received) = socket.try_recv_from(buffer) {
                return Ok(received);
            }
        }
    }

    pub(crate) fn dropped(&self) -> u64 {
        let v6 = self.v6.as_ref().map_or(0, sys::udp::dropped);
        sys::udp::dropped(&self.v4).saturating_add(v6)
    }
}

/// A port of ours and one of a peer.
#[derive(Debug)]
pub(crate) struct KernelFlow {
    socket: UdpSocket,
    local: SocketAddr,
    remote: SocketAddr,
    /// A send was told that nobody listens, which is for the next receive.
    is_refused: AtomicBool,
    common: Common,
}

impl KernelFlow {
    pub(crate) async fn connect(
        own: &OverlayLease,
        remote: SocketAddr,
        mtu: usize,
        engine: Sender<Command>,
    ) -> Result<Self, ConnectError> {
        let socket = open(own_of(own, remote.ip()), 0).map_err(|error| super::of_connect(&error))?;
        socket.connect(remote).await.map_err(|error| super::of_connect(&error))?;
        let local = socket.local_addr().map_err(|error| super::of_connect(&error))?;
        Ok(Self { socket, local, remote, is_refused: AtomicBool::new(false), common: Common { mtu, engine } })
    }

    pub(crate) const fn local_addr(&self) -> SocketAddr {
        self.local
    }

    pub(crate) const fn peer_addr(&self) -> SocketAddr {
        self.remote
    }

    pub(crate) async fn send(&self, data: &[u8]) -> Result<(), UdpError> {
        self.common.check_len(data, self.remote)?;
        loop {
            match self.common.unless_stopped(self.socket.send(data)).await? {
                Ok(_) => return Ok(()),
                // What an earlier datagram met with; this one was not sent.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    self.is_refused.store(true, Ordering::Relaxed);
                }
                Err(error) => return self.common.of_send(&error, data, self.remote),
            }
        }
    }

    pub(crate) async fn recv(&self, buffer: &mut [u8]) -> Result<usize, UdpError> {
        loop {
            if self.is_refused.swap(false, Ordering::Relaxed) {
                return Err(UdpError::Refused);
            }
            match self.common.unless_stopped(self.socket.recv(buffer)).await? {
                Ok(count) => return Ok(count),
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    return Err(UdpError::Refused);
                }
                // Another complaint about a datagram sent before; each is reported once.
                Err(_) => tokio::task::yield_now().await,
            }
        }
    }

    pub(crate) fn dropped(&self) -> u64 {
        sys::udp::dropped(&self.socket)
    }
}
