//! Places that are an engine of Docker.

use serde_json::Value;

use super::Sort;
use crate::expand::Around;
use crate::keys::text;
use crate::names::{NO_CLUSTERS, why_not};
use crate::remotes::Remote;
use crate::report::{Report, Verdict};

/// The socket of an engine on this host, as `providers.local_docker.socket` has it.
pub(super) const SOCKET: &str = "/var/run/docker.sock";

/// The engine at an endpoint. One that cannot be read or called is no reason to take this host's.
pub(super) fn docker(endpoint: Option<&Value>, around: &Around<'_>) -> (Remote, Verdict) {
    let refused = |why: String| (Remote::unusable(why), Verdict::Refused);
    let Some(endpoint) = endpoint else {
        return (Remote::of("local-docker"), Verdict::Understood);
    };
    let Some(written) = text(endpoint) else {
        return refused("its endpoint is no address".to_owned());
    };
    let expanded = match around.expand(written) {
        Ok(expanded) => expanded,
        Err(why) => return refused(format!("its endpoint cannot be read: {why}")),
    };
    let endpoint = expanded.text.expose();
    if endpoint.starts_with("unix://") {
        return (Remote::of("local-docker"), Verdict::Understood);
    }
    let platforms = ["api.fly.io", "railway.app", "railway.com", "render.com"];
    if platforms.iter().any(|platform| endpoint.contains(platform)) {
        let why = "this platform speaks no Docker Engine API, and the hub has no provider for it; run the agent there as a \
                   container with a join token (`blueprint-hub token create`)";
        return (Remote::unusable(why), Verdict::NotApplicable);
    }
    if !endpoint.starts_with("https://") {
        let why = "an Engine that is reached without TLS and client certificate is open to whoever reaches it; the provider \
                   docker takes hosts with both (docs/docker.md): write https:// where this one has them, and import again";
        return refused(why.to_owned());
    }
    (Remote::of("docker"), Verdict::Understood)
}

pub(super) fn endpoint(
    path: &str,
    name: &str,
    value: &Value,
    sort: &Sort,
    around: &Around<'_>,
    report: &mut Report,
) {
    let Some(written) = text(value) else {
        return report.wrong(path, "an address, such as unix:///var/run/docker.sock");
    };
    match sort {
        Sort::Kubernetes => return report.absent(path, NO_CLUSTERS),
        Sort::Other(other) => return report.absent(path, why_not(other)),
        Sort::Ssh | Sort::Cloud(_) => return report.absent(path, "the provider knows its own addresses"),
        Sort::Docker => {}
    }
    let (remote, verdict) = docker(Some(value), around);
    if let Some(why) = remote.unusable {
        report.say(path, verdict, why);
    } else if remote.provider.as_deref() == Some("local-docker") {
        report.understood(path, "the Docker Engine of this host: the provider local-docker");
        if written.strip_prefix("unix://") != Some(SOCKET) {
            report.steps.push(format!(
                "set providers.local_docker.socket where the socket of {name:?} is another than {SOCKET}"
            ));
        }
    } else {
        report.understood(path, "a host of the provider docker");
        report.steps.push(format!(
            "name the Docker host of {name:?} with its certificates in the file providers.docker.hosts, and set \
             providers.docker.enabled = true (docs/docker.md)"
        ));
    }
}
