//! The fields that a service gets, with any headers of a client and any that are stored with its key: a naive model says
//! which those are.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};

use blueprint_common_types::{AgentId, Health, Secret, Timestamp};
use blueprint_hub_proxy_core::identity::{KeyGrant, KeyTable, NewApiKey, SealingKey, tenant_id};
use blueprint_hub_proxy_core::{
    CanonicalRequest, Field, RouteTable, Target, Trust, decide, is_field_text, upstream_fields,
    upstream_headers,
};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Request};

use super::NAMES;
use super::hub::{Hub, NOW, SERVICE, SOURCE};
use crate::input::Input;

/// Headers of one key at most.
const MAX_BOUND: usize = 8;

/// Who holds the key.
const OWNER: &str = "owner";

/// Belong to one connection.
const HOP: [&str; 9] = [
    "connection",
    "http2-settings",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "trailers",
    "transfer-encoding",
    "upgrade",
];

/// No client's to say to a service.
const OURS: [&str; 26] = [
    "authorization",
    "cf-connecting-ip",
    "content-length",
    "expect",
    "forwarded",
    "host",
    "proxy",
    "remote-user",
    "true-client-ip",
    "x-auth",
    "x-auth-method",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-customer-email",
    "x-forwarded",
    "x-original-host",
    "x-original-uri",
    "x-original-url",
    "x-real-ip",
    "x-remote-user",
    "x-request-id",
    "x-rewrite-url",
    "x-service-id",
    "x-tenant",
    "x-user-email",
    "x-user-id",
];

/// As those, whatever follows.
const OURS_FROM: [&str; 9] = [
    "proxy-",
    "x-auth-",
    "x-blueprint-",
    "x-client-cert",
    "x-forwarded-",
    "x-http-method",
    "x-method-override",
    "x-scope",
    "x-tenant-",
];

/// Fields by name, the values of each in their order.
type Fields = BTreeMap<String, Vec<Vec<u8>>>;

/// Builds the fields of a request, and compares.
pub(crate) fn play(data: &[u8]) {
    let mut input = Input(data);
    let (Some(kind), Some(count)) = (input.byte(), input.below(MAX_BOUND + 1)) else { return };
    let mut bound = BTreeMap::new();
    for _ in 0..count {
        let (Some(name), Some(length)) = (name(&mut input), input.below(32)) else { return };
        bound.insert(name, String::from_utf8_lossy(input.bytes(length)).into_owned());
    }
    // Agreement is worth nothing where nothing is admitted.
    static PLAIN: LazyLock<bool> = LazyLock::new(|| {
        let parts = head(0, &mut Input(b"")).unwrap();
        let request = CanonicalRequest::parse(&parts, &Hub::get().downstream()).unwrap();
        decide(&request, &trust(&BTreeMap::new()), NOW).is_ok()
    });
    assert!(*PLAIN);
    let Some(parts) = head(kind, &mut input) else { return };
    let hub = Hub::get();
    let Ok(request) = CanonicalRequest::parse(&parts, &hub.downstream()) else { return };
    let trust = trust(&bound);
    let Ok(admission) = decide(&request, &trust, NOW) else { return };
    let statement = HeaderValue::from_static("signed");
    let mut said = Fields::new();
    let mut put = |name: &str, value: &[u8]| said.entry(name.to_owned()).or_default().push(value.to_vec());
    upstream_fields(&request, &parts.headers, &admission, Some(&statement), &mut |field| match field {
        Field::Copied(name, value) => put(name.as_str(), value.as_bytes()),
        Field::Said(name, text) if is_field_text(text) => put(name, text.as_bytes()),
        Field::Said(..) => {}
    });
    assert_eq!(said, model(&request, &parts.headers, &bound));
    // The same as a map, in which a name that is no name would be missing.
    let mut mapped = Fields::new();
    for (name, value) in &upstream_headers(&request, &parts.headers, &admission, Some(&statement)) {
        mapped.entry(name.as_str().to_owned()).or_default().push(value.as_bytes().to_vec());
    }
    assert_eq!(mapped, said);
}

/// One of the names that matter, or any text.
fn name(input: &mut Input<'_>) -> Option<String> {
    Some(match NAMES.get(usize::from(input.byte()?)) {
        Some(name) => (*name).to_owned(),
        None => {
            let length = input.below(20)?;
            String::from_utf8_lossy(input.bytes(length)).into_owned()
        }
    })
}

