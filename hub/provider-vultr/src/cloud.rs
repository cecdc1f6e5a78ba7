//! The provider: cloud instances and whole machines as machines of the hub.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use blueprint_common_types::{HubId, Secret, Timestamp};
use blueprint_hub_provider_kit::plans::vultr::Meta;
use blueprint_hub_provider_kit::rest::{Call, Rest, Rows, call};
use blueprint_hub_provider_kit::{CredentialSource, HttpClient, cloud_time, flat_tags, unordered};
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
use crate::line::{Line, UPDATE_METAL};
use crate::machine::{Machine, One, Order};
use crate::offers;

/// Where the API is.
pub const ENDPOINT: &str = "https://api.vultr.com";

/// Most bytes of user data before Base64. Vultr publishes no limit; that of the strictest clouds is kept.
const MAX_USER_DATA: usize = 16 * 1024;

/// Rows of a page: the most there are (the API's reference, `per_page`).
const PER_PAGE: usize = 500;

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
    /// Whether whole machines are offered and ordered, too. No firewall of Vultr's stands before those.
    pub bare_metal: bool,
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
            .field("bare_metal", &self.bare_metal)
            .finish_non_exhaustive()
    }
}

/// One account of Vultr; see the crate's documentation for what is made in it.
#[derive(Debug)]
pub struct Vultr {
    hub: HubId,
    pub(crate) regions: Vec<String>,
    pub(crate) image: String,
    pub(crate) bare_metal: bool,
    pub(crate) rest: Rest,
    pub(crate) guard: Guard,
}

