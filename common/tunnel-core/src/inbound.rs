//! The fast way in: a run of datagrams of one sender is opened, filtered and passed on in one go.
//!
//! [`Inbound`] is one packet thread's workspace. It touches no other thread's memory but the peers' lines, takes
//! each line's lock once per run of packets, and judges source, destination and policy once per run of a flow.
//! Everything that is not plain traffic leaves as a [`Notice`] for the core.

mod own;
mod relay;

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use self::relay::Bundle;
use crate::line::{Conduit, Errand, is_data};
use crate::message::{Message, slot};
use crate::noise::{Outcome, REJECT_COUNTER};
use crate::packet::Header;
use crate::stats::{Tally, Traffic};
use crate::tables::{Tables, Way};
use crate::{Discard, Endpoint};

/// Largest run of datagrams in bytes: what one receive call brings.
pub const RUN_BYTES: usize = 65_536;
/// What a buffer of datagrams is longer than they are: the library wants more room than it uses.
pub const RUN_SLACK_BYTES: usize = 256;

/// Something for the core that a packet thread came upon.
#[derive(Debug)]
pub enum Notice {
    /// A handshake message or cookie reply; its first MAC was found to be for our key.
    Handshake {
        /// Where it came from.
        from: Endpoint,
        /// The message.
        datagram: Vec<u8>,
    },
    /// A peer began to use a session that we answered for.
    Begun {
        /// Whose.
        slot: u32,
    },
    /// A peer is reached elsewhere than before.
    Roamed {
        /// Who.
        slot: u32,
    },
    /// A packet for a peer without a session.
    Unsent {
        /// Whose.
        slot: u32,
        /// The packet.
        packet: Vec<u8>,
    },
    /// Packets above the least MTU begin to flow to a peer.
    Large {
        /// Whose.
        slot: u32,
    },
    /// An echo for the tunnel itself.
    Echo {
        /// Who sent it.
        slot: u32,
        /// The way it came.
        from: Endpoint,
        /// The packet.
        packet: Vec<u8>,
    },
}

/// Where a packet thread's results go.
pub trait Outlet {
    /// A packet for the local stack: `packets[range]`, alone where no other one of this run is. Its content may be
    /// changed, and stays until [`Self::finish`].
    fn deliver(&mut self, packets: &mut [u8], range: Range<usize>, is_alone: bool);
    /// No further packet of this run comes.
    fn finish(&mut self, packets: &mut [u8]);
    /// Datagrams of `segment` bytes each, the last may be shorter, to be sent now.
    fn send(&mut self, to: &Endpoint, datagrams: &[u8], segment: usize);
    /// Something for the core.
    fn tell(&mut self, notice: Notice);
}

/// One packet thread's workspace for what arrives.
#[derive(Debug)]
pub struct Inbound {
    plain: Vec<u8>,
    opened: Vec<Range<usize>>,
    relay: Vec<Range<usize>>,
    bundles: Vec<Bundle>,
    /// The answer to a probe.
    answer: Vec<u8>,
    tally: Arc<Tally>,
}

/// What was decided about the packet before, good for the next one of the same flow.
#[derive(Clone, Copy)]
struct Decided<'a> {
    header: Header,
    ports: (u16, u16),
    is_tcp_answer: bool,
    way: Way<'a>,
}

/// What all steps of one call need.
#[derive(Clone, Copy)]
struct Context<'a> {
    tables: &'a Tables,
    from: &'a Endpoint,
    stride: usize,
    now: Instant,
}

impl Inbound {
    /// Makes a workspace that counts into `tally`.
    #[must_use]
    pub fn new(tally: Arc<Tally>) -> Self {
        let plain = vec![0; RUN_BYTES + RUN_SLACK_BYTES];
        Self {
            plain,
            opened: Vec::with_capacity(64),
            relay: Vec::with_capacity(64),
            bundles: Vec::new(),
            answer: Vec::new(),
            tally,
        }
    }

