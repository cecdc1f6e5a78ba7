//! Section `providers`: which clouds there are.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use blueprint_common_runtime::config::{Key, Problems, Settings};
use blueprint_hub_provider_sim::{Faults, MAX_REGIONS};
use blueprint_hub_provision_core::catalogue::Offer;
use ipnetwork::Ipv4Network;

use super::aws::AwsSettings;
use super::azure::AzureSettings;
use super::digitalocean::DigitalOceanSettings;
use super::docker::{LocalDockerSettings, RemoteDockerSettings};
use super::equinix;
use super::external::ExternalSettings;
use super::gcp::GcpSettings;
use super::hivelocity::HivelocitySettings;
use super::rest_cloud::{self, RestCloudSettings};
use super::scaleway::ScalewaySettings;
use super::ssh::SshSettings;

pub(super) const SIM: Key = Key::new(
    "providers.sim.enabled",
    "false",
    "Offer the provider sim, whose machines are processes of this host that run real agents and end with the hub; the \
     agent has to lie beside the hub's program.",
);
pub(super) const SIM_FAULTS: Key = Key::new(
    "providers.sim.faults",
    "none",
    "What goes wrong in the simulated cloud, such as seed=7,latency_ms=50,errors=10,lost=5,doubles=20,late_ms=3000,quota=4 (of 100 \
     calls); full=1 leaves the first region without capacity; spot_kill_ms=60000 takes spot machines back after half to all of that time.",
);
pub(super) const SIM_REGIONS: Key = Key::new(
    "providers.sim.regions",
    "1",
    "Regions of the simulated cloud, 1 to 8: local, local-2 and so on, each a bit dearer than the one before.",
);
pub(super) const LOCAL_VM: Key = Key::new(
    "providers.local_vm.enabled",
    "false",
    "Offer the provider local-vm, whose machines boot on this host from providers.local_vm.image and outlive the hub.",
);
pub(super) const LOCAL_VM_IMAGE: Key = Key::unset(
    "providers.local_vm.image",
    "Image of local machines, made by packaging/local-vm-image: a folder for systemd-nspawn (needs root), or a disk for QEMU.",
);
pub(super) const LOCAL_VM_SUBNET: Key = Key::new(
    "providers.local_vm.subnet",
    "10.231.0.0/16",
    "Addresses for local machines, four for each; not used by anything else on this host.",
);
pub(super) const AGENTS: Key = Key::unset(
    "bootstrap.agents",
    "Folder with agents for new machines, one for each kind of processor; without it, or where it has none for this host's \
     kind, the blueprint-agent beside this program is used.",
);

/// Providers that are used with somebody's credentials.
pub(crate) const WITH_ACCOUNT: &[&str] =
    &["aws", "azure", "digitalocean", "gcp", "hivelocity", "linode", "scaleway", "vultr"];

/// Machines that boot on this host.
#[derive(Debug, Clone)]
pub(crate) struct LocalVmSettings {
    pub(crate) image: PathBuf,
    pub(crate) subnet: Ipv4Network,
}

/// The clouds that machines can be ordered of.
#[derive(Debug, Clone)]
pub(crate) struct ProviderSettings {
    /// Faults of the simulated cloud; `None` where there is none.
    pub(crate) sim: Option<Faults>,
    /// Regions of the simulated cloud.
    pub(crate) sim_regions: u32,
    /// Machines of this host; `None` where there are none.
    pub(crate) local_vm: Option<LocalVmSettings>,
    /// Where agents for new machines lie.
    pub(crate) agents: Option<PathBuf>,
    /// DigitalOcean, where it is switched on.
    pub(crate) digitalocean: Option<DigitalOceanSettings>,
    /// Amazon EC2, where it is switched on.
    pub(crate) aws: Option<AwsSettings>,
    /// Linode, where it is switched on.
    pub(crate) linode: Option<RestCloudSettings>,
    /// Vultr, where it is switched on.
    pub(crate) vultr: Option<RestCloudSettings>,
    /// Azure, where it is switched on.
    pub(crate) azure: Option<AzureSettings>,
    /// Google Compute Engine, where it is switched on.
    pub(crate) gcp: Option<GcpSettings>,
    /// Scaleway, where it is switched on.
    pub(crate) scaleway: Option<ScalewaySettings>,
    /// Hivelocity, where it is switched on.
    pub(crate) hivelocity: Option<HivelocitySettings>,
    /// The operator's own machines, where they are switched on.
    pub(crate) ssh: Option<SshSettings>,
    /// Containers of this host's engine, where they are switched on.
    pub(crate) local_docker: Option<LocalDockerSettings>,
    /// Containers of other hosts' engines, where they are switched on.
    pub(crate) docker: Option<RemoteDockerSettings>,
    /// Programs of the operator's that are switched on.
    pub(crate) external: Vec<ExternalSettings>,
}

