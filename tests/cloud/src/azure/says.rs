//! Documents of Azure Resource Manager, and how it refuses.

use serde_json::{Map, Value, json};

use super::{Account, Part, REGION, SUBSCRIPTION};
use crate::server::{Answer, Request};
use crate::world::{Machine, Power, Refusal};

pub(super) fn error(status: u16, code: &str, message: &str) -> Answer {
    Answer::json(status, &json!({ "error": { "code": code, "message": message } }))
        .header("x-ms-request-id", "0f3c7d1e-5f1b-4f0e-9a51-b7a2f0c9d111".to_owned())
}

pub(super) fn not_found(what: &str) -> Answer {
    error(404, "ResourceNotFound", &format!("The Resource '{what}' under resource group was not found."))
}

pub(super) fn no_group(name: &str) -> Answer {
    error(404, "ResourceGroupNotFound", &format!("Resource group '{name}' could not be found."))
}

pub(super) fn over_quota() -> Answer {
    error(
        409,
        "OperationNotAllowed",
        "Operation could not be completed as it results in exceeding approved Total Regional Cores quota. Additional details - \
         Deployment Model: Resource Manager, Location: eastus, Current Limit: 10, Current Usage: 10, Additional Required: 2.",
    )
}

pub(super) fn refusal(request: &Request, refusal: Refusal) -> Answer {
    match refusal {
        Refusal::Throttled(throttling) => {
            let answer = error(429, "TooManyRequests", "The request is being throttled.");
            match throttling.pause() {
                Some(pause) => answer.header("retry-after", pause.as_secs().to_string()),
                None => answer,
            }
        }
        Refusal::Quota => over_quota(),
        Refusal::Capacity => error(
            409,
            "AllocationFailed",
            "Allocation failed. We do not have sufficient capacity for the requested VM size.",
        ),
        Refusal::NotSold => error(
            409,
            "SkuNotAvailable",
            "The requested VM size for resource is currently not available in location 'eastus'.",
        ),
        Refusal::Unauthorized => unauthorized(),
        Refusal::Forbidden => error(
            403,
            "AuthorizationFailed",
            "The client 'x' with object id 'x' does not have authorization to perform action \
             'Microsoft.Compute/virtualMachines/write' over scope '/subscriptions/x' or the scope is invalid.",
        ),
        Refusal::Busy => {
            error(409, "AnotherOperationInProgress", "Another operation on this resource is in progress.")
        }
        Refusal::Broken => {
            let headers: Vec<_> = request
                .headers
                .iter()
                .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap_or_default()))
                .collect();
            let error = json!({ "code": "InternalServerError", "message": format!("Server Error: {}", headers.join("\n")) });
            Answer::json(500, &json!({ "error": error, "request": request.json() }))
        }
        Refusal::Unavailable => Answer {
            status: 503,
            headers: vec![("content-type", "text/html".to_owned())],
            body: "<html><head><title>503 Service Unavailable</title></head><body>no backend</body></html>"
                .into(),
        },
    }
}

pub(super) fn unauthorized() -> Answer {
    error(401, "InvalidAuthenticationToken", "The access token is invalid.")
}

/// Tags as they are kept in the world, `name=value`, as an object.
pub(super) fn tags(written: &[String]) -> Value {
    let rows = written.iter().filter_map(|tag| tag.split_once('='));
    Value::Object(rows.map(|(name, value)| (name.to_owned(), json!(value))).collect::<Map<_, _>>())
}

fn id_of(group: &str, name: &str) -> String {
    format!(
        "/subscriptions/{SUBSCRIPTION}/resourceGroups/{group}/providers/Microsoft.Compute/virtualMachines/{name}"
    )
}

fn view(machine: &Machine) -> Value {
    let power = match machine.power {
        Power::Starting => "starting",
        Power::On => "running",
        Power::Off => "deallocated",
    };
    json!({ "statuses": [
        { "code": "ProvisioningState/succeeded", "level": "Info", "displayStatus": "Provisioning succeeded" },
        { "code": format!("PowerState/{power}"), "level": "Info", "displayStatus": format!("VM {power}") },
    ] })
}

pub(super) fn machine(account: &Account, machine: &Machine, with_view: bool) -> Value {
    let state = if account.failed.contains(&machine.id) { "Failed" } else { "Succeeded" };
    let created = humantime::format_rfc3339_nanos(machine.created).to_string().replace('Z', "+00:00");
    let mut document = json!({
        "name": machine.name,
        "id": id_of(&account.group_name(), &machine.name),
        "type": "Microsoft.Compute/virtualMachines",
        "location": machine.region,
        "tags": tags(&machine.tags),
        "properties": {
            "vmId": format!("00000000-0000-0000-0000-{:012}", machine.id),
            "hardwareProfile": { "vmSize": machine.plan },
            "provisioningState": state,
            "timeCreated": created,
        },
    });
    if with_view && state != "Failed" {
        document["properties"]["instanceView"] = view(machine);
    }
    document
}

