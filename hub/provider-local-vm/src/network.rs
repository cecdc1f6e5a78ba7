//! The network of nspawn machines: a namespace for each, a link to the host, and the way out.
//!
//! Machines reach what the host reaches, and not each other; nothing reaches them but answers.

use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnetwork::Ipv4Network;
use sha2::{Digest, Sha256};
use tokio::time::{Instant, sleep};
use tracing::info;

use crate::run::{run, run_with};

/// What the names of the tables of nftables begin with.
const TABLE: &str = "blueprint_local_vm";

const FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";

/// The host's own links, and its cloud's metadata service.
const LINK_LOCAL: &str = "169.254.0.0/16";

/// How long the kernel may take to remove a link whose other end is gone.
const GONE_WITHIN: Duration = Duration::from_secs(3);

/// Addresses of machines, and what they do not reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Addresses {
    /// Four for each machine.
    pub(crate) subnet: Ipv4Network,
    /// What the host reaches and machines do not, beside its own links.
    pub(crate) closed: Vec<Ipv4Network>,
}

/// How one machine hangs on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    /// Name of its namespace, and of the host's end of its link.
    name: String,
    host: Ipv4Addr,
    machine: Ipv4Addr,
    addresses: Addresses,
}

impl Link {
    /// That of the machine in `folder` with this number; `None` where the subnet has no such number.
    pub(crate) fn new(folder: &Path, addresses: &Addresses, index: u32) -> Option<Self> {
        let first = u32::from(addresses.subnet.network()).checked_add(index.checked_mul(4)?)?;
        if !addresses.subnet.contains(Ipv4Addr::from(first.checked_add(3)?)) {
            return None;
        }
        let [host, machine] = [1, 2].map(|offset| Ipv4Addr::from(first.wrapping_add(offset)));
        Some(Self { name: Self::name(folder), host, machine, addresses: addresses.clone() })
    }

    /// The name for the machine in `folder`.
    pub(crate) fn name(folder: &Path) -> String {
        let digest = Sha256::digest(folder.as_os_str().as_encoded_bytes());
        let short: String = digest.iter().take(5).map(|byte| format!("{byte:02x}")).collect();
        format!("bpv{short}")
    }

    /// Where the namespace can be opened.
    pub(crate) fn namespace(&self) -> String {
        namespace(&self.name)
    }

    /// Makes namespace, link and way out; what is left of an earlier boot goes first.
    pub(crate) async fn up(&self) -> io::Result<()> {
        Self::down(&self.name).await?;
        let (name, host, machine) =
            (self.name.as_str(), format!("{}/30", self.host), format!("{}/30", self.machine));
        let gateway = self.host.to_string();
        run("ip", &["netns", "add", name]).await?;
        run("ip", &["link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name]).await?;
        run("ip", &["addr", "add", &host, "dev", name]).await?;
        run("ip", &["link", "set", name, "up"]).await?;
        run("ip", &["-n", name, "addr", "add", &machine, "dev", "eth0"]).await?;
        run("ip", &["-n", name, "link", "set", "lo", "up"]).await?;
        run("ip", &["-n", name, "link", "set", "eth0", "up"]).await?;
        run("ip", &["-n", name, "route", "add", "default", "via", &gateway]).await?;
        self.way_out().await
    }

    /// Removes namespace and link of this name, where they are there.
    ///
    /// # Errors
    ///
    /// Where one of them is there afterwards.
    pub(crate) async fn down(name: &str) -> io::Result<()> {
        if has_link(name) {
            // It may go by itself meanwhile: the kernel takes its time with what a namespace had.
            run("ip", &["link", "del", name])
                .await
                .or_else(|error| if has_link(name) { Err(error) } else { Ok(()) })?;
        }
        let namespace = PathBuf::from(namespace(name));
        if namespace.exists() {
            run("ip", &["netns", "del", name]).await?;
        }
        let end = Instant::now() + GONE_WITHIN;
        while has_link(name) || namespace.exists() {
            if Instant::now() >= end {
                let left = "is still there; `ip link del` and `ip netns del` remove them";
                return Err(io::Error::other(format!("the link or the namespace {name} {left}")));
            }
            sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    async fn way_out(&self) -> io::Result<()> {
        run_with("nft", &["-f", "-"], &rules(&self.addresses)).await?;
        if tokio::fs::read_to_string(FORWARD).await?.trim() == "0" {
            info!("this host forwards IPv4 from now on, for local machines alone (net.ipv4.ip_forward)");
            run_with("nft", &["-f", "-"], &only_machines()).await?;
            tokio::fs::write(FORWARD, "1").await?;
        }
        Ok(())
    }
}

/// Whether this process' network has a link of this name; /sys shows the links of whom it was mounted for, who may be
/// another.
fn has_link(name: &str) -> bool {
    nix::net::if_::if_nametoindex(name).is_ok()
}

fn namespace(name: &str) -> String {
    format!("/run/netns/{name}")
}

/// The rules for all machines of a subnet.
fn rules(Addresses { subnet, closed }: &Addresses) -> String {
    let table = format!("{TABLE}_{}", subnet.to_string().replace(['.', '/'], "_"));
    let closed: String =
        closed.iter().map(|prefix| format!("ip saddr {subnet} ip daddr {prefix} drop;\n")).collect();
    format!(
        "table ip {table}\n\
         delete table ip {table}\n\
         table ip {table} {{\n\
         chain out {{ type nat hook postrouting priority srcnat; ip saddr {subnet} ip daddr != {subnet} masquerade; }}\n\
         chain between {{ type filter hook forward priority filter;\n\
         ip saddr {subnet} ip daddr {LINK_LOCAL} drop;\n\
         {closed}\
         ct state established,related accept; ip daddr {subnet} drop; }}\n\
         }}\n"
    )
}

/// Keeps a host that did not forward before from doing so between its other links.
fn only_machines() -> String {
    format!(
        "table ip {TABLE}_only\n\
         delete table ip {TABLE}_only\n\
         table ip {TABLE}_only {{\n\
         chain only {{ type filter hook forward priority filter; iifname != \"bpv*\" oifname != \"bpv*\" drop; }}\n\
         }}\n"
    )
}

/// The host's name servers as a machine can use them: those that are not on the host's own loopback.
pub(crate) async fn resolv_conf() -> String {
    for path in ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"] {
        let text = tokio::fs::read_to_string(path).await.unwrap_or_default();
        let is_usable = |line: &&str| {
            let server = line.strip_prefix("nameserver").map(str::trim);
            server
                .and_then(|server| server.parse().ok())
                .is_some_and(|ip: std::net::IpAddr| !ip.is_loopback())
        };
        let lines: Vec<_> = text.lines().filter(is_usable).collect();
        if !lines.is_empty() {
            return lines.join("\n") + "\n";
        }
    }
    String::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_have_four_addresses_each_until_the_subnet_is_full() {
        let addresses = Addresses { subnet: "10.231.0.0/28".parse().unwrap(), closed: Vec::new() };
        let of = |index| Link::new(Path::new("/a/b"), &addresses, index);
        let last = of(3).unwrap();
        assert_eq!((last.host, last.machine), ([10, 231, 0, 13].into(), [10, 231, 0, 14].into()));
        assert_eq!(of(4), None);
        assert_eq!(of(u32::MAX), None);
        assert_eq!(last.name.len(), 13);
        assert_ne!(last.name, Link::name(Path::new("/a/c")));
    }
}