impl ProviderSettings {
    pub(super) fn take(settings: &Settings, problems: &mut Problems) -> Option<Self> {
        let enabled = settings.take::<bool>(SIM.path, problems);
        let faults = settings.take::<Faults>(SIM_FAULTS.path, problems);
        let regions = settings.take_within(SIM_REGIONS.path, 1..=MAX_REGIONS, problems);
        let agents = settings.take_optional::<PathBuf>(AGENTS.path, problems);
        let (local_vm, digitalocean) =
            (local_vm(settings, problems), DigitalOceanSettings::take(settings, problems));
        let aws = AwsSettings::take(settings, problems);
        let linode = rest_cloud::LINODE.take(settings, problems);
        let vultr = rest_cloud::VULTR.take(settings, problems);
        let azure = AzureSettings::take(settings, problems);
        let gcp = GcpSettings::take(settings, problems);
        let ssh = SshSettings::take(settings, problems);
        let local_docker = LocalDockerSettings::take(settings, problems);
        let docker = RemoteDockerSettings::take(settings, problems);
        let external = ExternalSettings::take(settings, problems);
        let scaleway = ScalewaySettings::take(settings, problems);
        let hivelocity = HivelocitySettings::take(settings, problems);
        let ended = equinix::take(settings, problems);
        Some(Self {
            sim: enabled?.then_some(faults?),
            sim_regions: regions?,
            local_vm: local_vm?,
            digitalocean: digitalocean?,
            aws: aws?,
            linode: linode?,
            vultr: vultr?,
            azure: azure?,
            gcp: gcp?,
            ssh: ssh?,
            local_docker: local_docker?,
            docker: docker?,
            external: external?,
            scaleway: scaleway?,
            hivelocity: hivelocity?,
            agents: ended.map(|()| agents)?,
        })
    }

    /// Their names.
    pub(crate) fn names(&self) -> BTreeSet<String> {
        let others = [
            self.sim.as_ref().map(|_| "sim"),
            self.local_vm.as_ref().map(|_| "local-vm"),
            self.digitalocean.as_ref().map(|_| "digitalocean"),
            self.aws.as_ref().map(|_| "aws"),
            self.linode.as_ref().map(|_| "linode"),
            self.vultr.as_ref().map(|_| "vultr"),
            self.azure.as_ref().map(|_| "azure"),
            self.gcp.as_ref().map(|_| "gcp"),
            self.ssh.as_ref().map(|_| "ssh"),
            self.local_docker.as_ref().map(|_| "local-docker"),
            self.docker.as_ref().map(|_| "docker"),
            self.scaleway.as_ref().map(|_| "scaleway"),
            self.hivelocity.as_ref().map(|_| "hivelocity"),
        ];
        let plugins = self.external.iter().map(ExternalSettings::name);
        others.into_iter().flatten().chain(plugins).map(str::to_owned).collect()
    }

    /// Those that need no credentials, and whether they are switched on; one that ended is among them, for people who look
    /// for it.
    pub(crate) fn without_account(&self) -> BTreeMap<String, bool> {
        let known = ["sim", "local-vm", "ssh", "local-docker", "docker", "external", "equinix"]
            .map(|name| (name.to_owned(), false));
        let on = self.names().into_iter().filter(|name| !WITH_ACCOUNT.contains(&name.as_str()));
        known.into_iter().chain(on.map(|name| (name, true))).collect()
    }

    /// What those of them sell whose prices are known without asking.
    pub(crate) fn own_offers(&self) -> Vec<Offer> {
        let sim = self.sim.iter().flat_map(|_| blueprint_hub_provider_sim::offers(self.sim_regions));
        let local_vm = self.local_vm.iter().flat_map(|_| blueprint_hub_provider_local_vm::offers());
        sim.chain(local_vm).chain(self.local_docker.iter().flat_map(LocalDockerSettings::offers)).collect()
    }

    /// Whether machines hang on links that the hub makes.
    pub(crate) fn makes_links(&self) -> bool {
        self.local_vm.is_some()
    }

    /// Whether machines are ordered that have to fetch the agent.
    pub(crate) fn needs_agents(&self) -> bool {
        // Those of the simulated cloud have theirs from this host.
        self.names().iter().any(|name| name != "sim")
    }
}

fn local_vm(settings: &Settings, problems: &mut Problems) -> Option<Option<LocalVmSettings>> {
    let enabled = settings.take::<bool>(LOCAL_VM.path, problems);
    let image = settings.take_optional::<PathBuf>(LOCAL_VM_IMAGE.path, problems);
    let subnet = settings.take::<Ipv4Network>(LOCAL_VM_SUBNET.path, problems)?;
    if !enabled? {
        return Some(None);
    }
    let Some(image) = image else {
        let why = "not set; packaging/local-vm-image makes an image";
        settings.refuse(LOCAL_VM_IMAGE.path, why, problems);
        return None;
    };
    Some(Some(LocalVmSettings { image, subnet }))
}
