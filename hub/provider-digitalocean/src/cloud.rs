//! The provider: droplets as machines.

use std::sync::Arc;

use blueprint_common_types::HubId;
use blueprint_hub_provider_kit::{CredentialSource, HttpClient, unordered};
use blueprint_hub_provision_core::catalogue::Offer;
use blueprint_hub_provision_core::resource::Arch;
use blueprint_hub_provision_core::{Instance, InstanceSpec, Listing, Provider, ProviderError};
use futures_util::future::BoxFuture;
use http::Method;
use serde::Serialize;
use tokio::sync::RwLock;
use tracing::{debug, info};

use crate::api::{Api, Call, call, json, now};
use crate::droplet::{Droplet, Many, One, Order};
use crate::guard::Guard;
use crate::offers::{Sizes, is_gpu};
use crate::{actions, litter, offers, tags};

/// Where the API is.
pub const ENDPOINT: &str = "https://api.digitalocean.com";

/// Most bytes of user data (the API's reference: 64 KiB).
const MAX_USER_DATA: usize = 64 * 1024;

pub(crate) const LIST: Call = call("droplets_list", "droplet:read");
pub(crate) const GET: Call = call("droplets_get", "droplet:read");
pub(crate) const CREATE: Call = call("droplets_create", "droplet:create");
pub(crate) const DESTROY: Call = call("droplets_destroy", "droplet:delete");
pub(crate) const DESTROY_WITH: Call =
    call("droplets_destroy_withAssociatedResourcesSelective", "droplet:delete");
pub(crate) const SIZES: Call = call("sizes_list", "sizes:read");

/// What the provider is made of.
#[derive(Clone)]
pub struct DigitalOceanConfig {
    /// Whose droplets they are.
    pub hub: HubId,
    /// Scheme and host of the API without a slash at the end; [`ENDPOINT`] but in tests.
    pub endpoint: String,
    /// Regions that droplets are ordered in, such as `fra1`; every one where empty.
    pub regions: Vec<String>,
    /// Slug of the image, such as `debian-13-x64`. It has to run cloud-init.
    pub image: String,
    /// Where the token comes from: field `token`.
    pub credentials: Arc<dyn CredentialSource>,
    /// What calls.
    pub http: HttpClient,
}

impl std::fmt::Debug for DigitalOceanConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DigitalOceanConfig")
            .field("endpoint", &self.endpoint)
            .field("regions", &self.regions)
            .field("image", &self.image)
            .finish_non_exhaustive()
    }
}

/// One account of DigitalOcean; see the crate's documentation for what is made in it.
///
/// Of what was made only the ids of the firewall and the SSH key are kept.
#[derive(Debug)]
pub struct DigitalOcean {
    hub: HubId,
    pub(crate) regions: Vec<String>,
    image: String,
    pub(crate) api: Api,
    pub(crate) guard: Guard,
    /// Read while a droplet is ordered, so that none of its tags is deleted then.
    pub(crate) ordering: RwLock<()>,
}

#[derive(Serialize)]
struct Volumes<'a> {
    volumes: &'a [String],
}

