//! `[remote.*]` of the deployment specification, `[providers.*]` and `[network]` of the operator's guide.

use serde_json::{Map, Value};

use crate::MAX_KEY;
use crate::expand::Around;
use crate::keys::{below, gibibytes, processors, text, texts, whole};
use crate::names::{NO_CLUSTERS, provider, why_not};
use crate::remotes::Remote;
use crate::report::{Report, shown};

const OWN_KEYS: &str =
    "the hub and every agent make their own keys, which never leave them; remove it from the file";
const OWN_ADDRESSES: &str = "the hub gives every machine its addresses; who may reach whom is its policy (`blueprint-hub policy set`)";

/// Every place of one section.
pub(crate) fn read(section: &str, fields: &Map<String, Value>, around: &Around<'_>, report: &mut Report) {
    for (name, value) in fields {
        let path = below(section, name);
        match value.as_object() {
            Some(inner) => {
                let remote = place(&path, name, inner, around, report);
                report.remotes.insert(name.clone(), remote);
            }
            None => report.wrong(&path, "a table with a type"),
        }
    }
}

/// What a place is, by its type.
enum Sort {
    Kubernetes,
    Docker,
    Ssh,
    Cloud(&'static str),
    Other(String),
}

fn place(
    path: &str,
    name: &str,
    fields: &Map<String, Value>,
    around: &Around<'_>,
    report: &mut Report,
) -> Remote {
    let written = fields.get("type").and_then(text);
    let sort = match written.unwrap_or(name).to_ascii_lowercase().as_str() {
        "kubernetes" | "k8s" => Sort::Kubernetes,
        "docker" => Sort::Docker,
        "ssh" | "bare-metal" | "bare_metal" => Sort::Ssh,
        // A section of the guide that only changes a cluster that stands above it.
        _ if written.is_none() && fields.keys().any(|key| key == "service_type" || key == "kubeconfig") => {
            Sort::Kubernetes
        }
        other => provider(other).map_or_else(|| Sort::Other(other.to_owned()), Sort::Cloud),
    };
    let mut remote = match &sort {
        Sort::Kubernetes => Remote::unusable(NO_CLUSTERS),
        Sort::Docker => docker(fields.get("endpoint").and_then(text), around),
        Sort::Ssh => Remote::of("ssh"),
        Sort::Cloud(name) => Remote::of(name),
        Sort::Other(other) => Remote::unusable(why_not(other)),
    };
    for (key, value) in fields {
        let path = below(path, key);
        match (key.as_str(), value) {
            ("type", _) => match (&remote.unusable, &remote.provider, text(value)) {
                (_, _, None) => report.wrong(&path, "one of kubernetes, docker and ssh"),
                (Some(why), _, Some(_)) => report.absent(&path, why.clone()),
                (None, Some(provider), Some(_)) => {
                    let word =
                        format!("remote {name:?} is the provider {provider}: `deploy --remote {name}`");
                    report.understood(&path, word);
                }
                (None, None, Some(_)) => report.absent(&path, "it names no provider"),
            },
            ("name", _) => report.absent(&path, format!("the name of the section counts: --remote {name}")),
            ("resources", Value::Object(inner)) => match &remote.unusable {
                Some(why) => inner.keys().for_each(|key| report.absent(&below(&path, key), why.clone())),
                None => resources(&path, inner, &mut remote, report),
            },
            ("regions", Value::Object(inner)) => regions(&path, inner, &mut remote, report),
            ("region", Value::String(region)) => {
                report.understood(&path, format!("orders to remote {name:?} go to {}", shown(region)));
                remote.region = Some(region.clone());
            }
            ("tunnel", Value::Object(inner)) => network(&path, inner, around, report),
            ("tunnel_required", Value::Bool(true)) => {
                report.understood(&path, "every machine is reached through its tunnel alone");
            }
            ("tunnel_required", _) => report.refused(
                &path,
                "a machine without tunnel would have to be open to the internet; every one has a tunnel",
            ),
            ("kubeconfig" | "context" | "namespace" | "service_type", _) => report.absent(&path, NO_CLUSTERS),
            ("endpoint", _) => endpoint(&path, value, &remote, around, report),
            ("auth_token" | "token" | "api_key" | "password", _) => {
                secret(&path, value, around, &sort, report)
            }
            ("organization", _) => {
                report.absent(&path, "it belongs to a platform that the hub orders nothing of")
            }
            ("hosts", _) => hosts(&path, value, fields, around, report),
            ("user", _) => told(&path, value, "the --user of `host scan` for each of the hosts", report),
            ("key" | "key_path", _) => {
                told(&path, value, "the --identity of `host scan` for each of the hosts", report);
            }
            ("runtime", Value::Object(inner)) => runtime(&path, inner, report),
            ("runtime", _) => runtime_word(&path, value, report),
            _ => report.unknown(&path, &PLACE, value),
        }
    }
    remote
}

const PLACE: [&str; 20] = [
    "type",
    "name",
    "resources",
    "regions",
    "region",
    "tunnel",
    "tunnel_required",
    "kubeconfig",
    "context",
    "namespace",
    "service_type",
    "endpoint",
    "auth_token",
    "organization",
    "hosts",
    "user",
    "key",
    "key_path",
    "runtime",
    "token",
];

fn docker(endpoint: Option<&str>, around: &Around<'_>) -> Remote {
    let Some(expanded) = endpoint.and_then(|endpoint| around.expand(endpoint).ok()) else {
        return Remote::of("local-docker");
    };
    let endpoint = expanded.text.expose();
    if endpoint.starts_with("unix://") {
        return Remote::of("local-docker");
    }
    let platforms = ["api.fly.io", "railway.app", "railway.com", "render.com"];
    if platforms.iter().any(|platform| endpoint.contains(platform)) {
        return Remote::unusable(
            "this platform speaks no Docker Engine API, and the hub has no provider for it; run the agent there as a container \
             with a join token (`blueprint-hub token create`)",
        );
    }
    Remote::of("docker")
}

fn endpoint(path: &str, value: &Value, remote: &Remote, around: &Around<'_>, report: &mut Report) {
    let Some(written) = text(value) else {
        return report.wrong(path, "an address, such as unix:///var/run/docker.sock");
    };
    if let Err(why) = around.expand(written) {
        return report.refused(path, why);
    }
    match (&remote.unusable, remote.provider.as_deref()) {
        (Some(why), _) => report.absent(path, why.clone()),
        (None, Some("local-docker")) => {
            report.understood(path, "the Docker Engine of this host: the provider local-docker");
        }
        (None, Some("docker")) if written.starts_with("http://") || written.starts_with("tcp://") => report.refused(
            path,
            "an Engine that is reached without TLS and client certificate is open to whoever reaches it; the provider docker \
             takes hosts with both",
        ),
        (None, Some("docker")) => {
            report.understood(path, "a host of the provider docker");
            report.steps.push(
                "name the Docker host with its certificates in the inventory of the provider docker, and switch that on"
                    .to_owned(),
            );
        }
        (None, _) => report.absent(path, "the provider knows its own addresses"),
    }
}

/// A credential of a place: nothing here takes it, and it is not kept.
fn secret(path: &str, value: &Value, around: &Around<'_>, sort: &Sort, report: &mut Report) {
    let Some(written) = text(value) else {
        return report.wrong(path, "a text");
    };
    let expanded = match around.expand(written) {
        Ok(expanded) => expanded,
        Err(why) => return report.refused(path, why),
    };
    match sort {
        Sort::Cloud(name) => {
            let last = path.rsplit('.').next().unwrap_or(path).to_owned();
            report.understood(path, format!("credentials of {name}, sealed in the hub's store"));
            report.credentials.push(crate::secrets::Given::one(name, &last, expanded.text));
        }
        Sort::Kubernetes | Sort::Docker | Sort::Ssh | Sort::Other(_) => {
            let from = if expanded.variable.is_none() { "" } else { " of the environment" };
            report.absent(path, format!("the hub has no use for this secret{from}, and does not keep it"));
        }
    }
}

fn told(path: &str, value: &Value, what: &str, report: &mut Report) {
    match text(value) {
        Some(_) => report.understood(path, what),
        None => report.wrong(path, "a text"),
    }
}

fn resources(path: &str, fields: &Map<String, Value>, remote: &mut Remote, report: &mut Report) {
    for (key, value) in fields {
        let path = below(path, key);
        match key.as_str() {
            "cpu_limit" => match processors(value) {
                Some(count) => {
                    report.understood(&path, format!("orders ask for {count} processors at least"));
                    remote.min_cpu = Some(count);
                }
                None => report.wrong(&path, "processors, such as \"4\" or \"500m\""),
            },
            "memory_limit" => match gibibytes(value) {
                Some(count) => {
                    report.understood(&path, format!("orders ask for {count} GiB of memory at least"));
                    remote.min_memory = Some(count);
                }
                None => report.wrong(&path, "memory, such as \"8Gi\""),
            },
            "max_instances" => match whole(value, 1, 100).and_then(|count| u32::try_from(count).ok()) {
                Some(count) => {
                    report.understood(&path, format!("an order has {count} machines at most"));
                    remote.max_instances = Some(count);
                }
                None => report.wrong(&path, "a number from 1 to 100"),
            },
            _ => report.unknown(&path, &["cpu_limit", "memory_limit", "max_instances"], value),
        }
    }
}

fn regions(path: &str, fields: &Map<String, Value>, remote: &mut Remote, report: &mut Report) {
    for (key, value) in fields {
        let path = below(path, key);
        match key.as_str() {
            "primary" => match text(value) {
                Some(region) if remote.unusable.is_none() => {
                    report.understood(&path, format!("orders go to {}", shown(region)));
                    remote.region = Some(region.to_owned());
                }
                Some(_) => report.absent(&path, "nothing can be ordered there"),
                None => report.wrong(&path, "the name of a region"),
            },
            "replicas" => match texts(value) {
                Some(_) => report.absent(
                    &path,
                    "an order goes to one region; make one more for each other, with --region",
                ),
                None => report.wrong(&path, "a list of regions"),
            },
            _ => report.unknown(&path, &["primary", "replicas"], value),
        }
    }
}

fn hosts(path: &str, value: &Value, fields: &Map<String, Value>, around: &Around<'_>, report: &mut Report) {
    let Some(hosts) = texts(value).filter(|hosts| !hosts.is_empty()) else {
        return report.wrong(path, "a list of hosts");
    };
    let user = fields.get("user").and_then(text).unwrap_or("root");
    let key = fields.get("key").or_else(|| fields.get("key_path")).and_then(text);
    let identity = key.and_then(|key| around.expand(key).ok().filter(|expanded| expanded.variable.is_none()));
    let identity = identity.map_or_else(|| "IDENTITY".to_owned(), |found| found.text.expose().clone());
    // They become words of a command that a person copies.
    let is_plain = |word: &str| {
        !word.is_empty()
            && word.len() <= MAX_KEY
            && !word.starts_with('-')
            && word
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '/' | '[' | ']'))
    };
    let mut taken = 0u32;
    for host in hosts {
        if !is_plain(host) || !is_plain(user) || !is_plain(&identity) {
            report.refused(
                path,
                format!("{} with its user and key makes no command that is safe to copy", shown(host)),
            );
            continue;
        }
        taken = taken.saturating_add(1);
        report.steps.push(format!(
            "blueprint-hub host scan {host} --user {user} --identity {identity} (compare the key with what the machine itself \
             says, and run it again with --fingerprint; docs/ssh.md)"
        ));
    }
    if taken > 0 {
        report.understood(
            path,
            format!(
                "{taken} machines of the provider ssh, once their host keys are pinned: nobody logs in where the host is not known"
            ),
        );
    }
}

