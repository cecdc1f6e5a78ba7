//! Messages that the hub has not acknowledged yet.

use std::collections::VecDeque;

/// Messages held at most. A heartbeat with samples each 5 s fills it in 20 minutes without a hub.
const CAPACITY: usize = 256;

/// Nothing could be dropped to make room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the outbox is full of {CAPACITY} messages that must not be dropped")]
pub struct OutboxFull;

/// The hub acknowledged a message that it never got from this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the hub acknowledges message {acked}, but the last one was {last}")]
pub struct UnknownAck {
    /// What the hub named.
    pub acked: u64,
    /// Last number given out.
    pub last: u64,
}

#[derive(Debug)]
struct Entry<T> {
    seq: u64,
    droppable: bool,
    item: T,
}

/// A bounded queue of numbered messages that keeps each until the hub acknowledges it.
///
/// Invariants:
/// - numbers start at 1, rise by one for each message pushed, and are never given twice;
/// - at most 256 messages are held; where there is no room the oldest droppable one goes and is counted;
/// - [`Self::poll_transmit`] gives each message once, in order, until [`Self::resend_after`] turns back.
#[derive(Debug)]
pub struct Outbox<T> {
    entries: VecDeque<Entry<T>>,
    last_seq: u64,
    sent_seq: u64,
    dropped: u64,
}

impl<T> Default for Outbox<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Outbox<T> {
    /// An empty one; the first message gets number 1.
    #[must_use]
    pub const fn new() -> Self {
        Self { entries: VecDeque::new(), last_seq: 0, sent_seq: 0, dropped: 0 }
    }

    /// Numbers `item` and keeps it until it is acknowledged. Where the outbox is full, the oldest droppable
    /// message goes; a droppable `item` itself goes where there is no other.
    ///
    /// # Errors
    ///
    /// [`OutboxFull`] where `item` did not get in; it is counted as dropped.
    pub fn push(&mut self, item: T, droppable: bool) -> Result<u64, OutboxFull> {
        if self.entries.len() >= CAPACITY {
            self.dropped = self.dropped.saturating_add(1);
            let oldest = self.entries.iter().position(|entry| entry.droppable).ok_or(OutboxFull)?;
            self.entries.remove(oldest);
        }
        self.last_seq = self.last_seq.saturating_add(1);
        self.entries.push_back(Entry { seq: self.last_seq, droppable, item });
        Ok(self.last_seq)
    }

    /// Pushes a message that must not be dropped and makes older ones needless: those of which
    /// `is_replaced` says so are forgotten, uncounted.
    ///
    /// # Errors
    ///
    /// [`OutboxFull`] where `item` did not get in.
    pub fn push_latest(&mut self, item: T, is_replaced: impl Fn(&T) -> bool) -> Result<u64, OutboxFull> {
        self.entries.retain(|entry| !is_replaced(&entry.item));
        self.push(item, false)
    }

    /// Forgets every message up to and including `seq`; an old or repeated acknowledgement does nothing.
    ///
    /// # Errors
    ///
    /// [`UnknownAck`] where `seq` was never given out; nothing is forgotten then.
    pub fn handle_ack(&mut self, seq: u64) -> Result<(), UnknownAck> {
        if seq > self.last_seq {
            return Err(UnknownAck { acked: seq, last: self.last_seq });
        }
        while self.entries.front().is_some_and(|entry| entry.seq <= seq) {
            self.entries.pop_front();
        }
        self.sent_seq = self.sent_seq.max(seq);
        Ok(())
    }

    /// Starts a new session, whose hub processed everything up to and including `seq`: that is forgotten,
    /// and [`Self::poll_transmit`] gives what follows once more. Says how many messages that are.
    ///
    /// # Errors
    ///
    /// [`UnknownAck`] where `seq` was never given out; everything held is then sent again.
    pub fn resend_after(&mut self, seq: u64) -> Result<usize, UnknownAck> {
        self.sent_seq = 0;
        self.handle_ack(seq)?;
        Ok(self.entries.len())
    }

    /// The next message to put on the session, with its number.
    pub fn poll_transmit(&mut self) -> Option<(u64, &T)> {
        let next = self.entries.partition_point(|entry| entry.seq <= self.sent_seq);
        let entry = self.entries.get(next)?;
        self.sent_seq = entry.seq;
        Some((entry.seq, &entry.item))
    }

    /// Messages held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True where everything is acknowledged.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Last number given out; zero before the first.
    #[must_use]
    pub const fn last_seq(&self) -> u64 {
        self.last_seq
    }

