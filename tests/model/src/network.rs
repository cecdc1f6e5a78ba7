//! The path of datagrams.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::rng::Rng;

/// Datagrams kept for whoever replays them.
const OVERHEARD: usize = 64;

/// How the path treats datagrams; chances in 1000.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Weather {
    pub(crate) loss: u64,
    pub(crate) doubling: u64,
    pub(crate) damage: u64,
    /// Least and most delay in milliseconds; their distance is what reorders.
    pub(crate) delay: (u64, u64),
}

impl Weather {
    pub(crate) const FAIR: Self = Self { loss: 0, doubling: 0, damage: 0, delay: (5, 30) };

    pub(crate) fn bad(rng: &mut Rng) -> Self {
        let least = rng.below(60);
        Self {
            loss: rng.below(400),
            doubling: rng.below(200),
            damage: rng.below(50),
            delay: (least, least + 1 + rng.below(250)),
        }
    }
}

/// A datagram under way.
#[derive(Debug, Clone)]
pub(crate) struct Datagram {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) payload: Vec<u8>,
}

/// Datagrams in flight.
#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) weather: Weather,
    /// Addresses that nothing passes to or from.
    pub(crate) blocked: BTreeSet<IpAddr>,
    flying: BTreeMap<(Instant, u64), Datagram>,
    count: u64,
    overheard: VecDeque<Datagram>,
}

impl Default for Network {
    fn default() -> Self {
        Self {
            weather: Weather::FAIR,
            blocked: BTreeSet::new(),
            flying: BTreeMap::new(),
            count: 0,
            overheard: VecDeque::new(),
        }
    }
}

impl Network {
    /// Sends a datagram into the weather.
    pub(crate) fn send(&mut self, datagram: Datagram, rng: &mut Rng, now: Instant) {
        if self.is_blocked(&datagram) {
            return;
        }
        if self.overheard.len() >= OVERHEARD {
            self.overheard.pop_front();
        }
        self.overheard.push_back(datagram.clone());
        if rng.chance(self.weather.loss) {
            return;
        }
        if rng.chance(self.weather.doubling) {
            self.fly(datagram.clone(), rng, now);
        }
        self.fly(datagram, rng, now);
    }

    /// Something sent earlier, as whoever listened would send it again.
    pub(crate) fn overheard(&self, rng: &mut Rng) -> Option<Datagram> {
        self.overheard.get(rng.index(self.overheard.len())).cloned()
    }

    pub(crate) fn next_at(&self) -> Option<Instant> {
        self.flying.first_key_value().map(|((at, _), _)| *at)
    }

    /// The next datagram that arrives by `now`; one over a blocked path is lost at either end.
    pub(crate) fn arrival(&mut self, now: Instant) -> Option<Datagram> {
        while self.next_at().is_some_and(|at| at <= now) {
            let (_, datagram) = self.flying.pop_first()?;
            if !self.is_blocked(&datagram) {
                return Some(datagram);
            }
        }
        None
    }

    pub(crate) fn delay(&self, rng: &mut Rng) -> Duration {
        rng.millis(self.weather.delay.0, self.weather.delay.1)
    }

    fn is_blocked(&self, datagram: &Datagram) -> bool {
        [datagram.from, datagram.to].iter().any(|address| self.blocked.contains(&address.ip()))
    }

    fn fly(&mut self, mut datagram: Datagram, rng: &mut Rng, now: Instant) {
        if rng.chance(self.weather.damage) && !datagram.payload.is_empty() {
            let at = rng.index(datagram.payload.len());
            datagram.payload[at] ^= 1 << rng.below(8);
        }
        self.count += 1;
        let at = now + self.delay(rng);
        self.flying.insert((at, self.count), datagram);
    }
}
