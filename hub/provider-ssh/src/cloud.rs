//! The provider: hosts of the inventory by their claims.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use blueprint_common_types::{HubId, Secret, Timestamp};
use blueprint_hub_provision_core::catalogue::Offer;
use blueprint_hub_provision_core::{
    Instance, InstanceKey, InstanceSpec, InstanceState, Listing, Provider, ProviderError,
};
use futures_util::future::BoxFuture;
use futures_util::stream::{self, StreamExt};
use tokio::sync::{OwnedRwLockWriteGuard, RwLock, Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout, timeout_at};
use tracing::{error, info, warn};

use crate::NAME;
use crate::claim::{Claim, Copies, Place};
use crate::error::HostError;
use crate::inventory::{Inventory, MAX_HOSTS, OwnHost};
use crate::look::{AT_ONCE, probe};
use crate::order;
use crate::probe::Found;
use crate::transport::{Said, Ssh};

/// How long one thing may take on a host: with the wait for its turn, a little less than the hub waits for a call.
const ACT_WITHIN: Duration = Duration::from_secs(24);

/// How long a call waits for a host that something else is done on.
const TURN_WITHIN: Duration = Duration::from_secs(3);

/// Until when hosts are asked anew for one list; the last of them may take their time after it.
const ASK_WITHIN: Duration = Duration::from_secs(18);

/// Which hosts there are.
#[derive(Debug, Clone)]
pub struct SshConfig {
    /// The hub that orders.
    pub hub: HubId,
    /// The inventory; read again at each call, so that hosts come and go without a restart.
    pub hosts: PathBuf,
    /// Folder for the copies of claims and files of known hosts; made when it is needed.
    pub dir: PathBuf,
}

/// The operator's machines.
#[derive(Debug)]
pub struct OwnHosts {
    config: SshConfig,
    ssh: Ssh,
    copies: Copies,
    /// Who asks a host reads, who does something on it writes.
    locks: Mutex<BTreeMap<String, Arc<RwLock<()>>>>,
    at_once: Semaphore,
    /// What was last logged of each host, so that it is logged once.
    told: Mutex<BTreeMap<String, String>>,
}

impl OwnHosts {
    /// A provider over the hosts of `config.hosts`; connects to none of them. A file that cannot be used as it is is logged here,
    /// and told by each call until it is mended.
    #[must_use]
    pub fn open(config: SshConfig) -> Self {
        let dir = std::path::absolute(&config.dir).unwrap_or_else(|_| config.dir.clone());
        let hosts = Self {
            ssh: Ssh::new(dir.join("known_hosts")),
            copies: Copies::new(dir.join("claims")),
            locks: Mutex::default(),
            at_once: Semaphore::new(AT_ONCE),
            told: Mutex::default(),
            config,
        };
        let _is_told = hosts.inventory("open");
        hosts
    }

    fn inventory(&self, call: &'static str) -> Result<Inventory, ProviderError> {
        Inventory::read(&self.config.hosts).inspect(|_| self.untell("")).map_err(|error| {
            let reason = error.to_string();
            self.tell("", &reason, true);
            // Whoever asks for offers is told at once; all else goes on once the file is mended.
            if call == "offers" { ProviderError::Reject { reason } } else { ProviderError::Busy { reason } }
        })
    }

    fn lock(&self, host: &str) -> Arc<RwLock<()>> {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        locks.retain(|_, lock| Arc::strong_count(lock) > 1);
        Arc::clone(locks.entry(host.to_owned()).or_default())
    }

