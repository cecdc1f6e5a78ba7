//! Machines of the operator: `providers.ssh.*`.

use std::path::Path;
use std::sync::Arc;

use blueprint_common_types::HubId;
use blueprint_hub_provision_core::Provider;

use crate::config::SshSettings;

/// The hosts of the inventory; connects to none of them. Copies of claims lie in `ssh/` of the hub's state. The hub starts also
/// where the inventory cannot be used as it is: that is logged, and calls tell it until the file is mended.
#[cfg(feature = "provider-ssh")]
pub(super) fn make(settings: &SshSettings, hub: HubId, state: &Path) -> Arc<dyn Provider> {
    use blueprint_hub_provider_ssh::{OwnHosts, SshConfig};

    let config = SshConfig { hub, hosts: state.join(&settings.hosts), dir: state.join("ssh") };
    Arc::new(OwnHosts::open(config))
}

/// Nothing: there are no such settings in this build.
#[cfg(not(feature = "provider-ssh"))]
pub(super) fn make(settings: &SshSettings, _: HubId, _: &Path) -> Arc<dyn Provider> {
    match *settings {}
}
