//! The provider: servers as machines.

use std::sync::Arc;

use blueprint_common_types::{HubId, Timestamp};
use blueprint_hub_provider_kit::{CredentialSource, HasAccount, HttpClient};
use blueprint_hub_provision_core::catalogue::{Offer, facts};
use blueprint_hub_provision_core::{Instance, InstanceSpec, Listing, Provider, ProviderError};
use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use http::Method;
use serde::Serialize;

use crate::api::{Api, Call, call, json, now, rights};
use crate::guard::Guard;
use crate::server::{Many, One, Server, parse_name};
use crate::{create, delete, offers, tags, volumes};

/// Where the API is.
pub const ENDPOINT: &str = "https://api.scaleway.com";

/// Zones that are asked at once what stands there: a list is some 27 calls, and has the time of one.
const AT_ONCE: usize = 4;

pub(crate) const LIST: Call = call("ListServers", rights::INSTANCES);
pub(crate) const GET: Call = call("GetServer", rights::INSTANCES);
pub(crate) const ACTION: Call = call("ServerAction", rights::INSTANCES);

/// What the provider is made of.
#[derive(Clone)]
pub struct ScalewayConfig {
    /// Whose servers they are.
    pub hub: HubId,
    /// Scheme and host of the API without a slash at the end; [`ENDPOINT`] but in tests.
    pub endpoint: String,
    /// Zones that servers are ordered in, such as `fr-par-1`; every one where empty. Servers are looked for in all of them.
    pub zones: Vec<String>,
    /// Label of the image, such as `debian_trixie`, or the id of one. It has to run cloud-init and boot from a block volume.
    pub image: String,
    /// Where the key comes from: fields `secret_key` and `project_id`.
    pub credentials: Arc<dyn CredentialSource>,
    /// What calls.
    pub http: HttpClient,
}

impl std::fmt::Debug for ScalewayConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ScalewayConfig")
            .field("endpoint", &self.endpoint)
            .field("zones", &self.zones)
            .field("image", &self.image)
            .finish_non_exhaustive()
    }
}

/// One project of Scaleway; see the crate's documentation for what is made in it.
///
/// Of what was made only the ids of the security groups are kept.
#[derive(Debug)]
pub struct Scaleway {
    pub(crate) hub: HubId,
    pub(crate) zones: Vec<String>,
    pub(crate) image: String,
    pub(crate) api: Api,
    pub(crate) guard: Guard,
}

#[derive(Serialize)]
struct Wanted {
    action: &'static str,
}

impl Scaleway {
    /// Calls nothing yet.
    #[must_use]
    pub fn new(config: ScalewayConfig) -> Self {
        let ScalewayConfig { hub, endpoint, zones, image, credentials, http } = config;
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        Self { hub, zones, image, api: Api { http, endpoint, credentials }, guard: Guard::new(hub) }
    }

    /// Zones where servers may be ordered.
    pub(crate) fn ordered_in(&self) -> Vec<&str> {
        match self.zones.as_slice() {
            [] => known().collect(),
            zones => zones.iter().map(String::as_str).collect(),
        }
    }

    /// Zones where servers may stand: those that are known, and those that are configured.
    pub(crate) fn looked_in(&self) -> Vec<&str> {
        let mut zones: Vec<&str> = known().collect();
        zones.extend(self.zones.iter().map(String::as_str).filter(|zone| known().all(|own| own != *zone)));
        zones
    }

    async fn list_all(&self) -> Result<Listing, ProviderError> {
        let project = self.api.project().await?;
        let (mut instances, mut cloud_time) = (Vec::new(), None);
        let mut names = self.looked_in().into_iter();
        // The first alone: a cloud that does not answer is asked once.
        if let Some(zone) = names.next() {
            (instances, cloud_time) = self.list_zone(zone, &project).await?;
        }
        let mut asked = Vec::new();
        for zone in names {
            asked.push(self.list_zone(zone, &project).boxed());
        }
        let mut zones = stream::iter(asked).buffered(AT_ONCE);
        while let Some((mut found, time)) = zones.try_next().await? {
            cloud_time = time.or(cloud_time);
            instances.append(&mut found);
        }
        Ok(Listing { instances, cloud_time })
    }