    /// Waits for a host to be free for one thing, and not for long: who asked comes again.
    async fn turn(&self, host: &OwnHost) -> Result<Turn<'_>, HostError> {
        let both = async {
            let lock = self.lock(host.name()).write_owned().await;
            Ok(Turn { _lock: lock, _one: self.at_once.acquire().await.map_err(|_| ended())? })
        };
        timeout(TURN_WITHIN, both).await.unwrap_or_else(|_| Err(busy()))
    }

    /// Runs a script as root on a host whose turn it is.
    async fn act(
        &self,
        _turn: &Turn<'_>,
        host: &OwnHost,
        script: &Secret<String>,
    ) -> Result<Said, HostError> {
        self.ssh.run(host, script, true, ACT_WITHIN).await
    }

    /// Asks a host what there is on it, unless something is done on it just now, or it would be too late after `until`.
    async fn ask(&self, host: &OwnHost, until: Instant) -> Result<Found, HostError> {
        let Ok(one) = timeout_at(until, self.at_once.acquire()).await else {
            return Err(HostError::Busy { said: "other hosts took too long to be asked".to_owned() });
        };
        let _one = one.map_err(|_| ended())?;
        let _lock = self.lock(host.name()).try_read_owned().map_err(|_| busy())?;
        let found = probe(&self.ssh, host).await;
        match found.as_ref().map(|found| &found.unfit) {
            Ok(None) => self.untell(host.name()),
            Ok(Some(error)) | Err(error) => {
                let is_loud = matches!(error, HostError::HostKey);
                self.tell(host.name(), &error.to_string(), is_loud);
            }
        }
        found
    }

    /// Asks every host what there is on it.
    async fn probe_all(&self, inventory: &Inventory) -> Vec<(OwnHost, Result<Found, HostError>)> {
        let until = Instant::now() + ASK_WITHIN;
        let ask = |host: OwnHost| async move {
            let found = self.ask(&host, until).await;
            (host, found)
        };
        // All at once wait for their turns, of which there are few.
        stream::iter(inventory.hosts().cloned()).map(ask).buffer_unordered(MAX_HOSTS).collect().await
    }

    /// Logs what is wrong with a host, once.
    fn tell(&self, host: &str, text: &str, is_loud: bool) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.get(host).is_some_and(|known| known == text) {
            return;
        }
        told.insert(host.to_owned(), text.to_owned());
        drop(told);
        if is_loud {
            error!(provider = NAME, host, error = text, "host refused");
        } else {
            warn!(provider = NAME, host, error = text, "host cannot be used");
        }
    }

    fn untell(&self, host: &str) {
        let known = self.told.lock().unwrap_or_else(PoisonError::into_inner).remove(host);
        if known.is_some() {
            info!(provider = NAME, host, "host can be used again");
        }
    }

    async fn free(&self) -> Result<Vec<Offer>, ProviderError> {
        let inventory = self.inventory("offers")?;
        let copies = self.copies.all().await.map_err(other("offers"))?;
        let (mut offers, mut reasons, mut is_wrong) = (Vec::new(), Vec::new(), false);
        for (host, found) in self.probe_all(&inventory).await {
            let why = match found {
                Ok(Found { claim: Some((claim, _)), .. }) => format!("has the machine {}", claim.key),
                Ok(Found { unfit: Some(error), .. }) | Err(error) => {
                    is_wrong |= matches!(error, HostError::HostKey);
                    error.to_string()
                }
                // What is cleaned up with the next list.
                Ok(_) if copies.contains_key(host.name()) => "is being claimed".to_owned(),
                Ok(_) => {
                    offers.push(host.offer());
                    continue;
                }
            };
            reasons.push(format!("{}: {why}", host.name()));
        }
        offers.sort_by(|a, b| (a.on_demand, &a.plan).cmp(&(b.on_demand, &b.plan)));
        if !offers.is_empty() {
            return Ok(offers);
        }
        reasons.sort();
        let what = if reasons.is_empty() {
            format!("an own host: {} has none", self.config.hosts.display())
        } else {
            format!("an own host: {}", reasons.join("; "))
        };
        if is_wrong {
            Err(ProviderError::Reject { reason: what })
        } else {
            Err(ProviderError::Capacity { what })
        }
    }

    async fn listing(&self) -> Result<Listing, ProviderError> {
        let inventory = self.inventory("list")?;
        let found = self.probe_all(&inventory).await;
        let mut copies = self.copies.all().await.map_err(other("list"))?;
        let places = Places::of(self.config.hub, &copies, &found);
        let mut instances = Vec::new();
        for (host, found) in found {
            let copy = copies.remove(host.name());
            instances.extend(self.judge(&host, found, copy, &places).await?);
        }
        for (name, claim) in copies.into_iter().filter(|(name, _)| inventory.host(name).is_none()) {
            warn!(
                provider = NAME,
                host = name,
                machine = %claim.key,
                "host is not in the inventory any more; what is installed on it stays there"
            );
            self.copies.remove(&name).await.map_err(other("list"))?;
        }
        instances.sort_by(|a, b| a.provider_id.cmp(&b.provider_id));
        Ok(Listing { instances, cloud_time: None })
    }

    /// The machine on a host, by what it says and what this hub knows; the copy is made to agree with it.
    async fn judge(
        &self,
        host: &OwnHost,
        found: Result<Found, HostError>,
        copy: Option<Claim>,
        places: &Places,
    ) -> Result<Option<Instance>, ProviderError> {
        let name = host.name();
        let claim = match found {
            // Nothing says that it is gone: it counts as it was, and its agent tells whether it is well.
            Err(_) => return Ok(copy.map(|claim| claim.instance(name, InstanceState::Running))),
            Ok(found) => found.claim,
        };
        let Some((claim, state)) = claim else {
            if copy.is_some() {
                self.copies.remove(name).await.map_err(other("list"))?;
            }
            return Ok(None);
        };
        if claim.tags.hub != self.config.hub {
            return Ok(Some(claim.instance(name, state)));
        }
        let is_known = copy.as_ref().is_some_and(|copy| copy.is_same(&claim));
        if !is_known {
            let is_own = copy.as_ref().is_some_and(|copy| copy.key == claim.key);
            if !is_own && let Some(other) = places.other(&claim.key, name) {
                let text = format!(
                    "it claims to be the machine {}, which is on the host {other}: see that the inventory has each machine once",
                    claim.key
                );
                self.tell(name, &text, true);
                return Ok(None);
            }
            self.copies.write(name, &claim).await.map_err(other("list"))?;
        }
        Ok(Some(claim.instance(name, state)))
    }

    async fn create_one(&self, spec: &InstanceSpec) -> Result<Instance, ProviderError> {
        let inventory = self.inventory("create")?;
        let what = || format!("{} in {}", spec.plan, spec.region);
        let sold = inventory.host(&spec.plan).filter(|host| {
            host.region == spec.region && host.arch == spec.arch && host.disk_gb >= spec.disk_gb && !spec.spot
        });
        let host = sold.ok_or_else(|| ProviderError::NotSold { what: what() })?;
        let tags = spec.tags.clone().filter(|tags| tags.hub == self.config.hub);
        let tags = tags
            .ok_or_else(|| ProviderError::Reject { reason: "it carries no tags of this hub".to_owned() })?;
        let created_at = Timestamp::from(SystemTime::now());
        let claim = Claim { key: spec.key.clone(), tags, created_at };
        let script = order::install(host, &claim, &spec.user_data)
            .map_err(|reason| ProviderError::Reject { reason })?;
        let turn = self.turn(host).await.map_err(|error| error.told("create", host, true))?;
        let known = self.copies.all().await.map_err(unsent("create"))?.remove(host.name());
        match &known {
            Some(other) if other.key != claim.key => {
                let by = format!("by the machine {} of this hub", other.key);
                return Err(HostError::Taken { by }.told("create", host, true));
            }
            Some(_) => {}
            None => self.copies.write(host.name(), &claim).await.map_err(unsent("create"))?,
        }
        match self.act(&turn, host, &script).await {
            Ok(said) => {
                let there = Claim::read(said.all("claim").iter().map(String::as_str));
                // What stands may be of an earlier call; another order's it is not, as the script has seen to.
                let claim = there
                    .filter(|there| there.key == claim.key && there.tags.hub == claim.tags.hub)
                    .unwrap_or(claim);
                self.copies.write(host.name(), &claim).await.map_err(other("create"))?;
                info!(provider = NAME, host = host.name(), machine = %claim.key, "host claimed");
                Ok(claim.instance(host.name(), InstanceState::Starting))
            }
            Err(error) => {
                if error.is_harmless() && known.is_none() {
                    self.copies.remove(host.name()).await.map_err(other("create"))?;
                }
                self.tell(host.name(), &error.to_string(), matches!(error, HostError::HostKey));
                Err(error.told("create", host, true))
            }
        }
    }

    async fn delete_one(&self, provider_id: &str) -> Result<(), ProviderError> {
        let Some(place) = Place::read(provider_id) else { return Ok(()) };
        let inventory = self.inventory("delete")?;
        let Some(host) = inventory.host(&place.host) else {
            warn!(
                provider = NAME,
                host = place.host,
                machine = %place.key,
                "host is not in the inventory any more; what is installed on it stays there"
            );
            return Ok(());
        };
        let turn = self.turn(host).await.map_err(|error| error.told("delete", host, false))?;
        let script = order::remove(&self.config.hub.to_string(), &place);
        self.act(&turn, host, &script).await.map_err(|error| {
            self.tell(host.name(), &error.to_string(), matches!(error, HostError::HostKey));
            error.told("delete", host, false)
        })?;
        let copy = self.copies.all().await.map_err(other("delete"))?.remove(host.name());
        if copy.is_some_and(|claim| place.is_of(&claim)) {
            self.copies.remove(host.name()).await.map_err(other("delete"))?;
            info!(provider = NAME, host = host.name(), machine = %place.key, "host is free again");
        }
        Ok(())
    }

    async fn switch(&self, call: &'static str, provider_id: &str, on: bool) -> Result<(), ProviderError> {
        let unknown = || ProviderError::Reject { reason: format!("there is no machine {provider_id}") };
        let place = Place::read(provider_id).ok_or_else(unknown)?;
        let inventory = self.inventory(call)?;
        let host = inventory.host(&place.host).ok_or_else(unknown)?;
        let turn = self.turn(host).await.map_err(|error| error.told(call, host, false))?;
        let script = order::switch(&self.config.hub.to_string(), &place, on);
        self.act(&turn, host, &script).await.map(|_| ()).map_err(|error| error.told(call, host, false))
    }
}

