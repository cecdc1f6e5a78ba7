//! Google Compute Engine as a cloud of the hub: `compute/v1`, one project.
//!
//! A machine is an instance that bears its key as its name, made by one call, `instances.insert`, with:
//!
//! - a request id out of the machine's key, the number of the call and the zone, so that Google makes one machine for one call;
//! - the network tag `CLOSED` (`network.rs`), for which a firewall rule of the hub denies all that comes in, before any other rule;
//! - a system disk and an address that end with it, verified boot, no service account unless one is configured, and no keys for SSH;
//! - labels that say whose it is, on the machine and its disk.
//!
//! Invariants:
//! - no machine is ordered before the firewall rule was seen to be as the hub makes it;
//! - where Google may have made a machine, the call ends with an error of class unknown, and no other zone is asked;
//! - what does not have the labels of a hub is neither listed nor touched;
//! - a list that lacks a zone is an error;
//! - nothing is sent that [`policy()`] does not name: calls are values of one type.

mod action;
mod api;
mod check;
mod cloud;
mod config;
mod create;
mod labels;
mod launch;
mod machine;
mod network;
mod offers;
mod operation;
mod policy;
mod pricing;
mod refusal;
mod tokens;

pub use cloud::GcpCloud;
pub use config::{GcpConfig, ImageChoice, ParseGcpError, Region, ResourceName, ServiceAccount};
pub use offers::listed;
pub use policy::policy;
pub use tokens::MachineAccount;
