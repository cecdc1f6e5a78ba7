//! How a server is made: ordered switched off, told what to run, switched on.

use std::collections::BTreeMap;

use blueprint_hub_provider_kit::unordered;
use blueprint_hub_provision_core::{ErrorClass, Instance, InstanceSpec, InstanceState, ProviderError};
use http::Method;
use tracing::{debug, info, warn};

use crate::api::{Call, call, rights};
use crate::cloud::{LIST, Scaleway, server_path};
use crate::server::{Disk, Many, One, Order, Retagged, Server, name_of};
use crate::{delete, image, tags};

pub(crate) const CREATE: Call = call("CreateServer", rights::INSTANCES);
pub(crate) const USER_DATA: Call = call("SetServerUserData", rights::INSTANCES);
pub(crate) const UPDATE: Call = call("UpdateServer", rights::INSTANCES);

/// Most bytes of user data. Scaleway does not document its limit; the hub's is below 12 KiB, and most clouds take 16.
const MAX_USER_DATA: usize = 16 * 1024;

/// GB of a system disk where an order names none: what the images of Scaleway need.
const LEAST_DISK_GB: u32 = 10;

/// Most GB of a disk (10 TB, the block volumes' own limit).
const MOST_DISK_GB: u32 = 10_000;

/// Makes the server of an order, or finishes or returns the one that is there.
pub(crate) async fn one(cloud: &Scaleway, spec: &InstanceSpec) -> Result<Instance, ProviderError> {
    check(cloud, spec)?;
    let zone = spec.region.as_str();
    let found = made_before(cloud, spec).await.map_err(unordered)?;
    if let Some(server) = found.as_ref().filter(|server| !server.is_new()) {
        debug!(instance = %spec.key, server = server.id, "the server of this order is there already");
        if server.state == "stopped" {
            cloud.act(zone, &server.id, "poweron").await?;
        }
        return server.instance(CREATE, zone);
    }
    let group = cloud.guard.stand(&cloud.api, zone).await;
    let server = match found {
        Some(server) => {
            group?;
            server
        }
        None => order(cloud, spec, &group.map_err(unordered)?).await?,
    };
    match finish(cloud, spec, &server).await {
        Ok(()) => {
            info!(target: "audit", provider = "scaleway", instance = %spec.key, zone, server = server.id, "instance created");
            let made = Server { tags: tags::of(spec), ..server };
            Ok(Instance { state: InstanceState::Starting, ..made.instance(CREATE, zone)? })
        }
        Err(error) => {
            abandon(cloud, zone, &server, &error).await;
            Err(error)
        }
    }
}

fn check(cloud: &Scaleway, spec: &InstanceSpec) -> Result<(), ProviderError> {
    let reject = |reason: String| Err(ProviderError::Reject { reason });
    if spec.spot {
        return Err(ProviderError::NotSold {
            what: format!("{} in {} as a spot machine", spec.plan, spec.region),
        });
    }
    let zones = cloud.ordered_in();
    if !zones.contains(&spec.region.as_str()) {
        return reject(format!(
            "zone {} is not one of providers.scaleway.zones ({}); add it there",
            spec.region,
            zones.join(", ")
        ));
    }
    if spec.tags.as_ref().is_some_and(|tags| tags.hub != cloud.hub) {
        return reject("the order is another hub's".to_owned());
    }
    if spec.disk_gb > MOST_DISK_GB {
        return reject(format!(
            "a disk of {} GB is more than the {MOST_DISK_GB} that there are",
            spec.disk_gb
        ));
    }
    let bytes = spec.user_data.expose().len();
    if bytes > MAX_USER_DATA {
        return reject(format!("the user data has {bytes} bytes, of {MAX_USER_DATA} at most"));
    }
    Ok(())
}

/// The server of this order, where an earlier call made one. One that runs goes before one that was made in part, and then
/// the oldest: the reconciler sees them all.
async fn made_before(cloud: &Scaleway, spec: &InstanceSpec) -> Result<Option<Server>, ProviderError> {
    let project = cloud.api.project().await?;
    let path = format!(
        "/instance/v1/zones/{}/servers?project={project}&tags={}",
        spec.region,
        tags::of_key(&spec.key)
    );
    let (found, _) = cloud.api.list::<Many>(LIST, &path, false).await?;
    let whose = spec.tags.as_ref().map(|tags| (tags.hub, &tags.deployment));
    let is_it = |server: &Server| {
        let own = tags::whose(&server.tags);
        let own = own.as_ref().map(|own| (own.hub, &own.deployment));
        server.is_node() && tags::key(&server.tags, &server.name).as_ref() == Some(&spec.key) && own == whose
    };
    let mut found: Vec<_> = found.into_iter().filter(is_it).collect();
    found.sort_by(|a, b| (a.is_new(), &a.creation_date, &a.id).cmp(&(b.is_new(), &b.creation_date, &b.id)));
    Ok(found.into_iter().next())
}

/// The `POST`; what it makes does not run.
async fn order(cloud: &Scaleway, spec: &InstanceSpec, group: &str) -> Result<Server, ProviderError> {
    let image = image::find(&cloud.api, &cloud.image, spec).await.map_err(unordered)?;
    let project = cloud.api.project().await.map_err(unordered)?;
    let size = u64::from(spec.disk_gb.max(LEAST_DISK_GB)).saturating_mul(1_000_000_000);
    let order = Order {
        name: spec.key.as_str(),
        project: &project,
        commercial_type: &spec.plan,
        image: &image,
        tags: [tags::of(spec), vec![tags::NEW.to_owned()]].concat(),
        security_group: group,
        dynamic_ip_required: true,
        volumes: BTreeMap::from([("0", Disk { volume_type: "sbs_volume", size })]),
    };
    let path = format!("/instance/v1/zones/{}/servers", spec.region);
    let made: One = cloud.api.write(CREATE, Method::POST, &path, &order).await?;
    debug!(instance = %spec.key, server = made.server.id, "server ordered; it does not run yet");
    Ok(made.server)
}

/// Tells a server what to run, notes whose token it has, and switches it on.
async fn finish(cloud: &Scaleway, spec: &InstanceSpec, server: &Server) -> Result<(), ProviderError> {
    let path = server_path(&spec.region, &server.id);
    let data = spec.user_data.expose().clone().into_bytes();
    let at = format!("{path}/user_data/cloud-init");
    cloud.api.order(USER_DATA, Method::PATCH, &at, Some(("text/plain", data)), false).await?;
    let _: One = cloud.api.write(UPDATE, Method::PATCH, &path, &Retagged { tags: tags::of(spec) }).await?;
    cloud.act(&spec.region, &server.id, "poweron").await
}

/// Takes away what an order that was refused made: it would be paid for. What stays is listed, and goes then.
async fn abandon(cloud: &Scaleway, zone: &str, server: &Server, error: &ProviderError) {
    let is_over = match error.class() {
        ErrorClass::Deny
        | ErrorClass::Reject
        | ErrorClass::Quota
        | ErrorClass::NoQuota
        | ErrorClass::Capacity
        | ErrorClass::NotSold => true,
        // The next call goes on with it.
        ErrorClass::Throttle | ErrorClass::Again | ErrorClass::Unknown => false,
    };
    if is_over && let Err(error) = delete::one(cloud, &name_of(zone, &server.id)).await {
        warn!(
            zone,
            server = server.id,
            error = error.line(),
            "a server of a refused order stays until it is listed"
        );
    }
}
