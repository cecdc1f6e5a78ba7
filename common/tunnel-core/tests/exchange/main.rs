//! A hub and two spokes that exchange packets in memory, on virtual time.
//!
//! The network delays, drops and reorders what a test tells it to; where it does so by a seed, a failure names it.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests stand outside of test functions"
)]
#![expect(
    clippy::disallowed_methods,
    reason = "virtual time needs one first instant, the soak test the real one"
)]

mod abuse;
mod net;
mod pace;
mod recovery;
mod soak;
mod time;
mod traffic;