fn runtime(path: &str, fields: &Map<String, Value>, report: &mut Report) {
    for (key, value) in fields {
        let path = below(path, key);
        match key.as_str() {
            "type" => runtime_word(&path, value, report),
            "docker_socket" => {
                report.absent(&path, "the agent on the machine finds the engine's socket itself")
            }
            _ => report.unknown(&path, &["type", "docker_socket"], value),
        }
    }
}

fn runtime_word(path: &str, value: &Value, report: &mut Report) {
    match text(value) {
        Some("docker" | "native" | "podman") => report.absent(
            path,
            "the source of a workload says how it runs: --image in a container, --url as a program",
        ),
        _ => report.wrong(path, "docker or native"),
    }
}

/// The network of the guide, and the tunnel of a remote.
pub(crate) fn network(path: &str, fields: &Map<String, Value>, around: &Around<'_>, report: &mut Report) {
    for (key, value) in fields {
        let path = below(path, key);
        match (key.as_str(), value) {
            ("tunnel", Value::Object(inner)) => network(&path, inner, around, report),
            ("tunnel_enabled" | "enabled", Value::Bool(true)) => {
                report.understood(&path, "every machine is reached through its tunnel alone");
            }
            ("tunnel_enabled" | "enabled", Value::Bool(false)) => report.refused(
                &path,
                "without tunnel services would stand open in the internet; the tunnel is always on",
            ),
            ("hub_endpoint" | "endpoint", _) => hub(&path, value, around, report),
            ("hub_port", _) => match whole(value, 1, 65535) {
                Some(port) => report.set(&path, "tunnel.listen", format!("0.0.0.0:{port}")),
                None => report.wrong(&path, "a port"),
            },
            ("private_key" | "private_key_path" | "public_key_path" | "public_key", _) => {
                report.refused(&path, OWN_KEYS);
            }
            ("interface", _) => report.absent(
                &path,
                "the hub names its network device itself (tunnel.interface says whether it has one)",
            ),
            ("allowed_ips", _) => report.absent(&path, OWN_ADDRESSES),
            ("persistent_keepalive", _) => match whole(value, 1, 60) {
                Some(seconds) => report.set(&path, "tunnel.keepalive", format!("{seconds}s")),
                None => report.wrong(&path, "seconds from 1 to 60"),
            },
            _ => report.unknown(&path, &NETWORK, value),
        }
    }
}

