//! Signature version 4 of a request, in its headers.
//!
//! Only what this crate sends: a request to the path `/` without a query, signed with all of its headers. The names and
//! steps are those of AWS's page "Create a signed AWS API request".

use std::collections::BTreeMap;
use std::time::SystemTime;

use blueprint_common_types::{Secret, Timestamp};
use bytes::Bytes;
use http::header::{AUTHORIZATION, HOST, InvalidHeaderValue};
use http::{HeaderName, HeaderValue, Request};
use ring::{digest, hmac};

use crate::keys::Keys;

const ALGORITHM: &str = "AWS4-HMAC-SHA256";
const DATE: HeaderName = HeaderName::from_static("x-amz-date");
const TOKEN: HeaderName = HeaderName::from_static("x-amz-security-token");

/// For which service, where and when a signature is good.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scope<'a> {
    /// Such as `us-east-1`.
    pub(crate) region: &'a str,
    /// Such as `ec2`.
    pub(crate) service: &'a str,
    /// Now; AWS refuses a signature that is 15 min away from its own clock.
    pub(crate) at: Timestamp,
}

/// Adds the date, the session token and the signature to a request that has its other headers.
///
/// # Errors
///
/// Where the request names no host, or a key cannot be a header.
pub(crate) fn sign(
    request: &mut Request<Bytes>,
    keys: &Keys,
    scope: Scope<'_>,
) -> Result<(), InvalidHeaderValue> {
    let time = basic(scope.at);
    if !request.headers().contains_key(HOST) {
        let host =
            HeaderValue::from_str(request.uri().authority().map_or("", |authority| authority.as_str()))?;
        request.headers_mut().insert(HOST, host);
    }
    request.headers_mut().insert(DATE, HeaderValue::from_str(&time)?);
    if let Some(token) = &keys.session {
        let mut token = HeaderValue::from_str(token.expose())?;
        token.set_sensitive(true);
        request.headers_mut().insert(TOKEN, token);
    }
    let date = time.split('T').next().unwrap_or_default();
    let place = format!("{date}/{}/{}/aws4_request", scope.region, scope.service);
    let (signed, canonical) = canonical(request);
    let text = format!(
        "{ALGORITHM}\n{time}\n{place}\n{}",
        hex(digest::digest(&digest::SHA256, canonical.as_bytes()).as_ref())
    );
    let signature = hex(mac(&signing_key(keys, date, scope), &text).as_ref());
    let value =
        format!("{ALGORITHM} Credential={}/{place}, SignedHeaders={signed}, Signature={signature}", keys.id);
    let mut value = HeaderValue::from_str(&value)?;
    value.set_sensitive(true);
    request.headers_mut().insert(AUTHORIZATION, value);
    Ok(())
}

/// `20150830T123600Z`.
pub(crate) fn basic(at: Timestamp) -> String {
    let text = humantime::format_rfc3339_seconds(SystemTime::from(at)).to_string();
    text.chars().filter(|c| !matches!(c, '-' | ':')).collect()
}

/// The names of the headers, and the request as both sides write it.
fn canonical(request: &Request<Bytes>) -> (String, String) {
    let mut headers: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (name, value) in request.headers() {
        let text = String::from_utf8_lossy(value.as_bytes());
        // Space around a value and runs of it within do not count.
        let plain = text.split(' ').filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
        headers.entry(name.as_str()).or_default().push(plain);
    }
    let signed = headers.keys().copied().collect::<Vec<_>>().join(";");
    let lines: String =
        headers.iter().map(|(name, values)| format!("{name}:{}\n", values.join(","))).collect();
    let body = hex(digest::digest(&digest::SHA256, request.body()).as_ref());
    let text = format!("{}\n/\n\n{lines}\n{signed}\n{body}", request.method());
    (signed, text)
}

fn signing_key(keys: &Keys, date: &str, scope: Scope<'_>) -> hmac::Tag {
    let first = Secret::new(format!("AWS4{}", keys.secret.expose()));
    let mut key = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, first.expose().as_bytes()), date.as_bytes());
    for part in [scope.region, scope.service, "aws4_request"] {
        key = mac(&key, part);
    }
    key
}

fn mac(key: &hmac::Tag, text: &str) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key.as_ref()), text.as_bytes())
}

/// Lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    /// A request and its signature; `tests/vectors/sigv4.py` says where from.
    #[derive(Deserialize)]
    struct Vector {
        name: String,
        id: String,
        secret: String,
        session: Option<String>,
        region: String,
        service: String,
        at: String,
        method: String,
        url: String,
        headers: Vec<(String, String)>,
        body: String,
        authorization: String,
    }

    #[test]
    fn signatures_are_those_of_the_published_vectors_and_of_botocore() {
        let vectors: Vec<Vector> = serde_json::from_str(include_str!("../tests/vectors/sigv4.json")).unwrap();
        assert!(vectors.len() >= 15, "{}", vectors.len());
        for vector in vectors {
            let mut request = Request::builder().method(vector.method.as_str()).uri(&vector.url);
            for (name, value) in &vector.headers {
                request = request.header(name, value);
            }
            let mut request = request.body(Bytes::from(vector.body)).unwrap();
            let keys = Keys {
                id: vector.id,
                secret: Secret::new(vector.secret),
                session: vector.session.map(Secret::new),
            };
            let at = Timestamp::from(humantime::parse_rfc3339(&vector.at).unwrap());
            sign(&mut request, &keys, Scope { region: &vector.region, service: &vector.service, at })
                .unwrap();
            assert_eq!(
                request.headers().get(AUTHORIZATION).unwrap().to_str().unwrap(),
                vector.authorization,
                "{}",
                vector.name
            );
        }
    }

    #[test]
    fn a_signed_request_prints_neither_signature_nor_session() {
        let mut request = Request::post("https://ec2.eu-west-1.amazonaws.com/").body(Bytes::new()).unwrap();
        let session = Some(Secret::new("canary-session".to_owned()));
        let keys = Keys { id: "AKID".to_owned(), secret: Secret::new("canary".to_owned()), session };
        sign(&mut request, &keys, Scope { region: "eu-west-1", service: "ec2", at: Timestamp::default() })
            .unwrap();
        assert_eq!(request.headers().get(HOST).unwrap(), "ec2.eu-west-1.amazonaws.com");
        let shown = format!("{request:?} {keys:?}");
        assert!(!shown.contains("canary") && !shown.contains("Signature="), "{shown}");
    }
}
