//! Containers as machines: a container of a Docker engine that runs the agent, and the agent's native workloads with it.
//!
//! `local-docker` is the engine of this host, over its Unix socket; `docker` is engines of other hosts, over mutual TLS. A
//! machine is a container and its one volume, on a network of this hub alone:
//!
//! ```text
//! /blueprint/                   the volume; the only place that can be written, but for a small /tmp
//!   bin/blueprint-agent         put there before the first start, out of the hub's own folder
//!   join, agent.toml            what it joins with, for its user alone; its name
//!   state/                      keys and workloads, for its user alone
//! ```
//!
//! Invariants:
//! - the name of a container is its order and its hub, so that an engine makes one for an order;
//! - a container that was never started holds nothing: an order that meets one removes it and begins again;
//! - secrets go into files of the volume, never into variables or labels, which everybody reads who may ask the engine;
//! - no capability, no way to new privileges, no published port, no folder of the host; containers do not reach each other;
//! - what does not carry this hub's label is not touched;
//! - with the last machine of a hub its network goes, and the image that was made for it.

mod api;
mod archive;
mod cloud;
mod engine;
mod image;
mod inventory;
mod machine;
mod order;
mod plans;
mod refusal;

pub use cloud::{AgentProgram, Docker, DockerConfig, EngineHost, Patience};
pub use inventory::{InventoryError, read as read_inventory};
pub use plans::offers;
