//! How a server ends, with everything that is paid for beside it.

use blueprint_hub_provision_core::ProviderError;
use http::Method;
use tracing::info;

use crate::api::{Call, call, json, rights};
use crate::cloud::{Scaleway, server_path};
use crate::server::{Attached, Retagged, Server, parse_name};
use crate::{tags, volumes};

pub(crate) const DELETE: Call = call("DeleteServer", rights::INSTANCES);

/// The place of the volume that an order made; what is at another place is a person's.
const SYSTEM: &str = "0";

/// Ends a server, and then the volume that was ordered with it. Other volumes and flexible addresses are people's: they are
/// detached and stay. A call for a server that is gone takes what it left.
pub(crate) async fn one(cloud: &Scaleway, provider_id: &str) -> Result<(), ProviderError> {
    let (zone, id) = parse_name(provider_id)?;
    let Some(server) = cloud.server(zone, id).await? else {
        return volumes::take_away(&cloud.api, zone, id).await;
    };
    // It is on its way, either out or to where it can be deleted.
    if server.state == "stopping" {
        return Ok(());
    }
    // One that is switched off cannot be terminated (its `allowed_actions` are `poweron` and `backup`), and deleting it
    // leaves every volume; terminating one that runs leaves those of Block Storage alone.
    let is_off = matches!(server.state.as_str(), "stopped" | "stopped in place" | "locked");
    let is_peoples = |(place, volume): (&String, &Attached)| place != SYSTEM && !volume.is_block();
    if !is_off && server.volumes.iter().any(is_peoples) {
        // Another call deletes it once it is off.
        return cloud.act(zone, id, "poweroff").await;
    }
    if let Some(volume) = server.volumes.get(SYSTEM).filter(|volume| is_off || volume.is_block()) {
        mark(cloud, zone, &server, volume).await?;
    }
    if is_off {
        cloud.api.delete(DELETE, &server_path(zone, id)).await?;
    } else {
        cloud.act(zone, id, "terminate").await?;
    }
    info!(target: "audit", provider = "scaleway", zone, server = id, "instance deleted");
    // Often it is gone at once; where not, it and then its volumes are listed until another call takes them.
    match cloud.server(zone, id).await? {
        None => volumes::take_away(&cloud.api, zone, id).await,
        Some(_) => Ok(()),
    }
}

/// Has a volume say whose it was, before that cannot be told any more.
async fn mark(cloud: &Scaleway, zone: &str, server: &Server, volume: &Attached) -> Result<(), ProviderError> {
    let (call, path) = volumes::update(zone, &volume.id, volume.is_block());
    let body = json(&Retagged { tags: tags::of_left(&server.id, &server.tags) })?;
    cloud.api.order(call, Method::PATCH, &path, Some(("application/json", body)), true).await
}
