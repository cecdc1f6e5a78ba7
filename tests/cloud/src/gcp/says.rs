//! Documents of Compute Engine, and how it refuses.

use serde_json::{Value, json};

use super::{PROJECT, REGION, SECOND_REGION};
use crate::server::{Answer, Request};
use crate::world::{Machine, Power, Refusal, World};

pub(super) const EXHAUSTED: &str = "The zone 'projects/a-project-1/zones/us-central1-a' does not have enough resources available to \
    fulfill the request.  Try a different zone, or try again later.";
pub(super) const QUOTA: &str = "Quota 'CPUS' exceeded.  Limit: 24.0 in region us-central1.";

pub(super) fn error(status: u16, reason: &str, message: &str) -> Answer {
    let error = json!({ "message": message, "domain": "global", "reason": reason });
    Answer::json(status, &json!({ "error": { "code": status, "message": message, "errors": [error] } }))
}

pub(super) fn not_found(what: &str) -> Answer {
    error(404, "notFound", &format!("The resource '{what}' was not found"))
}

pub(super) fn refusal(_: &World, request: &Request, refusal: Refusal) -> Answer {
    match refusal {
        Refusal::Throttled(how) => {
            let answer = error(429, "rateLimitExceeded", "Rate Limit Exceeded");
            match how.pause() {
                Some(pause) => answer.header("retry-after", pause.as_secs().to_string()),
                None => answer,
            }
        }
        Refusal::NotSold => error(
            400,
            "invalid",
            "Invalid value for field 'resource.machineType'. Machine type with name 'x' does not exist in zone 'us-central1-a'.",
        ),
        Refusal::Unauthorized => error(401, "authError", "Request had invalid authentication credentials."),
        Refusal::Forbidden => error(
            403,
            "forbidden",
            "Required 'compute.instances.create' permission for 'projects/a-project-1/zones/us-central1-a/instances/x'",
        ),
        Refusal::Busy => error(400, "resourceNotReady", "The resource 'x' is not ready"),
        Refusal::Quota => error(403, "quotaExceeded", QUOTA),
        Refusal::Capacity => error(503, "ZONE_RESOURCE_POOL_EXHAUSTED", EXHAUSTED),
        Refusal::Broken => {
            let headers: Vec<_> = request
                .headers
                .iter()
                .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap_or_default()))
                .collect();
            let message = format!("Backend Error: {}", headers.join("\n"));
            let errors = json!([{ "message": message, "domain": "global", "reason": "backendError" }]);
            let error =
                json!({ "code": 500, "message": message, "errors": errors, "request": request.json() });
            Answer::json(500, &json!({ "error": error }))
        }
        Refusal::Unavailable => Answer {
            headers: vec![("content-type", "text/html".to_owned())],
            body: "<html><title>Error 503 (Service Unavailable)!!1</title></html>".into(),
            ..Answer::empty(503)
        },
    }
}

pub(super) fn nothing_here() -> Value {
    json!({ "code": "NO_RESULTS_ON_PAGE", "message": "There are no results for scope on this page.", "data": [] })
}

pub(super) fn operation(
    name: &str,
    kind: &str,
    zone: Option<&str>,
    target: u64,
    error: Option<Value>,
) -> Value {
    let mut operation = json!({
        "kind": "compute#operation", "id": "55", "name": name, "operationType": kind, "status": "DONE", "progress": 100,
        "insertTime": "2026-11-22T02:00:00.000-08:00", "endTime": "2026-11-22T02:00:09.000-08:00",
        "targetId": target.to_string(), "user": "hub@a-project-1.iam.gserviceaccount.com",
    });
    if let Some(zone) = zone {
        operation["zone"] =
            json!(format!("https://www.googleapis.com/compute/v1/projects/{PROJECT}/zones/{zone}"));
    }
    if let Some(error) = error {
        operation["httpErrorStatusCode"] = error["status"].clone();
        operation["httpErrorMessage"] = json!("FAILED");
        operation["error"] = json!({ "errors": [{ "code": error["code"], "message": error["message"] }] });
    }
    operation
}

pub(super) fn machine(machine: &Machine, zone: &str, name: &str) -> Value {
    let status = match machine.power {
        Power::Starting => "PROVISIONING",
        Power::On => "RUNNING",
        Power::Off => "TERMINATED",
    };
    let labels: serde_json::Map<String, Value> = machine
        .tags
        .iter()
        .filter_map(|tag| tag.split_once('='))
        .map(|(key, value)| (key.to_owned(), json!(value)))
        .collect();
    let at = format!("https://www.googleapis.com/compute/v1/projects/{PROJECT}/zones/{zone}");
    // Google writes the time of the Pacific coast.
    let local = machine.created - std::time::Duration::from_secs(8 * 3600);
    let created = humantime::format_rfc3339_millis(local).to_string().replace('Z', "-08:00");
    json!({
        "kind": "compute#instance", "id": machine.id.to_string(), "name": name, "zone": at, "status": status,
        "machineType": format!("{at}/machineTypes/{}", machine.plan), "creationTimestamp": created, "labels": labels,
        "labelFingerprint": "42WmSpB8rSM=", "startRestricted": false, "deletionProtection": false,
        "disks": [{ "kind": "compute#attachedDisk", "boot": true, "autoDelete": true, "diskSizeGb": "20" }],
        "networkInterfaces": [{ "kind": "compute#networkInterface", "name": "nic0", "networkIP": "10.128.0.2" }],
    })
}

