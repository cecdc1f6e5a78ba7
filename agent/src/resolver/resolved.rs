//! systemd-resolved, told by its own command. What it is told is of our network device, and so goes with that, however the agent ends.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::process::Stdio;
use std::time::Duration;

use nix::ifaddrs::getifaddrs;
use tokio::process::Command;
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

use super::{RESOLV_CONF, ResolverDomain, ResolverError};

/// Longest wait for the command.
const PATIENCE: Duration = Duration::from_secs(5);

/// Time between two looks at whether it still does as it was told: other programs may tell it otherwise.
const LOOK: Duration = Duration::from_secs(10);

/// Longest text of the command that is repeated, in characters.
const SAID_CHARS: usize = 200;

/// Where the C library looks up whom to ask for names.
const NSSWITCH: &str = "/etc/nsswitch.conf";

/// What it is told, and whether it was.
#[derive(Debug)]
pub(super) struct Resolved {
    own: Ipv4Addr,
    /// Names below these are the hub's.
    domains: Vec<String>,
    /// Of what it may know something, from before the first command on.
    told: Option<(String, Ipv4Addr)>,
    /// When it was last known to do as it was told; `None` where it did not take every command.
    stood_at: Option<Instant>,
    /// Whether it was looked at if anybody asks it.
    is_looked_at: bool,
}

impl Resolved {
    /// For the names below `domain`, and those of the addresses of the overlay's prefixes.
    pub(super) fn new(own: Ipv4Addr, domain: &ResolverDomain, prefixes: [(IpAddr, u8); 2]) -> Self {
        let reverse = prefixes.into_iter().filter_map(reverse);
        let domains = [domain.as_str().to_owned()].into_iter().chain(reverse).collect();
        Self { own, domains, told: None, stood_at: None, is_looked_at: false }
    }

    /// Has it ask `hub` for names below the domains; true where it did not before. What failed half way is put back.
    pub(super) async fn point(&mut self, hub: Ipv4Addr) -> Result<bool, ResolverError> {
        let device = device_of(self.own).ok_or(ResolverError::NoDevice(self.own))?;
        let wanted = (device, hub);
        if let Some(at) = self.stood_at.filter(|_| self.told.as_ref() == Some(&wanted)) {
            if at.elapsed() < LOOK {
                return Ok(false);
            }
            if stands(&wanted.0, hub, &self.domains).await? {
                self.stood_at = Some(Instant::now());
                return Ok(false);
            }
            info!(device = wanted.0, "another program told systemd-resolved otherwise: it is told again");
        }
        let said = commands(&wanted.0, hub, &self.domains);
        self.stood_at = None;
        self.told = Some(wanted);
        for words in said {
            if let Err(error) = resolvectl(&words).await {
                // The first error says why; one of this would say the same.
                let _ = self.put_back().await;
                return Err(error);
            }
        }
        self.stood_at = Some(Instant::now());
        if !std::mem::replace(&mut self.is_looked_at, true) {
            warn_unasked();
        }
        Ok(true)
    }

    /// Has it forget that.
    pub(super) async fn put_back(&mut self) -> Result<(), ResolverError> {
        self.stood_at = None;
        let Some((device, _)) = &self.told else { return Ok(()) };
        if let Err(error) = resolvectl(&["revert".to_owned(), device.clone()]).await {
            // At the end of the agent the device goes meanwhile, and what was told of it with it.
            if device_of(self.own).as_ref() == Some(device) {
                return Err(error);
            }
        }
        self.told = None;
        Ok(())
    }
}

/// Says where programs of this machine ask others than systemd-resolved: then nothing comes of what it is told.
fn warn_unasked() {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    if !is_asked(&read(RESOLV_CONF), &read(NSSWITCH)) {
        warn!(
            file = RESOLV_CONF,
            "systemd-resolved is told, and programs of this machine do not ask it: have the file name 127.0.0.53, as the link to \
             /run/systemd/resolve/stub-resolv.conf does, or install libnss-resolve"
        );
    }
}

/// Whether the C library asks systemd-resolved, by its two files.
fn is_asked(resolv_conf: &str, nsswitch: &str) -> bool {
    let mut servers = resolv_conf.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    let mut hosts = nsswitch.lines().filter_map(|line| line.trim().strip_prefix("hosts:"));
    servers.any(|server| ["127.0.0.53", "127.0.0.54"].contains(&server.trim()))
        || hosts.any(|sources| sources.split_whitespace().any(|source| source == "resolve"))
}

/// Whether it asks `hub` for names below the domains, by what it says itself.
async fn stands(device: &str, hub: Ipv4Addr, domains: &[String]) -> Result<bool, ResolverError> {
    let ask = |verb: &str| [verb.to_owned(), device.to_owned()];
    let (known, servers) = (resolvectl(&ask("domain")).await?, resolvectl(&ask("dns")).await?);
    let is_known = |domain: &String| names(&known, &format!("~{domain}"));
    Ok(names(&servers, &hub.to_string()) && domains.iter().all(is_known))
}

/// Whether an answer such as `Link 3 (bp0): 10.88.0.1` names this word.
fn names(said: &str, word: &str) -> bool {
    said.split_whitespace().any(|found| found == word)
}

