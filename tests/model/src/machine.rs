//! A machine: what survives its agent's process, and the process with its cores.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use blueprint_common_link_core::{Link, LinkConfig, LinkEnd, LinkEvent, LinkState, Outbox, Renewal};
use blueprint_common_tunnel_core::{Config, Event, Limits, PeerConfig, Role, SoloTunnel};
use blueprint_common_types::{AgentId, OverlayLease, Timestamp, WgPrivateKey, WgPublicKey};
use blueprint_hub_registry_core::OfferedTarget;

use crate::air::Air;
use crate::disk::Disk;
use crate::fault::{Checked, Fault, require};
use crate::network::Datagram;
use crate::streams::{Frame, StreamId};
use crate::wire::{
    CERTIFICATE, HEARTBEAT, HUB_ADDRESS, MachineId, Node, ProcessId, Report, ToAgent, ToHub, overlay,
};

/// How often a hub that does not echo is looked for.
const SEARCH_INTERVAL: Duration = Duration::from_secs(3);

/// How long a renewal may take.
const RENEW_TIMEOUT: Duration = Duration::from_secs(3);

/// Identity and surroundings of one agent.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) id: MachineId,
    pub(crate) agent: AgentId,
    pub(crate) lease: OverlayLease,
    pub(crate) address: SocketAddr,
    pub(crate) key: WgPrivateKey,
    pub(crate) hub: WgPublicKey,
    pub(crate) generation: u32,
    pub(crate) certified_at: Timestamp,
    /// What runs on it, as its checks see it.
    pub(crate) offered: Vec<OfferedTarget>,
    /// When its agent starts, where it is down and comes back.
    pub(crate) start_at: Option<Instant>,
    /// When its path is open again.
    pub(crate) blocked_until: Option<Instant>,
    pub(crate) process: Option<Process>,
    /// Since when the hub can get no echo of its agent; `None` while it can.
    pub(crate) away_since: Option<Instant>,
}

/// An agent process.
#[derive(Debug)]
pub(crate) struct Process {
    number: ProcessId,
    pub(crate) core: SoloTunnel,
    /// Addresses it sends from; not its lease where it is an impostor.
    pub(crate) speaks_as: OverlayLease,
    pub(crate) link: Link,
    pub(crate) outbox: Outbox<Report>,
    renewal: Renewal,
    stream: Option<StreamId>,
    epoch: Option<u64>,
    /// False where a new epoch makes it do nothing, so that its tunnel has to find out alone.
    heeds_epoch: bool,
    sample_at: Instant,
    search_at: Instant,
    renew_until: Option<Instant>,
    /// Number of its newest target set.
    offered: u64,
    /// Reports that are not acknowledged yet and were not replaced by later ones.
    unproven: BTreeMap<u64, Report>,
}

impl Machine {
    /// Starts the agent, which sends from `speaks_as`.
    pub(crate) fn start(&mut self, speaks_as: OverlayLease, air: &mut Air) -> Checked {
        self.start_at = None;
        let number = air.rng.next();
        let honest = if speaks_as == self.lease { "" } else { " as an impostor" };
        air.note(format_args!("machine {} starts{honest}, process {number}", self.id));
        let prefixes = overlay();
        let config = Config {
            private_key: self.key.clone(),
            addresses: speaks_as,
            prefixes,
            role: Role::Spoke,
            mtu: 1420,
            limits: Limits::default(),
            answers_echoes: true,
            own_rules: None,
            seed: air.rng.bytes(),
        };
        let mut core = SoloTunnel::new(config, air.now);
        let hub = PeerConfig {
            public_key: self.hub,
            allowed_ips: vec![prefixes.v4.into(), prefixes.v6.into()],
            endpoint: Some(HUB_ADDRESS.into()),
            preshared_key: None,
            keepalive: Some(Duration::from_secs(25)),
        };
        core.upsert_peer(hub, air.now)
            .map_err(|error| Fault(format!("the hub is refused as a peer: {error}")))?;
        let not_after = self.certified_at.plus(CERTIFICATE);
        self.process = Some(Process {
            number,
            core,
            speaks_as,
            link: Link::new(LinkConfig::new(air.rng.next()), air.now),
            outbox: Outbox::new(),
            renewal: Renewal::new(self.certified_at, not_after, air.rng.next()),
            stream: None,
            epoch: None,
            heeds_epoch: air.rng.chance(700),
            sample_at: air.now + air.rng.millis(0, 2000),
            search_at: air.now + SEARCH_INTERVAL,
            renew_until: None,
            offered: 0,
            unproven: BTreeMap::new(),
        });
        self.drain(air)
    }

