//! The cloud: what the hub asks of Compute Engine.

use std::sync::Arc;
use std::time::Duration;

use blueprint_hub_provider_kit::{CredentialSource, HasAccount, HttpClient};
use blueprint_hub_provision_core::catalogue::Offer;
use blueprint_hub_provision_core::{Instance, InstanceSpec, Listing, Provider, ProviderError};
use futures_util::future::{BoxFuture, FutureExt};
use tracing::info;

use crate::action::Action;
use crate::api::{Answer, Api, Failure};
use crate::config::{GcpConfig, Region};
use crate::labels;
use crate::machine::{Machine, Machines, parts};
use crate::operation::Operation;

/// Name of this provider.
pub(crate) const NAME: &str = "gcp";

/// How long is waited for a machine to start: a zone that is full says so by then.
const START_WITHIN: Duration = Duration::from_secs(15);

/// One project, in the regions that its configuration names.
///
/// A machine's id is `ZONE/NUMBER`. See the crate's documentation for what one is made with.
#[derive(Debug)]
pub struct GcpCloud {
    pub(crate) api: Api,
    pub(crate) config: GcpConfig,
}

impl GcpCloud {
    /// The project that `source` has credentials of; asks nothing of it yet.
    #[must_use]
    pub fn new(config: GcpConfig, http: HttpClient, source: Arc<dyn CredentialSource>) -> Self {
        Self { api: Api::new(http, source, config.endpoint.clone()), config }
    }

    /// The configured region of this name.
    ///
    /// # Errors
    ///
    /// [`ProviderError::NotSold`] where it is none of them.
    pub(crate) fn region(&self, spec: &InstanceSpec) -> Result<&Region, ProviderError> {
        let found = self.config.regions.iter().find(|region| region.as_str() == spec.region);
        found.ok_or_else(|| ProviderError::NotSold {
            what: format!("{} in {}, which is not among providers.gcp.regions,", spec.plan, spec.region),
        })
    }

    /// All machines that a filter finds in all zones, and Google's clock.
    pub(crate) async fn machines(&self, filter: &str) -> Result<Listing, ProviderError> {
        let action = Action::ListInstances;
        let page = self.config.page.clamp(1, 500).to_string();
        let query = [("filter", filter), ("maxResults", page.as_str())];
        let (zones, cloud_time) =
            self.api.everywhere::<Machines>(action, "aggregated/instances", &query).await?;
        let mut instances = Vec::new();
        for (zone, machines) in &zones {
            for machine in machines.instances.iter().filter(|machine| machine.is_node()) {
                instances.push(machine.instance(action, zone)?);
            }
        }
        instances.sort_by(|one, other| one.provider_id.cmp(&other.provider_id));
        instances.dedup_by(|one, other| one.provider_id == other.provider_id);
        Ok(Listing { instances, cloud_time })
    }

    /// The machine of this order, where an earlier call made one. The first of several: the reconciler sees them all.
    pub(crate) async fn find(&self, spec: &InstanceSpec) -> Result<Option<Instance>, ProviderError> {
        let mut filter = format!("(labels.{} = \"{}\")", labels::KEY, spec.key);
        if let Some(tags) = &spec.tags {
            filter.push_str(&format!(" (labels.{} = \"{}\")", labels::HUB, tags.hub));
        }
        let found = self.machines(&filter).await?.instances;
        Ok(found.into_iter().find(|instance| is_of(instance, spec)))
    }

    /// One machine by its zone and its number or name; `None` where it is not there.
    pub(crate) async fn machine(&self, zone: &str, id: &str) -> Result<Option<Machine>, ProviderError> {
        let action = Action::GetInstance;
        match self.api.call::<Machine>(action, &format!("zones/{zone}/instances/{id}"), &[], None).await {
            Ok(Answer { body, .. }) => Ok(Some(body)),
            Err(Failure::Refused(refusal)) if refusal.is_missing() => Ok(None),
            Err(failure) => Err(failure.into_error(action, zone)),
        }
    }

    /// A machine that a hub made; `None` where it is gone.
    async fn node(&self, provider_id: &str) -> Result<Option<Machine>, ProviderError> {
        let Some((zone, id)) = parts(provider_id) else { return Ok(None) };
        match self.machine(zone, id).await? {
            Some(machine) if !machine.is_node() => Err(ProviderError::Reject {
                reason: format!(
                    "the machine {provider_id} does not have the label {}, so it is left alone; put the label back",
                    labels::KEY
                ),
            }),
            found => Ok(found),
        }
    }

