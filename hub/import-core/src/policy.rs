//! `deployment-policy.json` of `cargo tangle cloud policy`, and preferences of deployment types.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use crate::keys::{below, text, texts, whole};
use crate::names::{NO_CLUSTERS, provider, why_not};
use crate::operator::{cost, known};
use crate::remotes::Remote;
use crate::report::{Report, shown};

const NO_FUNCTIONS: &str = "the hub orders machines, and no functions of a cloud";
const OWN_RETRIES: &str = "the hub tries up to 8 offers in order, and repeats calls with pauses of its own until the order stands or fails";

pub(crate) fn read(fields: &Map<String, Value>, report: &mut Report) {
    let failover = fields.get("failover").and_then(Value::as_object);
    for (key, value) in fields {
        match (key.as_str(), value) {
            ("providers", Value::Object(inner)) => classes(inner, report),
            ("cost_limits", Value::Object(inner)) => limits(inner, report),
            ("regions", Value::Object(inner)) => regions(inner, report),
            ("failover", Value::Object(_)) => {}
            ("serverless", Value::Object(inner)) => functions("serverless", inner, report),
            ("tee", _) => report.absent(key, "the hub asks no machine for an attestation"),
            _ => {
                report.unknown(key, &["providers", "cost_limits", "regions", "failover", "serverless"], value)
            }
        }
    }
    for (key, value) in failover.into_iter().flatten() {
        let path = below("failover", key);
        match key.as_str() {
            "max_retries" | "retry_delay_seconds" => report.absent(&path, OWN_RETRIES),
            "retry_different_regions" | "retry_different_providers" => match value.as_bool() {
                Some(true) => report.understood(&path, "the plan of an order holds offers of other places"),
                Some(false) => {
                    report.absent(&path, "name --region or --provider with the order to stay in one place");
                }
                None => report.wrong(&path, "true or false"),
            },
            _ => report.unknown(
                &path,
                &[
                    "max_retries",
                    "retry_delay_seconds",
                    "retry_different_regions",
                    "retry_different_providers",
                ],
                value,
            ),
        }
    }
}

/// Preferred providers of each class of work: a remote each.
fn classes(fields: &Map<String, Value>, report: &mut Report) {
    for (key, value) in fields {
        let path = below("providers", key);
        let name = match key.as_str() {
            "gpu_providers" => "gpu",
            "cpu_intensive" => "cpu",
            "memory_intensive" => "memory",
            "cost_optimized" => "cost",
            "tee_providers" => "tee",
            _ => {
                report.unknown(
                    &path,
                    &["gpu_providers", "cpu_intensive", "memory_intensive", "cost_optimized"],
                    value,
                );
                continue;
            }
        };
        let Some(list) = texts(value) else {
            report.wrong(&path, "a list of providers");
            continue;
        };
        let lacking: Vec<_> =
            list.iter().filter(|name| provider(name).is_none()).map(|name| shown(name)).collect();
        let names = known(&list);
        let lacks = if lacking.is_empty() {
            String::new()
        } else {
            format!("; left out, since this hub has no such provider: {}", lacking.join(", "))
        };
        if names.is_empty() {
            report.absent(&path, format!("it names no provider of this hub{lacks}"));
            continue;
        }
        let joined = names.join(",");
        report
            .understood(&path, format!("remote {name:?}: `deploy --remote {name}` goes by {joined}{lacks}"));
        let strategy = Some(format!("preferred:{joined}"));
        report.remotes.insert(name.to_owned(), Remote { strategy, ..Remote::default() });
    }
}

fn limits(fields: &Map<String, Value>, report: &mut Report) {
    for (key, value) in fields {
        let path = below("cost_limits", key);
        match (key.as_str(), value) {
            ("max_hourly_cost" | "auto_terminate_after_hours", Value::Null) => report.absent(&path, "it sets no limit"),
            ("max_hourly_cost", _) => cost(&path, value, report),
            ("prefer_spot", Value::Bool(true)) => report.set(&path, "provision.spot", "preferred"),
            ("prefer_spot", Value::Bool(false)) => report.set(&path, "provision.spot", "asked"),
            ("prefer_spot", _) => report.wrong(&path, "true or false"),
            ("auto_terminate_after_hours", _) => match whole(value, 1, 8760) {
                Some(hours) => report.set(&path, "provision.ttl", format!("{hours}h")),
                None => report.wrong(&path, "hours from 1 to 8760"),
            },
            ("optimization_strategy", _) => match text(value).map(str::to_ascii_lowercase).as_deref() {
                Some("cheapest") => report.set(&path, "provision.strategy", "cheapest"),
                Some("balanced") => report.set(&path, "provision.strategy", "first-match"),
                Some("performance") => report.absent(
                    &path,
                    "no price list says how fast a machine is; name what is needed with the order (--min-cpu, --no-burstable)",
                ),
                Some(_) | None => report.wrong(&path, "one of Cheapest, Balanced and Performance"),
            },
            _ => report.unknown(
                &path,
                &["max_hourly_cost", "prefer_spot", "auto_terminate_after_hours", "optimization_strategy"],
                value,
            ),
        }
    }
}

