//! What the hub orders and of whom: the resource model, the catalogue of machines and prices, placement, the lives of ordered
//! machines, and the `Provider` trait.
//!
//! A provider lists, creates and deletes; whoever calls it retries, waits, logs and counts.

mod account;
mod candidate;
pub mod catalogue;
pub mod cost;
pub mod estimate;
mod instance;
pub mod lifecycle;
pub mod placement;
mod provider;
pub mod resource;
pub mod scaling;

pub use account::{Account, AccountReport, CredentialRecord, CredentialStore, Right, RightState, Tidied};
pub use candidate::Candidate;
pub use instance::{Instance, InstanceKey, InstanceSpec, InstanceState, ParseInstanceKeyError, Tags};
pub use lifecycle::DeploymentId;
pub use provider::{CloudCall, ErrorClass, Listing, Provider, ProviderError};
