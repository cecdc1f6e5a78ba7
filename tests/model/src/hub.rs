//! The hub's process: its cores, and in little what its drivers do around them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use blueprint_common_tunnel_core::{Config, Event, Limits, PeerConfig, Policy, Role, SoloTunnel};
use blueprint_common_types::{AgentId, Timestamp, WgPrivateKey, WgPublicKey};
use blueprint_hub_registry_core::{AddressPool, Agent, Change, QosHistory, Registry};

use crate::air::Air;
use crate::disk::Disk;
use crate::fault::{Checked, Fault, require, require_equal};
use crate::naive::{Naive, View, view_of};
use crate::network::Datagram;
use crate::sessions::{Live, Session};
use crate::streams::StreamId;
use crate::watcher::Watcher;
use crate::wire::{HUB_ADDRESS, MachineId, Node, ProcessId, TTL, overlay};

/// Moments of the registry that its changes are replayed from.
const PAST: usize = 40;

/// See the module.
#[derive(Debug)]
pub(crate) struct Hub {
    pub(crate) core: SoloTunnel,
    pub(crate) registry: Registry,
    pub(crate) naive: Naive,
    pool: AddressPool,
    keys: BTreeMap<WgPublicKey, AgentId>,
    pub(crate) epoch: u64,
    pub(crate) started_at: Instant,
    /// Agents whose echo it answered, so that it must miss them soon after they are gone.
    pub(crate) echoed: BTreeSet<AgentId>,
    pub(crate) live: BTreeMap<AgentId, Live>,
    pub(crate) sessions: BTreeMap<StreamId, Session>,
    pub(crate) history: BTreeMap<AgentId, QosHistory>,
    /// Times of the samples applied, as the history should hold them.
    pub(crate) samples: BTreeMap<AgentId, Vec<Timestamp>>,
    /// Every report applied in this life.
    pub(crate) done: BTreeSet<(AgentId, ProcessId, u64)>,
    unsaved: Vec<Change>,
    save_at: Option<Instant>,
    past: BTreeMap<u64, View>,
}

impl Hub {
    pub(crate) fn private_key() -> WgPrivateKey {
        WgPrivateKey::from_bytes([0xb1; 32])
    }

    /// Starts from what the disk holds.
    pub(crate) fn start(disk: &mut Disk, policy: Policy, air: &mut Air) -> Checked<Self> {
        disk.open();
        air.note(format_args!("hub starts, epoch {} index {}", disk.epoch, disk.index));
        let wall = air.wall();
        let agents: Vec<Agent> = disk.agents.values().cloned().collect();
        let targets = disk.targets.values().cloned().collect();
        let registry = Registry::restore(agents.clone(), targets, disk.claims.clone(), disk.index, wall, TTL);
        let prefixes = overlay();
        let mut pool =
            AddressPool::new(prefixes.v4, prefixes.v6).map_err(|error| Fault(error.to_string()))?;
        let config = Config {
            private_key: Self::private_key(),
            addresses: prefixes.hub(),
            prefixes,
            role: Role::Hub,
            mtu: 1420,
            limits: Limits::default(),
            answers_echoes: true,
            own_rules: None,
            seed: air.rng.bytes(),
        };
        let mut core = SoloTunnel::new(config, air.now);
        core.set_policy(policy);
        for agent in &agents {
            require(pool.mark(agent.lease), || format!("the lease of {} is not free", agent.id))?;
            add_peer(&mut core, agent, air.now)?;
        }
        let naive = disk.naive.restored(wall);
        Ok(Self {
            core,
            registry,
            pool,
            keys: agents.iter().map(|agent| (agent.wireguard_key, agent.id)).collect(),
            epoch: disk.epoch,
            started_at: air.now,
            echoed: BTreeSet::new(),
            live: BTreeMap::new(),
            sessions: BTreeMap::new(),
            history: BTreeMap::new(),
            samples: BTreeMap::new(),
            done: BTreeSet::new(),
            unsaved: Vec::new(),
            save_at: None,
            past: BTreeMap::from([(disk.index, naive.view())]),
            naive,
        })
    }

