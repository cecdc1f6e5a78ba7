//! Which networks this machine reaches already, so that the overlay takes none of them away.
//!
//! It is read from the main routing table as proc(5) shows it. Where that cannot be read nothing is known, and
//! nothing is refused.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;

const V4: &str = "/proc/thread-self/net/route";
const V6: &str = "/proc/thread-self/net/ipv6_route";
/// The route leads to a router (linux/route.h).
const RTF_GATEWAY: u32 = 0x0002;
/// The route refuses packets (linux/route.h).
const RTF_REJECT: u32 = 0x0200;

/// A network and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) network: IpNetwork,
    pub(crate) interface: String,
    flags: u32,
}

/// The first network of this machine that shares addresses with one of `overlay` and would lose them to it, or
/// the other way round.
///
/// A wider network behind a router loses only what the overlay takes, as with every more precise route, and is none.
pub(crate) fn conflict(overlay: &[IpNetwork]) -> Option<(IpNetwork, Known)> {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let (v4, v6) = (read(V4), read(V6));
    let known = v4.lines().filter_map(parse_v4).chain(v6.lines().filter_map(parse_v6));
    let mut pairs = known.filter_map(|known| {
        let overlay = overlay.iter().find(|overlay| known.contradicts(**overlay))?;
        Some((IpNetwork::new(overlay.network(), overlay.prefix()).ok()?, known))
    });
    pairs.next()
}

impl Known {
    fn contradicts(&self, overlay: IpNetwork) -> bool {
        if self.network.prefix() == 0 || self.flags & RTF_REJECT != 0 {
            return false;
        }
        let is_inside = holds(overlay, self.network);
        is_inside || holds(self.network, overlay) && self.flags & RTF_GATEWAY == 0
    }
}

/// True where `wide` holds all addresses of `narrow`.
fn holds(wide: IpNetwork, narrow: IpNetwork) -> bool {
    match (wide, narrow) {
        (IpNetwork::V4(wide), IpNetwork::V4(narrow)) => {
            wide.prefix() <= narrow.prefix() && wide.contains(narrow.network())
        }
        (IpNetwork::V6(wide), IpNetwork::V6(narrow)) => {
            wide.prefix() <= narrow.prefix() && wide.contains(narrow.network())
        }
        (IpNetwork::V4(_), IpNetwork::V6(_)) | (IpNetwork::V6(_), IpNetwork::V4(_)) => false,
    }
}

/// A line of `/proc/net/route`: interface, destination, gateway, flags, three counts, mask; addresses are numbers
/// in this machine's byte order, made of bytes in the network's. The heading is none.
fn parse_v4(line: &str) -> Option<Known> {
    let mut fields = line.split_whitespace();
    let interface = fields.next()?.to_owned();
    let mut number = || u32::from_str_radix(fields.next()?, 16).ok();
    let (destination, _gateway, flags) = (number()?, number()?, number()?);
    let mask = u32::from_str_radix(fields.nth(3)?, 16).ok()?;
    let prefix = u8::try_from(mask.count_ones()).ok()?;
    let address = IpAddr::from(Ipv4Addr::from(destination.to_ne_bytes()));
    Some(Known { network: IpNetwork::new(address, prefix).ok()?, interface, flags })
}

/// A line of `/proc/net/ipv6_route`: destination, its prefix, source, its prefix, next hop, three counts, flags,
/// interface.
fn parse_v6(line: &str) -> Option<Known> {
    let mut fields = line.split_whitespace();
    let destination = Ipv6Addr::from(u128::from_str_radix(fields.next()?, 16).ok()?);
    let prefix = u8::from_str_radix(fields.next()?, 16).ok()?;
    let flags = u32::from_str_radix(fields.nth(6)?, 16).ok()?;
    let interface = fields.next()?.to_owned();
    Some(Known { network: IpNetwork::new(destination.into(), prefix).ok()?, interface, flags })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(network: &str, flags: u32) -> Known {
        Known { network: network.parse().unwrap(), interface: "eth0".to_owned(), flags }
    }

    #[test]
    fn lines_of_the_kernel_are_read() {
        let line = "podman0\t0000580A\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0   ";
        if cfg!(target_endian = "little") {
            assert_eq!(
                parse_v4(line),
                Some(Known { interface: "podman0".to_owned(), ..known("10.88.0.0/16", 1) })
            );
        }
        assert_eq!(parse_v4("Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask"), None);
        let line = "fd070707070700000000000000000000 40 00000000000000000000000000000000 00 \
                    00000000000000000000000000000000 00000100 00000001 00000000 00000001     eth0";
        assert_eq!(parse_v6(line), Some(known("fd07:707:707::/64", 1)));
        for damaged in ["", "eth0", "fd07 40", "zz 40 0"] {
            assert_eq!((parse_v4(damaged), parse_v6(damaged)), (None, None));
        }
    }

    #[test]
    fn what_would_lose_addresses_contradicts() {
        let overlay = "10.88.0.0/16".parse().unwrap();
        for (network, flags, contradicts) in [
            ("10.88.0.0/16", 0, true),
            ("10.88.7.0/24", 0, true),
            ("10.88.7.0/24", RTF_GATEWAY, true),
            ("10.0.0.0/8", 0, true),
            ("10.0.0.0/8", RTF_GATEWAY, false),
            ("10.0.0.0/8", RTF_REJECT, false),
            ("0.0.0.0/0", 0, false),
            ("10.89.0.0/16", 0, false),
            ("fd00::/8", 0, false),
        ] {
            assert_eq!(known(network, flags).contradicts(overlay), contradicts, "{network} {flags}");
        }
    }
}