/// A row of the list that tells what machines do. Ids come in another case than they were given.
pub(super) fn status(account: &Account, machine: &Machine) -> Value {
    let is_ours = super::is_ours(machine);
    let group = if is_ours { account.group_name().to_uppercase() } else { "PEOPLE".to_owned() };
    let mut row = json!({
        "name": machine.name, "id": id_of(&group, &machine.name), "location": machine.region, "properties": {},
    });
    if !account.failed.contains(&machine.id) {
        row["properties"]["instanceView"] = view(machine);
    }
    row
}

pub(super) fn part(part: &Part) -> Value {
    json!({
        "id": format!("/subscriptions/{SUBSCRIPTION}/resourceGroups/g/providers/{}/{}", part.kind, part.name),
        "name": part.name, "type": part.kind, "location": REGION, "tags": part.tags, "createdTime": part.created,
    })
}

/// A network or a security group in the list of all resources.
pub(super) fn network((path, document): (&String, &Value)) -> Value {
    let kind = if path.contains("/virtualnetworks/") { "virtualNetworks" } else { "networkSecurityGroups" };
    json!({
        "id": document["id"], "name": document["name"], "type": format!("Microsoft.Network/{kind}"), "location": REGION,
        "tags": document["tags"],
    })
}

/// What the subscription may have, and what it may not.
pub(super) fn skus() -> Vec<Value> {
    let sku = |name: &str, arch: &str, gpus: &str, closed: bool| {
        let restriction = json!({
            "type": "Location", "values": [REGION], "reasonCode": "NotAvailableForSubscription",
            "restrictionInfo": { "locations": [REGION] },
        });
        json!({
            "resourceType": "virtualMachines", "name": name, "tier": "Standard", "size": name.replace("Standard_", ""),
            "family": "standardFamily", "locations": [REGION], "locationInfo": [{ "location": REGION, "zones": ["1", "2"] }],
            "restrictions": if closed { vec![restriction] } else { Vec::new() },
            "capabilities": [
                { "name": "vCPUs", "value": "2" }, { "name": "MemoryGB", "value": "8" }, { "name": "GPUs", "value": gpus },
                { "name": "CpuArchitectureType", "value": arch }, { "name": "HyperVGenerations", "value": "V1,V2" },
                { "name": "AcceleratedNetworkingEnabled", "value": if gpus == "0" { "True" } else { "False" } },
                { "name": "LowPriorityCapable", "value": "True" },
            ],
        })
    };
    vec![
        json!({ "resourceType": "disks", "name": "StandardSSD_LRS", "locations": [REGION], "capabilities": [], "restrictions": [] }),
        sku("Standard_D2s_v5", "x64", "0", false),
        sku("Standard_D4s_v5", "x64", "0", false),
        sku("Standard_D2ps_v5", "Arm64", "0", false),
        sku("Standard_NC4as_T4_v3", "x64", "1", false),
        sku("Standard_D8s_v5", "x64", "0", true),
    ]
}

/// Two pages of the public price list, with what nobody may take for a machine of Linux.
pub(super) fn spot_prices(request: &Request) -> Answer {
    let item = |sku: &str, meter: &str, product: &str, price: f64| {
        json!({
            "currencyCode": "USD", "retailPrice": price, "armRegionName": REGION, "armSkuName": sku, "meterName": meter,
            "productName": product, "unitOfMeasure": "1 Hour", "type": "Consumption",
        })
    };
    let dsv5 = "Virtual Machines Dsv5 Series";
    let host = request.header("host").unwrap_or_default();
    if request.query("$skip").is_some() {
        let items = [
            item("Standard_D4s_v5", "D4s v5 Spot", dsv5, 0.0384),
            item("Standard_NC4as_T4_v3", "NC4as T4 v3 Spot", "x", 9.0),
        ];
        return Answer::json(200, &json!({ "Items": items, "NextPageLink": null }));
    }
    let items = [
        item("Standard_D2s_v5", "D2s v5 Spot", dsv5, 0.0192),
        item("Standard_D2s_v5", "D2s v5 Spot", "Virtual Machines Dsv5 Series Windows", 0.07),
    ];
    Answer::json(
        200,
        &json!({ "Items": items, "NextPageLink": format!("http://{host}/api/retail/prices?$skip=100") }),
    )
}

/// One page of a list that goes on behind the name of its last row, so that what goes meanwhile moves nothing.
pub(super) fn page(request: &Request, rows: &[Value], size: usize) -> Answer {
    let after = request.query("$skiptoken").unwrap_or_default();
    let name = |row: &Value| row["name"].as_str().unwrap_or_default().to_owned();
    let mut rows: Vec<_> = rows.iter().filter(|row| name(row).as_str() > after).cloned().collect();
    rows.sort_by_key(name);
    let is_last = rows.len() <= size.max(1);
    rows.truncate(size.max(1));
    let mut body = json!({ "value": rows });
    if !is_last {
        let own = request.query.iter().filter(|(name, _)| name != "$skiptoken");
        let last = rows.last().map(name).unwrap_or_default();
        let query: Vec<_> = own.cloned().chain([("$skiptoken".to_owned(), last)]).collect();
        let query = serde_urlencoded::to_string(query).unwrap_or_default();
        let host = request.header("host").unwrap_or_default();
        body["nextLink"] = json!(format!("http://{host}{}?{query}", request.path));
    }
    Answer::json(200, &body)
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
