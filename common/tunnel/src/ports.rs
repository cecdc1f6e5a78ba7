//! Local ports of outgoing connections, and pairs of ends that must rest before they are used again.

use std::collections::{HashSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::segment::Ends;

/// Ports that outgoing connections use: Linux's default `ip_local_port_range`, which leaves the rest to listeners.
const FIRST: u16 = 32_768;
const COUNT: u16 = 28_232;
/// How long a pair of ends rests after its connection; same as smoltcp's TIME-WAIT.
const REST: Duration = Duration::from_secs(10);
/// Pairs that rest at once; beyond it the oldest rests no longer.
const RESTING_MAX: usize = 16_384;

/// Chooses local ports.
///
/// Where a port is looked for starts at random (RFC 6056, algorithm 1), so that it cannot be guessed
/// and a restarted engine does not meet its former connections.
#[derive(Debug)]
pub(crate) struct Ports {
    random: u64,
    resting: HashSet<Ends>,
    order: VecDeque<(Instant, Ends)>,
}

impl Ports {
    /// Starts with the given randomness.
    pub(crate) fn new(seed: u64) -> Self {
        Self { random: seed, resting: HashSet::new(), order: VecDeque::new() }
    }

    /// A pair of ends from `local` to `remote` that `is_taken` does not know and that does not rest.
    pub(crate) fn choose(
        &mut self,
        local: IpAddr,
        remote: SocketAddr,
        now: Instant,
        is_taken: impl Fn(&Ends) -> bool,
    ) -> Option<Ends> {
        self.forget(now);
        let start = u16::try_from(self.next_random() % u64::from(COUNT)).unwrap_or(0);
        (0..COUNT)
            .map(|step| FIRST + (start + step) % COUNT)
            .map(|port| Ends { local: SocketAddr::new(local, port), remote })
            .find(|ends| !self.resting.contains(ends) && !is_taken(ends))
    }

    /// Lets a pair rest, because its connection just ended.
    pub(crate) fn rest(&mut self, ends: Ends, now: Instant) {
        self.forget(now);
        if self.order.len() >= RESTING_MAX
            && let Some((_, oldest)) = self.order.pop_front()
        {
            self.resting.remove(&oldest);
        }
        if self.resting.insert(ends) {
            self.order.push_back((now, ends));
        }
    }

    fn forget(&mut self, now: Instant) {
        while let Some((_, ends)) = self.order.pop_front_if(|(since, _)| now.duration_since(*since) >= REST) {
            self.resting.remove(&ends);
        }
    }

    /// SplitMix64 (Steele, Lea, Flood 2014): spreads ports, protects nothing.
    fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_port_is_found_once_and_then_none() {
        let (mut ports, mut taken) = (Ports::new(7), HashSet::new());
        let (local, remote) = ("10.0.0.1".parse().unwrap(), "10.0.0.2:80".parse().unwrap());
        let now = Instant::now();
        for _ in 0..COUNT {
            let ends = ports.choose(local, remote, now, |ends| taken.contains(ends)).unwrap();
            assert!(ends.local.port() >= FIRST);
            assert!(taken.insert(ends));
        }
        assert_eq!(ports.choose(local, remote, now, |ends| taken.contains(ends)), None);
    }

    #[test]
    fn a_pair_rests_before_it_is_used_again() {
        let mut ports = Ports::new(7);
        let (local, remote) = ("10.0.0.1".parse().unwrap(), "10.0.0.2:80".parse().unwrap());
        let now = Instant::now();
        let ends = ports.choose(local, remote, now, |_| false).unwrap();
        ports.rest(ends, now);
        let is_other = |other: &Ends| *other != ends;
        assert_eq!(ports.choose(local, remote, now, is_other), None);
        assert_eq!(ports.choose(local, remote, now + REST, is_other), Some(ends));
    }
}
