//! Documents of the API, and how it refuses.

use serde_json::{Value, json};

use crate::server::{Answer, Request};
use crate::world::{Machine, Power, Refusal, Throttling, World};

const REQUEST: &str = "4d9d8375-3c56-4925-a3e7-eb137fed17e9";

pub(super) fn error(status: u16, id: &str, message: &str) -> Answer {
    Answer::json(status, &json!({ "id": id, "message": message, "request_id": REQUEST }))
}

pub(super) fn not_found() -> Answer {
    error(404, "not_found", "The resource you were accessing could not be found.")
}

pub(super) fn unprocessable(message: &str) -> Answer {
    error(422, "unprocessable_entity", message)
}

pub(super) fn refusal(world: &World, request: &Request, refusal: Refusal) -> Answer {
    match refusal {
        Refusal::Throttled(how) => throttled(world, how),
        Refusal::Quota => unprocessable("creating this/these droplet(s) will exceed your droplet limit"),
        Refusal::Capacity => {
            unprocessable("The selected region has no capacity for this size, try another one.")
        }
        Refusal::NotSold => unprocessable("Size is not available in this region."),
        Refusal::Unauthorized => error(401, "unauthorized", "Unable to authenticate you"),
        Refusal::Forbidden => {
            error(403, "forbidden", "You are missing the required permission droplet:create.")
        }
        Refusal::Busy => unprocessable("Droplet already has a pending event."),
        Refusal::Broken => {
            let headers: Vec<_> = request
                .headers
                .iter()
                .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap_or_default()))
                .collect();
            let message = format!("Server Error: {}", headers.join("\n"));
            let asked = request.json();
            Answer::json(500, &json!({ "id": "server_error", "message": message, "request": asked }))
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
    let answer = error(429, "too_many_requests", "API Rate limit exceeded.");
    let at = |seconds: u64| world.now() + std::time::Duration::from_secs(seconds);
    match how {
        Throttling::Seconds(seconds) => answer.header("retry-after", seconds.to_string()),
        Throttling::Date(seconds) => answer.header("retry-after", httpdate::fmt_http_date(at(seconds))),
        Throttling::Reset(seconds) => {
            let reset = at(seconds).duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
            answer
                .header("ratelimit-remaining", "0".to_owned())
                .header("ratelimit-reset", reset.as_secs().to_string())
        }
        Throttling::Silent => answer,
    }
}

/// One page of a list, as the request asks for it.
pub(super) fn page(request: &Request, name: &str, rows: &[Value], limit: usize) -> Answer {
    let number = |field: &str| request.query(field).and_then(|text| text.parse::<usize>().ok());
    let size = number("per_page").unwrap_or(20).min(limit).max(1);
    let page = number("page").unwrap_or(1).max(1);
    let shown: Vec<_> = rows.iter().skip((page - 1) * size).take(size).collect();
    let url =
        |page: usize| format!("https://api.digitalocean.com{}?page={page}&per_page={size}", request.path);
    let is_last = page * size >= rows.len();
    let pages = if is_last {
        json!({})
    } else {
        json!({ "next": url(page + 1), "last": url(rows.len().div_ceil(size)) })
    };
    let mut body = json!({ "links": { "pages": pages }, "meta": { "total": rows.len() } });
    body[name] = json!(shown);
    Answer::json(200, &body)
}

pub(super) fn account(quota: usize) -> Answer {
    let account = json!({
        "droplet_limit": quota, "floating_ip_limit": 3, "email": "ops@example.com", "email_verified": true,
        "uuid": "b6fr89dbf6d9156cace5f3c78dc9851d957381ef", "status": "active", "status_message": "",
        "team": { "uuid": "5df3e3004a17e242b7c20ca6c9fc25b701a47ece", "name": "My Team" },
    });
    Answer::json(200, &json!({ "account": account }))
}

/// Three regions, and one that takes nothing new.
pub(super) fn regions() -> Vec<Value> {
    [("fra1", true), ("nyc1", true), ("ams3", true), ("nyc2", false)]
        .map(|(slug, available)| {
            json!({ "name": slug, "slug": slug, "features": ["metadata"], "available": available, "sizes": [] })
        })
        .to_vec()
}

