//! A simulated cloud whose machines are processes on this host.
//!
//! A machine is a folder `DIR/machines/KEY/` and, while it runs, one process for each of its services and one
//! agent:
//!
//! ```text
//! machine.json        whose it is, and what it was ordered as
//! user-data.json      what the machine was created with, mode 0600
//! join-line           the join line out of it, mode 0600, until the machine boots after its agent joined
//! agent.toml          written at every boot, because ports change
//! state/              the agent's own
//! console.log         what the agent printed; service-B-S.log what a service printed
//! booted              there once the agent was started
//! ```
//!
//! A machine is made in `DIR/making/` and moved here whole, and moved to `DIR/removed/` before it is deleted, so that a kill
//! never leaves one without its tags.
//!
//! Invariants:
//! - no process outlives the hub, however it ends: each reads a pipe that the hub holds and ends with it;
//! - no secret stands in an argument or the environment of a process; of the hub's environment only `PATH`
//!   and `HOME` are passed on;
//! - machines end with the hub and are kept: a hub that starts again finds them stopping until their agents of before have ended,
//!   and then stopped;
//! - one thing at a time happens to a machine; machines do not wait for each other.

mod cloud;
mod faults;
mod folder;
mod label;
mod machine;
mod user_data;

pub use cloud::{MAX_REGIONS, SimCloud, SimConfig, offers};
pub use faults::{Faults, ParseFaultsError};
