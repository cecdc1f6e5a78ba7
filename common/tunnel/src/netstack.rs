//! The in-process TCP/IP stack: flows, ports and their timers.
//!
//! One smoltcp interface serves a set of one socket per flow, found by hash, because smoltcp walks a whole set
//! for each packet. UDP is our own (`udp`). What neither knows is answered by smoltcp as by a host without
//! listeners.
//!
//! - A flow is in `flows` and in `by_ends` or in neither.
//! - A flow that has work is in `waiting` once; else its next deadline is in `timers`.
//! - A flow leaves as soon as TCP owes its peer nothing; its stream can still read what has arrived.
//! - A socket in LISTEN exists only while the SYN that it is for is processed.
//! - A packet is copied once on its way in (into the receive buffer) and once on its way out (from the send
//!   buffer to where it is sealed); a sink without room stops the flows, and loses nothing.
//!
//! # Why smoltcp
//!
//! Of what Rust has, `ipstack` and `netstack-smoltcp` end connections for a transparent proxy: they accept what
//! a TUN device carries, and open none. Bindings to lwIP bring C, a global lock and windows set at build time.
//! A stack of our own would be a second implementation of the part of TCP that takes years to get right.
//! smoltcp is fast enough here (see `netstack_speed`: far above what sealing costs), decides without I/O or
//! clock, and takes a packet where it lies. What it lacks is made up for outside of it, where that can be done:
//!
//! | smoltcp 0.14 | here |
//! |---|---|
//! | buffers of fixed size | address space is fixed, memory grows (`flow`, `sys::flow_socket`) |
//! | least timeout of 1 s, not to be set | its clock runs faster (`CLOCK_SPEED`) |
//! | window grows by acknowledgements, not by bytes | acknowledgements are shown in parts (`track`) |
//! | fast recovery repairs one loss per window | partial acknowledgements are shown again (`track`) |
//! | a window whose end moves back; what it then drops and forgets | shown what it would drop (`track`) |
//! | sums two bytes at a time | `checksum` |
//!
//! Measured 2026-11-21 (`path_tests`; two stacks, virtual path of 100 ms and 200 Mbit/s; before means as
//! smoltcp is, with buffers of 256 KiB): 18 to 141 Mbit/s without loss; 6.2 to 27, 0.97 to 4.6 and 0.20 to
//! 0.60 Mbit/s with one packet lost in 1000, 100 and 20. Without a path, both ends on one core, in a release
//! build: 27 to 29 Gbit/s.
//!
//! What is not made up for: it uses no selective acknowledgements of its peer and sends one range, so it repairs
//! one loss per round trip; it has no pacing, no tail loss probe, no ECN and no timestamps.

mod build;
mod ingress;
mod listen_port;
mod stream;
mod table;
mod udp;

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use blueprint_common_types::OverlayLease;
use smoltcp::iface::{Config, Interface, PollResult, SocketSet};
use smoltcp::socket::tcp;
use smoltcp::wire::{HardwareAddress, IpCidr, IpEndpoint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::budget::Budget;
use crate::datagram::{PortFlow, PortSocket, UdpPort};
use crate::device::{Copying, Sink, Wire};
use crate::error::{ConnectError, ListenError};
use crate::flow::{ACK_DELAY, Bell, CLOCK_SPEED, Flow, FlowId, FlowState, REST_AFTER, wake};
use crate::ports::Ports;
use crate::segment::Ends;
use table::{Entry, FlowTable, Origin};
use udp::UdpTable;

pub(crate) use listen_port::{FlowListener, ListenPort};
pub(crate) use stream::TcpFlowStream;

/// Packets that one flow may send before it is another one's turn.
const PACKETS_PER_SERVICE: usize = 32;
/// Flows served in one turn of the engine.
const SERVICES_PER_TURN: usize = 32;
/// A flow that smoltcp calls due but that sends nothing is asked again after this time.
const GUARD: Duration = Duration::from_millis(10);
/// A flow in TIME-WAIT stays this long, so that a delayed acknowledgement of the FIN leaves.
///
/// Deviation: after that its pair of ends rests without its buffers; a FIN that the peer repeats is
/// answered by a reset, which in LAST-ACK only ends the peer's wait.
const LEAVE_AFTER: Duration = ACK_DELAY.saturating_mul(2);
/// An abandoned flow is reset when it sent nothing new for this long (Linux: `tcp_fin_timeout`).
const ORPHAN_TIMEOUT: Duration = Duration::from_secs(60);
/// smoltcp takes its time zero for "never"; ours starts an hour later.
const CLOCK_OFFSET: Duration = Duration::from_secs(3600);

/// What a [`Netstack`] needs to know.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NetstackConfig {
    pub(crate) addresses: OverlayLease,
    pub(crate) mtu: u16,
    pub(crate) max_flows: usize,
    /// What each of a flow's two buffers may grow to.
    pub(crate) buffer_bytes: usize,
    /// What all buffers together may grow by.
    pub(crate) growth_bytes: usize,
    pub(crate) backlog: usize,
    pub(crate) seed: u64,
}

