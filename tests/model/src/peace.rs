//! How trouble ends, and what must be well soon after.

use std::time::Duration;

use blueprint_common_tunnel_core::SoloTunnel;

use crate::fault::{Checked, Fault, require};
use crate::machine::Machine;
use crate::network::Weather;
use crate::wire::{HEALED_WITHIN, Node, overlay};
use crate::world::World;

impl World {
    /// Ends all trouble and waits for everybody to be well again.
    pub(crate) fn heal(&mut self) -> Checked<Duration> {
        self.air.note("the network heals");
        self.trouble_at = None;
        self.air.network.weather = Weather::FAIR;
        self.air.streams.heal(&mut self.air.rng, self.air.now);
        self.hub_blocked_until = None;
        if self.hub.is_none() {
            self.start_hub()?;
        }
        for machine in &mut self.machines {
            machine.blocked_until = None;
            if !machine.is_honest() && self.disk.agents.contains_key(&machine.agent) {
                machine.kill(&mut self.air);
                machine.start(machine.lease, &mut self.air)?;
            }
        }
        self.block();
        let healed_at = self.air.now;
        while let Some(trouble) = self.unwell() {
            let is_late = !self.advance(healed_at + HEALED_WITHIN)?;
            require(!is_late, || {
                format!("{HEALED_WITHIN:?} after the network healed, {trouble}\n{}", self.counters())
            })?;
        }
        let took = self.air.now.saturating_duration_since(healed_at);
        self.air.note(format_args!("all well after {took:?}"));
        // A machine that moved last is reached again with its next echo.
        while self.advance(healed_at + HEALED_WITHIN)? {}
        self.probe()?;
        self.unwell().map_or(Ok(took), |trouble| Err(Fault(format!("once well, {trouble}"))))
    }

    /// Packets pass in both directions and both families.
    fn probe(&mut self) -> Checked {
        let mut sent = Vec::new();
        for id in self.members() {
            let (lease, hub) = (self.machines[id].lease, overlay().hub());
            for (there, here) in [(lease.v4.into(), hub.v4.into()), (lease.v6.into(), hub.v6.into())] {
                sent.push(self.send(Node::Machine(id), there, here)?);
                sent.push(self.send(Node::Hub, here, there)?);
            }
        }
        let both = [0, 1].map(|id| self.air.ledger.leases.get(&Node::Machine(id)).copied());
        if let ([Some(from), Some(to)], false) = (both, self.air.ledger.allowed.is_empty()) {
            sent.push(self.send(Node::Machine(0), from.v4.into(), to.v4.into())?);
        }
        let until = self.air.now + Duration::from_secs(1);
        while self.advance(until)? {}
        let lost: Vec<_> = sent.into_iter().filter(|number| !self.air.ledger.is_delivered(*number)).collect();
        require(lost.is_empty(), || format!("packets {lost:?} did not arrive over a fair network"))
    }

    /// What is not as it should be, where something is not.
    fn unwell(&mut self) -> Option<String> {
        let Some(hub) = &mut self.hub else { return Some("the hub is down".to_owned()) };
        let snapshot = hub.registry.snapshot();
        for machine in self.machines.iter().filter(|machine| self.disk.agents.contains_key(&machine.agent)) {
            let Machine { id, agent, .. } = machine;
            let Some(process) = &machine.process else { return Some(format!("machine {id} is down")) };
            if !hub.core.peer_stats(&machine.key.public_key()).is_some_and(|stats| stats.echo.alive) {
                return Some(format!("the hub hears no echo of machine {id}"));
            }
            if !process.core.peer_stats(&machine.hub).is_some_and(|stats| stats.echo.alive) {
                return Some(format!("machine {id} gets no echo back"));
            }
            let is_connected = snapshot.agents.get(agent).is_some_and(|view| view.connected);
            if !process.is_up() || !is_connected {
                return Some(format!("machine {id} has no stream: {:?}", process.link.state()));
            }
            if !hub.naive.is_well(*agent, process.said()) {
                return Some(format!(
                    "machine {id} is not shown with its newest targets, {:?}",
                    process.said()
                ));
            }
        }
        None
    }

    /// What each tunnel refused, for a failure's report.
    fn counters(&self) -> String {
        let refused = |node: String, core: &SoloTunnel| {
            let counts: Vec<_> = core.stats().discards().filter(|(_, count)| *count > 0).collect();
            format!("  {node} refused {counts:?}\n")
        };
        let hub = self.hub.iter().map(|hub| refused("hub".to_owned(), &hub.core));
        let machines = self.machines.iter().filter_map(|machine| {
            let process = machine.process.as_ref()?;
            let stats = process.core.peer_stats(&machine.hub);
            Some(refused(format!("machine {} ({stats:?})", machine.id), &process.core))
        });
        hub.chain(machines).collect()
    }
}
