//! The provider: machines by their folders.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use blueprint_common_types::{Micros, Timestamp};
use blueprint_hub_provision_core::catalogue::Offer;
use blueprint_hub_provision_core::resource::Arch;
use blueprint_hub_provision_core::{
    Instance, InstanceKey, InstanceSpec, InstanceState, Listing, Provider, ProviderError,
};
use futures_util::future::BoxFuture;
use ipnetwork::Ipv4Network;
use tracing::{info, warn};

use crate::folder::{Folder, Label, write};
use crate::network::Addresses;
use crate::nspawn::Nspawn;
use crate::process::Process;
use crate::qemu::Qemu;

/// Name of the provider.
const NAME: &str = "local-vm";

/// The one place of this cloud.
const REGION: &str = "local";

/// Kinds of machines: processors, MiB, GB of disk, and the price of an hour in millionths of a dollar. Nobody bills them; the price
/// keeps them comparable, and below every cloud's. Machines of nspawn share the host and are not held to their size.
const PLANS: [(&str, (u32, u64), u32, u64); 3] = [
    ("local-small", (1, 1024), 10, 1000),
    ("local-medium", (2, 2048), 20, 2000),
    ("local-large", (4, 8192), 40, 4000),
];

/// Machines at most: the host is one.
const MAX_MACHINES: usize = 64;

/// What this provider sells.
#[must_use]
pub fn offers() -> Vec<Offer> {
    let offer = |&(plan, size, disk_gb, hourly): &(&str, (u32, u64), u32, u64)| Offer {
        disk_gb,
        ..Offer::live(NAME, plan, REGION, size, Micros::new(hourly))
    };
    PLANS.iter().map(offer).collect()
}

/// What machines of this host are made of.
#[derive(Debug, Clone)]
pub struct LocalVmConfig {
    /// Folder that gets `machines/`; made at the first creation.
    pub dir: PathBuf,
    /// The image: a folder for systemd-nspawn, a disk for QEMU with its kernel and initial file system beside it.
    pub image: PathBuf,
    /// Addresses for machines, four for each.
    pub subnet: Ipv4Network,
    /// What this host reaches and its machines must not, such as the hub's overlay.
    pub closed: Vec<Ipv4Network>,
}

/// Machines cannot be made here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OpenError {
    /// A part of the image is not there.
    NoImage(PathBuf),
    /// The image is a folder, and this process is not root.
    NotRoot,
}

impl std::fmt::Display for OpenError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoImage(path) => {
                write!(f, "{} is not there; `packaging/local-vm-image` makes an image", path.display())
            }
            Self::NotRoot => {
                write!(f, "an image that is a folder needs root (systemd-nspawn); a disk for QEMU does not")
            }
        }
    }
}

impl std::error::Error for OpenError {}

#[derive(Debug)]
enum Backend {
    Nspawn(Nspawn),
    Qemu(Qemu),
}

/// Machines on this host; see the crate's documentation for their folders.
#[derive(Debug)]
pub struct LocalVm {
    machines: PathBuf,
    backend: Backend,
    locks: Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<()>>>>,
    /// Held while a number in the network is chosen.
    numbers: tokio::sync::Mutex<()>,
}

impl LocalVm {
    /// A provider over the machines that lie in `config.dir`; starts none of them.
    ///
    /// # Errors
    ///
    /// [`OpenError`] where no machine could be made.
    pub fn open(config: LocalVmConfig) -> Result<Self, OpenError> {
        let image = std::path::absolute(&config.image).unwrap_or(config.image);
        let addresses = Addresses { subnet: config.subnet, closed: config.closed };
        let backend = if image.is_dir() {
            if !nix::unistd::geteuid().is_root() {
                return Err(OpenError::NotRoot);
            }
            Backend::Nspawn(Nspawn { image, addresses })
        } else {
            let qemu = Qemu::new(image, nix::unistd::geteuid().is_root().then_some(addresses));
            if let Some(path) = qemu.missing() {
                return Err(OpenError::NoImage(path.to_owned()));
            }
            Backend::Qemu(qemu)
        };
        let machines = config.dir.join("machines");
        let machines = std::path::absolute(&machines).unwrap_or(machines);
        sweep(&machines);
        Ok(Self { machines, backend, locks: Mutex::default(), numbers: tokio::sync::Mutex::default() })
    }

    fn folder(&self, name: &str) -> Folder {
        Folder::new(self.machines.join(name))
    }

