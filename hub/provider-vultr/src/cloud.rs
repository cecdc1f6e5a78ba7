//! The provider: cloud instances as machines.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use blueprint_common_types::{HubId, Secret, Timestamp};
use blueprint_hub_provider_kit::plans::vultr::Meta;
use blueprint_hub_provider_kit::rest::{Call, Rest, Rows, call};
use blueprint_hub_provider_kit::{CredentialSource, HttpClient, cloud_time, flat_tags};
use blueprint_hub_provision_core::catalogue::Offer;
use blueprint_hub_provision_core::resource::Arch;
use blueprint_hub_provision_core::{Instance, InstanceSpec, Listing, Provider, ProviderError};
use futures_util::future::BoxFuture;
use http::Method;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tracing::{debug, info};

use crate::errors::STYLE;
use crate::guard::Guard;
use crate::machine::{Machine, One, Order, is_id};
use crate::offers;

/// Where the API is.
pub const ENDPOINT: &str = "https://api.vultr.com";

/// Most bytes of user data before Base64. Vultr publishes no limit; that of the strictest clouds is kept.
const MAX_USER_DATA: usize = 16 * 1024;

/// Rows of a page: the most there are (the API's reference, `per_page`).
const PER_PAGE: usize = 500;

const INSTANCES: &str = "/v2/instances";

pub(crate) const LIST: Call = call("list-instances", "subscriptions_view");
pub(crate) const GET: Call = call("get-instance", "subscriptions_view");
pub(crate) const CREATE: Call = call("create-instance", "provisioning");
pub(crate) const DELETE: Call = call("delete-instance", "subscriptions");
pub(crate) const START: Call = call("start-instance", "subscriptions");
pub(crate) const HALT: Call = call("halt-instance", "subscriptions");
pub(crate) const SYSTEMS: Call = call("list-os", "");

/// What the provider is made of.
#[derive(Clone)]
pub struct VultrConfig {
    /// Whose instances they are.
    pub hub: HubId,
    /// Scheme and host of the API; [`ENDPOINT`] but in tests.
    pub endpoint: String,
    /// Regions that instances are ordered in, such as `fra`; every one where empty.
    pub regions: Vec<String>,
    /// Name of the system, such as `Debian 13 x64`, or its number. It has to run cloud-init.
    pub image: String,
    /// Where the key comes from: field `api_key`.
    pub credentials: Arc<dyn CredentialSource>,
    /// What calls.
    pub http: HttpClient,
}

impl std::fmt::Debug for VultrConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VultrConfig")
            .field("endpoint", &self.endpoint)
            .field("regions", &self.regions)
            .field("image", &self.image)
            .finish_non_exhaustive()
    }
}

/// One account of Vultr; see the crate's documentation for what is made in it.
#[derive(Debug)]
pub struct Vultr {
    hub: HubId,
    pub(crate) regions: Vec<String>,
    pub(crate) image: String,
    pub(crate) rest: Rest,
    pub(crate) guard: Guard,
}

/// A page of any list, under whatever name the API has for it.
#[derive(Deserialize)]
struct Page<T> {
    #[serde(
        rename = "instances",
        alias = "firewall_groups",
        alias = "firewall_rules",
        alias = "os",
        alias = "plans",
        alias = "regions"
    )]
    rows: Vec<T>,
    meta: Meta,
}

/// A system that machines can be made of.
#[derive(Debug, Clone, Deserialize)]
struct System {
    id: u64,
    name: String,
}

/// Every row of a list, and the cloud's clock. `path` ends with `?` or `&`.
///
/// # Errors
///
/// As the cloud answers; a list that changed while it was read is one.
pub(crate) async fn all<T: DeserializeOwned>(
    rest: &Rest,
    call: Call,
    path: &str,
    id: impl Fn(&T) -> String,
) -> Result<(Vec<T>, Option<Timestamp>), ProviderError> {
    let (mut rows, mut cursor) = (Rows::new(call), String::new());
    loop {
        let path = format!("{path}per_page={PER_PAGE}{cursor}");
        let answer = rest.send(call, Method::GET, &path, &[], None).await?;
        let page: Page<T> = rest.read(call, &answer)?;
        let other = |error| ProviderError::Other { call: call.name, source: Box::new(error) };
        cursor = page.meta.next().map_err(other)?;
        if rows.add(page.rows, page.meta.total, cursor.is_empty(), &id)? {
            return Ok((rows.take(), cloud_time(answer.headers())));
        }
    }
}

