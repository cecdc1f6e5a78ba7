//! Packets on their way from packet threads to the stack in this process: whole batches change hands, no packet
//! is allocated for, and one bell rings per batch.

use parking_lot::Mutex;
use tokio::sync::Notify;

/// Bytes of one batch.
const BATCH_BYTES: usize = 128 << 10;
/// Batches that may wait.
const BATCHES: usize = 48;

/// Packets that lie behind each other.
#[derive(Debug, Default)]
pub(crate) struct PacketBatch {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl PacketBatch {
    /// Each packet, in the order in which they came.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut [u8]> {
        let mut rest = self.bytes.as_mut_slice();
        let mut start = 0;
        self.ends.iter().map(move |end| {
            let len = end - std::mem::replace(&mut start, *end);
            let (packet, tail) = std::mem::take(&mut rest).split_at_mut_checked(len).unwrap_or_default();
            rest = tail;
            packet
        })
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }
}

#[derive(Debug, Default)]
struct Batches {
    full: std::collections::VecDeque<PacketBatch>,
    free: Vec<PacketBatch>,
}

/// Packets that wait for the stack.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    batches: Mutex<Batches>,
    bell: Notify,
}

impl Inbox {
    /// Adds a packet; false where too much waits.
    pub(crate) fn push(&self, packet: &[u8]) -> bool {
        let batches = &mut *self.batches.lock();
        let fits = |batch: &&mut PacketBatch| batch.bytes.len() + packet.len() <= BATCH_BYTES;
        if batches.full.back_mut().as_ref().is_none_or(|batch| !fits(batch)) {
            if batches.full.len() >= BATCHES {
                return false;
            }
            batches.full.push_back(batches.free.pop().unwrap_or_default());
        }
        let Some(batch) = batches.full.back_mut() else { return false };
        batch.bytes.extend_from_slice(packet);
        batch.ends.push(batch.bytes.len());
        true
    }

    /// Wakes the stack where a packet waits for it.
    pub(crate) fn ring(&self) {
        if !self.batches.lock().full.is_empty() {
            self.bell.notify_one();
        }
    }

    /// Returns once the bell was rung.
    ///
    /// # Cancel safety
    ///
    /// Dropping it loses nothing.
    pub(crate) async fn rung(&self) {
        self.bell.notified().await;
    }

    /// Takes the oldest batch; give it back by [`Self::recycle`].
    pub(crate) fn take(&self) -> Option<PacketBatch> {
        self.batches.lock().full.pop_front()
    }

    pub(crate) fn recycle(&self, mut batch: PacketBatch) {
        batch.clear();
        let batches = &mut *self.batches.lock();
        if batches.free.len() < BATCHES / 4 {
            batches.free.push(batch);
        }
    }
}
