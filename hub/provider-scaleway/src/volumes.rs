//! Volumes that servers left: those of Block Storage, and local ones.

use blueprint_hub_provision_core::{Instance, InstanceState, ProviderError};
use serde::Deserialize;
use tracing::info;

use crate::api::{Api, Call, Rows, call, rights};
use crate::server::{Attached, date, name_of};
use crate::tags;

pub(crate) const BLOCK_LIST: Call = call("ListBlockVolumes", rights::BLOCK);
pub(crate) const BLOCK_UPDATE: Call = call("UpdateBlockVolume", rights::BLOCK);
pub(crate) const BLOCK_DELETE: Call = call("DeleteBlockVolume", rights::BLOCK);
pub(crate) const LOCAL_LIST: Call = call("ListVolumes", rights::INSTANCES);
pub(crate) const LOCAL_UPDATE: Call = call("UpdateVolume", rights::INSTANCES);
pub(crate) const LOCAL_DELETE: Call = call("DeleteVolume", rights::INSTANCES);

impl Attached {
    /// True for a volume of Block Storage, which is another product with calls of its own.
    pub(crate) fn is_block(&self) -> bool {
        self.volume_type == "sbs_volume"
    }
}

/// A volume as either product shows it.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Volume {
    id: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    tags: Vec<String>,
    #[serde(alias = "created_at")]
    creation_date: String,
    #[serde(skip)]
    is_block: bool,
}

#[derive(Deserialize)]
struct Blocks {
    volumes: Vec<Volume>,
    total_count: usize,
}

impl Rows for Blocks {
    type Row = Volume;
    const SIZE: &'static str = "page_size";

    fn rows(self) -> Vec<Volume> {
        self.volumes.into_iter().map(|volume| Volume { is_block: true, ..volume }).collect()
    }

    fn total(&self) -> Option<usize> {
        Some(self.total_count)
    }

    fn id(row: &Volume) -> String {
        row.id.clone()
    }
}

#[derive(Deserialize)]
struct Locals {
    volumes: Vec<Volume>,
}

impl Rows for Locals {
    type Row = Volume;

    fn rows(self) -> Vec<Volume> {
        self.volumes
    }

    fn id(row: &Volume) -> String {
        row.id.clone()
    }
}

/// The paths of both lists, for volumes with a tag.
fn block_path(zone: &str, tag: &str) -> String {
    format!("/block/v1/zones/{zone}/volumes?tags={tag}")
}

fn local_path(zone: &str, tag: &str) -> String {
    format!("/instance/v1/zones/{zone}/volumes?tags={tag}")
}

/// The call that changes a volume, and its path.
pub(crate) fn update(zone: &str, id: &str, is_block: bool) -> (Call, String) {
    if is_block {
        (BLOCK_UPDATE, format!("/block/v1/zones/{zone}/volumes/{id}"))
    } else {
        (LOCAL_UPDATE, format!("/instance/v1/zones/{zone}/volumes/{id}"))
    }
}

/// Volumes with a tag. A zone where one of the products is not sold has none of it.
async fn tagged(api: &Api, zone: &str, tag: &str) -> Result<Vec<Volume>, ProviderError> {
    let (mut volumes, _) = api.list::<Blocks>(BLOCK_LIST, &block_path(zone, tag), true).await?;
    let (locals, _) = api.list::<Locals>(LOCAL_LIST, &local_path(zone, tag), true).await?;
    volumes.extend(locals);
    // What a filter is worth is for the API to say; what is deleted is for the hub.
    volumes.retain(|volume| tags::has(&volume.tags, tag) && tags::has(&volume.tags, tags::LEFT));
    Ok(volumes)
}

/// Volumes of one project that servers left in a zone.
pub(crate) async fn left(api: &Api, zone: &str, project: &str) -> Result<Vec<Volume>, ProviderError> {
    let (mut volumes, _) = api
        .list::<Blocks>(BLOCK_LIST, &format!("{}&project_id={project}", block_path(zone, tags::LEFT)), true)
        .await?;
    let (locals, _) = api
        .list::<Locals>(LOCAL_LIST, &format!("{}&project={project}", local_path(zone, tags::LEFT)), true)
        .await?;
    volumes.extend(locals);
    volumes.retain(|volume| tags::has(&volume.tags, tags::LEFT));
    Ok(volumes)
}

/// Deletes what a server left, which is gone.
pub(crate) async fn take_away(api: &Api, zone: &str, server: &str) -> Result<(), ProviderError> {
    for volume in tagged(api, zone, &tags::of_server(server)).await? {
        let (call, path) = if volume.is_block {
            (BLOCK_DELETE, format!("/block/v1/zones/{zone}/volumes/{}", volume.id))
        } else {
            (LOCAL_DELETE, format!("/instance/v1/zones/{zone}/volumes/{}", volume.id))
        };
        api.delete(call, &path).await?;
        info!(target: "audit", provider = "scaleway", zone, server, volume = volume.id, "volume of an ended instance deleted");
    }
    Ok(())
}

impl Volume {
    /// The machine that it stands for: one on its way out. `None` where it does not say which.
    ///
    /// # Errors
    ///
    /// Where its date is none: a list has to be whole.
    pub(crate) fn instance(&self, zone: &str) -> Result<Option<Instance>, ProviderError> {
        let (Some(server), Some(key)) = (tags::server(&self.tags), tags::key(&self.tags, &self.name)) else {
            return Ok(None);
        };
        let created_at = date(&self.creation_date).ok_or_else(|| {
            let source = format!("volume {} in {zone}: its date is none", self.id).into();
            ProviderError::Other { call: if self.is_block { BLOCK_LIST } else { LOCAL_LIST }.name, source }
        })?;
        let provider_id = name_of(zone, server);
        let tags = tags::whose(&self.tags);
        Ok(Some(Instance { key, provider_id, tags, state: InstanceState::Stopping, created_at }))
    }
}
