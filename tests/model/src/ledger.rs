//! Who sent which packet, and which reports were applied and acknowledged.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use blueprint_common_types::{AgentId, OverlayLease, Timestamp};

use crate::fault::{Checked, Fault, require};
use crate::packet::{self, Label};
use crate::wire::{Node, ProcessId};

#[derive(Debug)]
struct Sent {
    from: Node,
    /// Who held the destination when it was sent.
    to: Option<Node>,
    label: Label,
    /// The source was not the sender's.
    is_forged: bool,
    is_delivered: bool,
}

/// The books of one run.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    packets: BTreeMap<u64, Sent>,
    last: u64,
    /// Who holds which addresses now: the hub and every machine that is joined.
    pub(crate) leases: BTreeMap<Node, OverlayLease>,
    /// Ordered pairs of nodes of which the first has sent something to the second.
    begun: BTreeSet<(Node, Node)>,
    /// Ordered pairs of machines of which the first may begin an exchange with the second.
    pub(crate) allowed: BTreeSet<(Node, Node)>,
    /// Highest number that an agent process saw acknowledged.
    acked: BTreeMap<(AgentId, ProcessId), u64>,
    /// Every sample that the hub ever applied.
    samples: BTreeSet<(AgentId, Timestamp)>,
    pub(crate) delivered: u64,
    pub(crate) reports: u64,
}

impl Ledger {
    /// Makes a packet that `from` sends, and its number.
    pub(crate) fn send(&mut self, from: Node, source: IpAddr, destination: IpAddr) -> (u64, Vec<u8>) {
        self.last += 1;
        let label = Label { source, destination, number: self.last };
        let holds = |lease: &OverlayLease, address| lease.contains(address);
        let to = self.leases.iter().find(|(_, lease)| holds(lease, destination)).map(|(node, _)| *node);
        let is_forged = !self.leases.get(&from).is_some_and(|lease| holds(lease, source));
        self.begun.extend(to.map(|to| (from, to)));
        self.packets.insert(self.last, Sent { from, to, label, is_forged, is_delivered: false });
        (self.last, packet::make(label))
    }

    pub(crate) fn is_delivered(&self, number: u64) -> bool {
        self.packets.get(&number).is_some_and(|sent| sent.is_delivered)
    }

    /// Judges a packet that a core handed to the local stack of `at`.
    pub(crate) fn receive(&mut self, at: Node, bytes: &[u8]) -> Checked {
        let lease = |node| self.leases.get(&node).copied();
        if let (Some(hub), Some(own)) = (lease(Node::Hub), lease(at))
            && at != Node::Hub
            && packet::is_echo_reply(bytes, hub.v4, own.v4)
        {
            return Ok(());
        }
        let damaged = || Fault(format!("{at:?} got a packet that nobody made: {bytes:?}"));
        let label = packet::read(bytes).ok_or_else(damaged)?;
        let sent = self.packets.get_mut(&label.number).ok_or_else(damaged)?;
        require(sent.label == label, || format!("{at:?} got {label:?}, made as {:?}", sent.label))?;
        require(!sent.is_delivered, || format!("{at:?} got {label:?} twice"))?;
        sent.is_delivered = true;
        self.delivered += 1;
        let from = sent.from;
        require(!sent.is_forged, || {
            format!("{at:?} got a packet of {from:?} with the forged source {}", label.source)
        })?;
        require(sent.to == Some(at), || format!("{at:?} got {label:?}, which is for {:?}", sent.to))?;
        let is_member = at != Node::Hub || self.leases.contains_key(&from);
        require(is_member, || format!("{at:?} got {label:?} of {from:?}, which is removed"))?;
        let has_hub = at == Node::Hub || from == Node::Hub;
        // All packets of the model have the same ports, so what goes back answers what was allowed.
        let is_answer = || self.allowed.contains(&(at, from)) && self.begun.contains(&(at, from));
        require(has_hub || self.allowed.contains(&(from, at)) || is_answer(), || {
            format!("a packet passed from {from:?} to {at:?}, which nobody allowed")
        })
    }

    /// The hub takes a report for new.
    pub(crate) fn apply(
        &mut self,
        agent: AgentId,
        process: ProcessId,
        seq: u64,
        sample: Option<Timestamp>,
    ) -> Checked {
        self.reports += 1;
        self.samples.extend(sample.map(|at| (agent, at)));
        let acked = self.acked.get(&(agent, process)).copied().unwrap_or_default();
        require(seq > acked, || format!("report {seq} is applied again, acknowledged was {acked}"))
    }

    /// An agent sees an acknowledgement.
    pub(crate) fn acknowledge(&mut self, agent: AgentId, process: ProcessId, seq: u64) {
        let acked = self.acked.entry((agent, process)).or_default();
        *acked = seq.max(*acked);
    }

    pub(crate) fn has_sample(&self, agent: AgentId, at: Timestamp) -> bool {
        self.samples.contains(&(agent, at))
    }
}
