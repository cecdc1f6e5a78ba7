//! Documents of the API, and how it refuses.

use serde_json::{Value, json};

use super::PAGE_SIZE;
use crate::server::{Answer, Request};
use crate::world::{Machine, Power, Refusal, Throttling, World};

/// What is said where the account may have no more.
pub(super) const LIMIT: &str = "Account Limit reached. Please open a support ticket.";

pub(super) fn error(status: u16, reason: &str, field: Option<&str>) -> Answer {
    let mut error = json!({ "reason": reason });
    if let Some(field) = field {
        error["field"] = json!(field);
    }
    Answer::json(status, &json!({ "errors": [error] }))
}

pub(super) fn not_found() -> Answer {
    error(404, "Not found", None)
}

/// What is said where there is nothing to say.
pub(super) fn nothing() -> Answer {
    Answer::json(200, &json!({}))
}

pub(super) fn refusal(world: &World, request: &Request, refusal: Refusal) -> Answer {
    match refusal {
        Refusal::Throttled(how) => throttled(world, how),
        Refusal::Quota => error(400, LIMIT, None),
        Refusal::Capacity => error(400, "This region is at capacity for this plan.", Some("region")),
        Refusal::NotSold => error(400, "This plan is not available in this region.", Some("type")),
        Refusal::Unauthorized => error(401, "Invalid Token", None),
        Refusal::Forbidden => error(403, "Your OAuth token is not authorized to use this endpoint.", None),
        Refusal::Busy => error(400, "Linode busy.", None),
        Refusal::Broken => {
            let headers: Vec<_> = request
                .headers
                .iter()
                .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap_or_default()))
                .collect();
            let reason = format!("An error occurred: {}", headers.join("\n"));
            Answer::json(500, &json!({ "errors": [{ "reason": reason }], "request": request.json() }))
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
    let answer = error(429, "Too many requests", None);
    let at = |seconds: u64| world.now() + std::time::Duration::from_secs(seconds);
    match how {
        Throttling::Seconds(seconds) => answer.header("retry-after", seconds.to_string()),
        Throttling::Date(seconds) => answer.header("retry-after", httpdate::fmt_http_date(at(seconds))),
        Throttling::Reset(seconds) => {
            let reset = at(seconds).duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
            answer
                .header("x-ratelimit-remaining", "0".to_owned())
                .header("x-ratelimit-reset", reset.as_secs().to_string())
        }
        Throttling::Silent => answer,
    }
}

/// One page of a list, as the request asks for it.
pub(super) fn page(request: &Request, rows: &[Value], limit: usize) -> Answer {
    let number = |field: &str| request.query(field).and_then(|text| text.parse::<usize>().ok());
    let size = number("page_size").unwrap_or(100).min(*PAGE_SIZE.end()).min(limit).max(1);
    let page = number("page").unwrap_or(1).max(1);
    let shown: Vec<_> = rows.iter().skip((page - 1) * size).take(size).collect();
    let pages = rows.len().div_ceil(size).max(1);
    Answer::json(200, &json!({ "data": shown, "page": page, "pages": pages, "results": rows.len() }))
}

pub(super) fn profile(is_restricted: bool) -> Answer {
    Answer::json(
        200,
        &json!({
            "username": "ops", "email": "ops@example.com", "restricted": is_restricted, "uid": 1234,
            "timezone": "GMT", "email_notifications": true, "lish_auth_method": "keys_only",
            "authorized_keys": [], "two_factor_auth": true, "ip_whitelist_enabled": false,
            "authentication_type": "password", "verified_phone_number": "+5555555555",
        }),
    )
}

/// Two images that are kept up, one without cloud-init, and one that is not kept up.
pub(super) fn image(id: &str) -> Answer {
    let (capabilities, deprecated) = match id {
        "linode/debian13" | "linode/ubuntu24.04" => (json!(["cloud-init"]), false),
        "linode/alpine3.12" => (json!([]), false),
        "linode/debian9" => (json!(["cloud-init"]), true),
        _ => return not_found(),
    };
    Answer::json(
        200,
        &json!({
            "id": id, "label": id, "capabilities": capabilities, "deprecated": deprecated, "is_public": true,
            "size": 2500, "status": "available", "type": "manual", "vendor": "Debian", "description": "",
        }),
    )
}

