//! Tags that nothing bears any more. They cost nothing, and stay in the account for ever where nobody deletes them.
//!
//! Deleting a tag takes it from all that bears it. So it goes only where DigitalOcean counts nothing that does, and none of this hub's
//! orders, which may be about to bear it, is under way. The number of the call (`bp-att-N`) is on droplets of every hub of the
//! account, and goes with `provider clean` alone.

use blueprint_hub_provision_core::{ProviderError, Tidied};
use serde::Deserialize;
use tracing::{debug, info};

use crate::api::{Api, Call, Rows, call};
use crate::cloud::GET;
use crate::droplet::{Droplet, One};
use crate::tags;

pub(crate) const TAG_LIST: Call = call("tags_list", "tag:read");
pub(crate) const TAG_GET: Call = call("tags_get", "tag:read");
pub(crate) const TAG_DELETE: Call = call("tags_delete", "tag:delete");

#[derive(Debug, Deserialize)]
struct Tag {
    name: String,
    resources: Resources,
}

#[derive(Debug, Deserialize)]
struct Resources {
    count: u64,
    #[serde(default)]
    last_tagged_uri: Option<String>,
}

#[derive(Deserialize)]
struct OneTag {
    tag: Tag,
}

#[derive(Deserialize)]
struct Tags {
    tags: Vec<Tag>,
}

impl Rows for Tags {
    type Row = Tag;

    fn rows(self) -> Vec<Tag> {
        self.tags
    }

    fn id(row: &Tag) -> String {
        row.name.clone()
    }
}

/// Deletes the tag of the order of a droplet that was deleted. It has no other one; what does not work is left.
pub(crate) async fn sweep_order(api: &Api, droplet: &Droplet) {
    if let Some(tag) = droplet.tags.iter().find(|tag| is_key_of(tag, droplet)) {
        note(tag, delete(api, tag).await);
    }
}

/// Deletes the tag of the deployment of a droplet that was deleted, where it was the last one that bore it; what does not work is
/// left. To be called while nothing is ordered.
pub(crate) async fn sweep_deployment(api: &Api, droplet: &Droplet) {
    if let Some(tag) = droplet.tags.iter().find(|tag| tags::is_of_deployment(tag)) {
        note(tag, last_one(api, tag, droplet.id).await);
    }
}

fn note(tag: &str, swept: Result<(), ProviderError>) {
    if let Err(error) = swept {
        debug!(tag, error = error.line(), "the tag of a deleted droplet stays in the account");
    }
}

async fn last_one(api: &Api, name: &str, droplet: u64) -> Result<(), ProviderError> {
    let Some(OneTag { tag }) = api.find::<OneTag>(TAG_GET, &format!("/v2/tags/{name}")).await? else {
        return Ok(());
    };
    let Resources { count, last_tagged_uri } = tag.resources;
    if count == 1 {
        // It may still be counted, and then has to be gone itself.
        let end = format!("/droplets/{droplet}");
        let is_own = last_tagged_uri.is_some_and(|uri| uri.ends_with(&end));
        if !is_own || api.find::<One>(GET, &format!("/v2/droplets/{droplet}")).await?.is_some() {
            return Ok(());
        }
    } else if count > 1 {
        return Ok(());
    }
    delete(api, name).await
}

async fn delete(api: &Api, name: &str) -> Result<(), ProviderError> {
    api.delete(TAG_DELETE, &format!("/v2/tags/{name}"), None).await
}

/// Deletes what hubs tag orders with and nothing bears, of any hub of the account: nobody can tell whose it was.
///
/// # Errors
///
/// As the cloud answers; a token that may not list tags is noted.
pub(crate) async fn clean(api: &Api, tidied: &mut Tidied) -> Result<(), ProviderError> {
    let listed = match api.list::<Tags>(TAG_LIST, "/v2/tags").await {
        Err(ProviderError::Deny { action }) => {
            tidied.kept.push(format!("tags that nothing bears: not allowed to {action}"));
            return Ok(());
        }
        listed => listed?.0,
    };
    let mut count = 0;
    for tag in listed.iter().filter(|tag| tag.resources.count == 0 && tags::is_of_order(&tag.name)) {
        // Another hub of the account may have ordered with it since.
        let now = api.find::<OneTag>(TAG_GET, &format!("/v2/tags/{}", tag.name)).await?;
        if now.is_some_and(|now| now.tag.resources.count == 0) {
            delete(api, &tag.name).await?;
            count += 1;
        }
    }
    if count > 0 {
        info!(target: "audit", provider = "digitalocean", count, "tags deleted that nothing bore");
        tidied.removed.push(format!("{count} tags that nothing bore"));
    }
    Ok(())
}

/// Whether a tag is that of the order of this droplet and nothing else's, so that it can go with it. One that was renamed
/// keeps it: it is listed for a moment more, and has no other sign of its order.
fn is_key_of(tag: &str, droplet: &Droplet) -> bool {
    tags::key(&[], &droplet.name).is_some_and(|key| tags::of_key(&key).eq_ignore_ascii_case(tag))
}
