//! What the netstack does with packets that come in.

use std::sync::Arc;
use std::time::Instant;

use smoltcp::wire::IpListenEndpoint;

use super::table::Origin;
use super::{Netstack, UdpTable};
use crate::checksum;
use crate::device::{Sink, Wire};
use crate::flow::{Flow, FlowId, FlowState};
use crate::segment::{Ends, Ip, Protocol, Segment};
use crate::track::{Acknowledgement, SHUT_WINDOW};

/// The flow of the packet before: packets come in runs.
type Last = Option<(Ends, FlowId, Arc<Flow>)>;

impl Netstack {
    /// Takes IP packets that peers sent to our addresses, a batch at a time.
    ///
    /// What they ask for at once goes to `sink`, all else follows with [`Self::handle_work`]: call that after
    /// each batch, so that one acknowledgement answers all of it. The packets are written to, and hold nothing
    /// of use afterwards.
    pub(crate) fn handle_batch<'p>(
        &mut self,
        packets: impl IntoIterator<Item = &'p mut [u8]>,
        now: Instant,
        sink: &mut impl Sink,
    ) {
        let mut last = None;
        for packet in packets {
            self.handle_packet(packet, now, sink, &mut last);
        }
    }

    fn handle_packet(&mut self, packet: &mut [u8], now: Instant, sink: &mut impl Sink, last: &mut Last) {
        let Some(ip) = Ip::parse(packet) else {
            self.refusals.unreadable += 1;
            return;
        };
        if !checksum::is_intact(packet, &ip) {
            self.refusals.bad_checksum += 1;
            return;
        }
        match ip.protocol {
            Protocol::Tcp => self.handle_segment(packet, &ip, now, sink, last),
            Protocol::Udp => self.udp.handle(packet, &ip, now, &mut self.refusals, sink),
            Protocol::IcmpV4 | Protocol::IcmpV6 => {
                if !self.udp.handle_unreachable(packet, &ip) {
                    self.answer_as_nobody(packet, now, sink);
                }
            }
            Protocol::Other => self.answer_as_nobody(packet, now, sink),
        }
    }

    fn handle_segment(
        &mut self,
        packet: &mut [u8],
        ip: &Ip,
        now: Instant,
        sink: &mut impl Sink,
        last: &mut Last,
    ) {
        let Some(segment) = Segment::read(packet, ip) else {
            self.refusals.unreadable += 1;
            return;
        };
        if last.as_ref().is_none_or(|(ends, ..)| *ends != segment.ends) {
            let found = self.flow_for(&segment);
            *last = found.and_then(|id| Some((segment.ends, id, Arc::clone(&self.flows.entry(id)?.flow))));
        }
        let Some((_, id, flow)) = last else {
            self.refusals.no_flow += 1;
            return self.answer_as_nobody(packet, now, sink);
        };
        self.at_work = Some(*id);
        #[cfg(test)]
        assert!(!packet.ends_with(crate::tests::POISON), "a test wants a panic");
        let mut state = flow.lock();
        if state.may_hold(&segment) {
            self.feed(&mut state, packet, &segment, now, sink);
        } else {
            self.refuse(&mut state, packet, &segment, now, sink);
        }
        drop(state);
        self.at_work = None;
        let id = *id;
        self.enqueue(id);
    }

    /// Shows a segment to the flow's socket, in the steps that `track` describes.
    fn feed(
        &mut self,
        state: &mut FlowState,
        packet: &mut [u8],
        segment: &Segment,
        now: Instant,
        sink: &mut impl Sink,
    ) {
        let at = self.clock(now);
        let FlowState { socket, track, .. } = state;
        let full = self.config.mtu.saturating_sub(if segment.ends.local.is_ipv4() { 40 } else { 60 });
        let (beyond, is_cut) = (track.beyond(segment), track.is_cut(segment));
        let Acknowledgement { from, step, steps, repeats, is_shut_out } =
            track.note_received(segment, full.into());
        let (interface, refusals) = (&mut self.interface, &mut self.refusals);
        let mut show = |packet: &[u8]| {
            let mut wire = Wire::new(self.config.mtu, sink).tracked(track).offering(packet);
            socket.sockets(|sockets| interface.poll_ingress_single(at, &mut wire, sockets));
            refusals.no_room += wire.dropped();
        };
        if is_shut_out {
            segment.put_window(packet, SHUT_WINDOW);
        }
        if is_cut {
            // smoltcp would take the end of the stream without the data before it.
            segment.clear_fin(packet);
        }
        let packet = match beyond {
            Some(sequence) => {
                show(packet);
                match segment.strip(packet, sequence) {
                    Some(packet) => packet,
                    None => return,
                }
            }
            None => packet,
        };
        for count in 1..=steps {
            put(packet, segment.acknowledged_at, from.wrapping_add(count.wrapping_mul(step)));
            show(packet);
        }
        if let Some(acknowledged) = segment.acknowledged
            && steps > 0
        {
            put(packet, segment.acknowledged_at, acknowledged);
        }
        for _ in 0..=repeats {
            show(packet);
        }
    }

    /// Drops a segment for whose data there is no memory, but lets its sender know that we are alive.
    ///
    /// smoltcp acknowledges data that lies before its window, and does nothing else with it: the segment is
    /// shown as one that ends where the window begins.
    fn refuse(
        &mut self,
        state: &mut FlowState,
        packet: &mut [u8],
        segment: &Segment,
        now: Instant,
        sink: &mut impl Sink,
    ) {
        let at = self.clock(now);
        let FlowState { socket, track, .. } = state;
        let Some(begin) = track.told() else { return };
        put(packet, segment.acknowledged_at.saturating_sub(4), begin.wrapping_sub(segment.span));
        let mut wire = Wire::new(self.config.mtu, sink).tracked(track).offering(packet);
        socket.sockets(|sockets| self.interface.poll_ingress_single(at, &mut wire, sockets));
        self.refusals.no_room += wire.dropped();
    }

    /// Answers what is for nobody here as a host without listeners does.
    fn answer_as_nobody(&mut self, packet: &[u8], now: Instant, sink: &mut impl Sink) {
        let at = self.clock(now);
        let mut wire = Wire::new(self.config.mtu, sink).offering(packet);
        self.interface.poll_ingress_single(at, &mut wire, &mut self.nobody);
        self.refusals.no_room += wire.dropped();
    }

    fn flow_for(&mut self, segment: &Segment) -> Option<FlowId> {
        match self.flows.find(&segment.ends) {
            None if segment.opens => self.begin_accept(segment.ends),
            found => found,
        }
    }

    /// Makes a socket for a SYN, where somebody listens and there is room.
    fn begin_accept(&mut self, ends: Ends) -> Option<FlowId> {
        let port = ends.local.port();
        if !self.config.addresses.contains(ends.local.ip()) {
            return None;
        }
        if self.listeners.get(&port)?.is_closed() {
            self.listeners.remove(&port);
            return None;
        }
        if !self.listeners.get_mut(&port)?.begin() {
            self.refusals.backlog_full += 1;
            return None;
        }
        let Some(slot) = self.take_slot() else {
            self.end_opening(port);
            return None;
        };
        let mut state = FlowState::new(self.config.buffer_bytes, &self.budget);
        let endpoint = IpListenEndpoint { addr: Some(ends.local.ip().into()), port };
        if state.with(|socket| socket.listen(endpoint)).is_err() {
            self.end_opening(port);
            return None;
        }
        Some(self.add(ends, state, slot, Origin::Opening { port }).id())
    }

    /// Sorts what rang by who is to serve it.
    pub(super) fn take_rung(&mut self) {
        let mut rung = std::mem::take(&mut self.rung);
        self.bell.drain(&mut rung);
        for id in rung.drain(..) {
            if UdpTable::owns(id) { self.udp.enqueue(id) } else { self.enqueue(id) }
        }
        self.rung = rung;
    }
}

/// Writes a sequence number into a segment whose checksum has been read.
fn put(packet: &mut [u8], at: usize, number: u32) {
    let place = packet.get_mut(at..).and_then(<[u8]>::first_chunk_mut::<4>);
    if let Some(place) = place {
        *place = number.to_be_bytes();
    }
}
