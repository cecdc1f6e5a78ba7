//! The provider: machines by the containers of engines.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use blueprint_common_engine::Place;
use blueprint_common_types::Secret;
use blueprint_common_types::{HubId, Timestamp};
use blueprint_hub_provider_kit::unordered;
use blueprint_hub_provision_core::catalogue::Offer;
use blueprint_hub_provision_core::lifecycle::Rate;
use blueprint_hub_provision_core::resource::Arch;
use blueprint_hub_provision_core::{
    CloudCall, Instance, InstanceSpec, InstanceState, Listing, Provider, ProviderError, Tags,
};
use futures_util::future::BoxFuture;
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::timeout;
use tracing::{info, warn};

use crate::api::{Api, Made, is_id};
use crate::archive::{Archive, Body};
use crate::engine::Engine;
use crate::image;
use crate::machine::{FOLDER, Row, USER, container, name};
use crate::order::Order;
use crate::plans::{Plan, offers_on};

/// Machines of one hub at one engine at most.
const MAX_MACHINES: usize = 64;

/// Time that an agent gets to end its workloads before it is killed.
const GRACE: Duration = Duration::from_secs(20);

/// How long a call waits for another one that changes the same engine.
const TURN: Duration = Duration::from_secs(15);

/// One engine.
#[derive(Debug, Clone)]
pub struct EngineHost {
    /// The region that its machines are in: 1 to 63 of a-z, 0-9 and '-'.
    pub region: String,
    /// Where it listens.
    pub place: Place,
}

/// The program of the agent for one kind of processor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentProgram {
    /// Where it lies on this host.
    pub path: PathBuf,
    /// Whether it needs nothing but the kernel, so that machines need no image.
    pub is_static: bool,
}

/// How long calls may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// Questions, which are answered from memory.
    pub ask: Duration,
    /// Making, starting, stopping and removing, which touch disks and kernels; longer than an agent's time to end.
    pub change: Duration,
    /// What moves much: images, and the agent's program.
    pub transfer: Duration,
}

impl Default for Patience {
    /// 10 s, a minute, 10 minutes.
    fn default() -> Self {
        Self {
            ask: Duration::from_secs(10),
            change: Duration::from_secs(60),
            transfer: Duration::from_secs(600),
        }
    }
}

/// What machines are made of, and where.
#[derive(Debug, Clone)]
pub struct DockerConfig {
    /// Name of the provider: `local-docker` or `docker`.
    pub name: &'static str,
    /// Whose machines they are.
    pub hub: HubId,
    /// The engines, each a region.
    pub hosts: Vec<EngineHost>,
    /// Image of the machines, which has the C library that the agent needs; `None` for none, with a static agent.
    pub image: Option<String>,
    /// Agents by processor.
    pub agents: BTreeMap<Arch, AgentProgram>,
    /// How long calls may take.
    pub patience: Patience,
}

/// Machines that are containers.
pub struct Docker {
    config: DockerConfig,
    engines: BTreeMap<String, Site>,
}

/// An engine, and whose turn it is.
struct Site {
    engine: Engine,
    /// Held while containers of this hub appear there and while what they share is removed.
    changing: Mutex<()>,
}

impl Site {
    /// Waits until no other call changes this engine.
    async fn turn(&self) -> Result<MutexGuard<'_, ()>, ProviderError> {
        let reason = || format!("the engine on {} is at another machine", self.engine.place);
        timeout(TURN, self.changing.lock()).await.map_err(|_| ProviderError::Busy { reason: reason() })
    }
}

