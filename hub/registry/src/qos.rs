//! Quality of service: what is recorded, and the answers to operators, machines and the hub's own parts.
//!
//! One task, the [`Recorder`], looks at the registry each second, takes the samples of agents from the registrar, and
//! writes both to the store. The [`Desk`] answers from the store, the registry and the registrar. It is served as
//! `qos.QosMetrics` on the operator's socket, inside the tunnel and, where that is wanted, on loopback.

mod answers;
mod desk;
mod machines;
mod metrics;
mod pages;
mod recorder;
mod serve;
mod service;

pub use desk::{Desk, DeskParts, QosPages};
pub use metrics::QosMetrics;
pub use pages::PageWatch;
pub(crate) use pages::{KEPT_FOR, KEPT_PAGES, cut};
pub use recorder::{Kept, Recorder, RecorderParts, Sampled, Samples, Sink, samples};
pub(crate) use serve::Renamed;
pub use serve::{serve_local, serve_overlay};
pub(crate) use service::{QosService, Viewer};

#[cfg(test)]
mod tests;