pub(super) fn machine(machine: &Machine) -> Value {
    let status = match machine.power {
        Power::Starting => "booting",
        Power::On => "running",
        Power::Off => "offline",
    };
    let created = humantime::format_rfc3339_seconds(machine.created).to_string();
    let created = created.trim_end_matches('Z');
    json!({
        "id": machine.id, "label": machine.name, "status": status, "created": created, "updated": created,
        "tags": machine.tags, "type": machine.plan, "region": machine.region, "image": "linode/debian13",
        "ipv4": ["203.0.113.1"], "ipv6": "2001:db8::1/128", "group": "", "has_user_data": true,
        "host_uuid": "3a3ddd59d9a78bb8de041391075df44de62bfec8", "hypervisor": "kvm", "watchdog_enabled": true,
        "capabilities": [], "specs": { "disk": 25600, "memory": 1024, "vcpus": 1, "gpus": 0, "transfer": 1000 },
        "backups": { "enabled": false, "available": false }, "lke_cluster_id": null,
    })
}

fn kind(id: &str, class: &str, fields: &Value) -> Value {
    let mut kind = json!({
        "id": id, "label": id, "class": class, "memory": 1024, "disk": 25600, "vcpus": 1, "gpus": 0,
        "network_out": 1000, "transfer": 1000, "price": { "hourly": 0.0075, "monthly": 5 },
        "region_prices": [{ "id": "id-cgk", "hourly": 0.009, "monthly": 6 }], "successor": null,
    });
    for (name, value) in fields.as_object().into_iter().flatten() {
        kind[name] = value.clone();
    }
    kind
}

/// What is sold: plain ones, one with GPUs, one with a card that nobody knows; and with `absurd` some that cannot be.
pub(super) fn types(absurd: bool) -> Vec<Value> {
    let price = |hourly: f64, monthly: f64| json!({ "hourly": hourly, "monthly": monthly });
    let with_price =
        |id: &str, price: Value| kind(id, "standard", &json!({ "price": price, "region_prices": [] }));
    let gpu = json!({
        "memory": 32768, "disk": 655_360, "vcpus": 8, "gpus": 1, "price": price(1.5, 1000.0), "region_prices": [],
    });
    let mystery = json!({ "gpus": 1, "price": price(0.52, 350.0), "region_prices": [] });
    let mut types = vec![
        kind("g6-nanode-1", "nanode", &json!({})),
        kind(
            "g6-standard-2",
            "standard",
            &json!({ "memory": 4096, "vcpus": 2, "price": price(0.036, 24.0) }),
        ),
        kind("g1-gpu-rtx6000-1", "gpu", &gpu),
        kind("g9-gpu-mystery-1", "gpu", &mystery),
    ];
    if absurd {
        types.push(with_price("g6-free", price(0.0, 0.0)));
        types.push(with_price("g6-debt", price(-0.007, -5.0)));
        types.push(with_price("g6-gold", price(1e9, 7e11)));
        types.push(with_price("g6-slip", price(0.000_075, 5.0)));
    }
    types
}

/// Regions: two plain ones, one with other prices, one without metadata, one that is out.
pub(super) fn regions() -> Vec<Value> {
    let all = ["Linodes", "Metadata", "Cloud Firewall", "GPU Linodes"];
    [
        ("us-east", "ok", &all[..]),
        ("eu-central", "ok", &all[..3]),
        ("id-cgk", "ok", &all[..3]),
        ("us-old", "ok", &all[..1]),
        ("us-dark", "outage", &all[..]),
    ]
    .map(|(id, status, capabilities)| {
        json!({
            "id": id, "label": id, "country": "us", "status": status, "capabilities": capabilities,
            "site-type": "core", "resolvers": { "ipv4": "192.0.2.1", "ipv6": "2001:db8::1" },
        })
    })
    .to_vec()
}

/// One plan has none left in one region.
pub(super) fn availability() -> Vec<Value> {
    vec![
        json!({ "region": "eu-central", "plan": "g6-standard-2", "available": false }),
        json!({ "region": "us-east", "plan": "g6-standard-2", "available": true }),
    ]
}

pub(super) fn rules(wanted: &Value) -> Value {
    json!({
        "inbound": wanted["inbound"], "inbound_policy": wanted["inbound_policy"], "outbound": wanted["outbound"],
        "outbound_policy": wanted["outbound_policy"], "version": 1, "fingerprint": "997dd135",
    })
}

pub(super) fn firewall(id: u64, wanted: &Value) -> Value {
    json!({
        "id": id, "label": wanted["label"], "tags": wanted["tags"], "rules": rules(&wanted["rules"]),
        "status": "enabled", "created": "2026-11-21T10:00:00", "updated": "2026-11-21T10:00:00",
    })
}