    /// Dies. What waits to be saved may have reached the disk, and then whole.
    pub(crate) fn crash(mut self, disk: &mut Disk, air: &mut Air) -> Checked {
        let saved = air.rng.chance(500);
        air.note(format_args!("hub dies, {} changes unsaved, saved={saved}", self.unsaved.len()));
        for stream in self.sessions.keys() {
            // The system says goodbye for a killed process, but not for one whose power went.
            if air.rng.chance(500) {
                let at = air.now + air.network.delay(&mut air.rng);
                air.streams.send_down(*stream, crate::streams::Frame::End, at);
            }
        }
        if saved {
            disk.save(&std::mem::take(&mut self.unsaved))?;
            disk.settle(&self.naive)?;
        }
        Ok(())
    }

    /// Lets a machine join, unless the overlay is full or the machine goes away in between.
    pub(crate) fn join(
        &mut self,
        machine: MachineId,
        wanted: Agent,
        disk: &mut Disk,
        air: &mut Air,
    ) -> Checked<Option<Agent>> {
        let held: BTreeSet<_> = disk.agents.values().map(|agent| agent.lease.v4).collect();
        let Some(lease) = self.pool.reserve() else {
            let capacity = usize::try_from(self.pool.capacity()).unwrap();
            require_equal(&held.len(), &capacity, "the overlay is full with addresses free")?;
            return Ok(None);
        };
        require(!held.contains(&lease.v4) && lease != overlay().hub(), || {
            format!("{lease:?} is leased twice")
        })?;
        if air.rng.chance(100) {
            require(self.pool.release(lease), || format!("{lease:?} cannot be given back"))?;
            air.note(format_args!("machine {machine} goes away while joining"));
            return Ok(None);
        }
        let agent = Agent { lease, ..wanted };
        disk.agents.insert(agent.id, agent.clone());
        disk.naive.add(&agent);
        self.naive.add(&agent);
        self.registry.add_agent(agent.clone());
        self.keys.insert(agent.wireguard_key, agent.id);
        add_peer(&mut self.core, &agent, air.now)?;
        air.ledger.leases.insert(Node::Machine(machine), lease);
        air.note(format_args!("machine {machine} joins as {} {} {:?}", agent.id, lease.v4, agent.services));
        Ok(Some(agent))
    }

    /// Removes an agent for good.
    pub(crate) fn remove(
        &mut self,
        machine: MachineId,
        id: AgentId,
        disk: &mut Disk,
        air: &mut Air,
    ) -> Checked {
        let Some(agent) = disk.agents.get(&id).cloned() else { return Ok(()) };
        air.note(format_args!("machine {machine} is removed"));
        disk.remove(id);
        require(self.core.remove_peer(&agent.wireguard_key), || format!("{id} is no peer"))?;
        self.keys.remove(&agent.wireguard_key);
        air.ledger.leases.remove(&Node::Machine(machine));
        let changes = self.registry.remove_agent(id);
        self.note(changes, air);
        self.naive.remove(id);
        self.history.remove(&id);
        self.samples.remove(&id);
        self.revoke(id, air);
        require(self.pool.release(agent.lease), || format!("nobody held the lease of {id}"))
    }

    pub(crate) fn handle_datagram(&mut self, datagram: &Datagram, air: &mut Air) -> Checked {
        self.core.handle_datagram(datagram.from, &datagram.payload, air.now);
        self.drain(air)
    }

    /// Sends a packet from the hub's own stack.
    pub(crate) fn handle_packet(&mut self, packet: &[u8], air: &mut Air) -> Checked {
        self.core.handle_packet(packet, air.now);
        self.drain(air)
    }

    pub(crate) fn handle_timeout(&mut self, disk: &mut Disk, air: &mut Air) -> Checked {
        let (now, wall) = (air.now, air.wall());
        self.core.handle_timeout(now);
        require(self.core.poll_timeout().is_none_or(|at| at > now), || "the hub's tunnel spins".to_owned())?;
        let expired = self.registry.handle_timeout(wall);
        self.note(expired, air);
        self.naive.expire(wall);
        require(self.registry.poll_timeout().is_none_or(|at| at > wall), || "the registry spins".to_owned())?;
        self.end_silent_sessions(air);
        if self.save_at.is_some_and(|at| at <= now) {
            self.save(disk, air)?;
        }
        self.drain(air)
    }

