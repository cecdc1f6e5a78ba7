//! What an agent decides about its workloads: no I/O, no clock.
//!
//! [`Life`] says what to do next with one workload; [`environment()`] and [`arguments`] say what an unmodified
//! blueprint is told, exactly as the Blueprint Manager would tell it. [`archive`] says what of an artefact may be
//! unpacked, [`program`] whether this machine can run it, [`log`] what is kept of what it writes,
//! [`storage`] how much it may keep itself.

pub mod archive;
mod backoff;
mod environment;
mod exit;
mod falls;
mod ladder;
mod life;
pub mod log;
pub mod program;
pub mod storage;

pub use environment::{Places, arguments, environment, label};
pub use exit::Exit;
pub use falls::{Assigned, Falls};
pub use ladder::{Ladder, Rung};
pub use life::{Done, Life, PrepareFailed, READY_TIMEOUT, Step};
