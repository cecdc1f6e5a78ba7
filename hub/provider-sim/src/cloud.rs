//! The cloud: machines by key.

use std::collections::BTreeMap;
use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use blueprint_common_types::Timestamp;
use blueprint_hub_provision_core::{
    Instance, InstanceKey, InstanceSpec, InstanceState, Provider, ProviderError,
};
use futures_util::future::{BoxFuture, join_all};
use tokio::sync::OwnedMutexGuard;
use tracing::info;

use crate::folder::{self, Folder};
use crate::machine::{Machine, Programs};
use crate::user_data::UserData;

/// What a simulated cloud needs to know.
#[derive(Debug, Clone)]
pub struct SimConfig {
    /// Folder that gets `machines/`; made at the first creation.
    pub dir: PathBuf,
    /// The agent, run as `blueprint-agent run --config PATH --state PATH --exit-on-stdin-close`.
    pub agent_binary: PathBuf,
    /// The example service; without it machines run and offer no service.
    pub service_binary: Option<PathBuf>,
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
/// Its own calls besides those of [`Provider`] are [`Self::boot`] and [`Self::stop_all`]: like any cloud it
/// can switch a machine off and on. Dropping it kills every process it started.
#[derive(Debug)]
pub struct SimCloud {
    machines: PathBuf,
    programs: Programs,
    slots: Mutex<BTreeMap<InstanceKey, Arc<Slot>>>,
}

impl SimCloud {
    /// A cloud over the machines that lie in `config.dir`; starts none of them.
    #[must_use]
    pub fn new(config: SimConfig) -> Self {
        // An agent must find its folder from wherever it looks.
        let machines = config.dir.join("machines");
        Self {
            machines: std::path::absolute(&machines).unwrap_or(machines),
            programs: Programs { agent: config.agent_binary, service: config.service_binary },
            slots: Mutex::default(),
        }
    }

    /// Boots a machine that exists and does not run, with the identity its agent got when it joined; one that
    /// runs is left alone. The join line is gone after this, unless the agent was never started with it.
    ///
    /// # Errors
    ///
    /// [`ProviderError::Reject`] where there is no such machine, `Other` where a process does not start.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the machine as it was or stopped.
    pub async fn boot(&self, key: &InstanceKey) -> Result<Instance, ProviderError> {
        let (slot, mut machine) = self.lock(key).await;
        slot.is_stopping.store(false, Ordering::Relaxed);
        let folder = self.folder(key);
        if folder.created_at().await.map_err(other("boot"))?.is_none() {
            self.forget(key);
            return Err(ProviderError::Reject { reason: format!("there is no machine {key}") });
        }
        if let Some(booted) = machine.as_mut() {
            match booted.state().await {
                InstanceState::Running => return self.describe(key, &mut machine).await,
                InstanceState::Starting
                | InstanceState::Stopping
                | InstanceState::Stopped
                | InstanceState::Failed { .. } => booted.stop().await,
            }
            *machine = None;
        }
        let data = UserData::parse(folder.user_data().await.map_err(other("boot"))?.expose())?;
        let joins = !folder.is_booted().await.map_err(other("boot"))?;
        if !joins {
            folder::remove_file(&folder.join_line()).await.map_err(other("boot"))?;
        }
        self.power_on(key, &mut machine, &data, joins).await
    }

    /// Ends the processes of every machine and keeps the folders, all machines at once: at most 3 s for the
    /// agents and 3 s for the services.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves some machines running; calling it again stops them.
    pub async fn stop_all(&self) {
        let keys = self.slots().keys().cloned().collect::<Vec<_>>();
        join_all(keys.iter().map(|key| async move {
            let (slot, mut machine) = self.lock(key).await;
            slot.is_stopping.store(true, Ordering::Relaxed);
            if let Some(booted) = machine.as_mut() {
                booted.stop().await;
            }
            *machine = None;
        }))
        .await;
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
            let Some(key) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            // It may be deleted between the two looks.
            if let Some(created_at) = self.folder(&key).created_at().await? {
                let state = self.state(&key).await;
                instances.push(instance(key, state, created_at));
            }
        }
        instances.sort_by(|one, other| one.key.cmp(&other.key));
        Ok(instances)
    }