/// What was refused or dropped, by reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Refusals {
    /// The listener's backlog was full.
    pub(crate) backlog_full: u64,
    /// The limit of flows was reached.
    pub(crate) flows_full: u64,
    /// TCP segments of no flow and no listening port.
    pub(crate) no_flow: u64,
    /// Packets that are fragments, cut short, or not IP.
    pub(crate) unreadable: u64,
    /// Packets whose checksum is wrong.
    pub(crate) bad_checksum: u64,
    /// Answers for which the sink had no room.
    pub(crate) no_room: u64,
    /// Buffers that were not allowed to grow; data that needed it was dropped, and comes again.
    pub(crate) growth: u64,
    /// Datagrams for a port that nobody has opened.
    pub(crate) no_udp_port: u64,
    /// Datagrams that came faster than they were taken.
    pub(crate) udp_queue_full: u64,
    /// "Port unreachable" not sent, because too many were.
    pub(crate) icmp_limited: u64,
}

/// TCP and UDP over the overlay, driven by the engine.
pub(crate) struct Netstack {
    config: NetstackConfig,
    epoch: Instant,
    interface: Interface,
    /// Empty: smoltcp answers packets of no flow from it.
    nobody: SocketSet<'static>,
    flows: FlowTable,
    listeners: HashMap<u16, ListenPort>,
    waiting: VecDeque<FlowId>,
    /// Whose packet or turn it is at this moment.
    at_work: Option<FlowId>,
    rung: Vec<FlowId>,
    bell: Arc<Bell>,
    slots: Arc<Semaphore>,
    ports: Ports,
    budget: Arc<Budget>,
    udp: UdpTable,
    udp_ports: Ports,
    refusals: Refusals,
}

impl Netstack {
    /// Makes a stack that has the addresses of `config` and no flows.
    pub(crate) fn new(config: NetstackConfig, now: Instant) -> Self {
        let mut nowhere = Copying::new(|_: &[u8]| ());
        let mut device = Wire::new(config.mtu, &mut nowhere);
        let mut interface_config = Config::new(HardwareAddress::Ip);
        interface_config.random_seed = config.seed;
        let at = smoltcp::time::Instant::ZERO + CLOCK_OFFSET.into();
        let mut interface = Interface::new(interface_config, &mut device, at);
        let OverlayLease { v4, v6 } = config.addresses;
        interface.update_ip_addrs(|addresses| {
            // The list has room for two; prefixes do not matter, since a tunnel has no neighbours.
            let _ = addresses.push(IpCidr::new(v4.into(), 32));
            let _ = addresses.push(IpCidr::new(v6.into(), 128));
        });
        Self {
            config,
            epoch: now,
            interface,
            nobody: SocketSet::new(Vec::new()),
            flows: FlowTable::default(),
            listeners: HashMap::new(),
            waiting: VecDeque::new(),
            at_work: None,
            rung: Vec::new(),
            bell: Arc::default(),
            slots: Arc::new(Semaphore::new(config.max_flows)),
            ports: Ports::new(config.seed.rotate_left(32)),
            budget: Budget::new(config.growth_bytes),
            udp: UdpTable::new(now),
            udp_ports: Ports::new(config.seed.rotate_left(16)),
            refusals: Refusals::default(),
        }
    }

    /// What streams ring when they need [`Self::handle_work`].
    pub(crate) fn bell(&self) -> Arc<Bell> {
        Arc::clone(&self.bell)
    }

