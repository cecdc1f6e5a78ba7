//! The provider: devices as machines.

use std::sync::Arc;

use blueprint_common_types::HubId;
use blueprint_hub_provider_kit::{CredentialSource, HttpClient, cloud_time, unordered};
use blueprint_hub_provision_core::catalogue::Offer;
use blueprint_hub_provision_core::resource::Arch;
use blueprint_hub_provision_core::{Instance, InstanceSpec, InstanceState, Listing, Provider, ProviderError};
use futures_util::future::BoxFuture;
use tracing::{debug, info};

use crate::api::{Api, Call, now};
use crate::device::{Device, Line, Order};
use crate::{offers, tags};

/// Where the API is.
pub const ENDPOINT: &str = "https://core.hivelocity.net";

pub(crate) const LIST: Call = Call("get_bare_metal_device_resource");
pub(crate) const GET: Call = Call("get_bare_metal_device_id_resource");
pub(crate) const CREATE: Call = Call("post_bare_metal_device_resource");
pub(crate) const CANCEL: Call = Call("delete_bare_metal_device_id_resource");
pub(crate) const POWER: Call = Call("post_power_resource");

/// Most bytes of user data. The API does not document its limit; the hub's is below 12 KiB, and most clouds take 16.
const MAX_USER_DATA: usize = 16 * 1024;

/// The domain of host names, which have to have one; no name of it leads anywhere (RFC 9476 has `.alt` for such).
const DOMAIN: &str = "blueprint-hub.alt";

/// What the provider is made of.
#[derive(Clone)]
pub struct HivelocityConfig {
    /// Whose devices they are.
    pub hub: HubId,
    /// Scheme and host of the API without a slash at the end; [`ENDPOINT`] but in tests.
    pub endpoint: String,
    /// Facilities that devices are ordered in, such as `NYC1`; every one where empty.
    pub facilities: Vec<String>,
    /// Name of the operating system, such as `Ubuntu 24.04`, which has to be one of the product's. It has to run cloud-init.
    pub system: String,
    /// Where the key comes from: field `api_key`.
    pub credentials: Arc<dyn CredentialSource>,
    /// What calls.
    pub http: HttpClient,
}

impl std::fmt::Debug for HivelocityConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HivelocityConfig")
            .field("endpoint", &self.endpoint)
            .field("facilities", &self.facilities)
            .field("system", &self.system)
            .finish_non_exhaustive()
    }
}

/// One account of Hivelocity; see the crate's documentation for what is made in it.
#[derive(Debug)]
pub struct Hivelocity {
    hub: HubId,
    pub(crate) facilities: Vec<String>,
    system: String,
    pub(crate) api: Api,
}

impl Hivelocity {
    /// Calls nothing yet.
    #[must_use]
    pub fn new(config: HivelocityConfig) -> Self {
        let HivelocityConfig { hub, endpoint, facilities, system, credentials, http } = config;
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        Self { hub, facilities, system, api: Api { http, endpoint, credentials } }
    }

    fn check(&self, spec: &InstanceSpec) -> Result<(Line, u64), ProviderError> {
        let reject = |reason: String| Err(ProviderError::Reject { reason });
        let what = || format!("{} in {}", spec.plan, spec.region);
        let Some(product) = Line::parse(&spec.plan) else {
            return Err(ProviderError::NotSold {
                what: format!("{}: a product such as bm-525 is, that", what()),
            });
        };
        if spec.spot {
            return Err(ProviderError::NotSold { what: format!("{} as a spot machine", what()) });
        }
        if spec.arch != Arch::X86_64 {
            return Err(ProviderError::NotSold { what: format!("{} with {}", what(), spec.arch.as_str()) });
        }
        if !self.facilities.is_empty() && !self.facilities.contains(&spec.region) {
            return reject(format!(
                "facility {} is not one of providers.hivelocity.facilities ({}); add it there",
                spec.region,
                self.facilities.join(", ")
            ));
        }
        if spec.tags.as_ref().is_some_and(|tags| tags.hub != self.hub) {
            return reject("the order is another hub's".to_owned());
        }
        let bytes = spec.user_data.expose().len();
        if bytes > MAX_USER_DATA {
            return reject(format!("the user data has {bytes} bytes, of {MAX_USER_DATA} at most"));
        }
        Ok(product)
    }