    /// Kills the agent; its system ends the stream unless the power went.
    pub(crate) fn kill(&mut self, air: &mut Air) {
        let Some(process) = self.process.take() else { return };
        air.note(format_args!("machine {} dies", self.id));
        let Some(stream) = process.stream else { return };
        if air.rng.chance(500) {
            air.streams.close(stream, air.now + air.network.delay(&mut air.rng));
        } else {
            air.streams.forget(stream);
        }
    }

    /// True where its agent runs and is who it says.
    pub(crate) fn is_honest(&self) -> bool {
        self.process.as_ref().is_some_and(|process| process.speaks_as == self.lease)
    }

    /// Changes what it offers.
    pub(crate) fn offer(&mut self, offered: Vec<OfferedTarget>, air: &mut Air) -> Checked {
        air.note(format_args!("machine {} offers {}", self.id, targets_text(&offered)));
        self.offered = offered;
        if let Some(process) = &mut self.process {
            process.offer(&self.offered);
        }
        self.drain(air)
    }

    pub(crate) fn handle_datagram(&mut self, datagram: &Datagram, air: &mut Air) -> Checked {
        if let Some(process) = &mut self.process {
            process.core.handle_datagram(datagram.from, &datagram.payload, air.now);
        }
        self.drain(air)
    }

    /// Sends a packet from the machine's own stack.
    pub(crate) fn handle_packet(&mut self, packet: &[u8], air: &mut Air) -> Checked {
        if let Some(process) = &mut self.process {
            process.core.handle_packet(packet, air.now);
        }
        self.drain(air)
    }

    pub(crate) fn handle_frame(
        &mut self,
        stream: StreamId,
        frame: Frame<ToAgent>,
        disk: &Disk,
        air: &mut Air,
    ) -> Checked {
        let Some(process) = self.process.as_mut().filter(|process| process.stream == Some(stream)) else {
            if frame != Frame::End {
                air.streams.send_up(stream, Frame::End, air.now + air.network.delay(&mut air.rng));
            }
            return Ok(());
        };
        match frame {
            Frame::End => process.link.handle_end(LinkEnd::Broken, air.now),
            Frame::Message(ToAgent::Welcome { applied, epoch }) => {
                process.link.handle_welcome(HEARTBEAT, air.now);
                let resent = process.outbox.resend_after(applied);
                require(resent.is_ok(), || format!("welcomed after report {applied}: {resent:?}"))?;
                process.locate(&self.hub, air.now);
                if process.epoch.replace(epoch) != Some(epoch) && process.heeds_epoch {
                    process.core.start_handshake(&self.hub, air.now);
                }
                process.offer(&self.offered);
                process.prove(self.agent, applied, disk, air)?;
            }
            Frame::Message(ToAgent::Ack { seq }) => {
                process.link.handle_message(air.now);
                let taken = process.outbox.handle_ack(seq);
                require(taken.is_ok(), || format!("report {seq} is acknowledged: {taken:?}"))?;
                process.prove(self.agent, seq, disk, air)?;
            }
            Frame::Message(ToAgent::Renewed { generation }) => {
                process.link.handle_message(air.now);
                self.generation = generation;
                self.certified_at = air.wall();
                process.renewal.handle_renewed(self.certified_at, self.certified_at.plus(CERTIFICATE));
                process.renew_until = None;
                air.note(format_args!("machine {} has certificate {generation}", self.id));
            }
            Frame::Message(ToAgent::Goodbye(end)) => {
                let is_member = disk.agents.contains_key(&self.agent);
                require(end != LinkEnd::Revoked || !is_member, || format!("{} is told to go", self.agent))?;
                process.link.handle_end(end, air.now);
            }
        }
        self.drain(air)
    }

