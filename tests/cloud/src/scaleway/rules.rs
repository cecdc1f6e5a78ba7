//! Rules of the API's reference that one request can break.

use http::Method;
use serde_json::Value;

use super::{PROJECT, parts};
use crate::server::Request;

/// Those that a request breaks.
pub(super) fn of_request(request: &Request) -> Vec<String> {
    let mut broken = Vec::new();
    let mut rule = |is_kept: bool, text: &str| {
        if !is_kept {
            broken.push(text.to_owned());
        }
    };
    rule(request.header("x-auth-token").is_some(), "no X-Auth-Token");
    rule(request.header("user-agent").is_some(), "no user agent");
    let is_user_data = request.path.contains("/user_data/");
    let kind = request.header("content-type").unwrap_or_default();
    let wanted = if is_user_data { "text/plain" } else { "application/json" };
    rule(request.body.is_empty() || kind == wanted, "a body of another type");
    for (name, most) in [("per_page", 100), ("page_size", 100)] {
        let size = request.query(name).and_then(|text| text.parse::<u32>().ok());
        rule(size.is_none_or(|size| (1..=most).contains(&size)), "a page is of 1 to 100 rows");
    }
    let Some((product, _, rest)) = parts(&request.path) else { return broken };
    let is_list = request.method == Method::GET && rest == ["servers"];
    rule(!is_list || request.query("project") == Some(PROJECT), "servers of every project are listed");
    if request.method == Method::POST && product == "instance" && rest == ["servers"] {
        of_order(&request.json(), &mut rule);
    }
    if is_user_data {
        rule(request.path.ends_with("/user_data/cloud-init"), "cloud-init reads the key cloud-init alone");
    }
    broken
}

fn of_order(order: &Value, rule: &mut impl FnMut(bool, &str)) {
    let text = |field: &str| order[field].as_str().unwrap_or_default();
    for field in ["name", "project", "commercial_type", "image", "security_group"] {
        rule(!text(field).is_empty(), &format!("an order without {field}"));
    }
    rule(text("image").len() == 36, "an image that is no id");
    let is_sized = |disk: &Value| disk["size"].as_u64().is_some_and(|size| size >= 10_000_000_000);
    let disks = order["volumes"].as_object();
    rule(disks.is_some_and(|disks| disks.values().all(is_sized)), "a disk that is smaller than its image");
    let tags = order["tags"].as_array().cloned().unwrap_or_default();
    let is_tag =
        |tag: &Value| tag.as_str().is_some_and(|tag| (1..=64).contains(&tag.len()) && tag.is_ascii());
    rule(tags.iter().all(is_tag), "a tag of more than 64 characters");
    rule(order.get("user_data").is_none(), "user data has a call of its own");
}
