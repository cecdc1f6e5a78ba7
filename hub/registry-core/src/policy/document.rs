//! What a policy says, and what is wrong with a text that is none.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use blueprint_common_types::AgentId;

use super::read;
use super::session::SessionGrant;
use super::session_test::SessionTest;
use super::traffic::Traffic;
use crate::check_name;

/// A text does not name machines.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} names no machine: write its name (a-z, 0-9 and '-'), its id, its overlay address, or \"*\" for all"
)]
pub struct ParseSelectorError(String);

/// Names machines. Text form `*`, an overlay address, an id or a name, tried in this order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Selector {
    /// Every joined machine, now and later.
    All,
    /// The machine that holds an overlay address.
    Address(IpAddr),
    /// One machine.
    Id(AgentId),
    /// Every machine of this name: names need not be unique.
    Name(String),
}

impl FromStr for Selector {
    type Err = ParseSelectorError;

    fn from_str(text: &str) -> Result<Self, ParseSelectorError> {
        if text == "*" {
            return Ok(Self::All);
        }
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        if let Ok(id) = text.parse() {
            return Ok(Self::Id(id));
        }
        match check_name(text) {
            Ok(()) => Ok(Self::Name(text.to_owned())),
            Err(_) => Err(ParseSelectorError(text.chars().take(64).collect())),
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("*"),
            Self::Address(address) => address.fmt(f),
            Self::Id(id) => id.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// Lets machines send something to machines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// What the operator calls it; no other grant has this name.
    pub name: String,
    /// Who may begin; not empty.
    pub from: Vec<Selector>,
    /// Whom they may reach; not empty.
    pub to: Vec<Selector>,
    /// By what; not empty.
    pub allow: Vec<Traffic>,
}

/// What the operator expects of the policy. Holds for every pair of the machines named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyTest {
    /// What the operator calls it; no other test has this name.
    pub name: String,
    /// Who begins.
    pub from: Selector,
    /// Whom it tries to reach.
    pub to: Selector,
    /// What has to pass whole.
    pub allow: Vec<Traffic>,
    /// What must not pass, not in part.
    pub deny: Vec<Traffic>,
    /// Whether the test is skipped, and does not fail, while one of its machines has not joined.
    pub is_optional: bool,
}

/// A policy as the operator wrote it. The default has no grant and so denies everything.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PolicyDocument {
    /// What is allowed, in the order of the text.
    pub grants: Vec<Grant>,
    /// What is expected, in the order of the text.
    pub tests: Vec<PolicyTest>,
    /// What the operator may begin beside and through workloads and on nodes, in the order of the text.
    pub sessions: Vec<SessionGrant>,
    /// What is expected of those, in the order of the text.
    pub session_tests: Vec<SessionTest>,
}

impl FromStr for PolicyDocument {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, PolicyError> {
        read::document(text)
    }
}

/// One thing that is wrong with a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyProblem {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// The key, such as `grant[2].allow` for the second grant; empty where the text is no TOML.
    pub key: String,
    /// What is there, and what may be.
    pub message: String,
}

impl fmt::Display for PolicyProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}: ", self.line, self.column)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

/// A text is not a policy. Holds the first problems and the number of the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyError {
    /// At least one, in the order of the text.
    pub problems: Vec<PolicyProblem>,
    /// How many more there are.
    pub more: usize,
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, problem) in self.problems.iter().enumerate() {
            let separator = if position == 0 { "" } else { "\n" };
            write!(f, "{separator}{problem}")?;
        }
        if self.more > 0 {
            write!(f, "\nand {} more", self.more)?;
        }
        Ok(())
    }
}

impl std::error::Error for PolicyError {}
