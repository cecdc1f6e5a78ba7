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
    domain: ResolverDomain,
    /// Of what it may know something, from before the first command on.
    told: Option<(String, Ipv4Addr)>,
    /// When it was last known to do as it was told; `None` where it did not take every command.
    stood_at: Option<Instant>,
    /// Whether it was looked at if anybody asks it.
    is_looked_at: bool,
}

impl Resolved {
    pub(super) const fn new(own: Ipv4Addr, domain: ResolverDomain) -> Self {
        Self { own, domain, told: None, stood_at: None, is_looked_at: false }
    }

    /// Has it ask `hub` for names below the domain; true where it did not before. What failed half way is put back.
    pub(super) async fn point(&mut self, hub: Ipv4Addr) -> Result<bool, ResolverError> {
        let device = device_of(self.own).ok_or(ResolverError::NoDevice(self.own))?;
        let wanted = (device, hub);
        if let Some(at) = self.stood_at.filter(|_| self.told.as_ref() == Some(&wanted)) {
            if at.elapsed() < LOOK {
                return Ok(false);
            }
            if stands(&wanted.0, hub, self.domain.as_str()).await? {
                self.stood_at = Some(Instant::now());
                return Ok(false);
            }
            info!(device = wanted.0, "another program told systemd-resolved otherwise: it is told again");
        }
        let said = commands(&wanted.0, hub, self.domain.as_str());
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

/// Whether it asks `hub` for names below the domain, by what it says itself.
async fn stands(device: &str, hub: Ipv4Addr, domain: &str) -> Result<bool, ResolverError> {
    let ask = |verb: &str| [verb.to_owned(), device.to_owned()];
    let (domains, servers) = (resolvectl(&ask("domain")).await?, resolvectl(&ask("dns")).await?);
    Ok(names(&domains, &format!("~{domain}")) && names(&servers, &hub.to_string()))
}

/// Whether an answer such as `Link 3 (bp0): 10.88.0.1` names this word.
fn names(said: &str, word: &str) -> bool {
    said.split_whitespace().any(|found| found == word)
}

/// What is said. The server comes last: before that the device has none, and no name goes there. A domain with `~` is asked there
/// and is no search domain, and no other name goes there.
fn commands(device: &str, hub: Ipv4Addr, domain: &str) -> [Vec<String>; 3] {
    let say = |verb: &str, value: String| vec![verb.to_owned(), device.to_owned(), value];
    [say("default-route", "no".to_owned()), say("domain", format!("~{domain}")), say("dns", hub.to_string())]
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
    fn names_below_the_domain_go_to_the_hub_and_no_others_whichever_command_fails() {
        let said = commands("bp0", Ipv4Addr::new(10, 88, 0, 1), "bp.internal").map(|words| words.join(" "));
        assert_eq!(said, ["default-route bp0 no", "domain bp0 ~bp.internal", "dns bp0 10.88.0.1"]);
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
