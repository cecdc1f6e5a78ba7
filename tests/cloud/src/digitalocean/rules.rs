//! Rules of the API's reference that one request can break.

use http::Method;
use serde_json::Value;

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
    let per_page = request.query("per_page").and_then(|text| text.parse::<u32>().ok());
    rule(per_page.is_none_or(|size| (1..=200).contains(&size)), "per_page is not within 1 and 200");
    if request.path == "/v2/droplets" && request.method == Method::GET {
        let has = |name: &str| request.query(name).is_some();
        rule(!(has("tag_name") && (has("name") || has("type"))), "tag_name together with name or type");
    }
    rule(
        !(request.method == Method::DELETE && request.path == "/v2/droplets"),
        "droplets are deleted by tag: that is more than one",
    );
    rule(
        !request.path.ends_with("/dangerous"),
        "everything that hangs on a droplet is deleted, snapshots too",
    );
    if request.method == Method::POST && request.path == "/v2/droplets" {
        of_order(&request.json(), &mut rule);
    }
    if let Some(name) = request.json()["name"].as_str().filter(|_| request.path == "/v2/tags") {
        rule(is_tag(name), "a tag with other characters than letters, digits, ':', '-' and '_'");
    }
    broken
}

fn of_order(order: &Value, rule: &mut impl FnMut(bool, &str)) {
    let text = |field: &str| order[field].as_str().unwrap_or_default();
    for field in ["name", "region", "size", "image"] {
        rule(!text(field).is_empty(), &format!("an order without {field}"));
    }
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '-';
    let name = text("name");
    rule(
        name.len() <= 255 && name.chars().all(is_of_name) && !name.ends_with(['.', '-']),
        "a name that is no host name",
    );
    rule(text("user_data").len() <= 64 * 1024, "user data of more than 64 KiB");
    let tags = order["tags"].as_array().cloned().unwrap_or_default();
    rule(tags.iter().all(|tag| tag.as_str().is_some_and(is_tag)), "a tag that is none");
}

fn is_tag(tag: &str) -> bool {
    (1..=255).contains(&tag.len()) && tag.chars().all(|c| c.is_ascii_alphanumeric() || ":-_".contains(c))
}
