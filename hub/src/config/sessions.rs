//! Sections `exec` and `forward`: what the operator may begin beside and through workloads.

use blueprint_common_runtime::config::{Key, Problems, Settings};
use blueprint_hub_admin::SessionGates;

pub(super) const EXEC: Key = Key::new(
    "exec.enabled",
    "false",
    "Whether the operator may run commands beside workloads (`blueprint-hub exec`). A [[session]] of the policy and the node's \
     agent.toml have to allow it, too.",
);
pub(super) const FORWARD: Key = Key::new(
    "forward.enabled",
    "false",
    "Whether the operator may open forwards to services and nodes (`blueprint-hub forward`). A [[session]] of the policy has to \
     allow it, too, and for ports of a node its agent.toml.",
);

/// Takes both keys.
pub(super) fn take(settings: &Settings, problems: &mut Problems) -> Option<SessionGates> {
    let exec = settings.take::<bool>(EXEC.path, problems);
    let forward = settings.take::<bool>(FORWARD.path, problems);
    Some(SessionGates { exec: exec?, forward: forward? })
}