    async fn lock(&self, name: &str) -> tokio::sync::OwnedMutexGuard<()> {
        let lock = {
            let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
            locks.retain(|_, lock| Arc::strong_count(lock) > 1);
            Arc::clone(locks.entry(name.to_owned()).or_default())
        };
        lock.lock_owned().await
    }

    /// Machines that exist, with what they were ordered as.
    async fn labels(&self) -> io::Result<Vec<(String, Label)>> {
        let mut entries = match tokio::fs::read_dir(&self.machines).await {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut found = Vec::new();
        while let Some(entry) = entries.next_entry().await? {
            let name = entry.file_name().to_string_lossy().into_owned();
            if let Some(label) = self.folder(&name).label().await? {
                found.push((name, label));
            }
        }
        found.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(found)
    }

    async fn create_one(&self, spec: &InstanceSpec) -> Result<Instance, ProviderError> {
        let plan = PLANS.iter().find(|plan| plan.0 == spec.plan);
        let what = || format!("{} in {}", spec.plan, spec.region);
        if plan.is_none() || spec.region != REGION || spec.spot || spec.arch != Arch::X86_64 {
            return Err(ProviderError::NotSold { what: what() });
        }
        if spec.tags.is_none() {
            return Err(ProviderError::Reject { reason: "it carries no tags of this hub".to_owned() });
        }
        let name = spec.key.as_str();
        let _lock = self.lock(name).await;
        let folder = self.folder(name);
        let label = match folder.label().await.map_err(other("create"))? {
            Some(label) => label,
            None => self.order(&folder, spec).await?,
        };
        if Process::read(&folder.process()).is_none() {
            self.power_on(&folder, name, &label).await?;
            info!(machine = name, "local machine boots");
        }
        instance(&folder, name, &label)
            .ok_or_else(|| ProviderError::Reject { reason: format!("{name} is no name of a machine") })
    }

    /// Writes down a new machine with a number that no other has.
    async fn order(&self, folder: &Folder, spec: &InstanceSpec) -> Result<Label, ProviderError> {
        let _numbers = self.numbers.lock().await;
        let labels = self.labels().await.map_err(other("create"))?;
        if labels.len() >= MAX_MACHINES {
            let limit = u64::try_from(MAX_MACHINES).ok();
            return Err(ProviderError::Quota { what: "machines on this host".to_owned(), limit });
        }
        let taken: BTreeSet<u32> = labels.iter().map(|(_, label)| label.index).collect();
        let index = (0..).find(|index| !taken.contains(index)).unwrap_or_default();
        let label = Label::of(spec, index, Timestamp::from(SystemTime::now()));
        // What an interrupted removal left.
        folder.remove().await.map_err(other("create"))?;
        folder.make(spec.key.as_str(), &label, &spec.user_data).await.map_err(other("create"))?;
        Ok(label)
    }

    async fn power_on(&self, folder: &Folder, name: &str, label: &Label) -> Result<(), ProviderError> {
        tokio::fs::remove_file(folder.stopped()).await.or_else(absent).map_err(other("boot"))?;
        let size = PLANS.iter().find(|plan| plan.0 == label.plan).map_or((1, 1024), |plan| plan.1);
        let started = match &self.backend {
            Backend::Nspawn(nspawn) => nspawn.power_on(folder, name, label).await,
            Backend::Qemu(qemu) => qemu.power_on(folder, label, size).await,
        };
        started.map_err(other("boot"))
    }

    async fn boot_one(&self, name: &str) -> Result<(), ProviderError> {
        let _lock = self.lock(name).await;
        let folder = self.folder(name);
        let label = self.known(&folder, name).await?;
        if Process::read(&folder.process()).is_some() {
            return Ok(());
        }
        self.power_on(&folder, name, &label).await
    }

    async fn stop_one(&self, name: &str) -> Result<(), ProviderError> {
        let _lock = self.lock(name).await;
        let folder = self.folder(name);
        self.known(&folder, name).await?;
        let Some(process) = Process::read(&folder.process()) else { return Ok(()) };
        // So that it is not taken for one that ended by itself.
        write(&folder.stopped(), b"").await.map_err(other("stop"))?;
        let stopped = match &self.backend {
            Backend::Nspawn(nspawn) => nspawn.power_off(process).await,
            Backend::Qemu(_) => Qemu::power_off(&folder, process).await,
        };
        stopped.map_err(other("stop"))
    }

    async fn known(&self, folder: &Folder, name: &str) -> Result<Label, ProviderError> {
        let is_name = name.parse::<InstanceKey>().is_ok();
        let label = if is_name { folder.label().await.map_err(other("read"))? } else { None };
        label.ok_or_else(|| ProviderError::Reject { reason: format!("there is no machine {name}") })
    }

    async fn delete_one(&self, name: &str) -> Result<(), ProviderError> {
        if name.parse::<InstanceKey>().is_err() {
            return Ok(());
        }
        let _lock = self.lock(name).await;
        let folder = self.folder(name);
        let process = Process::read(&folder.process());
        let label = folder.label().await.map_err(other("delete"))?;
        if let Some(process) = process {
            let cut = match &self.backend {
                Backend::Nspawn(_) => Nspawn::cut_off(process).await,
                Backend::Qemu(_) => Qemu::cut_off(process).await,
            };
            cut.map_err(other("delete"))?;
        }
        let cleaned = match &self.backend {
            Backend::Nspawn(_) => Nspawn::clean(&folder).await,
            Backend::Qemu(qemu) => qemu.clean(&folder).await,
        };
        cleaned.map_err(other("delete"))?;
        folder.remove().await.map_err(other("delete"))?;
        if label.is_some() {
            info!(machine = name, "local machine removed");
        }
        Ok(())
    }
}

fn instance(folder: &Folder, name: &str, label: &Label) -> Option<Instance> {
    let state = if Process::read(&folder.process()).is_some() {
        InstanceState::Running
    } else if folder.process().exists() && !folder.stopped().exists() {
        InstanceState::Failed { reason: "it ended by itself, or with its host".to_owned() }
    } else {
        InstanceState::Stopped
    };
    Some(Instance {
        key: name.parse().ok()?,
        provider_id: name.to_owned(),
        tags: label.tags(),
        state,
        created_at: label.created_at(),
    })
}

/// Removes what interrupted creations and removals left: folders that are no machines, with nothing of them running.
fn sweep(machines: &Path) {
    let entries = std::fs::read_dir(machines).into_iter().flatten().flatten().map(|entry| entry.path());
    for path in entries {
        let folder = Folder::new(path.clone());
        if path.join("machine.json").exists() || Process::read(&folder.process()).is_some() {
            continue;
        }
        if let Err(error) = std::fs::remove_dir_all(&path) {
            warn!(path = %path.display(), %error, "what is left of a machine is not removed");
        }
    }
}

fn absent(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

fn other(call: &'static str) -> impl Fn(io::Error) -> ProviderError {
    move |error| ProviderError::Other { call, source: error.into() }
}

impl Provider for LocalVm {
    fn name(&self) -> &'static str {
        NAME
    }

    fn offers(&self) -> BoxFuture<'_, Result<Vec<Offer>, ProviderError>> {
        Box::pin(async { Ok(offers()) })
    }

