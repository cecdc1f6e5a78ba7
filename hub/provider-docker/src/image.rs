//! What machines are made of: an image of the operator's, or an empty one where the agent needs nothing.

use blueprint_common_engine::encode;
use blueprint_common_types::{HubId, Secret};
use blueprint_hub_provision_core::ProviderError;
use http::{Method, StatusCode};
use serde_json::Value;
use tracing::info;

use crate::api::Api;
use crate::archive::Archive;
use crate::cloud::{AgentProgram, Patience};
use crate::engine::Said;
use crate::machine::{USER, mark};
use crate::refusal;

/// The empty image of a hub's machines, by name and tag.
pub(crate) fn empty_name(hub: HubId) -> String {
    format!("blueprint-machine:{}", mark(hub))
}

/// Makes sure that the engine has the image, and gives its name.
pub(crate) async fn ensure(
    api: &Api<'_>,
    patience: Patience,
    wanted: Option<&str>,
    hub: HubId,
    program: &AgentProgram,
) -> Result<String, ProviderError> {
    if wanted.is_none() && !program.is_static {
        let reason = "this agent needs a C library, and machines have none without an image: set the image to one that has it, \
                      such as debian:13-slim, or put a static agent (packaging/static-agent) into bootstrap.agents";
        return Err(ProviderError::Reject { reason: reason.to_owned() });
    }
    let name = wanted.map_or_else(|| empty_name(hub), str::to_owned);
    let path = format!("/images/{}/json", encode(&name));
    let said = api.send(api.call("ImageInspect", Method::GET, &path, patience.ask)).await?;
    if said.status != StatusCode::NOT_FOUND {
        said.done(&[])?;
        return Ok(name);
    }
    let said = match wanted {
        Some(image) => pull(api, patience, image).await?,
        None => make(api, patience, &name).await?,
    };
    let failed = |reason| ProviderError::Reject { reason: format!("cannot get the image {name}: {reason}") };
    if matches!(said.status, StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST) {
        return Err(failed(refusal::words(&said.body)));
    }
    said.done(&[])?;
    if let Some(reason) = fault(&said.body) {
        return Err(failed(reason));
    }
    info!(image = name, "an engine has the image of machines");
    Ok(name)
}

async fn pull(api: &Api<'_>, patience: Patience, image: &str) -> Result<Said, ProviderError> {
    let (repository, tag) = parts(image);
    let path = format!("/images/create?fromImage={}&tag={}", encode(repository), encode(tag));
    api.send(api.call("ImageCreate", Method::POST, &path, patience.transfer)).await
}

/// An image of a handful of files: a static agent needs no other.
async fn make(api: &Api<'_>, patience: Patience, name: &str) -> Result<Said, ProviderError> {
    let (repository, tag) = parts(name);
    let text = |text: String| Secret::new(text);
    let archive = Archive::new()
        .folder("etc", 0o755, 0)
        .text("etc/passwd", 0o644, 0, &text(format!("agent:x:{USER}:{USER}::/blueprint/state:/\n")))
        .text("etc/group", 0o644, 0, &text(format!("agent:x:{USER}:\n")))
        .folder("tmp", 0o1777, 0);
    let path = format!("/images/create?fromSrc=-&repo={}&tag={}", encode(repository), encode(tag));
    let call = api.call("ImageImport", Method::POST, &path, patience.transfer);
    api.send(call.archive(archive.body())).await
}

/// Removes the empty image of a hub without machines; one that is in use, or is gone, is no error.
pub(crate) async fn forget(api: &Api<'_>, patience: Patience, hub: HubId) -> Result<(), ProviderError> {
    let path = format!("/images/{}", encode(&empty_name(hub)));
    let said = api.send(api.call("ImageDelete", Method::DELETE, &path, patience.change)).await?;
    said.done(&[StatusCode::NOT_FOUND, StatusCode::CONFLICT])
}

/// Repository, and tag or digest.
fn parts(image: &str) -> (&str, &str) {
    if let Some((repository, digest)) = image.split_once('@') {
        return (repository, digest);
    }
    match image.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, tag),
        Some(_) | None => (image, "latest"),
    }
}

/// What an engine says at the end of a report whose status was a success.
fn fault(report: &[u8]) -> Option<String> {
    let lines = report.split(|byte| *byte == b'\n');
    lines.filter_map(|line| serde_json::from_slice::<Value>(line).ok()).find_map(|line| {
        let text = line.get("error")?.as_str()?;
        Some(text.chars().filter(|c| !c.is_control()).take(300).collect())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_images_come_apart() {
        for (image, expected) in [
            ("debian", ("debian", "latest")),
            ("debian:13-slim", ("debian", "13-slim")),
            ("localhost:5000/a/b", ("localhost:5000/a/b", "latest")),
            ("localhost:5000/a/b:7", ("localhost:5000/a/b", "7")),
            ("a/b@sha256:00", ("a/b", "sha256:00")),
        ] {
            assert_eq!(parts(image), expected, "{image}");
        }
    }

    #[test]
    fn an_error_in_a_report_is_found() {
        let report = b"{\"status\":\"Pulling\"}\r\n{\"errorDetail\":{},\"error\":\"manifest unknown\"}\n";
        assert_eq!(fault(report).as_deref(), Some("manifest unknown"));
        assert_eq!(fault(b"{\"status\":\"Pulled\"}\n"), None);
    }
}
