//! Which inner packets pass, and where to. Pure decisions over a parsed header; nothing here is a side effect.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use blueprint_common_types::OverlayLease;

use crate::packet::Header;
use crate::table::Table;
use crate::{Discard, Role};

/// What a table of prefixes leads to.
pub(crate) trait Holder: Clone {
    /// Number of the peer.
    fn slot(&self) -> u32;
}

/// Where a packet that came out of a peer's session goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route<P> {
    /// To this core's own addresses.
    Local,
    /// To another peer, if the policy allows the pair.
    Relay(P),
}

/// Decides about a packet that peer `sender` sent.
///
/// # Errors
///
/// Refuses special addresses, a source that is not the sender's by longest prefix over all peers, and a
/// destination that is neither ours nor, on a hub, another peer's.
pub(crate) fn from_peer<'a, P: Holder>(
    header: &Header,
    sender: u32,
    table: &'a Table<P>,
    own: &OverlayLease,
    role: Role,
) -> Result<Route<&'a P>, Discard> {
    if is_special(header.source) || is_special(header.destination) {
        return Err(Discard::SpecialAddress);
    }
    if own.contains(header.source) || table.lookup(header.source).is_none_or(|holder| holder.slot() != sender)
    {
        return Err(Discard::SpoofedSource);
    }
    if own.contains(header.destination) {
        return Ok(Route::Local);
    }
    match (role, table.lookup(header.destination)) {
        (Role::Hub, Some(receiver)) if receiver.slot() != sender => Ok(Route::Relay(receiver)),
        (Role::Hub | Role::Spoke, _) => Err(Discard::NoRoute),
    }
}

/// Decides to which peer a packet of the local stack goes.
///
/// # Errors
///
/// Refuses special addresses, a source that is not our own, and a destination no peer holds.
pub(crate) fn from_local<'a, P: Holder>(
    header: &Header,
    table: &'a Table<P>,
    own: &OverlayLease,
) -> Result<&'a P, Discard> {
    if is_special(header.source) || is_special(header.destination) {
        return Err(Discard::SpecialAddress);
    }
    if !own.contains(header.source) {
        return Err(Discard::ForeignSource);
    }
    if own.contains(header.destination) {
        return Err(Discard::NoRoute);
    }
    table.lookup(header.destination).ok_or(Discard::NoRoute)
}

/// Addresses that never name one machine of the overlay.
fn is_special(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_special_v4(v4),
        IpAddr::V6(v6) => is_special_v6(v6),
    }
}

/// RFC 6890: this network, loopback, link-local, multicast, reserved and broadcast.
const fn is_special_v4(address: Ipv4Addr) -> bool {
    let [first, ..] = address.octets();
    first == 0 || first >= 224 || address.is_loopback() || address.is_link_local()
}

/// RFC 6890 and those that embed an IPv4 address (mapped, compatible, NAT64, 6to4).
fn is_special_v6(address: Ipv6Addr) -> bool {
    let [first, second, third, fourth, fifth, sixth, ..] = address.segments();
    address.is_multicast()
        || first & 0xffc0 == 0xfe80
        || [first, second, third, fourth, fifth] == [0; 5] && (sixth == 0 || sixth == 0xffff)
        || [first, second] == [0x64, 0xff9b]
        || first == 0x2002
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::echo_request;

    impl Holder for u32 {
        fn slot(&self) -> u32 {
            *self
        }
    }

    const A: u32 = 1;
    const B: u32 = 2;

    fn own() -> OverlayLease {
        OverlayLease { v4: Ipv4Addr::new(10, 7, 0, 1), v6: "fd00::1".parse().unwrap() }
    }

    fn table() -> Table<u32> {
        let mut table = Table::default();
        table.insert("10.7.0.0/16".parse().unwrap(), A);
        table.insert("10.7.0.3/32".parse().unwrap(), B);
        table
    }

    fn header(source: [u8; 4], destination: [u8; 4]) -> Header {
        Header::parse(&echo_request(source.into(), destination.into(), 1, 1, b"")).unwrap()
    }

    #[test]
    fn a_wide_prefix_does_not_let_a_peer_speak_for_a_narrow_one() {
        let table = table();
        let decide =
            |source, sender| from_peer(&header(source, [10, 7, 0, 1]), sender, &table, &own(), Role::Hub);
        assert_eq!(decide([10, 7, 0, 2], A), Ok(Route::Local));
        assert_eq!(decide([10, 7, 0, 3], A), Err(Discard::SpoofedSource), "the longest prefix is B's");
        assert_eq!(decide([10, 7, 0, 3], B), Ok(Route::Local));
        assert_eq!(decide([10, 7, 0, 1], A), Err(Discard::SpoofedSource), "our own address");
        assert_eq!(decide([192, 0, 2, 1], A), Err(Discard::SpoofedSource), "nobody's address");
    }

    #[test]
    fn only_a_hub_relays_and_never_back_to_the_sender() {
        let table = table();
        let to = |destination, role| from_peer(&header([10, 7, 0, 2], destination), A, &table, &own(), role);
        assert_eq!(to([10, 7, 0, 3], Role::Hub), Ok(Route::Relay(&B)));
        assert_eq!(to([10, 7, 0, 3], Role::Spoke), Err(Discard::NoRoute));
        assert_eq!(to([10, 7, 0, 9], Role::Hub), Err(Discard::NoRoute), "hairpin");
        assert_eq!(to([192, 0, 2, 1], Role::Hub), Err(Discard::NoRoute));
    }

    #[test]
    fn special_addresses_go_nowhere() {
        let table = table();
        for special in
            [[127, 0, 0, 1], [224, 0, 0, 1], [255, 255, 255, 255], [169, 254, 169, 254], [0, 0, 0, 0]]
        {
            let from = from_peer(&header(special, [10, 7, 0, 1]), A, &table, &own(), Role::Hub);
            assert_eq!(from, Err(Discard::SpecialAddress));
            let to = from_local(&header([10, 7, 0, 1], special), &table, &own());
            assert_eq!(to, Err(Discard::SpecialAddress));
        }
        for special in
            ["::", "::1", "::ffff:10.7.0.1", "fe80::1", "ff02::1", "64:ff9b::a00:1", "2002:a00:1::"]
        {
            assert!(is_special(special.parse().unwrap()), "{special}");
        }
        assert!(!is_special("fd00::1".parse().unwrap()));
    }

    #[test]
    fn the_local_stack_speaks_only_for_itself() {
        let table = table();
        assert_eq!(from_local(&header([10, 7, 0, 1], [10, 7, 0, 3]), &table, &own()), Ok(&B));
        let spoofed = from_local(&header([10, 7, 0, 2], [10, 7, 0, 3]), &table, &own());
        assert_eq!(spoofed, Err(Discard::ForeignSource));
    }
}
