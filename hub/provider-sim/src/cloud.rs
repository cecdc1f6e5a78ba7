//! The cloud: machines by their folders.

use std::collections::BTreeMap;
use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use blueprint_common_types::{Micros, Timestamp};
use blueprint_hub_provision_core::catalogue::Offer;
use blueprint_hub_provision_core::lifecycle::Rate;
use blueprint_hub_provision_core::{
    Instance, InstanceKey, InstanceSpec, InstanceState, Listing, Provider, ProviderError,
};
use futures_util::future::{BoxFuture, join_all};
use tokio::sync::OwnedMutexGuard;
use tracing::{info, warn};

use crate::faults::{Faults, Trouble};
use crate::folder::{self, Folder, MAKING, REMOVED};
use crate::label::Label;
use crate::machine::{Machine, Programs};
use crate::user_data::UserData;

/// The one place of this cloud.
const REGION: &str = "local";

/// Kinds of machines: processors, MiB, GB of disk, and the price of an hour in millionths of a dollar. All are processes of
/// one host; only the price and what is said of them differ.
const PLANS: [(&str, (u32, u64), u32, u64); 3] = [
    ("sim-small", (1, 1024), 20, 5000),
    ("sim-medium", (2, 4096), 40, 10_000),
    ("sim-large", (4, 8192), 80, 20_000),
];

/// What a machine that may be taken back costs, in percent of one that may not.
const SPOT_PERCENT: u64 = 40;

/// Most regions that this cloud can have.
pub const MAX_REGIONS: u32 = 8;

/// What this cloud sells in so many regions; each is dearer than the one before it by a fifth of the first one's price.
#[must_use]
pub fn offers(regions: u32) -> Vec<Offer> {
    let offer = |number: u32, &(plan, size, disk_gb, hourly): &(&str, (u32, u64), u32, u64)| {
        let hourly = Micros::new(hourly).share(u64::from(number) + 4, 5);
        let spot = Some(hourly.share(SPOT_PERCENT, 100));
        Offer { disk_gb, spot, ..Offer::live("sim", plan, &region(number), size, hourly) }
    };
    (1..=regions.clamp(1, MAX_REGIONS))
        .flat_map(|number| PLANS.iter().map(move |plan| offer(number, plan)))
        .collect()
}

/// The region of this number.
fn region(number: u32) -> String {
    if number <= 1 { REGION.to_owned() } else { format!("{REGION}-{number}") }
}

/// What a simulated cloud needs to know.
#[derive(Debug, Clone)]
pub struct SimConfig {
    /// Folder that gets `machines/`; made at the first creation.
    pub dir: PathBuf,
    /// The agent, run in the machine's folder as `blueprint-agent run --config PATH --state state --exit-on-stdin-close`.
    pub agent_binary: PathBuf,
    /// The example service; without it machines run and offer no service.
    pub service_binary: Option<PathBuf>,
    /// What goes wrong.
    pub faults: Faults,
    /// Regions, from 1 to [`MAX_REGIONS`]: the first is called `local`, the others `local-2` and so on.
    pub regions: u32,
}

/// One machine of this process of the hub; `None` while nothing of it runs.
#[derive(Debug, Default)]
struct Slot {
    machine: Arc<tokio::sync::Mutex<Option<Machine>>>,
    /// What the holder of the lock is at; means nothing while nobody holds it.
    is_stopping: AtomicBool,
}

/// A cloud whose machines are processes of this host; see the crate's documentation for their folders.
///
/// Its own call besides those of [`Provider`] is [`Self::stop_all`]. Dropping it kills every process it started.
#[derive(Debug)]
pub struct SimCloud {
    machines: PathBuf,
    programs: Programs,
    slots: Mutex<BTreeMap<String, Arc<Slot>>>,
    faults: Mutex<Trouble>,
    regions: u32,
}

impl SimCloud {
    /// A cloud over the machines that lie in `config.dir`; starts none of them.
    #[must_use]
    pub fn new(config: SimConfig) -> Self {
        // An agent must find its folder from wherever it looks.
        let machines = config.dir.join("machines");
        // Of machines that a killed process had begun to make or to delete.
        for left in [MAKING, REMOVED].map(|name| config.dir.join(name)) {
            if let Err(error) = std::fs::remove_dir_all(&left)
                && error.kind() != io::ErrorKind::NotFound
            {
                warn!(path = %left.display(), %error, "what is left of machines is not removed from the disk");
            }
        }
        Self {
            machines: std::path::absolute(&machines).unwrap_or(machines),
            programs: Programs { agent: config.agent_binary, service: config.service_binary },
            slots: Mutex::default(),
            faults: Mutex::new(Trouble::new(config.faults)),
            regions: config.regions,
        }
    }

