//! Streams to the host of a virtual machine, or to a guest (`AF_VSOCK`).

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream as StdUnixStream;

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, VsockAddr, connect as connect_fd, socket};
use tokio::net::UnixStream;

/// Connects to `port` of the machine with this context id; the kernel gives up after 2 s.
///
/// The result is tokio's stream for a local socket: of that it uses reading, writing, shutting down and waiting alone,
/// which are the same calls for every stream socket of the kernel.
///
/// # Errors
///
/// What the kernel says: without support `EAFNOSUPPORT`, without such a machine `ENODEV` or `ECONNRESET`.
///
/// # Cancel safety
///
/// Dropping it closes the socket.
pub(crate) async fn connect(context: u32, port: u32) -> io::Result<UnixStream> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Vsock, SockType::Stream, flags, None)?;
    match connect_fd(socket.as_raw_fd(), &VsockAddr::new(context, port)) {
        Ok(()) | Err(Errno::EINPROGRESS) => {}
        Err(error) => return Err(error.into()),
    }
    let stream = UnixStream::from_std(StdUnixStream::from(socket))?;
    stream.writable().await?;
    match stream.take_error()? {
        None => Ok(stream),
        Some(error) => Err(error),
    }
}
