//! The provider: compute instances as machines.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use blueprint_common_types::{HubId, Secret, Timestamp};
use blueprint_hub_provider_kit::plans::linode::Page;
use blueprint_hub_provider_kit::rest::{Call, Rest, Rows, call};
use blueprint_hub_provider_kit::{CredentialSource, HttpClient, cloud_time, flat_tags, unordered};
use blueprint_hub_provision_core::catalogue::Offer;
use blueprint_hub_provision_core::resource::Arch;
use blueprint_hub_provision_core::{Instance, InstanceSpec, Listing, Provider, ProviderError};
use futures_util::future::BoxFuture;
use http::Method;
use serde::de::DeserializeOwned;
use tracing::{debug, info};

use crate::errors::{STYLE, is_label_taken};
use crate::guard::Guard;
use crate::machine::{Machine, Metadata, Order, is_label, password};
use crate::offers;

/// Where the API is.
pub const ENDPOINT: &str = "https://api.linode.com";

/// Most bytes of user data before Base64 (the API's reference: 65535).
const MAX_USER_DATA: usize = 65_535;

/// Rows of a page: the most there are (the API's reference, `page_size`).
const PAGE_SIZE: usize = 500;

const INSTANCES: &str = "/v4/linode/instances";

pub(crate) const LIST: Call = call("get-linode-instances", "linodes:read_only");
pub(crate) const GET: Call = call("get-linode-instance", "linodes:read_only");
pub(crate) const CREATE: Call = call("post-linode-instance", "linodes:read_write");
pub(crate) const DELETE: Call = call("delete-linode-instance", "linodes:read_write");
pub(crate) const BOOT: Call = call("post-boot-linode-instance", "linodes:read_write");
pub(crate) const SHUTDOWN: Call = call("post-shutdown-linode-instance", "linodes:read_write");

/// What the provider is made of.
#[derive(Clone)]
pub struct LinodeConfig {
    /// Whose instances they are.
    pub hub: HubId,
    /// Scheme and host of the API; [`ENDPOINT`] but in tests.
    pub endpoint: String,
    /// Regions that instances are ordered in, such as `eu-central`; every one where empty.
    pub regions: Vec<String>,
    /// Name of the image, such as `linode/debian13`. It has to run cloud-init.
    pub image: String,
    /// Where the token comes from: field `token`.
    pub credentials: Arc<dyn CredentialSource>,
    /// What calls.
    pub http: HttpClient,
}

impl std::fmt::Debug for LinodeConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LinodeConfig")
            .field("endpoint", &self.endpoint)
            .field("regions", &self.regions)
            .field("image", &self.image)
            .finish_non_exhaustive()
    }
}

/// One account of Linode; see the crate's documentation for what is made in it.
///
/// Of what was made only the number of the firewall is kept.
#[derive(Debug)]
pub struct Linode {
    hub: HubId,
    pub(crate) regions: Vec<String>,
    pub(crate) image: String,
    pub(crate) rest: Rest,
    pub(crate) guard: Guard,
}

/// Every row of a list, and the cloud's clock. `filter` is what rows have to be, in the API's language for it.
///
/// # Errors
///
/// As the cloud answers; a list that changed while it was read is one.
pub(crate) async fn all<T: DeserializeOwned>(
    rest: &Rest,
    call: Call,
    path: &str,
    filter: Option<&str>,
    id: impl Fn(&T) -> String,
) -> Result<(Vec<T>, Option<Timestamp>), ProviderError> {
    let headers: Vec<_> = filter.iter().map(|filter| ("x-filter", (*filter).to_owned())).collect();
    let mut rows = Rows::new(call);
    for number in 1.. {
        let path = format!("{path}?page={number}&page_size={PAGE_SIZE}");
        let answer = rest.send(call, Method::GET, &path, &headers, None).await?;
        let page: Page<T> = rest.read(call, &answer)?;
        if rows.add(page.data, page.results, number >= page.pages, &id)? {
            return Ok((rows.take(), cloud_time(answer.headers())));
        }
    }
    Ok((rows.take(), None))
}

impl Linode {
    /// Calls nothing yet.
    #[must_use]
    pub fn new(config: LinodeConfig) -> Self {
        let LinodeConfig { hub, endpoint, regions, image, credentials, http } = config;
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
        if !self.regions.is_empty() && !self.regions.contains(&spec.region) {
            let regions = self.regions.join(", ");
            return reject(format!(
                "region {} is not one of providers.linode.regions ({regions}); add it there",
                spec.region
            ));
        }
        if spec.tags.as_ref().is_some_and(|tags| tags.hub != self.hub) {
            return reject("the order is another hub's".to_owned());
        }
        if !is_label(spec.key.as_str()) {
            return reject(format!(
                "{} cannot be a label at Linode: 3 to 64 characters that begin with a letter, with no two '-' in a row, were \
                 expected",
                spec.key
            ));
        }
        let bytes = spec.user_data.expose().len();
        if bytes > MAX_USER_DATA {
            return reject(format!("the user data has {bytes} bytes, of {MAX_USER_DATA} at most"));
        }
        Ok(())
    }

    /// Instances that the API finds by one field.
    async fn found_by(&self, field: &str, value: &str) -> Result<Vec<Machine>, ProviderError> {
        let filter = serde_json::json!({ field: value }).to_string();
        let (found, _) =
            all::<Machine>(&self.rest, LIST, INSTANCES, Some(&filter), |one| one.id.to_string()).await?;
        Ok(found)
    }

