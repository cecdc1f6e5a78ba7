//! What the netstack knows of a flow's sequence numbers, from the segments it sees pass.
//!
//! smoltcp keeps its own and shows none of them. These serve what smoltcp leaves out: how much is in flight,
//! whether the receive buffer holds anything after a hole, what lies beyond the window, and how an
//! acknowledgement is put to smoltcp ([`Track::acknowledge`]):
//!
//! - smoltcp counts acknowledgements, not bytes: its window grows by one segment with each, however much it
//!   acknowledges. A peer that acknowledges a batch at once would open it slowly, so that acknowledgement
//!   is shown to smoltcp in steps of one segment, as if it had come in parts (RFC 3465 asks the same of a sender).
//! - smoltcp leaves fast recovery with the first new acknowledgement, and then waits for its timer where more
//!   than one segment of a window was lost. An acknowledgement that ends short of what was sent before the
//!   loss says that the next segment is lost too (RFC 6582, section 3.2, step 3): it is shown three times more,
//!   which makes smoltcp send that segment at once.
//! - smoltcp scales its window down without care for the rest, so that the window's end moves back by up to 127
//!   bytes where its buffer is nearly full (RFC 9293, section 3.8.6, asks a receiver not to). What the peer sent up
//!   to the former end lies beyond the new one, and so does every bare acknowledgement after it. smoltcp drops
//!   those with what they acknowledge, and with both directions full each end waits for the other for ever: their
//!   acknowledgement is shown alone, where the window begins (section 3.10.7.4 wants it taken).
//! - smoltcp sends nothing again that was in flight when a window closed, not even once it opens: it takes its timer
//!   for probes. Such a window is shown as one of a single unit, so that the timer sends; what is in flight comes
//!   again as soon as the peer tells of room.

use crate::segment::Segment;

/// Steps in which one acknowledgement is shown at most; the largest one of a batch takes 46 of full size.
const STEPS_MAX: u32 = 64;

/// No receive window is larger; see [`FlowSocket::new`](crate::sys::flow_socket::FlowSocket::new).
const WINDOW_MAX: usize = 64 << 20;

/// Sequence numbers of one flow.
#[derive(Debug, Default)]
pub(crate) struct Track {
    /// Highest acknowledgement that the peer sent.
    acknowledged: Option<u32>,
    /// What follows the last byte that was ever sent.
    next: Option<u32>,
    /// What smoltcp acknowledged last.
    told: Option<u32>,
    /// Where the window ends that it told with that.
    window_end: Option<u32>,
    /// Bits by which smoltcp scales that window.
    scale: u32,
    /// What follows the last byte that came in order; ahead of `told` while an acknowledgement is due.
    in_order: Option<u32>,
    /// What follows the last byte that came at all.
    edge: Option<u32>,
    /// What had been sent when a loss was repaired; `None` outside of recovery.
    recover: Option<u32>,
    /// The timer ran out, and everything up to here is sent once more.
    resend_until: Option<u32>,
    /// The peer closed its window over what was in flight, and has not opened it since.
    is_shut_out: bool,
}

/// How an acknowledgement is put to smoltcp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Acknowledgement {
    /// The number before the first step.
    pub(crate) from: u32,
    /// Bytes of a step; the last one is the packet itself.
    pub(crate) step: u32,
    /// Steps before the packet itself.
    pub(crate) steps: u32,
    /// Times that the packet is shown again.
    pub(crate) repeats: u32,
    /// The window is closed over what is in flight, and to be shown as [`SHUT_WINDOW`].
    pub(crate) is_shut_out: bool,
}

/// A window that is closed over what is in flight, as smoltcp is shown it; in units of the peer's scale.
pub(crate) const SHUT_WINDOW: u16 = 1;

