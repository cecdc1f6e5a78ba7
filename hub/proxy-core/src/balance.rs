//! Which target gets the next request.

use std::net::SocketAddr;

use blueprint_common_types::Health;

use crate::routes::Target;

/// Picks the healthy target with the fewest open requests; equals take turns by `turn`.
///
/// `outstanding` tells how many requests an address has open now, `tried` lists the addresses that
/// this request already failed on, and `turn` is a number that grows with every request.
#[must_use]
pub fn choose<'a>(
    targets: &'a [Target],
    outstanding: impl Fn(&SocketAddr) -> usize,
    tried: &[SocketAddr],
    turn: usize,
) -> Option<&'a Target> {
    let mut best: Vec<&Target> = Vec::new();
    let mut least = usize::MAX;
    for target in targets {
        if target.health != Health::Healthy || tried.contains(&target.address) {
            continue;
        }
        let open = outstanding(&target.address);
        if open < least {
            least = open;
            best.clear();
        }
        if open == least {
            best.push(target);
        }
    }
    let index = turn.checked_rem(best.len())?;
    best.get(index).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use blueprint_common_types::AgentId;
    use std::net::{IpAddr, Ipv4Addr};

    fn target(last: u8, health: Health) -> Target {
        let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, last)), 80);
        Target { address, health, reason: String::new(), agent: AgentId::from_bytes([last; 16]) }
    }

    fn last_byte(address: &SocketAddr) -> u8 {
        match address.ip() {
            IpAddr::V4(v4) => v4.octets()[3],
            IpAddr::V6(_) => 0,
        }
    }

    #[test]
    fn equals_take_turns_and_only_the_healthy_take_part() {
        let targets = [
            target(1, Health::Healthy),
            target(2, Health::Unhealthy),
            target(3, Health::Healthy),
            target(4, Health::Unknown),
        ];
        let picks: Vec<u8> = (0..4)
            .filter_map(|turn| choose(&targets, |_| 0, &[], turn))
            .map(|t| last_byte(&t.address))
            .collect();
        assert_eq!(picks, [1, 3, 1, 3]);
    }

    #[test]
    fn the_least_busy_wins_whatever_the_turn() {
        let targets = [target(1, Health::Healthy), target(2, Health::Healthy), target(3, Health::Healthy)];
        for turn in 0..5 {
            let picked = choose(&targets, |a| if last_byte(a) == 2 { 1 } else { 4 }, &[], turn).unwrap();
            assert_eq!(last_byte(&picked.address), 2);
        }
    }

    #[test]
    fn a_target_is_not_tried_twice_for_one_request() {
        let targets = [target(1, Health::Healthy), target(2, Health::Healthy)];
        let first = choose(&targets, |_| 0, &[], 0).unwrap().address;
        let second = choose(&targets, |_| 0, &[first], 0).unwrap().address;
        assert_ne!(first, second);
        assert_eq!(choose(&targets, |_| 0, &[first, second], 0), None);
        assert_eq!(choose(&[], |_| 0, &[], 7), None);
    }
}
