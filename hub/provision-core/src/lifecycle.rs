//! The lives of machines that the hub orders, from the intent to the day its cloud confirms twice that it is gone.
//!
//! ```text
//!            no capacity, refused                      2 lists without it
//!  planned ----------------------> failed    created ----------------------> lost
//!     |  ^                                   active -/
//!     |  | nothing was done
//!     v  |                 made or found            its agent joined
//!  calling ---------------------------> created ------------------------> active
//!     |                                    |                                 |
//!     |  terminated, late, not wanted      v                                 |
//!     +--------------------------------> deleting <--------------------------+
//!                                          |  2 lists without it
//!                                          v
//!                                         gone
//! ```
//!
//! Invariants:
//! - a record is stored as `calling` before its cloud is called, and its key is the cloud's request key and tag;
//! - a call whose answer was lost is looked up before it is made again;
//! - a machine that carries this hub's tag and that no live record wants is removed; one that does not carry it is
//!   never touched;
//! - a record ends only when its cloud listed without it twice, some time apart.
//!
//! [`Reconciler`] decides; it is told the time, the records and what clouds list, and gives [`Action`]s. Whoever
//! carries them out stores what an action says before it makes the call of it.

mod clock;
mod deployer;
mod deployment;
mod offers;
mod pace;
mod reconciler;
mod record;
mod store;

pub use clock::{ClockWatch, MAX_CLOCK_STEP};
pub use deployer::{Cloud, DeployError, Deployer, Hold, Order, Overview};
pub use deployment::{
    Deployment, DeploymentId, ParseDeploymentIdError, ParseSpreadError, ParseWantedError, Spread, Wanted,
};
pub use offers::{OfferBlocks, block_time};
pub use pace::{Backoff, Breaker, Bucket, Dice, Rate};
pub use reconciler::{Action, Alarm, CreateAnswer, Reconciler, Settings, View, Why};
pub use record::{ParseRecordStateError, Record, RecordState};
pub use store::{
    Begun, BoundToken, CreateDeploymentError, Event, LifecycleStore, Records, RecordsError, RecordsResult,
};

#[cfg(test)]
mod model;
#[cfg(test)]
pub(crate) use reconciler::tests;
