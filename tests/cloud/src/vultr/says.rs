//! Documents of the API, and how it refuses.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::name_of;
use crate::server::{Answer, Request};
use crate::world::{Machine, Power, Refusal, Throttling, World};

/// What is said where the account may have no more.
pub(super) const LIMIT: &str =
    "You have reached the maximum monthly fee limit for this account. Please contact our support team.";

/// What is said where a place has none left.
pub(super) const NONE_LEFT: &str = "The plan is not available in the selected region.";

pub(super) fn error(status: u16, text: &str) -> Answer {
    Answer::json(status, &json!({ "error": text, "status": status }))
}

pub(super) fn not_found() -> Answer {
    error(404, "Invalid instance.")
}

pub(super) fn refusal(world: &World, request: &Request, refusal: Refusal) -> Answer {
    match refusal {
        Refusal::Throttled(how) => throttled(world, how),
        Refusal::Quota => error(400, LIMIT),
        Refusal::Capacity => error(400, NONE_LEFT),
        Refusal::NotSold => error(400, "Invalid plan."),
        Refusal::Unauthorized => error(401, "Invalid API token."),
        Refusal::Forbidden => error(403, "Forbidden"),
        Refusal::Busy => error(400, "Server is currently locked."),
        Refusal::Broken => {
            let headers: Vec<_> = request
                .headers
                .iter()
                .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap_or_default()))
                .collect();
            let text = format!("Internal error: {}", headers.join("\n"));
            Answer::json(500, &json!({ "error": text, "status": 500, "request": request.json() }))
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
    let answer = error(429, "Rate limit exceeded.");
    let at = |seconds: u64| world.now() + std::time::Duration::from_secs(seconds);
    match how {
        Throttling::Seconds(seconds) => answer.header("retry-after", seconds.to_string()),
        Throttling::Date(seconds) => answer.header("retry-after", httpdate::fmt_http_date(at(seconds))),
        Throttling::Reset(_) | Throttling::Silent => answer,
    }
}

/// One page of a list, as the request asks for it: the cursor is the number of the first row, in Base64.
pub(super) fn page(request: &Request, name: &str, rows: &[Value], limit: usize) -> Answer {
    let cursor = request.query("cursor").and_then(|text| STANDARD.decode(text).ok());
    let first: usize = cursor
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .and_then(|text| text.trim_start_matches("next__").parse().ok())
        .unwrap_or(0);
    let size = request.query("per_page").and_then(|text| text.parse().ok()).unwrap_or(100).min(limit).max(1);
    let shown: Vec<_> = rows.iter().skip(first).take(size).collect();
    let after = first + size;
    let next = if after < rows.len() { STANDARD.encode(format!("next__{after}")) } else { String::new() };
    let mut body = json!({ "meta": { "total": rows.len(), "links": { "next": next, "prev": "" } } });
    body[name] = json!(shown);
    Answer::json(200, &body)
}

pub(super) fn account() -> Answer {
    Answer::json(
        200,
        &json!({ "account": {
            "name": "Ops", "email": "ops@example.com", "acls": ["subscriptions_view", "provisioning", "subscriptions"],
            "balance": -100.5, "pending_charges": 60.25, "last_payment_date": "2026-10-10T01:56:20+00:00",
            "last_payment_amount": -1.25,
        } }),
    )
}

pub(super) fn machine(machine: &Machine) -> Value {
    let (power, server) = match machine.power {
        Power::Starting => ("running", "installingbooting"),
        Power::On => ("running", "ok"),
        Power::Off => ("stopped", "ok"),
    };
    let created = humantime::format_rfc3339_seconds(machine.created).to_string();
    let created = format!("{}+00:00", created.trim_end_matches('Z'));
    json!({
        "id": name_of(machine.id), "label": machine.name, "hostname": machine.name, "tags": machine.tags,
        "tag": "", "status": "active", "power_status": power, "server_status": server, "date_created": created,
        "region": machine.region, "plan": machine.plan, "os": "Debian 13 x64 (trixie)", "os_id": 2625, "ram": 1024,
        "disk": 25, "vcpu_count": 1, "main_ip": "192.0.2.9", "v6_main_ip": "2001:db8::9", "features": ["ipv6"],
        "firewall_group_id": "", "user_scheme": "root",
    })
}

/// A whole machine, which has no word of whether it is on.
pub(super) fn metal(machine: &Machine) -> Value {
    let status = if machine.power == Power::Starting { "pending" } else { "active" };
    let created = humantime::format_rfc3339_seconds(machine.created).to_string();
    let created = format!("{}+00:00", created.trim_end_matches('Z'));
    json!({
        "id": name_of(machine.id), "label": machine.name, "tags": machine.tags, "tag": "", "status": status,
        "date_created": created, "region": machine.region, "plan": machine.plan, "os": "Debian 13 x64 (trixie)",
        "os_id": 2625, "app_id": 0, "image_id": "", "snapshot_id": "", "ram": "32768 MB", "disk": "2x 240 GB SSD",
        "cpu_count": 4, "main_ip": "192.0.2.9", "netmask_v4": "255.255.254.0", "gateway_v4": "192.0.2.1",
        "v6_network": "2001:db8::", "v6_main_ip": "2001:db8::9", "v6_network_size": 64, "mac_address": 2_199_756_823_533_u64,
        "features": ["ipv6"], "user_scheme": "root",
    })
}