/// Every host that a machine of this hub may be on: by the copies, and by what the hosts of one list say, whichever answered first.
#[derive(Debug, Default)]
struct Places(BTreeMap<InstanceKey, BTreeSet<String>>);

impl Places {
    fn of(
        hub: HubId,
        copies: &BTreeMap<String, Claim>,
        found: &[(OwnHost, Result<Found, HostError>)],
    ) -> Self {
        let said = found.iter().filter_map(|(host, found)| {
            let (claim, _) = found.as_ref().ok()?.claim.as_ref()?;
            (claim.tags.hub == hub).then_some((host.name(), claim))
        });
        let mut places = Self::default();
        for (host, claim) in copies.iter().map(|(host, claim)| (host.as_str(), claim)).chain(said) {
            places.0.entry(claim.key.clone()).or_default().insert(host.to_owned());
        }
        places
    }

    /// A host other than `host` that the machine may be on.
    fn other(&self, key: &InstanceKey, host: &str) -> Option<&str> {
        self.0.get(key)?.iter().map(String::as_str).find(|other| *other != host)
    }
}

/// The right to do one thing on a host.
#[derive(Debug)]
struct Turn<'a> {
    _lock: OwnedRwLockWriteGuard<()>,
    _one: SemaphorePermit<'a>,
}