/// A page of any list, under whatever name the API has for it.
#[derive(Deserialize)]
struct Page<T> {
    #[serde(
        rename = "instances",
        alias = "bare_metals",
        alias = "firewall_groups",
        alias = "firewall_rules",
        alias = "os",
        alias = "plans",
        alias = "plans_metal",
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
        let VultrConfig { hub, endpoint, regions, image, bare_metal, credentials, http } = config;
        let rest = Rest::new(STYLE, http, &endpoint, credentials);
        Self { hub, regions, image, bare_metal, rest, guard: Guard::new(hub) }
    }

    fn check(&self, spec: &InstanceSpec) -> Result<Line, ProviderError> {
        let reject = |reason: String| Err(ProviderError::Reject { reason });
        let what = || format!("{} in {}", spec.plan, spec.region);
        if spec.spot {
            return Err(ProviderError::NotSold { what: format!("{} as a spot machine", what()) });
        }
        if spec.arch != Arch::X86_64 {
            return Err(ProviderError::NotSold { what: format!("{} with {}", what(), spec.arch.as_str()) });
        }
        let line = Line::of_plan(&spec.plan);
        if line == Line::Metal && !self.bare_metal {
            return Err(ProviderError::NotSold {
                what: format!(
                    "{}: a whole machine, before which no firewall of Vultr's stands; set providers.vultr.bare_metal \
                     where that is wanted, else it",
                    what()
                ),
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
        Ok(line)
    }

    /// The machines of a line that bear `tag`.
    async fn tagged(
        &self,
        line: Line,
        tag: &str,
    ) -> Result<(Vec<Machine>, Option<Timestamp>), ProviderError> {
        let path = match line {
            Line::Cloud => format!("{}?tag={tag}&", line.path()),
            // Whole machines are few, and no list of theirs by tag is documented.
            Line::Metal => format!("{}?", line.path()),
        };
        let (mut machines, time) =
            all::<Machine>(&self.rest, line.calls().list, &path, |one| one.id.clone()).await?;
        if line == Line::Metal {
            machines.retain(|one| one.tags.iter().any(|own| own.eq_ignore_ascii_case(tag)));
        }
        machines.iter_mut().for_each(|one| one.line = line);
        Ok((machines, time))
    }

    /// The machine of this order, where an earlier call made one. The oldest of several: the reconciler sees them all.
    async fn made_before(&self, line: Line, spec: &InstanceSpec) -> Result<Option<Instance>, ProviderError> {
        let (found, _) = self.tagged(line, &flat_tags::of_key(&spec.key)).await.map_err(unordered)?;
        let of_order = found.iter().filter(|one| flat_tags::is_of(spec, &one.tags, &one.label));
        let create = line.calls().create;
        let instances =
            of_order.map(|one| one.instance(create)).collect::<Result<Vec<_>, ProviderError>>()?;
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

    /// The number of the system, and the firewall group that an instance is born behind.
    async fn prepared(&self, line: Line) -> Result<(u64, Option<String>), ProviderError> {
        let Some(system) = self.system().await? else {
            let reason =
                format!("there is no system {:?} at Vultr; correct providers.vultr.image", self.image);
            return Err(ProviderError::Reject { reason });
        };
        let group = match line {
            Line::Cloud => Some(self.guard.stand(&self.rest).await?),
            Line::Metal => None,
        };
        Ok((system, group))
    }

    async fn create_one(&self, spec: &InstanceSpec) -> Result<Instance, ProviderError> {
        let line = self.check(spec)?;
        if let Some(instance) = self.made_before(line, spec).await? {
            debug!(instance = %spec.key, "the machine of this order is there already");
            return Ok(instance);
        }
        let (system, group) = self.prepared(line).await.map_err(unordered)?;
        let user_data = Secret::new(STANDARD.encode(spec.user_data.expose()));
        let order = Order {
            region: &spec.region,
            plan: &spec.plan,
            os_id: system,
            label: spec.key.as_str(),
            hostname: spec.key.as_str(),
            tags: flat_tags::of(spec),
            user_data: user_data.expose(),
            firewall_group_id: group.as_deref(),
            enable_ipv6: true,
            activation_email: false,
            backups: (line == Line::Cloud).then_some("disabled"),
        };
        let create = line.calls().create;
        let made: One = self.rest.write(create, Method::POST, line.path(), &order).await?;
        let made = made.of(line).instance(create)?;
        info!(target: "audit", provider = "vultr", instance = %spec.key, id = made.provider_id, "instance created");
        Ok(made)
    }

    async fn list_all(&self) -> Result<Listing, ProviderError> {
        let mut listing = Listing::default();
        // Both, whatever is offered: what stands is billed.
        for line in Line::ALL {
            let (machines, cloud_time) = self.tagged(line, flat_tags::NODE).await?;
            listing.cloud_time = cloud_time.or(listing.cloud_time);
            for machine in machines.iter().filter(|machine| machine.is_node()) {
                listing.instances.push(machine.instance(line.calls().list)?);
            }
        }
        Ok(listing)
    }

    /// Where a machine is, by the hub's name of it, and the machine; `None` where it is gone.
    async fn machine(&self, provider_id: &str) -> Result<(String, Option<Machine>), ProviderError> {
        let Some((line, id)) = Line::parse(provider_id) else {
            return Err(ProviderError::Reject {
                reason: format!(
                    "{:?} is no id of a machine: a UUID was expected, after bm- for a whole machine",
                    provider_id.chars().take(40).collect::<String>()
                ),
            });
        };
        let path = format!("{}/{id}", line.path());
        let found = self.rest.find::<One>(line.calls().get, &path).await?;
        let Some(machine) = found.map(|one| one.of(line)) else { return Ok((path, None)) };
        if !machine.is_node() {
            return Err(ProviderError::Reject {
                reason: format!(
                    "instance {provider_id} does not carry the tag {}, so it is left alone; put the tag back",
                    flat_tags::NODE
                ),
            });
        }
        Ok((path, Some(machine)))
    }

    async fn delete_one(&self, provider_id: &str) -> Result<(), ProviderError> {
        let (path, Some(machine)) = self.machine(provider_id).await? else { return Ok(()) };
        // Its disk and its addresses go with it. Block storage is a person's: the hub makes none.
        self.rest.delete(machine.line.calls().delete, &path).await?;
        info!(target: "audit", provider = "vultr", id = provider_id, "instance deleted");
        Ok(())
    }

    async fn switch(&self, provider_id: &str, is_on: bool) -> Result<(), ProviderError> {
        let (path, machine) = self.machine(provider_id).await?;
        let machine = machine
            .ok_or_else(|| ProviderError::Reject { reason: format!("there is no instance {provider_id}") })?;
        if machine.line == Line::Metal && machine.is_pending() {
            return Err(ProviderError::Busy { reason: "the machine is not delivered yet".to_owned() });
        }
        if machine.is_off() != is_on {
            return Ok(());
        }
        let calls = machine.line.calls();
        let (call, verb) = if is_on { (calls.start, "start") } else { (calls.halt, "halt") };
        self.rest.act(call, &format!("{path}/{verb}")).await?;
        if machine.line == Line::Metal {
            // After the switch: where this fails it is switched once more, which harms less than a note that is not so.
            let note = machine.retagged(!is_on);
            self.rest.write::<serde_json::Value>(UPDATE_METAL, Method::PATCH, &path, &note).await?;
        }
        Ok(())
    }
}

impl Provider for Vultr {
    fn name(&self) -> &'static str {
        "vultr"
    }

    fn offers(&self) -> BoxFuture<'_, Result<Vec<Offer>, ProviderError>> {
        Box::pin(offers::ask(&self.rest, &self.regions, self.bare_metal))
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
