//! Scaleway as a cloud of the hub: Instances, API v1, one project in any zones.
//!
//! What is made in the project, all named by the hub's id so that two hubs may share one:
//!
//! ```text
//! security group  bp-hub-ID   one in each zone where a machine was ordered: nothing in, everything out
//! server          bp-DEPLOYMENT-NUMBER, with the tags bp-node, bp-hub-ID, bp-dep-ID, bp-key-KEY, bp-att-N
//! block volume    its system disk; it is told apart from the server's life, see below
//! ```
//!
//! A server is made in four steps: it is ordered switched off and with the tag `bp-new`, given its user data, loses that
//! tag, and is switched on. One that is left with `bp-new` is [`Unfinished`](blueprint_hub_provision_core::InstanceState):
//! the next call for its order finishes it.
//!
//! A server that ends leaves its block volumes, and one that ends while it is switched off leaves its local ones, too. So
//! its system disk, volume `0`, gets the tags of its server and `bp-left`, `bp-of-SERVER` before that; what is left is listed
//! as a machine on its way out until another call of `delete` took it away. Volumes at other places and flexible addresses
//! are people's, and stay.
//!
//! Invariants:
//! - no server is ordered before its security group was seen to let nothing in;
//! - a server without the tag `bp-node` is never touched, nor a volume without `bp-left`;
//! - there are no request keys, so a server of the same order is looked for before each `POST`, and that is sent once;
//! - lists are whole: every zone that the hub knows is asked, also those where nothing is ordered now.

mod api;
mod check;
mod cloud;
mod create;
mod delete;
mod errors;
mod guard;
mod image;
mod offers;
mod server;
mod tags;
mod volumes;

pub use check::permission_sets;
pub use cloud::{ENDPOINT, Scaleway, ScalewayConfig};
