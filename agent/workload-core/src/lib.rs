//! What an agent decides about its workloads: no I/O, no clock.
//!
//! [`Life`] says what to do next with one workload; [`environment`] and [`arguments`] say what an unmodified
//! blueprint is told, exactly as the Blueprint Manager would tell it.

mod environment;
mod exit;
mod life;

pub use environment::{Places, arguments, environment, label};
pub use exit::Exit;
pub use life::{Life, PrepareFailed, READY_TIMEOUT, Step};
