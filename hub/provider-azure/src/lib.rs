//! Virtual machines of Azure as a cloud of the hub: Azure Resource Manager, one subscription, several regions.
//!
//! All that is made stands in one resource group of this hub, named by its id, so that two hubs may share a subscription:
//!
//! ```text
//! resource group   blueprint-hub-ID           made where it is not there, never deleted
//! security group   blueprint-hub-REGION       one in each region; refuses all that comes in
//! network          blueprint-hub-REGION       one in each region; its subnet goes by that security group
//! machine          KEY                        with its interface, address and disk: KEY_nic, KEY_ip, KEY_disk
//! ```
//!
//! A machine is made by one call. Its interface and address are part of that call's document, and Azure makes them with the
//! machine, so that no moment is between them at which the hub could end and leave an address behind that is billed. They and
//! the disk go with the machine (`deleteOption`). What stays behind all the same is listed under the machine's key, and
//! removed when that is deleted again.
//!
//! Invariants:
//! - a machine is made by `PUT` of its name with `If-None-Match: *`, so one order is one machine;
//! - what has not this hub's tags is neither started, stopped nor deleted;
//! - no machine is made before its security group was seen to let nothing in;
//! - nothing is called that `role` does not name.

mod api;
mod bearer;
mod check;
mod cloud;
mod config;
mod errors;
mod leftovers;
mod machine;
mod network;
mod offers;
mod operation;
mod order;
mod role;
mod sizes;
mod spot;
mod tags;

pub use cloud::Azure;
pub use config::{
    AzureConfig, ENDPOINT, Image, LOGIN_ENDPOINT, METADATA_ENDPOINT, PRICES_ENDPOINT, ParseImageError,
};
pub use role::role;
