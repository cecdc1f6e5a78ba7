//! Machines of clouds that the hub does not know: a program of the operator's serves `blueprint.plugin.v1.Provider` on a Unix
//! socket, and is asked like a cloud.
//!
//! Invariants:
//! - an answer of the plugin is believed as little as one of a cloud: what is too long, malformed or twice there is an error, and what
//!   cannot be sold is not offered;
//! - each call has a connection and a limit of time of its own, and a message at most 4 MiB;
//! - who serves the socket is the plugin's user, root, or the hub's own; nobody else is told anything;
//! - a plugin that the hub starts gets nothing of the hub's environment, ends with the hub and with all that it started, and is
//!   started again by a back-off.

mod answers;
mod channel;
mod cloud;
mod keeper;
pub mod plugins;
pub mod reaper;
mod rows;

pub use cloud::{External, ExternalConfig};
pub use keeper::{Account, Keeper, KeeperError, PluginProgram};
