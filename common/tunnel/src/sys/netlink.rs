//! What is set on the interface of a TUN device: MTU, queue length, addresses, routes.
//!
//! Requests go to the kernel one by one over a blocking rtnetlink(7) socket, which answers each at once.
//! Nothing else of the host is touched: no resolver, no other interface, no sysctl. It all vanishes with the device.

use std::fmt;
use std::io;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute, LinkFlags, LinkMessage,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

use super::tun::TunDevice;

/// Bytes of an answer: an error with the request it repeats, which is a few hundred at most.
const ANSWER_BYTES: usize = 8192;
/// Least MTU of an interface that carries IPv6 (RFC 8200, section 5).
const IPV6_MTU_MIN: u32 = 1280;

/// What to set on the interface.
#[derive(Debug, Clone, Default)]
pub(crate) struct LinkConfig {
    /// Addresses, each with the prefix that the kernel makes a route for.
    pub(crate) addresses: Vec<IpNetwork>,
    /// Networks to be reached through the device, beside those of the addresses.
    pub(crate) routes: Vec<IpNetwork>,
    /// Whether `routes` may name all of IPv4 or IPv6.
    pub(crate) allow_default_route: bool,
    /// Largest IP packet, in bytes.
    pub(crate) mtu: u32,
    /// Packets, or runs of them, that wait for the reader of a queue.
    pub(crate) queue_len: u32,
    /// Largest run of packets in bytes; `None` leaves the kernel's 64 KiB.
    pub(crate) gso_max: Option<u32>,
}

/// Something that was left out because this machine does not have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Notice {
    /// IPv6 is off on this machine or for new interfaces.
    Ipv6Disabled {
        /// The address or route that was asked for.
        network: IpNetwork,
    },
    /// The kernel keeps its own largest run.
    GsoMaxKept {
        /// The size asked for, in bytes.
        bytes: u32,
    },
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ipv6Disabled { network } => {
                write!(f, "{network} left out: IPv6 is off (net.ipv6.conf.all.disable_ipv6)")
            }
            Self::GsoMaxKept { bytes } => write!(f, "largest run not set to {bytes} bytes"),
        }
    }
}

/// Why the interface is not as it was asked for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NetlinkError {
    /// The kernel refused a request.
    #[error("cannot {operation} on {interface}{hint}")]
    Refuse {
        /// What was attempted, with its value.
        operation: String,
        /// Name or number of the interface.
        interface: String,
        /// What may help, with its brackets; empty where nothing is known.
        hint: &'static str,
        /// The error number.
        source: io::Error,
    },
    /// A route would take all traffic of the machine.
    #[error("{route} over {interface} is a default route: it has to be allowed expressly")]
    DefaultRoute {
        /// The route.
        route: IpNetwork,
        /// Name of the interface.
        interface: String,
    },
    /// The MTU is too small for IPv6.
    #[error("{network} on {interface} takes an MTU of {IPV6_MTU_MIN} bytes, not {mtu}")]
    Ipv6Mtu {
        /// The address or route.
        network: IpNetwork,
        /// Name of the interface.
        interface: String,
        /// The MTU asked for, in bytes.
        mtu: u32,
    },
    /// There is no way to ask the kernel.
    #[error("cannot open a netlink socket")]
    Socket {
        /// What the kernel said.
        source: io::Error,
    },
}

/// Sets the interface up, in this order: MTU, queue length, largest run, addresses, up, routes.
///
/// The kernel is told to make no IPv6 address of its own, so that no packet leaves unasked. An IPv6
/// address or route on a machine without IPv6 is left out; the notices tell.
///
/// # Errors
///
/// See [`NetlinkError`]. What was set before stays until the device is closed.
pub(crate) fn configure(device: &TunDevice, config: &LinkConfig) -> Result<Vec<Notice>, NetlinkError> {
    check_config(device, config)?;
    let mut link = Link::open(device.name.clone(), device.index)?;
    let mut notices = Vec::new();
    link.set(format!("set the MTU {}", config.mtu), LinkAttribute::Mtu(config.mtu))?;
    let queue = LinkAttribute::TxQueueLen(config.queue_len);
    link.set(format!("set the queue length {}", config.queue_len), queue)?;
    if let Some(bytes) = config.gso_max {
        let all = link.set("set the largest run".to_owned(), LinkAttribute::GsoMaxSize(bytes));
        // Kernels before 6.3 have one size for both families.
        let v4 = link.set("set the largest run".to_owned(), LinkAttribute::GsoIpv4MaxSize(bytes));
        if all.and(v4).is_err() {
            notices.push(Notice::GsoMaxKept { bytes });
        }
    }
    let no_own = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]);
    // It fails where IPv6 is off, which is as good.
    let _ = link.set("stop own addresses".to_owned(), LinkAttribute::AfSpecUnspec(vec![no_own]));
    for address in &config.addresses {
        notices.extend(link.add_address(*address)?);
    }
    link.up()?;
    for route in &config.routes {
        notices.extend(link.add_route(*route, &config.addresses)?);
    }
    Ok(notices)
}

