//! The tasks of the provisioner against clouds and stores in memory, on a clock that jumps.
#![expect(clippy::unwrap_used, reason = "helpers of tests stand outside test functions")]

mod costs;
mod leader;
mod memory;
mod scaling;