impl Track {
    /// Follows a socket that can receive `capacity` bytes.
    pub(crate) fn new(capacity: usize) -> Self {
        // As smoltcp does. It does not scale for a peer that knows no scaling, and then cuts nothing off either.
        let scale = (usize::BITS - capacity.leading_zeros()).saturating_sub(16);
        Self { scale, ..Self::default() }
    }

    /// Learns of a segment that the flow sends.
    pub(crate) fn note_sent(&mut self, segment: &Segment) {
        if let Some(acknowledged) = segment.acknowledged {
            self.window_end = Some(acknowledged.wrapping_add(u32::from(segment.window) << self.scale));
            advance(&mut self.told, acknowledged);
            advance(&mut self.in_order, acknowledged);
        }
        let is_keepalive = self.acknowledged.is_some_and(|oldest| is_before(segment.sequence, oldest));
        if segment.span == 0 || is_keepalive {
            return;
        }
        let is_again = self.next.is_some_and(|next| is_before(segment.sequence, next));
        if is_again && segment.length > 0 {
            if self.acknowledged == Some(segment.sequence) && self.resend_until.is_none() {
                self.recover = self.recover.or(self.next);
            } else {
                // Not the oldest one: the timer sends everything again, and needs no help.
                (self.recover, self.resend_until) = (None, self.next);
            }
        }
        advance(&mut self.next, segment.sequence.wrapping_add(segment.span));
    }

    /// Learns of a segment that the flow receives, before smoltcp does, and says how to acknowledge with it.
    ///
    /// `step` is the size of a full segment, in bytes.
    pub(crate) fn note_received(&mut self, segment: &Segment, step: u32) -> Acknowledgement {
        if segment.span > 0 {
            let mut end = segment.sequence.wrapping_add(segment.span);
            let reach = self.reach(segment);
            if let Some(window_end) = self.window_end.filter(|window_end| is_before(*window_end, end)) {
                end = window_end;
            }
            if self.in_order.is_none_or(|in_order| in_order == segment.sequence) {
                advance(&mut self.in_order, end);
            }
            // smoltcp keeps nothing beyond its window, so what lies further leaves nothing behind.
            if reach <= WINDOW_MAX {
                advance(&mut self.edge, end);
            }
        }
        match segment.acknowledged {
            Some(to) => self.acknowledge(segment, to, step.max(1)),
            None => Acknowledgement { from: 0, step: 0, steps: 0, repeats: 0, is_shut_out: false },
        }
    }

    fn acknowledge(&mut self, segment: &Segment, to: u32, step: u32) -> Acknowledgement {
        let is_known = self.next.is_some_and(|next| !is_before(next, to));
        let is_older = self.acknowledged.is_some_and(|from| is_before(to, from));
        let was_shut_out = self.is_shut_out;
        if is_known && !is_older {
            self.is_shut_out = segment.window == 0 && self.next != Some(to);
        }
        let is_let_in = was_shut_out && !self.is_shut_out && self.next != Some(to);
        let repeats = if is_let_in && segment.length == 0 { 3 } else { 0 };
        let is_shut_out = self.is_shut_out && !is_older;
        let whole = Acknowledgement { from: to, step, steps: 0, repeats, is_shut_out };
        let Some(from) = self.acknowledged else {
            if is_known {
                self.acknowledged = Some(to);
            }
            return whole;
        };
        if !is_known || !is_before(from, to) {
            return whole;
        }
        self.acknowledged = Some(to);
        self.resend_until = self.resend_until.filter(|until| is_before(to, *until));
        self.recover = self.recover.filter(|recover| is_before(to, *recover));
        if segment.length > 0 || !segment.is_plain {
            return whole;
        }
        let count = to.wrapping_sub(from);
        let step = step.max(count.div_ceil(STEPS_MAX));
        let steps = count.div_ceil(step).saturating_sub(1);
        let repeats = if self.recover.is_some() { 3 } else { repeats };
        Acknowledgement { from, step, steps, repeats, is_shut_out }
    }

