//! Rules of the interface, and what a container of a machine must never ask for.

use serde_json::Value;

use crate::server::Request;

/// Whether the version that both sides speak is named.
pub(super) fn of_path(request: &Request) -> Vec<String> {
    let is_known = request.path == "/version" || request.path.starts_with("/v1.41/");
    if is_known { Vec::new() } else { vec!["the path does not begin with the version 1.41".to_owned()] }
}

/// What would give a machine more than its due.
pub(super) fn of_container(body: &Value) -> Vec<String> {
    let host = &body["HostConfig"];
    let first = |field: &str| host[field][0].as_str().unwrap_or_default().to_owned();
    let is_above_zero = |field: &str| host[field].as_u64().is_some_and(|number| number > 0);
    let network = host["NetworkMode"].as_str().unwrap_or_default();
    let env = body["Env"].to_string() + &body["Labels"].to_string() + &body["Cmd"].to_string();
    let checks = [
        (host["Privileged"] == true, "it is privileged"),
        (first("CapDrop") != "ALL" || !host["CapAdd"].is_null(), "it has capabilities"),
        (first("SecurityOpt") != "no-new-privileges", "it may get new privileges"),
        (host["ReadonlyRootfs"] != true, "its root can be written"),
        (!host["Binds"].is_null() || !host["Mounts"].is_null(), "it has a folder of the host"),
        (!host["Devices"].is_null(), "it has a device of the host"),
        (!host["PortBindings"].is_null() || host["PublishAllPorts"] == true, "it publishes ports"),
        (!network.starts_with("blueprint-"), "it is not on a network of its own hub"),
        (!is_above_zero("Memory") || !is_above_zero("NanoCpus"), "its memory or processors have no bound"),
        (!is_above_zero("PidsLimit"), "its processes have no bound"),
        (
            body["User"].as_str().is_none_or(|user| user.is_empty() || user.starts_with('0')),
            "it runs as root",
        ),
        (env.contains("canary"), "a secret is in its variables, labels or arguments"),
    ];
    checks.into_iter().filter(|(is_broken, _)| *is_broken).map(|(_, rule)| rule.to_owned()).collect()
}