    /// Ends the processes of every machine and keeps the folders, all machines at once: at most 3 s for the
    /// agents and 3 s for the services.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves some machines running; calling it again stops them.
    pub async fn stop_all(&self) {
        let names = self.slots().keys().cloned().collect::<Vec<_>>();
        join_all(names.iter().map(|name| self.switch_off(name))).await;
    }

    async fn boot_one(&self, name: &str) -> Result<(), ProviderError> {
        let (slot, mut machine) = self.lock(name).await;
        slot.is_stopping.store(false, Ordering::Relaxed);
        let folder = self.folder(name);
        if key_of(name).is_none() || folder.created_at().await.map_err(other("boot"))?.is_none() {
            self.forget(name);
            return Err(ProviderError::Reject { reason: format!("there is no machine {name}") });
        }
        if let Some(booted) = machine.as_mut() {
            match booted.state().await {
                InstanceState::Running => return Ok(()),
                InstanceState::Starting
                | InstanceState::Stopping
                | InstanceState::Stopped
                | InstanceState::Halted
                | InstanceState::Unfinished
                | InstanceState::Failed { .. } => booted.stop().await,
            }
            *machine = None;
        }
        let data = UserData::parse(folder.user_data().await.map_err(other("boot"))?.expose())?;
        let joins = !folder.has_joined().await.map_err(other("boot"))?;
        if !joins {
            folder::remove_file(&folder.join_line()).await.map_err(other("boot"))?;
        }
        self.power_on(name, &mut machine, &data, joins).await
    }

    async fn switch_off(&self, name: &str) {
        let (slot, mut machine) = self.lock(name).await;
        slot.is_stopping.store(true, Ordering::Relaxed);
        if let Some(booted) = machine.as_mut() {
            booted.stop().await;
        }
        *machine = None;
    }

