//! What goes wrong, what the machines' stacks send, and what strangers try.

use std::net::{IpAddr, SocketAddr};

use blueprint_common_types::{Health, OverlayLease, ServiceKey};
use blueprint_hub_registry_core::{OfferedTarget, ServiceGrant};

use crate::fault::Checked;
use crate::machine::address_like;
use crate::network::{Datagram, Weather};
use crate::rng::Rng;
use crate::wire::{HUB_ADDRESS, MachineId, Node, overlay};
use crate::world::World;

/// Services there are; few, so that machines want the same ones.
const SERVICES: u64 = 6;

impl World {
    /// One misfortune, and when the next one comes.
    pub(crate) fn trouble(&mut self) -> Checked {
        let now = self.air.now;
        self.trouble_at = Some(now + self.air.rng.millis(20, 1200));
        match self.air.rng.below(100) {
            0..12 => {
                let weather = Weather::bad(&mut self.air.rng);
                self.air.note(format_args!("{weather:?}"));
                self.air.network.weather = weather;
            }
            12..22 => self.block_machine(),
            22..27 => {
                self.air.note("nobody reaches the hub");
                self.hub_blocked_until = Some(now + self.air.rng.millis(100, 12_000));
                self.block();
            }
            27..40 => {
                if let Some(stream) = self.air.streams.cut(&mut self.air.rng, now) {
                    self.air.note(format_args!("stream {stream} is cut"));
                }
            }
            40..47 => self.kill_hub()?,
            47..57 => self.restart_machine()?,
            57..65 => self.move_machine(),
            65..80 => self.change_targets()?,
            80..86 => self.join()?,
            86..89 => self.remove()?,
            _ => self.attack()?,
        }
        Ok(())
    }

    /// A packet from somewhere to somewhere, honest or not.
    pub(crate) fn traffic(&mut self) -> Checked {
        self.traffic_at = self.air.now + self.air.rng.millis(10, 250);
        let members = self.members();
        if members.is_empty() {
            return Ok(());
        }
        let id = members[self.air.rng.index(members.len())];
        let other = members[self.air.rng.index(members.len())];
        let (lease, there, hub) = (self.machines[id].lease, self.machines[other].lease, overlay().hub());
        let is_v4 = self.air.rng.chance(500);
        let family = |lease: OverlayLease| if is_v4 { IpAddr::V4(lease.v4) } else { IpAddr::V6(lease.v6) };
        let speaks_as = self.machines[id].process.as_ref().map_or(lease, |process| process.speaks_as);
        let from = Node::Machine(id);
        match self.air.rng.below(10) {
            0..3 => self.send(from, family(lease), family(hub))?,
            3..6 => self.send(Node::Hub, family(hub), family(lease))?,
            6..8 => self.send(from, family(lease), family(there))?,
            8 => self.send(from, family(there), family(hub))?,
            _ => {
                let to = if self.air.rng.chance(500) { hub } else { there };
                self.send(from, address_like(speaks_as, family(to)), family(to))?
            }
        };
        Ok(())
    }

    fn block_machine(&mut self) {
        let Some(id) = self.some_member() else { return };
        let until = self.air.now + self.air.rng.millis(100, 15_000);
        self.air.note(format_args!("machine {id} is cut off"));
        self.machines[id].blocked_until = Some(until);
        self.block();
    }

    fn kill_hub(&mut self) -> Checked {
        let Some(hub) = self.hub.take() else { return Ok(()) };
        hub.crash(&mut self.disk, &mut self.air)?;
        let pause = self.air.rng.below(8_000);
        self.hub_start_at = Some(self.air.now + self.air.rng.millis(0, pause));
        Ok(())
    }