    /// Takes datagrams of `stride` bytes each, the last may be shorter, that came from `from`: the first `len`
    /// bytes of `buffer`, which is [`RUN_SLACK_BYTES`] longer and is overwritten.
    ///
    /// What is longer than [`RUN_BYTES`] is not looked at.
    #[expect(
        clippy::too_many_arguments,
        reason = "called once per run of packets, each argument its own thing"
    )]
    pub fn handle(
        &mut self,
        tables: &Tables,
        from: &Endpoint,
        buffer: &mut [u8],
        len: usize,
        stride: usize,
        now: Instant,
        outlet: &mut impl Outlet,
    ) {
        let stride = stride.max(1);
        let len = len.min(buffer.len().saturating_sub(RUN_SLACK_BYTES)).min(RUN_BYTES);
        let context = Context { tables, from, stride, now };
        self.tally.add(Traffic::RxDatagrams, len.div_ceil(stride));
        let mut at = 0;
        while at < len {
            let end = run_end(buffer, at, stride, len);
            match buffer.get(at..end).map(Message::parse) {
                Some(Some(Message::Data { receiver, .. })) => {
                    self.handle_run(context, buffer, at..end, receiver, outlet);
                }
                message => {
                    let datagram = buffer.get(at..end).unwrap_or_default();
                    self.handle_other(context, message.flatten(), datagram, outlet);
                }
            }
            at = end;
        }
    }

    fn handle_other(
        &self,
        context: Context<'_>,
        message: Option<Message>,
        datagram: &[u8],
        outlet: &mut impl Outlet,
    ) {
        let Context { tables, from, .. } = context;
        let is_known = |receiver| tables.conduits.contains_key(&slot(receiver));
        match message {
            None | Some(Message::Data { .. }) => self.tally.discard(Discard::NotWireGuard),
            Some(Message::Response { receiver, .. } | Message::Cookie { receiver })
                if !is_known(receiver) =>
            {
                self.tally.discard(Discard::UnknownIndex);
            }
            Some(Message::Initiation { .. } | Message::Response { .. })
                if !tables.macs.check(from.remote.ip(), datagram) =>
            {
                self.tally.discard(Discard::InvalidMac);
            }
            Some(Message::Initiation { .. } | Message::Response { .. } | Message::Cookie { .. }) => {
                outlet.tell(Notice::Handshake { from: *from, datagram: datagram.to_vec() });
            }
        }
    }

    /// Opens a run of data messages to one index and passes the packets on.
    fn handle_run(
        &mut self,
        context: Context<'_>,
        buffer: &mut [u8],
        run: Range<usize>,
        receiver: u32,
        outlet: &mut impl Outlet,
    ) {
        let Some(sender) = context.tables.conduits.get(&slot(receiver)) else {
            self.tally.discard(Discard::UnknownIndex);
            return;
        };
        let datagrams = buffer.get(run.clone()).unwrap_or_default();
        self.open(context, sender, datagrams, run.start, outlet);
        self.pass_on(context, sender, (buffer, run.end), outlet);
        self.opened.clear();
        outlet.finish(&mut self.plain);
    }

    /// Opens `run` into `plain`, each packet at its datagram's place.
    fn open(
        &mut self,
        context: Context<'_>,
        sender: &Conduit,
        run: &[u8],
        start: usize,
        outlet: &mut impl Outlet,
    ) {
        let Context { from, stride, now, .. } = context;
        let (mut is_roamed, mut is_begun, mut is_large) = (false, false, false);
        let mut line = sender.lock();
        for (at, datagram) in (start..).step_by(stride).zip(run.chunks(stride)) {
            let Some(buffer) = self.plain.get_mut(at..) else { break };
            let receiver = match Message::parse(datagram) {
                Some(Message::Data { receiver, counter }) if counter < REJECT_COUNTER => receiver,
                Some(Message::Data { .. }) => {
                    self.tally.discard(Discard::CounterLimit);
                    continue;
                }
                _ => {
                    self.tally.discard(Discard::NotWireGuard);
                    continue;
                }
            };
            let opened = line.open(from, datagram, receiver, buffer, now);
            is_roamed |= opened.is_roamed;
            is_begun |= opened.is_begun;
            is_large |= opened.is_large;
            match opened.outcome {
                Outcome::Packet(len) => self.opened.push(at..at + len),
                Outcome::Refused(discard) => self.tally.discard(discard),
                Outcome::Done | Outcome::Network(_) | Outcome::Expired => {}
            }
        }
        drop(line);
        if is_begun {
            outlet.tell(Notice::Begun { slot: sender.slot });
        }
        if is_large {
            outlet.tell(Notice::Large { slot: sender.slot });
        }
        if is_roamed && sender.may_ask(Errand::Roam, now) {
            outlet.tell(Notice::Roamed { slot: sender.slot });
        }
    }

    /// Filters what was opened and hands it to whom it is for. Datagrams of the run end at `buffer.1`.
    fn pass_on(
        &mut self,
        context: Context<'_>,
        sender: &Conduit,
        buffer: (&mut [u8], usize),
        outlet: &mut impl Outlet,
    ) {
        let (buffer, end) = buffer;
        let mut decided: Option<Decided<'_>> = None;
        let mut relay_to: Option<&Conduit> = None;
        let mut delivered = 0;
        let is_alone = self.opened.len() == 1;
        for number in 0..self.opened.len() {
            let Some(range) = self.opened.get(number).cloned() else { break };
            match self.decide(context, sender, &range, &mut decided) {
                Err(discard) => self.tally.discard(discard),
                Ok(Way::Local) => {
                    let header = decided.as_ref().map(|decided| decided.header);
                    if header.is_some_and(|header| self.take_own(context, sender, (&header, &range), outlet))
                    {
                        continue;
                    }
                    outlet.deliver(&mut self.plain, range, is_alone);
                    delivered += 1;
                }
                Ok(Way::Relay(receiver)) => {
                    let follows =
                        self.relay.last().is_some_and(|last| last.start + context.stride == range.start);
                    match relay_to.replace(receiver) {
                        Some(before) if !follows || before.slot != receiver.slot => {
                            self.relay(context, (sender, before), (&mut *buffer, end), outlet);
                        }
                        Some(_) | None => {}
                    }
                    self.relay.push(range);
                }
            }
        }
        if let Some(receiver) = relay_to {
            self.relay(context, (sender, receiver), (buffer, end), outlet);
        }
        if delivered > 0 {
            self.tally.add(Traffic::Delivered, delivered);
        }
    }

    /// Says where an opened packet goes, and takes a hop from one that goes on.
    fn decide<'a>(
        &mut self,
        context: Context<'a>,
        sender: &Conduit,
        range: &Range<usize>,
        decided: &mut Option<Decided<'a>>,
    ) -> Result<Way<'a>, Discard> {
        let packet = self.plain.get_mut(range.clone()).ok_or(Discard::MalformedPacket)?;
        let header = Header::parse(packet)?;
        let ports = header.ports(packet);
        let is_tcp_answer = header.is_tcp_answer(packet);
        let is_same = |before: &Decided<'_>| {
            before.header == header
                && (before.ports, before.is_tcp_answer) == (ports, is_tcp_answer)
                && header.has_ports()
        };
        let way = match decided {
            Some(before) if is_same(before) => before.way,
            _ => {
                let way = context.tables.way_of(&header, packet, sender, context.now)?;
                *decided = Some(Decided { header, ports, is_tcp_answer, way });
                way
            }
        };
        if matches!(way, Way::Relay(_)) {
            header.pass_hop(packet)?;
        }
        Ok(way)
    }
}

/// Where the run of data messages to the same index ends that begins at `at`; one datagram where it is none.
fn run_end(datagrams: &[u8], at: usize, stride: usize, len: usize) -> usize {
    let head = |at: usize| datagrams.get(at..).and_then(|rest| rest.first_chunk::<8>());
    let first = head(at).filter(|head| is_data(head.as_slice()));
    let mut end = at.saturating_add(stride).min(len);
    while first.is_some() && end < len && head(end) == first {
        end = end.saturating_add(stride).min(len);
    }
    end
}