/// What is said. The server comes last: before that the device has none, and no name goes there. A domain with `~` is asked there
/// and is no search domain, and no other name goes there.
fn commands(device: &str, hub: Ipv4Addr, domains: &[String]) -> [Vec<String>; 3] {
    let say = |verb: &str, values: Vec<String>| [vec![verb.to_owned(), device.to_owned()], values].concat();
    let domains = domains.iter().map(|domain| format!("~{domain}")).collect();
    [say("default-route", vec!["no".to_owned()]), say("domain", domains), say("dns", vec![hub.to_string()])]
}

/// Below what the names of addresses of a prefix are (RFC 1035, 3.5; RFC 3596, 2.5); `None` where it ends inside a label.
fn reverse((network, prefix): (IpAddr, u8)) -> Option<String> {
    let (mut labels, bits, end) = match network {
        IpAddr::V4(v4) => (v4.octets().map(|octet| octet.to_string()).to_vec(), 8, "in-addr.arpa"),
        IpAddr::V6(v6) => {
            let halves = v6.octets().into_iter().flat_map(|octet| [octet >> 4, octet & 15]);
            (halves.map(|half| format!("{half:x}")).collect(), 4, "ip6.arpa")
        }
    };
    if prefix == 0 || !prefix.is_multiple_of(bits) {
        return None;
    }
    labels.truncate((prefix / bits).into());
    labels.reverse();
    Some(format!("{}.{end}", labels.join(".")))
}

/// The network device that has this address.
fn device_of(address: Ipv4Addr) -> Option<String> {
    let is_it = |found: &nix::ifaddrs::InterfaceAddress| {
        let found = found.address.as_ref().and_then(|address| address.as_sockaddr_in());
        found.is_some_and(|found| IpAddr::V4(found.ip()) == IpAddr::V4(address))
    };
    getifaddrs().ok()?.find(is_it).map(|found| found.interface_name)
}

/// What the command says.
async fn resolvectl(words: &[String]) -> Result<String, ResolverError> {
    let failed =
        |why: String| ResolverError::Resolvectl { command: format!("resolvectl {}", words.join(" ")), why };
    let mut command = Command::new("resolvectl");
    command.args(words).stdin(Stdio::null()).kill_on_drop(true);
    let done = timeout(PATIENCE, command.output()).await;
    let done = done.map_err(|_| failed(format!("no end within {PATIENCE:?}")))?;
    let done = done.map_err(|error| failed(error.to_string()))?;
    if done.status.success() {
        return Ok(String::from_utf8_lossy(&done.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&done.stderr);
    let said: String = said.chars().filter(|c| !c.is_control()).take(SAID_CHARS).collect();
    Err(failed(format!("{}: {said}", done.status)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_overlay_go_to_the_hub_and_no_others_whichever_command_fails() {
        let prefixes = [([10, 88, 0, 0].into(), 16), ("fd01:2345:6789:abcd::".parse().unwrap(), 64)];
        let domain = "bp.internal".parse().unwrap();
        let resolved = Resolved::new([10, 88, 0, 7].into(), &domain, prefixes);
        let said =
            commands("bp0", Ipv4Addr::new(10, 88, 0, 1), &resolved.domains).map(|words| words.join(" "));
        let domains = "~bp.internal ~88.10.in-addr.arpa ~d.c.b.a.9.8.7.6.5.4.3.2.1.0.d.f.ip6.arpa";
        let expected = ["default-route bp0 no", &format!("domain bp0 {domains}"), "dns bp0 10.88.0.1"];
        assert_eq!(said, expected);
        // Names of addresses that share a label with others are not taken from them.
        assert_eq!(reverse(([10, 96, 0, 0].into(), 12)), None);
        assert_eq!(reverse(([10, 0, 0, 0].into(), 8)).as_deref(), Some("10.in-addr.arpa"));
    }

    #[test]
    fn what_it_says_is_read_by_whole_words() {
        assert!(names("Link 3 (bp0): 10.88.0.1\n", "10.88.0.1"));
        assert!(names("Link 3 (bp0): ~other.example ~bp.internal\n", "~bp.internal"));
        for said in ["Link 3 (bp0):\n", "", "Link 3 (bp0): 10.88.0.11\n", "Link 3 (bp0): bp.internal"] {
            assert!(!names(said, "10.88.0.1") && !names(said, "~bp.internal"), "{said}");
        }
    }

    #[test]
    fn whether_programs_ask_it_is_told_by_either_file() {
        let stub = "# by systemd-resolved\nnameserver 127.0.0.53\noptions edns0 trust-ad\n";
        let (dns, resolve) =
            ("hosts: files dns\n", "passwd: files\nhosts:  files resolve [!UNAVAIL=return] dns\n");
        assert!(
            is_asked(stub, dns) && is_asked("nameserver 192.0.2.1\n", resolve) && is_asked(stub, resolve)
        );
        for other in ["", "nameserver 192.0.2.1\n", "# nameserver 127.0.0.53\n", "nameserver 127.0.0.1\n"] {
            assert!(!is_asked(other, dns), "{other}");
        }
    }

    #[test]
    fn a_device_is_known_by_its_address() {
        assert_eq!(device_of(Ipv4Addr::LOCALHOST).as_deref(), Some("lo"));
        assert_eq!(device_of(Ipv4Addr::new(192, 0, 2, 77)), None);
    }
}