impl fmt::Debug for Docker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Docker").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Docker {
    /// A provider over engines; connects to none of them.
    #[must_use]
    pub fn new(config: DockerConfig) -> Self {
        let engine = |host: &EngineHost| {
            let engine = Engine { place: host.place.clone(), ask: config.patience.ask };
            (host.region.clone(), Site { engine, changing: Mutex::default() })
        };
        let engines = config.hosts.iter().map(engine).collect();
        Self { config, engines }
    }

    async fn api<'e>(&self, site: &'e Site) -> Result<Api<'e>, ProviderError> {
        Api::of(&site.engine, self.config.patience).await
    }

    /// The engine and the container that a machine's name says.
    fn split<'a>(&self, provider_id: &'a str) -> Result<(&Site, &'a str), ProviderError> {
        let Some((region, id)) = provider_id.split_once('/').filter(|(_, id)| is_id(id)) else {
            let reason = format!(
                "{provider_id:?} is no name of a machine here: REGION/ID was expected, with an id of a container"
            );
            return Err(ProviderError::Reject { reason });
        };
        let site = self.engines.get(region).ok_or_else(|| ProviderError::Reject {
            reason: format!("no engine is configured for the region {region} any more; name it again to manage its machines"),
        })?;
        Ok((site, id))
    }

    /// The container of a machine of this hub.
    async fn own(&self, api: &Api<'_>, id: &str) -> Result<Option<Row>, ProviderError> {
        let Some(row) = api.find(id).await? else { return Ok(None) };
        if row.hub() == Some(self.config.hub) {
            return Ok(Some(row));
        }
        Err(ProviderError::Reject {
            reason: format!("the container {} is not a machine of this hub", short(id)),
        })
    }

    async fn list_all(&self) -> Result<Listing, ProviderError> {
        let mut listing = Listing::default();
        for (region, site) in &self.engines {
            let (rows, time) = self.api(site).await?.containers(None).await?;
            listing.instances.extend(rows.iter().filter_map(|row| row.instance(region)));
            listing.cloud_time = listing.cloud_time.or(time);
        }
        Ok(listing)
    }

    async fn offers_all(&self) -> Result<Vec<Offer>, ProviderError> {
        let mut offers = Vec::new();
        for (region, site) in &self.engines {
            let api = self.api(site).await?;
            let machine = api.machine().await?;
            if let Some(arch) = api.arch {
                offers.extend(offers_on(self.config.name, region, arch, &machine));
            }
        }
        offers.sort_by(|a, b| (a.on_demand, &a.plan, &a.region).cmp(&(b.on_demand, &b.plan, &b.region)));
        Ok(offers)
    }

    async fn create_one(&self, spec: &InstanceSpec) -> Result<Instance, ProviderError> {
        let order = self.checked(spec)?;
        let api = self.api(order.site).await.map_err(unordered)?;
        if api.arch != Some(spec.arch) {
            let reason = format!("the engine of {} has no processors of {}", spec.region, spec.arch);
            return Err(ProviderError::Reject { reason });
        }
        let patience = self.config.patience;
        let wanted = self.config.image.as_deref();
        // An image of the operator's stays, and may take long; the empty one is removed with the last machine.
        let ensured = || image::ensure(&api, patience, wanted, self.config.hub, order.program);
        let pulled = if wanted.is_some() { Some(ensured().await.map_err(unordered)?) } else { None };
        let _changing = order.site.turn().await?;
        let image = match pulled {
            Some(image) => image,
            None => ensured().await.map_err(unordered)?,
        };
        let made = self.make(&api, spec, &order, &image).await;
        if made.is_err() {
            self.tidy(&api).await;
        }
        made
    }

    /// What of an order can be judged without asking anybody.
    fn checked<'a>(&'a self, spec: &'a InstanceSpec) -> Result<Checked<'a>, ProviderError> {
        let reject = |reason: String| ProviderError::Reject { reason };
        let what = || format!("{} in {}", spec.plan, spec.region);
        let (Some(plan), Some(site), false) =
            (Plan::named(&spec.plan), self.engines.get(&spec.region), spec.spot)
        else {
            return Err(ProviderError::NotSold { what: what() });
        };
        let tags = spec.tags.as_ref().filter(|tags| tags.hub == self.config.hub);
        let tags = tags.ok_or_else(|| reject("the order is not one of this hub".to_owned()))?;
        let program = self.config.agents.get(&spec.arch).ok_or_else(|| {
            reject(format!("this hub has no agent for {}; put one into bootstrap.agents", spec.arch))
        })?;
        let order = Order::parse(spec.user_data.expose())?;
        Ok(Checked { plan, site, tags, program, order })
    }

    async fn make(
        &self,
        api: &Api<'_>,
        spec: &InstanceSpec,
        order: &Checked<'_>,
        image: &str,
    ) -> Result<Instance, ProviderError> {
        let (rows, _) = api.containers(Some(self.config.hub)).await.map_err(unordered)?;
        if let Some(row) = rows.iter().find(|row| row.key().as_ref() == Some(&spec.key)) {
            if !row.is_unfinished() {
                return known(row, spec);
            }
            api.remove(&row.id).await?;
        } else {
            has_room(api, order.plan, &rows).await.map_err(unordered)?;
        }
        api.ensure_network(self.config.hub).await.map_err(unordered)?;
        let (name, body) =
            (name(&spec.key, self.config.hub), container(spec, order.tags, &order.plan, image));
        let id = match api.create(&name, &body).await? {
            Made::New(id) => id,
            // A list was late, or another call is under way.
            Made::Taken => match api.find(&name).await? {
                None => return Err(ProviderError::Busy { reason: format!("{name} is being removed") }),
                Some(row) if row.hub() != Some(self.config.hub) => {
                    let reason =
                        format!("the name {name} is taken by a container that is no machine; remove it");
                    return Err(ProviderError::Reject { reason });
                }
                Some(row) if !row.is_unfinished() => return known(&row, spec),
                Some(row) => {
                    api.remove(&row.id).await?;
                    match api.create(&name, &body).await? {
                        Made::New(id) => id,
                        Made::Taken => {
                            return Err(ProviderError::Busy { reason: format!("{name} is being made") });
                        }
                    }
                }
            },
        };
        let finished = self.finish(api, &id, order).await;
        if let Err(error) = finished {
            if let Err(error) = api.remove(&id).await {
                warn!(machine = %spec.key, error = error.line(), "a container that does not start is left");
            }
            return Err(error);
        }
        info!(machine = %spec.key, region = spec.region, "a container was started as a machine");
        Ok(Instance {
            key: spec.key.clone(),
            provider_id: format!("{}/{id}", spec.region),
            tags: Some(order.tags.clone()),
            state: InstanceState::Running,
            created_at: Timestamp::from(std::time::SystemTime::now()),
        })
    }

    /// Gives a container its files, and starts it.
    async fn finish(&self, api: &Api<'_>, id: &str, order: &Checked<'_>) -> Result<(), ProviderError> {
        let files = files(order.program, &order.order)
            .await
            .map_err(|source| ProviderError::Unsent { call: "PutContainerArchive", source: source.into() })?;
        api.put(id, files).await?;
        api.start(id).await
    }

    async fn delete_one(&self, provider_id: &str) -> Result<(), ProviderError> {
        let (site, id) = self.split(provider_id)?;
        let api = self.api(site).await?;
        if self.own(&api, id).await?.is_none() {
            return Ok(());
        }
        let _changing = site.turn().await?;
        api.remove(id).await?;
        info!(machine = short(id), "a container that was a machine is removed");
        self.tidy(&api).await;
        Ok(())
    }

    /// Removes what machines share where there are none any more. What is left is removed with the next last one.
    async fn tidy(&self, api: &Api<'_>) {
        let tidied = async {
            let (rows, _) = api.containers(Some(self.config.hub)).await?;
            if rows.is_empty() {
                api.remove_network(self.config.hub).await?;
                image::forget(api, self.config.patience, self.config.hub).await?;
            }
            Ok::<_, ProviderError>(())
        };
        if let Err(error) = tidied.await {
            warn!(
                provider = self.config.name,
                error = error.line(),
                "the network or image of machines may be left"
            );
        }
    }

    async fn switch(&self, provider_id: &str, on: bool) -> Result<(), ProviderError> {
        let unknown = || ProviderError::Reject { reason: "there is no such machine".to_owned() };
        let (site, id) = self.split(provider_id)?;
        let api = self.api(site).await?;
        let row = self.own(&api, id).await?.ok_or_else(unknown)?;
        if !on {
            return api.stop(id, GRACE).await;
        }
        if row.is_unfinished() {
            let reason = "the container was never given its agent; terminate it".to_owned();
            return Err(ProviderError::Reject { reason });
        }
        if row.is_paused() { api.resume(id).await } else { api.start(id).await }
    }
}

