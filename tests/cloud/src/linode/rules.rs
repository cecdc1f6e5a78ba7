//! Rules of the API's reference that one request can break.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use serde_json::Value;

use super::{INSTANCES, PAGE_SIZE};
use crate::server::Request;

/// Those that a request breaks.
pub(super) fn of_request(request: &Request) -> Vec<String> {
    let mut broken = Vec::new();
    let mut rule = |is_kept: bool, text: &str| {
        if !is_kept {
            broken.push(text.to_owned());
        }
    };
    let is_bearer = request.header("authorization").is_some_and(|text| text.starts_with("Bearer "));
    rule(is_bearer, "no bearer token");
    rule(request.header("user-agent").is_some(), "no user agent");
    let is_json = request.header("content-type").is_some_and(|text| text.starts_with("application/json"));
    rule(request.body.is_empty() || is_json, "a body without content-type: application/json");
    let size = request.query("page_size").and_then(|text| text.parse::<usize>().ok());
    rule(size.is_none_or(|size| PAGE_SIZE.contains(&size)), "page_size is not within 25 and 500");
    if let Some(filter) = request.header("x-filter") {
        let filter: Value = serde_json::from_str(filter).unwrap_or_default();
        let known = |name: &String| name == "tags" || name == "label";
        let is_known = filter.as_object().is_some_and(|fields| fields.keys().all(known));
        rule(is_known, "a filter of other fields than tags and label, or none");
    }
    if request.method == Method::POST && request.path == INSTANCES {
        of_order(&request.json(), &mut rule);
    }
    if request.method == Method::POST && request.path.ends_with("/networking/firewalls") {
        rule(is_label(&request.json()["label"], 32), "a label of a firewall that is none");
    }
    broken
}

fn of_order(order: &Value, rule: &mut impl FnMut(bool, &str)) {
    let text = |field: &str| order[field].as_str().unwrap_or_default();
    for field in ["label", "region", "type", "image", "root_pass"] {
        rule(!text(field).is_empty(), &format!("an order without {field}"));
    }
    rule(is_label(&order["label"], 64), "a label that is none");
    let password = text("root_pass");
    let kinds: [fn(char) -> bool; 3] =
        [|c| c.is_ascii_lowercase(), |c| c.is_ascii_uppercase(), |c| c.is_ascii_digit()];
    let is_strong =
        (11..=128).contains(&password.len()) && kinds.iter().all(|kind| password.chars().any(kind));
    rule(is_strong, "a password that is weak");
    let user_data = STANDARD.decode(order["metadata"]["user_data"].as_str().unwrap_or_default());
    rule(user_data.is_ok_and(|data| data.len() <= 65_535), "user data that is no Base64, or too much");
    let tags = order["tags"].as_array().cloned().unwrap_or_default();
    let is_tag = |tag: &Value| tag.as_str().is_some_and(|tag| (3..=50).contains(&tag.len()));
    rule(tags.iter().all(is_tag), "a tag of other than 3 to 50 characters");
}

fn is_label(label: &Value, most: usize) -> bool {
    let label = label.as_str().unwrap_or_default();
    (3..=most).contains(&label.len())
        && label.starts_with(|c: char| c.is_ascii_alphabetic())
        && label.ends_with(|c: char| c.is_ascii_alphanumeric())
        && label.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        && !["--", "__", ".."].iter().any(|pair| label.contains(pair))
}
