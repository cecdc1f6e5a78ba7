//! The hub: composition of its parts, and the command line.
//!
//! `app` puts the planes together, `cmd` holds one file per command, `ports` connects the parts that
//! know each other only as traits.

mod accounts;
mod agent_files;
mod app;
mod artefacts;
mod audit;
mod blueprints;
mod cli;
mod cmd;
mod config;
mod data_plane;
mod discovery;
mod files;
mod identities;
mod limits;
mod memory;
mod overlay;
mod policy;
mod ports;
mod provision;
mod proxy;
mod qos;
mod registry_metrics;
mod scrape;
mod service_view;
mod stored_assertions;
mod stored_keys;
mod tables;
mod tls;
mod usage;
mod webhook;

#[cfg(feature = "provider-external")]
pub use blueprint_hub_provider_external::reaper::{ARGUMENT as KEEP_PLUGIN, keep_plugin};
pub use cli::main;