    /// Kills an agent, which comes back as itself later or as somebody else at once.
    fn restart_machine(&mut self) -> Checked {
        let Some(id) = self.some_member() else { return Ok(()) };
        let machine = &mut self.machines[id];
        machine.kill(&mut self.air);
        if self.air.rng.chance(650) {
            machine.start_at = Some(self.air.now + self.air.rng.millis(0, 5_000));
            return Ok(());
        }
        let other = self.some_member().map_or(overlay().hub(), |other| self.machines[other].lease);
        let nobody = OverlayLease { v4: [192, 168, 1, 1].into(), v6: overlay().hub().v6 };
        let speaks_as = [other, other, overlay().hub(), nobody][self.air.rng.index(4)];
        self.machines[id].start(speaks_as, &mut self.air)
    }

    fn move_machine(&mut self) {
        let Some(id) = self.some_member() else { return };
        let machine = &mut self.machines[id];
        let [.., last] = match machine.address.ip() {
            IpAddr::V4(v4) => v4.octets(),
            IpAddr::V6(_) => return,
        };
        let [net, port] = [0, 1].map(|_| u8::try_from(self.air.rng.below(100)).unwrap());
        machine.address = SocketAddr::from(([100, 65, net, last], 40_000 + u16::from(port)));
        self.air.note(format_args!("machine {id} moves to {}", machine.address));
        self.block();
    }

    fn change_targets(&mut self) -> Checked {
        let Some(id) = self.some_member() else { return Ok(()) };
        let offered = targets(&mut self.air.rng);
        self.machines[id].offer(offered, &mut self.air)
    }

    fn remove(&mut self) -> Checked {
        let members = self.members();
        let (Some(id), Some(hub)) = (self.some_member().filter(|_| members.len() > 2), &mut self.hub) else {
            return Ok(());
        };
        hub.remove(id, self.machines[id].agent, &mut self.disk, &mut self.air)
    }

    /// A stranger sends again what it overheard, from elsewhere or damaged, or sends noise.
    fn attack(&mut self) -> Checked {
        self.attacked_at = self.air.now;
        for _ in 0..self.air.rng.below(20) {
            let stranger = SocketAddr::from(([203, 0, 113, 9], 9));
            let noise = || Datagram { from: stranger, to: HUB_ADDRESS, payload: Vec::new() };
            let mut datagram = self.air.network.overheard(&mut self.air.rng).unwrap_or_else(noise);
            if self.air.rng.chance(500) {
                datagram.from = stranger;
            }
            if self.air.rng.chance(300) {
                let len = self.air.rng.index(200);
                let kind = u8::try_from(self.air.rng.below(6)).unwrap();
                datagram.payload =
                    [kind, 0, 0, 0].into_iter().chain(self.air.rng.bytes()).cycle().take(len).collect();
            }
            let Self { air, .. } = self;
            air.network.send(datagram, &mut air.rng, air.now);
        }
        Ok(())
    }

    fn some_member(&mut self) -> Option<MachineId> {
        let members = self.members();
        members.get(self.air.rng.index(members.len())).copied()
    }
}

/// Up to five targets; now and then one that nobody may offer.
pub(crate) fn targets(rng: &mut Rng) -> Vec<OfferedTarget> {
    let target = |rng: &mut Rng| {
        let port = if rng.chance(30) { 0 } else { 8000 + u16::try_from(rng.below(3)).unwrap() };
        let health = [Health::Healthy, Health::Healthy, Health::Unhealthy, Health::Unknown][rng.index(4)];
        let reason = if health == Health::Unhealthy { "connection refused" } else { "" };
        OfferedTarget { service: service(rng), port, health, reason: reason.to_owned(), generation: 0 }
    };
    (0..rng.below(6)).map(|_| target(rng)).collect()
}

/// What a machine may offer.
pub(crate) fn grant(rng: &mut Rng) -> ServiceGrant {
    if rng.chance(500) {
        return ServiceGrant::FirstClaim;
    }
    ServiceGrant::Only((0..rng.below(4)).map(|_| service(rng)).collect())
}

fn service(rng: &mut Rng) -> ServiceKey {
    ServiceKey { blueprint: 7, service: rng.below(SERVICES) }
}
