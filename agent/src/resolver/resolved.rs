//! systemd-resolved, told by its own command. What it is told is of our network device, and so goes with that, however the agent ends.

use std::net::{IpAddr, Ipv4Addr};
use std::process::Stdio;
use std::time::Duration;

use nix::ifaddrs::getifaddrs;
use tokio::process::Command;
use tokio::time::timeout;

use super::{ResolverDomain, ResolverError};

/// Longest wait for the command.
const PATIENCE: Duration = Duration::from_secs(5);

/// Longest text of the command that is repeated, in characters.
const SAID_CHARS: usize = 200;

/// What it is told, and whether it was.
#[derive(Debug)]
pub(super) struct Resolved {
    own: Ipv4Addr,
    domain: ResolverDomain,
    /// Of what it may know something, from before the first command on.
    told: Option<(String, Ipv4Addr)>,
    /// Whether it took every command.
    is_whole: bool,
}

impl Resolved {
    pub(super) const fn new(own: Ipv4Addr, domain: ResolverDomain) -> Self {
        Self { own, domain, told: None, is_whole: false }
    }

    /// Has it ask `hub` for names below the domain; true where it did not before. What failed half way is put back.
    pub(super) async fn point(&mut self, hub: Ipv4Addr) -> Result<bool, ResolverError> {
        let device = device_of(self.own).ok_or(ResolverError::NoDevice(self.own))?;
        let wanted = (device, hub);
        if self.is_whole && self.told.as_ref() == Some(&wanted) {
            return Ok(false);
        }
        let said = commands(&wanted.0, hub, self.domain.as_str());
        self.is_whole = false;
        self.told = Some(wanted);
        for words in said {
            if let Err(error) = resolvectl(&words).await {
                // The first error says why; one of this would say the same.
                let _ = self.put_back().await;
                return Err(error);
            }
        }
        self.is_whole = true;
        Ok(true)
    }

    /// Has it forget that.
    pub(super) async fn put_back(&mut self) -> Result<(), ResolverError> {
        self.is_whole = false;
        match self.told.take() {
            Some((device, _)) => resolvectl(&["revert".to_owned(), device]).await,
            None => Ok(()),
        }
    }
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

async fn resolvectl(words: &[String]) -> Result<(), ResolverError> {
    let failed =
        |why: String| ResolverError::Resolvectl { command: format!("resolvectl {}", words.join(" ")), why };
    let mut command = Command::new("resolvectl");
    command.args(words).stdin(Stdio::null()).kill_on_drop(true);
    let done = timeout(PATIENCE, command.output()).await;
    let done = done.map_err(|_| failed(format!("no end within {PATIENCE:?}")))?;
    let done = done.map_err(|error| failed(error.to_string()))?;
    if done.status.success() {
        return Ok(());
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
    fn a_device_is_known_by_its_address() {
        assert_eq!(device_of(Ipv4Addr::LOCALHOST).as_deref(), Some("lo"));
        assert_eq!(device_of(Ipv4Addr::new(192, 0, 2, 77)), None);
    }
}