const NETWORK: [&str; 11] = [
    "tunnel_enabled",
    "enabled",
    "hub_endpoint",
    "endpoint",
    "hub_port",
    "private_key",
    "private_key_path",
    "public_key_path",
    "interface",
    "allowed_ips",
    "persistent_keepalive",
];

/// Host and port of the hub.
fn hub(path: &str, value: &Value, around: &Around<'_>, report: &mut Report) {
    let Some(written) = text(value) else {
        return report.wrong(path, "the host of the hub, with or without a port");
    };
    let expanded = match around.expand(written) {
        Ok(expanded) => expanded,
        Err(why) => return report.refused(path, why),
    };
    // A file of somebody else's must not make a secret of the environment readable, whatever its name is.
    if let Some(name) = &expanded.variable {
        return report.refused(
            path,
            format!(
                "{name} of the environment may be a secret, and this is stored in clear; write the host out"
            ),
        );
    }
    let whole = expanded.text.expose();
    let (host, port) = match whole.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, Some(port)),
        Some(_) | None => (whole.as_str(), None),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let is_host = !host.is_empty()
        && host.len() <= 253
        && host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':'));
    let port = match port.map(str::parse::<u16>) {
        None => None,
        Some(Ok(port)) if port > 0 => Some(port),
        Some(_) => return report.wrong(path, "the host of the hub, with or without a port"),
    };
    if !is_host {
        return report.wrong(path, "the host of the hub, with or without a port");
    }
    report.set(path, "hub.advertise", host);
    if let Some(port) = port {
        report.setting(path, "tunnel.listen", format!("0.0.0.0:{port}"));
    }
}