impl DigitalOcean {
    /// Calls nothing yet.
    #[must_use]
    pub fn new(config: DigitalOceanConfig) -> Self {
        let DigitalOceanConfig { hub, endpoint, regions, image, credentials, http } = config;
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        let (api, guard) = (Api { http, endpoint, credentials }, Guard::new(hub));
        Self { hub, regions, image, api, guard, ordering: RwLock::default() }
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
                "region {} is not one of providers.digitalocean.regions ({regions}); add it there",
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

    /// The droplet of this order, where an earlier call made one. The oldest of several: the reconciler sees them all.
    async fn made_before(&self, spec: &InstanceSpec) -> Result<Option<Droplet>, ProviderError> {
        let kind = if is_gpu(&spec.plan) { "&type=gpus" } else { "" };
        let (found, _) =
            self.api.list::<Many>(LIST, &format!("/v2/droplets?name={}{kind}", spec.key)).await?;
        let is_it = |droplet: &Droplet| tags::is_of(spec, &droplet.tags, &droplet.name);
        Ok(found.into_iter().filter(is_it).min_by_key(|droplet| droplet.id))
    }

    async fn create_one(&self, spec: &InstanceSpec) -> Result<Instance, ProviderError> {
        self.check(spec)?;
        if let Some(droplet) = self.made_before(spec).await.map_err(unordered)? {
            debug!(instance = %spec.key, droplet = droplet.id, "the droplet of this order is there already");
            return droplet.instance(CREATE);
        }
        let _ordering = self.ordering.read().await;
        let key = self.guard.stand(&self.api).await.map_err(unordered)?;
        let order = Order {
            name: spec.key.as_str(),
            region: &spec.region,
            size: &spec.plan,
            image: &self.image,
            ssh_keys: [key],
            tags: tags::of(spec),
            user_data: spec.user_data.expose(),
            ipv6: true,
            monitoring: false,
            with_droplet_agent: false,
        };
        match self.api.write::<One>(CREATE, Method::POST, "/v2/droplets", &order).await {
            Ok(made) => {
                info!(target: "audit", provider = "digitalocean", instance = %spec.key, droplet = made.droplet.id, "instance created");
                made.droplet.instance(CREATE)
            }
            Err(ProviderError::Reject { reason }) if speaks_of_key(&reason) => {
                self.guard.forget_key().await;
                Err(ProviderError::Busy {
                    reason: format!("the SSH key was deleted, another is made: {reason}"),
                })
            }
            Err(error) => Err(error),
        }
    }

    async fn list_all(&self) -> Result<Listing, ProviderError> {
        // The two filters cannot be used together, and the first one does not show droplets with GPUs.
        let (mut droplets, _) =
            self.api.list::<Many>(LIST, &format!("/v2/droplets?tag_name={}", tags::NODE)).await?;
        let (gpus, cloud_time) = self.api.list::<Many>(LIST, "/v2/droplets?type=gpus").await?;
        droplets.extend(gpus.into_iter().filter(Droplet::is_node));
        droplets.sort_by_key(|droplet| droplet.id);
        droplets.dedup_by_key(|droplet| droplet.id);
        let instances = droplets.iter().map(|droplet| droplet.instance(LIST)).collect::<Result<_, _>>()?;
        Ok(Listing { instances, cloud_time })
    }

    /// A droplet by its id; `None` where it is gone.
    async fn droplet(&self, provider_id: &str) -> Result<Option<Droplet>, ProviderError> {
        let id: u64 = provider_id.parse().map_err(|_| ProviderError::Reject {
            reason: format!(
                "{:?} is no id of a droplet: digits were expected",
                provider_id.get(..40).unwrap_or(provider_id)
            ),
        })?;
        let Some(One { droplet }) = self.api.find::<One>(GET, &format!("/v2/droplets/{id}")).await? else {
            return Ok(None);
        };
        if !droplet.is_node() {
            return Err(ProviderError::Reject {
                reason: format!(
                    "droplet {id} does not carry the tag {}, so it is left alone; put the tag back",
                    tags::NODE
                ),
            });
        }
        Ok(Some(droplet))
    }

    async fn delete_one(&self, provider_id: &str) -> Result<(), ProviderError> {
        let Some(droplet) = self.droplet(provider_id).await? else { return Ok(()) };
        let path = format!("/v2/droplets/{}", droplet.id);
        if droplet.volume_ids.is_empty() {
            self.api.delete(DESTROY, &path, None).await?;
        } else {
            // Volumes are billed on without their droplet. Snapshots, which people make, are kept.
            let path = format!("{path}/destroy_with_associated_resources/selective");
            let body = json(&Volumes { volumes: &droplet.volume_ids })?;
            self.api.delete(DESTROY_WITH, &path, Some(body)).await?;
        }
        info!(target: "audit", provider = "digitalocean", droplet = droplet.id, "instance deleted");
        litter::sweep_order(&self.api, &droplet).await;
        // While something is ordered the next droplet's end will do.
        if let Ok(_nothing) = self.ordering.try_write() {
            litter::sweep_deployment(&self.api, &droplet).await;
        }
        Ok(())
    }

    async fn standing(&self, provider_id: &str) -> Result<Droplet, ProviderError> {
        self.droplet(provider_id)
            .await?
            .ok_or_else(|| ProviderError::Reject { reason: format!("there is no droplet {provider_id}") })
    }

    async fn boot_one(&self, provider_id: &str) -> Result<(), ProviderError> {
        let droplet = self.standing(provider_id).await?;
        if droplet.status == "off" { actions::power_on(&self.api, droplet.id).await } else { Ok(()) }
    }

    async fn stop_one(&self, provider_id: &str) -> Result<(), ProviderError> {
        let droplet = self.standing(provider_id).await?;
        if droplet.status == "off" { Ok(()) } else { actions::power_off(&self.api, droplet.id).await }
    }
}

/// A refusal because of the SSH key, which was deleted by hand.
fn speaks_of_key(reason: &str) -> bool {
    let reason = reason.to_ascii_lowercase();
    reason.contains("key identifier") || (reason.contains("ssh") && reason.contains("key"))
}

impl Provider for DigitalOcean {
    fn name(&self) -> &'static str {
        "digitalocean"
    }

    fn offers(&self) -> BoxFuture<'_, Result<Vec<Offer>, ProviderError>> {
        Box::pin(async {
            let (sizes, cloud_time) = self.api.list::<Sizes>(SIZES, "/v2/sizes").await?;
            Ok(offers::of(&sizes, &self.regions, cloud_time.unwrap_or_else(now)))
        })
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
