//! The operator's policy: which machines may send what to which through the hub. Without a grant, nothing.
//!
//! A [`PolicyDocument`] is the text that the operator writes. A [`Mesh`] is that document applied to the
//! [`Machines`] of one moment: it answers questions, runs the document's tests, and lists the rules for the
//! packet path. Nothing here is stored and nothing waits.
//!
//! Invariants:
//! - what no grant names is denied; grants only add;
//! - a grant names who may *begin*: the packet path lets the answers back by itself;
//! - a machine never needs a grant for itself, and no rule names the same machine twice;
//! - the number of rules has a bound, and the machines that joined first keep theirs.

mod document;
mod machines;
mod mesh;
mod read;
mod session;
mod session_test;
mod tests_run;
mod traffic;

pub use document::{
    Grant, ParseSelectorError, PolicyDocument, PolicyError, PolicyProblem, PolicyTest, Selector,
};
pub use machines::{Machine, Machines};
pub use mesh::{Answer, AskError, Decision, Mesh, MeshRefusal};
pub use session::{Deed, ParseDeedError, ParseWorkloadsError, SessionGrant, SessionKind, Workloads};
pub use session_test::{SessionAnswer, SessionOn, SessionTest};
pub use tests_run::{TestOutcome, Verdict};
pub use traffic::{ParseTrafficError, Traffic, TrafficProtocol};

/// Longest document in bytes.
pub const MAX_DOCUMENT_BYTES: usize = 256 << 10;
/// Most grants of a document, and most tests.
pub const MAX_ROWS: usize = 1000;
/// Most entries of one list: machines, or kinds of traffic.
pub const MAX_LIST: usize = 256;
/// Most rules, each one kind of traffic from one machine to one other; 500 machines in a full mesh have 249,500.
pub const MAX_RULES: u64 = 250_000;
/// Most pairs of machines that the tests of a document, or one question, may look at.
pub const MAX_CHECKS: u64 = 250_000;

#[cfg(test)]
mod tests;