    /// The device of this order, where an earlier call made one. The oldest of several: the reconciler sees them all.
    async fn made_before(&self, line: Line, spec: &InstanceSpec) -> Result<Option<Device>, ProviderError> {
        let (devices, _) = self.api.get::<Vec<Device>>(LIST, line.path()).await?;
        let whose = spec.tags.as_ref().map(|tags| (tags.hub, &tags.deployment));
        let is_it = |device: &Device| {
            let own = tags::whose(device.tags());
            let own = own.as_ref().map(|own| (own.hub, &own.deployment));
            let key = tags::key(device.tags(), device.hostname.as_deref().unwrap_or_default());
            device.is_node(line) && key.as_ref() == Some(&spec.key) && own == whose
        };
        Ok(devices.into_iter().filter(is_it).min_by_key(|device| device.device_id))
    }

    async fn create_one(&self, spec: &InstanceSpec) -> Result<Instance, ProviderError> {
        let (line, product_id) = self.check(spec)?;
        if let Some(device) = self.made_before(line, spec).await.map_err(unordered)? {
            debug!(instance = %spec.key, device = device.device_id, "the device of this order is there already");
            return device.instance(CREATE, line);
        }
        let suffix = if line == Line::Vps { " (VPS)" } else { "" };
        let tags = tags::of(spec, line == Line::Vps, now());
        let order = Order {
            product_id,
            location_name: &spec.region,
            os_name: &format!("{}{suffix}", self.system),
            hostname: &format!("{}.{DOMAIN}", spec.key),
            period: "hourly",
            tags: tags.clone(),
            script: spec.user_data.expose(),
        };
        let made: Device = self.api.post(CREATE, line.path(), &order).await?;
        info!(target: "audit", provider = "hivelocity", instance = %spec.key, device = made.device_id, "instance ordered");
        let made = Device { tags: Some(tags), ..made };
        Ok(Instance { state: InstanceState::Starting, ..made.instance(CREATE, line)? })
    }

    async fn list_all(&self) -> Result<Listing, ProviderError> {
        let mut listing = Listing::default();
        for line in Line::ALL {
            let (devices, answer) = self.api.get::<Vec<Device>>(LIST, line.path()).await?;
            listing.cloud_time = cloud_time(answer.headers()).or(listing.cloud_time);
            for device in devices.iter().filter(|device| device.is_node(line)) {
                listing.instances.push(device.instance(LIST, line)?);
            }
        }
        Ok(listing)
    }

    /// Line and path of a device by the hub's name of it, and the device; `None` where it is gone.
    async fn device(&self, provider_id: &str) -> Result<(String, Option<Device>), ProviderError> {
        let (line, number) = Line::parse(provider_id).ok_or_else(|| ProviderError::Reject {
            reason: format!(
                "{:?} is no name of a device: such as bm-1234 or vps-1234 was expected",
                provider_id.get(..40).unwrap_or(provider_id)
            ),
        })?;
        let path = format!("{}{number}", line.path());
        let device = self.api.find::<Device>(GET, &path).await?;
        match device {
            Some(device) if !device.is_node(line) => Err(ProviderError::Reject {
                reason: format!(
                    "device {number} does not carry the tag {}, so it is left alone; put the tag back",
                    tags::NODE
                ),
            }),
            device => Ok((path, device)),
        }
    }

    async fn delete_one(&self, provider_id: &str) -> Result<(), ProviderError> {
        let (path, Some(device)) = self.device(provider_id).await? else { return Ok(()) };
        self.api.cancel(CANCEL, &path).await?;
        info!(target: "audit", provider = "hivelocity", device = device.device_id, "instance cancelled");
        Ok(())
    }

    async fn switch(&self, provider_id: &str, is_on: bool) -> Result<(), ProviderError> {
        let (_, device) = self.device(provider_id).await?;
        let device = device
            .ok_or_else(|| ProviderError::Reject { reason: format!("there is no device {provider_id}") })?;
        let state = device.state();
        let action = if is_on { "boot" } else { "shutdown" };
        match (is_on, &state) {
            (true, InstanceState::Stopped) | (false, InstanceState::Running) => {}
            (false, InstanceState::Starting) => {
                return Err(ProviderError::Busy { reason: "the device is not delivered yet".to_owned() });
            }
            (_, _) => return Ok(()),
        }
        self.api.act(POWER, &format!("/device/{}/power?action={action}", device.device_id)).await
    }
}

impl Provider for Hivelocity {
    fn name(&self) -> &'static str {
        "hivelocity"
    }

    fn offers(&self) -> BoxFuture<'_, Result<Vec<Offer>, ProviderError>> {
        Box::pin(async { offers::ask(&self.api, &self.facilities, now()).await })
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
