//! Carries out what the reconciler decides about ordered machines.
//!
//! One task, the [`Leader`], owns the reconciler. Each cloud has a lane: it is listed, what that calls for is done, and
//! then it is listed again; lanes do not wait for each other. What is stored and what is called comes from the
//! reconciler's actions; here are rates, retries, time limits, breakers, logs and counts.
//!
//! Invariants:
//! - a lane is listed only while none of its calls is under way;
//! - a record is stored before the call that it allows;
//! - a call that makes a machine is repeated here only where nothing was done.

mod calls;
mod clock;
mod costs;
mod handle;
mod host;
mod lane;
mod leader;
mod metrics;
mod prices;
mod scaling;

pub use costs::{CostOffice, CostWatch, Courier, Received, cost_watch};
pub use handle::Provisioner;
pub use host::Host;
pub use leader::{Leader, ProvisionConfig};
pub use prices::{PriceLists, PriceOffice};
pub use scaling::{Meter, Reading, ScaleConfig, ScaleOffice, ScaleWatch, scale_watch};
