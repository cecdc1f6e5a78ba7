//! How many replicas a service has: payment tiers, load, and what happens once nobody pays any more.
//!
//! A replica is one machine of the deployment that the service is bound to. [`Scaler`] decides; it is told the time, the
//! terms and what is measured, and gives [`Step`]s. Whoever carries them out stores each before it has an effect.
//!
//! ```text
//!          paid_until is over            nothing is open, or the drain is over       the grace is over
//!   paid ---------------------> draining --------------------------------> zero ---------------------> ended
//!    ^                              |                                        |
//!    +------------------------------+----------------------------------------+
//!                        the operator says that it is paid again
//! ```
//!
//! Invariants:
//! - the number of replicas stays between the least and the most of the terms, but for `zero` and `ended`;
//! - what is not measured, or was measured too long ago, never takes a replica away;
//! - a machine goes only after it got no new requests for a while: it is drained first, and the last replica that answers is
//!   not taken while the service is paid for;
//! - a replica whose agent stays away is given up for another one, one after the other, and only while what takes its place can
//!   come and its cloud answers: where the hub itself is cut off, nothing is given up;
//! - nothing ends because of the time while the clock is in doubt;
//! - while an update of the service is under way, its replicas stay as they are, whatever load and payment say: the update decides
//!   by them.

mod judge;
mod sight;
mod store;
mod terms;
mod tier;

pub use judge::{Scaler, ScalerSettings, Step};
pub use sight::{Measure, Presence, Replica, Sight, is_replacing, nodes_of};
pub use store::{
    DrainMark, Leaving, MAX_SCALE_EVENTS, ResizeError, ScaleDesk, ScaleDeskError, ScaleEvent, ScaleStore,
    ScaleView,
};
pub use terms::{
    DEFAULT_TARGET_CPU, MAX_REPLICAS, ParsePhaseError, Phase, Scaling, Terms, TermsError, TermsLimits,
};
pub use tier::{ParseTierError, Tier, TierTerms};

#[cfg(test)]
mod tests;
