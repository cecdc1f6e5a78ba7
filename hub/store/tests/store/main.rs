//! The store against real files, threads and killed processes.
#![expect(clippy::unwrap_used, reason = "helpers of tests stand outside test functions")]

mod alerts;
mod audit;
mod credentials;
mod durability;
mod joins;
mod lifecycle;
mod opening;
mod policy;
mod qos;
mod scaling;
mod schema;
mod services;
mod support;
mod tls;
mod usage;
mod workloads;