impl Vultr {
    /// Calls nothing yet.
    #[must_use]
    pub fn new(config: VultrConfig) -> Self {
        let VultrConfig { hub, endpoint, regions, image, credentials, http } = config;
        let rest = Rest::new(STYLE, http, &endpoint, credentials);
        Self { hub, regions, image, rest, guard: Guard::new(hub) }
    }

    fn check(&self, spec: &InstanceSpec) -> Result<(), ProviderError> {
        let reject = |reason: String| Err(ProviderError::Reject { reason });
        let what = || format!("{} in {}", spec.plan, spec.region);
        if spec.spot {
            return Err(ProviderError::NotSold { what: format!("{} as a spot machine", what()) });
        }
        if spec.arch != Arch::X86_64 {
            return Err(ProviderError::NotSold { what: format!("{} with {}", what(), spec.arch.as_str()) });
        }
        if spec.plan.starts_with("vbm-") {
            return Err(ProviderError::NotSold {
                what: format!("{}: whole machines have no firewall of Vultr's, so it", what()),
            });
        }
        if !self.regions.is_empty() && !self.regions.contains(&spec.region) {
            let regions = self.regions.join(", ");
            return reject(format!(
                "region {} is not one of providers.vultr.regions ({regions}); add it there",
                spec.region
            ));
        }
        if spec.tags.as_ref().is_some_and(|tags| tags.hub != self.hub) {
            return reject("the order is another hub's".to_owned());
        }
        let bytes = spec.user_data.expose().len();
        if bytes > MAX_USER_DATA {
            return reject(format!("the user data has {bytes} bytes, of {MAX_USER_DATA} at most"));
        }
        Ok(())
    }

    async fn tagged(&self, tag: &str) -> Result<(Vec<Machine>, Option<Timestamp>), ProviderError> {
        all::<Machine>(&self.rest, LIST, &format!("{INSTANCES}?tag={tag}&"), |one| one.id.clone()).await
    }

    /// The instance of this order, where an earlier call made one. The oldest of several: the reconciler sees them all.
    async fn made_before(&self, spec: &InstanceSpec) -> Result<Option<Instance>, ProviderError> {
        let (found, _) = self.tagged(&flat_tags::of_key(&spec.key)).await?;
        let of_order = found.iter().filter(|one| flat_tags::is_of(spec, &one.tags, &one.label));
        let instances =
            of_order.map(|one| one.instance(CREATE)).collect::<Result<Vec<_>, ProviderError>>()?;
        Ok(instances
            .into_iter()
            .min_by(|a, b| (a.created_at, &a.provider_id).cmp(&(b.created_at, &b.provider_id))))
    }

    /// The number of the system that is configured; `None` where there is no such. Numbers change, so it is asked for.
    ///
    /// # Errors
    ///
    /// As the cloud answers.
    pub(crate) async fn system(&self) -> Result<Option<u64>, ProviderError> {
        let (systems, _) =
            all::<System>(&self.rest, SYSTEMS, "/v2/os?", |system| system.id.to_string()).await?;
        let number = self.image.parse::<u64>().ok();
        // `Debian 13 x64` is listed as `Debian 13 x64 (trixie)`.
        let begin = format!("{} (", self.image);
        let is_it = |system: &&System| {
            Some(system.id) == number || system.name == self.image || system.name.starts_with(&begin)
        };
        Ok(systems.iter().find(is_it).map(|system| system.id))
    }

