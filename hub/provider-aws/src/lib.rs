//! Amazon EC2 as a cloud of the hub.
//!
//! One account, several regions. A machine is made by one call, `RunInstances`, with:
//!
//! - a client token out of the machine's key, the number of the call and the subnet, so that AWS makes one machine for one call;
//! - a security group without ingress, one in each network, made where it is not there;
//! - an encrypted system disk and a network interface that end with it, and metadata version 2 alone, for nothing but the machine itself;
//! - tags that say whose it is, on the machine and its disk; a machine that switches itself off ends.
//!
//! Invariants:
//! - where AWS may have made a machine, the call ends with an error of class unknown, and no other zone is asked;
//! - what has no tag of a hub is neither listed nor touched;
//! - nothing is sent that [`policy()`] does not name: calls are values of one type.

mod action;
mod answer;
mod api;
mod check;
mod cloud;
mod config;
mod create;
mod keys;
mod launch;
mod network;
mod offers;
mod policy;
mod pricing;
mod query;
mod refusal;
mod sign;
mod tags;
mod xml;

pub use cloud::AwsCloud;
pub use config::{AwsConfig, ImageChoice, ParseAwsError, Region, SubnetId};
pub use keys::{AssumedRole, InstanceRole, Profile};
pub use offers::listed;
pub use policy::policy;
