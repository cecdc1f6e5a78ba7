//! Hub and agent cores on a simulated network against a naive model.
//!
//! One [`simulate`] runs a hub and a handful of machines through rounds of trouble and peace, on virtual time and
//! by one seed. The cores are the real ones; what their drivers do around them is repeated here in little.
//!
//! ```text
//!   world      what is due, one step after the other
//!   trouble    the outages, kills, cuts, moves, joins, removals, attacks
//!   peace      how they end, and what must be well then
//!   hub        tunnel core (hub), registry, address pool, history      <- disk survives it
//!   machine    tunnel core (spoke), link, outbox, renewal              <- identity survives it
//!   network    datagrams: lost, doubled, late, out of order, damaged, replayed from elsewhere
//!   streams    messages: in order, stalled while the path is down, cut anywhere
//!   naive      the registry once more, without its cleverness
//!   ledger     who sent which packet; what was acknowledged
//!   watcher    who follows the registry by its changes alone
//! ```
//!
//! # Safety, looked at after every step
//!
//! - No packet arrives whose source is not its sender's, none twice, and none from spoke to spoke unless allowed.
//! - The registry shows what the naive one shows; what it saved is what it shows; leases are unique.
//! - An acknowledged message took effect in what is saved, and is never applied again, whoever restarts.
//! - A watch index never goes back, and the changes after any index lead to the snapshot.
//! - The hub takes no agent for alive whose echoes it cannot have got in the last 4 s.
//! - After `handle_timeout(now)` no core's `poll_timeout()` is at or before `now`.
//!
//! # Liveness, looked for until 5 s after the network healed
//!
//! - Every echo is alive at both ends, every stream is up, every target is shown as its agent sees it; then
//!   packets pass in both directions.
//!
//! Ephemeral keys come from the system, so ciphertexts differ from run to run; lengths, times and decisions do not.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests stand outside of test functions"
)]

mod air;
mod disk;
mod fault;
mod hub;
mod ledger;
mod machine;
mod naive;
mod network;
mod packet;
mod peace;
mod rng;
mod sessions;
mod streams;
mod trace;
mod trouble;
mod watcher;
mod wire;
mod world;

pub use fault::Failure;
pub use world::{Summary, simulate};

/// Seeds of one test run: `SIM_SEED` where it is set, else `SIM_SEEDS` many (`default` unless set) from 1.
#[must_use]
pub fn seeds(default: u64) -> Vec<u64> {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse().ok());
    match number("SIM_SEED") {
        Some(seed) => vec![seed],
        None => (1..=number("SIM_SEEDS").unwrap_or(default)).collect(),
    }
}
