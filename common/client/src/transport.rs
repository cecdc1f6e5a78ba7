//! The ways to whoever is to be reached.

use std::io;
use std::path::{Path, PathBuf};

use tokio::net::UnixStream;

use crate::destination::Destination;
use crate::stream::Stream;
use crate::tunnel::TunnelHandle;
use crate::vsock;

/// How a service, or the bridge of a Blueprint Manager, is reached.
#[derive(Debug, Clone)]
pub enum TransportType {
    /// A Unix socket of this machine.
    UnixSocket(PathBuf),
    /// Context id and port of a virtual machine's socket; context 2 is the host of this machine.
    Vsock(u32, u32),
    /// Through a hub, from this process.
    Tunnel(TunnelHandle),
}

impl TransportType {
    /// Opens a stream. A socket leads to one place only; `to` says where a tunnel leads.
    ///
    /// # Errors
    ///
    /// What the system says of a socket; of a tunnel an [`OpenError`](crate::OpenError) inside, with
    /// [`io::ErrorKind::PermissionDenied`] where the hub's policy refuses.
    ///
    /// # Cancel safety
    ///
    /// Dropping it leaves nothing open.
    pub async fn connect(&self, to: &Destination) -> io::Result<Stream> {
        match self {
            Self::UnixSocket(path) => unix(path).await,
            Self::Vsock(context, port) => virtual_machine(*context, *port).await,
            Self::Tunnel(tunnel) => Ok(tunnel.open_to(to).await?),
        }
    }
}

/// Opens a stream to a Unix socket.
pub(crate) async fn unix(path: &Path) -> io::Result<Stream> {
    let named = |error: io::Error| {
        io::Error::new(error.kind(), format!("cannot connect to {}: {error}", path.display()))
    };
    UnixStream::connect(path).await.map(Stream::local).map_err(named)
}

/// Opens a stream to a virtual machine's socket.
pub(crate) async fn virtual_machine(context: u32, port: u32) -> io::Result<Stream> {
    let named = |error: io::Error| {
        let text = format!("cannot connect to vsock port {port} of context {context}: {error}");
        io::Error::new(error.kind(), text)
    };
    vsock::connect(context, port).await.map(Stream::local).map_err(named)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixListener;

    use super::*;

    fn anywhere() -> Destination {
        Destination::Node { node: "x".to_owned(), port: 1 }
    }

    #[tokio::test]
    async fn a_unix_socket_leads_to_who_listens_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let transport = TransportType::UnixSocket(path);
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            stream.read_to_end(&mut request).await.unwrap();
            stream.write_all(&request).await.unwrap();
        };
        let ask = async {
            let mut stream = transport.connect(&anywhere()).await.unwrap();
            stream.write_all(b"there").await.unwrap();
            stream.shutdown().await.unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.unwrap();
            answer
        };
        assert_eq!(tokio::join!(serve, ask).1, b"there");
    }

    #[tokio::test]
    async fn errors_name_the_place() {
        let error = TransportType::UnixSocket("/nonexistent/socket".into()).connect(&anywhere()).await;
        let error = error.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(error.to_string().contains("/nonexistent/socket"), "{error}");
        // No machine has this context id (`VMADDR_CID_HYPERVISOR`).
        let error = TransportType::Vsock(0, 9).connect(&anywhere()).await.unwrap_err();
        assert!(error.to_string().contains("vsock port 9 of context 0"), "{error}");
    }
}