    fn list(&self) -> BoxFuture<'_, Result<Listing, ProviderError>> {
        Box::pin(async {
            let labels = self.labels().await.map_err(other("list"))?;
            let machines =
                labels.iter().filter_map(|(name, label)| instance(&self.folder(name), name, label)).collect();
            Ok(Listing { instances: machines, cloud_time: None })
        })
    }

    fn create<'a>(&'a self, spec: &'a InstanceSpec) -> BoxFuture<'a, Result<Instance, ProviderError>> {
        Box::pin(self.create_one(spec))
    }

    fn delete<'a>(&'a self, provider_id: &'a str) -> BoxFuture<'a, Result<(), ProviderError>> {
        Box::pin(self.delete_one(provider_id))
    }

    fn have_joined(&self, provider_ids: &[&str]) {
        for name in provider_ids.iter().filter(|name| name.parse::<InstanceKey>().is_ok()) {
            match self.folder(name).forget_user_data() {
                Ok(true) => info!(machine = name, "user data of a machine that has joined are wiped"),
                Ok(false) => {}
                Err(error) => {
                    warn!(machine = name, %error, "user data of a machine that has joined are not wiped")
                }
            }
        }
    }

    fn boot<'a>(&'a self, provider_id: &'a str) -> BoxFuture<'a, Result<(), ProviderError>> {
        Box::pin(self.boot_one(provider_id))
    }

    fn stop<'a>(&'a self, provider_id: &'a str) -> BoxFuture<'a, Result<(), ProviderError>> {
        Box::pin(self.stop_one(provider_id))
    }
}
