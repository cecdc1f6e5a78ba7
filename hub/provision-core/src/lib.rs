//! The `Provider` trait and what it speaks about.
//!
//! A provider lists, creates and deletes; whoever calls it retries, waits, logs and counts.

mod instance;
mod provider;

pub use instance::{Instance, InstanceKey, InstanceSpec, InstanceState, ParseInstanceKeyError};
pub use provider::{Provider, ProviderError};
