//! Vultr as a cloud of the hub: API v2, cloud instances and whole machines ("bare metal"), one account.
//!
//! What is made in the account, all named by the hub's id so that two hubs may share one:
//!
//! ```text
//! tag             bp-node        on every machine of any hub; what lists go by
//! tag             bp-hub-ID, bp-dep-ID, bp-key-KEY, bp-att-N   hub, deployment, order and number of the call
//! tag             bp-off         on a whole machine that the hub switched off, because the API does not say whether one is on
//! firewall group  bp-hub-ID      without any rule, so that nothing comes in; everything goes out
//! ```
//!
//! Before a whole machine there is no firewall of Vultr's: its own, which its user data sets up first, is all there is. So they
//! are offered only where the operator wants that.
//!
//! Invariants:
//! - no instance is ordered before its firewall group was seen to have no rule, and each is born behind it;
//! - a machine without the tag `bp-node` is never touched;
//! - there are no request keys, so a machine of the same order is looked for before each `POST`, and that is sent once;
//! - the password that Vultr makes up and tells in its answer is not read;
//! - lists are whole: one that changed while it was read is an error.

mod check;
mod cloud;
mod errors;
mod guard;
mod line;
mod machine;
mod offers;

pub use check::permissions;
pub use cloud::{ENDPOINT, Vultr, VultrConfig};
