//! Headers of the new request, and of the answer on its way back.
//!
//! The headers of the upstream request are built, not edited: what a client sent is copied only
//! where its name is nobody else's business, and what the hub says is written afterwards, so that
//! nothing a client names in `Connection` can take it away again.
//!
//! Names are compared after folding: lower case, and every character that is not a letter or digit
//! as `-`. Services behind CGI-style interfaces cannot tell `x_tenant_id` or `x.tenant.id` from
//! `x-tenant-id`, so neither passes.

use std::collections::BTreeSet;

use http::header::{CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, TE, UPGRADE};
use http::{HeaderMap, header};

use crate::canonical::CanonicalRequest;
use crate::decide::Admission;

/// Name of the header that carries the id of a request.
pub(crate) const REQUEST_ID: &str = "x-request-id";

/// Longest id of a request taken from a client.
const MAX_REQUEST_ID: usize = 128;

/// Longest name of a token sent to a service.
const MAX_TENANT_NAME: usize = 512;

/// Name of the header with the signed statement of who calls.
pub(crate) const STATEMENT: &str = "x-blueprint-identity";

/// Belong to one connection, never to the next (RFC 9110, section 7.6.1, and their ancestors).
const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "keep-alive",
    "te",
    "trailer",
    "trailers",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
    "proxy-connection",
];

/// Ours or the connection's: a client cannot say these to a service.
const RESERVED: [&str; 26] = [
    "authorization",
    "content-length",
    "expect",
    "forwarded",
    "host",
    "proxy",
    "remote-user",
    "true-client-ip",
    "cf-connecting-ip",
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

/// Reserved towards clients, and what owners bind to the keys of their customers.
const OF_OWNERS: [&str; 3] = ["x-customer-email", "x-user-email", "x-user-id"];

/// As [`RESERVED`], for every name that starts so.
///
/// With the method that some services take instead of the request's: rules decide by the request's.
const RESERVED_PREFIXES: [&str; 9] = [
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

/// Builds the headers of the request to the service.
///
/// What the hub says: `x-request-id`, `x-forwarded-for`, `-proto`, `-host` and `-prefix`, and who calls, as
/// `x-auth-method`, `x-tenant-id`, `x-tenant-name` and `x-scopes`, `x-client-cert-subject`, `-issuer`
/// and `-serial` where one was shown, and the headers that the owner bound to the credential. `statement` is the signed form of the same
/// ([`IdentitySigner`](crate::identity::IdentitySigner)). Length, host and encoding are left to the
/// connection that sends it.
#[must_use]
pub fn upstream_headers(
    request: &CanonicalRequest,
    headers: &HeaderMap,
    admission: &Admission,
    statement: Option<&HeaderValue>,
) -> HeaderMap {
    let identity = admission.identity();
    let bound = identity.headers();
    let mut built = copy(headers, |folded| !is_reserved(folded) && !bound.contains_key(folded));
    for (name, value) in bound {
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value))
        {
            built.insert(name, value);
        }
    }
    if let Some(statement) = statement {
        built.insert(HeaderName::from_static(STATEMENT), statement.clone());
    }
    let mut say = |name: &'static str, text: &str| {
        if let Ok(value) = HeaderValue::from_str(text) {
            built.insert(HeaderName::from_static(name), value);
        }
    };
    say(REQUEST_ID, request.request_id());
    say("x-forwarded-for", &request.source().to_canonical().to_string());
    say("x-forwarded-proto", if request.is_tls() { "https" } else { "http" });
    if let Some(authority) = request.authority() {
        say("x-forwarded-host", authority);
    }
    if let Some(prefix) = request.prefix() {
        say("x-forwarded-prefix", prefix);
    }
    say("x-auth-method", identity.method().name());
    say("x-tenant-id", identity.tenant_id());
    let is_plain =
        |name: &&str| name.len() <= MAX_TENANT_NAME && name.bytes().all(|b| matches!(b, b' '..=b'~'));
    if let Some(name) = identity.tenant_name().filter(is_plain) {
        say("x-tenant-name", name);
    }
    if let Some(certificate) = identity.certificate() {
        let facts = certificate.facts();
        say("x-client-cert-subject", &facts.subject);
        say("x-client-cert-issuer", &facts.issuer);
        say("x-client-cert-serial", facts.serial.as_str());
    }
    if !identity.scopes().is_empty() {
        say("x-scopes", &identity.scopes().join(" "));
    }
    if request.is_websocket() {
        built.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        built.insert(UPGRADE, HeaderValue::from_static("websocket"));
    }
    if request.is_grpc() {
        built.insert(TE, HeaderValue::from_static("trailers"));
    }
    built
}

