//! What the packet engine and a carrier other than plain UDP hand to each other.
//!
//! A carrier gives the engine a [`LinkSink`] to send through, and gives what it receives to a
//! [`LinkIngress`] in a [`Batch`]. Both sides work in batches. A carrier never waits for the engine, and the engine
//! waits for a carrier for a bounded time at most; whatever does not fit is dropped and counted, as a network would do it.

use std::fmt::Debug;
use std::mem;
use std::time::Duration;

use blueprint_common_tunnel_core::RUN_SLACK_BYTES;

/// Most bytes of datagrams in one batch; as much as one receive call of UDP brings.
pub const BATCH_BYTES_MAX: usize = 64 << 10;
/// Most datagrams in one batch: 64 bytes each fill it, and smaller ones are rare (keepalives).
const BATCH_DATAGRAMS_MAX: usize = 1024;

/// Which carrier a link runs over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CarrierKind {
    /// Datagrams of a QUIC connection (RFC 9221).
    Quic,
    /// Frames in a TLS stream.
    Tls,
}

/// Where the engine sends the datagrams of one link.
pub trait LinkSink: Send + Sync + Debug {
    /// Takes a run of datagrams of `segment` bytes each, of which the last may be shorter.
    ///
    /// Returns how many were dropped because there was no room or they were too long. Never blocks.
    fn send(&self, datagrams: &[u8], segment: usize) -> usize {
        self.send_within(datagrams, segment, Duration::ZERO)
    }

    /// The same, but room is waited for, in all at most as long as `patience` says. A link that let a wait end in vain and
    /// has not moved since is not waited for.
    fn send_within(&self, datagrams: &[u8], segment: usize, patience: Duration) -> usize;

    /// Longest datagram, in bytes, that passes at present; it changes as the path's MTU is learnt.
    fn max_datagram(&self) -> usize;
}

/// Where a carrier brings what it received.
pub trait LinkIngress: Send {
    /// Takes every datagram of `batch`, which the carrier clears afterwards.
    fn receive(&mut self, batch: &mut Batch);
}

/// Datagrams that lie one after the other in one buffer.
///
/// It allocates when made and never again.
#[derive(Debug)]
pub struct Batch {
    /// Longer than `capacity`, because the engine wants room behind the last datagram.
    bytes: Box<[u8]>,
    capacity: usize,
    used: usize,
    /// Where each datagram ends in `bytes`.
    ends: Vec<usize>,
    /// Length of the first datagram.
    stride: usize,
    /// True while all are `stride` long except perhaps the last, which may be shorter.
    is_even: bool,
}

impl Batch {
    /// Makes an empty batch for at most `bytes` of datagrams, itself at most [`BATCH_BYTES_MAX`].
    pub fn with_capacity(bytes: usize) -> Self {
        Self {
            bytes: vec![0; bytes.min(BATCH_BYTES_MAX) + RUN_SLACK_BYTES].into_boxed_slice(),
            capacity: bytes.min(BATCH_BYTES_MAX),
            used: 0,
            ends: Vec::with_capacity(BATCH_DATAGRAMS_MAX),
            stride: 0,
            is_even: true,
        }
    }

    /// True where a datagram of `length` bytes still fits.
    pub fn has_room(&self, length: usize) -> bool {
        self.ends.len() < BATCH_DATAGRAMS_MAX && length <= self.capacity - self.used
    }

    /// Adds a copy of `datagram`; false where it does not fit.
    pub fn push(&mut self, datagram: &[u8]) -> bool {
        let end = self.used + datagram.len();
        if !self.has_room(datagram.len()) {
            return false;
        }
        let Some(room) = self.bytes.get_mut(self.used..end) else { return false };
        room.copy_from_slice(datagram);
        if self.ends.is_empty() {
            self.stride = datagram.len();
        } else {
            let expected = self.ends.len() * self.stride;
            self.is_even &= self.used == expected && datagram.len() <= self.stride;
        }
        self.used = end;
        self.ends.push(end);
        true
    }

    /// How many datagrams it holds.
    pub const fn len(&self) -> usize {
        self.ends.len()
    }

    /// True where it holds none.
    pub const fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// True where not even a datagram as long as the first one fits any more.
    pub fn is_full(&self) -> bool {
        !self.has_room(self.stride.max(1))
    }

    /// Forgets every datagram and keeps the buffer.
    pub fn clear(&mut self) {
        self.used = 0;
        self.ends.clear();
        self.stride = 0;
        self.is_even = true;
    }

    /// The length of all datagrams but the last, which is at most as long; `None` where they differ
    /// or there are none.
    pub fn stride(&self) -> Option<usize> {
        (self.is_even && !self.ends.is_empty()).then_some(self.stride)
    }

    /// All datagrams, one after the other.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.used).unwrap_or_default()
    }

    /// The whole buffer: the datagrams, and at least [`RUN_SLACK_BYTES`] behind them.
    pub(crate) fn buffer_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// Each datagram, in the order in which they came.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let mut start = 0;
        self.ends
            .iter()
            .map(move |end| self.bytes.get(mem::replace(&mut start, *end)..*end).unwrap_or_default())
    }

    /// Each datagram, in the order in which they came, to be changed in place.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut [u8]> {
        let mut rest = self.bytes.get_mut(..self.used).unwrap_or_default();
        let mut start = 0;
        self.ends.iter().map(move |end| {
            let length = end - mem::replace(&mut start, *end);
            let (datagram, tail) = mem::take(&mut rest).split_at_mut_checked(length).unwrap_or_default();
            rest = tail;
            datagram
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(lengths: &[usize]) -> Batch {
        let mut batch = Batch::with_capacity(BATCH_BYTES_MAX);
        for (number, length) in lengths.iter().enumerate() {
            assert!(batch.push(&vec![u8::try_from(number).unwrap(); *length]));
        }
        batch
    }

    #[test]
    fn datagrams_come_out_as_they_went_in() {
        let mut batch = batch(&[10, 0, 300, 7]);
        let lengths: Vec<_> = batch.iter().map(<[u8]>::len).collect();
        assert_eq!(lengths, [10, 0, 300, 7]);
        for (number, datagram) in batch.iter_mut().enumerate() {
            assert!(datagram.iter().all(|byte| usize::from(*byte) == number));
            datagram.fill(9);
        }
        assert_eq!(batch.bytes(), [9; 317]);
        batch.clear();
        assert!(batch.is_empty() && batch.iter().next().is_none() && batch.bytes().is_empty());
    }

    #[test]
    fn the_stride_is_known_where_only_the_last_is_shorter() {
        let check =
            |lengths: &[usize], expected| assert_eq!(batch(lengths).stride(), expected, "{lengths:?}");
        check(&[], None);
        check(&[10], Some(10));
        check(&[10, 10, 4], Some(10));
        check(&[10, 4, 4], None);
        check(&[10, 4, 10], None);
        check(&[10, 11], None);
        check(&[10, 4, 16], None);
    }

    #[test]
    fn a_full_batch_takes_no_more() {
        let mut batch = Batch::with_capacity(1 << 20);
        let mut count = 0;
        while batch.push(&[1; 1452]) {
            count += 1;
        }
        assert_eq!(count, BATCH_BYTES_MAX / 1452);
        assert!(batch.is_full() && batch.has_room(16) && batch.push(&[2; 16]));
        assert_eq!(batch.len(), count + 1);

        batch.clear();
        while batch.push(&[]) {}
        assert!(batch.is_full());
        assert_eq!(batch.len(), BATCH_DATAGRAMS_MAX);
    }
}
