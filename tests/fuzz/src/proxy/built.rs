//! What holds for the request that a service gets, told once more and without the code that builds it.

use blueprint_hub_proxy_core::CanonicalRequest;
use http::{HeaderMap, HeaderValue};

use super::hub::{Hub, SOURCE};

/// Belong to one connection.
const HOP: [&str; 9] = [
    "connection",
    "keep-alive",
    "te",
    "trailer",
    "trailers",
    "transfer-encoding",
    "upgrade",
    "proxy-connection",
    "http2-settings",
];

/// What a server with CGI-like variables makes of a name.
fn fold(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect()
}

/// Whether only the hub may say it.
fn is_ours(name: &str) -> bool {
    let starts =
        ["x-tenant-", "x-scope", "x-client-cert", "x-auth-", "x-blueprint-", "x-forwarded-", "proxy-"];
    let is = [
        "forwarded",
        "authorization",
        "host",
        "content-length",
        "x-request-id",
        "x-service-id",
        "x-real-ip",
        "remote-user",
        "x-user-id",
        "x-customer-email",
        "x-original-url",
        "x-http-method-override",
        "proxy",
        "expect",
    ];
    starts.iter().any(|start| name.starts_with(start)) || is.contains(&name)
}

/// The path is in its normal form, and reading it again gives the same.
pub(super) fn check_path(request: &CanonicalRequest) {
    let path = request.path();
    assert!(path.starts_with('/') && path.is_ascii() && !path.contains("//"), "{path}");
    assert!(
        !path.bytes().any(|byte| byte <= b' ' || byte == 0x7f || byte == b'\\' || byte == b'#'),
        "{path}"
    );
    assert!(!path.split('/').any(|segment| matches!(segment, "." | "..")), "{path}");
    let lower = path.to_ascii_lowercase();
    for hidden in ["%2f", "%5c", "%00", "%0d", "%0a", "%2e"] {
        assert!(!lower.contains(hidden), "{path}");
    }
    let target = request.path_and_query();
    assert!(!target.bytes().any(|byte| byte <= b' ' || byte == 0x7f), "{target}");
    let uri: http::Uri = target.parse().unwrap();
    assert_eq!(uri.path(), path);
}

/// Everything in the new request is the hub's, or the client's and harmless.
pub(super) fn check(
    request: &CanonicalRequest,
    of_client: &HeaderMap,
    new: &HeaderMap,
    statement: &HeaderValue,
) {
    let hub = Hub::get();
    let tenant = hub.token.id().to_string();
    let said = |name: &str, value: &str| {
        let found: Vec<_> = new.get_all(name).iter().collect();
        assert_eq!(found, [value], "{name}");
    };
    said("x-tenant-id", &tenant);
    said("x-tenant-name", "acme");
    said("x-auth-method", "token");
    said("x-request-id", request.request_id());
    said("x-forwarded-for", &SOURCE.to_string());
    said("x-forwarded-proto", "http");
    said("x-blueprint-identity", statement.to_str().unwrap());
    let ours = [
        "x-tenant-id",
        "x-tenant-name",
        "x-auth-method",
        "x-request-id",
        "x-forwarded-for",
        "x-forwarded-proto",
        "x-forwarded-host",
        "x-blueprint-identity",
    ];
    for (name, value) in new {
        let name = name.as_str();
        if ours.contains(&name) {
            continue;
        }
        let is_upgrade = request.is_websocket()
            && matches!((name, value.as_bytes()), ("connection", b"upgrade") | ("upgrade", b"websocket"));
        let is_grpc = request.is_grpc() && (name, value.as_bytes()) == ("te", b"trailers");
        if is_upgrade || is_grpc {
            continue;
        }
        let folded = fold(name);
        assert!(!is_ours(&folded) && !HOP.contains(&folded.as_str()), "{name}: {value:?} came through");
        assert!(of_client.get_all(name).iter().any(|sent| sent == value), "{name}: {value:?} was never sent");
    }
    assert!(
        of_client.contains_key("host")
            || request.authority().is_none()
            || new.contains_key("x-forwarded-host")
    );
}

/// A copy invents nothing and has nothing of the connection.
pub(super) fn check_copy(sent: &HeaderMap, kept: &HeaderMap, is_answer: bool) {
    for (name, value) in kept {
        let folded = fold(name.as_str());
        assert!(!HOP.contains(&folded.as_str()), "{name} came through");
        assert!(is_answer || !is_ours(&folded), "{name} came through");
        assert!(sent.get_all(name).iter().any(|sent| sent == value), "{name}: {value:?} was never sent");
    }
}
