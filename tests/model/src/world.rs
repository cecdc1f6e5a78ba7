//! One run: rounds of trouble and peace, one step after the other.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use blueprint_common_tunnel_core::{Policy, Rule};
use blueprint_common_types::{AgentId, OverlayLease, TokenId, WgPrivateKey};
use blueprint_hub_registry_core::{Agent, ServiceGrant};

use crate::air::Air;
use crate::disk::Disk;
use crate::fault::{Checked, Failure, Fault, require};
use crate::hub::Hub;
use crate::machine::Machine;
use crate::network::Datagram;
use crate::streams::{Arrival, Frame};
use crate::wire::{HUB_ADDRESS, MachineId, Node, overlay};

/// Rounds of trouble in one run.
const ROUNDS: u32 = 2;

/// Longest time of a datagram under way, or a little more.
const FLIGHT: Duration = Duration::from_millis(350);

/// When a hub has missed an agent at the latest: four seconds after its last echo came.
const MISSED_WITHIN: Duration = Duration::from_millis(4350);

/// What a run that broke nothing did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Seed of the run.
    pub seed: u64,
    /// Steps taken.
    pub steps: u64,
    /// Virtual time that passed.
    pub lasted: Duration,
    /// Longest time from a healed network to everybody well.
    pub slowest_heal: Duration,
    /// Inner packets delivered.
    pub delivered: u64,
    /// Reports applied.
    pub reports: u64,
    /// Starts of the hub.
    pub hub_starts: u64,
    /// Same for runs that went the same way.
    pub hash: u64,
}

/// Hub, machines, and what is between and around them.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) air: Air,
    pub(crate) disk: Disk,
    pub(crate) hub: Option<Hub>,
    /// When the hub starts, where it is down.
    pub(crate) hub_start_at: Option<Instant>,
    pub(crate) hub_blocked_until: Option<Instant>,
    pub(crate) machines: Vec<Machine>,
    policy: Policy,
    step: u64,
    /// When trouble comes next; `None` in peace.
    pub(crate) trouble_at: Option<Instant>,
    pub(crate) traffic_at: Instant,
    /// When strangers last sent something again, which may be an echo that the hub never got.
    pub(crate) attacked_at: Instant,
}

/// Runs the simulation of one seed.
///
/// # Errors
///
/// Says which promise broke, in which step, and what happened before; a panic counts as one.
pub fn simulate(seed: u64) -> Result<Summary, Box<Failure>> {
    let mut world = World::new(seed);
    let outcome = catch_unwind(AssertUnwindSafe(|| world.run()));
    let fault = match outcome {
        Ok(Ok(slowest_heal)) => return Ok(world.summary(seed, slowest_heal)),
        Ok(Err(Fault(text))) => text,
        Err(_) => "a core or the simulation panicked".to_owned(),
    };
    let World { air, step, .. } = world;
    Err(Box::new(Failure { seed, step, at: air.elapsed(), fault, events: air.trace.lines() }))
}

impl World {
    fn new(seed: u64) -> Self {
        let mut air = Air::new(seed);
        let mut policy = Policy::deny_all();
        if air.rng.chance(250) {
            policy.allow(private_key(0).public_key(), private_key(1).public_key(), Rule::ANY);
            air.ledger.allowed.insert((Node::Machine(0), Node::Machine(1)));
        }
        air.ledger.leases.insert(Node::Hub, overlay().hub());
        let (traffic_at, attacked_at) = (air.now, air.now);
        Self {
            air,
            disk: Disk::default(),
            hub: None,
            hub_start_at: None,
            hub_blocked_until: None,
            machines: Vec::new(),
            policy,
            step: 0,
            trouble_at: None,
            traffic_at,
            attacked_at,
        }
    }

    /// Gives the longest time that healing took.
    fn run(&mut self) -> Checked<Duration> {
        self.start_hub()?;
        for _ in 0..3 {
            self.join()?;
        }
        let mut slowest = self.heal()?;
        for _ in 0..ROUNDS {
            let until = self.air.now + self.air.rng.millis(8_000, 25_000);
            self.trouble_at = Some(self.air.now);
            while self.advance(until)? {}
            slowest = slowest.max(self.heal()?);
        }
        Ok(slowest)
    }

