//! Headers of the new request, and of the answer on its way back.
//!
//! The headers of the upstream request are built, not edited: what a client sent is copied only
//! where its name is nobody else's business, and what the hub says is written afterwards, so that
//! nothing a client names in `Connection` can take it away again.
//!
//! Names are compared after folding: lower case, and every character that is not a letter or digit
//! as `-`. Services behind CGI-style interfaces cannot tell `x_tenant_id` or `x.tenant.id` from
//! `x-tenant-id`, so neither passes.

mod text;

use std::borrow::Cow;
use std::collections::BTreeSet;

use http::header::{CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, UPGRADE};
use http::{HeaderMap, header};

use self::text::{AddressText, Names};
use crate::canonical::CanonicalRequest;
use crate::decide::Admission;

/// Name of the header that carries the id of a request.
pub(crate) const REQUEST_ID: &str = "x-request-id";

/// Longest id of a request taken from a client.
const MAX_REQUEST_ID: usize = 128;

/// Longest name of a token sent to a service.
const MAX_TENANT_NAME: usize = 512;

/// Name of the header with the signed statement of who calls.
const STATEMENT: HeaderName = HeaderName::from_static("x-blueprint-identity");

/// Belong to one connection, never to the next (RFC 9110, section 7.6.1, and their ancestors).
const HOP_BY_HOP: Names<9> = Names::of([
    "connection",
    "keep-alive",
    "te",
    "trailer",
    "trailers",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
    "proxy-connection",
]);

/// Ours or the connection's: a client cannot say these to a service. Apart those that start with [`OF_EXTENSIONS`], so
/// that a name is compared with one half of all.
const RESERVED: Names<9> = Names::of([
    "authorization",
    "content-length",
    "expect",
    "forwarded",
    "host",
    "proxy",
    "remote-user",
    "true-client-ip",
    "cf-connecting-ip",
]);

/// How the names of extensions start.
const OF_EXTENSIONS: &str = "x-";

/// As [`RESERVED`], behind [`OF_EXTENSIONS`].
const RESERVED_EXTENSIONS: Names<18> = Names::of([
    "auth",
    "auth-method",
    "blueprint",
    "client-ip",
    "cluster-client-ip",
    "customer-email",
    "forwarded",
    "original-host",
    "original-uri",
    "original-url",
    "real-ip",
    "remote-user",
    "request-id",
    "rewrite-url",
    "service-id",
    "tenant",
    "user-email",
    "user-id",
]);

/// Reserved towards clients, and what owners bind to the keys of their customers.
const OF_OWNERS: [&str; 3] = ["x-customer-email", "x-user-email", "x-user-id"];

/// What the hub says of every tenant, so that nothing bound to a key stands beside it.
const SAID_OF_TENANTS: [&str; 2] = ["x-tenant-id", "x-tenant-name"];

/// As [`RESERVED`], for every name that starts so.
const RESERVED_PREFIX: &str = "proxy-";

/// As [`RESERVED_EXTENSIONS`], for every name that starts so.
///
/// With the method that some services take instead of the request's: rules decide by the request's.
const RESERVED_EXTENSION_PREFIXES: [&str; 8] = [
    "auth-",
    "blueprint-",
    "client-cert",
    "forwarded-",
    "http-method",
    "method-override",
    "scope",
    "tenant-",
];

/// One field of the request to the service.
#[derive(Debug, Clone, Copy)]
pub enum Field<'a> {
    /// The client's, or the signed statement.
    Copied(&'a HeaderName, &'a HeaderValue),
    /// The hub's or an owner's; a text that [`is_field_text`] has to pass.
    Said(&'a str, &'a str),
}

/// Whether a text may be the value of a field: no control characters, ASCII.
#[must_use]
pub fn is_field_text(text: &str) -> bool {
    all(text.as_bytes(), |byte| matches!(byte, b' '..=b'~' | b'\t'))
}