    /// Where the acknowledgement of `segment` is to stand, if smoltcp takes nothing of it for being beyond the window.
    ///
    /// Ask before [`Self::note_received`].
    pub(crate) fn beyond(&self, segment: &Segment) -> Option<u32> {
        let is_next = segment.span == 0 && self.in_order == Some(segment.sequence);
        let is_beyond = !is_next && !is_before(segment.sequence, self.window_end?);
        self.in_order.filter(|_| is_beyond)
    }

    /// True where smoltcp takes a part of the data of `segment` at most, and so not what follows it.
    pub(crate) fn is_cut(&self, segment: &Segment) -> bool {
        let end = segment.sequence.wrapping_add(segment.length);
        self.window_end.is_some_and(|window_end| is_before(window_end, end))
    }

    /// What smoltcp acknowledged last.
    pub(crate) const fn told(&self) -> Option<u32> {
        self.told
    }

    /// Bytes sent and not acknowledged.
    pub(crate) fn in_flight(&self) -> usize {
        let (Some(next), Some(acknowledged)) = (self.next, self.acknowledged) else { return 0 };
        usize::try_from(next.wrapping_sub(acknowledged)).unwrap_or(0)
    }

    /// Bytes from the next one wanted to the end of `segment`, whether they came or not.
    pub(crate) fn reach(&self, segment: &Segment) -> usize {
        let end = segment.sequence.wrapping_add(segment.span);
        match self.in_order {
            Some(in_order) if is_before(in_order, end) => {
                usize::try_from(end.wrapping_sub(in_order)).unwrap_or(0)
            }
            Some(_) | None => 0,
        }
    }

    /// True where smoltcp holds nothing that came after a hole: it has acknowledged all that ever came.
    pub(crate) fn is_whole(&self) -> bool {
        match (self.told, self.edge) {
            (Some(told), Some(edge)) => !is_before(told, edge),
            (_, None) => true,
            (None, Some(_)) => false,
        }
    }
}

/// RFC 9293, section 3.4: sequence numbers compare by the shorter way round.
const fn is_before(a: u32, b: u32) -> bool {
    b.wrapping_sub(a).wrapping_sub(1) < i32::MAX.unsigned_abs()
}

