//! The provider: virtual machines.

use std::sync::{Arc, OnceLock};

use blueprint_common_types::Timestamp;
use blueprint_hub_provider_kit::{HasAccount, unordered};
use blueprint_hub_provision_core::catalogue::Offer;
use blueprint_hub_provision_core::{Instance, InstanceKey, InstanceSpec, Listing, Provider, ProviderError};
use futures_util::future::{BoxFuture, FutureExt};
use http::{Method, StatusCode};
use tracing::{debug, info, warn};

use crate::api::{Api, Call, Sent, call, document, is_absent, now, read, success, version};
use crate::bearer::Bearers;
use crate::config::AzureConfig;
use crate::errors::{About, Refusal};
use crate::machine::{Machine, Seen, powers};
use crate::operation::Followed;
use crate::sizes::Kept;
use crate::{order, tags};

/// Name of this provider.
pub(crate) const NAME: &str = "azure";

const READ: &str = "Microsoft.Compute/virtualMachines/read";
pub(crate) const LIST: Call = call("VirtualMachines_List", READ, version::COMPUTE);
pub(crate) const LIST_ALL: Call = call("VirtualMachines_ListAll", READ, version::COMPUTE);
pub(crate) const GET: Call = call("VirtualMachines_Get", READ, version::COMPUTE);
pub(crate) const CREATE: Call =
    call("VirtualMachines_CreateOrUpdate", "Microsoft.Compute/virtualMachines/write", version::COMPUTE);
pub(crate) const DELETE: Call =
    call("VirtualMachines_Delete", "Microsoft.Compute/virtualMachines/delete", version::COMPUTE);
pub(crate) const START: Call =
    call("VirtualMachines_Start", "Microsoft.Compute/virtualMachines/start/action", version::COMPUTE);
pub(crate) const DEALLOCATE: Call = call(
    "VirtualMachines_Deallocate",
    "Microsoft.Compute/virtualMachines/deallocate/action",
    version::COMPUTE,
);

/// One subscription of Azure, in the regions that its configuration names.
///
/// A machine's id is its name, which is its key. See the crate's documentation for what is made with it.
#[derive(Debug)]
pub struct Azure {
    pub(crate) api: Api,
    pub(crate) config: AzureConfig,
    pub(crate) group: String,
    pub(crate) kept: Kept,
    pub(crate) listed: OnceLock<Vec<Offer>>,
}

impl Azure {
    /// Calls nothing yet.
    #[must_use]
    pub fn new(config: AzureConfig) -> Self {
        let bare = |endpoint: &str| endpoint.trim_end_matches('/').to_owned();
        let bearers = Bearers::new(
            config.http.clone(),
            Arc::clone(&config.credentials),
            bare(&config.login_endpoint),
            bare(&config.metadata_endpoint),
        );
        let api = Api { http: config.http.clone(), endpoint: bare(&config.endpoint), bearers };
        Self { api, group: config.group(), config, kept: Kept::default(), listed: OnceLock::new() }
    }

    /// The path of the hub's resource group, behind the subscription.
    pub(crate) fn within(&self) -> String {
        format!("/resourceGroups/{}", self.group)
    }

    fn path(&self, key: &InstanceKey) -> String {
        format!("{}/providers/Microsoft.Compute/virtualMachines/{key}", self.within())
    }

    fn check(&self, spec: &InstanceSpec) -> Result<(), ProviderError> {
        let reject = |reason: String| Err(ProviderError::Reject { reason });
        if !self.config.regions.contains(&spec.region) {
            return Err(ProviderError::NotSold {
                what: format!(
                    "{} in {}, which is not among providers.azure.regions,",
                    spec.plan, spec.region
                ),
            });
        }
        if spec.tags.as_ref().is_some_and(|tags| tags.hub != self.config.hub) {
            return reject("the order is another hub's".to_owned());
        }
        order::check_user_data(spec)
    }

    /// Every machine of the group, and Azure's clock.
    pub(crate) async fn machines(&self) -> Result<(Vec<Machine>, Option<Timestamp>), ProviderError> {
        let path = format!("{}/providers/Microsoft.Compute/virtualMachines", self.within());
        self.api.list(LIST, &path).await
    }

