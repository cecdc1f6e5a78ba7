//! What the proxy reads of strangers: connections of HTTP/1, heads of requests, credentials.
//!
//! - [`request`]: a connection, in pieces of any size. The guard, a naive reader (`reference.rs`) and the HTTP library
//!   agree on every request; what of it is admitted is admitted by a token, and built anew (`built.rs`).
//! - [`chunks`]: the same with a chunked body from its first byte on.
//! - [`headers`]: a head as the library hands it over, of either version; nothing of a client says what the hub says.
//! - `answers`: the answer of a service, against a naive reading of the whole.
//! - `fields`: what of a client's headers, and of those stored with its key, a service gets, against a naive model.
//! - `tokens`: credentials, keys, assertions and settings.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "fails loudly where it is given nonsense")]

mod answers;
mod built;
mod fields;
mod hub;
mod library;
mod reference;
mod tokens;

use std::sync::LazyLock;

use blueprint_hub_proxy_core::guard::{Guard, Step};
use blueprint_hub_proxy_core::{
    CanonicalRequest, decide, request_trailers, response_headers, response_trailers, upstream_headers,
};
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Request, Version};

use self::hub::Hub;
use crate::input::Input;
pub(crate) use answers::play as answers;
pub(crate) use fields::play as fields;
pub(crate) use tokens::play as tokens;

/// Stands in an input for the header lines that admit a request.
const ADMITTED: u8 = 1;

/// Bytes of one connection at most.
const MAX_BYTES: usize = 16 * 1024;

/// Plays a connection.
pub(crate) fn request(data: &[u8]) {
    let mut input = Input(data);
    let Some(cuts) = input.below(8) else { return };
    let cuts = input.bytes(cuts).to_vec();
    play(&cuts, &fill(input.0));
}

/// Plays a connection that begins with the head of a chunked request.
pub(crate) fn chunks(data: &[u8]) {
    let mut input = Input(data);
    let Some(cuts) = input.below(8) else { return };
    let cuts = input.bytes(cuts).to_vec();
    let head = b"POST / HTTP/1.1\r\n\x01Transfer-Encoding: chunked\r\n\r\n";
    play(&cuts, &fill(&[head, input.0].concat()));
}

fn fill(bytes: &[u8]) -> Vec<u8> {
    let mut filled = Vec::new();
    for byte in bytes {
        if *byte == ADMITTED {
            filled.extend_from_slice(Hub::get().admitted().as_bytes());
        } else {
            filled.push(*byte);
        }
        if filled.len() > MAX_BYTES {
            break;
        }
    }
    filled
}

