//! Machines of the operator, reached by SSH: an inventory of hosts, of which each is a plan that there is one of.
//!
//! A host is claimed by a file on it, and made a node by what cloud-init would bring there; the node is taken off again without a
//! trace. Hosts are known by pinned keys alone.
//!
//! Invariants:
//! - a host that shows another key is sent nothing, and no key is taken on trust;
//! - a host has one claim, whoever asks, and one thing is done on it at a time;
//! - what a host says is data: it cannot claim in the name of another;
//! - nothing is tried twice here, and every connection has an end.

mod claim;
mod cloud;
mod error;
mod inventory;
mod key;
mod look;
mod order;
mod probe;
mod scan;
mod transport;

pub use cloud::{OwnHosts, SshConfig};
pub use error::HostError;
pub use inventory::{Door, Format, Inventory, InventoryError, MAX_HOSTS, OwnHost};
pub use key::{HostKey, ParseKeyError, Pin};
pub use look::{HostLook, Size, check_hosts, detect};
pub use scan::keys;

/// Name of the provider.
pub const NAME: &str = "ssh";