/// Whether all bytes are such; looks at all of them, several at once, where most texts have no other.
pub(crate) fn all(bytes: &[u8], is_fine: impl Fn(u8) -> bool) -> bool {
    bytes.iter().fold(true, |fine, byte| fine & is_fine(*byte))
}

/// Tells the fields of the request to the service, one after the other, each name of the hub's once.
///
/// What the hub says: `x-request-id`, `x-forwarded-for`, `-proto`, `-host` and `-prefix`, and who calls, as
/// `x-auth-method`, `x-tenant-id`, `x-tenant-name` and `x-scopes`, `x-client-cert-subject`, `-issuer`
/// and `-serial` where one was shown, and the headers that the owner bound to the credential. `statement` is the signed form of the same
/// ([`IdentitySigner`](crate::identity::IdentitySigner)). Length, host and encoding are left to the
/// connection that sends it.
pub fn upstream_fields(
    request: &CanonicalRequest,
    headers: &HeaderMap,
    admission: &Admission,
    statement: Option<&HeaderValue>,
    put: &mut dyn FnMut(Field<'_>),
) {
    let identity = admission.identity();
    let bound = identity.headers();
    let passes = |folded: &str| !is_reserved(folded) && (bound.is_empty() || !bound.contains_key(folded));
    each_passing(headers, passes, |name, value| put(Field::Copied(name, value)));
    // Judged again, whatever was stored; and whatever a key has bound, who calls is said by the hub, below.
    for (name, value) in bound.iter().filter(|(name, _)| may_stand_bound(name)) {
        put(Field::Said(name, value));
    }
    if let Some(statement) = statement {
        put(Field::Copied(&STATEMENT, statement));
    }
    put(Field::Said(REQUEST_ID, request.request_id()));
    put(Field::Said("x-forwarded-for", AddressText::of(request.source().to_canonical()).as_str()));
    put(Field::Said("x-forwarded-proto", if request.is_tls() { "https" } else { "http" }));
    if let Some(authority) = request.authority() {
        put(Field::Said("x-forwarded-host", authority));
    }
    if let Some(prefix) = request.prefix() {
        put(Field::Said("x-forwarded-prefix", prefix));
    }
    put(Field::Said("x-auth-method", identity.method().name()));
    put(Field::Said("x-tenant-id", identity.tenant_id()));
    let is_plain =
        |name: &&str| name.len() <= MAX_TENANT_NAME && name.bytes().all(|b| matches!(b, b' '..=b'~'));
    if let Some(name) = identity.tenant_name().filter(is_plain) {
        put(Field::Said("x-tenant-name", name));
    }
    if let Some(certificate) = identity.certificate() {
        let facts = certificate.facts();
        put(Field::Said("x-client-cert-subject", &facts.subject));
        put(Field::Said("x-client-cert-issuer", &facts.issuer));
        put(Field::Said("x-client-cert-serial", facts.serial.as_str()));
    }
    if !identity.scopes().is_empty() {
        put(Field::Said("x-scopes", &identity.scopes().join(" ")));
    }
    if request.is_websocket() {
        put(Field::Said("connection", "upgrade"));
        put(Field::Said("upgrade", "websocket"));
    }
    if request.is_grpc() {
        put(Field::Said("te", "trailers"));
    }
}

/// The fields of [`upstream_fields`] as a map.
#[must_use]
pub fn upstream_headers(
    request: &CanonicalRequest,
    headers: &HeaderMap,
    admission: &Admission,
    statement: Option<&HeaderValue>,
) -> HeaderMap {
    let mut built = HeaderMap::with_capacity(headers.len().saturating_add(12));
    upstream_fields(request, headers, admission, statement, &mut |field| match field {
        // Refuses only past 32768 fields, far above any bound on what comes in.
        Field::Copied(name, value) => drop(built.try_append(name.clone(), value.clone())),
        // The library takes more than ASCII for a value.
        Field::Said(_, text) if !is_field_text(text) => {}
        Field::Said(name, text) => {
            if let (Ok(name), Ok(value)) =
                (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(text))
            {
                built.insert(name, value);
            }
        }
    });
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
pub fn response_headers(mut headers: HeaderMap) -> HeaderMap {
    let (named, alt_svc) = (connection_named(&headers), header::ALT_SVC.as_str());
    // Nearly every answer has this one, and none of the others.
    headers.remove(CONNECTION);
    let stays = |name: &HeaderName| {
        let name = name.as_str();
        // Folding keeps the length, and most names are as long as none of these.
        let may_stay = !named.is_empty() || name.len() == alt_svc.len() || HOP_BY_HOP.has_length(name.len());
        let is_ours = |folded: &str| is_hop_by_hop(folded) || folded == alt_svc || named.contains(folded);
        may_stay && is_ours(&fold(name))
    };
    let ours: Vec<HeaderName> = headers.keys().filter(|name| stays(name)).cloned().collect();
    for name in ours {
        headers.remove(name);
    }
    headers
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
    let mut copied = HeaderMap::with_capacity(headers.len());
    each_passing(headers, passes, |name, value| {
        // Refuses only past 32768 fields, far above any bound on what comes in.
        let _ = copied.try_append(name.clone(), value.clone());
    });
    copied
}

/// Tells what `passes`, less every name that a `Connection` header calls its own.
fn each_passing<'a>(
    headers: &'a HeaderMap,
    passes: impl Fn(&str) -> bool,
    mut put: impl FnMut(&'a HeaderName, &'a HeaderValue),
) {
    let named = connection_named(headers);
    for (name, value) in headers {
        let folded = fold(name.as_str());
        if passes(&folded) && !named.contains(&*folded) {
            put(name, value);
        }
    }
}

/// What `Connection` headers call their own, without what is the connection's anyway: mostly there is nothing else.
fn connection_named(headers: &HeaderMap) -> BTreeSet<String> {
    let is_known =
        |token: &&[u8]| !HOP_BY_HOP.names.iter().any(|name| token.eq_ignore_ascii_case(name.as_bytes()));
    let values = headers.get_all(CONNECTION).iter();
    let tokens = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    tokens.map(<[u8]>::trim_ascii).filter(is_known).map(fold_bytes).collect()
}

/// A name as it is compared; most are written so already.
fn fold(name: &str) -> Cow<'_, str> {
    let is_folded = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
    if all(name.as_bytes(), is_folded) {
        Cow::Borrowed(name)
    } else {
        Cow::Owned(fold_bytes(name.as_bytes()))
    }
}