    /// The instance of this order, where an earlier call made one. The oldest of several: the reconciler sees them all.
    async fn made_before(&self, spec: &InstanceSpec) -> Result<Option<Machine>, ProviderError> {
        let found = self.found_by("tags", &flat_tags::of_key(&spec.key)).await?;
        let is_it = |machine: &Machine| flat_tags::is_of(spec, &machine.tags, &machine.label);
        Ok(found.into_iter().filter(is_it).min_by_key(|machine| machine.id))
    }

    async fn create_one(&self, spec: &InstanceSpec) -> Result<Instance, ProviderError> {
        self.check(spec)?;
        if let Some(machine) = self.made_before(spec).await.map_err(unordered)? {
            debug!(instance = %spec.key, linode = machine.id, "the instance of this order is there already");
            return machine.instance(CREATE);
        }
        let firewall = self.guard.stand(&self.rest).await.map_err(unordered)?;
        match self.order(spec, spec.key.as_str(), firewall).await {
            Err(error) if is_label_taken(&error) => {}
            made => return made,
        }
        // By an instance of this very order, where the answer was lost: it is the request key that the API lacks.
        if let Some(machine) = self.made_before(spec).await? {
            return machine.instance(CREATE);
        }
        let found = self.found_by("label", spec.key.as_str()).await?;
        if let Some(machine) = found.iter().find(|one| flat_tags::is_of(spec, &one.tags, &one.label)) {
            // The list by tags comes later than that by labels.
            return machine.instance(CREATE);
        }
        if found.is_empty() {
            let reason = format!("the label {} is taken, and what has it is not listed yet", spec.key);
            return Err(ProviderError::Busy { reason });
        }
        // By one that is somebody else's. Its other label is as unique as the first.
        let other = format!("{}.b", spec.key);
        if !is_label(&other) {
            let reason = format!("the label {} is taken by another instance; rename that one", spec.key);
            return Err(ProviderError::Reject { reason });
        }
        self.order(spec, &other, firewall).await
    }

    async fn order(
        &self,
        spec: &InstanceSpec,
        label: &str,
        firewall: u64,
    ) -> Result<Instance, ProviderError> {
        let user_data = Secret::new(STANDARD.encode(spec.user_data.expose()));
        let password = password()?;
        let order = Order {
            label,
            region: &spec.region,
            plan: &spec.plan,
            image: &self.image,
            root_pass: password.expose(),
            firewall_id: firewall,
            tags: flat_tags::of(spec),
            metadata: Metadata { user_data: user_data.expose() },
            booted: true,
            backups_enabled: false,
            private_ip: false,
        };
        let made: Machine = self.rest.write(CREATE, Method::POST, INSTANCES, &order).await?;
        info!(target: "audit", provider = "linode", instance = %spec.key, linode = made.id, "instance created");
        made.instance(CREATE)
    }

    async fn list_all(&self) -> Result<Listing, ProviderError> {
        let filter = serde_json::json!({ "tags": flat_tags::NODE }).to_string();
        let (machines, cloud_time) =
            all::<Machine>(&self.rest, LIST, INSTANCES, Some(&filter), |one| one.id.to_string()).await?;
        let nodes = machines.iter().filter(|machine| machine.is_node());
        let instances = nodes.map(|machine| machine.instance(LIST)).collect::<Result<_, _>>()?;
        Ok(Listing { instances, cloud_time })
    }

    /// An instance by its number; `None` where it is gone.
    async fn machine(&self, provider_id: &str) -> Result<Option<Machine>, ProviderError> {
        let id: u64 = provider_id.parse().map_err(|_| ProviderError::Reject {
            reason: format!(
                "{:?} is no number of an instance: digits were expected",
                provider_id.get(..40).unwrap_or(provider_id)
            ),
        })?;
        let Some(machine) = self.rest.find::<Machine>(GET, &format!("{INSTANCES}/{id}")).await? else {
            return Ok(None);
        };
        if !machine.is_node() {
            return Err(ProviderError::Reject {
                reason: format!(
                    "instance {id} does not carry the tag {}, so it is left alone; put the tag back",
                    flat_tags::NODE
                ),
            });
        }
        Ok(Some(machine))
    }

    async fn delete_one(&self, provider_id: &str) -> Result<(), ProviderError> {
        let Some(machine) = self.machine(provider_id).await? else { return Ok(()) };
        // Its disks, backups and addresses go with it. Volumes are a person's: the hub makes none.
        self.rest.delete(DELETE, &format!("{INSTANCES}/{}", machine.id)).await?;
        info!(target: "audit", provider = "linode", linode = machine.id, "instance deleted");
        Ok(())
    }

    async fn standing(&self, provider_id: &str) -> Result<Machine, ProviderError> {
        self.machine(provider_id)
            .await?
            .ok_or_else(|| ProviderError::Reject { reason: format!("there is no instance {provider_id}") })
    }

    async fn boot_one(&self, provider_id: &str) -> Result<(), ProviderError> {
        let machine = self.standing(provider_id).await?;
        if !machine.is_off() {
            return Ok(());
        }
        self.rest.act(BOOT, &format!("{INSTANCES}/{}/boot", machine.id)).await
    }

    async fn stop_one(&self, provider_id: &str) -> Result<(), ProviderError> {
        let machine = self.standing(provider_id).await?;
        if machine.is_off() || machine.status == "shutting_down" {
            return Ok(());
        }
        self.rest.act(SHUTDOWN, &format!("{INSTANCES}/{}/shutdown", machine.id)).await
    }
}

impl Provider for Linode {
    fn name(&self) -> &'static str {
        "linode"
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