    pub(crate) fn poll_timeout(&self, air: &Air) -> Option<Instant> {
        let registry = self.registry.poll_timeout().map(|at| air.instant(at));
        [self.core.poll_timeout(), registry, self.save_at, self.silence_at()].into_iter().flatten().min()
    }

    /// Compares the registry with the naive one, and what it says of data planes with the tunnel.
    pub(crate) fn check(&mut self) -> Checked {
        let snapshot = self.registry.snapshot();
        require_equal(
            &view_of(&snapshot),
            &self.naive.view(),
            "the registry shows other targets than the naive one",
        )?;
        let known: BTreeSet<_> = self.naive.agents.keys().collect();
        require_equal(&snapshot.agents.keys().collect(), &known, "the registry knows other agents")?;
        for (id, view) in &snapshot.agents {
            let alive = self.core.peer_stats(&view.agent.wireguard_key).is_some_and(|stats| stats.echo.alive);
            let wanted = self.naive.agents.get(id).map(|agent| (agent.connected, agent.alive));
            require_equal(&Some((view.connected, view.data_plane)), &wanted, "an agent's state is another")?;
            require_equal(&view.data_plane, &alive, "registry and tunnel disagree on a data plane")?;
        }
        Ok(())
    }

    /// Everything that the core wants done.
    fn drain(&mut self, air: &mut Air) -> Checked {
        while let Some(transmit) = self.core.poll_transmit() {
            let datagram = Datagram { from: HUB_ADDRESS, to: transmit.to.remote, payload: transmit.payload };
            air.network.send(datagram, &mut air.rng, air.now);
        }
        while let Some(packet) = self.core.poll_packet() {
            air.ledger.receive(Node::Hub, &packet)?;
        }
        while let Some(event) = self.core.poll_event() {
            let (peer, alive) = match event {
                Event::EchoLost { peer } => (peer, false),
                Event::EchoBack { peer } => (peer, true),
                Event::Handshake { .. } | Event::Roam { .. } | Event::Probed { .. } => continue,
            };
            let Some(id) = self.keys.get(&peer).copied() else { continue };
            air.note(format_args!("hub: echo of {id} alive={alive}"));
            let changes = self.registry.set_data_plane(id, alive);
            self.naive.set_alive(id, alive);
            self.note(changes, air);
        }
        Ok(())
    }

    /// Keeps changes for the next save, which comes soon in any case.
    pub(crate) fn note(&mut self, changes: Vec<Change>, air: &mut Air) {
        self.unsaved.extend(changes);
        if self.save_at.is_none() {
            self.save_at = Some(air.now + air.rng.millis(0, 50));
        }
    }

    /// Saves, then acknowledges and publishes.
    fn save(&mut self, disk: &mut Disk, air: &mut Air) -> Checked {
        self.save_at = None;
        disk.save(&std::mem::take(&mut self.unsaved))?;
        disk.settle(&self.naive)?;
        require_equal(&self.registry.index(), &disk.index, "the index saved is not the registry's")?;
        self.acknowledge(air);
        self.publish(air)
    }

    fn publish(&mut self, air: &mut Air) -> Checked {
        let Air { watchers, rng, .. } = air;
        for watcher in watchers.iter_mut() {
            if rng.chance(200) {
                watcher.follow(&mut self.registry)?;
            }
        }
        let indexes: Vec<u64> = self.past.keys().copied().collect();
        let from = indexes[rng.index(indexes.len())];
        Watcher::at(from, self.past.get(&from).cloned().unwrap_or_default()).follow(&mut self.registry)?;
        self.past.insert(self.registry.index(), self.naive.view());
        if self.past.len() > PAST {
            self.past.pop_first();
        }
        Ok(())
    }
}

fn add_peer(core: &mut SoloTunnel, agent: &Agent, now: Instant) -> Checked {
    let allowed_ips = vec![IpAddr::V4(agent.lease.v4).into(), IpAddr::V6(agent.lease.v6).into()];
    let public_key = agent.wireguard_key;
    let keepalive = Some(Duration::from_secs(25));
    let peer = PeerConfig { public_key, allowed_ips, endpoint: None, preshared_key: None, keepalive };
    core.upsert_peer(peer, now).map_err(|error| Fault(format!("{} is refused as a peer: {error}", agent.id)))
}