    /// Flows that TCP still works on.
    pub(crate) fn flow_count(&self) -> usize {
        self.flows.len()
    }

    /// Refusals since the start.
    pub(crate) fn refusals(&self) -> Refusals {
        Refusals { growth: self.budget.refused(), ..self.refusals }
    }

    /// Begins to open a connection; the stream says when it is open.
    pub(crate) fn connect(
        &mut self,
        remote: SocketAddr,
        now: Instant,
    ) -> Result<TcpFlowStream, ConnectError> {
        if self.config.addresses.contains(remote.ip()) {
            return Err(ConnectError::NoRoute);
        }
        let Some(slot) = self.take_slot() else { return Err(ConnectError::Full) };
        let OverlayLease { v4, v6 } = self.config.addresses;
        let local: IpAddr = if remote.is_ipv4() { v4.into() } else { v6.into() };
        let (flows, listeners) = (&self.flows, &self.listeners);
        let is_taken = |ends: &Ends| flows.contains(ends) || listeners.contains_key(&ends.local.port());
        let ends = self.ports.choose(local, remote, now, is_taken).ok_or(ConnectError::Full)?;
        let mut state = FlowState::new(self.config.buffer_bytes, &self.budget);
        let context = self.interface.context();
        state
            .with(|socket| socket.connect(context, IpEndpoint::from(remote), IpEndpoint::from(ends.local)))
            .map_err(|_| ConnectError::NoRoute)?;
        let flow = self.add(ends, state, slot, Origin::Dialed);
        Ok(TcpFlowStream::new(flow, ends))
    }

    /// Opens `port` of both our addresses.
    pub(crate) fn listen(&mut self, port: u16) -> Result<FlowListener, ListenError> {
        if port == 0 {
            return Err(ListenError::Zero);
        }
        if self.listeners.get(&port).is_some_and(|held| !held.is_closed()) {
            return Err(ListenError::InUse { port });
        }
        let (listen_port, accepted) = ListenPort::new(self.config.backlog);
        self.listeners.insert(port, listen_port);
        Ok(FlowListener::new(port, accepted))
    }

    /// Opens UDP `port` of both our addresses.
    pub(crate) fn listen_udp(&mut self, port: u16) -> Result<PortSocket, ListenError> {
        if port == 0 {
            return Err(ListenError::Zero);
        }
        if self.udp.is_bound(port) {
            return Err(ListenError::InUse { port });
        }
        let slot = self.take_slot().ok_or(ListenError::Full)?;
        let port = self.udp_port(port, slot);
        Ok(self.udp.bind(port))
    }

    /// Opens a UDP port of our own choice towards `remote`.
    pub(crate) fn connect_udp(&mut self, remote: SocketAddr, now: Instant) -> Result<PortFlow, ConnectError> {
        if self.config.addresses.contains(remote.ip()) {
            return Err(ConnectError::NoRoute);
        }
        let slot = self.take_slot().ok_or(ConnectError::Full)?;
        let OverlayLease { v4, v6 } = self.config.addresses;
        let local: IpAddr = if remote.is_ipv4() { v4.into() } else { v6.into() };
        let is_taken = |ends: &Ends| self.udp.is_taken(ends);
        let ends = self.udp_ports.choose(local, remote, now, is_taken).ok_or(ConnectError::Full)?;
        let port = self.udp_port(ends.local.port(), slot);
        Ok(self.udp.connect(port, ends))
    }

    fn udp_port(&mut self, number: u16, slot: OwnedSemaphorePermit) -> Arc<UdpPort> {
        let NetstackConfig { addresses, mtu, .. } = self.config;
        UdpPort::new(self.udp.next_id(), self.bell(), addresses, number, mtu, slot)
    }

    fn take_slot(&mut self) -> Option<OwnedSemaphorePermit> {
        let slot = Arc::clone(&self.slots).try_acquire_owned().ok();
        self.refusals.flows_full += u64::from(slot.is_none());
        slot
    }

    fn add(&mut self, ends: Ends, state: FlowState, slot: OwnedSemaphorePermit, origin: Origin) -> Arc<Flow> {
        let flow = Flow::new(self.flows.next_id(), self.bell(), state, slot);
        self.flows.insert(Entry::new(Arc::clone(&flow), ends, origin));
        self.enqueue(flow.id());
        flow
    }

