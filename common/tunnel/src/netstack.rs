//! The in-process TCP/IP stack: flows, listening ports and their timers.
//!
//! Leaves TCP itself to smoltcp and packets of other protocols to nobody (smoltcp answers them as a
//! host without a listener does). One smoltcp interface serves a set of one socket per flow, found by
//! hash, because smoltcp walks a whole set for each packet.
//!
//! - A flow is in `flows` and in `by_ends` or in neither.
//! - A flow that has work is in `waiting` once; else its next deadline is in `timers`.
//! - A flow leaves as soon as TCP owes its peer nothing; its stream can still read what has arrived.
//! - A socket in LISTEN exists only while the SYN that it is for is processed.

mod table;

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use blueprint_common_types::OverlayLease;
use smoltcp::iface::{Config, Interface, PollResult, SocketSet};
use smoltcp::socket::tcp;
use smoltcp::wire::{HardwareAddress, IpCidr, IpEndpoint, IpListenEndpoint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::device::PacketDevice;
use crate::error::{ConnectError, ListenError};
use crate::flow::{ACK_DELAY, Bell, Flow, FlowId, FlowState, wake};
use crate::listener::{ListenPort, Listener};
use crate::ports::Ports;
use crate::segment::{Ends, Segment};
use crate::stream::TcpStream;
use table::{Entry, FlowTable, Origin};

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
    pub(crate) buffer_bytes: usize,
    pub(crate) backlog: usize,
    pub(crate) seed: u64,
}

/// Connections refused, by reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Refusals {
    /// The listener's backlog was full.
    pub(crate) backlog_full: u64,
    /// The limit of flows was reached.
    pub(crate) flows_full: u64,
    /// TCP segments of no flow and no listening port.
    pub(crate) no_flow: u64,
}

/// TCP connections over the overlay, driven by the engine.
pub(crate) struct Netstack {
    config: NetstackConfig,
    epoch: Instant,
    interface: Interface,
    device: PacketDevice,
    /// Empty: smoltcp answers packets of no flow from it.
    nobody: SocketSet<'static>,
    flows: FlowTable,
    listeners: HashMap<u16, ListenPort>,
    waiting: VecDeque<FlowId>,
    rung: Vec<FlowId>,
    bell: Arc<Bell>,
    slots: Arc<Semaphore>,
    ports: Ports,
    refusals: Refusals,
}

