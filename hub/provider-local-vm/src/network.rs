//! The network of nspawn machines: a namespace for each, a link to the host, and the way out.
//!
//! Machines reach what the host reaches, and not each other; nothing reaches them but answers.

use std::io;
use std::net::Ipv4Addr;
use std::path::Path;

use ipnetwork::Ipv4Network;
use sha2::{Digest, Sha256};
use tracing::info;

use crate::run::{run, run_with};

/// Name of the table of nftables.
const TABLE: &str = "blueprint_local_vm";

const FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";

/// How one machine hangs on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    /// Name of its namespace, and of the host's end of its link.
    pub(crate) name: String,
    host: Ipv4Addr,
    machine: Ipv4Addr,
    subnet: Ipv4Network,
}

impl Link {
    /// That of the machine in `folder` with this number; `None` where the subnet has no such number.
    pub(crate) fn new(folder: &Path, subnet: Ipv4Network, index: u32) -> Option<Self> {
        let first = u32::from(subnet.network()).checked_add(index.checked_mul(4)?)?;
        let last = Ipv4Addr::from(first.checked_add(3)?);
        if !subnet.contains(last) {
            return None;
        }
        let digest = Sha256::digest(folder.as_os_str().as_encoded_bytes());
        let short: String = digest.iter().take(5).map(|byte| format!("{byte:02x}")).collect();
        let [host, machine] = [1, 2].map(|offset| Ipv4Addr::from(first.wrapping_add(offset)));
        Some(Self { name: format!("bpv{short}"), host, machine, subnet })
    }

    /// Where the namespace can be opened.
    pub(crate) fn namespace(&self) -> String {
        format!("/run/netns/{}", self.name)
    }

    /// Makes namespace, link and way out; what is left of an earlier boot goes first.
    pub(crate) async fn up(&self) -> io::Result<()> {
        self.down().await;
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

    /// Removes namespace and link, where they are there.
    pub(crate) async fn down(&self) {
        // The end of the link on the host goes with the namespace, a moment later.
        for args in [["link", "del", &self.name], ["netns", "del", &self.name]] {
            if let Err(error) = run("ip", &args).await {
                tracing::debug!(%error, "nothing to remove");
            }
        }
    }

    async fn way_out(&self) -> io::Result<()> {
        if tokio::fs::read_to_string(FORWARD).await?.trim() == "0" {
            info!("this host forwards IPv4 from now on, for local machines (net.ipv4.ip_forward)");
            tokio::fs::write(FORWARD, "1").await?;
        }
        run_with("nft", &["-f", "-"], &rules(self.subnet)).await
    }
}

/// The rules for all machines of `subnet`.
fn rules(subnet: Ipv4Network) -> String {
    format!(
        "table ip {TABLE}\n\
         delete table ip {TABLE}\n\
         table ip {TABLE} {{\n\
         chain out {{ type nat hook postrouting priority srcnat; ip saddr {subnet} ip daddr != {subnet} masquerade; }}\n\
         chain between {{ type filter hook forward priority filter;\n\
         ct state established,related accept; ip daddr {subnet} drop; }}\n\
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
        let subnet: Ipv4Network = "10.231.0.0/28".parse().unwrap();
        let of = |index| Link::new(Path::new("/a/b"), subnet, index);
        let last = of(3).unwrap();
        assert_eq!((last.host, last.machine), ([10, 231, 0, 13].into(), [10, 231, 0, 14].into()));
        assert_eq!(of(4), None);
        assert_eq!(of(u32::MAX), None);
        assert_eq!(last.name.len(), 13);
        assert_ne!(last.name, Link::new(Path::new("/a/c"), subnet, 3).unwrap().name);
    }
}
