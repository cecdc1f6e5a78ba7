//! `[remote.*]` of the deployment specification, and `[providers.*]` of the operator's guide.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use crate::MAX_KEY;
use crate::expand::Around;
use crate::keys::{below, gibibytes, processors, text, texts, whole};
use crate::names::{NO_CLUSTERS, provider, why_not};
use crate::network;
use crate::remotes::Remote;
use crate::report::{Report, Verdict, shown};

/// Why a place that has a provider cannot be ordered at, by what the rest of its file says.
#[derive(Debug, Default)]
pub(crate) struct Clashes {
    /// Providers of which the file has places that differ in what a remote cannot say.
    providers: BTreeSet<String>,
    /// Names that several places have.
    names: BTreeSet<String>,
    /// Names in the inventory of the provider `ssh` that more than one host has, or hosts of places that differ.
    shared: BTreeSet<String>,
}

impl Clashes {
    /// Looks at every place of a file before any of them is a remote.
    pub(crate) fn of(fields: &Map<String, Value>, around: &Around<'_>) -> Self {
        let mut sites: BTreeMap<String, BTreeSet<Vec<&str>>> = BTreeMap::new();
        let (mut seen, mut names) = (BTreeSet::new(), BTreeSet::new());
        let sections = ["remote", "providers"].iter().filter_map(|key| fields.get(*key)?.as_object());
        for (name, value) in sections.flatten() {
            let Some(inner) = value.as_object() else { continue };
            if !seen.insert(name) {
                names.insert(name.clone());
            }
            let sort = sort_of(name, inner);
            let Some(provider) = base(&sort, inner, around).0.provider else { continue };
            if let Some(site) = site(&sort, inner) {
                sites.entry(provider).or_default().insert(site);
            }
        }
        let shared = shared(sites.get("ssh"));
        sites.retain(|_, sites| sites.len() > 1);
        Self { providers: sites.into_keys().collect(), names, shared }
    }

    /// Whether places of this provider differ.
    fn differ(&self, remote: &Remote) -> bool {
        remote.provider.as_ref().is_some_and(|provider| self.providers.contains(provider))
    }

    fn why(&self, name: &str, remote: &Remote) -> Option<String> {
        if self.names.contains(name) {
            return Some(format!(
                "the file has two places with the name {name:?}; rename one and import again"
            ));
        }
        if let Some(host) = remote.plans.iter().find(|host| self.shared.contains(*host)) {
            return Some(format!(
                "{host} would be the name in the inventory of more than one of the hosts, or of a host of two places, so an \
                 order for one could land on another; name each host in one place alone, by names that differ in more than \
                 dots and capitals, and import again"
            ));
        }
        // Where its machines are named, an order for it lands on none of another.
        let provider = remote.provider.as_ref().filter(|_| self.differ(remote) && remote.plans.is_empty())?;
        Some(merged(provider))
    }
}

/// Names in the inventory that stand for more than one host of these places: of two that have one name there, and of one
/// that two places have.
fn shared(sites: Option<&BTreeSet<Vec<&str>>>) -> BTreeSet<String> {
    let (mut seen, mut shared) = (BTreeSet::new(), BTreeSet::new());
    for host in sites.into_iter().flatten().flatten() {
        let name = inventory_name(host);
        if !seen.insert(name.clone()) {
            shared.insert(name);
        }
    }
    shared
}

/// What to say of several places that are one provider here.
#[must_use]
pub fn merged(provider: &str) -> String {
    format!(
        "several places are the provider {provider}, and an order for one could land on another; order with \
         `deploy --provider {provider}`, with --region where the provider has one for each"
    )
}

/// What tells a place from others of its provider; `None` where it is that of them all.
fn site<'a>(sort: &Sort, fields: &'a Map<String, Value>) -> Option<Vec<&'a str>> {
    match sort {
        Sort::Ssh => {
            let mut hosts = fields.get("hosts").and_then(texts).unwrap_or_default();
            hosts.sort_unstable();
            hosts.dedup();
            Some(hosts)
        }
        Sort::Docker => {
            let written =
                fields.get("endpoint").and_then(text).map(|at| at.strip_prefix("unix://").unwrap_or(at));
            Some(vec![written.unwrap_or(SOCKET)])
        }
        Sort::Cloud(_) => {
            let all: Vec<&str> =
                CREDENTIALS.iter().filter_map(|key| fields.get(*key).and_then(text)).collect();
            (!all.is_empty()).then_some(all)
        }
        Sort::Kubernetes | Sort::Other(_) => None,
    }
}

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

/// The socket of an engine on this host, as `providers.local_docker.socket` has it.
const SOCKET: &str = "/var/run/docker.sock";

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

/// The engine at an endpoint. One that cannot be read or called is no reason to take this host's.
fn docker(endpoint: Option<&Value>, around: &Around<'_>) -> (Remote, Verdict) {
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

fn endpoint(path: &str, name: &str, value: &Value, sort: &Sort, around: &Around<'_>, report: &mut Report) {
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
                Some(_) if remote.unusable.is_some() => report.absent(&path, "nothing can be ordered there"),
                Some(list) if list.is_empty() => report.absent(&path, "it is empty"),
                Some(list) if list.iter().any(|name| name.is_empty() || name.contains(',')) => {
                    report.wrong(&path, "a list of regions");
                }
                Some(list) => {
                    let primary = fields.get("primary").and_then(text);
                    let mut all: Vec<String> =
                        primary.iter().chain(&list).map(|&name| name.to_owned()).collect();
                    all.dedup();
                    let text =
                        format!("orders are spread over {} (--spread regions)", shown(&all.join(", ")));
                    report.understood(&path, text);
                    (remote.regions, remote.spread) = (all, Some("regions".to_owned()));
                }
                None => report.wrong(&path, "a list of regions"),
            },
            _ => report.unknown(&path, &["primary", "replicas"], value),
        }
    }
    // The primary one is one of them.
    remote.region = remote.region.take().filter(|_| remote.regions.is_empty());
}

/// The name of a host in the inventory of the provider `ssh`, which takes a to z, digits and `-`.
fn inventory_name(host: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    host.chars().map(plain).collect()
}

/// The machines of a place; `names` where an order for it goes by their names.
fn hosts(
    path: &str,
    (value, names): (&Value, bool),
    fields: &Map<String, Value>,
    around: &Around<'_>,
    report: &mut Report,
) {
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
    let named = |host: &str| {
        if names { format!(", and name it {} in the inventory", inventory_name(host)) } else { String::new() }
    };
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
             says, and run it again with --fingerprint{}; docs/ssh.md)",
            named(host)
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