/// A head that is admitted by the key, with any fields beside.
fn head(kind: u8, input: &mut Input<'_>) -> Option<Parts> {
    let method = if kind & 1 == 0 { "GET" } else { "POST" };
    let (mut parts, ()) = Request::builder().method(method).uri("/a").body(()).ok()?.into_parts();
    let authorization = format!("Bearer {}", key().text.expose());
    for (name, value) in [("host", "hub"), ("authorization", &authorization), ("x-service-id", "7/42")] {
        parts.headers.insert(HeaderName::from_static(name), HeaderValue::from_str(value).ok()?);
    }
    while let (Some(name), Some(length)) = (name(input), input.below(32)) {
        let name = HeaderName::from_bytes(name.as_bytes());
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(input.bytes(length))) {
            parts.headers.append(name, value);
        }
    }
    Some(parts)
}

fn key() -> &'static NewApiKey {
    static KEY: LazyLock<NewApiKey> = LazyLock::new(|| NewApiKey::random("ak").unwrap());
    &KEY
}

/// What the hub knows where the key has these headers.
fn trust(bound: &BTreeMap<String, String>) -> Trust {
    static SEALING: LazyLock<Arc<SealingKey>> =
        LazyLock::new(|| Arc::new(SealingKey::new(&Secret::new([9; 32])).unwrap()));
    let grant = KeyGrant {
        hash: key().hash,
        service: SERVICE,
        owner: OWNER.to_owned(),
        headers: bound.clone(),
        expires_at: Timestamp::from_millis(u64::MAX),
        is_revoked: false,
    };
    let target = Target {
        address: SocketAddr::from(([10, 88, 0, 2], 80)),
        health: Health::Healthy,
        reason: String::new(),
        agent: AgentId::from_bytes([1; 16]),
        weight: 100,
    };
    Trust {
        keys: KeyTable::new([(key().id.clone(), grant)]),
        routes: RouteTable::new([SERVICE], [(SERVICE, target)]),
        ..Trust::empty(Arc::clone(&SEALING))
    }
}

/// What a server with CGI-like variables makes of a name.
fn fold(name: &[u8]) -> String {
    let part =
        |byte: &u8| if byte.is_ascii_alphanumeric() { char::from(byte.to_ascii_lowercase()) } else { '-' };
    name.iter().map(part).collect()
}

fn is_ours(folded: &str) -> bool {
    HOP.contains(&folded) || OURS.contains(&folded) || OURS_FROM.iter().any(|start| folded.starts_with(start))
}

/// Whether an owner may have it with a key.
fn is_owners(name: &str) -> bool {
    let is_written_so = name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'));
    let names_customer =
        ["x-customer-email", "x-user-email", "x-user-id"].contains(&name) || name.starts_with("x-tenant-");
    let turns_request = name.starts_with("x-http-") || name.starts_with("x-method-");
    is_written_so && name.starts_with("x-") && !turns_request && (names_customer || !is_ours(name))
}

/// The fields, told once more and without the code that builds them.
fn model(request: &CanonicalRequest, of_client: &HeaderMap, bound: &BTreeMap<String, String>) -> Fields {
    let mut bound = bound.clone();
    let tenant = bound.remove("x-tenant-id").filter(|id| !id.is_empty()).unwrap_or_else(|| tenant_id(OWNER));
    let tenant_name = bound.remove("x-tenant-name");
    let mut of_connection = Vec::new();
    for value in of_client.get_all("connection") {
        of_connection
            .extend(value.as_bytes().split(|byte| *byte == b',').map(|token| fold(token.trim_ascii())));
    }
    let mut fields = Fields::new();
    for (name, value) in of_client {
        let folded = fold(name.as_str().as_bytes());
        if !is_ours(&folded) && !bound.contains_key(&folded) && !of_connection.contains(&folded) {
            fields.entry(name.as_str().to_owned()).or_default().push(value.as_bytes().to_vec());
        }
    }
    let mut say = |name: &str, text: &str| {
        if text.chars().all(|c| c == '\t' || (' '..='~').contains(&c)) {
            fields.entry(name.to_owned()).or_default().push(text.as_bytes().to_vec());
        }
    };
    for (name, value) in &bound {
        if is_owners(name) {
            say(name, value);
        }
    }
    say("x-blueprint-identity", "signed");
    say("x-request-id", request.request_id());
    say("x-forwarded-for", &SOURCE.to_string());
    say("x-forwarded-proto", "http");
    say("x-forwarded-host", "hub");
    say("x-auth-method", "api-key");
    say("x-tenant-id", &tenant);
    if let Some(name) = tenant_name.filter(|name| !name.contains('\t')) {
        say("x-tenant-name", &name);
    }
    if request.is_websocket() {
        say("connection", "upgrade");
        say("upgrade", "websocket");
    }
    if request.is_grpc() {
        say("te", "trailers");
    }
    fields
}