fn busy() -> HostError {
    HostError::Busy { said: "this hub does something else on it just now".to_owned() }
}

fn ended() -> HostError {
    HostError::Busy { said: "this hub ends".to_owned() }
}

/// A file of the hub failed before the host was asked for anything.
fn unsent(call: &'static str) -> impl Fn(std::io::Error) -> ProviderError {
    move |error| ProviderError::Unsent { call, source: error.into() }
}

fn other(call: &'static str) -> impl Fn(std::io::Error) -> ProviderError {
    move |error| ProviderError::Other { call, source: error.into() }
}

impl Provider for OwnHosts {
    fn name(&self) -> &'static str {
        NAME
    }

    fn offers(&self) -> BoxFuture<'_, Result<Vec<Offer>, ProviderError>> {
        Box::pin(self.free())
    }

    fn list(&self) -> BoxFuture<'_, Result<Listing, ProviderError>> {
        Box::pin(self.listing())
    }

    fn create<'a>(&'a self, spec: &'a InstanceSpec) -> BoxFuture<'a, Result<Instance, ProviderError>> {
        Box::pin(self.create_one(spec))
    }

    fn delete<'a>(&'a self, provider_id: &'a str) -> BoxFuture<'a, Result<(), ProviderError>> {
        Box::pin(self.delete_one(provider_id))
    }

    fn boot<'a>(&'a self, provider_id: &'a str) -> BoxFuture<'a, Result<(), ProviderError>> {
        Box::pin(self.switch("boot", provider_id, true))
    }

    fn stop<'a>(&'a self, provider_id: &'a str) -> BoxFuture<'a, Result<(), ProviderError>> {
        Box::pin(self.switch("stop", provider_id, false))
    }
}

#[cfg(test)]
mod tests;
