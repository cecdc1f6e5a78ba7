//! What hub and agent need around their own work: configuration, logs, metrics, tasks, state on disk, sockets, terminal output.
//!
//! It holds mechanisms and no policy of either program: which keys exist, what a task does and what a command
//! prints is told to it.

pub mod accept;
pub mod cli;
pub mod config;
pub mod datagrams;
pub mod frames;
pub mod http_get;
pub mod lanes;
pub mod local_api;
pub mod logs;
pub mod metrics;
pub mod open_files;
pub mod places;
pub mod state;
pub mod tasks;

mod error_chain;

pub use error_chain::Chain;