    pub(crate) fn handle_timeout(&mut self, air: &mut Air) -> Checked {
        let Some(process) = &mut self.process else { return Ok(()) };
        process.core.handle_timeout(air.now);
        process.link.handle_timeout(air.now);
        if process.sample_at <= air.now {
            process.sample_at = air.now + HEARTBEAT;
            let report = Report::Qos(air.wall());
            let seq = process.outbox.push(report.clone(), true).map_err(|error| Fault(error.to_string()))?;
            process.unproven.insert(seq, report);
        }
        if process.search_at <= air.now {
            process.search(&self.hub, air.now);
        }
        let spins = |at: Option<Instant>| at.is_some_and(|at| at <= air.now);
        require(!spins(process.core.poll_timeout()), || format!("the tunnel of machine {} spins", self.id))?;
        require(!spins(process.link.poll_timeout()), || format!("the link of machine {} spins", self.id))?;
        require(process.outbox.dropped() == 0, || format!("machine {} drops reports", self.id))?;
        self.renew(air);
        self.drain(air)
    }

    pub(crate) fn poll_timeout(&self, air: &Air) -> Option<Instant> {
        let process = self.process.as_ref()?;
        let soonest = Duration::from_millis(1);
        let wait = || air.now + process.renewal.poll_wait(air.wall()).max(soonest);
        let renew = match process.renew_until {
            Some(until) => Some(until),
            None => process.is_up().then(wait),
        };
        [
            process.core.poll_timeout(),
            process.link.poll_timeout(),
            renew,
            Some(process.sample_at),
            Some(process.search_at),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn renew(&mut self, air: &mut Air) {
        let Some(process) = &mut self.process else { return };
        if process.renew_until.is_some_and(|until| until <= air.now) {
            process.renew_until = None;
            process.renewal.handle_failure(air.wall());
        }
        let is_due = process.renew_until.is_none() && process.renewal.is_due(air.wall());
        if let Some(stream) = process.stream.filter(|_| is_due && process.is_up()) {
            process.renew_until = Some(air.now + RENEW_TIMEOUT);
            let message = Frame::Message(ToHub::Renew { generation: self.generation });
            air.streams.send_up(stream, message, air.now + air.network.delay(&mut air.rng));
        }
    }

    /// Everything that the cores want done.
    fn drain(&mut self, air: &mut Air) -> Checked {
        let Some(process) = &mut self.process else { return Ok(()) };
        while let Some(transmit) = process.core.poll_transmit() {
            let datagram = Datagram { from: self.address, to: transmit.to.remote, payload: transmit.payload };
            air.network.send(datagram, &mut air.rng, air.now);
        }
        while let Some(packet) = process.core.poll_packet() {
            air.ledger.receive(Node::Machine(self.id), &packet)?;
        }
        while let Some(event) = process.core.poll_event() {
            match event {
                Event::EchoLost { .. } => {
                    process.link.handle_path_change(air.now);
                    process.search_at = air.now;
                }
                Event::EchoBack { .. } => process.link.handle_path_back(air.now),
                Event::Handshake { .. } | Event::Roam { .. } | Event::Probed { .. } => continue,
            }
            air.note(format_args!("machine {}: {event:?}", self.id));
        }
        while let Some(event) = process.link.poll_event() {
            process.follow(event, self.id, self.agent, air);
        }
        process.flush(air);
        if process.link.poll_timeout().is_none() {
            self.process = None;
        }
        Ok(())
    }
}

impl Process {
    /// Its newest target set.
    pub(crate) const fn said(&self) -> (ProcessId, u64) {
        (self.number, self.offered)
    }

    pub(crate) fn is_up(&self) -> bool {
        matches!(self.link.state(), LinkState::Up { .. })
    }

    /// Looks for a hub that does not echo.
    fn search(&mut self, hub: &WgPublicKey, now: Instant) {
        self.search_at = now + SEARCH_INTERVAL;
        if self.core.peer_stats(hub).is_none_or(|stats| !stats.echo.alive) {
            self.locate(hub, now);
        }
    }

    /// Points the tunnel at the hub's address where it points elsewhere: a datagram that somebody in the middle
    /// sent on, from an address of its own and faster than the path, makes the tunnel follow it there.
    fn locate(&mut self, hub: &WgPublicKey, now: Instant) {
        if self.core.peer_stats(hub).and_then(|stats| stats.endpoint) != Some(HUB_ADDRESS.into()) {
            self.core.set_endpoint(hub, HUB_ADDRESS.into(), now);
        }
    }

    fn follow(&mut self, event: LinkEvent, id: MachineId, agent: AgentId, air: &mut Air) {
        match event {
            LinkEvent::Connect { attempt } => {
                // Opening takes TCP and TLS a round trip each before the first message goes.
                let way = air.network.delay(&mut air.rng);
                let hello = ToHub::Hello { agent, process: self.number };
                let stream = air.streams.open(id, hello, air.now + way * 5);
                self.stream = Some(stream);
                air.note(format_args!("machine {id}: stream {stream}, attempt {attempt}"));
            }
            LinkEvent::Heartbeat => {
                let _ = self.outbox.push_latest(Report::Heartbeat, |old| *old == Report::Heartbeat);
            }
            LinkEvent::Disconnect(end) => {
                air.note(format_args!("machine {id}: stream {:?} ends: {}", self.stream, end.label()));
                if let Some(stream) = self.stream.take() {
                    air.streams.close(stream, air.now + air.network.delay(&mut air.rng));
                }
                if self.renew_until.take().is_some() {
                    self.renewal.handle_failure(air.wall());
                }
            }
        }
    }

    fn offer(&mut self, offered: &[OfferedTarget]) {
        let is_old = |old: &Report| matches!(old, Report::Targets(_));
        let report = Report::Targets(offered.to_vec());
        self.unproven.retain(|_, old| !is_old(old));
        if let Ok(seq) = self.outbox.push_latest(report.clone(), is_old) {
            self.unproven.insert(seq, report);
            self.offered = seq;
        }
    }

    fn flush(&mut self, air: &mut Air) {
        let Some(stream) = self.stream.filter(|_| self.is_up()) else { return };
        while let Some((seq, report)) = self.outbox.poll_transmit() {
            let message = Frame::Message(ToHub::Report { seq, report: report.clone() });
            air.streams.send_up(stream, message, air.now + air.network.delay(&mut air.rng));
        }
    }

    /// Everything up to and including `seq` must have taken effect in what is saved.
    fn prove(&mut self, agent: AgentId, seq: u64, disk: &Disk, air: &mut Air) -> Checked {
        air.ledger.acknowledge(agent, self.number, seq);
        let later = self.unproven.split_off(&(seq + 1));
        let Some(saved) = disk.naive.agents.get(&agent) else { return Ok(()) };
        for (number, report) in std::mem::replace(&mut self.unproven, later) {
            let holds = match report {
                Report::Heartbeat => true,
                Report::Qos(at) => air.ledger.has_sample(agent, at),
                Report::Targets(_) => saved
                    .applied
                    .is_some_and(|(process, applied)| process == self.number && applied >= number),
            };
            require(holds, || {
                format!("report {number} of {agent} is acknowledged by {seq}, but lost: {report:?}")
            })?;
        }
        Ok(())
    }
}

/// An address that the machine may send from in `family`.
pub(crate) fn address_like(lease: OverlayLease, other: IpAddr) -> IpAddr {
    if other.is_ipv4() { lease.v4.into() } else { lease.v6.into() }
}

fn targets_text(offered: &[OfferedTarget]) -> String {
    let text = |target: &OfferedTarget| format!("{}:{}={}", target.service, target.port, target.health);
    offered.iter().map(text).collect::<Vec<_>>().join(" ")
}
