//! The workloads of one agent: fetched, checked, started, supervised and ended.
//!
//! `blueprint-agent-workload-core` decides; this crate does it, on this machine.

pub mod container;
