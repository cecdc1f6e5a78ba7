//! Samples of machine and services, and local health checks.
//!
//! - [`Sampler`] reads `/proc`: processor, memory, disk and network of the machine, and the processes
//!   that listen on a service's port;
//! - [`check()`] tries one service once;
//! - [`HealthGate`] makes a health out of the results of many checks;
//! - [`Backlog`] keeps samples that the hub has not got yet;
//! - [`scrape()`] reads the metrics that a service shows of itself, [`ask()`] those that it tells by gRPC.
//!
//! Left to the agent: when to sample and check, and samples of the tunnel, which the tunnel measures itself.

mod asked;
mod backlog;
mod check;
mod gate;
mod group;
mod procfs;
mod sampler;
mod scrape;

pub use asked::ask;
pub use backlog::{Backlog, Kept, MAX_SAMPLE_BYTES, MIN_BACKLOG_BYTES};
pub use check::{CheckResult, check};
pub use gate::HealthGate;
pub use sampler::{Sampler, ServiceProbe};
pub use scrape::{MAX_PAGE, ScrapeError, scrape};
