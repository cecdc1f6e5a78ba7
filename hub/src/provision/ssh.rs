//! Machines of the operator: `providers.ssh.*`.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use blueprint_common_types::HubId;
use blueprint_hub_provision_core::Provider;

use crate::config::SshSettings;

/// The hosts of the inventory; connects to none of them. Copies of claims lie in `ssh/` of the hub's state.
///
/// # Errors
///
/// Where the inventory cannot be used as it is.
#[cfg(feature = "provider-ssh")]
pub(super) fn make(settings: &SshSettings, hub: HubId, state: &Path) -> Result<Arc<dyn Provider>> {
    use anyhow::Context;
    use blueprint_hub_provider_ssh::{OwnHosts, SshConfig};

    let config = SshConfig { hub, hosts: state.join(&settings.hosts), dir: state.join("ssh") };
    let hosts = OwnHosts::open(config)
        .context("cannot use providers.ssh.hosts; mend the file, or set providers.ssh.enabled to false")?;
    Ok(Arc::new(hosts))
}

/// Nothing: there are no such settings in this build.
///
/// # Errors
///
/// None.
#[cfg(not(feature = "provider-ssh"))]
pub(super) fn make(settings: &SshSettings, _: HubId, _: &Path) -> Result<Arc<dyn Provider>> {
    match *settings {}
}
