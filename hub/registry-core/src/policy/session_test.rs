//! Questions and tests about what the operator may begin beside and through workloads, and on nodes.

use std::fmt;

use blueprint_common_types::{PortRanges, ServiceKey};
use serde::Serialize;

use super::document::Selector;
use super::machines::MachineSet;
use super::mesh::{AskError, Mesh};
use super::session::{Deed, SessionGrant, Workloads};
use super::tests_run::{TestOutcome, Verdict};

/// With what something would be begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionOn {
    /// One workload, or the service of this name.
    Service(ServiceKey),
    /// The nodes that this names, each of them.
    Node(Selector),
}

impl fmt::Display for SessionOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(service) => write!(f, "service {service}"),
            Self::Node(node) => write!(f, "node {node}"),
        }
    }
}

/// What the operator expects of the sessions of a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionTest {
    /// What the operator calls it; no other test has this name.
    pub name: String,
    /// With what.
    pub on: SessionOn,
    /// What has to be allowed whole.
    pub allow: Vec<Deed>,
    /// What must not be allowed, not in part.
    pub deny: Vec<Deed>,
    /// Whether the test is skipped, and does not fail, while its node has not joined.
    pub is_optional: bool,
}

/// What a policy says of one deed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SessionAnswer {
    /// Whether all of it is allowed.
    pub allowed: bool,
    /// Names of the `[[session]]` that allow it, or a part of it.
    pub by: Vec<String>,
}

impl Mesh<'_> {
    /// Whether a policy lets the operator do something.
    ///
    /// # Errors
    ///
    /// [`AskError::Unknown`] where no node is called so.
    pub fn ask_session(&self, on: &SessionOn, deed: &Deed) -> Result<SessionAnswer, AskError> {
        let touching = self.document.sessions.iter();
        let touching = touching.filter(|grant| grant.allow.iter().any(|allowed| touches(allowed, deed)));
        let (allowed, by): (bool, Vec<&SessionGrant>) = match on {
            SessionOn::Service(service) => {
                let own: Vec<_> = touching.filter(|grant| names(grant, *service)).collect();
                (is_whole(deed, &own), own)
            }
            SessionOn::Node(node) => {
                let nodes = self.named(node)?;
                let own: Vec<(&SessionGrant, MachineSet)> = touching
                    .map(|grant| (grant, self.nodes_of(grant)))
                    .filter(|(_, named)| nodes.iter().any(|node| named.contains(node)))
                    .collect();
                // Each of them has to be allowed by itself.
                let allowed = nodes.iter().all(|node| {
                    let its = own.iter().filter(|(_, named)| named.contains(node)).map(|(grant, _)| *grant);
                    is_whole(deed, &its.collect::<Vec<_>>())
                });
                let is_any = nodes.iter().next().is_some();
                (is_any && allowed, own.into_iter().map(|(grant, _)| grant).collect())
            }
        };
        // What is of services alone is never of nodes, whatever else a row names.
        let is_of_nodes = !matches!((on, deed), (SessionOn::Node(_), Deed::Exec | Deed::Forward));
        let by = by.into_iter().filter(|_| is_of_nodes).map(|grant| grant.name.clone()).collect();
        Ok(SessionAnswer { allowed: allowed && is_of_nodes, by })
    }

    fn nodes_of(&self, grant: &SessionGrant) -> MachineSet {
        let mut set = MachineSet::default();
        for node in &grant.nodes {
            self.machines.select(node, &mut set);
        }
        set
    }

    /// How many decisions a test takes.
    pub(super) fn session_checks(&self, test: &SessionTest) -> u64 {
        let nodes = match &test.on {
            SessionOn::Service(_) => 1,
            SessionOn::Node(node) => self.named(node).map_or(0, |nodes| nodes.iter().count()),
        };
        let deeds = test.allow.len().saturating_add(test.deny.len());
        u64::try_from(nodes.saturating_mul(deeds)).unwrap_or(u64::MAX)
    }

    pub(super) fn run_session(&self, test: &SessionTest) -> TestOutcome {
        let outcome = |verdict, problems| TestOutcome { name: test.name.clone(), verdict, problems };
        let mut problems = Vec::new();
        let wanted = test.allow.iter().map(|deed| (deed, true));
        for (deed, should_pass) in wanted.chain(test.deny.iter().map(|deed| (deed, false))) {
            let SessionAnswer { allowed, by } = match self.ask_session(&test.on, deed) {
                Ok(answer) => answer,
                Err(error) => {
                    let verdict = if test.is_optional { Verdict::Skip } else { Verdict::Fail };
                    return outcome(verdict, vec![error.to_string()]);
                }
            };
            let names = || by.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ");
            let on = &test.on;
            match (should_pass, allowed, by.is_empty()) {
                (true, true, _) | (false, _, true) => {}
                (true, false, true) => {
                    problems.push(format!("{deed} with {on} should be allowed, and no [[session]] allows it"))
                }
                (true, false, false) => problems
                    .push(format!("{deed} with {on} should be allowed, and is only in part, by {}", names())),
                (false, _, false) => {
                    problems.push(format!("{deed} with {on} should be denied, and {} allows it", names()));
                }
            }
        }
        outcome(if problems.is_empty() { Verdict::Pass } else { Verdict::Fail }, problems)
    }
}

/// Whether grants that touch a deed allow all of it together.
fn is_whole(deed: &Deed, grants: &[&SessionGrant]) -> bool {
    match deed {
        Deed::Exec | Deed::Forward => !grants.is_empty(),
        Deed::Port(ports) | Deed::Reverse(ports) => {
            let all = grants.iter().flat_map(|grant| &grant.allow);
            let open: Vec<&PortRanges> = all.filter_map(|allowed| ports_of(allowed, deed)).collect();
            ports.parts().all(|range| is_covered(range, &open))
        }
    }
}

fn names(grant: &SessionGrant, service: ServiceKey) -> bool {
    grant.services.iter().any(|workloads| match workloads {
        Workloads::All => true,
        Workloads::One(key) => *key == service,
    })
}

/// The ports that a grant allows to do this with.
const fn ports_of<'a>(allowed: &'a Deed, deed: &Deed) -> Option<&'a PortRanges> {
    match (allowed, deed) {
        (Deed::Port(ports), Deed::Port(_)) | (Deed::Reverse(ports), Deed::Reverse(_)) => Some(ports),
        (Deed::Exec | Deed::Forward | Deed::Port(_) | Deed::Reverse(_), _) => None,
    }
}

/// Whether what is allowed is the deed, or a part of it.
fn touches(allowed: &Deed, deed: &Deed) -> bool {
    match (allowed, deed) {
        (Deed::Exec, Deed::Exec) | (Deed::Forward, Deed::Forward) => true,
        (Deed::Port(open), Deed::Port(ports)) | (Deed::Reverse(open), Deed::Reverse(ports)) => {
            ports.parts().any(|(first, last)| open.parts().any(|(from, to)| from <= last && first <= to))
        }
        (Deed::Exec | Deed::Forward | Deed::Port(_) | Deed::Reverse(_), _) => false,
    }
}

/// Whether ranges have all ports from the first to the last of one together.
fn is_covered((first, last): (u16, u16), open: &[&PortRanges]) -> bool {
    let mut next = first;
    loop {
        let all = open.iter().flat_map(|ports| ports.parts());
        let Some(end) = all.filter(|(from, to)| (*from..=*to).contains(&next)).map(|(_, to)| to).max() else {
            return false;
        };
        match end.checked_add(1) {
            Some(behind) if end < last => next = behind,
            Some(_) | None => return true,
        }
    }
}
