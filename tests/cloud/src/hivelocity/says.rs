//! Documents of the API, and how it refuses.

use serde_json::{Value, json};

use crate::server::{Answer, Request};
use crate::world::{Machine, Power, Refusal, Throttling};

pub(super) fn error(status: u16, message: &str) -> Answer {
    Answer::json(status, &json!({ "code": status, "message": message }))
}

pub(super) fn refusal(request: &Request, refusal: Refusal) -> Answer {
    match refusal {
        Refusal::Throttled(Throttling::Seconds(seconds)) => {
            error(429, "Too many requests.").header("retry-after", seconds.to_string())
        }
        Refusal::Throttled(_) => error(429, "Too many requests."),
        Refusal::Quota => error(400, "Your account has reached its limit of devices."),
        Refusal::Capacity => error(400, "The product is out of stock."),
        Refusal::NotSold => error(400, "The product is not available in this location."),
        Refusal::Unauthorized => error(401, "Invalid API key."),
        Refusal::Forbidden => error(403, "You have not been granted permission to complete this action."),
        Refusal::Busy => error(409, "Another action is in progress."),
        Refusal::Broken => {
            let headers: Vec<_> = request
                .headers
                .iter()
                .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap_or_default()))
                .collect();
            Answer::json(
                500,
                &json!({ "code": 500, "message": headers.join("\n"), "request": request.json() }),
            )
        }
        Refusal::Unavailable => Answer {
            status: 503,
            headers: vec![("content-type", "text/html".to_owned())],
            body: "<html><head><title>503 Service Unavailable</title></head><body>no backend</body></html>"
                .into(),
        },
    }
}

/// Whether a machine is of a line: the virtual ones say so in their tags here.
pub(super) fn is_of(machine: &Machine, line: &str) -> bool {
    machine.tags.iter().any(|tag| tag == "bp-vps") == (line == "compute")
}

pub(super) fn device(machine: &Machine) -> Value {
    let power = if machine.power == Power::Off { "OFF" } else { "ON" };
    let mut device = json!({
        "deviceId": machine.id, "orderId": machine.id + 1, "serviceId": machine.id + 2, "locationName": machine.region,
        "hostname": format!("{}.blueprint-hub.alt", machine.name), "osName": "Ubuntu 24.04", "period": "hourly",
        "productId": machine.plan.parse::<u64>().unwrap_or_default(), "productName": "E-2136", "tags": machine.tags,
        "script": machine.user_data,
    });
    if machine.power != Power::Starting {
        device["primaryIp"] = json!("198.51.100.7");
        device["powerStatus"] = json!(power);
    }
    device
}

fn product(id: u64, place: &str, fields: Value) -> Value {
    let mut product = json!({
        "product_id": id, "product_name": "E-2136", "data_center": place, "stock": "available",
        "product_hourly_price": 0.21, "product_monthly_price": 110.0, "hourly_location_premium": 0.0,
        "product_memory": "32GB", "product_drive": "2 x 960GB SSD", "is_vps": false,
        "processor_info": { "cores": 6, "threads": 12, "sockets": 1 }, "product_disabled_billing_periods": [],
    });
    for (name, value) in fields.as_object().into_iter().flatten() {
        product[name] = value.clone();
    }
    product
}

fn all(absurd: bool) -> Vec<Value> {
    let mut all = vec![
        product(525, "NYC1", json!({})),
        product(525, "TPA1", json!({ "hourly_location_premium": 0.01 })),
        product(526, "NYC1", json!({ "stock": "unavailable" })),
        product(
            580,
            "NYC1",
            json!({ "is_vps": true, "product_hourly_price": 0.03, "product_monthly_price": 16.0, "product_memory": "4GB", "product_drive": "80GB SSD" }),
        ),
    ];
    if absurd {
        all.push(product(900, "NYC1", json!({ "product_hourly_price": 0.0 })));
        all.push(product(901, "NYC1", json!({ "product_hourly_price": -0.1 })));
        all.push(product(902, "NYC1", json!({ "product_hourly_price": 1e9, "product_monthly_price": 1e12 })));
        all.push(product(903, "NYC1", json!({ "product_hourly_price": 0.000_357 })));
    }
    all
}

/// Whether a product can be had in a place.
pub(super) fn sells(id: u64, place: &str) -> bool {
    all(false)
        .iter()
        .any(|own| own["product_id"] == id && own["data_center"] == place && own["stock"] == "available")
}

pub(super) fn stock(shelf: &str, absurd: bool) -> Answer {
    let rows = if shelf == "MAIN" { all(absurd) } else { Vec::new() };
    Answer::json(200, &json!({ "flat": rows }))
}

pub(super) fn locations() -> Answer {
    let place =
        |code: &str, id: u64| json!({ "code": code, "id": id, "title": code, "core": true, "edge": false });
    Answer::json(200, &json!([place("NYC1", 1), place("TPA1", 2)]))
}

pub(super) fn profile() -> Answer {
    Answer::json(200, &json!({ "id": 77, "email": "ops@example.com" }))
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