fn check_config(device: &TunDevice, config: &LinkConfig) -> Result<(), NetlinkError> {
    let interface = || device.name.clone();
    if let Some(route) = config.routes.iter().find(|route| route.prefix() == 0)
        && !config.allow_default_route
    {
        return Err(NetlinkError::DefaultRoute { route: *route, interface: interface() });
    }
    let all = config.addresses.iter().chain(&config.routes);
    match all.into_iter().find(|network| network.is_ipv6()) {
        Some(network) if config.mtu < IPV6_MTU_MIN => {
            Err(NetlinkError::Ipv6Mtu { network: *network, interface: interface(), mtu: config.mtu })
        }
        Some(_) | None => Ok(()),
    }
}

/// One interface and the socket that asks the kernel about it.
struct Link {
    name: String,
    index: u32,
    socket: Socket,
    sequence: u32,
}

impl Link {
    fn open(name: String, index: u32) -> Result<Self, NetlinkError> {
        let socket = || {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            Ok(socket)
        };
        let socket = socket().map_err(|source| NetlinkError::Socket { source })?;
        Ok(Self { name, index, socket, sequence: 0 })
    }

    fn set(&mut self, operation: String, attribute: LinkAttribute) -> Result<(), NetlinkError> {
        let mut message = LinkMessage::default();
        message.header.index = self.index;
        message.attributes.push(attribute);
        let result = self.ask(RouteNetlinkMessage::SetLink(message), 0);
        result.map_err(|source| self.refused(operation, source))
    }

    fn up(&mut self) -> Result<(), NetlinkError> {
        let mut message = LinkMessage::default();
        message.header.index = self.index;
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        let result = self.ask(RouteNetlinkMessage::SetLink(message), 0);
        result.map_err(|source| self.refused("bring up the link".to_owned(), source))
    }

    fn add_address(&mut self, address: IpNetwork) -> Result<Option<Notice>, NetlinkError> {
        let mut message = AddressMessage::default();
        message.header.family = family(address.ip());
        message.header.prefix_len = address.prefix();
        // Nobody else can have it on this link.
        message.header.flags = AddressHeaderFlags::Nodad;
        message.header.scope = AddressScope::Universe;
        message.header.index = self.index;
        message.attributes =
            vec![AddressAttribute::Local(address.ip()), AddressAttribute::Address(address.ip())];
        match self.ask(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_EXCL) {
            Ok(()) => Ok(None),
            Err(error) if address.is_ipv6() && is_ipv6_disabled(&error) => {
                Ok(Some(Notice::Ipv6Disabled { network: address }))
            }
            Err(error) => Err(self.refused(format!("add the address {address}"), error)),
        }
    }

    fn add_route(&mut self, route: IpNetwork, own: &[IpNetwork]) -> Result<Option<Notice>, NetlinkError> {
        let destination = RouteAddress::from(route.network());
        let mut message = RouteMessage::default();
        message.header.address_family = family(route.ip());
        message.header.destination_prefix_length = route.prefix();
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.protocol = RouteProtocol::Static;
        message.header.scope = if route.is_ipv4() { RouteScope::Link } else { RouteScope::Universe };
        message.header.kind = RouteType::Unicast;
        message.attributes = vec![RouteAttribute::Destination(destination), RouteAttribute::Oif(self.index)];
        // Without EXCL it could take the place of another interface's route.
        match self.ask(RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_EXCL) {
            Ok(()) => Ok(None),
            Err(error) if route.is_ipv6() && is_ipv6_disabled(&error) => {
                Ok(Some(Notice::Ipv6Disabled { network: route }))
            }
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) && is_made_for(own, route) => Ok(None),
            Err(error) => Err(self.refused(format!("add the route {route}"), error)),
        }
    }

    /// Sends a request and waits for its answer.
    fn ask(&mut self, request: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.sequence += 1;
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(request));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        let mut buffer = vec![0; ANSWER_BYTES];
        loop {
            let length = self.socket.recv(&mut buffer.as_mut_slice(), 0)?;
            let answer = buffer.get(..length).ok_or(io::ErrorKind::InvalidData)?;
            let answer =
                NetlinkMessage::<RouteNetlinkMessage>::deserialize(answer).map_err(io::Error::other)?;
            if answer.header.sequence_number != self.sequence {
                continue;
            }
            // An acknowledgement is an error message with code 0.
            let NetlinkPayload::Error(error) = answer.payload else {
                return Err(io::ErrorKind::InvalidData.into());
            };
            return if error.code.is_some() { Err(error.to_io()) } else { Ok(()) };
        }
    }

    fn refused(&self, operation: String, source: io::Error) -> NetlinkError {
        let hint = hint(&source);
        NetlinkError::Refuse { operation, interface: self.name.clone(), hint, source }
    }
}

/// True where the kernel makes `route` itself, for one of our own addresses.
fn is_made_for(own: &[IpNetwork], route: IpNetwork) -> bool {
    own.iter().any(|own| own.prefix() == route.prefix() && own.network() == route.network())
}

const fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

/// True for what IPv6 requests fail with where IPv6 is off: for the interface, or not built in.
fn is_ipv6_disabled(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EACCES | libc::EOPNOTSUPP | libc::EAFNOSUPPORT))
}

fn hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => ": it takes CAP_NET_ADMIN, as root or by the service unit",
        Some(libc::EEXIST) => {
            ": it is there already; remove it (`ip address`, `ip route`) or configure another"
        }
        Some(libc::ENODEV) => ": the interface is gone; somebody deleted it",
        Some(libc::ENETDOWN | libc::ENETUNREACH) => ": the interface is down; somebody took it down",
        Some(libc::EINVAL | libc::ERANGE) => ": the kernel does not take this value",
        Some(_) | None => "",
    }
}
