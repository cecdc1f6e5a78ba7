//! From spoke to spoke: what one peer sent is sealed for another at the place where it was opened.

use std::ops::Range;

use super::{Context, Inbound, Notice, Outlet};
use crate::Discard;
use crate::line::{Conduit, Errand, Line};
use crate::noise::{Outcome, padded_len};
use crate::offload::{TOO_BIG_BYTES, clamp_mss, too_big};
use crate::stats::Traffic;

/// What a data message adds to its plaintext.
const DATA_OVERHEAD_BYTES: usize = 32;

impl Inbound {
    /// Seals the packets of `self.relay` for another peer, each at the place of the datagram it came in, and
    /// sends them with the same segment size.
    pub(super) fn relay(
        &mut self,
        context: Context<'_>,
        (sender, receiver): (&Conduit, &Conduit),
        buffer: (&mut [u8], usize),
        outlet: &mut impl Outlet,
    ) {
        let (buffer, end) = buffer;
        let mut relay = std::mem::take(&mut self.relay);
        let mut rest = relay.as_slice();
        while let Some(first) = rest.first() {
            let mut line = receiver.lock();
            let (to, mtu) = (line.endpoint, line.mtu);
            let mut refusal = None;
            let mut at = first.start;
            while let Some((range, others)) = rest.split_first() {
                rest = others;
                match self.seal(context, &mut line, range, (&mut *buffer, at, end)) {
                    Ok(len) => {
                        note_sealed(&mut self.bundles, at, len);
                        at = at.saturating_add(len);
                    }
                    Err(discard) => {
                        refusal = Some((discard, range.clone()));
                        break;
                    }
                }
            }
            drop(line);
            for Bundle { range, segment, .. } in self.bundles.drain(..) {
                let (Some(to), Some(datagrams)) = (to, buffer.get(range)) else { continue };
                let count = datagrams.len().div_ceil(segment.max(1));
                self.tally.add(Traffic::Relayed, count);
                self.tally.add(Traffic::TxDatagrams, count);
                outlet.send(&to, datagrams, segment);
            }
            match refusal {
                Some((Discard::ExpiredSession, _)) if !receiver.may_ask(Errand::Unsent, context.now) => {
                    self.tally.discard(Discard::PeerErrandBudget);
                }
                Some((Discard::ExpiredSession, range)) => {
                    let packet = self.plain.get(range).unwrap_or_default().to_vec();
                    outlet.tell(Notice::Unsent { slot: receiver.slot, packet });
                }
                Some((discard, range)) => {
                    self.tally.discard(discard);
                    if discard == Discard::TooBig {
                        self.refuse_too_big(context, sender, mtu, range, outlet);
                    }
                }
                None => {}
            }
        }
        relay.clear();
        self.relay = relay;
    }

    /// Tells the sender of a packet that it is too large for the way to another peer, as often as it may be told.
    fn refuse_too_big(
        &self,
        context: Context<'_>,
        sender: &Conduit,
        mtu: usize,
        range: Range<usize>,
        outlet: &mut impl Outlet,
    ) {
        if !sender.may_ask(Errand::TooBig, context.now) {
            return;
        }
        let mut answer = [0u8; TOO_BIG_BYTES];
        let Some(packet) = self.plain.get(range) else { return };
        let mtu = u16::try_from(mtu).unwrap_or(u16::MAX);
        if let Some(len) = too_big(packet, mtu, &context.tables.own, &mut answer) {
            let packet = answer.get(..len).unwrap_or_default().to_vec();
            outlet.tell(Notice::Unsent { slot: sender.slot, packet });
        }
    }

    /// Seals one packet at `buffer.1`, which is its datagram's place or before it; the length of the new datagram.
    fn seal(
        &mut self,
        context: Context<'_>,
        line: &mut Line,
        range: &Range<usize>,
        buffer: (&mut [u8], usize, usize),
    ) -> Result<usize, Discard> {
        let (buffer, at, end) = buffer;
        if line.endpoint.is_none() {
            return Err(Discard::NoEndpoint);
        }
        if range.len() > line.mtu {
            return Err(Discard::TooBig);
        }
        // The padding behind the packet goes along, as far as the way takes it: the same length means the same place.
        let datagram_end = range.start.saturating_add(context.stride).min(end);
        let padded_end = range.start.saturating_add(padded_len(range.len(), line.mtu));
        let plain_end = datagram_end.saturating_sub(DATA_OVERHEAD_BYTES).min(padded_end).max(range.end);
        if line.mtu < context.tables.mtu
            && let Some(packet) = self.plain.get_mut(range.clone())
        {
            // A connection that opens through a narrow path is told of it, so that nothing larger comes.
            let _ = clamp_mss(packet, u16::try_from(line.mtu).unwrap_or(u16::MAX));
        }
        let packet = self.plain.get(range.start..plain_end).ok_or(Discard::MalformedPacket)?;
        let place = buffer.get_mut(at..).ok_or(Discard::MalformedPacket)?;
        match line.seal(packet, place, context.now) {
            Outcome::Network(len) => Ok(len),
            Outcome::Refused(discard) => Err(discard),
            Outcome::Done | Outcome::Packet(_) | Outcome::Expired => Err(Discard::ExpiredSession),
        }
    }
}

/// Sealed datagrams that lie behind each other, all of one length but the last, which may be shorter.
#[derive(Debug)]
pub(super) struct Bundle {
    range: Range<usize>,
    segment: usize,
    is_closed: bool,
}

/// Adds the datagram of `len` bytes at `at` to the last bundle, or begins another.
fn note_sealed(bundles: &mut Vec<Bundle>, at: usize, len: usize) {
    let end = at.saturating_add(len);
    match bundles.last_mut() {
        Some(last) if !last.is_closed && last.range.end == at && len <= last.segment => {
            last.range.end = end;
            last.is_closed = len < last.segment;
        }
        Some(_) | None => bundles.push(Bundle { range: at..end, segment: len, is_closed: false }),
    }
}