    fn enqueue(&mut self, id: FlowId) {
        if let Some(entry) = self.flows.entry(id)
            && !std::mem::replace(&mut entry.waiting, true)
        {
            self.waiting.push_back(id);
        }
    }

    fn end_opening(&mut self, port: u16) {
        if let Some(listen_port) = self.listeners.get_mut(&port) {
            listen_port.end();
        }
    }

    /// Does what timers, streams and received packets ask for, within a bound.
    ///
    /// Packets for the peers go to `sink`. True where work is left that `sink` has room for: call it again
    /// soon. What a full sink stops goes on with the next call, so call it when there is room again.
    pub(crate) fn handle_work(&mut self, now: Instant, sink: &mut impl Sink) -> bool {
        self.take_rung();
        while let Some(id) = self.flows.pop_due(now) {
            self.enqueue(id);
        }
        self.udp.serve(SERVICES_PER_TURN, sink);
        for _ in 0..SERVICES_PER_TURN {
            if !sink.has_room() {
                return false;
            }
            let Some(id) = self.waiting.pop_front() else { break };
            self.serve(id, now, sink);
        }
        (!self.waiting.is_empty() || self.udp.is_waiting()) && sink.has_room()
    }

    /// When to call [`Self::handle_work`] next, if no packet and no bell comes before; `None` for never.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.flows.next_due()
    }

    /// Sends what a flow has to send, wakes its stream, and decides what becomes of it.
    fn serve(&mut self, id: FlowId, now: Instant, sink: &mut impl Sink) {
        let at = self.clock(now);
        let Some(entry) = self.flows.entry(id) else { return };
        entry.waiting = false;
        let flow = Arc::clone(&entry.flow);
        self.at_work = Some(id);
        let mut state = flow.lock();
        state.queued = false;
        state.refuse_data_for_nobody();
        let (sent, has_room) = self.send(&mut state, at, sink);
        let rest_at = self.flows.entry(id).and_then(|entry| entry.rest(&mut state, now));
        let next = state.socket.look(|sockets| self.interface.poll_at(at, sockets));
        let wakers = state.due_wakers();
        let tcp_state = state.view().state();
        let backlog = state.orphan.then(|| state.view().send_queue());
        drop(state);
        wake(wakers);
        let is_due = next.is_some_and(|next| next <= at);
        let next = match next {
            Some(_) if is_due && sent == 0 => Some(now + GUARD),
            Some(next) => Some(self.time(next)),
            None => None,
        };
        self.settle(id, Standing { tcp_state, backlog, next, rest_at }, now);
        self.at_work = None;
        if is_due && !has_room {
            self.enqueue(id);
        }
    }

    /// Sends a flow's share; says how many packets, and whether the sink still has room.
    fn send(
        &mut self,
        state: &mut FlowState,
        at: smoltcp::time::Instant,
        sink: &mut impl Sink,
    ) -> (usize, bool) {
        let FlowState { socket, track, .. } = state;
        let mut wire = Wire::new(self.config.mtu, sink).tracked(track);
        let sent = socket.sockets(|sockets| {
            let mut sent = 0;
            while sent < PACKETS_PER_SERVICE
                && self.interface.poll_egress(at, &mut wire, sockets) == PollResult::SocketStateChanged
            {
                sent += 1;
            }
            sent
        });
        (sent, wire.has_room())
    }

    fn settle(&mut self, id: FlowId, standing: Standing, now: Instant) {
        let mut is_leaving = false;
        match standing.tcp_state {
            tcp::State::Closed | tcp::State::Listen => return self.remove(id, now),
            tcp::State::Established | tcp::State::CloseWait => self.deliver(id),
            tcp::State::TimeWait => is_leaving = true,
            tcp::State::SynSent
            | tcp::State::SynReceived
            | tcp::State::FinWait1
            | tcp::State::FinWait2
            | tcp::State::Closing
            | tcp::State::LastAck => {}
        }
        let Some(entry) = self.flows.entry(id) else { return };
        let leave_at = is_leaving.then(|| *entry.leave_at.get_or_insert(now + LEAVE_AFTER));
        if leave_at.is_some_and(|leave_at| leave_at <= now) {
            return self.remove(id, now);
        }
        let mut orphan_until = None;
        if let Some(queued_bytes) = standing.backlog {
            orphan_until = entry.orphan_deadline(queued_bytes, now);
            if orphan_until.is_none() {
                entry.flow.lock().with(|socket| socket.abort());
                return self.enqueue(id);
            }
        }
        match [standing.next, standing.rest_at, leave_at, orphan_until].into_iter().flatten().min() {
            Some(next) if next <= now => self.enqueue(id),
            Some(next) => self.flows.schedule(id, next),
            None => {}
        }
    }

    /// Hands a connection that just opened to its listener.
    fn deliver(&mut self, id: FlowId) {
        let Some(entry) = self.flows.entry(id) else { return };
        let Origin::Opening { port } = std::mem::replace(&mut entry.origin, Origin::Dialed) else { return };
        let stream = TcpFlowStream::new(Arc::clone(&entry.flow), entry.ends);
        self.end_opening(port);
        let Some(listen_port) = self.listeners.get(&port) else { return };
        // Nobody takes it: dropping the stream closes the connection.
        self.refusals.backlog_full += u64::from(listen_port.deliver(stream).is_err());
    }

    fn remove(&mut self, id: FlowId, now: Instant) {
        let Some(entry) = self.flows.remove(id) else { return };
        self.ports.rest(entry.ends, now);
        if let Origin::Opening { port } = entry.origin {
            self.end_opening(port);
        }
    }

    /// Ends the flow or port that was being worked on, without a word to its peer; its stream sees a reset.
    ///
    /// For a caller that has caught a panic: what the flow was in the middle of is not known.
    pub(crate) fn end_at_work(&mut self, now: Instant) {
        self.udp.end_serving();
        let Some(id) = self.at_work.take() else { return };
        let flow = self.flows.entry(id).map(|entry| Arc::clone(&entry.flow));
        self.remove(id, now);
        let Some(flow) = flow else { return };
        let mut state = flow.lock();
        state.with(|socket| socket.abort());
        let wakers = state.due_wakers();
        drop(state);
        wake(wakers);
    }

    /// Resets every flow and closes every port. Resets for which `sink` has no room are not sent.
    pub(crate) fn shut(&mut self, now: Instant, sink: &mut impl Sink) {
        self.listeners.clear();
        self.reset(|_| true, now, sink);
        self.udp.stop();
    }

    /// Resets every flow whose other end has an address that `is_meant` names.
    pub(crate) fn reset(&mut self, is_meant: impl Fn(IpAddr) -> bool, now: Instant, sink: &mut impl Sink) {
        for id in self.flows.ids() {
            let Some(entry) = self.flows.entry(id).filter(|entry| is_meant(entry.ends.remote.ip())) else {
                continue;
            };
            self.at_work = Some(id);
            entry.flow.lock().with(|socket| socket.abort());
            self.serve(id, now, sink);
        }
    }

    fn clock(&self, now: Instant) -> smoltcp::time::Instant {
        let since = now.saturating_duration_since(self.epoch).saturating_mul(CLOCK_SPEED);
        smoltcp::time::Instant::ZERO + since.saturating_add(CLOCK_OFFSET).into()
    }

    fn time(&self, at: smoltcp::time::Instant) -> Instant {
        let since = Duration::from_micros(u64::try_from(at.total_micros()).unwrap_or(0));
        // A deadline must not be reached before smoltcp's clock shows it, and that counts microseconds.
        self.epoch + since.saturating_sub(CLOCK_OFFSET) / CLOCK_SPEED + Duration::from_micros(1)
    }
}

/// What a flow looks like after it was served.
struct Standing {
    tcp_state: tcp::State,
    /// Bytes not yet acknowledged, where the stream is gone.
    backlog: Option<usize>,
    next: Option<Instant>,
    /// When it may have memory to give back.
    rest_at: Option<Instant>,
}

impl Drop for Netstack {
    fn drop(&mut self) {
        self.shut(Instant::now(), &mut Copying::new(|_: &[u8]| ()));
    }
}

#[cfg(test)]
mod path_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod udp_tests;
#[cfg(test)]
mod window_tests;
