//! The `Provider` trait and what it speaks about.
//!
//! A provider lists, creates and deletes; whoever calls it retries, waits, logs and counts.

mod candidate;
mod instance;
mod provider;

pub use candidate::Candidate;
pub use instance::{Instance, InstanceKey, InstanceSpec, InstanceState, ParseInstanceKeyError};
pub use provider::{Provider, ProviderError};
