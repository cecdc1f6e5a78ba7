//! `[remote.*]` of the deployment specification, and `[providers.*]` of the operator's guide.

mod clashes;
mod engine;
mod hosts;
mod wanted;

use serde_json::{Map, Value};

pub(crate) use self::clashes::Clashes;
pub use self::clashes::merged;
use self::engine::{docker, endpoint};
use self::hosts::{hosts, inventory_name};
use self::wanted::{regions, resources};
use crate::expand::Around;
use crate::keys::{below, text, texts};
use crate::names::{NO_CLUSTERS, provider, why_not};
use crate::network;
use crate::remotes::Remote;
use crate::report::{Report, Verdict, shown};

/// Every place of one section.
pub(crate) fn read(
    section: &str,
    fields: &Map<String, Value>,
    clashes: &Clashes,
    around: &Around<'_>,
    report: &mut Report,
) {
    for (name, value) in fields {
        let path = below(section, name);
        match value.as_object() {
            Some(inner) => {
                let remote = place(&path, name, inner, clashes, around, report);
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

fn sort_of(name: &str, fields: &Map<String, Value>) -> Sort {
    let written = fields.get("type").and_then(text);
    match written.unwrap_or(name).to_ascii_lowercase().as_str() {
        "kubernetes" | "k8s" => Sort::Kubernetes,
        "docker" => Sort::Docker,
        "ssh" | "bare-metal" | "bare_metal" => Sort::Ssh,
        // A section of the guide that only changes a cluster that stands above it.
        _ if written.is_none() && fields.keys().any(|key| key == "service_type" || key == "kubeconfig") => {
            Sort::Kubernetes
        }
        other => match provider(other) {
            Some("ssh") => Sort::Ssh,
            Some("local-docker") => Sort::Docker,
            Some("docker") if fields.contains_key("endpoint") => Sort::Docker,
            Some(name) => Sort::Cloud(name),
            None => Sort::Other(other.to_owned()),
        },
    }
}

/// A place by its type alone, and what is to be said of the type.
fn base(sort: &Sort, fields: &Map<String, Value>, around: &Around<'_>) -> (Remote, Verdict) {
    match sort {
        Sort::Kubernetes => (Remote::unusable(NO_CLUSTERS), Verdict::NotApplicable),
        Sort::Docker => docker(fields.get("endpoint"), around),
        Sort::Ssh => (Remote::of("ssh"), Verdict::Understood),
        Sort::Cloud(name) => (Remote::of(name), Verdict::Understood),
        Sort::Other(other) => (Remote::unusable(why_not(other)), Verdict::NotApplicable),
    }
}

fn place(
    path: &str,
    name: &str,
    fields: &Map<String, Value>,
    clashes: &Clashes,
    around: &Around<'_>,
    report: &mut Report,
) -> Remote {
    let sort = sort_of(name, fields);
    let (mut remote, mut verdict) = base(&sort, fields, around);
    if matches!(sort, Sort::Ssh) && clashes.differ(&remote) {
        let hosts = fields.get("hosts").and_then(texts).unwrap_or_default();
        remote.plans = hosts.into_iter().map(inventory_name).collect();
    }
    if let Some(why) = clashes.why(name, &remote) {
        remote.unusable = Some(why);
        remote.plans.clear();
        verdict = Verdict::Refused;
    }
    let is_logged_in = matches!(sort, Sort::Ssh)
        && fields.get("hosts").and_then(texts).is_some_and(|hosts| !hosts.is_empty());
    for (key, value) in fields {
        let path = below(path, key);
        match (key.as_str(), value) {
            ("type", _) => match (&remote.unusable, &remote.provider, text(value)) {
                (_, _, None) => report.wrong(&path, "one of kubernetes, docker and ssh"),
                (Some(why), _, Some(_)) => report.say(&path, verdict, why.clone()),
                (None, Some(provider), Some(_)) => {
                    let only = match remote.plans.as_slice() {
                        [] => String::new(),
                        hosts => format!(" and its machines {}", hosts.join(", ")),
                    };
                    let word =
                        format!("remote {name:?} is the provider {provider}{only}: `deploy --remote {name}`");
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
            ("region", _) if remote.unusable.is_some() => {
                report.absent(&path, "nothing can be ordered there")
            }
            ("region", Value::String(region)) => {
                report.understood(&path, format!("orders to remote {name:?} go to {}", shown(region)));
                remote.region = Some(region.clone());
            }
            ("tunnel", Value::Object(inner)) => network::read(&path, inner, around, report),
            ("tunnel_required", Value::Bool(true)) => {
                report.understood(&path, "every machine is reached through its tunnel alone");
            }
            ("tunnel_required", _) => report.refused(
                &path,
                "a machine without tunnel would have to be open to the internet; every one has a tunnel",
            ),
            ("kubeconfig" | "context" | "namespace" | "service_type", _) => report.absent(&path, NO_CLUSTERS),
            ("endpoint", _) => endpoint(&path, name, value, &sort, around, report),
            (key, _) if CREDENTIALS.contains(&key) && !(key == "key" && is_logged_in) => {
                secret(&path, value, around, &sort, report);
            }
            ("organization", _) => {
                report.absent(&path, "it belongs to a platform that the hub orders nothing of")
            }
            ("hosts", _) if !matches!(sort, Sort::Ssh) => report.absent(&path, NO_LOGIN),
            ("hosts", _) => hosts(&path, (value, !remote.plans.is_empty()), fields, around, report),
            ("user" | "key_path", _) if !is_logged_in => report.absent(&path, NO_LOGIN),
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

/// Keys that hold a credential of a place.
const CREDENTIALS: [&str; 5] = ["auth_token", "token", "api_key", "password", "key"];

const NO_LOGIN: &str = "only hosts of the type ssh are logged in to: a machine of a provider joins by itself";

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
