//! A small internet of namespaces.
//!
//! ```text
//!   host 1 (198.18.1.2) --- v1 [ router 198.18.N.1 ] v2 --- host 2 (198.18.2.2)
//!                                   DNS on port 53
//! ```
//!
//! The addresses are those of RFC 2544 (IPv4) and RFC 3849 (IPv6); namespaces hide them from this machine.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::dns::Dns;
use crate::namespace::{Namespace, sweep};
use crate::{Launch, Need, require};

/// Labs measure times, so the tests of one process take turns; nextest does the same between processes.
static TURN: Mutex<()> = Mutex::new(());

/// Labs made by this process so far, for their names.
static LABS: AtomicU32 = AtomicU32::new(0);

/// Hosts around one router. Dropping it removes all that it made.
#[derive(Debug)]
pub struct Lab {
    tag: String,
    router: Arc<Namespace>,
    dns: Dns,
    hosts: AtomicU8,
    _turn: MutexGuard<'static, ()>,
}

impl Lab {
    /// Makes a router without hosts; `None`, after a loud skip, where this machine cannot.
    ///
    /// # Errors
    ///
    /// Fails where a namespace cannot be made although root asks.
    ///
    /// # Panics
    ///
    /// Panics where this machine cannot and `REQUIRE_ALL=1` is set.
    pub fn new() -> Result<Option<Self>> {
        if !require(&[Need::Root, Need::Program("ip"), Need::Program("nft")]) {
            return Ok(None);
        }
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        sweep()?;
        let tag = LABS.fetch_add(1, Ordering::Relaxed).to_string();
        let router = Namespace::new(&format!("{tag}-router"))?;
        router.enter(|| {
            std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
            std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1")
        })??;
        let dns = Dns::start(&router)?;
        Ok(Some(Self { tag, router: Arc::new(router), dns, hosts: AtomicU8::new(0), _turn: turn }))
    }

    /// Adds a host with a link of its own to the router; at most 250.
    ///
    /// # Errors
    ///
    /// Fails where the kernel refuses the namespace or the link.
    pub fn host(&self, name: &str) -> Result<Host> {
        let link = self.hosts.fetch_add(1, Ordering::Relaxed) + 1;
        let namespace = Namespace::new(&format!("{}-{name}", self.tag))?;
        let host = Host { namespace, router: Arc::clone(&self.router), link, last: AtomicU8::new(2) };
        let (own, veth) = (host.namespace.name(), format!("v{link}"));
        self.router.ip(&format!("link add {veth} type veth peer name eth0 netns {own}"))?;
        self.router.ip(&format!("addr add {}/24 dev {veth}", v4(link, 1)))?;
        self.router.ip(&format!("addr add {}/64 dev {veth} nodad", v6(link, 1)))?;
        self.router.ip(&format!("link set {veth} up"))?;
        host.namespace.ip("link set eth0 up")?;
        host.number(2)?;
        host.namespace
            .write_resolv_conf(&format!("nameserver {}\noptions timeout:1 attempts:2\n", v4(link, 1)))?;
        Ok(host)
    }

    /// Makes `name` resolve to `addresses` on every host, from the next question on (TTL 0).
    pub fn set_name(&self, name: &str, addresses: &[IpAddr]) {
        self.dns.set(name, addresses);
    }
}

/// What happens to the packets on the link of one host, in both directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Loses everything.
    Cut,
    /// Loses this many packets of a hundred, at random.
    Loss(u8),
    /// Loses all UDP but the questions to the router's DNS.
    NoUdp,
    /// Loses all of WireGuard over plain UDP, on any port, as some firewalls do that know it by its first bytes.
    NoWireGuard,
    /// Loses, silently, each IP packet longer than this many bytes. Needs `ethtool`.
    MtuHole(u16),
}

impl Fault {
    fn matcher(self) -> String {
        match self {
            Self::Cut => String::new(),
            Self::Loss(percent) => format!("numgen random mod 100 < {percent}"),
            Self::NoUdp => "meta l4proto udp udp dport != 53 udp sport != 53".to_owned(),
            Self::NoWireGuard => {
                "meta l4proto udp @th,64,32 { 0x01000000, 0x02000000, 0x03000000, 0x04000000 }".to_owned()
            }
            Self::MtuHole(bytes) => format!("meta length > {bytes}"),
        }
    }
}

/// A machine of the lab. Keep it longer than the processes on it.
#[derive(Debug)]
pub struct Host {
    namespace: Namespace,
    router: Arc<Namespace>,
    link: u8,
    /// Last number of both addresses.
    last: AtomicU8,
}

