//! Echoes for the tunnel itself: signs of life are answered here, the rest goes to the core.

use std::ops::Range;

use super::{Context, Inbound, Notice, Outlet, RUN_SLACK_BYTES};
use crate::echo::{Beat, pace_for};
use crate::line::{Conduit, Errand};
use crate::noise::{Outcome, padded_len};
use crate::packet::{Header, parse_probe};
use crate::stats::Traffic;
use crate::{Discard, Role};

/// Room for a sign of life: an IPv4 echo of 56 bytes and its padding.
const BEAT_BYTES: usize = 64;

impl Inbound {
    /// Takes an echo that is for the tunnel itself; false for every other packet of this machine.
    pub(super) fn take_own(
        &mut self,
        context: Context<'_>,
        sender: &Conduit,
        packet: (&Header, &Range<usize>),
        outlet: &mut impl Outlet,
    ) -> bool {
        let (header, range) = packet;
        let packet_bytes = self.plain.get(range.clone()).unwrap_or_default();
        // Whether its checksum is right is asked only of what looks like one.
        header.unproven_echo(packet_bytes).is_some_and(|echo| context.tables.takes(&echo))
            && (self.answer_beat(context, sender, packet, outlet)
                || self.answer_probe(context, sender, packet, outlet)
                || self.tell_echo(context, sender, packet, outlet))
    }

    /// Answers the sign of life of a peer that the core knows to be alive; false where the core has to see it.
    ///
    /// Thousands of them a second are a hub's idle cost, and waking the core for each would double it.
    fn answer_beat(
        &self,
        context: Context<'_>,
        sender: &Conduit,
        (header, range): (&Header, &Range<usize>),
        outlet: &mut impl Outlet,
    ) -> bool {
        let mut answer = [0u8; BEAT_BYTES];
        let mut datagram = [0u8; BEAT_BYTES + RUN_SLACK_BYTES];
        let Some(packet) = self.plain.get(range.clone()) else { return false };
        let beat =
            header.echo(packet).filter(|echo| echo.is_request).and_then(|echo| Beat::parse(echo.payload));
        let (Some(beat), Some(place)) = (beat, answer.get_mut(..packet.len())) else { return false };
        place.copy_from_slice(packet);
        Beat::write_pace(place, pace_for(context.tables.conduits.len()));
        let mut line = sender.lock();
        if !line.is_alive || header.answer_echo(place).is_none() {
            return false;
        }
        line.handle_beat(beat, context.tables.mtu, context.now);
        let padded = answer.get(..padded_len(packet.len(), line.mtu)).unwrap_or_default();
        let (to, outcome) = (line.endpoint, line.seal_answer(padded, &mut datagram, context.now));
        drop(line);
        let (Some(to), Outcome::Network(len)) = (to, outcome) else { return false };
        self.tally.add(Traffic::TxDatagrams, 1);
        let datagram = datagram.get(..len).unwrap_or_default();
        outlet.send(&to, datagram, datagram.len());
        true
    }

    /// Answers a spoke's question whether a packet of this size passes, the way it came and without padding; false for
    /// every other packet, and on a spoke, where the core knows whose questions count.
    ///
    /// Spokes with large data ask a few times a second: the core's thread has better things to do.
    fn answer_probe(
        &mut self,
        context: Context<'_>,
        sender: &Conduit,
        (header, range): (&Header, &Range<usize>),
        outlet: &mut impl Outlet,
    ) -> bool {
        let Some(packet) = self.plain.get_mut(range.clone()) else { return false };
        let is_probe =
            header.echo(packet).is_some_and(|echo| echo.is_request && parse_probe(echo.payload).is_some());
        if context.tables.role != Role::Hub || !is_probe || header.answer_echo(packet).is_none() {
            return false;
        }
        if !sender.may_ask(Errand::Echo, context.now) {
            self.tally.discard(Discard::PeerErrandBudget);
            return true;
        }
        self.answer.resize(packet.len().saturating_add(RUN_SLACK_BYTES), 0);
        let outcome = sender.lock().seal_answer(packet, &mut self.answer, context.now);
        if let Outcome::Network(len) = outcome {
            self.tally.add(Traffic::TxDatagrams, 1);
            outlet.send(context.from, self.answer.get(..len).unwrap_or_default(), len);
        }
        true
    }

    /// Hands an echo that is for the tunnel itself to the core; false for every other packet.
    fn tell_echo(
        &self,
        context: Context<'_>,
        sender: &Conduit,
        (header, range): (&Header, &Range<usize>),
        outlet: &mut impl Outlet,
    ) -> bool {
        let Some(packet) = self.plain.get(range.clone()) else { return false };
        let is_it = header.echo(packet).is_some_and(|echo| context.tables.takes(&echo));
        if is_it && !sender.may_ask(Errand::Echo, context.now) {
            self.tally.discard(Discard::PeerErrandBudget);
        } else if is_it {
            outlet.tell(Notice::Echo { slot: sender.slot, from: *context.from, packet: packet.to_vec() });
        }
        is_it
    }
}