    async fn list_all(&self) -> Result<Listing, ProviderError> {
        // Before the machines: what is made between the two lists is no leftover then.
        let resources = self.resources().await?;
        let (machines, cloud_time) = self.machines().await?;
        let mut powered = std::collections::BTreeMap::new();
        if !machines.is_empty() {
            // Of one group Azure tells only what machines are, of the whole subscription only what they do.
            let path = "/providers/Microsoft.Compute/virtualMachines?statusOnly=true";
            let (seen, _) = self.api.list::<Seen>(LIST_ALL, path).await?;
            powered = powers(&seen, &self.api.scope().await?, &self.group);
        }
        let mut instances = Vec::new();
        for machine in &machines {
            let power = powered.get(&machine.name.to_ascii_lowercase()).map(String::as_str);
            instances.extend(machine.instance(LIST, power)?);
        }
        let names: std::collections::BTreeSet<_> =
            machines.iter().map(|machine| machine.name.to_ascii_lowercase()).collect();
        let time = cloud_time.unwrap_or_else(now);
        instances.extend(self.left(&resources, |key| names.contains(key.as_str()), time));
        instances.sort_by(|one, other| one.provider_id.cmp(&other.provider_id));
        Ok(Listing { instances, cloud_time })
    }

    /// The machine of this name; `None` where there is none.
    async fn machine(&self, key: &InstanceKey) -> Result<Option<Machine>, ProviderError> {
        let path = format!("{}?%24expand=instanceView", self.path(key));
        self.api.find(GET, &path).await
    }

    async fn create_one(&self, spec: &InstanceSpec) -> Result<Instance, ProviderError> {
        self.check(spec)?;
        if let Some(machine) = self.machine(&spec.key).await.map_err(unordered)? {
            return self.made_before(spec, &machine);
        }
        let size = self.size(&spec.region, &spec.plan).await.map_err(unordered)?;
        if size.arch != spec.arch {
            let what = format!("{} in {} with {}", spec.plan, spec.region, spec.arch.as_str());
            return Err(ProviderError::NotSold { what });
        }
        let place = self.place(&spec.region).boxed().await.map_err(unordered)?;
        let body = order::document(spec, &self.config, &size, &place)?;
        let sent = Sent { body: Some(document(&body)), only_new: true };
        let about = About { what: format!("{} in {}", spec.plan, spec.region), is_spot: spec.spot };
        let answer = self.api.send(CREATE, Method::PUT, &self.path(&spec.key), sent).await?;
        if answer.status() == StatusCode::PRECONDITION_FAILED
            && let Some(machine) = self.machine(&spec.key).await?
        {
            // Another call was first.
            return self.made_before(spec, &machine);
        }
        if !answer.status().is_success() {
            return Err(Refusal::read(&answer).into_error(CREATE, &about));
        }
        let machine: Machine = read(CREATE, &answer)?;
        let instance = self.known(CREATE, &machine)?;
        info!(target: "audit", provider = NAME, instance = %spec.key, region = spec.region, "instance created");
        match self.api.follow(CREATE, &answer, self.config.follow_within).boxed().await? {
            Followed::Done | Followed::Going => Ok(instance),
            Followed::Failed(refusal) => Err(self.take_back(spec, *refusal, &about).boxed().await),
        }
    }

    /// A machine that Azure took on and then could not make: what stands of it is removed, so that nothing of it is billed. Where that
    /// fails it is listed, and removed from there.
    async fn take_back(&self, spec: &InstanceSpec, refusal: Refusal, about: &About) -> ProviderError {
        let error = refusal.into_error(CREATE, about);
        if error.class() == blueprint_hub_provision_core::ErrorClass::Unknown {
            return error;
        }
        if let Err(failed) = self.remove(&spec.key).await {
            warn!(provider = NAME, instance = %spec.key, error = failed.line(), "what could not be made is not removed yet");
        }
        error
    }

    /// The machine that an earlier call made.
    fn made_before(&self, spec: &InstanceSpec, machine: &Machine) -> Result<Instance, ProviderError> {
        let own = tags::whose(&machine.tags());
        let same = |tags: &blueprint_hub_provision_core::Tags| (tags.hub, tags.deployment.clone());
        if tags::key(&machine.tags()).as_ref() != Some(&spec.key)
            || own.as_ref().map(same) != spec.tags.as_ref().map(same)
        {
            return Err(ProviderError::Reject {
                reason: format!(
                    "there is a machine {} in {} that is not this hub's; remove or rename it",
                    spec.key, self.group
                ),
            });
        }
        if machine.is_going() {
            return Err(ProviderError::Busy { reason: format!("the machine {} is being deleted", spec.key) });
        }
        debug!(instance = %spec.key, "the machine of this order is there already");
        self.known(GET, machine)
    }

    fn known(&self, call: Call, machine: &Machine) -> Result<Instance, ProviderError> {
        machine.instance(call, None)?.ok_or_else(|| ProviderError::Other {
            call: call.name,
            source: format!("the machine {} in {} has no tag of a hub", machine.name, self.group).into(),
        })
    }