/// Guard, reference and library over the same bytes.
fn play(cuts: &[u8], bytes: &[u8]) {
    // Agreement is worth nothing where the library reads nothing.
    static PLAIN: LazyLock<usize> =
        LazyLock::new(|| library::read(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").len());
    assert_eq!(*PLAIN, 1);
    let (passed, is_fault) = guard(cuts, bytes);
    let expected = reference::read(bytes);
    assert_eq!(is_fault, expected.is_fault, "{passed} bytes passed, expected {expected:?}");
    if is_fault {
        assert!(passed <= expected.passes, "{passed} bytes passed, expected {expected:?}");
    } else {
        assert_eq!(passed, expected.passes, "{expected:?}");
    }
    let found = library::read(&bytes[..passed]);
    assert!(found.len() <= expected.requests.len(), "{found:?} of {expected:?}");
    for (found, expected) in found.iter().zip(&expected.requests) {
        let (parts, body) = found;
        assert_eq!(parts.method.as_str().as_bytes(), expected.method);
        if expected.target.starts_with(b"/") {
            let target = parts.uri.path_and_query().unwrap().as_str().as_bytes();
            assert_eq!(Some(target), expected.target.split(|byte| *byte == b'#').next());
        }
        match body {
            Some(body) => assert_eq!(Some(body), expected.body.as_ref()),
            // What is not whole here, or was still to pass when the fault came.
            None => assert!(expected.body.is_none() || is_fault, "{found:?} of {expected:?}"),
        }
        head(parts);
    }
}

/// Feeds the guard; gives how much passed, and whether it found a fault.
fn guard(cuts: &[u8], bytes: &[u8]) -> (usize, bool) {
    let (mut guard, mut passed, mut end) = (Guard::default(), 0, 0);
    let mut cuts = cuts.iter().cycle();
    while end < bytes.len() {
        let cut = cuts.next().map_or(bytes.len(), |cut| usize::from(*cut) + 1);
        end = (end + cut).min(bytes.len());
        loop {
            // Part of a body may go on unread, as the driver lets it.
            let unread = usize::try_from(guard.unread()).unwrap().min(end - passed);
            if unread > 1 {
                guard.skip(u64::try_from(unread / 2).unwrap());
                passed += unread / 2;
            }
            match guard.step(&bytes[passed..end]) {
                Step::Pass(count) => {
                    assert!(count > 0 && count <= end - passed);
                    passed += count;
                }
                Step::More => break,
                Step::Hold => {
                    guard.resume();
                    if passed == end {
                        break;
                    }
                }
                Step::Fault(fault) => {
                    assert_eq!(guard.step(b"GET / HTTP/1.1\r\n\r\n"), Step::Fault(fault), "a fault stays");
                    return (passed, true);
                }
            }
        }
    }
    (passed, false)
}

/// What holds for any head that the library hands over.
fn head(parts: &Parts) {
    let hub = Hub::get();
    let Ok(request) = CanonicalRequest::parse(parts, &hub.downstream()) else { return };
    built::check_path(&request);
    let Ok(admission) = decide(&request, &hub.trust, hub::NOW) else { return };
    let shown = parts.headers.get_all("authorization").iter().collect::<Vec<_>>();
    assert_eq!(shown, [hub.bearer().as_str()], "admitted without the token");
    assert_eq!(admission.service(), hub::SERVICE);
    let statement = HeaderValue::from_str(&hub.signer.sign(&admission, hub::NOW)).unwrap();
    let new = upstream_headers(&request, &parts.headers, &admission, Some(&statement));
    built::check(&request, &parts.headers, &new, &statement);
    let again = upstream_headers(&request, &new, &admission, Some(&statement));
    assert_eq!(again, new, "building again changes something");
}

/// Names that matter, in spellings that a server might take for them.
const NAMES: [&str; 40] = [
    "x-tenant-id",
    "x_tenant_id",
    "x.tenant.id",
    "x-tenant-name",
    "x-scopes",
    "x_scope",
    "x-client-cert",
    "x-client-cert-subject",
    "x_client_cert_issuer",
    "x-auth-method",
    "x_auth_method",
    "x-blueprint-identity",
    "x-forwarded-for",
    "x_forwarded_host",
    "forwarded",
    "x-real-ip",
    "x-request-id",
    "x-service-id",
    "x-user-id",
    "authorization",
    "proxy-authorization",
    "host",
    "connection",
    "keep-alive",
    "te",
    "trailer",
    "upgrade",
    "transfer-encoding",
    "content-length",
    "expect",
    "content-type",
    "cookie",
    "accept",
    "x-a",
    "x-http-method-override",
    "x-original-url",
    "http2-settings",
    "remote_user",
    "proxy",
    "x-customer-email",
];

/// Builds any head around the fields that admit it, and any trailers.
pub(crate) fn headers(data: &[u8]) {
    let mut input = Input(data);
    let (Some(kind), Some(length)) = (input.byte(), input.below(24)) else { return };
    let target = String::from_utf8_lossy(input.bytes(length)).into_owned();
    let builder = Request::builder().uri(if target.is_empty() { "/".to_owned() } else { target });
    let Ok(request) = builder.body(()) else { return };
    let (mut parts, ()) = request.into_parts();
    parts.method =
        [Method::GET, Method::POST, Method::CONNECT, Method::OPTIONS][usize::from(kind & 3)].clone();
    parts.version =
        [Version::HTTP_11, Version::HTTP_2, Version::HTTP_10, Version::HTTP_11][usize::from(kind >> 2 & 3)];
    if kind & 16 == 0 {
        let hub = Hub::get();
        for (name, value) in
            [("host", "hub"), ("authorization", hub.bearer().as_str()), ("x-service-id", "7/42")]
        {
            parts.headers.insert(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
        }
    }
    while let (Some(name), Some(length)) = (input.byte(), input.below(32)) {
        let name = match NAMES.get(usize::from(name)) {
            Some(name) => HeaderName::from_bytes(name.as_bytes()),
            None => {
                let length = input.below(20).unwrap_or_default();
                HeaderName::from_bytes(input.bytes(length))
            }
        };
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(input.bytes(length))) {
            parts.headers.append(name, value);
        }
    }
    head(&parts);
    for (kept, is_answer) in [
        (request_trailers(&parts.headers), false),
        (response_trailers(&parts.headers), true),
        (response_headers(parts.headers.clone()), true),
    ] {
        built::check_copy(&parts.headers, &kept, is_answer);
    }
}