/// An order that may be given to an engine.
struct Checked<'a> {
    plan: Plan,
    site: &'a Site,
    tags: &'a Tags,
    program: &'a AgentProgram,
    order: Order,
}

/// Whether an engine takes one more machine beside those that this hub has there.
async fn has_room(api: &Api<'_>, plan: Plan, rows: &[Row]) -> Result<(), ProviderError> {
    if rows.len() >= MAX_MACHINES {
        let limit = u64::try_from(MAX_MACHINES).ok();
        return Err(ProviderError::Quota { what: "machines of one hub at one engine".to_owned(), limit });
    }
    let taken = rows.iter().map(Row::memory_bytes).fold(0, u64::saturating_add);
    if api.machine().await?.has_room(&plan, taken) {
        return Ok(());
    }
    let what = format!(
        "{}: the host has fewer processors, or not so much memory beside its other machines",
        plan.name
    );
    Err(ProviderError::Capacity { what })
}

/// The machine that an order has already.
fn known(row: &Row, spec: &InstanceSpec) -> Result<Instance, ProviderError> {
    row.instance(&spec.region).ok_or_else(|| ProviderError::Reject {
        reason: format!("the labels of {} are damaged", short(&row.id)),
    })
}

/// The volume of a new machine.
async fn files(program: &AgentProgram, order: &Order) -> std::io::Result<Body> {
    let archive = Archive::new()
        .folder("bin", 0o755, 0)
        .folder("state", 0o700, USER)
        .folder("run", 0o700, USER)
        .text("join", 0o600, USER, &order.join_file())
        .text("agent.toml", 0o644, 0, &Secret::new(order.config_file(FOLDER)))
        .copy("bin/blueprint-agent", 0o755, &program.path)
        .await?;
    Ok(archive.body())
}

