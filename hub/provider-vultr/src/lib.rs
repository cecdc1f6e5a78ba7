//! Vultr as a cloud of the hub: API v2, cloud instances, one account.
//!
//! What is made in the account, all named by the hub's id so that two hubs may share one:
//!
//! ```text
//! tag             bp-node        on every instance of any hub; what lists go by
//! tag             bp-hub-ID, bp-dep-ID, bp-key-KEY, bp-att-N   hub, deployment, order and number of the call
//! firewall group  bp-hub-ID      without any rule, so that nothing comes in; everything goes out
//! ```
//!
//! Invariants:
//! - no instance is ordered before its firewall group was seen to have no rule, and each is born behind it;
//! - an instance without the tag `bp-node` is never touched;
//! - there are no request keys, so an instance of the same order is looked for before each `POST`, and that is sent once;
//! - the password that Vultr makes up and tells in its answer is not read;
//! - lists are whole: one that changed while it was read is an error.

mod check;
mod cloud;
mod errors;
mod guard;
mod machine;
mod offers;

pub use check::permissions;
pub use cloud::{ENDPOINT, Vultr, VultrConfig};