/// A tag and what bears it.
pub(super) fn tag(name: &str, world: &World) -> Value {
    let bears = |machine: &&Machine| machine.tags.iter().any(|own| own == name);
    let count = world.machines.iter().filter(bears).count();
    let mut resources = json!({ "count": count, "droplets": { "count": count } });
    if let Some(last) = world.machines.iter().rfind(bears) {
        let uri = json!(format!("https://api.digitalocean.com/v2/droplets/{}", last.id));
        resources["last_tagged_uri"] = uri.clone();
        resources["droplets"]["last_tagged_uri"] = uri;
    }
    json!({ "name": name, "resources": resources })
}

pub(super) fn droplet(machine: &Machine) -> Value {
    let status = match machine.power {
        Power::Starting => "new",
        Power::On => "active",
        Power::Off => "off",
    };
    let created_at = humantime::format_rfc3339_seconds(machine.created).to_string();
    let size =
        sizes(false).into_iter().find(|size| size["slug"] == machine.plan).unwrap_or_else(|| basic(""));
    let mut droplet = json!({
        "id": machine.id, "name": machine.name, "memory": size["memory"], "vcpus": size["vcpus"], "disk": size["disk"],
        "locked": false, "status": status, "created_at": created_at, "features": ["ipv6"], "backup_ids": [],
        "next_backup_window": null, "snapshot_ids": [], "volume_ids": machine.volumes, "size": size,
        "size_slug": machine.plan, "tags": machine.tags,
        "image": { "id": 7_555_620, "name": "12 x64", "distribution": "Debian", "slug": "debian-13-x64", "type": "base" },
        "networks": { "v4": [], "v6": [] },
        "region": { "name": machine.region, "slug": machine.region, "features": [], "available": true, "sizes": [] },
    });
    if machine.plan.starts_with("gpu-") {
        droplet["gpu_info"] = size["gpu_info"].clone();
    }
    droplet
}

fn basic(slug: &str) -> Value {
    json!({
        "slug": slug, "memory": 1024, "vcpus": 1, "disk": 25, "transfer": 1.0, "price_monthly": 6.0,
        "price_hourly": 0.008_929_999_545_216_56, "regions": ["ams3", "fra1", "nyc1"], "available": true,
        "description": "Basic",
    })
}

/// What is sold: plain ones, one that is not available, one with GPUs; and with `absurd` some that cannot be.
pub(super) fn sizes(absurd: bool) -> Vec<Value> {
    let with = |slug: &str, fields: Value| {
        let mut size = basic(slug);
        for (name, value) in fields.as_object().into_iter().flatten() {
            size[name] = value.clone();
        }
        size
    };
    let gpu = json!({ "count": 1, "model": "nvidia_l40s", "vram": { "amount": 48, "unit": "gib" } });
    let mut sizes = vec![
        basic("s-1vcpu-1gb"),
        with(
            "s-2vcpu-4gb",
            json!({ "memory": 4096, "vcpus": 2, "disk": 80, "price_monthly": 24.0, "price_hourly": 0.03571 }),
        ),
        with("s-8vcpu-32gb", json!({ "available": false, "regions": [] })),
        with(
            "gpu-l40sx1-48gb",
            json!({ "memory": 65536, "vcpus": 8, "disk": 500, "price_monthly": 1168.0, "price_hourly": 1.57, "regions": ["fra1"], "gpu_info": gpu }),
        ),
    ];
    if absurd {
        sizes.push(with("s-free", json!({ "price_monthly": 0.0, "price_hourly": 0.0 })));
        sizes.push(with("s-debt", json!({ "price_monthly": -5.0, "price_hourly": -0.007 })));
        sizes.push(with("s-gold", json!({ "price_monthly": 1e12, "price_hourly": 1e9 })));
        sizes.push(with("s-slip", json!({ "price_monthly": 24.0, "price_hourly": 0.000_357 })));
    }
    sizes
}

pub(super) fn firewall(id: &str, wanted: &Value) -> Value {
    let mut firewall = json!({
        "id": id, "status": "succeeded", "created_at": "2026-11-21T10:00:00Z", "pending_changes": [],
        "droplet_ids": [], "tags": [], "inbound_rules": [], "outbound_rules": [],
    });
    for (name, value) in wanted.as_object().into_iter().flatten() {
        firewall[name] = value.clone();
    }
    firewall
}

pub(super) fn action(id: u64, droplet: u64, kind: &str) -> Value {
    json!({
        "id": id, "status": "completed", "type": kind, "started_at": "2026-11-21T10:00:00Z",
        "completed_at": "2026-11-21T10:00:05Z", "resource_id": droplet, "resource_type": "droplet", "region_slug": "fra1",
    })
}
