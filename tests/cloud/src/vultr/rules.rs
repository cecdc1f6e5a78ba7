//! Rules of the API's reference that one request can break.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use serde_json::Value;

use super::PER_PAGE;
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
    match (&request.method, request.path.as_str()) {
        (&Method::POST, "/v2/instances") => {
            let order = request.json();
            of_order(&order, &mut rule);
            rule(order["firewall_group_id"].is_string(), "an order without firewall_group_id");
        }
        (&Method::POST, "/v2/bare-metals") => {
            let order = request.json();
            of_order(&order, &mut rule);
            for field in ["firewall_group_id", "backups", "enable_vpc", "attach_vpc"] {
                rule(order.get(field).is_none(), &format!("{field} of an instance for a whole machine"));
            }
        }
        (&Method::PATCH, path) if path.starts_with("/v2/bare-metals/") => {
            let change = request.json();
            let has_fields = change.as_object().is_some_and(|fields| fields.len() == 1);
            rule(has_fields && change["tags"].is_array(), "more is changed than tags");
        }
        (&Method::GET, "/v2/bare-metals") => {
            rule(request.query("tag").is_none(), "a filter that is not documented for whole machines");
        }
        _ => {}
    }
    broken
}

fn of_order(order: &Value, rule: &mut impl FnMut(bool, &str)) {
    let text = |field: &str| order[field].as_str().unwrap_or_default();
    for field in ["region", "plan", "label", "hostname", "user_data"] {
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
