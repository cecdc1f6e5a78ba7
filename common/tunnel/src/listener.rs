//! The accepting side of a TCP port of the overlay, whoever drives its TCP.

use crate::kernel::KernelListener;
use crate::netstack::FlowListener;
use crate::stream::TcpStream;

/// A port of our overlay addresses on which connections are accepted.
///
/// Dropping it closes the port; connections already accepted go on.
#[derive(Debug)]
pub struct Listener {
    inner: Inner,
}

/// Who accepts the connections.
#[derive(Debug)]
enum Inner {
    /// The stack in this process.
    Netstack(FlowListener),
    /// The kernel, through its network device.
    Kernel(KernelListener),
}

impl From<FlowListener> for Listener {
    fn from(listener: FlowListener) -> Self {
        Self { inner: Inner::Netstack(listener) }
    }
}

impl From<KernelListener> for Listener {
    fn from(listener: KernelListener) -> Self {
        Self { inner: Inner::Kernel(listener) }
    }
}

impl Listener {
    /// The port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        match &self.inner {
            Inner::Netstack(listener) => listener.port(),
            Inner::Kernel(listener) => listener.port(),
        }
    }

    /// The next connection whose handshake is complete; `None` once the engine has ended.
    ///
    /// # Cancel safety
    ///
    /// Dropping it loses no connection.
    pub async fn accept(&mut self) -> Option<TcpStream> {
        match &mut self.inner {
            Inner::Netstack(listener) => listener.accept().await.map(TcpStream::from),
            Inner::Kernel(listener) => loop {
                // One that is gone before it could be asked for its ends is nobody's.
                if let Ok(stream) = TcpStream::of_kernel(listener.accept().await?, &listener.cuts) {
                    return Some(stream);
                }
            },
        }
    }
}
