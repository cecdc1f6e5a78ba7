//! `cloud.json` of `cargo tangle cloud configure`, and files of the pricing engine.

use serde_json::{Map, Value};

use crate::keys::{below, text};
use crate::names::{provider, why_not};
use crate::report::{Report, shown};

pub(crate) fn read(fields: &Map<String, Value>, report: &mut Report) {
    for (key, value) in fields {
        match (key.as_str(), value) {
            ("default_provider", _) => default_provider(value, report),
            ("providers", Value::Object(inner)) => {
                for (name, value) in inner {
                    let path = below("providers", name);
                    match (provider(name), value) {
                        (Some(name), Value::Object(inner)) => one(&path, name, inner, report),
                        (None, _) => report.absent(&path, why_not(name)),
                        (Some(_), _) => report.wrong(&path, "a table with a region"),
                    }
                }
            }
            _ => report.unknown(key, &["default_provider", "providers"], value),
        }
    }
}

pub(crate) fn default_provider(value: &Value, report: &mut Report) {
    let key = "default_provider";
    match (value, text(value)) {
        (Value::Null, _) => report.absent(key, "it names none"),
        (_, Some(written)) => match provider(written) {
            Some(name) => report.set(key, "provision.strategy", format!("preferred:{name}")),
            None => report.absent(key, why_not(written)),
        },
        _ => report.wrong(key, "the name of a provider"),
    }
}

fn one(path: &str, name: &str, fields: &Map<String, Value>, report: &mut Report) {
    report.setting(path, &format!("providers.{}.enabled", name.replace('-', "_")), "true");
    for (key, value) in fields {
        let path = below(path, key);
        match (key.as_str(), text(value)) {
            ("region" | "project_id", None) if value.is_null() => report.absent(&path, "it is empty"),
            ("region", Some(region)) => report.regions(&path, name, region),
            ("project_id", Some(project)) => {
                report.absent(
                    &path,
                    format!(
                        "a project is part of the credentials: `blueprint-hub provider configure {name}`"
                    ),
                );
                report.steps.push(format!(
                    "name the project {} with the credentials: blueprint-hub provider configure {name}",
                    shown(project)
                ));
            }
            ("region" | "project_id", None) => report.wrong(&path, "a text"),
            _ => report.unknown(&path, &["region", "project_id"], value),
        }
    }
}

/// Files of the pricing engine: they stay where they are.
pub(crate) fn pricing(fields: &Map<String, Value>, report: &mut Report) {
    const STAYS: &str = "it stays the pricing engine's, which goes on reading it; `blueprint-hub estimate-cost --pricing-toml` \
                         writes prices of machines for it";
    for (key, value) in fields {
        match value.as_object() {
            Some(inner) => inner.keys().for_each(|inner| report.absent(&below(key, inner), STAYS)),
            None => report.absent(key, STAYS),
        }
    }
}
