//! Containers of Docker engines: `providers.local_docker.*` and `providers.docker.*`.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use blueprint_common_types::HubId;
use blueprint_hub_provision_core::Provider;

use crate::agent_files::AgentShelf;
use crate::config::ProviderSettings;

/// Those that are switched on; connects to none of their engines.
///
/// # Errors
///
/// Where the inventory of engines cannot be used.
#[cfg(feature = "provider-docker")]
pub(super) fn make(
    settings: &ProviderSettings,
    hub: HubId,
    agents: &AgentShelf,
    state: &Path,
) -> Result<Vec<Arc<dyn Provider>>> {
    use anyhow::Context;
    use blueprint_common_engine::Place;
    use blueprint_hub_bootstrap_core::AgentArch;
    use blueprint_hub_provider_docker::{
        AgentProgram, Docker, DockerConfig, EngineHost, Patience, read_inventory,
    };
    use blueprint_hub_provision_core::resource::Arch;

    let agents = agents.programs().map(|(arch, path, is_static)| {
        let arch = match arch {
            AgentArch::X86_64 => Arch::X86_64,
            AgentArch::Aarch64 => Arch::Arm64,
        };
        (arch, AgentProgram { path, is_static })
    });
    let agents: std::collections::BTreeMap<_, _> = agents.collect();
    let made = |name, hosts, image: &Option<String>| -> Arc<dyn Provider> {
        let (image, agents) = (image.clone(), agents.clone());
        Arc::new(Docker::new(DockerConfig { name, hub, hosts, image, agents, patience: Patience::default() }))
    };
    let mut providers = Vec::new();
    if let Some(local) = &settings.local_docker {
        // These clouds may give the hub its credentials by the metadata service of its host.
        let clouds = [
            ("aws", settings.aws.is_some()),
            ("azure", settings.azure.is_some()),
            ("gcp", settings.gcp.is_some()),
        ];
        for (cloud, _) in clouds.iter().filter(|(_, is_on)| *is_on) {
            tracing::warn!(
                provider = "local-docker",
                cloud,
                "containers of this host reach its metadata service, and with it the credentials of the hub where they come from \
                 there; close it to them by the rules in docs/docker.md, or set providers.local_docker.enabled to false"
            );
        }
        let host = EngineHost { region: "local".to_owned(), place: Place::unix(&local.socket) };
        providers.push(made("local-docker", vec![host], &local.image));
    }
    if let Some(remote) = &settings.docker {
        let hosts = read_inventory(&state.join(&remote.hosts)).context(
            "cannot offer providers.docker; mend providers.docker.hosts, or set its enabled to false",
        )?;
        providers.push(made("docker", hosts, &remote.image));
    }
    Ok(providers)
}

/// Nothing: there are no such settings in this build.
#[cfg(not(feature = "provider-docker"))]
pub(super) fn make(
    settings: &ProviderSettings,
    _: HubId,
    _: &AgentShelf,
    _: &Path,
) -> Result<Vec<Arc<dyn Provider>>> {
    match (&settings.local_docker, &settings.docker) {
        (Some(local), _) => match *local {},
        (None, Some(remote)) => match *remote {},
        (None, None) => Ok(Vec::new()),
    }
}
