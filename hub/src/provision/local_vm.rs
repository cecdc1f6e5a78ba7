//! Machines of this host: `providers.local_vm.*`.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use blueprint_hub_provider_local_vm::{LocalVm, LocalVmConfig};

use crate::config::LocalVmSettings;

/// Folder of the machines in the hub's state.
const FOLDER: &str = "local-vm";

/// The provider over the folder in `state`.
///
/// # Errors
///
/// Where no machine could be made.
pub(super) fn make(settings: &LocalVmSettings, state: &Path) -> Result<Arc<LocalVm>> {
    let config =
        LocalVmConfig { dir: state.join(FOLDER), image: settings.image.clone(), subnet: settings.subnet };
    let provider =
        LocalVm::open(config).context("cannot offer providers.local_vm; set its enabled to false, or")?;
    Ok(Arc::new(provider))
}
