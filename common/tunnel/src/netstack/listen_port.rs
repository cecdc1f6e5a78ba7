//! A port on which the in-process stack accepts connections, from both sides.

use tokio::sync::mpsc;

use super::TcpFlowStream;

/// The accepting side; dropping it closes the port.
#[derive(Debug)]
pub(crate) struct FlowListener {
    port: u16,
    accepted: mpsc::Receiver<TcpFlowStream>,
}

impl FlowListener {
    pub(crate) const fn new(port: u16, accepted: mpsc::Receiver<TcpFlowStream>) -> Self {
        Self { port, accepted }
    }

    /// The port.
    pub(crate) const fn port(&self) -> u16 {
        self.port
    }

    /// The next connection whose handshake is complete; `None` once the netstack is gone.
    ///
    /// # Cancel safety
    ///
    /// Dropping it loses no connection.
    pub(crate) async fn accept(&mut self) -> Option<TcpFlowStream> {
        self.accepted.recv().await
    }
}

/// The netstack's side of a [`FlowListener`].
#[derive(Debug)]
pub(crate) struct ListenPort {
    sender: mpsc::Sender<TcpFlowStream>,
    opening: usize,
}

impl ListenPort {
    /// Makes a port that holds at most `backlog` connections, opening and not yet accepted ones together.
    pub(crate) fn new(backlog: usize) -> (Self, mpsc::Receiver<TcpFlowStream>) {
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
    pub(crate) fn deliver(&self, stream: TcpFlowStream) -> Result<(), TcpFlowStream> {
        self.sender.try_send(stream).map_err(|error| match error {
            mpsc::error::TrySendError::Full(stream) | mpsc::error::TrySendError::Closed(stream) => stream,
        })
    }
}
