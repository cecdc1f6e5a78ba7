//! The proxy over real sockets: clients on one side, services on the other, nothing simulated but the tunnel.
#![expect(clippy::unwrap_used, reason = "helpers of a test crate stand outside #[test]")]

mod acme;
mod admission;
mod failures;
mod forwards;
mod frames;
mod hedge;
mod http3;
mod idle;
mod jwks;
mod limits;
mod naming;
mod owners;
mod patience;
mod rig;
mod seen;
mod streaming;
mod tls;
mod upgrades;
mod upstreams;
mod wire;
