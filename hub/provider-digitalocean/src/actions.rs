//! Switching droplets on and off.

use blueprint_hub_provision_core::ProviderError;
use http::Method;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::api::{Api, Call, call};

pub(crate) const ACTION_LIST: Call = call("dropletActions_list", "droplet:read");
pub(crate) const ACTION_POST: Call = call("dropletActions_post", "droplet:update");

/// Actions that are looked at; the newest are on the first page.
const LATEST: usize = 20;

#[derive(Debug, Deserialize)]
struct Action {
    id: u64,
    #[serde(rename = "type")]
    kind: String,
    status: String,
}

#[derive(Deserialize)]
struct Actions {
    actions: Vec<Action>,
}

#[derive(Serialize)]
struct Wanted<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
}

async fn ask(api: &Api, droplet: u64, kind: &str) -> Result<(), ProviderError> {
    let path = format!("/v2/droplets/{droplet}/actions");
    let _: Value = api.write(ACTION_POST, Method::POST, &path, &Wanted { kind }).await?;
    Ok(())
}

/// Switches a droplet on that is off.
pub(crate) async fn power_on(api: &Api, droplet: u64) -> Result<(), ProviderError> {
    ask(api, droplet, "power_on").await
}

/// Switches a droplet off that runs: it is asked to shut down, and where that was the last thing it was asked and it still runs,
/// its power is taken (the API's reference: `shutdown` may fail, then use `power_off`).
pub(crate) async fn power_off(api: &Api, droplet: u64) -> Result<(), ProviderError> {
    let path = format!("/v2/droplets/{droplet}/actions?page=1&per_page={LATEST}");
    let actions: Option<Actions> = api.find(ACTION_LIST, &path).await?;
    let actions = actions.map_or_else(Vec::new, |actions| actions.actions);
    match actions.iter().max_by_key(|action| action.id) {
        Some(last) if is_switching_off(last) && last.status == "in-progress" => Ok(()),
        Some(last) if last.kind == "shutdown" => ask(api, droplet, "power_off").await,
        Some(_) | None => ask(api, droplet, "shutdown").await,
    }
}

fn is_switching_off(action: &Action) -> bool {
    matches!(action.kind.as_str(), "shutdown" | "power_off")
}
