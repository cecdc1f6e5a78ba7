//! The proxy over real sockets: clients on one side, services on the other, nothing simulated but the tunnel.
#![expect(clippy::unwrap_used, reason = "helpers of a test crate stand outside #[test]")]

mod acme;
mod admission;
mod failures;
mod owners;
mod rig;
mod streaming;
mod tls;
mod upgrades;
