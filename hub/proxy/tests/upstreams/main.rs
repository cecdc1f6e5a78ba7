//! The proxy in front of four real services: what a client can forge, and whether two ends can be made to disagree
//! about where a request ends. Requests are bytes on a socket, from tables; the services say what they understood.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of a test crate stand outside #[test]"
)]

mod case;
mod forged;
mod forged_table;
mod frames;
mod framing;
mod framing_table;
mod http2;
mod http2_table;
#[expect(dead_code, reason = "these tests need only some of it")]
#[path = "../proxy/rig.rs"]
mod rig;
mod upstream;
