//! Sparse flows first: packets wait per flow, and a flow that sends little does not wait behind one that sends much.
//!
//! Deficit round robin with a list of new flows in front, as FQ-CoDel has it (RFC 8290), without its dropping:
//! what does not fit here waits in the device's own queue, so nothing is lost for want of room.

use std::collections::VecDeque;

/// Flows told apart; several may share a place, and then share its turn.
const PLACES: usize = 256;
/// Bytes a new flow may send before it counts as one that sends much.
const NEW_CREDIT: isize = 8 << 10;
/// Bytes of a turn: one superpacket.
const TURN_CREDIT: isize = 64 << 10;

/// Where in the turn a flow stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Standing {
    #[default]
    Idle,
    New,
    Old,
}

#[derive(Debug, Default)]
struct Place<T> {
    waiting: VecDeque<(usize, T)>,
    standing: Standing,
    credit: isize,
}

/// Packets by flow.
#[derive(Debug)]
pub(crate) struct FairQueue<T> {
    places: Vec<Place<T>>,
    /// A packet that waits by itself, and its flow: it competes with nobody, and is found where it was just put.
    only: Option<(u64, usize, T)>,
    new: VecDeque<usize>,
    old: VecDeque<usize>,
    len: usize,
}

impl<T: Default> FairQueue<T> {
    pub(crate) fn new() -> Self {
        let places = (0..PLACES).map(|_| Place::default()).collect();
        Self {
            places,
            only: None,
            new: VecDeque::with_capacity(PLACES),
            old: VecDeque::with_capacity(PLACES),
            len: 0,
        }
    }

    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// Adds a packet of `bytes` to the flow with this hash.
    pub(crate) fn push(&mut self, flow: u64, bytes: usize, packet: T) {
        self.len += 1;
        if self.len == 1 {
            self.only = Some((flow, bytes, packet));
            return;
        }
        if let Some((flow, bytes, packet)) = self.only.take() {
            self.place(flow, bytes, packet);
        }
        self.place(flow, bytes, packet);
    }

    fn place(&mut self, flow: u64, bytes: usize, packet: T) {
        let number = usize::try_from(flow & u64::from(u16::MAX)).unwrap_or(0) % PLACES;
        let Some(place) = self.places.get_mut(number) else { return };
        place.waiting.push_back((bytes, packet));
        if place.standing == Standing::Idle {
            (place.standing, place.credit) = (Standing::New, NEW_CREDIT);
            self.new.push_back(number);
        }
    }

    /// Takes the packet whose turn it is, with its length.
    pub(crate) fn pop(&mut self) -> Option<(usize, T)> {
        if let Some((_, bytes, packet)) = self.only.take() {
            self.len = 0;
            return Some((bytes, packet));
        }
        loop {
            let (number, is_new) = match self.new.front() {
                Some(number) => (*number, true),
                None => (*self.old.front()?, false),
            };
            let place = self.places.get_mut(number)?;
            if place.credit > 0
                && let Some((bytes, packet)) = place.waiting.pop_front()
            {
                place.credit = place.credit.saturating_sub_unsigned(bytes);
                self.len -= 1;
                return Some((bytes, packet));
            }
            let list = if is_new { &mut self.new } else { &mut self.old };
            list.pop_front();
            if place.waiting.is_empty() && !is_new {
                place.standing = Standing::Idle;
            } else {
                // A new flow without packets stays for a turn among the old ones, or it would be new at once again.
                place.standing = Standing::Old;
                place.credit = place.credit.min(0).saturating_add(TURN_CREDIT);
                self.old.push_back(number);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sparse_flow_passes_a_bulk_flow_and_order_within_a_flow_stays() {
        let mut queue = FairQueue::new();
        for number in 0..20 {
            queue.push(1, 60_000, number);
        }
        assert_eq!(queue.pop(), Some((60_000, 0)));
        queue.push(2, 84, 100);
        assert_eq!(queue.pop(), Some((84, 100)), "the sparse flow goes first");
        for number in 1..5 {
            assert_eq!(queue.pop(), Some((60_000, number)));
        }
        queue.push(2, 84, 101);
        assert!((0..2).filter_map(|_| queue.pop()).any(|(_, number)| number == 101));
        while queue.pop().is_some() {}
        assert_eq!(queue.len(), 0);
    }

    #[test]
    fn bulk_flows_share_by_turns_and_nothing_is_lost() {
        let mut queue = FairQueue::new();
        for number in 0..40 {
            queue.push(u64::from(number % 4u32), 60_000, number);
        }
        let order: Vec<_> = std::iter::from_fn(|| queue.pop()).map(|(_, number)| number).collect();
        assert_eq!(order.len(), 40);
        for window in order[8..].chunks(8) {
            assert!((0..4).all(|flow| window.iter().any(|number| number % 4 == flow)), "{order:?}");
        }
        for flow in 0..4 {
            let of_flow: Vec<_> = order.iter().filter(|number| **number % 4 == flow).collect();
            assert!(of_flow.is_sorted());
        }
    }

    #[test]
    fn a_flow_that_pretends_to_be_new_again_and_again_does_not_starve_the_others() {
        let mut queue = FairQueue::new();
        for number in 0..10 {
            queue.push(1, 60_000, number);
        }
        let mut bulk = 0;
        for round in 0..200 {
            queue.push(2, 1400, 1000 + round);
            if queue.pop().is_some_and(|(_, number)| number < 1000) {
                bulk += 1;
            }
        }
        assert!(bulk >= 3, "{bulk} of 10");
    }
}
