//! Documents of the API, and how it refuses. Shapes are those of recorded answers (2025-09-05).

use std::time::Duration;

use serde_json::{Value, json};

use super::PROJECT;
use super::account::Volume;
use crate::server::{Answer, Request};
use crate::world::{Machine, Power, Refusal, Throttling, World};

pub(super) const REQUEST: &str = "36b39503-749a-45dc-8837-7d34f0c19f24";

/// A number as the ids of the API look.
pub(super) fn uuid(id: u64) -> String {
    format!("2e0394ea-120c-4a15-ad78-{id:012}")
}

/// The number in such an id.
pub(super) fn number(uuid: &str) -> Option<u64> {
    uuid.strip_prefix("2e0394ea-120c-4a15-ad78-")?.parse().ok()
}

pub(super) fn error(status: u16, body: &Value) -> Answer {
    Answer::json(status, body)
}

pub(super) fn not_found(what: &str) -> Answer {
    error(404, &json!({ "type": "not_found", "message": "resource is not found", "resource": what }))
}

pub(super) fn bad_request(message: &str) -> Answer {
    error(400, &json!({ "type": "invalid_request_error", "message": message, "fields": {} }))
}

pub(super) fn transient() -> Value {
    json!({ "type": "transient_state", "message": "resource is in a transient state", "resource": "instance_server", "current_state": "stopping" })
}

pub(super) fn refusal(world: &World, request: &Request, refusal: Refusal) -> Answer {
    match refusal {
        Refusal::Throttled(how) => throttled(world, how),
        Refusal::Quota => {
            let detail = json!({ "resource": "InstancesServers", "quota": 10, "current": 10 });
            error(
                403,
                &json!({ "type": "quotas_exceeded", "message": "quota(s) exceeded", "details": [detail] }),
            )
        }
        Refusal::Capacity => error(
            503,
            &json!({ "type": "out_of_stock", "message": "resource is out of stock", "resource": "DEV1-S" }),
        ),
        Refusal::NotSold => bad_request("commercial type is not available in this zone"),
        Refusal::Unauthorized => {
            error(401, &json!({ "type": "denied_authentication", "method": "api_key", "reason": "expired" }))
        }
        Refusal::Forbidden => {
            let detail = json!({ "action": "write", "resource": "compute_servers" });
            error(
                403,
                &json!({ "type": "permissions_denied", "message": "insufficient permissions", "details": [detail] }),
            )
        }
        Refusal::Busy => error(409, &transient()),
        Refusal::Broken => {
            let headers: Vec<_> = request
                .headers
                .iter()
                .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap_or_default()))
                .collect();
            let message = format!("internal error: {}", headers.join("\n"));
            error(500, &json!({ "type": "internal_error", "message": message, "request": request.json() }))
        }
        Refusal::Unavailable => Answer {
            status: 503,
            headers: vec![("content-type", "text/html".to_owned())],
            body: "<html><head><title>503 Service Unavailable</title></head><body>no backend</body></html>"
                .into(),
        },
    }
}

fn throttled(world: &World, how: Throttling) -> Answer {
    let answer = error(429, &json!({ "type": "too_many_requests", "message": "too many requests" }));
    let at = |seconds: u64| world.now() + Duration::from_secs(seconds);
    match how {
        Throttling::Seconds(seconds) => answer.header("retry-after", seconds.to_string()),
        Throttling::Date(seconds) => answer.header("retry-after", httpdate::fmt_http_date(at(seconds))),
        Throttling::Reset(_) | Throttling::Silent => answer,
    }
}

/// One page of a list, as the request asks for it: Instances counts in the head, Block Storage in the body.
pub(super) fn page(request: &Request, name: &str, rows: &[Value], limit: usize) -> Answer {
    let number = |field: &str| request.query(field).and_then(|text| text.parse::<usize>().ok());
    let size = number("per_page").or(number("page_size")).unwrap_or(50).min(limit).max(1);
    let page = number("page").unwrap_or(1).max(1);
    let shown: Vec<_> = rows.iter().skip((page - 1) * size).take(size).collect();
    if request.path.starts_with("/block/") || request.path.starts_with("/marketplace/") {
        let mut body = json!({ "total_count": rows.len() });
        body[name] = json!(shown);
        return Answer::json(200, &body);
    }
    let mut body = json!({});
    body[name] = json!(shown);
    Answer::json(200, &body).header("x-total-count", rows.len().to_string())
}

pub(super) fn project() -> Answer {
    Answer::json(
        200,
        &json!({ "id": PROJECT, "name": "machines", "organization_id": PROJECT, "description": "", "created_at": "2024-01-01T00:00:00Z" }),
    )
}

fn date(at: std::time::SystemTime) -> String {
    humantime::format_rfc3339_micros(at).to_string()
}

pub(super) fn server(machine: &Machine) -> Value {
    let state = match machine.power {
        Power::Starting => "starting",
        Power::On => "running",
        Power::Off => "stopped",
    };
    json!({
        "id": uuid(machine.id), "name": machine.name, "arch": "x86_64", "commercial_type": machine.plan, "boot_type": "local",
        "organization": PROJECT, "project": PROJECT, "hostname": machine.name, "volumes": {}, "tags": machine.tags,
        "state": state, "protected": false, "state_detail": "", "public_ip": null, "public_ips": [],
        "routed_ip_enabled": true, "dynamic_ip_required": true, "private_ip": null,
        "creation_date": date(machine.created).replace('Z', "+00:00"), "security_group": { "id": "x", "name": "x" },
        "location": null, "maintenances": [], "private_nics": [], "zone": machine.region, "end_of_service": false,
    })
}