fn advance(mark: &mut Option<u32>, to: u32) {
    if mark.is_none_or(|mark| is_before(mark, to)) {
        *mark = Some(to);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::Ends;

    /// A segment whose ends do not matter.
    fn segment(sequence: u32, length: u32, acknowledged: u32) -> Segment {
        let end = std::net::SocketAddr::from(([10, 0, 0, 1], 1));
        Segment {
            ends: Ends { local: end, remote: end },
            opens: false,
            is_plain: true,
            sequence,
            acknowledged: Some(acknowledged),
            acknowledged_at: 28,
            window: u16::MAX,
            length,
            span: length,
        }
    }

    /// A flow that has sent ten segments of 1000 bytes from `first`.
    fn sending(first: u32) -> Track {
        let mut track = Track::default();
        track.note_sent(&segment(first, 1000, 7));
        track.note_received(&segment(7, 0, first), 1000);
        for count in 1..10 {
            track.note_sent(&segment(first.wrapping_add(count * 1000), 1000, 7));
        }
        track
    }

    #[test]
    fn an_acknowledgement_is_taken_a_segment_at_a_time_also_where_numbers_wrap() {
        for first in [0_u32, u32::MAX - 1500, 1 << 31] {
            let mut track = sending(first);
            assert_eq!(track.in_flight(), 10_000);
            let how = track.note_received(&segment(7, 0, first.wrapping_add(2500)), 1000);
            let steps = Acknowledgement { from: first, step: 1000, steps: 2, repeats: 0, is_shut_out: false };
            assert_eq!(how, steps);
            assert_eq!(track.in_flight(), 7500);
            // The same once more, an older one, one of what was never sent, and one that carries data.
            for (number, length) in [(2500, 0), (1000, 0), (10_001, 0), (9000, 10)] {
                let how = track.note_received(&segment(7, length, first.wrapping_add(number)), 1000);
                assert_eq!((how.steps, how.repeats), (0, 0), "{number}");
            }
        }
    }

    #[test]
    fn a_partial_acknowledgement_is_repeated_until_the_loss_is_repaired() {
        let mut track = sending(0);
        track.note_sent(&segment(0, 1000, 7));
        assert_eq!(track.note_received(&segment(7, 0, 3000), 1000).repeats, 3);
        track.note_sent(&segment(3000, 1000, 7));
        assert_eq!(track.note_received(&segment(7, 0, 10_000), 1000).repeats, 0);
        track.note_sent(&segment(10_000, 1000, 7));
        assert_eq!(track.note_received(&segment(7, 0, 11_000), 1000).repeats, 0);
    }

    #[test]
    fn after_a_timeout_nothing_is_repeated() {
        let mut track = sending(0);
        track.note_sent(&segment(0, 1000, 7));
        track.note_sent(&segment(1000, 1000, 7));
        for number in [1000, 2000, 5000] {
            assert_eq!(track.note_received(&segment(7, 0, number), 1000).repeats, 0, "{number}");
        }
    }

    #[test]
    fn what_is_in_flight_as_a_window_closes_is_sent_again_once_it_opens() {
        let mut track = sending(0);
        let closed = |number| Segment { window: 0, ..segment(7, 0, number) };
        let how = track.note_received(&closed(4000), 1000);
        assert_eq!((how.steps, how.repeats, how.is_shut_out), (3, 0, true));
        // An older one tells nothing.
        assert!(!track.note_received(&closed(3000), 1000).is_shut_out);
        assert!(track.note_received(&closed(4000), 1000).is_shut_out);
        let opened = track.note_received(&segment(7, 0, 4000), 1000);
        assert_eq!((opened.repeats, opened.is_shut_out), (3, false));
        assert_eq!(track.note_received(&segment(7, 0, 4000), 1000).repeats, 0);
        // Nothing is in flight: the window is closed, and smoltcp probes it.
        assert!(!track.note_received(&closed(10_000), 1000).is_shut_out);
    }

    #[test]
    fn what_is_beyond_the_window_counts_for_nothing() {
        let mut track = Track::new(4 << 20);
        let told = |number, window| Segment { window, ..segment(1, 0, number) };
        track.note_received(&segment(100, 50, 1), 1000);
        assert_eq!(track.beyond(&segment(9000, 0, 1)), None);
        track.note_sent(&told(150, 1));
        assert!(!track.is_cut(&segment(150, 128, 1)));
        assert!(track.is_cut(&segment(150, 129, 1)));
        assert_eq!(track.beyond(&segment(150, 129, 1)), None);
        assert_eq!(track.beyond(&segment(278, 0, 1)), Some(150));
        track.note_received(&segment(150, 129, 1), 1000);
        // Everything up to the window's end came: what follows it is next.
        assert_eq!(track.beyond(&segment(278, 0, 1)), None);
        assert_eq!(track.beyond(&segment(278, 1, 1)), Some(278));
        assert_eq!(track.beyond(&segment(279, 0, 1)), Some(278));
        track.note_sent(&told(278, 0));
        assert!(track.is_whole());
    }

    #[test]
    fn a_hole_is_known_until_it_is_acknowledged() {
        let mut track = Track::default();
        track.note_received(&segment(100, 50, 1), 1000);
        track.note_sent(&segment(1, 0, 150));
        assert!(track.is_whole());
        assert_eq!(track.reach(&segment(200, 50, 1)), 100);
        track.note_received(&segment(200, 50, 1), 1000);
        assert!(!track.is_whole());
        track.note_received(&segment(150, 50, 1), 1000);
        assert!(!track.is_whole());
        track.note_sent(&segment(1, 0, 250));
        assert!(track.is_whole());
    }
}
