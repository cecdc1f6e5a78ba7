//! What a new machine is told so that it becomes a node of the hub: cloud-init user data, or the same files for whoever
//! brings them there by other means.
//!
//! The machine closes its firewall, fetches the agent from the hub and checks its digest, joins with a line that is good
//! once, wipes that line, and runs the agent in a hardened unit. Nothing has to reach the machine from outside.
//!
//! Invariants:
//! - the only secrets are the join line and the right to fetch the agent, both in files of mode 0600;
//! - the user data is one JSON document, which is YAML, made by a serializer and never by pasting text together;
//! - it is at most [`MAX_BYTES`] long, so that it fits every cloud, also in base64.

mod agent_file;
mod user_data;

pub use agent_file::{AgentArch, AgentFile, ElfError};
pub use user_data::{Bootstrap, BootstrapError, FileEntry, MAX_BYTES};
