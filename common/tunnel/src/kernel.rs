//! Connections over the overlay by the kernel's own TCP and UDP, where the overlay ends in a device.

mod cuts;
mod udp;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use blueprint_common_types::OverlayLease;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc::Sender;

pub(crate) use self::cuts::Cuts;
pub(crate) use self::udp::{KernelFlow, KernelSocket};
use crate::command::Command;
use crate::error::{ConnectError, ListenError};
use crate::flow::USER_TIMEOUT;

/// Connections of a listener that wait to be accepted.
const BACKLOG: u32 = 1024;

/// Our address of the family of `remote`.
fn own_of(own: &OverlayLease, remote: IpAddr) -> IpAddr {
    if remote.is_ipv4() { own.v4.into() } else { own.v6.into() }
}

/// Opens a connection from our overlay address.
pub(crate) async fn connect(own: &OverlayLease, remote: SocketAddr) -> Result<TcpStream, ConnectError> {
    let socket = if remote.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
    let socket = socket.map_err(|error| of_connect(&error))?;
    socket.bind(SocketAddr::new(own_of(own, remote.ip()), 0)).map_err(|error| of_connect(&error))?;
    let stream = socket.connect(remote).await.map_err(|error| of_connect(&error))?;
    prepare(&stream);
    Ok(stream)
}

/// A dead peer ends a connection as soon as it does in the stack of this process.
pub(crate) fn prepare(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    let socket = SockRef::from(stream);
    let _ = socket.set_tcp_user_timeout(Some(USER_TIMEOUT));
    let keepalive = socket2::TcpKeepalive::new().with_time(USER_TIMEOUT / 4).with_interval(USER_TIMEOUT / 4);
    let _ = socket.set_tcp_keepalive(&keepalive);
}

fn of_connect(error: &io::Error) -> ConnectError {
    let is = |kinds: &[io::ErrorKind]| kinds.contains(&error.kind());
    if is(&[io::ErrorKind::ConnectionRefused, io::ErrorKind::ConnectionReset]) {
        ConnectError::Refused
    } else if is(&[io::ErrorKind::TimedOut]) {
        ConnectError::TimedOut
    } else if is(&[io::ErrorKind::AddrInUse, io::ErrorKind::AddrNotAvailable])
        || error.raw_os_error() == Some(libc::EMFILE)
    {
        ConnectError::Full
    } else {
        ConnectError::NoRoute
    }
}

/// The accepting side of a port of our overlay addresses.
#[derive(Debug)]
pub(crate) struct KernelListener {
    port: u16,
    v4: TcpListener,
    /// Absent where the machine has no IPv6.
    v6: Option<TcpListener>,
    /// Closed once the engine has ended.
    engine: Sender<Command>,
    /// Of the tunnel.
    pub(crate) cuts: Arc<Cuts>,
}

impl KernelListener {
    pub(crate) fn bind(
        own: &OverlayLease,
        port: u16,
        engine: Sender<Command>,
        cuts: Arc<Cuts>,
    ) -> Result<Self, ListenError> {
        if port == 0 {
            return Err(ListenError::Zero);
        }
        let v4 = listen(own.v4.into(), port).map_err(|_| ListenError::InUse { port })?;
        let v6 = match listen(own.v6.into(), port) {
            Ok(listener) => Some(listener),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                return Err(ListenError::InUse { port });
            }
            Err(_) => None,
        };
        Ok(Self { port, v4, v6, engine, cuts })
    }

    pub(crate) const fn port(&self) -> u16 {
        self.port
    }

    /// The next connection; `None` once the engine has ended.
    ///
    /// # Cancel safety
    ///
    /// Dropping it loses no connection.
    pub(crate) async fn accept(&self) -> Option<TcpStream> {
        loop {
            let v6 = async {
                match &self.v6 {
                    Some(v6) => v6.accept().await,
                    None => std::future::pending().await,
                }
            };
            let accepted = tokio::select! {
                accepted = self.v4.accept() => accepted,
                accepted = v6 => accepted,
                () = self.engine.closed() => return None,
            };
            match accepted {
                Ok((stream, _)) => {
                    prepare(&stream);
                    return Some(stream);
                }
                // Too many files are open, or the connection is gone again: the listener stays.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }
}

fn listen(ip: IpAddr, port: u16) -> io::Result<TcpListener> {
    let socket = if ip.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(SocketAddr::new(ip, port))?;
    socket.listen(BACKLOG)
}
