//! Rules of the API's reference that one request can break.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use serde_json::Value;

use super::{INSTANCES, PER_PAGE};
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
    let size = request.query("per_page").and_then(|text| text.parse::<usize>().ok());
    rule(size.is_none_or(|size| (1..=PER_PAGE).contains(&size)), "per_page is not within 1 and 500");
    if request.method == Method::POST && request.path == INSTANCES {
        of_order(&request.json(), &mut rule);
    }
    broken
}

fn of_order(order: &Value, rule: &mut impl FnMut(bool, &str)) {
    let text = |field: &str| order[field].as_str().unwrap_or_default();
    for field in ["region", "plan", "label", "hostname", "firewall_group_id", "user_data"] {
        rule(!text(field).is_empty(), &format!("an order without {field}"));
    }
    rule(order["os_id"].is_u64(), "an order without the number of a system");
    rule(order["activation_email"] == false, "an order that mails a password");
    rule(order.get("enable_private_network").is_none(), "a field that is not taken any more");
    let user_data = STANDARD.decode(text("user_data"));
    rule(user_data.is_ok_and(|data| data.len() <= 16 * 1024), "user data that is no Base64, or too much");
    let tags = order["tags"].as_array().cloned().unwrap_or_default();
    let is_tag = |tag: &Value| tag.as_str().is_some_and(|tag| (1..=50).contains(&tag.len()));
    rule(tags.iter().all(is_tag), "a tag of other than 1 to 50 characters");
}
