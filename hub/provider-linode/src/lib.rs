//! Linode (Akamai) as a cloud of the hub: API v4, compute instances, one account.
//!
//! What is made in the account, all named by the hub's id so that two hubs may share one:
//!
//! ```text
//! label     the order's key    unique in an account, so it is the request key that this API does not have
//! tag       bp-node            on every instance of any hub; what lists go by
//! tag       bp-hub-ID, bp-dep-ID, bp-key-KEY, bp-att-N   hub, deployment, order and number of the call
//! firewall  bp-hub-HALF        nothing in, everything out; half of the id, because labels of firewalls have 32 characters
//! ```
//!
//! Invariants:
//! - no instance is ordered before the firewall was seen to let nothing in, and each is born behind it;
//! - an instance without the tag `bp-node` is never touched;
//! - an instance of the same order is looked for before each `POST`; where its label is taken, it is looked for again, and one
//!   that lists do not show yet is waited for;
//! - root's password is drawn for each instance and kept nowhere;
//! - lists are whole: one that changed while it was read is an error.

mod check;
mod cloud;
mod errors;
mod guard;
mod machine;
mod offers;

pub use check::scopes;
pub use cloud::{ENDPOINT, Linode, LinodeConfig};
