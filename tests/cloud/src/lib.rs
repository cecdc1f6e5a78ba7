//! Fake clouds on loopback, and the contract that every provider is held to.
//!
//! A [`FakeCloud`] is a stateful server behind a real socket. What machines there are, what goes wrong and what was asked is
//! the same for every cloud ([`World`], [`Fault`], [`FakeCloud::asked`]); how it is said is a [`Dialect`]. A dialect also knows
//! the rules of its cloud, and a test in which one was broken fails when its fake is dropped.
//!
//! [`contract::run`] takes a [`contract::Lab`] - a provider and, where there is one, its fake - and holds it to the promises
//! that stand at the trait `Provider`.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests; JSON is indexed by name"
)]

pub mod azure;
pub mod botocore;
pub mod contract;
pub mod digitalocean;
pub mod discovery;
pub mod docker;
pub mod ec2;
mod fake;
pub mod gcp;
pub mod hivelocity;
mod json;
pub mod linode;
pub mod openapi;
pub mod scaleway;
mod server;
pub mod vultr;
mod world;

pub use fake::{Asked, Dialect, FakeCloud};
pub use server::{Answer, Request};
pub use world::{Fault, Kind, Machine, Nonsense, Power, Refusal, Throttling, World};
