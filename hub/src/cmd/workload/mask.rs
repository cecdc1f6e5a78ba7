//! The document of a workload as people are shown it: what of it may be secret is left out. JSON has all of it.

use serde_json::Value;

/// What stands in the place of what is not shown.
const HIDDEN: &str = "***";

/// The document for a terminal: values of its environment, and what of its URLs is a key, may be secret.
pub(super) fn masked(spec: &Value) -> Value {
    let mut spec = spec.clone();
    for (_, value) in spec.get_mut("env").and_then(Value::as_object_mut).into_iter().flatten() {
        *value = Value::from(HIDDEN);
    }
    for (pointer, shows_path) in
        [("/chain/http_rpc_url", false), ("/chain/ws_rpc_url", false), ("/source/url", true)]
    {
        if let Some(value) = spec.pointer_mut(pointer)
            && let Some(url) = value.as_str().filter(|url| !url.is_empty())
        {
            *value = Value::from(shown(url, shows_path));
        }
    }
    spec
}

/// Scheme and host of a URL, and its path where `shows_path`: keys stand in paths, queries and before the host.
fn shown(url: &str, shows_path: bool) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return HIDDEN.to_owned() };
    let end = rest.find(['/', '?', '#', '\\']).unwrap_or(rest.len());
    let (authority, rest) = rest.split_at(end);
    let (login, host) = match authority.rsplit_once('@') {
        Some((_, host)) => (format!("{HIDDEN}@"), host),
        None => (String::new(), authority),
    };
    let seen = if shows_path { rest.find(['?', '#']).unwrap_or(rest.len()) } else { 0 };
    let (path, hidden) = rest.split_at(seen);
    let tail = match hidden.chars().next() {
        None => String::new(),
        Some('/') if hidden.len() == 1 => "/".to_owned(),
        Some(begins) => format!("{begins}{HIDDEN}"),
    };
    format!("{scheme}://{login}{host}{path}{tail}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_of_the_environment_are_not_shown_to_people() {
        let spec = json!({ "name": "demo", "env": { "SECRET": "x", "OTHER": "y" } });
        assert_eq!(masked(&spec), json!({ "name": "demo", "env": { "SECRET": "***", "OTHER": "***" } }));
        assert_eq!(masked(&json!({ "name": "demo" })), json!({ "name": "demo" }));
    }

    #[test]
    fn keys_in_urls_are_not_shown_to_people() {
        let spec = json!({
            "source": { "type": "native", "url": "https://u:canary@files.example/a/b.tar.gz?sig=canary#canary", "sha256": "00" },
            "chain": { "http_rpc_url": "https://rpc.example:8545/v2/canary", "ws_rpc_url": "wss://canary@ws.example?key=canary" },
        });
        let expected = json!({
            "source": { "type": "native", "url": "https://***@files.example/a/b.tar.gz?***", "sha256": "00" },
            "chain": { "http_rpc_url": "https://rpc.example:8545/***", "ws_rpc_url": "wss://***@ws.example?***" },
        });
        assert_eq!(masked(&spec), expected);
        for (url, plain) in [
            ("http://127.0.0.1:8545", "http://127.0.0.1:8545"),
            ("https://rpc.example/", "https://rpc.example/"),
            ("canary", "***"),
            ("https://[::1]:1/canary", "https://[::1]:1/***"),
            ("https://host\\canary@x", "https://host\\***"),
        ] {
            assert_eq!(shown(url, false), plain, "{url}");
        }
        assert_eq!(
            masked(&json!({ "chain": { "http_rpc_url": "" } })),
            json!({ "chain": { "http_rpc_url": "" } })
        );
    }
}