    /// Messages dropped for want of room, since construction.
    #[must_use]
    pub const fn dropped(&self) -> u64 {
        self.dropped
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn drain(outbox: &mut Outbox<u32>) -> Vec<u64> {
        std::iter::from_fn(|| outbox.poll_transmit().map(|(seq, _)| seq)).collect()
    }

    #[test]
    fn numbers_start_at_one_and_each_message_is_sent_once() {
        let mut outbox = Outbox::new();
        assert_eq!(outbox.push(10, true), Ok(1));
        assert_eq!(outbox.push(11, false), Ok(2));
        assert_eq!(outbox.poll_transmit(), Some((1, &10)));
        assert_eq!(outbox.push(12, false), Ok(3));
        assert_eq!(drain(&mut outbox), [2, 3]);
        assert_eq!(outbox.len(), 3);
    }

    #[test]
    fn a_new_session_sends_again_what_the_hub_did_not_process() {
        let mut outbox = Outbox::new();
        for item in 0..5 {
            outbox.push(item, true).unwrap();
        }
        assert_eq!(drain(&mut outbox), [1, 2, 3, 4, 5]);
        outbox.handle_ack(2).unwrap();
        assert_eq!(outbox.resend_after(3), Ok(2));
        assert_eq!(drain(&mut outbox), [4, 5]);
        outbox.handle_ack(5).unwrap();
        outbox.handle_ack(1).unwrap();
        assert!(outbox.is_empty());
    }

    #[test]
    fn a_hub_that_forgot_this_process_gets_everything_held() {
        let mut outbox = Outbox::new();
        for item in 0..3 {
            outbox.push(item, false).unwrap();
        }
        drain(&mut outbox);
        assert_eq!(outbox.resend_after(0), Ok(3));
        assert_eq!(drain(&mut outbox), [1, 2, 3]);
    }

    #[test]
    fn an_acknowledgement_from_the_future_is_refused() {
        let mut outbox = Outbox::new();
        outbox.push(0, false).unwrap();
        assert_eq!(outbox.handle_ack(2), Err(UnknownAck { acked: 2, last: 1 }));
        assert_eq!(outbox.len(), 1);
        assert!(outbox.resend_after(9).is_err());
        assert_eq!(drain(&mut outbox), [1]);
    }

    #[test]
    fn the_oldest_droppable_message_makes_room() {
        let mut outbox = Outbox::new();
        outbox.push(0, false).unwrap();
        for item in 1..=300 {
            outbox.push(item, true).unwrap();
        }
        assert_eq!((outbox.len(), outbox.dropped()), (256, 45));
        assert_eq!(drain(&mut outbox).get(..2), Some(&[1, 47][..]));
    }

    #[test]
    fn a_full_outbox_of_kept_messages_refuses_and_counts() {
        let mut outbox = Outbox::new();
        for item in 0..256 {
            outbox.push(item, false).unwrap();
        }
        assert_eq!(outbox.push(256, true), Err(OutboxFull));
        assert_eq!(outbox.push(257, false), Err(OutboxFull));
        assert_eq!((outbox.len(), outbox.dropped(), outbox.last_seq()), (256, 2, 256));
    }

    #[test]
    fn a_whole_state_replaces_the_one_before() {
        let mut outbox = Outbox::new();
        outbox.push(1, true).unwrap();
        for item in (100..2000).step_by(100) {
            outbox.push_latest(item, |old| *old >= 100).unwrap();
        }
        assert_eq!((outbox.len(), outbox.dropped()), (2, 0));
        assert_eq!(drain(&mut outbox), [1, 20]);
    }

    proptest! {
        #[test]
        fn what_is_sent_rises_and_what_is_held_is_bounded(steps in prop::collection::vec((0u8..4, 0u64..600), 0..800)) {
            let mut outbox = Outbox::new();
            let mut last = 0;
            for (step, seq) in steps {
                match step {
                    0 => _ = outbox.push(0, seq % 2 == 0),
                    1 => _ = outbox.handle_ack(seq),
                    2 => {
                        _ = outbox.resend_after(seq);
                        last = 0;
                    }
                    _ => if let Some((seq, _)) = outbox.poll_transmit() {
                        prop_assert!(seq > last && seq <= outbox.last_seq());
                        last = seq;
                    },
                }
                prop_assert!(outbox.len() <= CAPACITY);
            }
        }
    }
}