impl Host {
    /// Its present IPv4 address.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        v4(self.link, self.last.load(Ordering::Relaxed))
    }

    /// Its present IPv6 address.
    #[must_use]
    pub fn address_v6(&self) -> Ipv6Addr {
        v6(self.link, self.last.load(Ordering::Relaxed))
    }

    /// Name of its namespace, as `ip netns exec` takes it.
    #[must_use]
    pub fn namespace(&self) -> &str {
        self.namespace.name()
    }

    /// A program to be started on it.
    #[must_use]
    pub fn launch(&self, program: &Path) -> Launch {
        Launch::new(program).on(self)
    }

    /// The same for a program that mounts, or looks at what is mounted: it sees the file systems of this machine, and so its
    /// name servers too.
    #[must_use]
    pub fn launch_with_mounts(&self, program: &Path) -> Launch {
        let namespace = format!("--net=/run/netns/{}", self.namespace());
        Launch::new("nsenter").args([namespace.as_str(), "--"]).arg(program)
    }

    /// Calls `work` on a thread inside its network. Sockets made there stay there.
    ///
    /// # Errors
    ///
    /// Fails where the namespace cannot be entered or `work` panics.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        self.namespace.enter(work)
    }

    /// Opens a TCP connection from it.
    ///
    /// # Errors
    ///
    /// Fails where nothing answers in time.
    pub fn connect(&self, to: SocketAddr, within: Duration) -> Result<TcpStream> {
        let name = self.namespace();
        self.enter(|| TcpStream::connect_timeout(&to, within))?
            .with_context(|| format!("cannot connect from {name} to {to}"))
    }

    /// Replaces both its addresses by new ones on the same link, as a move to another network does.
    ///
    /// # Errors
    ///
    /// Fails after some 250 moves.
    pub fn change_address(&self) -> Result<Ipv4Addr> {
        let last = self.last.load(Ordering::Relaxed).checked_add(1).context("no address is left")?;
        self.namespace.ip("addr flush dev eth0 scope global")?;
        self.number(last)?;
        self.last.store(last, Ordering::Relaxed);
        Ok(self.address())
    }

    /// Spoils its link from now on; replaces an earlier fault.
    ///
    /// # Errors
    ///
    /// Fails where nftables refuses the rules.
    pub fn spoil(&self, fault: Fault) -> Result<()> {
        let (link, matcher) = (self.link, fault.matcher());
        if matches!(fault, Fault::MtuHole(_)) {
            // What is one piece to the kernel would be judged whole: it is cut before it crosses the link, and stays so
            // when the fault is gone.
            self.router.cut_before_sending(&format!("v{link}"))?;
            self.namespace.cut_before_sending("eth0")?;
        }
        for (end, device) in [(&*self.router, format!("v{link}")), (&self.namespace, "eth0".to_owned())] {
            end.nft(&format!(
                "add table inet fault{link}\n\
                 delete table inet fault{link}\n\
                 add table inet fault{link}\n\
                 add chain inet fault{link} arrived {{ type filter hook prerouting priority -300; }}\n\
                 add rule inet fault{link} arrived iifname \"{device}\" {matcher} drop\n"
            ))?;
        }
        Ok(())
    }

    /// Cuts its link: [`Fault::Cut`].
    ///
    /// # Errors
    ///
    /// Fails where nftables refuses the rules.
    pub fn cut(&self) -> Result<()> {
        self.spoil(Fault::Cut)
    }

    /// Takes the fault of its link away, if there is one.
    ///
    /// # Errors
    ///
    /// Fails where nftables refuses.
    pub fn heal(&self) -> Result<()> {
        let rules = format!("add table inet fault{link}\ndelete table inet fault{link}\n", link = self.link);
        self.router.nft(&rules)?;
        self.namespace.nft(&rules)
    }

    /// Has the router send what is for `prefix` (IPv4, as `ip route` takes it) to it as well.
    ///
    /// # Errors
    ///
    /// Fails where the kernel refuses the route.
    pub fn route_to_it(&self, prefix: &str) -> Result<()> {
        self.router.ip(&format!("route replace {prefix} via {}", self.address()))
    }

    fn number(&self, last: u8) -> Result<()> {
        let link = self.link;
        self.namespace.ip(&format!("addr add {}/24 dev eth0", v4(link, last)))?;
        self.namespace.ip(&format!("addr add {}/64 dev eth0 nodad", v6(link, last)))?;
        self.namespace.ip(&format!("route replace default via {}", v4(link, 1)))?;
        self.namespace.ip(&format!("-6 route replace default via {}", v6(link, 1)))
    }
}

fn v4(link: u8, last: u8) -> Ipv4Addr {
    Ipv4Addr::new(198, 18, link, last)
}

fn v6(link: u8, last: u8) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0, link.into(), 0, 0, 0, last.into())
}
