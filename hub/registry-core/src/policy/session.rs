//! What the operator may begin beside and through workloads, and on nodes: `exec` and `forward`.

use std::fmt;
use std::str::FromStr;

use blueprint_common_types::{PortRanges, ServiceKey};

use super::document::{PolicyDocument, Selector};
use crate::Agent;

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
    /// Reach these ports of the loopback of the workload's node, or of a node by its name.
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

impl fmt::Display for Deed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exec => f.write_str("exec"),
            Self::Forward => f.write_str("forward"),
            Self::Port(ports) => write!(f, "port/{ports}"),
            Self::Reverse(ports) => write!(f, "reverse/{ports}"),
        }
    }
}

/// Lets the operator do something with workloads, or with nodes by their names. One of both lists is not empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionGrant {
    /// What the operator calls it; no other one has this name.
    pub name: String,
    /// With which workloads.
    pub services: Vec<Workloads>,
    /// With the loopback of which nodes, whatever runs there; only ports are of nodes.
    pub nodes: Vec<Selector>,
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
        self.grants_session(kind, |grant| grant.services.iter().any(is_named))
    }

    /// The name of a grant that lets the operator do this with a node, whatever runs there; `None` where none does. What
    /// services are granted says nothing of nodes.
    #[must_use]
    pub fn lets_node(&self, kind: SessionKind, node: &Agent) -> Option<&str> {
        let is_named = |selector: &Selector| match selector {
            Selector::All => true,
            Selector::Address(address) => *address == node.lease.v4 || *address == node.lease.v6,
            Selector::Id(id) => *id == node.id,
            Selector::Name(name) => *name == node.name,
        };
        match kind {
            SessionKind::Exec | SessionKind::Forward => None,
            SessionKind::Port(_) | SessionKind::Reverse(_) => {
                self.grants_session(kind, |grant| grant.nodes.iter().any(is_named))
            }
        }
    }

    fn grants_session(&self, kind: SessionKind, is_its: impl Fn(&SessionGrant) -> bool) -> Option<&str> {
        let is_allowed = |deed: &Deed| match (deed, kind) {
            (Deed::Exec, SessionKind::Exec) | (Deed::Forward, SessionKind::Forward) => true,
            (Deed::Port(ports), SessionKind::Port(port))
            | (Deed::Reverse(ports), SessionKind::Reverse(port)) => ports.contains(port),
            (Deed::Exec | Deed::Forward | Deed::Port(_) | Deed::Reverse(_), _) => false,
        };
        let lets = |grant: &&SessionGrant| is_its(grant) && grant.allow.iter().any(is_allowed);
        self.sessions.iter().find(lets).map(|grant| grant.name.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{AskError, Machines, Mesh, SessionOn, Verdict};

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

    /// Two nodes, called one and two.
    fn nodes() -> [Agent; 2] {
        ["one", "two"].map(|name| crate::policy::tests::agent(if name == "one" { 1 } else { 2 }, name))
    }

    #[test]
    fn a_node_is_named_by_itself_and_not_by_what_runs_there() {
        let text = format!(
            "{TEXT}[[session]]\nname = \"of nodes\"\nnodes = [\"one\", \"10.88.0.9\"]\nallow = [\"port/22\", \"reverse/80\"]\n"
        );
        let document: PolicyDocument = text.parse().unwrap();
        let [one, two] = nodes();
        assert_eq!(document.lets_node(SessionKind::Port(22), &one), Some("of nodes"));
        assert_eq!(document.lets_node(SessionKind::Reverse(80), &one), Some("of nodes"));
        for (kind, node) in [
            (SessionKind::Port(5432), &one),
            (SessionKind::Reverse(9000), &one),
            (SessionKind::Exec, &one),
            (SessionKind::Forward, &one),
            (SessionKind::Port(22), &two),
        ] {
            assert_eq!(document.lets_node(kind, node), None, "{kind} {}", node.name);
        }
        let service = ServiceKey { blueprint: 7, service: 42 };
        assert_eq!(document.lets(SessionKind::Port(22), service), None, "nor the other way round");
    }

    #[test]
    fn tests_and_questions_of_sessions_say_what_is_not_as_expected() {
        let text = "[[session]]\nname = 'db'\nservices = '7/42'\nallow = ['exec', 'port/80-89']\n\
                    [[session]]\nname = 'more'\nservices = '*'\nallow = ['port/90-99']\n\
                    [[session]]\nname = 'n'\nnodes = 'one'\nallow = ['port/22']\n\
                    [[test]]\nname = 'a'\nservice = '7/42'\nallow = ['exec', 'port/85-95,99']\ndeny = ['forward', 'reverse/80']\n\
                    [[test]]\nname = 'b'\nservice = '7/43'\nallow = ['exec', 'port/89-90']\ndeny = 'port/1-95'\n\
                    [[test]]\nname = 'c'\nnode = 'one'\nallow = 'port/22'\ndeny = ['port/80', 'exec']\n\
                    [[test]]\nname = 'd'\nnode = 'gone'\ndeny = 'exec'\noptional = true\n\
                    [[test]]\nname = 'e'\nnode = '*'\nallow = 'port/22'\n";
        let document: PolicyDocument = text.parse().unwrap();
        let machines = Machines::new(&nodes());
        let mesh = Mesh::new(&document, &machines);
        let outcomes = mesh.run_tests().unwrap();
        let verdicts: Vec<_> = outcomes.iter().map(|outcome| outcome.verdict).collect();
        assert_eq!(verdicts, [Verdict::Pass, Verdict::Fail, Verdict::Pass, Verdict::Skip, Verdict::Fail]);
        assert_eq!(
            outcomes[1].problems,
            [
                "exec with service 7/43 should be allowed, and no [[session]] allows it",
                "port/89-90 with service 7/43 should be allowed, and is only in part, by \"more\"",
                "port/1-95 with service 7/43 should be denied, and \"more\" allows it",
            ]
        );
        assert_eq!(
            outcomes[4].problems,
            ["port/22 with node * should be allowed, and is only in part, by \"n\""]
        );
        let on = SessionOn::Service(ServiceKey { blueprint: 7, service: 42 });
        let answer = mesh.ask_session(&on, &"port/80-99".parse().unwrap()).unwrap();
        assert_eq!((answer.allowed, answer.by), (true, vec!["db".to_owned(), "more".to_owned()]));
        let gone = SessionOn::Node("gone".parse().unwrap());
        assert_eq!(mesh.ask_session(&gone, &Deed::Exec), Err(AskError::Unknown("gone".to_owned())));
    }

    #[test]
    fn a_row_of_sessions_names_workloads_or_nodes_and_what_fits_them() {
        for (text, told) in [
            ("[[session]]\nname = 'a'\nallow = 'exec'\n", "session[1]: names neither services nor nodes"),
            (
                "[[session]]\nname = 'a'\nnodes = 'one'\nallow = ['port/22', 'exec']\n",
                "session[1].allow: of nodes only port/PORTS and reverse/PORTS can be allowed",
            ),
            ("[[test]]\nname = 'a'\nservice = '7/42'\nnode = 'one'\nallow = 'exec'\n", "names both"),
            ("[[test]]\nname = 'a'\nservice = '7/42'\nfrom = 'one'\nallow = 'exec'\n", "has from or to, too"),
            (
                "[[test]]\nname = 'a'\nservice = '*'\nallow = 'exec'\n",
                "test[1].service: \"*\" names no service",
            ),
            (
                "[[test]]\nname = 'a'\nservice = '7/42'\nallow = 'tcp/22'\n",
                "test[1].allow: \"tcp/22\" is nothing",
            ),
        ] {
            let error = text.parse::<PolicyDocument>().unwrap_err().to_string();
            assert!(error.contains(told), "{text}: {error}");
        }
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
