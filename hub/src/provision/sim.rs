//! The simulated cloud: `providers.sim.*`.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use blueprint_hub_provider_sim::{Faults, SimCloud, SimConfig};

use super::beside;

/// Folder of the simulated cloud in the hub's state.
const FOLDER: &str = "sim";

/// The cloud over the folder in `state`.
///
/// # Errors
///
/// Where the agent's program is missing.
pub(super) fn make(faults: Faults, regions: u32, state: &Path) -> Result<Arc<SimCloud>> {
    let agent_binary = beside("blueprint-agent")?.context(
        "providers.sim.enabled needs the program blueprint-agent beside this one; put it there, or set it to false",
    )?;
    Ok(Arc::new(SimCloud::new(SimConfig {
        dir: state.join(FOLDER),
        agent_binary,
        service_binary: beside("blueprint-example-service")?,
        faults,
        regions,
    })))
}
