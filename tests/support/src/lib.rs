//! Namespaces, processes and waits for the integration tests.
//!
//! - [`Lab`] is a small internet: hosts in network namespaces of their own behind one router that can
//!   cut, spoil and renumber their links, and that answers their DNS questions.
//! - [`Launch`] starts a program, on a host or on this machine; [`Process`] ends it at the latest when dropped.
//! - [`eventually`] and [`eventually_ok`] are the only waits: they end at the first success.
//! - [`Moto`](moto::Moto) stands in for AWS.
//! - [`require()`] skips a test aloud where this machine lacks something.
//!
//! Nothing here needs the internet, a fixed port or an installed hub.

mod dns;
mod files;
pub mod http;
mod lab;
mod launch;
pub mod moto;
mod namespace;
mod process;
mod require;
mod wait;

pub use files::{binary, free_port, processes_naming, scratch};
pub use lab::{Fault, Host, Lab};
pub use launch::{Finished, Launch};
pub use process::Process;
pub use require::{
    Need, left_out, local_vm_image, plugin_python, require, resolved_image, ssh_host_image, tool,
};
pub use wait::{eventually, eventually_ok};