/// As engines show ids.
fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

impl Provider for Docker {
    fn name(&self) -> &'static str {
        self.config.name
    }

    fn rate(&self) -> Rate {
        Rate { per_second: 20, burst: 40 }
    }

    fn within(&self, call: CloudCall) -> Duration {
        let Patience { ask, change, transfer } = self.config.patience;
        let engines = u32::try_from(self.engines.len()).unwrap_or(u32::MAX);
        let needed = match call {
            CloudCall::Offers | CloudCall::List => ask.saturating_mul(engines.saturating_mul(2)),
            // What is cut before its start is finished by the next call.
            CloudCall::Create => transfer.saturating_add(change.saturating_mul(5)),
            CloudCall::Delete => change.saturating_mul(4).saturating_add(TURN),
            CloudCall::Boot | CloudCall::Stop => change.saturating_add(ask.saturating_mul(2)),
        };
        needed.max(CloudCall::USUAL)
    }

    fn offers(&self) -> BoxFuture<'_, Result<Vec<Offer>, ProviderError>> {
        Box::pin(self.offers_all())
    }

    fn list(&self) -> BoxFuture<'_, Result<Listing, ProviderError>> {
        Box::pin(self.list_all())
    }

    fn create<'a>(&'a self, spec: &'a InstanceSpec) -> BoxFuture<'a, Result<Instance, ProviderError>> {
        Box::pin(self.create_one(spec))
    }

    fn delete<'a>(&'a self, provider_id: &'a str) -> BoxFuture<'a, Result<(), ProviderError>> {
        Box::pin(self.delete_one(provider_id))
    }

    fn boot<'a>(&'a self, provider_id: &'a str) -> BoxFuture<'a, Result<(), ProviderError>> {
        Box::pin(self.switch(provider_id, true))
    }

    fn stop<'a>(&'a self, provider_id: &'a str) -> BoxFuture<'a, Result<(), ProviderError>> {
        Box::pin(self.switch(provider_id, false))
    }
}
