//! What the operator may begin beside and through workloads: `exec` and `forward`.

use std::fmt;
use std::str::FromStr;

use blueprint_common_types::{PortRanges, ServiceKey};

use super::document::PolicyDocument;

/// A text does not name workloads.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} names no workload: write BLUEPRINT/SERVICE, such as 7/42, or \"*\" for all")]
pub struct ParseWorkloadsError(String);

/// A text is nothing that a session may do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is nothing that may be allowed: write exec, forward, port/PORTS or reverse/PORTS, such as port/5432,8000-8080"
)]
pub struct ParseDeedError(String);

/// Names workloads. Text form `*` or `BLUEPRINT/SERVICE`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Workloads {
    /// Every one, now and later.
    All,
    /// One.
    One(ServiceKey),
}

impl FromStr for Workloads {
    type Err = ParseWorkloadsError;

    fn from_str(text: &str) -> Result<Self, ParseWorkloadsError> {
        if text == "*" {
            return Ok(Self::All);
        }
        text.parse().map(Self::One).map_err(|_| ParseWorkloadsError(text.chars().take(64).collect()))
    }
}

/// What a session may do. Text form `exec`, `forward`, `port/PORTS` or `reverse/PORTS`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deed {
    /// Run commands beside the workload.
    Exec,
    /// Reach the service's targets.
    Forward,
    /// Reach these ports of the loopback of the workload's node.
    Port(PortRanges),
    /// Have these ports of that loopback listened on.
    Reverse(PortRanges),
}

impl FromStr for Deed {
    type Err = ParseDeedError;

    fn from_str(text: &str) -> Result<Self, ParseDeedError> {
        let refused = || ParseDeedError(text.chars().take(64).collect());
        let ports = |text: &str| {
            let ports: Option<PortRanges> = text.parse().ok();
            ports.filter(|ports| !ports.is_empty()).ok_or_else(refused)
        };
        match text.split_once('/') {
            None if text == "exec" => Ok(Self::Exec),
            None if text == "forward" => Ok(Self::Forward),
            Some(("port", text)) => ports(text).map(Self::Port),
            Some(("reverse", text)) => ports(text).map(Self::Reverse),
            None | Some(_) => Err(refused()),
        }
    }
}

/// Lets the operator do something with workloads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionGrant {
    /// What the operator calls it; no other one has this name.
    pub name: String,
    /// With which; not empty.
    pub services: Vec<Workloads>,
    /// What; not empty.
    pub allow: Vec<Deed>,
}

/// What the operator wants to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionKind {
    /// Run a command beside the workload.
    Exec,
    /// Reach the service's targets.
    Forward,
    /// Reach a port of its node's loopback.
    Port(u16),
    /// Have a port of its node's loopback listened on.
    Reverse(u16),
}

impl fmt::Display for SessionKind {
    /// As a grant would allow it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exec => f.write_str("exec"),
            Self::Forward => f.write_str("forward"),
            Self::Port(port) => write!(f, "port/{port}"),
            Self::Reverse(port) => write!(f, "reverse/{port}"),
        }
    }
}

impl PolicyDocument {
    /// The name of a grant that lets the operator do this with a workload; `None` where none does.
    #[must_use]
    pub fn lets(&self, kind: SessionKind, service: ServiceKey) -> Option<&str> {
        let is_named = |workloads: &Workloads| match workloads {
            Workloads::All => true,
            Workloads::One(key) => *key == service,
        };
        let is_allowed = |deed: &Deed| match (deed, kind) {
            (Deed::Exec, SessionKind::Exec) | (Deed::Forward, SessionKind::Forward) => true,
            (Deed::Port(ports), SessionKind::Port(port))
            | (Deed::Reverse(ports), SessionKind::Reverse(port)) => ports.contains(port),
            (Deed::Exec | Deed::Forward | Deed::Port(_) | Deed::Reverse(_), _) => false,
        };
        let lets =
            |grant: &&SessionGrant| grant.services.iter().any(is_named) && grant.allow.iter().any(is_allowed);
        self.sessions.iter().find(lets).map(|grant| grant.name.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "[[session]]\nname = \"repair\"\nservices = [\"7/42\", \"7/43\"]\nallow = [\"exec\", \"port/5432\"]\n\
                        [[session]]\nname = \"all\"\nservices = \"*\"\nallow = [\"forward\", \"reverse/9000-9001\"]\n";

    #[test]
    fn what_no_grant_names_may_not_be_begun() {
        let document: PolicyDocument = TEXT.parse().unwrap();
        let one = ServiceKey { blueprint: 7, service: 42 };
        let other = ServiceKey { blueprint: 8, service: 1 };
        for (kind, service, name) in [
            (SessionKind::Exec, one, Some("repair")),
            (SessionKind::Exec, other, None),
            (SessionKind::Port(5432), one, Some("repair")),
            (SessionKind::Port(5433), one, None),
            (SessionKind::Reverse(5432), one, None),
            (SessionKind::Reverse(9001), other, Some("all")),
            (SessionKind::Forward, other, Some("all")),
        ] {
            assert_eq!(document.lets(kind, service), name, "{kind} {service}");
        }
        assert_eq!(PolicyDocument::default().lets(SessionKind::Forward, one), None);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        for (from, to, told) in [
            ("7/43", "seven", "session[1].services: \"seven\" names no workload"),
            ("port/5432", "port/0", "session[1].allow: \"port/0\" is nothing"),
            ("port/5432", "port/", "session[1].allow: \"port/\" is nothing"),
            ("forward", "shell", "session[2].allow: \"shell\" is nothing"),
            ("\"all\"", "\"repair\"", "is the name of another one too"),
        ] {
            let error = TEXT.replacen(from, to, 1).parse::<PolicyDocument>().unwrap_err().to_string();
            assert!(error.contains(told), "{error}");
        }
    }
}
