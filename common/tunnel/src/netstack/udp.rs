//! UDP ports and flows by what they are found by, and what they send.
//!
//! smoltcp's UDP is not used: its sockets copy each datagram into a ring of their own between ours and the
//! wire, know one address each, report nothing of an ICMP error, and a set of them is walked for each
//! packet. What is left of UDP without them is a header of eight bytes.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Refusals, build};
use crate::datagram::{PortFlow, PortSocket, UdpPort};
use crate::device::Sink;
use crate::flow::FlowId;
use crate::segment::{Ends, Ip, Protocol};

/// Marks the identities of UDP ports, apart from those of TCP flows.
const UDP_IDS: FlowId = 1 << 63;
/// Datagrams that one port may send before it is another one's turn.
const DATAGRAMS_PER_SERVICE: usize = 32;
/// Refusals that may leave at once, and the pause for one more: Linux's `icmp_msgs_burst`, and a tenth of its
/// `icmp_msgs_per_sec`, since there is one peer where Linux has a network.
const ERRORS_BURST: u32 = 50;
const ERROR_EVERY: Duration = Duration::from_millis(10);

/// The UDP side of a netstack.
#[derive(Debug)]
pub(super) struct UdpTable {
    bound: HashMap<u16, Arc<UdpPort>>,
    flows: HashMap<Ends, Arc<UdpPort>>,
    by_id: HashMap<FlowId, (Arc<UdpPort>, Option<Ends>)>,
    /// Whose turn it is at this moment.
    serving: Option<FlowId>,
    waiting: VecDeque<FlowId>,
    last_id: FlowId,
    errors_left: u32,
    errors_since: Instant,
}

