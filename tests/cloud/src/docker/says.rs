//! How an engine says things (Docker 20.10, API 1.41).

use std::collections::BTreeMap;
use std::time::UNIX_EPOCH;

use serde_json::{Value, json};

use crate::server::{Answer, Request};
use crate::world::{Machine, Power, Refusal};

/// An id as engines have them.
pub(super) fn id(number: u64) -> String {
    format!("{number:064x}")
}

pub(super) fn error(status: u16, message: &str) -> Answer {
    Answer::json(status, &json!({ "message": message }))
}

pub(super) fn no_container(name: &str) -> Answer {
    error(404, &format!("No such container: {name}"))
}

pub(super) fn taken(name: &str, by: &str) -> Answer {
    let text = format!(
        "Conflict. The container name \"/{name}\" is already in use by container \"{by}\". You have to remove (or rename) \
         that container to be able to reuse that name."
    );
    error(409, &text)
}

pub(super) fn version() -> Answer {
    Answer::json(
        200,
        &json!({ "Version": "20.10.24", "ApiVersion": "1.41", "MinAPIVersion": "1.12", "Os": "linux", "Arch": "amd64" }),
    )
}

pub(super) fn info() -> Answer {
    Answer::json(
        200,
        &json!({ "NCPU": 16, "MemTotal": 1_u64 << 40, "Architecture": "x86_64", "OSType": "linux" }),
    )
}

pub(super) fn network(name: &str) -> Answer {
    let bridge = name.replacen("blueprint-", "bp-", 1);
    let options = json!({
        "com.docker.network.bridge.enable_icc": "false", "com.docker.network.bridge.name": bridge,
    });
    Answer::json(200, &json!({ "Name": name, "Driver": "bridge", "Options": options }))
}

const fn state(machine: &Machine) -> &'static str {
    match machine.power {
        Power::Starting => "created",
        Power::On => "running",
        Power::Off => "exited",
    }
}

fn labels(machine: &Machine) -> BTreeMap<&str, &str> {
    machine.tags.iter().filter_map(|tag| tag.split_once('=')).collect()
}

/// A row of a list.
pub(super) fn row(machine: &Machine) -> Value {
    let created = machine.created.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    json!({
        "Id": id(machine.id), "Names": [format!("/{}", super::name_of(machine))], "Labels": labels(machine),
        "State": state(machine), "Status": "", "Created": created, "Ports": [],
    })
}

/// The whole of a container.
pub(super) fn container(machine: &Machine) -> Answer {
    Answer::json(
        200,
        &json!({
            "Id": id(machine.id), "Name": format!("/{}", super::name_of(machine)),
            "Config": { "Labels": labels(machine) }, "State": { "Status": state(machine), "Paused": false },
        }),
    )
}

pub(super) fn refusal(request: &Request, refusal: Refusal) -> Answer {
    match refusal {
        Refusal::Throttled(_) => error(429, "too many requests"),
        Refusal::Quota => error(
            500,
            "could not find an available, non-overlapping IPv4 address pool among the defaults to assign to the network",
        ),
        Refusal::Capacity => error(500, "mkdir /var/lib/docker/overlay2/x: no space left on device"),
        Refusal::NotSold => {
            error(400, "Range of CPUs is from 0.01 to 0.50, as there are only 0 CPUs available")
        }
        Refusal::Unauthorized => error(401, "authorization required"),
        Refusal::Forbidden => {
            error(403, "authorization denied by plugin opa: request rejected by administrative policy")
        }
        Refusal::Busy => taken(request.query("name").unwrap_or_default(), &id(1)),
        Refusal::Broken => {
            let asked = String::from_utf8_lossy(&request.body).into_owned();
            error(500, &format!("internal error while doing {} {asked}", request.path))
        }
        Refusal::Unavailable => Answer {
            status: 503,
            headers: vec![("content-type", "text/html".to_owned())],
            body: bytes::Bytes::from_static(b"<html><body>503 Service Unavailable</body></html>"),
        },
    }
}

/// Texts for numbers, and numbers for texts.
pub(super) fn swap_types(value: &mut Value) {
    match value {
        Value::Number(number) => *value = Value::String(number.to_string()),
        Value::String(_) => *value = json!(7),
        Value::Array(list) => list.iter_mut().for_each(swap_types),
        Value::Object(fields) => fields.values_mut().for_each(swap_types),
        Value::Null | Value::Bool(_) => {}
    }
}

/// The files of an archive of the kind `ustar`, as texts.
pub(super) fn unpacked(bytes: &[u8]) -> BTreeMap<String, String> {
    let mut files = BTreeMap::new();
    let mut rest = bytes;
    while let Some((head, behind)) = rest.split_at_checked(512) {
        let text = |field: &[u8]| String::from_utf8_lossy(field).trim_end_matches(['\0', ' ']).to_owned();
        let name = text(&head[..100]);
        if name.is_empty() {
            break;
        }
        let length = usize::from_str_radix(&text(&head[124..136]), 8).unwrap();
        let (content, behind) = behind.split_at(length.next_multiple_of(512));
        files.insert(name, String::from_utf8_lossy(&content[..length]).into_owned());
        rest = behind;
    }
    files
}