    /// Does the next thing that is due; false, and time is `until`, where nothing is before that.
    pub(crate) fn advance(&mut self, until: Instant) -> Checked<bool> {
        let at = self.next_at();
        if at > until {
            self.air.now = until;
            return Ok(false);
        }
        self.air.now = self.air.now.max(at);
        self.step += 1;
        self.act()?;
        if let Some(hub) = &mut self.hub {
            hub.check()?;
        }
        self.check_echoes()?;
        Ok(true)
    }

    /// The hub must not take an agent for alive that it cannot hear any more.
    fn check_echoes(&mut self) -> Checked {
        let now = self.air.now;
        for machine in &mut self.machines {
            let is_away = !machine.is_honest() || machine.blocked_until.or(self.hub_blocked_until).is_some();
            machine.away_since = is_away.then(|| machine.away_since.unwrap_or(now));
            let Some(hub) = &mut self.hub else { continue };
            let since = machine.away_since.map(|at| at.max(self.attacked_at));
            if since.is_some_and(|at| at + MISSED_WITHIN < now) && hub.echoed.contains(&machine.agent) {
                let stats = hub.core.peer_stats(&machine.key.public_key());
                require(!stats.is_some_and(|stats| stats.echo.alive), || {
                    format!("{MISSED_WITHIN:?} after machine {} went, the hub takes it for alive", machine.id)
                })?;
            }
            // An answer of an earlier hub may be under way for a while, or come again from strangers.
            let earliest = hub.started_at.max(self.attacked_at) + FLIGHT;
            let is_of_this_hub = |age: Duration| earliest + age < now;
            let stats = machine.process.as_ref().and_then(|process| process.core.peer_stats(&machine.hub));
            if stats.and_then(|stats| stats.echo.last_reply_age).is_some_and(is_of_this_hub) {
                hub.echoed.insert(machine.agent);
            }
        }
        Ok(())
    }

    fn next_at(&self) -> Instant {
        let air = &self.air;
        let machines = self
            .machines
            .iter()
            .flat_map(|machine| [machine.poll_timeout(air), machine.start_at, machine.blocked_until]);
        let hub = self.hub.as_ref().and_then(|hub| hub.poll_timeout(air));
        let own = [self.hub_start_at, self.hub_blocked_until, self.trouble_at, hub];
        let paths = [air.network.next_at(), air.streams.next_at()];
        machines.chain(own).chain(paths).flatten().fold(self.traffic_at, Instant::min)
    }

    fn act(&mut self) -> Checked {
        let now = self.air.now;
        if let Some(datagram) = self.air.network.arrival(now) {
            return self.deliver(&datagram);
        }
        let blocked: BTreeSet<MachineId> = self
            .machines
            .iter()
            .filter_map(|machine| {
                (machine.blocked_until.is_some() || self.hub_blocked_until.is_some()).then_some(machine.id)
            })
            .collect();
        match self.air.streams.arrival(now, |machine| blocked.contains(&machine)) {
            Some(Arrival::AtAgent(stream, machine, frame)) => {
                return self.machines[machine].handle_frame(stream, frame, &self.disk, &mut self.air);
            }
            Some(Arrival::AtHub(stream, frame)) => match &mut self.hub {
                Some(hub) => return hub.handle_frame(stream, frame, &mut self.disk, &mut self.air),
                None if frame == Frame::End => {}
                None => {
                    let at = now + self.air.network.delay(&mut self.air.rng);
                    self.air.streams.send_down(stream, Frame::End, at);
                }
            },
            None => {}
        }
        self.handle_timeouts()?;
        if self.traffic_at <= now {
            self.traffic()?;
        }
        if self.trouble_at.is_some_and(|at| at <= now) {
            self.trouble()?;
        }
        Ok(())
    }

    fn handle_timeouts(&mut self) -> Checked {
        let now = self.air.now;
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if is_due(self.hub_start_at) {
            self.start_hub()?;
        }
        if is_due(self.hub.as_ref().and_then(|hub| hub.poll_timeout(&self.air)))
            && let Some(hub) = &mut self.hub
        {
            hub.handle_timeout(&mut self.disk, &mut self.air)?;
        }
        self.hub_blocked_until = self.hub_blocked_until.filter(|at| *at > now);
        for machine in &mut self.machines {
            machine.blocked_until = machine.blocked_until.filter(|at| *at > now);
            if is_due(machine.start_at) {
                machine.start(machine.lease, &mut self.air)?;
            }
            if is_due(machine.poll_timeout(&self.air)) {
                machine.handle_timeout(&mut self.air)?;
            }
        }
        self.block();
        Ok(())
    }

