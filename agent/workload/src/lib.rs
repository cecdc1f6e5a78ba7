//! The workloads of one agent: fetched, checked, started, supervised and ended.
//!
//! `blueprint-agent-workload-core` decides; this crate does it, on this machine.

mod artefact;

pub use artefact::{
    Artefact, ArtefactConfig, ArtefactError, Artefacts, NativeArtefact, OpenError, Progress, Pushed,
    PushedError,
};
