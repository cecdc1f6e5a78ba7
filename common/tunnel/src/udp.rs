//! UDP over the overlay, whoever drives it.

use std::net::SocketAddr;

use crate::datagram::{PortFlow, PortSocket};
use crate::error::UdpError;
use crate::kernel::{KernelFlow, KernelSocket};

/// A UDP port of both our overlay addresses. Dropping it closes the port.
#[derive(Debug)]
pub struct UdpSocket {
    inner: SocketEnd,
}

/// Who drives a bound port.
#[derive(Debug)]
enum SocketEnd {
    /// The stack in this process.
    Netstack(PortSocket),
    /// The kernel, through its network device.
    Kernel(KernelSocket),
}

impl From<PortSocket> for UdpSocket {
    fn from(socket: PortSocket) -> Self {
        Self { inner: SocketEnd::Netstack(socket) }
    }
}

impl From<KernelSocket> for UdpSocket {
    fn from(socket: KernelSocket) -> Self {
        Self { inner: SocketEnd::Kernel(socket) }
    }
}

impl UdpSocket {
    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        match &self.inner {
            SocketEnd::Netstack(socket) => socket.port(),
            SocketEnd::Kernel(socket) => socket.port(),
        }
    }

    /// Sends a datagram; waits while the queue is full, which holds 1024 datagrams or 256 KiB in this process.
    ///
    /// That it was sent does not say that it arrives.
    ///
    /// # Errors
    ///
    /// [`UdpError::TooLong`], [`UdpError::NoRoute`] for our own addresses, [`UdpError::Stopped`].
    ///
    /// # Cancel safety
    ///
    /// Dropping it sends nothing.
    pub async fn send_to(&self, data: &[u8], to: SocketAddr) -> Result<(), UdpError> {
        match &self.inner {
            SocketEnd::Netstack(socket) => socket.send_to(data, to).await,
            SocketEnd::Kernel(socket) => socket.send_to(data, to).await,
        }
    }

    /// The next datagram and who sent it. What does not fit `buffer` is cut off.
    ///
    /// # Errors
    ///
    /// [`UdpError::Stopped`].
    ///
    /// # Cancel safety
    ///
    /// Dropping it loses no datagram.
    pub async fn recv_from(&self, buffer: &mut [u8]) -> Result<(usize, SocketAddr), UdpError> {
        match &self.inner {
            SocketEnd::Netstack(socket) => socket.recv_from(buffer).await,
            SocketEnd::Kernel(socket) => socket.recv_from(buffer).await,
        }
    }

    /// Datagrams dropped because they came faster than they were taken.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        match &self.inner {
            SocketEnd::Netstack(socket) => socket.dropped(),
            SocketEnd::Kernel(socket) => socket.dropped(),
        }
    }
}

/// UDP between a port of ours and one of a peer. Dropping it closes our port.
#[derive(Debug)]
pub struct UdpFlow {
    inner: FlowEnd,
}

/// Who drives a connected flow.
#[derive(Debug)]
enum FlowEnd {
    /// The stack in this process.
    Netstack(PortFlow),
    /// The kernel, through its network device.
    Kernel(KernelFlow),
}

impl From<PortFlow> for UdpFlow {
    fn from(flow: PortFlow) -> Self {
        Self { inner: FlowEnd::Netstack(flow) }
    }
}

impl From<KernelFlow> for UdpFlow {
    fn from(flow: KernelFlow) -> Self {
        Self { inner: FlowEnd::Kernel(flow) }
    }
}

impl UdpFlow {
    /// Overlay address and port of this end.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        match &self.inner {
            FlowEnd::Netstack(flow) => flow.local_addr(),
            FlowEnd::Kernel(flow) => flow.local_addr(),
        }
    }

    /// Overlay address and port of the other end.
    #[must_use]
    pub const fn peer_addr(&self) -> SocketAddr {
        match &self.inner {
            FlowEnd::Netstack(flow) => flow.peer_addr(),
            FlowEnd::Kernel(flow) => flow.peer_addr(),
        }
    }

    /// Sends a datagram; waits while the queue is full, which holds 1024 datagrams or 256 KiB in this process.
    ///
    /// # Errors
    ///
    /// [`UdpError::TooLong`], [`UdpError::NoRoute`] where the kernel has none any more, [`UdpError::Stopped`].
    ///
    /// # Cancel safety
    ///
    /// Dropping it sends nothing.
    pub async fn send(&self, data: &[u8]) -> Result<(), UdpError> {
        match &self.inner {
            FlowEnd::Netstack(flow) => flow.send(data).await,
            FlowEnd::Kernel(flow) => flow.send(data).await,
        }
    }

    /// The next datagram of the other end. What does not fit `buffer` is cut off.
    ///
    /// # Errors
    ///
    /// [`UdpError::Refused`] where the peer said that nobody listens there, at most once each time that it does;
    /// [`UdpError::Stopped`].
    ///
    /// # Cancel safety
    ///
    /// Dropping it loses no datagram.
    pub async fn recv(&self, buffer: &mut [u8]) -> Result<usize, UdpError> {
        match &self.inner {
            FlowEnd::Netstack(flow) => flow.recv(buffer).await,
            FlowEnd::Kernel(flow) => flow.recv(buffer).await,
        }
    }

    /// Datagrams dropped because they came faster than they were taken.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        match &self.inner {
            FlowEnd::Netstack(flow) => flow.dropped(),
            FlowEnd::Kernel(flow) => flow.dropped(),
        }
    }
}