/// Trailers of a request: no name passes here that would not pass as a header.
#[must_use]
pub fn request_trailers(trailers: &HeaderMap) -> HeaderMap {
    copy(trailers, |folded| !is_reserved(folded))
}

/// Headers of the answer: what belongs to the inner connection stays there, and so does `Alt-Svc`,
/// by which a service could send clients past the hub.
#[must_use]
pub fn response_headers(headers: &HeaderMap) -> HeaderMap {
    copy(headers, |folded| !is_hop_by_hop(folded) && folded != header::ALT_SVC.as_str())
}

/// Whether an answer agrees to go on as a WebSocket, and so what the client asked for.
#[must_use]
pub fn is_websocket_answer(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(UPGRADE).iter();
    let is_one = values.next().is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"));
    is_one && values.next().is_none()
}

/// Trailers of an answer.
#[must_use]
pub fn response_trailers(trailers: &HeaderMap) -> HeaderMap {
    copy(trailers, |folded| {
        !is_hop_by_hop(folded) && folded != header::CONTENT_LENGTH.as_str() && folded != header::HOST.as_str()
    })
}

/// Copies what `passes`, less every name that a `Connection` header calls its own.
fn copy(headers: &HeaderMap, passes: impl Fn(&str) -> bool) -> HeaderMap {
    let named = connection_named(headers);
    let mut copied = HeaderMap::with_capacity(headers.len());
    for (name, value) in headers {
        let folded = fold(name.as_str().as_bytes());
        if passes(&folded) && !named.contains(&folded) {
            // Refuses only past 32768 fields, far above any bound on what comes in.
            let _ = copied.try_append(name.clone(), value.clone());
        }
    }
    copied
}

fn connection_named(headers: &HeaderMap) -> BTreeSet<String> {
    let values = headers.get_all(CONNECTION).iter();
    values
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .map(|token| fold(token.trim_ascii()))
        .collect()
}

fn fold(name: &[u8]) -> String {
    let fold_byte = |byte: &u8| if byte.is_ascii_alphanumeric() { byte.to_ascii_lowercase() } else { b'-' };
    name.iter().map(|byte| char::from(fold_byte(byte))).collect()
}

fn is_hop_by_hop(folded: &str) -> bool {
    HOP_BY_HOP.contains(&folded)
}

fn is_reserved(folded: &str) -> bool {
    is_hop_by_hop(folded)
        || RESERVED.contains(&folded)
        || RESERVED_PREFIXES.iter().any(|prefix| folded.starts_with(prefix))
}

/// Whether an owner may bind a header of this name, which is folded, to a key: extension headers that
/// say who a customer is, and none that changes what a request means.
pub(crate) fn is_owner_header(folded: &str) -> bool {
    let changes_meaning = folded.starts_with("x-http-") || folded.starts_with("x-method-");
    folded.starts_with("x-") && !changes_meaning && (names_a_customer(folded) || !is_reserved(folded))
}

/// Whether a header of this name, which is folded, says who a customer is: the owner's to bind to a key, and
/// nobody's to choose who holds the key.
pub(crate) fn names_a_customer(folded: &str) -> bool {
    OF_OWNERS.contains(&folded) || folded.starts_with("x-tenant-")
}

/// Letters, digits, `.`, `_` and `-`: safe in a log line and in a header.
pub(crate) fn is_request_id(text: &str) -> bool {
    (1..=MAX_REQUEST_ID).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

/// Whether the content type is that of gRPC.
#[must_use]
pub fn is_grpc(headers: &HeaderMap) -> bool {
    let value = headers.get(CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    let rest = value.strip_prefix(b"application/grpc");
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';' | b' ')))
}
