//! The rules of Google's reference that its discovery document does not say, and those of our own that every order has to keep.

use serde_json::Value;

use crate::server::Request;

/// What an order has to say.
const SAID: [(&str, &str); 7] = [
    ("/canIpForward", "false"),
    ("/deletionProtection", "false"),
    ("/disks/0/boot", "true"),
    ("/disks/0/autoDelete", "true"),
    ("/networkInterfaces/0/stackType", "\"IPV4_ONLY\""),
    ("/shieldedInstanceConfig/enableVtpm", "true"),
    ("/tags/items/0", "\"blueprint-hub-no-ingress\""),
];

pub(super) fn of_request(request: &Request) -> Vec<String> {
    let mut broken = Vec::new();
    let mut rule = |holds: bool, words: &str| {
        if !holds {
            broken.push(words.to_owned());
        }
    };
    if request.path == "/token" {
        let is_form = request.header("content-type") == Some("application/x-www-form-urlencoded");
        rule(request.method == "POST" && is_form, "a token is not asked for by a form");
        return broken;
    }
    let bearer = request.header("authorization").unwrap_or_default();
    rule(bearer.starts_with("Bearer "), "there is no bearer token");
    let most = request.query("maxResults").map(|most| most.parse::<u32>());
    rule(most.is_none_or(|most| most.is_ok_and(|most| most <= 500)), "maxResults is more than 500");
    rule(request.query("access_token").is_none(), "the token stands in the URL");
    if request.method == "POST" {
        rule(request.header("content-length").is_some(), "a POST without a length");
    }
    let parts: Vec<_> = request.path.split('/').collect();
    if request.method == "POST" && parts.last() == Some(&"instances") {
        rule(request.query("requestId").is_some_and(is_uuid), "an order without a UUID as its requestId");
        of_order(&request.json(), &mut rule);
    }
    broken
}

fn of_order(order: &Value, rule: &mut impl FnMut(bool, &str)) {
    let text = |path: &str| order.pointer(path).and_then(Value::as_str).unwrap_or_default();
    for (path, wanted) in SAID {
        let said = order.pointer(path).map(Value::to_string);
        rule(said.as_deref() == Some(wanted), &format!("{path} is not {wanted}"));
    }
    let name = text("/name");
    let is_inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let is_name = (1..=63).contains(&name.len()) && name.starts_with(|c: char| c.is_ascii_lowercase());
    rule(is_name && name.chars().all(is_inner) && !name.ends_with('-'), "a name that RFC 1035 does not know");
    for labels in [&order["labels"], &order["disks"][0]["initializeParams"]["labels"]] {
        let is_of = |c: char| is_inner(c) || c == '_';
        let fits = |text: &str| text.len() <= 63 && text.chars().all(is_of);
        let mut rows = labels.as_object().into_iter().flatten();
        let is_right = |(key, value): (&String, &Value)| {
            fits(key) && key.starts_with(|c: char| c.is_ascii_lowercase()) && value.as_str().is_some_and(fits)
        };
        rule(rows.all(is_right), "a label of other letters than a-z, 0-9, '_' and '-'");
        rule(labels["blueprint-instance"].is_string(), "a machine or disk without labels");
    }
    let items = order.pointer("/metadata/items").and_then(Value::as_array).cloned().unwrap_or_default();
    let item =
        |key: &str| items.iter().find(|item| item["key"] == key).and_then(|item| item["value"].as_str());
    rule(item("ssh-keys").is_none() && item("sshKeys").is_none(), "it names keys for SSH");
    rule(item("block-project-ssh-keys") == Some("TRUE"), "keys of the project are let in");
    rule(item("user-data").is_some_and(|data| data.len() <= 262_144), "user data of more than 256 KiB");
    let has_gpus = text("/machineType").contains("/g2-") || text("/machineType").contains("/a2-");
    let is_spot = text("/scheduling/provisioningModel") == "SPOT";
    let ends = text("/scheduling/onHostMaintenance") == "TERMINATE";
    rule(ends || !(has_gpus || is_spot), "a machine with GPUs or a Spot one cannot be moved while it runs");
    rule(
        !is_spot || order.pointer("/scheduling/automaticRestart") == Some(&Value::Bool(false)),
        "a Spot machine is not restarted",
    );
}

fn is_uuid(text: &str) -> bool {
    let parts: Vec<_> = text.split('-').collect();
    parts.iter().map(|part| part.len()).eq([8, 4, 4, 4, 12])
        && text.bytes().all(|byte| byte == b'-' || matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        && text.bytes().any(|byte| byte != b'-' && byte != b'0')
}