    /// A machine that stands and is this hub's, with its key; `None` where there is none.
    async fn own(&self, provider_id: &str) -> Result<Option<(InstanceKey, Machine)>, ProviderError> {
        let key: InstanceKey = provider_id.parse().map_err(|_| ProviderError::Reject {
            reason: format!(
                "{:?} is no machine of this hub",
                provider_id.chars().take(64).collect::<String>()
            ),
        })?;
        let Some(machine) = self.machine(&key).await? else { return Ok(None) };
        let is_own = tags::whose(&machine.tags()).is_some_and(|tags| tags.hub == self.config.hub);
        if !is_own {
            return Err(ProviderError::Reject {
                reason: format!(
                    "the machine {key} in {} does not carry this hub's tags, so it is left alone; put them back",
                    self.group
                ),
            });
        }
        Ok(Some((key, machine)))
    }

    /// What the attested document of a machine of this hub names it by: the subscription, and the id that Azure gave the machine
    /// when it was made. A machine that is made again under its name has another one.
    async fn attested(&self, key: &InstanceKey) -> Result<Option<String>, ProviderError> {
        let Some(machine) = self.machine(key).await? else { return Ok(None) };
        let is_own = tags::whose(&machine.tags()).is_some_and(|tags| tags.hub == self.config.hub)
            && tags::key(&machine.tags()).as_ref() == Some(key)
            && !machine.is_going();
        let Some(id) = machine.properties.vm_id.filter(|_| is_own) else { return Ok(None) };
        let subscription = self.api.bearers.get().await?.subscription;
        Ok(Some(format!("{subscription}/{id}").to_ascii_lowercase()))
    }

    async fn remove(&self, key: &InstanceKey) -> Result<(), ProviderError> {
        let path = format!("{}?forceDeletion=true", self.path(key));
        let answer = self.api.send(DELETE, Method::DELETE, &path, Sent::default()).await?;
        if !is_absent(&answer) {
            success(DELETE, answer)?;
        }
        Ok(())
    }

    async fn delete_one(&self, provider_id: &str) -> Result<(), ProviderError> {
        match self.own(provider_id).await? {
            // Azure refuses a second deletion while it is at the first.
            Some((_, machine)) if machine.is_going() => Ok(()),
            Some((key, _)) => {
                self.remove(&key).await?;
                info!(target: "audit", provider = NAME, instance = %key, "instance deleted");
                Ok(())
            }
            None => match provider_id.parse() {
                Ok(key) => self.clear(&key).await,
                Err(_) => Ok(()),
            },
        }
    }

    async fn switch(&self, call: Call, verb: &str, provider_id: &str) -> Result<(), ProviderError> {
        let absent = || ProviderError::Reject { reason: format!("there is no machine {provider_id}") };
        let (key, _) = self.own(provider_id).await?.ok_or_else(absent)?;
        let path = format!("{}/{verb}", self.path(&key));
        let answer = self.api.send(call, Method::POST, &path, Sent::default()).await?;
        if answer.status() == StatusCode::NOT_FOUND && is_absent(&answer) {
            return Err(absent());
        }
        if answer.status().is_success() {
            return Ok(());
        }
        Err(Refusal::read(&answer).into_error(call, &About { what: key.to_string(), is_spot: false }))
    }
}

impl HasAccount for Azure {
    fn account(&self) -> BoxFuture<'_, Result<String, ProviderError>> {
        async { Ok(self.api.bearers.get().await?.subscription) }.boxed()
    }
}

impl Provider for Azure {
    fn name(&self) -> &'static str {
        NAME
    }

    fn offers(&self) -> BoxFuture<'_, Result<Vec<Offer>, ProviderError>> {
        self.sold().boxed()
    }

    fn list(&self) -> BoxFuture<'_, Result<Listing, ProviderError>> {
        self.list_all().boxed()
    }

    fn create<'a>(&'a self, spec: &'a InstanceSpec) -> BoxFuture<'a, Result<Instance, ProviderError>> {
        self.create_one(spec).boxed()
    }

    fn delete<'a>(&'a self, provider_id: &'a str) -> BoxFuture<'a, Result<(), ProviderError>> {
        self.delete_one(provider_id).boxed()
    }

    fn boot<'a>(&'a self, provider_id: &'a str) -> BoxFuture<'a, Result<(), ProviderError>> {
        self.switch(START, "start", provider_id).boxed()
    }

    fn stop<'a>(&'a self, provider_id: &'a str) -> BoxFuture<'a, Result<(), ProviderError>> {
        self.switch(DEALLOCATE, "deallocate", provider_id).boxed()
    }

    fn vouched_name<'a>(
        &'a self,
        key: &'a InstanceKey,
    ) -> BoxFuture<'a, Result<Option<String>, ProviderError>> {
        self.attested(key).boxed()
    }
}