/// Whether a machine is what a filter asks for: `labels.X:*`, or `(labels.X = "V") (labels.Y = "W")`.
pub(super) fn fits(filter: &str, machine: &Machine) -> bool {
    let value = |name: &str| {
        machine
            .tags
            .iter()
            .filter_map(|tag| tag.split_once('='))
            .find(|(own, _)| *own == name)
            .map(|pair| pair.1)
    };
    if let Some(name) = filter.strip_prefix("labels.").and_then(|rest| rest.strip_suffix(":*")) {
        return value(name).is_some();
    }
    let terms = filter.split(") (").map(|term| term.trim_matches(['(', ')']));
    terms.into_iter().all(|term| {
        let pair = term.strip_prefix("labels.").and_then(|rest| rest.split_once(" = "));
        pair.is_some_and(|(name, wanted)| value(name) == Some(wanted.trim_matches('"')))
    })
}

pub(super) fn region(name: &str, zones: &[String]) -> Answer {
    let at = |zone: &String| format!("https://www.googleapis.com/compute/v1/projects/{PROJECT}/zones/{zone}");
    let zones: Vec<_> = zones.iter().map(at).collect();
    let quotas = json!([{ "metric": "CPUS", "limit": 24.0, "usage": 0.0 }, { "metric": "ROUTES", "limit": 9.0, "usage": 0.0 }]);
    Answer::json(
        200,
        &json!({ "kind": "compute#region", "id": "1000", "name": name, "status": "UP", "zones": zones, "quotas": quotas }),
    )
}

pub(super) fn kind((name, cpus, memory, gpus): (&str, u32, u64, u32)) -> Value {
    let mut kind = json!({
        "kind": "compute#machineType", "id": "3", "name": name, "guestCpus": cpus, "memoryMb": memory,
        "architecture": "X86_64", "isSharedCpu": name == "e2-small",
    });
    if gpus > 0 {
        kind["accelerators"] =
            json!([{ "guestAcceleratorType": "nvidia-l4", "guestAcceleratorCount": gpus }]);
    }
    kind
}

/// One page of the kinds of a zone.
pub(super) fn kinds(_: &str, kinds: &[Value], request: &Request, most: usize) -> Answer {
    let number = |field: &str| request.query(field).and_then(|text| text.parse::<usize>().ok());
    let (from, size) =
        (number("pageToken").unwrap_or(0), number("maxResults").unwrap_or(500).min(most).max(1));
    let page: Vec<_> = kinds.iter().skip(from).take(size).collect();
    let mut body = json!({ "kind": "compute#machineTypeList", "id": "kinds", "items": page });
    if from + size < kinds.len() {
        body["nextPageToken"] = json!((from + size).to_string());
    }
    Answer::json(200, &body)
}

/// Texts for numbers and numbers for texts.
pub(super) fn swap_types(value: &mut Value) {
    match value {
        Value::Object(fields) => fields.values_mut().for_each(swap_types),
        Value::Array(values) => values.iter_mut().for_each(swap_types),
        Value::String(text) => *value = json!(text.len()),
        Value::Number(number) => *value = json!(number.to_string()),
        Value::Null | Value::Bool(_) => {}
    }
}

/// Prices of processors and memory, in two pages: of E2 and C2D in both regions, and of other things.
pub(super) fn skus(request: &Request) -> Answer {
    let row = |description: &str, usage: &str, unit: &str, nanos: u64| {
        json!({
            "name": "services/6F81-5844-456A/skus/AAAA-BBBB-CCCC", "skuId": "AAAA-BBBB-CCCC", "description": description,
            "category": {
                "serviceDisplayName": "Compute Engine", "resourceFamily": "Compute", "resourceGroup": "CPU",
                "usageType": usage,
            },
            "serviceRegions": [REGION, SECOND_REGION], "serviceProviderName": "Google",
            "pricingInfo": [{ "summary": "", "currencyConversionRate": 1, "effectiveTime": "2026-11-20T10:00:00Z",
                "pricingExpression": {
                    "usageUnit": unit, "displayQuantity": 1, "baseUnit": "s", "baseUnitConversionFactor": 3600,
                    "tieredRates": [{ "startUsageAmount": 0, "unitPrice": {
                        "currencyCode": "USD", "units": "0", "nanos": nanos } }],
                } }],
        })
    };
    let body = match request.query("pageToken") {
        None | Some("") => json!({ "nextPageToken": "second", "skus": [
            row("E2 Instance Core running in Americas", "OnDemand", "h", 21_900_000),
            row("Commitment v1: E2 Cpu in Americas for 1 Year", "Commit1Yr", "h", 13_000_000),
            row("Licensing Fee for RHEL on VM with 6 to 127 VCPU", "OnDemand", "h", 130_000_000),
        ] }),
        Some(_) => json!({ "nextPageToken": "", "skus": [
            row("E2 Instance Ram running in Americas", "OnDemand", "GiBy.h", 2_940_000),
            row("Spot Preemptible E2 Instance Core running in Americas", "Preemptible", "h", 6_500_000),
            row("Spot Preemptible E2 Instance Ram running in Americas", "Preemptible", "GiBy.h", 870_000),
            row("C2D AMD Instance Core running in Americas", "OnDemand", "h", 29_563_000),
            row("C2D AMD Instance Ram running in Americas", "OnDemand", "GiBy.h", 3_959_000),
            // In words that were something else once: far below what is known.
            row("N2 Instance Core running in Americas", "OnDemand", "h", 31_611),
            row("N2 Instance Ram running in Americas", "OnDemand", "GiBy.h", 4_237),
        ] }),
    };
    Answer::json(200, &body)
}
