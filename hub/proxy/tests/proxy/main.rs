//! The proxy over real sockets: clients on one side, services on the other, nothing simulated but the tunnel.
#![expect(clippy::unwrap_used, reason = "helpers of a test crate stand outside #[test]")]

mod admission;
mod failures;
mod forwards;
mod http3;
mod jwks;
mod owners;
mod rig;
mod streaming;
mod upgrades;
