//! What a machine does at its hub beside being there. An agent offers services and runs workloads; a program that only
//! opens streams does neither.

use std::fmt;

use blueprint_proto::v1;
use futures_util::StreamExt;
use futures_util::stream::{BoxStream, pending};
use tokio::sync::mpsc;

use crate::join::CallError;

/// What goes to the hub over the control stream. Each stream gives the whole of what holds now, at first and at every
/// change; one that ends changes nothing any more.
pub struct Says {
    /// First message of every stream; its numbers are the spoke's own.
    pub hello: v1::Hello,
    /// All targets.
    pub targets: BoxStream<'static, v1::TargetSet>,
    /// How all workloads are doing.
    pub workloads: BoxStream<'static, v1::WorkloadReport>,
    /// Samples; a full outbox drops the oldest.
    pub samples: mpsc::Receiver<v1::QosReport>,
}

impl Says {
    /// Offers nothing and runs nothing.
    #[must_use]
    pub fn nothing(version: &str) -> Self {
        Self {
            hello: v1::Hello {
                agent_version: version.to_owned(),
                runs_workloads: Some(false),
                ..v1::Hello::default()
            },
            targets: pending().boxed(),
            workloads: pending().boxed(),
            samples: mpsc::channel(1).1,
        }
    }
}

impl fmt::Debug for Says {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Says").field("hello", &self.hello).finish_non_exhaustive()
    }
}

/// What the hub says beside what a spoke needs for itself. Nothing here may block.
pub trait Duties: Send + Sync {
    /// Other targets go out: what was refused before may be accepted now.
    fn offered_anew(&self);

    /// The hub does not accept a target.
    fn refused(&self, refused: v1::TargetRefused);

    /// All workloads that the hub assigns.
    fn assigned(&self, set: v1::WorkloadSet);

    /// The hub wants what a workload wrote; the answer is a call.
    fn logs(&self, request: v1::LogRequest);

    /// The hub is about to open a connection for `exec` or `forward`.
    fn door(&self, ticket: v1::DoorTicket);

    /// What a person can do about a failed call.
    fn hint(&self, error: &CallError) -> Option<String>;
}