impl UdpTable {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            bound: HashMap::new(),
            flows: HashMap::new(),
            by_id: HashMap::new(),
            serving: None,
            waiting: VecDeque::new(),
            last_id: UDP_IDS,
            errors_left: ERRORS_BURST,
            errors_since: now,
        }
    }

    /// True for the identity of a UDP port.
    pub(super) const fn owns(id: FlowId) -> bool {
        id >= UDP_IDS
    }

    pub(super) const fn next_id(&mut self) -> FlowId {
        self.last_id += 1;
        self.last_id
    }

    /// True where somebody has bound the port.
    pub(super) fn is_bound(&self, number: u16) -> bool {
        self.bound.get(&number).is_some_and(|port| !port.is_abandoned())
    }

    /// True where the pair of ends is in use, or its port is bound.
    pub(super) fn is_taken(&self, ends: &Ends) -> bool {
        self.flows.contains_key(ends) || self.is_bound(ends.local.port())
    }

    /// Adds a bound port, in the place of one whose socket is gone.
    pub(super) fn bind(&mut self, port: Arc<UdpPort>) -> PortSocket {
        if let Some(former) = self.bound.insert(port.number(), Arc::clone(&port)) {
            self.by_id.remove(&former.id());
        }
        self.by_id.insert(port.id(), (Arc::clone(&port), None));
        PortSocket::new(port)
    }

    /// Adds a connected flow.
    pub(super) fn connect(&mut self, port: Arc<UdpPort>, ends: Ends) -> PortFlow {
        self.flows.insert(ends, Arc::clone(&port));
        self.by_id.insert(port.id(), (Arc::clone(&port), Some(ends)));
        PortFlow::new(port, ends.local, ends.remote)
    }

    /// Takes a datagram for one of our addresses.
    pub(super) fn handle(
        &mut self,
        packet: &[u8],
        ip: &Ip,
        now: Instant,
        refusals: &mut Refusals,
        sink: &mut impl Sink,
    ) {
        let Some((ends, data)) = read(packet, ip) else {
            refusals.unreadable += 1;
            return;
        };
        let port = self.flows.get(&ends).or_else(|| self.bound.get(&ends.local.port()));
        if let Some(port) = port.filter(|port| !port.is_abandoned()) {
            refusals.udp_queue_full += u64::from(!port.deliver(ends.remote, data));
            return;
        }
        refusals.no_udp_port += 1;
        if self.may_report(now) && sink.has_room() {
            let quote = build::quotable(packet, &ip.source);
            let length = build::header_bytes(&ip.source) + 8 + quote.len();
            sink.emit(length, |buffer| build::write_unreachable(buffer, ip.destination, ip.source, quote));
        } else {
            refusals.icmp_limited += 1;
        }
    }

    /// Takes an ICMP message; true where it says that a flow's other end does not listen.
    pub(super) fn handle_unreachable(&self, packet: &[u8], ip: &Ip) -> bool {
        let expected = match ip.protocol {
            Protocol::IcmpV4 => [3, 3],
            Protocol::IcmpV6 => [1, 4],
            Protocol::Tcp | Protocol::Udp | Protocol::Other => return false,
        };
        let content = packet.get(ip.start..ip.end).unwrap_or_default();
        if content.first_chunk() != Some(&expected) {
            return false;
        }
        let quote = content.get(8..).unwrap_or_default();
        let sent = Ip::parse_quoted(quote).filter(|sent| sent.protocol == Protocol::Udp);
        let Some(to) = sent.and_then(|sent| sent.ends(quote)) else { return false };
        let ends = Ends { local: to.remote, remote: to.local };
        // Nobody speaks for another peer.
        let flow = self.flows.get(&ends).filter(|_| ends.remote.ip() == ip.source);
        if let Some(flow) = flow {
            flow.refuse();
        }
        flow.is_some()
    }

    fn may_report(&mut self, now: Instant) -> bool {
        let due = now.saturating_duration_since(self.errors_since).as_nanos() / ERROR_EVERY.as_nanos();
        let due = u32::try_from(due).unwrap_or(u32::MAX);
        if due > 0 {
            self.errors_left = self.errors_left.saturating_add(due).min(ERRORS_BURST);
            self.errors_since = now;
        }
        let may = self.errors_left > 0;
        self.errors_left = self.errors_left.saturating_sub(1);
        may
    }

    /// Notes that a port has something to send, or that its socket is gone.
    pub(super) fn enqueue(&mut self, id: FlowId) {
        self.waiting.push_back(id);
    }

    /// True where a port waits to be served.
    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Sends what ports have queued, at most `services` shares of it, while there is room.
    pub(super) fn serve(&mut self, services: usize, sink: &mut impl Sink) {
        for _ in 0..services.min(self.waiting.len()) {
            if !sink.has_room() {
                return;
            }
            let Some(id) = self.waiting.pop_front() else { return };
            let Some((port, _)) = self.by_id.get(&id) else { continue };
            self.serving = Some(id);
            port.begin_service();
            let mut sent = 0;
            while sent < DATAGRAMS_PER_SERVICE && sink.has_room() && send_one(port, sink) {
                sent += 1;
            }
            port.end_service();
            self.serving = None;
            if port.is_over() {
                self.remove(id);
            } else if sent == DATAGRAMS_PER_SERVICE || !sink.has_room() {
                self.waiting.push_back(id);
            }
        }
    }

    /// Ends the port that was being served, for a caller that has caught a panic: its socket sees the end of the netstack.
    pub(super) fn end_serving(&mut self) {
        let Some(id) = self.serving.take() else { return };
        let port = self.by_id.get(&id).map(|(port, _)| Arc::clone(port));
        self.remove(id);
        if let Some(port) = port {
            port.stop();
        }
    }

    fn remove(&mut self, id: FlowId) {
        let Some((port, ends)) = self.by_id.remove(&id) else { return };
        match ends {
            Some(ends) => self.flows.remove(&ends),
            None => self.bound.remove(&port.number()),
        };
    }

    /// Tells every socket that there is no netstack any more.
    pub(super) fn stop(&mut self) {
        self.by_id.values().for_each(|(port, _)| port.stop());
        self.by_id.clear();
        self.flows.clear();
        self.bound.clear();
    }
}

/// The ends and the data of a datagram.
fn read<'a>(packet: &'a [u8], ip: &Ip) -> Option<(Ends, &'a [u8])> {
    let ends = ip.ends(packet)?;
    let content = packet.get(ip.start..ip.end)?;
    let [_, _, _, _, l0, l1, _, _] = *content.first_chunk::<8>()?;
    let data = content.get(8..usize::from(u16::from_be_bytes([l0, l1])))?;
    Some((ends, data))
}

fn send_one(port: &UdpPort, sink: &mut impl Sink) -> bool {
    port.send_one(|to: SocketAddr, head, tail| {
        let from = port.local_for(&to);
        let length = build::header_bytes(&to.ip()) + 8 + head.len() + tail.len();
        sink.emit(length, |buffer| {
            build::write_udp(buffer, (from.ip(), from.port()), (to.ip(), to.port()), [head, tail]);
        });
    })
}
