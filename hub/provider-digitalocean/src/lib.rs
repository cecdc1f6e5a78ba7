//! DigitalOcean as a cloud of the hub: API v2, droplets, one account.
//!
//! What is made in the account, all named by the hub's id so that two hubs may share one:
//!
//! ```text
//! tag       bp-node        on every droplet of any hub; what lists go by
//! tag       bp-hub-ID      on every droplet of this hub; what its firewall goes by
//! tag       bp-dep-ID, bp-key-KEY, bp-att-N   deployment, order and number of the call
//! firewall  bp-hub-ID      nothing in, everything out; in force from the birth of a droplet, because it goes by tag
//! ssh key   bp-hub-ID      one that nobody holds: without any, DigitalOcean mails a root password
//! ```
//!
//! Invariants:
//! - no droplet is ordered before its firewall was seen to let nothing in;
//! - a droplet without the tag `bp-node` is never touched;
//! - there are no request keys, so a droplet of the same order is looked for before each `POST`, and that is sent once;
//! - lists are whole: GPU droplets, which are hidden by default, are listed apart, and a list that changed while it was read
//!   is an error.

mod actions;
mod api;
mod check;
mod cloud;
mod droplet;
mod errors;
mod guard;
mod litter;
mod offers;

use blueprint_hub_provider_kit::flat_tags as tags;

pub use check::scopes;
pub use cloud::{DigitalOcean, DigitalOceanConfig, ENDPOINT};