    /// A call about one machine, by its number: one that is made again under its name is another one. Without a request id,
    /// which would have the second stop of a machine within an hour be taken for the first one.
    async fn tell(&self, action: Action, provider_id: &str, within: Duration) -> Result<(), ProviderError> {
        let Some((zone, id)) = parts(provider_id) else { return Ok(()) };
        let verb = match action {
            Action::StartInstance => "/start",
            Action::StopInstance => "/stop",
            Action::DeleteInstance
            | Action::GetFirewall
            | Action::GetInstance
            | Action::GetNetwork
            | Action::GetProject
            | Action::GetRegion
            | Action::InsertFirewall
            | Action::InsertInstance
            | Action::ListInstances
            | Action::ListMachineTypes
            | Action::ListSkus
            | Action::TestPermissions
            | Action::WaitGlobal
            | Action::DeleteFirewall
            | Action::WaitZone => "",
        };
        let path = format!("zones/{zone}/instances/{id}{verb}");
        let told = match self.api.call::<Operation>(action, &path, &[], None).await {
            Ok(Answer { body, .. }) => self.api.finish(Some(zone), body, within).await,
            Err(failure) => Err(failure),
        };
        match told {
            Ok(_) => Ok(()),
            Err(Failure::Refused(refusal)) if action == Action::DeleteInstance && refusal.is_missing() => {
                Ok(())
            }
            Err(failure) => Err(failure.into_error(action, provider_id)),
        }
    }

    async fn end(&self, provider_id: &str) -> Result<(), ProviderError> {
        // One that is on its way out already is asked again, which does no harm.
        if self.node(provider_id).await?.is_none() {
            return Ok(());
        }
        self.tell(Action::DeleteInstance, provider_id, Duration::ZERO).await?;
        info!(target: "audit", provider = NAME, id = provider_id, "instance deleted");
        Ok(())
    }

    async fn standing(&self, provider_id: &str) -> Result<Machine, ProviderError> {
        let none = || ProviderError::Reject { reason: format!("there is no machine {provider_id}") };
        self.node(provider_id).await?.ok_or_else(none)
    }

    async fn start(&self, provider_id: &str) -> Result<(), ProviderError> {
        match self.standing(provider_id).await?.status() {
            "TERMINATED" | "STOPPED" => self.tell(Action::StartInstance, provider_id, START_WITHIN).await,
            "STOPPING" | "PENDING_STOP" | "SUSPENDING" | "DEPROVISIONING" => {
                Err(ProviderError::Busy { reason: format!("{provider_id} is still being switched off") })
            }
            "SUSPENDED" => Err(ProviderError::Reject {
                reason: format!("{provider_id} was suspended by a person; resume it in Google's console"),
            }),
            _ => Ok(()),
        }
    }

    async fn halt(&self, provider_id: &str) -> Result<(), ProviderError> {
        match self.standing(provider_id).await?.status() {
            "TERMINATED" | "STOPPED" | "STOPPING" | "PENDING_STOP" | "SUSPENDING" | "SUSPENDED" => Ok(()),
            _ => self.tell(Action::StopInstance, provider_id, Duration::ZERO).await,
        }
    }
}

/// Whether a machine is the one of this order: its labels say key, hub and deployment.
pub(crate) fn is_of(instance: &Instance, spec: &InstanceSpec) -> bool {
    let whose = instance.tags.as_ref().map(|tags| (tags.hub, &tags.deployment));
    instance.key == spec.key && whose == spec.tags.as_ref().map(|tags| (tags.hub, &tags.deployment))
}

impl HasAccount for GcpCloud {
    fn account(&self) -> BoxFuture<'_, Result<String, ProviderError>> {
        async { Ok(self.api.tokens.access().await?.project.clone()) }.boxed()
    }
}

impl Provider for GcpCloud {
    fn name(&self) -> &'static str {
        NAME
    }

    fn offers(&self) -> BoxFuture<'_, Result<Vec<Offer>, ProviderError>> {
        self.sold().boxed()
    }

    fn price_list(&self) -> BoxFuture<'_, Result<Vec<Offer>, ProviderError>> {
        self.priced().boxed()
    }

    fn list(&self) -> BoxFuture<'_, Result<Listing, ProviderError>> {
        async { self.machines(&format!("labels.{}:*", labels::KEY)).await }.boxed()
    }

    fn create<'a>(&'a self, spec: &'a InstanceSpec) -> BoxFuture<'a, Result<Instance, ProviderError>> {
        self.create_one(spec).boxed()
    }

    fn delete<'a>(&'a self, provider_id: &'a str) -> BoxFuture<'a, Result<(), ProviderError>> {
        self.end(provider_id).boxed()
    }

    fn boot<'a>(&'a self, provider_id: &'a str) -> BoxFuture<'a, Result<(), ProviderError>> {
        self.start(provider_id).boxed()
    }

    fn stop<'a>(&'a self, provider_id: &'a str) -> BoxFuture<'a, Result<(), ProviderError>> {
        self.halt(provider_id).boxed()
    }
}
