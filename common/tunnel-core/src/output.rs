//! What a core wants done, waiting for its driver, and the buffers it is made of.

use std::collections::VecDeque;

use blueprint_common_types::WgPublicKey;

use crate::{Discard, Endpoint, Stats};

/// Datagrams and events that wait at most; a driver that drains after each input never comes near.
const MAX_QUEUE: usize = 4096;

/// Buffers kept for the next use.
const MAX_SPARE: usize = 256;

/// Larger buffers are freed instead of kept.
const MAX_SPARE_BYTES: usize = 4096;

/// A datagram to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transmit {
    /// Where to.
    pub to: Endpoint,
    /// The datagram.
    pub payload: Vec<u8>,
}

/// Something that happened to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A handshake completed and its session is proven from both sides.
    Handshake {
        /// Whose.
        peer: WgPublicKey,
    },
    /// A peer is reached at another outer address than before.
    Roam {
        /// Whose.
        peer: WgPublicKey,
        /// The new address.
        endpoint: Endpoint,
    },
    /// A probe of ours was answered.
    Probed {
        /// By whom.
        peer: WgPublicKey,
        /// The way the answer came.
        endpoint: Endpoint,
        /// Bytes of the inner packet, in both directions.
        size: u16,
        /// What the probe was sent with.
        token: u64,
    },
    /// A peer's data plane stopped answering.
    EchoLost {
        /// Whose.
        peer: WgPublicKey,
    },
    /// A peer's data plane answers, for the first time or again.
    EchoBack {
        /// Whose.
        peer: WgPublicKey,
    },
}

/// Queues out of the core. Full ones drop: datagrams the newest, events the oldest; all counted.
#[derive(Debug, Default)]
pub(crate) struct Output {
    transmits: VecDeque<Transmit>,
    events: VecDeque<Event>,
    spare: Vec<Vec<u8>>,
    pub(crate) stats: Stats,
}

impl Output {
    /// A buffer of `len` zero bytes.
    pub(crate) fn buffer(&mut self, len: usize) -> Vec<u8> {
        let mut buffer = self.spare.pop().unwrap_or_default();
        buffer.clear();
        buffer.resize(len, 0);
        buffer
    }

    /// Takes a buffer back.
    pub(crate) fn recycle(&mut self, buffer: Vec<u8>) {
        if self.spare.len() < MAX_SPARE && buffer.capacity() <= MAX_SPARE_BYTES {
            self.spare.push(buffer);
        }
    }

    pub(crate) fn transmit(&mut self, to: Endpoint, payload: Vec<u8>) {
        if self.transmits.len() >= MAX_QUEUE {
            self.stats.discard(Discard::TransmitFull);
            self.recycle(payload);
            return;
        }
        self.stats.tx_datagrams = self.stats.tx_datagrams.saturating_add(1);
        self.transmits.push_back(Transmit { to, payload });
    }

    pub(crate) fn emit(&mut self, event: Event) {
        if self.events.len() >= MAX_QUEUE {
            self.stats.discard(Discard::EventFull);
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    pub(crate) fn discard(&mut self, discard: Discard) {
        self.stats.discard(discard);
    }

    pub(crate) fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    pub(crate) fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    #[test]
    fn a_driver_that_never_drains_costs_a_bounded_queue() {
        let mut output = Output::default();
        for _ in 0..MAX_QUEUE + 10 {
            let payload = output.buffer(32);
            output.transmit(SocketAddr::from(([127, 0, 0, 1], 9)).into(), payload);
            output.emit(Event::EchoLost { peer: WgPublicKey::from_bytes([1; 32]) });
        }
        assert_eq!(output.transmits.len(), MAX_QUEUE);
        for discard in [Discard::TransmitFull, Discard::EventFull] {
            assert_eq!(output.stats.discarded(discard), 10);
        }
    }
}
