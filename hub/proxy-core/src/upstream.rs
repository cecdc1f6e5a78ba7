//! Which target of a service gets a request, and what happens once one fails.
//!
//! - [`Upstreams`] knows how many requests each target has open and how it answered lately. It picks
//!   the less loaded of two targets drawn by weight, so that no herd runs to the one that looked idle.
//! - A target that fails several times in a row is *ejected*: it gets nothing for a while, then one
//!   request as a probe. At most half of the targets are ejected, so never the only one.
//! - Where no connection to any target opens, the *circuit* of the service opens: requests are refused
//!   at once, and one is let through now and then to see whether that is over.
//! - A budget bounds how many requests are sent a second time, so that repetition cannot
//!   bring down what is merely slow.
//!
//! Ejection is for what the way of one request can show of a target; the registry's own checks stay in
//! force, and a target that they call healthy again starts anew.

mod ages;
mod breaker;
mod budget;
mod choice;
mod settings;
mod upstreams;

pub use ages::LASTING;
pub use settings::{DEFAULT_WEIGHT, UpstreamSettings};
pub use upstreams::{Event, Load, Outcome, OverBudget, Picked, Upstreams, Wanted};
