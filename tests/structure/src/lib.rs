//! Rules of the code base that need only cargo to check.
//!
//! Each module holds pure checks over what [`Workspace`] or [`files`] read, and returns one line for
//! each thing that breaks a rule. `tests/rules.rs` runs them over this very repository; the unit tests
//! plant one fault each, so that a check that has gone blind is noticed.

pub mod cores;
pub mod files;
pub mod layers;
pub mod links;
pub mod lockfile;
pub mod manifests;
pub mod source;
mod workspace;

pub use workspace::{Dependency, Kind, Member, Workspace, read_toml};