impl Netstack {
    /// Makes a stack that has the addresses of `config` and no flows.
    pub(crate) fn new(config: NetstackConfig, now: Instant) -> Self {
        let mut device = PacketDevice::new(config.mtu);
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
            device,
            nobody: SocketSet::new(Vec::new()),
            flows: FlowTable::default(),
            listeners: HashMap::new(),
            waiting: VecDeque::new(),
            rung: Vec::new(),
            bell: Arc::default(),
            slots: Arc::new(Semaphore::new(config.max_flows)),
            ports: Ports::new(config.seed.rotate_left(32)),
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
    pub(crate) const fn refusals(&self) -> Refusals {
        self.refusals
    }

    /// Begins to open a connection; the stream says when it is open.
    pub(crate) fn connect(&mut self, remote: SocketAddr, now: Instant) -> Result<TcpStream, ConnectError> {
        if self.config.addresses.contains(remote.ip()) {
            return Err(ConnectError::NoRoute);
        }
        let Some(slot) = self.take_slot() else { return Err(ConnectError::Full) };
        let OverlayLease { v4, v6 } = self.config.addresses;
        let local: IpAddr = if remote.is_ipv4() { v4.into() } else { v6.into() };
        let (flows, listeners) = (&self.flows, &self.listeners);
        let is_taken = |ends: &Ends| flows.contains(ends) || listeners.contains_key(&ends.local.port());
        let ends = self.ports.choose(local, remote, now, is_taken).ok_or(ConnectError::Full)?;
        let mut state = FlowState::new(self.config.buffer_bytes);
        state
            .socket()
            .connect(self.interface.context(), IpEndpoint::from(remote), IpEndpoint::from(ends.local))
            .map_err(|_| ConnectError::NoRoute)?;
        let flow = self.add(ends, state, slot, Origin::Dialed);
        Ok(TcpStream::new(flow, ends))
    }

    /// Opens `port` of both our addresses.
    pub(crate) fn listen(&mut self, port: u16) -> Result<Listener, ListenError> {
        if port == 0 {
            return Err(ListenError::Zero);
        }
        if self.listeners.get(&port).is_some_and(|held| !held.is_closed()) {
            return Err(ListenError::InUse { port });
        }
        let (listen_port, accepted) = ListenPort::new(self.config.backlog);
        self.listeners.insert(port, listen_port);
        Ok(Listener::new(port, accepted))
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

    /// Takes an IP packet that a peer sent to one of our addresses; returns the buffer for the next one.
    pub(crate) fn handle_packet(&mut self, packet: Vec<u8>, now: Instant) -> Vec<u8> {
        let segment = Segment::parse(&packet);
        let id = segment.as_ref().and_then(|segment| self.flow_for(segment));
        self.device.offer(packet);
        let at = self.clock(now);
        match id.and_then(|id| Some((id, Arc::clone(&self.flows.entry(id)?.flow)))) {
            Some((id, flow)) => {
                let mut state = flow.lock();
                self.interface.poll_ingress_single(at, &mut self.device, &mut state.sockets);
                drop(state);
                self.enqueue(id);
            }
            None => {
                self.refusals.no_flow += u64::from(segment.is_some());
                self.interface.poll_ingress_single(at, &mut self.device, &mut self.nobody);
            }
        }
        self.device.reclaim()
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
        let mut state = FlowState::new(self.config.buffer_bytes);
        let endpoint = IpListenEndpoint { addr: Some(ends.local.ip().into()), port };
        if state.socket().listen(endpoint).is_err() {
            self.end_opening(port);
            return None;
        }
        Some(self.add(ends, state, slot, Origin::Opening { port }).id())
    }

    fn end_opening(&mut self, port: u16) {
        if let Some(listen_port) = self.listeners.get_mut(&port) {
            listen_port.end();
        }
    }

    /// Does what timers, streams and received packets ask for, within a bound; true where work is left.
    ///
    /// Packets for the peers go to `emit`.
    pub(crate) fn handle_work(&mut self, now: Instant, emit: &mut impl FnMut(&[u8])) -> bool {
        let mut rung = std::mem::take(&mut self.rung);
        self.bell.drain(&mut rung);
        for id in rung.drain(..) {
            self.enqueue(id);
        }
        self.rung = rung;
        while let Some(id) = self.flows.pop_due(now) {
            self.enqueue(id);
        }
        self.send_queued(emit);
        for _ in 0..SERVICES_PER_TURN {
            let Some(id) = self.waiting.pop_front() else { break };
            self.serve(id, now, emit);
        }
        !self.waiting.is_empty()
    }

    /// When to call [`Self::handle_work`] next, if no packet and no bell comes before; `None` for never.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.flows.next_due()
    }

    fn send_queued(&mut self, emit: &mut impl FnMut(&[u8])) {
        while let Some(packet) = self.device.take() {
            emit(&packet);
            self.device.recycle(packet);
        }
    }

    /// Sends what a flow has to send, wakes its stream, and decides what becomes of it.
    fn serve(&mut self, id: FlowId, now: Instant, emit: &mut impl FnMut(&[u8])) {
        let at = self.clock(now);
        let Some(entry) = self.flows.entry(id) else { return };
        entry.waiting = false;
        let flow = Arc::clone(&entry.flow);
        let mut state = flow.lock();
        state.queued = false;
        state.refuse_data_for_nobody();
        let mut sent = 0;
        while sent < PACKETS_PER_SERVICE
            && self.interface.poll_egress(at, &mut self.device, &mut state.sockets)
                == PollResult::SocketStateChanged
        {
            sent += 1;
        }
        let next = self.interface.poll_at(at, &state.sockets);
        let wakers = state.due_wakers();
        let tcp_state = state.socket_ref().state();
        let backlog = state.orphan.then(|| state.socket_ref().send_queue());
        drop(state);
        wake(wakers);
        self.send_queued(emit);
        let is_stuck = sent == 0;
        let next = next.map(|next| if next <= at && is_stuck { now + GUARD } else { self.time(next) });
        self.settle(id, Standing { tcp_state, backlog, next }, now);
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
                entry.flow.lock().socket().abort();
                return self.enqueue(id);
            }
        }
        match [standing.next, leave_at, orphan_until].into_iter().flatten().min() {
            Some(next) if next <= now => self.enqueue(id),
            Some(next) => self.flows.schedule(id, next),
            None => {}
        }
    }

    /// Hands a connection that just opened to its listener.
    fn deliver(&mut self, id: FlowId) {
        let Some(entry) = self.flows.entry(id) else { return };
        let Origin::Opening { port } = std::mem::replace(&mut entry.origin, Origin::Dialed) else { return };
        let stream = TcpStream::new(Arc::clone(&entry.flow), entry.ends);
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

    /// Resets every flow and closes every port.
    pub(crate) fn shut(&mut self, now: Instant, emit: &mut impl FnMut(&[u8])) {
        self.listeners.clear();
        self.reset(|_| true, now, emit);
    }

    /// Resets every flow whose other end has an address that `is_meant` names.
    pub(crate) fn reset(
        &mut self,
        is_meant: impl Fn(IpAddr) -> bool,
        now: Instant,
        emit: &mut impl FnMut(&[u8]),
    ) {
        for id in self.flows.ids() {
            let Some(entry) = self.flows.entry(id).filter(|entry| is_meant(entry.ends.remote.ip())) else {
                continue;
            };
            entry.flow.lock().socket().abort();
            self.serve(id, now, emit);
        }
    }

    fn clock(&self, now: Instant) -> smoltcp::time::Instant {
        let since = now.saturating_duration_since(self.epoch).saturating_add(CLOCK_OFFSET);
        smoltcp::time::Instant::ZERO + since.into()
    }

    fn time(&self, at: smoltcp::time::Instant) -> Instant {
        let since = Duration::from_micros(u64::try_from(at.total_micros()).unwrap_or(0));
        self.epoch + since.saturating_sub(CLOCK_OFFSET)
    }
}

/// What a flow looks like after it was served.
struct Standing {
    tcp_state: tcp::State,
    /// Bytes not yet acknowledged, where the stream is gone.
    backlog: Option<usize>,
    next: Option<Instant>,
}

impl Drop for Netstack {
    fn drop(&mut self) {
        self.shut(Instant::now(), &mut |_| ());
    }
}

#[cfg(test)]
mod tests;
