//! Machines of this host: `providers.local_vm.*`.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use blueprint_hub_provider_local_vm::{LocalVm, LocalVmConfig};
use ipnetwork::Ipv4Network;

use crate::config::LocalVmSettings;

/// Folder of the machines in the hub's state.
const FOLDER: &str = "local-vm";

/// The provider over the folder in `state`; its machines do not reach `closed`.
///
/// # Errors
///
/// Where no machine could be made.
pub(super) fn make(settings: &LocalVmSettings, closed: &[Ipv4Network], state: &Path) -> Result<Arc<LocalVm>> {
    let config = LocalVmConfig {
        dir: state.join(FOLDER),
        image: settings.image.clone(),
        subnet: settings.subnet,
        closed: closed.to_vec(),
    };
    let provider =
        LocalVm::open(config).context("cannot offer providers.local_vm; set its enabled to false, or")?;
    Ok(Arc::new(provider))
}