pub(super) fn volume(volume: &Volume, world: &World) -> Value {
    let mut shown = json!({ "id": uuid(volume.id), "name": "snapshot-of-an-image", "tags": volume.tags, "zone": volume.zone, "size": 10_000_000_000u64 });
    let now = date(world.now());
    if volume.is_block {
        shown["created_at"] = json!(now);
        shown["status"] = json!(if volume.server.is_some() { "in_use" } else { "available" });
    } else {
        shown["creation_date"] = json!(now.replace('Z', "+00:00"));
        shown["state"] = json!("available");
    }
    shown
}

/// Images that boot from a block volume, of both processors.
pub(super) fn images(request: &Request) -> Answer {
    let label = request.query("image_label").unwrap_or_default();
    let image = |id: u64, arch: &str, types: &[&str]| json!({ "id": uuid(id), "arch": arch, "zone": request.query("zone"), "label": label, "type": "instance_sbs", "compatible_commercial_types": types });
    let rows = if label == "debian_trixie" {
        vec![image(11, "x86_64", &["DEV1-S", "L4-1-24G"]), image(12, "arm64", &["BASIC2-A4C-8G"])]
    } else {
        Vec::new()
    };
    page(request, "local_images", &rows, 100)
}

fn basic() -> Value {
    json!({
        "hourly_price": 0.00878, "monthly_price": 6.42, "ncpus": 2, "ram": 2_147_483_648u64, "arch": "x86_64", "gpu": 0,
        "gpu_info": null, "end_of_service": false, "baremetal": false, "alt_names": [],
        "volumes_constraint": { "min_size": 0, "max_size": 20_000_000_000u64 },
    })
}

fn all_types(zone: &str, absurd: bool) -> Vec<(&'static str, Value)> {
    let with = |fields: Value| {
        let mut one = basic();
        for (name, value) in fields.as_object().into_iter().flatten() {
            one[name] = value.clone();
        }
        one
    };
    let gpu = json!({ "gpu_name": "L4", "gpu_memory": 25_769_803_776u64, "gpu_manufacturer": "NVIDIA" });
    let mut types = vec![
        ("DEV1-S", basic()),
        (
            "BASIC2-A4C-8G",
            with(json!({ "arch": "arm64", "ncpus": 4, "hourly_price": 0.0466, "monthly_price": 34.0 })),
        ),
        ("START1-S", with(json!({ "end_of_service": true }))),
        ("GP1-XS", with(json!({ "hourly_price": 0.0912, "monthly_price": 66.6 }))),
    ];
    if zone == "fr-par-1" {
        types.push(("L4-1-24G", with(json!({ "gpu": 1, "gpu_info": gpu, "ncpus": 8, "hourly_price": 0.75, "monthly_price": 547.5 }))));
    }
    if absurd {
        types.push(("FREE-S", with(json!({ "hourly_price": 0.0, "monthly_price": 0.0 }))));
        types.push(("DEBT-S", with(json!({ "hourly_price": -0.007, "monthly_price": -5.0 }))));
        types.push(("GOLD-S", with(json!({ "hourly_price": 1e9, "monthly_price": 1e12 }))));
        types.push(("SLIP-S", with(json!({ "hourly_price": 0.000_357, "monthly_price": 24.0 }))));
    }
    types
}

/// Whether a type can be had in a zone.
pub(super) fn sells(zone: &str, plan: &str) -> bool {
    all_types(zone, false).iter().any(|(own, _)| *own == plan)
}

/// A page of the types; those are one object by name.
pub(super) fn types(request: &Request, zone: &str, world: &World) -> Answer {
    let all = all_types(zone, world.has_absurd_prices);
    let number = |field: &str| request.query(field).and_then(|text| text.parse::<usize>().ok());
    let size = number("per_page").unwrap_or(50).min(world.page_limit).max(1);
    let page = number("page").unwrap_or(1).max(1);
    let mut shown = json!({});
    for (name, one) in all.iter().skip((page - 1) * size).take(size) {
        shown[*name] = one.clone();
    }
    Answer::json(200, &json!({ "servers": shown })).header("x-total-count", all.len().to_string())
}

/// Of one type there are none left.
pub(super) fn stock() -> Answer {
    let servers =
        json!({ "DEV1-S": { "availability": "available" }, "GP1-XS": { "availability": "shortage" } });
    Answer::json(200, &json!({ "servers": servers })).header("x-total-count", "2".to_owned())
}

/// Texts for numbers and numbers for texts.
pub(super) fn swap_types(value: &mut Value) {
    match value {
        Value::Object(fields) => fields.values_mut().for_each(swap_types),
        Value::Array(values) if values.is_empty() => *value = json!("none"),
        Value::Array(values) => values.iter_mut().for_each(swap_types),
        Value::String(_) => *value = json!(7),
        Value::Number(number) => *value = json!(number.to_string()),
        Value::Null | Value::Bool(_) => *value = json!({}),
    }
}