    async fn list_all(&self) -> io::Result<Vec<Instance>> {
        let mut entries = match tokio::fs::read_dir(&self.machines).await {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut instances = Vec::new();
        while let Some(entry) = entries.next_entry().await? {
            // What is not named like a machine is none of ours.
            let file_name = entry.file_name();
            let Some((name, key)) = file_name.to_str().and_then(|name| Some((name, key_of(name)?))) else {
                continue;
            };
            // It may be deleted between the two looks.
            let folder = self.folder(name);
            if let Some(created_at) = folder.created_at().await? {
                let label = folder.label().await?;
                instances.push(Instance {
                    key,
                    provider_id: provider_id(name),
                    tags: label.tags(),
                    state: self.state(name).await?,
                    created_at,
                });
            }
        }
        instances.sort_by(|one, other| one.provider_id.cmp(&other.provider_id));
        Ok(instances)
    }

    async fn list_seen(&self) -> Result<Listing, ProviderError> {
        self.trouble("list").await?;
        let now = Timestamp::from(SystemTime::now());
        self.take_back(now).await?;
        let mut instances = self.list_all().await.map_err(other("list"))?;
        let faults = self.faults().faults();
        instances.retain(|instance| now.since(instance.created_at) >= faults.lateness(&instance.provider_id));
        Ok(Listing { instances, cloud_time: Some(now) })
    }

    /// Ends spot machines whose time is over.
    async fn take_back(&self, now: Timestamp) -> Result<(), ProviderError> {
        let faults = self.faults().faults();
        if faults.spot_kill.is_none() {
            return Ok(());
        }
        for instance in self.list_all().await.map_err(other("list"))? {
            let is_due = faults
                .spot_life(&instance.provider_id)
                .is_some_and(|life| now.since(instance.created_at) >= life);
            let name = name_of(&instance.provider_id);
            if is_due && self.folder(name).label().await.map_err(other("list"))?.spot {
                info!(target: "audit", provider = "sim", instance = name, "spot machine taken back");
                self.remove(name).await?;
            }
        }
        Ok(())
    }

    async fn state(&self, name: &str) -> io::Result<InstanceState> {
        let slot = Arc::clone(self.slots().entry(name.to_owned()).or_default());
        let Ok(mut machine) = slot.machine.try_lock() else {
            let is_stopping = slot.is_stopping.load(Ordering::Relaxed);
            return Ok(if is_stopping { InstanceState::Stopping } else { InstanceState::Starting });
        };
        Ok(match machine.as_mut() {
            Some(machine) => machine.state().await,
            // While the slot is locked, nothing that could be taken for it is started.
            None if self.folder(name).is_in_use().await? => InstanceState::Stopping,
            None => InstanceState::Stopped,
        })
    }

    fn sells_in(&self, name: &str) -> bool {
        (1..=self.regions.clamp(1, MAX_REGIONS)).any(|number| region(number) == name)
    }

    /// Whether a region has no capacity.
    fn is_full(&self, name: &str) -> bool {
        (1..=self.faults().faults().full.min(MAX_REGIONS)).any(|number| region(number) == name)
    }

    async fn create_one(&self, spec: &InstanceSpec) -> Result<Instance, ProviderError> {
        let data = UserData::parse(spec.user_data.expose())?;
        if !self.sells_in(&spec.region) || !PLANS.iter().any(|(plan, ..)| *plan == spec.plan) {
            return Err(ProviderError::NotSold { what: format!("{} in {}", spec.plan, spec.region) });
        }
        self.trouble("create").await?;
        if self.is_full(&spec.region) {
            return Err(ProviderError::Capacity { what: format!("{} in {}", spec.plan, spec.region) });
        }
        let name = self.name_for(spec).await?;
        let (slot, mut machine) = self.lock(&name).await;
        slot.is_stopping.store(false, Ordering::Relaxed);
        let folder = self.folder(&name);
        if machine.is_none() && !folder.is_booted().await.map_err(other("create"))? {
            let label = Label::of(spec);
            folder.make(&spec.user_data, &data.join_line, &label).await.map_err(other("create"))?;
            self.power_on(&name, &mut machine, &data, true).await?;
            info!(target: "audit", provider = "sim", instance = %spec.key, "instance created");
        }
        let instance = self.describe(&name, &spec.key, &mut machine).await?;
        if self.faults().loses() {
            return Err(ProviderError::Other { call: "create", source: "the answer was lost".into() });
        }
        Ok(instance)
    }

    /// The folder of a new machine: that of its key, unless the cloud is at fault and makes a second one.
    async fn name_for(&self, spec: &InstanceSpec) -> Result<String, ProviderError> {
        let own = spec.key.as_str().to_owned();
        let all = self.list_all().await.map_err(other("create"))?;
        let same = all.iter().filter(|instance| instance.key == spec.key).count();
        let name = if same > 0 && self.faults().doubles() { format!("{own}~{}", same + 1) } else { own };
        let is_new = !all.iter().any(|instance| instance.provider_id == provider_id(&name));
        match self.faults().faults().quota {
            Some(quota) if is_new && all.len() >= quota => {
                Err(ProviderError::Quota { what: "machines".to_owned(), limit: u64::try_from(quota).ok() })
            }
            Some(_) | None => Ok(name),
        }
    }

    async fn delete_one(&self, name: &str) -> Result<(), ProviderError> {
        self.trouble("delete").await?;
        if key_of(name).is_none() {
            return Ok(());
        }
        self.remove(name).await?;
        info!(target: "audit", provider = "sim", instance = name, "instance deleted");
        Ok(())
    }

    async fn remove(&self, name: &str) -> Result<(), ProviderError> {
        let (slot, mut machine) = self.lock(name).await;
        slot.is_stopping.store(true, Ordering::Relaxed);
        if let Some(booted) = machine.as_mut() {
            booted.stop().await;
        }
        *machine = None;
        self.folder(name).remove().await.map_err(other("delete"))?;
        self.forget(name);
        Ok(())
    }

    /// Waits as long as the faults say, and fails where they say so.
    async fn trouble(&self, call: &'static str) -> Result<(), ProviderError> {
        let (latency, failure) = self.faults().next(call);
        tokio::time::sleep(latency).await;
        failure.map_or(Ok(()), Err)
    }

    async fn power_on(
        &self,
        name: &str,
        machine: &mut Option<Machine>,
        data: &UserData,
        joins: bool,
    ) -> Result<(), ProviderError> {
        let folder = self.folder(name);
        let booted = Machine::boot(&self.programs, &folder, data, joins).await.map_err(other("boot"))?;
        *machine = Some(booted);
        folder.mark_booted().await.map_err(other("boot"))
    }

    async fn describe(
        &self,
        name: &str,
        key: &InstanceKey,
        machine: &mut Option<Machine>,
    ) -> Result<Instance, ProviderError> {
        let folder = self.folder(name);
        let created_at = folder.created_at().await.map_err(other("describe"))?.unwrap_or_default();
        let tags = folder.label().await.map_err(other("describe"))?.tags();
        let state = match machine {
            Some(machine) => machine.state().await,
            None => InstanceState::Stopped,
        };
        Ok(Instance { key: key.clone(), provider_id: provider_id(name), tags, state, created_at })
    }

    /// Waits until nothing else happens to the machine.
    async fn lock(&self, name: &str) -> (Arc<Slot>, OwnedMutexGuard<Option<Machine>>) {
        loop {
            let slot = Arc::clone(self.slots().entry(name.to_owned()).or_default());
            let machine = Arc::clone(&slot.machine).lock_owned().await;
            // A deletion may have thrown the slot away in the meantime.
            if self.slots().get(name).is_some_and(|current| Arc::ptr_eq(current, &slot)) {
                return (slot, machine);
            }
        }
    }

    /// Throws away the slot of a machine that does not exist; its lock is held.
    fn forget(&self, name: &str) {
        self.slots().remove(name);
    }

    fn slots(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Arc<Slot>>> {
        // The map is whole between any two statements, so a panic elsewhere does not spoil it.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn faults(&self) -> std::sync::MutexGuard<'_, Trouble> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn folder(&self, name: &str) -> Folder {
        Folder::new(self.machines.join(Path::new(name)))
    }
}

impl Provider for SimCloud {
    fn name(&self) -> &'static str {
        "sim"
    }

    /// Its calls are answered by this host, and nobody counts them.
    fn rate(&self) -> Rate {
        Rate { per_second: 50, burst: 50 }
    }

    fn offers(&self) -> BoxFuture<'_, Result<Vec<Offer>, ProviderError>> {
        Box::pin(async { Ok(offers(self.regions)) })
    }

