//! Sections `artefacts` and `workloads`: what is kept of what the hub runs.

use std::time::Duration;

use blueprint_common_runtime::config::{ByteSize, Key, Problems, Settings};
use blueprint_hub_admin::ArtefactLimits;
use blueprint_hub_registry::WorkloadRules;
use blueprint_hub_registry_core::workload::KEPT_VERSIONS;

/// How long a node may be away before its workloads go to another one.
const FAILOVER: Duration = Duration::from_secs(15);

pub(super) const KEEP_VERSIONS: Key = Key::new(
    "workloads.keep_versions",
    "10",
    "How many versions of a service are kept, 2 to 50, those in use among them; `rollback` goes back to any of them. The \
     oldest go first, and the audit log says which.",
);

/// What is kept of what the hub runs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WorkloadSettings {
    pub(crate) artefacts: ArtefactLimits,
    keep_versions: usize,
}

impl WorkloadSettings {
    /// Takes the sections; what cannot be used is a problem.
    pub(super) fn take(settings: &Settings, problems: &mut Problems) -> Option<Self> {
        let artefacts = artefact_limits(settings, problems);
        let keep_versions = settings.take_within(KEEP_VERSIONS.path, KEPT_VERSIONS, problems);
        Some(Self { artefacts: artefacts?, keep_versions: keep_versions? })
    }

    /// What the task of workloads goes by; what is open at a replica that leaves its node may last for `drain`.
    pub(crate) const fn rules(&self, drain: Duration) -> WorkloadRules {
        WorkloadRules { patience: FAILOVER, keep_versions: self.keep_versions, drain }
    }
}

fn artefact_limits(settings: &Settings, problems: &mut Problems) -> Option<ArtefactLimits> {
    let one = settings.take::<ByteSize>("artefacts.max_bytes", problems);
    let all = settings.take::<ByteSize>("artefacts.max_total_bytes", problems);
    let limits = ArtefactLimits { one: one?.0, all: all?.0 };
    if limits.one > limits.all {
        settings.refuse("artefacts.max_bytes", "more than artefacts.max_total_bytes", problems);
        return None;
    }
    Some(limits)
}
