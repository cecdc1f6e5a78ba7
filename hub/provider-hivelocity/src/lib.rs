//! Hivelocity as a cloud of the hub: bare metal and virtual machines ("compute") of one account, core API v2.
//!
//! Nothing is made beside the device itself, which is an order: it is delivered in 5 to 60 min, and ended by a cancellation.
//! Hivelocity has no firewall, so the machine's own, which its user data sets up before anything else, is all there is.
//!
//! ```text
//! tags  bp-node, bp-hub-ID, bp-dep-ID, bp-key-KEY, bp-att-N   whose it is
//!       bp-at-SECONDS                                         when it was ordered: devices show no date
//!       bp-vps                                                a virtual machine, whose calls have other paths
//! ```
//!
//! Invariants:
//! - a device without the tag `bp-node` is never touched;
//! - there are no request keys, so a device of the same order is looked for before each `POST`, and that is sent once;
//! - a cancellation that fails is an error that is tried again: it is money.

mod api;
mod check;
mod cloud;
mod device;
mod errors;
mod offers;
mod tags;

pub use check::rights;
pub use cloud::{ENDPOINT, Hivelocity, HivelocityConfig};