    fn list(&self) -> BoxFuture<'_, Result<Listing, ProviderError>> {
        Box::pin(self.list_seen())
    }

    fn create<'a>(&'a self, spec: &'a InstanceSpec) -> BoxFuture<'a, Result<Instance, ProviderError>> {
        Box::pin(self.create_one(spec))
    }

    fn delete<'a>(&'a self, provider_id: &'a str) -> BoxFuture<'a, Result<(), ProviderError>> {
        Box::pin(self.delete_one(name_of(provider_id)))
    }

    fn boot<'a>(&'a self, provider_id: &'a str) -> BoxFuture<'a, Result<(), ProviderError>> {
        Box::pin(async move {
            self.trouble("boot").await?;
            self.boot_one(name_of(provider_id)).await
        })
    }

    fn stop<'a>(&'a self, provider_id: &'a str) -> BoxFuture<'a, Result<(), ProviderError>> {
        Box::pin(async move {
            self.trouble("stop").await?;
            let name = name_of(provider_id);
            if key_of(name).is_none()
                || self.folder(name).created_at().await.map_err(other("stop"))?.is_none()
            {
                return Err(ProviderError::Reject { reason: format!("there is no machine {name}") });
            }
            self.switch_off(name).await;
            Ok(())
        })
    }
}

/// What this cloud calls the machine in the folder `name`.
fn provider_id(name: &str) -> String {
    format!("sim/{name}")
}

/// The folder of a machine; what no machine is called leads to no folder of one.
fn name_of(provider_id: &str) -> &str {
    provider_id.strip_prefix("sim/").unwrap_or_default()
}

/// The key of the machine in the folder `name`: `KEY`, or `KEY~2` for one that was made twice.
fn key_of(name: &str) -> Option<InstanceKey> {
    let (key, again) = name.split_once('~').unwrap_or((name, "2"));
    again.parse::<u32>().ok()?;
    key.parse().ok()
}

fn other<E: Error + Send + Sync + 'static>(call: &'static str) -> impl FnOnce(E) -> ProviderError {
    move |error| ProviderError::Other { call, source: Box::new(error) }
}
