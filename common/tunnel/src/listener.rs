//! The accepting side of the netstack.

use tokio::sync::mpsc;

use crate::stream::TcpStream;

/// A port of our overlay addresses on which connections are accepted.
///
/// Dropping it closes the port; connections already accepted go on.
#[derive(Debug)]
pub struct Listener {
    port: u16,
    accepted: mpsc::Receiver<TcpStream>,
}

impl Listener {
    pub(crate) const fn new(port: u16, accepted: mpsc::Receiver<TcpStream>) -> Self {
        Self { port, accepted }
    }

    /// The port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// The next connection whose handshake is complete; `None` once the engine has ended.
    ///
    /// # Cancel safety
    ///
    /// Dropping it loses no connection.
    pub async fn accept(&mut self) -> Option<TcpStream> {
        self.accepted.recv().await
    }
}

/// The netstack's side of a [`Listener`].
#[derive(Debug)]
pub(crate) struct ListenPort {
    sender: mpsc::Sender<TcpStream>,
    opening: usize,
}

impl ListenPort {
    /// Makes a port that holds at most `backlog` connections, opening and not yet accepted ones together.
    pub(crate) fn new(backlog: usize) -> (Self, mpsc::Receiver<TcpStream>) {
        let (sender, receiver) = mpsc::channel(backlog.max(1));
        (Self { sender, opening: 0 }, receiver)
    }

    /// True once the listener was dropped.
    pub(crate) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Takes a place for a connection that begins to open, or says that there is none.
    pub(crate) fn begin(&mut self) -> bool {
        let has_room = self.opening < self.sender.capacity();
        self.opening += usize::from(has_room);
        has_room
    }

    /// Gives the place back, because the connection opened or failed.
    pub(crate) const fn end(&mut self) {
        self.opening = self.opening.saturating_sub(1);
    }

    /// Hands an open connection to the listener; gives it back to be dropped where nobody will take it.
    pub(crate) fn deliver(&self, stream: TcpStream) -> Result<(), TcpStream> {
        self.sender.try_send(stream).map_err(|error| match error {
            mpsc::error::TrySendError::Full(stream) | mpsc::error::TrySendError::Closed(stream) => stream,
        })
    }
}
