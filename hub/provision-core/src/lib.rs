//! What the hub orders of clouds: the `Provider` trait, and the decisions about the lives of machines.
//!
//! A provider lists, creates and deletes; whoever calls it retries, waits, logs and counts.

mod candidate;
mod instance;
pub mod lifecycle;
mod provider;

pub use candidate::Candidate;
pub use instance::{Instance, InstanceKey, InstanceSpec, InstanceState, ParseInstanceKeyError, Tags};
pub use lifecycle::DeploymentId;
pub use provider::{ErrorClass, Listing, Provider, ProviderError};