    /// What stands in one zone, and Scaleway's clock.
    async fn list_zone(
        &self,
        zone: &str,
        project: &str,
    ) -> Result<(Vec<Instance>, Option<Timestamp>), ProviderError> {
        let path = format!(
            "/instance/v1/zones/{zone}/servers?project={project}&tags={}&order=creation_date_asc",
            tags::NODE
        );
        let (servers, time) = self.api.list::<Many>(LIST, &path, false).await?;
        let servers = servers.iter().filter(|server| server.is_node());
        let mut found = servers.map(|server| server.instance(LIST, zone)).collect::<Result<Vec<_>, _>>()?;
        for left in volumes::left(&self.api, zone, project).await? {
            // While the server is there, it stands for its volumes.
            let Some(instance) = left.instance(zone)? else { continue };
            if found.iter().all(|own| own.provider_id != instance.provider_id) {
                found.push(instance);
            }
        }
        Ok((found, time))
    }

    /// A server of a hub by its name; `None` where it is gone.
    pub(crate) async fn server(&self, zone: &str, id: &str) -> Result<Option<Server>, ProviderError> {
        let path = server_path(zone, id);
        let Some(One { server }) = self.api.find::<One>(GET, &path).await? else { return Ok(None) };
        if !server.is_node() {
            return Err(ProviderError::Reject {
                reason: format!(
                    "server {id} in {zone} does not carry the tag {}, so it is left alone; put the tag back",
                    tags::NODE
                ),
            });
        }
        Ok(Some(server))
    }

    /// Asks for something that is done to a server.
    pub(crate) async fn act(&self, zone: &str, id: &str, action: &'static str) -> Result<(), ProviderError> {
        let path = format!("{}/action", server_path(zone, id));
        let body = json(&Wanted { action })?;
        self.api.order(ACTION, Method::POST, &path, Some(("application/json", body)), false).await
    }

    async fn standing(&self, zone: &str, id: &str) -> Result<Server, ProviderError> {
        let found = self.server(zone, id).await?;
        found.ok_or_else(|| ProviderError::Reject { reason: format!("there is no server {id} in {zone}") })
    }

    async fn boot_one(&self, provider_id: &str) -> Result<(), ProviderError> {
        let (zone, id) = parse_name(provider_id)?;
        let server = self.standing(zone, id).await?;
        if server.is_new() {
            return Err(ProviderError::Reject {
                reason: format!(
                    "server {id} in {zone} was never told what to run, so it is not switched on; order it again, or delete it"
                ),
            });
        }
        match server.state.as_str() {
            "locked" => Err(ProviderError::Reject {
                reason: format!(
                    "Scaleway locked the server {id} in {zone}; ask its support why, or delete the machine"
                ),
            }),
            "stopped" | "stopped in place" => self.act(zone, id, "poweron").await,
            _ => Ok(()),
        }
    }

    async fn stop_one(&self, provider_id: &str) -> Result<(), ProviderError> {
        let (zone, id) = parse_name(provider_id)?;
        let server = self.standing(zone, id).await?;
        match server.state.as_str() {
            "stopped" | "stopped in place" | "stopping" | "locked" => Ok(()),
            // Its place at Scaleway is given back, and only its volumes are paid for.
            _ => self.act(zone, id, "poweroff").await,
        }
    }
}

/// The zones that the hub knows of.
fn known() -> impl Iterator<Item = &'static str> {
    facts("scaleway").into_iter().flat_map(|facts| facts.regions())
}

/// The path of one server.
pub(crate) fn server_path(zone: &str, id: &str) -> String {
    format!("/instance/v1/zones/{zone}/servers/{id}")
}

impl HasAccount for Scaleway {
    fn account(&self) -> BoxFuture<'_, Result<String, ProviderError>> {
        Box::pin(self.api.project())
    }
}

impl Provider for Scaleway {
    fn name(&self) -> &'static str {
        "scaleway"
    }

    fn offers(&self) -> BoxFuture<'_, Result<Vec<Offer>, ProviderError>> {
        Box::pin(async { offers::ask(&self.api, &self.ordered_in(), now()).await })
    }

    fn list(&self) -> BoxFuture<'_, Result<Listing, ProviderError>> {
        Box::pin(self.list_all())
    }

    fn create<'a>(&'a self, spec: &'a InstanceSpec) -> BoxFuture<'a, Result<Instance, ProviderError>> {
        Box::pin(create::one(self, spec))
    }

    fn delete<'a>(&'a self, provider_id: &'a str) -> BoxFuture<'a, Result<(), ProviderError>> {
        Box::pin(delete::one(self, provider_id))
    }

    fn boot<'a>(&'a self, provider_id: &'a str) -> BoxFuture<'a, Result<(), ProviderError>> {
        Box::pin(self.boot_one(provider_id))
    }

    fn stop<'a>(&'a self, provider_id: &'a str) -> BoxFuture<'a, Result<(), ProviderError>> {
        Box::pin(self.stop_one(provider_id))
    }
}