    async fn state(&self, key: &InstanceKey) -> InstanceState {
        let Some(slot) = self.slots().get(key).map(Arc::clone) else { return InstanceState::Stopped };
        let Ok(mut machine) = slot.machine.try_lock() else {
            let is_stopping = slot.is_stopping.load(Ordering::Relaxed);
            return if is_stopping { InstanceState::Stopping } else { InstanceState::Starting };
        };
        match machine.as_mut() {
            Some(machine) => machine.state().await,
            None => InstanceState::Stopped,
        }
    }

    async fn create_one(&self, spec: &InstanceSpec) -> Result<Instance, ProviderError> {
        let data = UserData::parse(spec.user_data.expose())?;
        let (slot, mut machine) = self.lock(&spec.key).await;
        slot.is_stopping.store(false, Ordering::Relaxed);
        let folder = self.folder(&spec.key);
        if machine.is_some() || folder.is_booted().await.map_err(other("create"))? {
            return self.describe(&spec.key, &mut machine).await;
        }
        folder.make(&spec.user_data, &data.join_line).await.map_err(other("create"))?;
        let instance = self.power_on(&spec.key, &mut machine, &data, true).await?;
        info!(target: "audit", provider = "sim", instance = %spec.key, "instance created");
        Ok(instance)
    }

    async fn delete_one(&self, key: &InstanceKey) -> Result<(), ProviderError> {
        let (slot, mut machine) = self.lock(key).await;
        slot.is_stopping.store(true, Ordering::Relaxed);
        if let Some(booted) = machine.as_mut() {
            booted.stop().await;
        }
        *machine = None;
        self.folder(key).remove().await.map_err(other("delete"))?;
        self.forget(key);
        info!(target: "audit", provider = "sim", instance = %key, "instance deleted");
        Ok(())
    }

    async fn power_on(
        &self,
        key: &InstanceKey,
        machine: &mut Option<Machine>,
        data: &UserData,
        joins: bool,
    ) -> Result<Instance, ProviderError> {
        let folder = self.folder(key);
        let booted = Machine::boot(&self.programs, &folder, data, joins).await.map_err(other("boot"))?;
        *machine = Some(booted);
        folder.mark_booted().await.map_err(other("boot"))?;
        self.describe(key, machine).await
    }

    async fn describe(
        &self,
        key: &InstanceKey,
        machine: &mut Option<Machine>,
    ) -> Result<Instance, ProviderError> {
        let created_at = self.folder(key).created_at().await.map_err(other("describe"))?.unwrap_or_default();
        let state = match machine {
            Some(machine) => machine.state().await,
            None => InstanceState::Stopped,
        };
        Ok(instance(key.clone(), state, created_at))
    }

    /// Waits until nothing else happens to the machine.
    async fn lock(&self, key: &InstanceKey) -> (Arc<Slot>, OwnedMutexGuard<Option<Machine>>) {
        loop {
            let slot = Arc::clone(self.slots().entry(key.clone()).or_default());
            let machine = Arc::clone(&slot.machine).lock_owned().await;
            // A deletion may have thrown the slot away in the meantime.
            if self.slots().get(key).is_some_and(|current| Arc::ptr_eq(current, &slot)) {
                return (slot, machine);
            }
        }
    }

    /// Throws away the slot of a machine that does not exist; its lock is held.
    fn forget(&self, key: &InstanceKey) {
        self.slots().remove(key);
    }

    fn slots(&self) -> std::sync::MutexGuard<'_, BTreeMap<InstanceKey, Arc<Slot>>> {
        // The map is whole between any two statements, so a panic elsewhere does not spoil it.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn folder(&self, key: &InstanceKey) -> Folder {
        Folder::new(self.machines.join(Path::new(key.as_str())))
    }
}

impl Provider for SimCloud {
    fn name(&self) -> &'static str {
        "sim"
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<Instance>, ProviderError>> {
        Box::pin(async { self.list_all().await.map_err(other("list")) })
    }

    fn create<'a>(&'a self, spec: &'a InstanceSpec) -> BoxFuture<'a, Result<Instance, ProviderError>> {
        Box::pin(self.create_one(spec))
    }

    fn delete<'a>(&'a self, key: &'a InstanceKey) -> BoxFuture<'a, Result<(), ProviderError>> {
        Box::pin(self.delete_one(key))
    }
}

fn instance(key: InstanceKey, state: InstanceState, created_at: Timestamp) -> Instance {
    Instance { provider_id: format!("sim/{key}"), key, state, created_at }
}

fn other<E: Error + Send + Sync + 'static>(call: &'static str) -> impl FnOnce(E) -> ProviderError {
    move |error| ProviderError::Other { call, source: Box::new(error) }
}