fn regions(fields: &Map<String, Value>, report: &mut Report) {
    let is_wish = fields.get("allow_fallback_regions") == Some(&Value::Bool(true));
    for (key, value) in fields {
        let path = below("regions", key);
        match (key.as_str(), value) {
            ("preferred_regions", _) => match texts(value) {
                Some(list) => {
                    for region in &list {
                        let remote = Remote { region: Some((*region).to_owned()), ..Remote::default() };
                        report.remotes.entry(format!("region-{region}")).or_insert(remote);
                    }
                    let must = if is_wish {
                        ""
                    } else {
                        "; without one of them an order goes where the strategy says, so name one with each"
                    };
                    report.understood(
                        &path,
                        format!("a remote each: `deploy --remote region-NAME` orders there alone{must}"),
                    );
                }
                None => report.wrong(&path, "a list of regions"),
            },
            ("allow_fallback_regions", Value::Bool(true)) => {
                report.understood(&path, "an order that names no region goes to any");
            }
            ("allow_fallback_regions", Value::Bool(false)) => report.refused(
                &path,
                "the hub does not hold orders to a list of regions; providers.NAME.regions does so for one provider",
            ),
            ("max_latency_ms", Value::Null) => report.absent(&path, "it sets no limit"),
            ("max_latency_ms", _) => {
                report.absent(&path, "how far a region is away is not known before a machine stands there");
            }
            ("allow_fallback_regions", _) => report.wrong(&path, "true or false"),
            _ => report.unknown(&path, &["preferred_regions", "allow_fallback_regions", "max_latency_ms"], value),
        }
    }
}

fn functions(section: &str, fields: &Map<String, Value>, report: &mut Report) {
    let names = ["enable", "provider", "default_memory_mb", "default_timeout_secs", "fallback_to_vm"];
    for (key, value) in fields {
        let path = below(section, key);
        match (key.as_str(), value) {
            ("fallback_to_vm", Value::Bool(true)) => {
                report.understood(&path, "machines are all that is ordered")
            }
            ("provider", Value::Object(inner)) => {
                for key in inner.keys() {
                    report.absent(&below(&path, key), NO_FUNCTIONS);
                }
            }
            (known, _) if names.contains(&known) => report.absent(&path, NO_FUNCTIONS),
            _ => report.unknown(&path, &names, value),
        }
    }
}

/// `preferred_type`, `allowed_types` and `allow_fallback`.
pub(crate) fn preferences(section: &str, fields: &Map<String, Value>, report: &mut Report) {
    for (key, value) in fields {
        let path = below(section, key);
        match key.as_str() {
            "preferred_type" => match kind_of(value).map(deployment_type) {
                Some(Ok(name)) => report.set(&path, "provision.strategy", format!("preferred:{name}")),
                Some(Err(why)) => report.absent(&path, why),
                None => report.wrong(&path, "a deployment type, such as AwsEc2"),
            },
            "allowed_types" => match value.as_array() {
                Some(list) => allowed(&path, list, report),
                None => report.wrong(&path, "a list of deployment types"),
            },
            "allow_fallback" => match value.as_bool() {
                Some(true) => {
                    report.understood(&path, "the plan of an order holds offers of other providers")
                }
                Some(false) => report.absent(&path, "name --provider with the order to stay at one"),
                None => report.wrong(&path, "true or false"),
            },
            _ => report.unknown(&path, &["preferred_type", "allowed_types", "allow_fallback"], value),
        }
    }
}

/// Types that are allowed are switched on; a person switches off what else is on, which only the hub's configuration says.
fn allowed(path: &str, list: &[Value], report: &mut Report) {
    let (mut names, mut left_out) = (BTreeSet::new(), String::new());
    for one in list {
        match kind_of(one).map(deployment_type) {
            Some(Ok(name)) => drop(names.insert(name)),
            Some(Err(why)) => {
                let written = kind_of(one).map(shown).unwrap_or_default();
                left_out.push_str(&format!("; {written} is left out: {why}"));
            }
            None => left_out.push_str("; one that is no deployment type is left out"),
        }
    }
    let joined: Vec<_> = names.iter().copied().collect();
    if names.is_empty() {
        report.refused(
            path,
            format!("it names no provider of this hub, so nothing is switched on or off{left_out}"),
        );
    } else {
        report.understood(
            path,
            format!(
                "switched on: {}; what else is on is named below, to be switched off{left_out}",
                joined.join(", ")
            ),
        );
    }
    for name in &names {
        report.setting(path, &format!("providers.{}.enabled", name.replace('-', "_")), "true");
    }
    report.allowed = Some(names.into_iter().map(str::to_owned).collect());
}

/// A type as today's tools write it, and as their own example does: `{ type = "AwsEc2" }`.
fn kind_of(value: &Value) -> Option<&str> {
    text(value).or_else(|| value.get("type").and_then(text))
}

/// The provider of a deployment type.
pub(crate) fn deployment_type(written: &str) -> Result<&'static str, String> {
    match written {
        "LocalKubernetes" | "AwsEks" | "GcpGke" | "AzureAks" | "DigitalOceanDoks" | "VultrVke" => {
            Err(NO_CLUSTERS.to_owned())
        }
        "LocalHypervisor" => Err("the Manager's own virtual machines stay the Manager's".to_owned()),
        other => provider(other).ok_or_else(|| why_not(other)),
    }
}
