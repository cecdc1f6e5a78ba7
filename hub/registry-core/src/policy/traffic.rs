//! Kinds of traffic, such as `tcp/5432`.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use serde::{Serialize, Serializer};

/// What may be written for a kind of traffic.
pub(super) const FORMS: &str = "any, icmp, tcp, udp, tcp/PORT, udp/PORT or a range such as udp/53-60";

/// A text is not a kind of traffic.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a kind of traffic: write {FORMS}, with ports from 1 to 65535")]
pub struct ParseTrafficError(String);

/// A protocol that a policy can tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TrafficProtocol {
    /// Every protocol, those without a name here included.
    Any,
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP and ICMPv6.
    Icmp,
}

/// One kind of traffic: a protocol and a range of destination ports.
///
/// Text form `any`, `icmp`, `tcp`, `udp`, `tcp/22` or `udp/53-60`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Traffic {
    protocol: TrafficProtocol,
    first: u16,
    last: u16,
}

impl Traffic {
    const fn all_of(protocol: TrafficProtocol) -> Self {
        Self { protocol, first: 0, last: u16::MAX }
    }

    /// The protocol.
    #[must_use]
    pub const fn protocol(&self) -> TrafficProtocol {
        self.protocol
    }

    /// The destination ports; all of them where the protocol has none or none were named.
    #[must_use]
    pub const fn ports(&self) -> RangeInclusive<u16> {
        self.first..=self.last
    }

    /// True where some packet is of both kinds.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let any = [self.protocol, other.protocol].contains(&TrafficProtocol::Any);
        any || (self.protocol == other.protocol && self.first <= other.last && other.first <= self.last)
    }

    /// True where every packet of this kind is also of one of `kinds`.
    #[must_use]
    pub fn is_covered_by(&self, kinds: &[Self]) -> bool {
        if kinds.iter().any(|kind| kind.protocol == TrafficProtocol::Any) {
            return true;
        }
        let mut same: Vec<_> = kinds.iter().filter(|kind| kind.protocol == self.protocol).collect();
        same.sort_unstable_by_key(|kind| kind.first);
        let mut next = u32::from(self.first);
        for kind in same {
            if u32::from(kind.first) > next {
                return false;
            }
            next = next.max(u32::from(kind.last).saturating_add(1));
            if next > u32::from(self.last) {
                return true;
            }
        }
        false
    }
}

impl fmt::Display for Traffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.protocol {
            TrafficProtocol::Any => "any",
            TrafficProtocol::Tcp => "tcp",
            TrafficProtocol::Udp => "udp",
            TrafficProtocol::Icmp => "icmp",
        })?;
        match (self.first, self.last) {
            (0, u16::MAX) => Ok(()),
            (first, last) if first == last => write!(f, "/{first}"),
            (first, last) => write!(f, "/{first}-{last}"),
        }
    }
}

impl FromStr for Traffic {
    type Err = ParseTrafficError;

    fn from_str(text: &str) -> Result<Self, ParseTrafficError> {
        parse(text).ok_or_else(|| ParseTrafficError(text.chars().take(64).collect()))
    }
}

impl Serialize for Traffic {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

fn parse(text: &str) -> Option<Traffic> {
    let (name, ports) = text.split_once('/').map_or((text, None), |(name, ports)| (name, Some(ports)));
    let protocol = match name {
        "any" => TrafficProtocol::Any,
        "tcp" => TrafficProtocol::Tcp,
        "udp" => TrafficProtocol::Udp,
        "icmp" => TrafficProtocol::Icmp,
        _ => return None,
    };
    let Some(ports) = ports else { return Some(Traffic::all_of(protocol)) };
    if matches!(protocol, TrafficProtocol::Any | TrafficProtocol::Icmp) {
        return None;
    }
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let (first, last) = (port(first)?, port(last)?);
    (first <= last).then_some(Traffic { protocol, first, last })
}

/// A port from 1 in plain digits: `parse` alone also takes a sign.
fn port(text: &str) -> Option<u16> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|port| is_plain && *port > 0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn traffic_survives_its_text_form_and_nonsense_has_none() {
        for text in ["any", "icmp", "tcp", "udp", "tcp/1", "udp/65535", "udp/53-60", "tcp/1-65535"] {
            assert_eq!(text.parse::<Traffic>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "TCP",
            "tcp/",
            "tcp/0",
            "tcp/65536",
            "tcp/9-8",
            "tcp/+5",
            "any/5",
            "icmp/8",
            "tcp/1-2-3",
            "sctp",
        ] {
            assert!(text.parse::<Traffic>().is_err(), "{text}");
        }
        assert_eq!("tcp/7-7".parse::<Traffic>(), "tcp/7".parse());
    }

    fn kind() -> impl Strategy<Value = Traffic> {
        let protocol = prop_oneof![
            8 => Just(TrafficProtocol::Tcp),
            8 => Just(TrafficProtocol::Udp),
            1 => Just(TrafficProtocol::Icmp),
            1 => Just(TrafficProtocol::Any),
        ];
        (protocol, 1u16..20, 0u16..8).prop_map(|(protocol, first, more)| match protocol {
            TrafficProtocol::Any | TrafficProtocol::Icmp => Traffic::all_of(protocol),
            TrafficProtocol::Tcp | TrafficProtocol::Udp => Traffic { protocol, first, last: first + more },
        })
    }

    /// Whether one packet is of a kind, written in the plainest way.
    fn fits(kind: &Traffic, protocol: TrafficProtocol, port: u16) -> bool {
        kind.protocol == TrafficProtocol::Any || (kind.protocol == protocol && kind.ports().contains(&port))
    }

    proptest! {
        #[test]
        fn covering_and_overlapping_are_what_they_are_packet_by_packet(
            asked in kind(), kinds in proptest::collection::vec(kind(), 0..6),
        ) {
            // `Any` also stands for protocols without a name here: the second column of this list.
            let all = [TrafficProtocol::Tcp, TrafficProtocol::Udp, TrafficProtocol::Icmp, TrafficProtocol::Any];
            let packets = || all.into_iter().flat_map(|protocol| (0u16..40).map(move |port| (protocol, port)));
            let asked_for = || packets().filter(|(protocol, port)| fits(&asked, *protocol, *port));
            let covered = asked_for().all(|(protocol, port)| kinds.iter().any(|kind| fits(kind, protocol, port)));
            prop_assert_eq!(asked.is_covered_by(&kinds), covered);
            for kind in &kinds {
                let overlaps = asked_for().any(|(protocol, port)| fits(kind, protocol, port));
                prop_assert_eq!(asked.overlaps(kind), overlaps);
            }
        }
    }
}