    fn deliver(&mut self, datagram: &Datagram) -> Checked {
        if datagram.to == HUB_ADDRESS {
            return self.hub.as_mut().map_or(Ok(()), |hub| hub.handle_datagram(datagram, &mut self.air));
        }
        let machine = self.machines.iter_mut().find(|machine| machine.address == datagram.to);
        machine.map_or(Ok(()), |machine| machine.handle_datagram(datagram, &mut self.air))
    }

    /// Sends a packet from the stack of `from`, and gives its number.
    pub(crate) fn send(
        &mut self,
        from: Node,
        source: std::net::IpAddr,
        destination: std::net::IpAddr,
    ) -> Checked<u64> {
        let (number, packet) = self.air.ledger.send(from, source, destination);
        match from {
            Node::Hub => {
                self.hub.as_mut().map_or(Ok(()), |hub| hub.handle_packet(&packet, &mut self.air))?;
            }
            Node::Machine(id) => self.machines[id].handle_packet(&packet, &mut self.air)?,
        }
        Ok(number)
    }

    /// Tells the network which addresses are cut off now.
    pub(crate) fn block(&mut self) {
        let machines = self.machines.iter().filter(|machine| machine.blocked_until.is_some());
        let hub = self.hub_blocked_until.map(|_| HUB_ADDRESS.ip());
        self.air.network.blocked = machines.map(|machine| machine.address.ip()).chain(hub).collect();
    }

    /// Machines that are joined.
    pub(crate) fn members(&self) -> Vec<MachineId> {
        let is_member = |machine: &&Machine| self.disk.agents.contains_key(&machine.agent);
        self.machines.iter().filter(is_member).map(|machine| machine.id).collect()
    }

    pub(crate) fn start_hub(&mut self) -> Checked {
        self.hub_start_at = None;
        self.hub = Some(Hub::start(&mut self.disk, self.policy.clone(), &mut self.air)?);
        Ok(())
    }

    /// A new machine asks to join and, where it may, starts its agent.
    pub(crate) fn join(&mut self) -> Checked {
        let Some(hub) = &mut self.hub else { return Ok(()) };
        let id = self.machines.len();
        let certified_at = self.air.wall();
        let wanted = Agent {
            id: AgentId::from_bytes([number_of(id); 16]),
            name: format!("machine-{id}"),
            wireguard_key: private_key(id).public_key(),
            lease: OverlayLease { v4: [0; 4].into(), v6: [0; 16].into() },
            joined_at: certified_at,
            generation: 1,
            token: TokenId::from_bytes([number_of(id); 8]),
            services: if id < 2 {
                ServiceGrant::FirstClaim
            } else {
                crate::trouble::grant(&mut self.air.rng)
            },
            agent_version: "0.1.0".to_owned(),
        };
        let Some(agent) = hub.join(id, wanted, &mut self.disk, &mut self.air)? else { return Ok(()) };
        let mut machine = Machine {
            id,
            agent: agent.id,
            lease: agent.lease,
            address: SocketAddr::from(([100, 64, 0, number_of(id)], 40000)),
            key: private_key(id),
            hub: Hub::private_key().public_key(),
            generation: 1,
            certified_at,
            offered: crate::trouble::targets(&mut self.air.rng),
            start_at: None,
            blocked_until: None,
            process: None,
            away_since: None,
        };
        machine.start(machine.lease, &mut self.air)?;
        self.machines.push(machine);
        Ok(())
    }

    fn summary(self, seed: u64, slowest_heal: Duration) -> Summary {
        let Self { air, disk, step, .. } = self;
        Summary {
            seed,
            steps: step,
            lasted: air.elapsed(),
            slowest_heal,
            delivered: air.ledger.delivered,
            reports: air.ledger.reports,
            hub_starts: disk.epoch,
            hash: air.trace.hash(),
        }
    }
}

fn number_of(id: MachineId) -> u8 {
    u8::try_from(id).unwrap() + 1
}

fn private_key(id: MachineId) -> WgPrivateKey {
    WgPrivateKey::from_bytes([number_of(id); 32])
}
