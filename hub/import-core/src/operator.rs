//! `[operator.*]` of the remote providers' architecture.

use serde_json::{Map, Value};

use crate::keys::{below, dollars, text, texts, whole};
use crate::names::{NO_CLUSTERS, provider, why_not};
use crate::remotes::Remote;
use crate::report::{Report, shown};

const SECTIONS: [&str; 3] = ["deployment", "kubernetes", "scaling"];

pub(crate) fn read(fields: &Map<String, Value>, report: &mut Report) {
    for (key, value) in fields {
        let path = below("operator", key);
        match (key.as_str(), value) {
            ("deployment", Value::Object(inner)) => deployment(&path, inner, report),
            ("kubernetes", Value::Object(inner)) => kubernetes(&path, inner, report),
            ("scaling", Value::Object(inner)) => scaling(&path, inner, report),
            _ => report.unknown(&path, &SECTIONS, value),
        }
    }
}

fn deployment(section: &str, fields: &Map<String, Value>, report: &mut Report) {
    let list = fields.get("preferred_providers").and_then(texts);
    let preferred = list.map(|list| known(&list)).filter(|list| !list.is_empty());
    let mode = fields.get("mode").and_then(text).map(|mode| mode.to_ascii_lowercase().replace('_', "-"));
    for (key, value) in fields {
        let path = below(section, key);
        match key.as_str() {
            "mode" => match (mode.as_deref(), &preferred) {
                (Some("auto-cheapest"), _) => report.set(&path, "provision.strategy", "cheapest"),
                (Some("local"), _) => report.set(&path, "provision.strategy", "local-only"),
                (Some("preferred-provider" | "preferred"), Some(list)) => {
                    report.set(&path, "provision.strategy", format!("preferred:{}", list.join(",")));
                }
                (Some("preferred-provider" | "preferred"), None) => {
                    report.refused(&path, "preferred_providers names no provider of this hub; name one");
                }
                _ => report.wrong(&path, "one of auto-cheapest, preferred-provider and local"),
            },
            "preferred_providers" => preferred_providers(&path, value, mode.as_deref(), report),
            "max_cost_per_hour" => cost(&path, value, report),
            "allow_spot_instances" => match value.as_bool() {
                // Allowed is what an order may ask for, which it may by itself.
                Some(true) => report.set(&path, "provision.spot", "asked"),
                Some(false) => report.set(&path, "provision.spot", "never"),
                None => report.wrong(&path, "true or false"),
            },
            _ => report.unknown(
                &path,
                &["mode", "preferred_providers", "max_cost_per_hour", "allow_spot_instances"],
                value,
            ),
        }
    }
}

/// The most that an hour of one order may cost.
pub(crate) fn cost(path: &str, value: &Value, report: &mut Report) {
    match dollars(value) {
        Some(dollars) => report.set(path, "provision.max_order_hourly", dollars),
        None => report.wrong(path, "dollars an hour, such as 1.0"),
    }
}

/// The hub's names of those that it has.
pub(crate) fn known(list: &[&str]) -> Vec<&'static str> {
    let mut names = Vec::new();
    for name in list.iter().filter_map(|name| provider(name)) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

fn preferred_providers(path: &str, value: &Value, mode: Option<&str>, report: &mut Report) {
    let Some(list) = texts(value) else {
        return report.wrong(path, "a list of providers");
    };
    let names = known(&list);
    for name in list.iter().filter(|name| provider(name).is_none()) {
        report.refused(path, format!("{} is left out: {}", shown(name), why_not(name)));
    }
    if names.is_empty() {
        return;
    }
    match mode {
        Some("preferred-provider" | "preferred") => {
            report.understood(path, format!("the order in provision.strategy: {}", names.join(", ")));
        }
        _ => {
            report.understood(
                path,
                format!(
                    "remote \"preferred\": `blueprint-hub deploy --remote preferred` goes by {}; all other orders by the mode",
                    names.join(", ")
                ),
            );
            let strategy = Some(format!("preferred:{}", names.join(",")));
            report.remotes.insert("preferred".to_owned(), Remote { strategy, ..Remote::default() });
        }
    }
}

fn kubernetes(section: &str, fields: &Map<String, Value>, report: &mut Report) {
    for (key, value) in fields {
        let path = below(section, key);
        let clusters = match (key.as_str(), value) {
            ("clusters", Value::Array(clusters)) => clusters,
            ("clusters", _) => {
                report.wrong(&path, "a list of clusters");
                continue;
            }
            _ => {
                report.unknown(&path, &["clusters"], value);
                continue;
            }
        };
        if clusters.is_empty() {
            report.absent(&path, "it is empty");
        }
        for (cluster, at) in clusters.iter().zip(0u32..) {
            let Value::Object(inner) = cluster else {
                report.wrong(&format!("{path}[{at}]"), "a table with name and kubeconfig");
                continue;
            };
            if let Some(name) = inner.get("name").and_then(text) {
                report.remotes.insert(name.to_owned(), Remote::unusable(NO_CLUSTERS));
            }
            for (key, value) in inner {
                let path = format!("{path}[{at}].{key}");
                match key.as_str() {
                    "name" | "kubeconfig" | "context" | "namespace" => report.absent(&path, NO_CLUSTERS),
                    _ => report.unknown(&path, &["name", "kubeconfig", "context", "namespace"], value),
                }
            }
        }
    }
}

/// What all services with a tier keep to.
fn scaling(section: &str, fields: &Map<String, Value>, report: &mut Report) {
    let number = |key: &str| fields.get(key).and_then(|value| whole(value, 1, 100));
    let is_crossed =
        matches!((number("min_replicas"), number("max_replicas")), (Some(min), Some(max)) if min > max);
    for (key, value) in fields {
        let path = below(section, key);
        match (key.as_str(), number(key)) {
            ("enabled", _) => match value.as_bool() {
                Some(is_enabled) => report.set(&path, "scaling.enabled", is_enabled.to_string()),
                None => report.wrong(&path, "true or false"),
            },
            ("min_replicas" | "max_replicas", Some(_)) if is_crossed => {
                report.wrong(&path, "a min_replicas that is no more than max_replicas");
            }
            ("min_replicas", Some(count)) => report.set(&path, "scaling.min_replicas", count.to_string()),
            ("max_replicas", Some(count)) => report.set(&path, "scaling.max_replicas", count.to_string()),
            ("target_cpu", Some(percent)) => report.set(&path, "scaling.target_cpu", percent.to_string()),
            ("min_replicas" | "max_replicas", None) => report.wrong(&path, "a number from 1 to 100"),
            ("target_cpu", None) => report.wrong(&path, "a percentage from 1 to 100"),
            _ => report.unknown(&path, &["enabled", "min_replicas", "max_replicas", "target_cpu"], value),
        }
    }
}