fn fold_bytes(name: &[u8]) -> String {
    let fold_byte = |byte: &u8| if byte.is_ascii_alphanumeric() { byte.to_ascii_lowercase() } else { b'-' };
    name.iter().map(|byte| char::from(fold_byte(byte))).collect()
}

fn is_hop_by_hop(folded: &str) -> bool {
    HOP_BY_HOP.has(folded)
}

fn is_reserved(folded: &str) -> bool {
    match folded.strip_prefix(OF_EXTENSIONS) {
        Some(name) => {
            RESERVED_EXTENSIONS.has(name)
                || RESERVED_EXTENSION_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        }
        None => is_hop_by_hop(folded) || RESERVED.has(folded) || folded.starts_with(RESERVED_PREFIX),
    }
}

/// Whether an owner may bind a header of this name, which is folded, to a key: extension headers that
/// say who a customer is, and none that changes what a request means.
pub(crate) fn is_owner_header(folded: &str) -> bool {
    let changes_meaning = folded.starts_with("x-http-") || folded.starts_with("x-method-");
    folded.starts_with("x-") && !changes_meaning && (names_a_customer(folded) || !is_reserved(folded))
}

/// Whether a name that is stored with a key may stand in a request: a folded one of an owner, and not the hub's word.
fn may_stand_bound(name: &str) -> bool {
    matches!(fold(name), Cow::Borrowed(_)) && is_owner_header(name) && !SAID_OF_TENANTS.contains(&name)
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