    async fn create_one(&self, spec: &InstanceSpec) -> Result<Instance, ProviderError> {
        self.check(spec)?;
        if let Some(instance) = self.made_before(spec).await? {
            debug!(instance = %spec.key, "the instance of this order is there already");
            return Ok(instance);
        }
        let Some(system) = self.system().await? else {
            let reason =
                format!("there is no system {:?} at Vultr; correct providers.vultr.image", self.image);
            return Err(ProviderError::Reject { reason });
        };
        let group = self.guard.stand(&self.rest).await?;
        let user_data = Secret::new(STANDARD.encode(spec.user_data.expose()));
        let order = Order {
            region: &spec.region,
            plan: &spec.plan,
            os_id: system,
            label: spec.key.as_str(),
            hostname: spec.key.as_str(),
            tags: flat_tags::of(spec),
            user_data: user_data.expose(),
            firewall_group_id: &group,
            enable_ipv6: true,
            activation_email: false,
            backups: "disabled",
        };
        let made: One = self.rest.write(CREATE, Method::POST, INSTANCES, &order).await?;
        let made = made.instance.instance(CREATE)?;
        info!(target: "audit", provider = "vultr", instance = %spec.key, id = made.provider_id, "instance created");
        Ok(made)
    }

    async fn list_all(&self) -> Result<Listing, ProviderError> {
        let (machines, cloud_time) = self.tagged(flat_tags::NODE).await?;
        let nodes = machines.iter().filter(|machine| machine.is_node());
        let instances = nodes.map(|machine| machine.instance(LIST)).collect::<Result<_, _>>()?;
        Ok(Listing { instances, cloud_time })
    }

    /// An instance by its id; `None` where it is gone.
    async fn machine(&self, provider_id: &str) -> Result<Option<Machine>, ProviderError> {
        if !is_id(provider_id) {
            return Err(ProviderError::Reject {
                reason: format!(
                    "{:?} is no id of an instance: a UUID was expected",
                    provider_id.chars().take(40).collect::<String>()
                ),
            });
        }
        let path = format!("{INSTANCES}/{provider_id}");
        let Some(One { instance }) = self.rest.find::<One>(GET, &path).await? else { return Ok(None) };
        if !instance.is_node() {
            return Err(ProviderError::Reject {
                reason: format!(
                    "instance {provider_id} does not carry the tag {}, so it is left alone; put the tag back",
                    flat_tags::NODE
                ),
            });
        }
        Ok(Some(instance))
    }

    async fn delete_one(&self, provider_id: &str) -> Result<(), ProviderError> {
        if self.machine(provider_id).await?.is_none() {
            return Ok(());
        }
        // Its disk and its addresses go with it. Block storage is a person's: the hub makes none.
        self.rest.delete(DELETE, &format!("{INSTANCES}/{provider_id}")).await?;
        info!(target: "audit", provider = "vultr", id = provider_id, "instance deleted");
        Ok(())
    }

    async fn standing(&self, provider_id: &str) -> Result<Machine, ProviderError> {
        self.machine(provider_id)
            .await?
            .ok_or_else(|| ProviderError::Reject { reason: format!("there is no instance {provider_id}") })
    }

    async fn boot_one(&self, provider_id: &str) -> Result<(), ProviderError> {
        if !self.standing(provider_id).await?.is_off() {
            return Ok(());
        }
        self.rest.act(START, &format!("{INSTANCES}/{provider_id}/start")).await
    }

    async fn stop_one(&self, provider_id: &str) -> Result<(), ProviderError> {
        if self.standing(provider_id).await?.is_off() {
            return Ok(());
        }
        self.rest.act(HALT, &format!("{INSTANCES}/{provider_id}/halt")).await
    }
}

impl Provider for Vultr {
    fn name(&self) -> &'static str {
        "vultr"
    }

    fn offers(&self) -> BoxFuture<'_, Result<Vec<Offer>, ProviderError>> {
        Box::pin(offers::ask(&self.rest, &self.regions))
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
        Box::pin(self.boot_one(provider_id))
    }

    fn stop<'a>(&'a self, provider_id: &'a str) -> BoxFuture<'a, Result<(), ProviderError>> {
        Box::pin(self.stop_one(provider_id))
    }
}