/// The tags that a request names.
pub(super) fn tags(body: &Value) -> Vec<String> {
    body["tags"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

pub(super) fn systems() -> Vec<Value> {
    [(477, "Debian 11 x64 (bullseye)"), (2136, "Debian 12 x64 (bookworm)"), (2625, "Debian 13 x64 (trixie)")]
        .map(|(id, name)| json!({ "id": id, "name": name, "arch": "x64", "family": "debian" }))
        .to_vec()
}

pub(super) fn regions() -> Vec<Value> {
    ["ewr", "fra", "sao"]
        .map(|id| {
            json!({ "id": id, "city": id, "country": "US", "continent": "x", "options": ["ddos_protection"] })
        })
        .to_vec()
}

pub(super) fn group(id: &str, description: &Value) -> Value {
    json!({
        "id": id, "description": description, "date_created": "2026-11-21T10:00:00+00:00",
        "date_modified": "2026-11-21T10:00:00+00:00", "instance_count": 0, "rule_count": 0, "max_rule_count": 50,
    })
}

fn plan(id: &str, fields: &Value) -> Value {
    let mut plan = json!({
        "id": id, "vcpu_count": 1, "ram": 1024, "disk": 25, "disk_count": 1, "bandwidth": 1024, "monthly_cost": 5.0,
        "hourly_cost": 0.007, "type": "vc2", "locations": ["ewr", "fra", "sao"], "deploy_ondemand": true,
        "location_cost": { "sao": { "hourly_cost": 0.010, "monthly_cost": 7.0 } },
    });
    for (name, value) in fields.as_object().into_iter().flatten() {
        plan[name] = value.clone();
    }
    plan
}

/// What is sold: plain ones, a part of a GPU, one that nobody knows; and with `absurd` some that cannot be.
pub(super) fn plans(absurd: bool) -> Vec<Value> {
    let with_price = |id: &str, hourly: f64, monthly: f64| {
        plan(id, &json!({ "hourly_cost": hourly, "monthly_cost": monthly, "location_cost": {} }))
    };
    let gpu = json!({
        "vcpu_count": 2, "ram": 8192, "hourly_cost": 0.059, "monthly_cost": 43.0, "locations": ["ewr"], "location_cost": {},
        "gpu_type": "NVIDIA_A16", "gpu_vram_gb": 2, "gpu_count": "1/8", "type": "vcg",
    });
    let mystery = json!({ "gpu_type": "NVIDIA_X9", "gpu_count": 1, "locations": ["ewr"] });
    let mut plans = vec![
        plan("vc2-1c-1gb", &json!({})),
        plan(
            "vc2-2c-4gb",
            &json!({
                "vcpu_count": 2, "ram": 4096, "hourly_cost": 0.027, "monthly_cost": 20.0, "locations": ["ewr"], "location_cost": {},
            }),
        ),
        plan("vcg-a16-2c-8g-2vram", &gpu),
        plan("vcg-mystery", &mystery),
        plan("vbm-4c-32gb", &json!({ "locations": ["ewr"] })),
    ];
    if absurd {
        plans.push(with_price("vc2-free", 0.0, 0.0));
        plans.push(with_price("vc2-debt", -0.007, -5.0));
        plans.push(with_price("vc2-gold", 1e9, 7e11));
        plans.push(with_price("vc2-slip", 0.000_07, 5.0));
    }
    plans
}

/// Whole machines that are sold: one, one that is billed by months; and with `absurd` one that cannot be.
pub(super) fn metal_plans(absurd: bool) -> Vec<Value> {
    let plan = |id: &str, invoice: &str, hourly: f64| {
        json!({
            "id": id, "physical_cpus": 1, "cpu_count": 4, "cpu_cores": 4, "cpu_threads": 8,
            "cpu_manufacturer": "Intel", "cpu_model": "E3-1270v6", "cpu_mhz": 3800, "ram": 32768, "disk": 240,
            "disk_count": 2, "bandwidth": 5120, "monthly_cost": 120, "hourly_cost": hourly, "type": "SSD",
            "locations": ["ewr", "fra"], "invoice_type": invoice, "deploy_ondemand": true, "location_cost": {},
        })
    };
    let mut plans = vec![plan("vbm-4c-32gb", "hourly", 0.179), plan("vbm-month", "monthly", 0.179)];
    if absurd {
        plans.push(plan("vbm-free", "hourly", 0.0));
    }
    plans
}
