//! What machines of a place have to have, and in which regions they stand.

use serde_json::{Map, Value};

use crate::keys::{below, gibibytes, processors, text, texts, whole};
use crate::remotes::Remote;
use crate::report::{Report, shown};

pub(super) fn resources(path: &str, fields: &Map<String, Value>, remote: &mut Remote, report: &mut Report) {
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

pub(super) fn regions(path: &str, fields: &Map<String, Value>, remote: &mut Remote, report: &mut Report) {
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
