//! WebSockets: how a client asks for one, in either version of HTTP, and whether a service agrees.
//!
//! Over HTTP/1.1 the handshake of RFC 6455 passes as it is. Over HTTP/2 it is an extended CONNECT (RFC 8441) without
//! key and answer; services get the handshake of HTTP/1.1 for it, with a key of ours that their answer has to fit.

use std::io;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{
    CONNECTION, CONTENT_LENGTH, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION,
    TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::{HeaderMap, Method, Version};
use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY};

use crate::refusal::Refusal;

/// What a key is hashed with (RFC 6455, section 1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Marks a CONNECT whose `:protocol` is `websocket`; the driver puts it into the extensions of the request.
#[derive(Debug, Clone, Copy)]
pub struct ExtendedConnect;

/// How a client asks to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    /// It does not.
    No,
    /// By the handshake of HTTP/1.1.
    Upgrade,
    /// By an extended CONNECT.
    Connect,
}

/// Reads what a request asks for: a WebSocket in the form of its version of HTTP, and without a body.
///
/// Upgrades to anything else are left out, as RFC 9110 (section 7.8) lets a server do; CONNECT and TRACE are refused.
pub(crate) fn asked(parts: &Parts) -> Result<Asked, Refusal> {
    let has_body =
        parts.headers.contains_key(CONTENT_LENGTH) || parts.headers.contains_key(TRANSFER_ENCODING);
    if parts.method == Method::CONNECT && parts.extensions.get::<ExtendedConnect>().is_some() {
        let has_target = parts.uri.scheme().is_some() && parts.uri.path().starts_with('/');
        let fits = parts.version == Version::HTTP_2 && has_target && !has_body;
        return if fits { Ok(Asked::Connect) } else { Err(Refusal::MalformedUpgrade) };
    }
    if matches!(parts.method, Method::CONNECT | Method::TRACE) {
        return Err(Refusal::MethodRefused);
    }
    let lists = |name, token: &str| {
        parts.headers.get_all(name).iter().any(|value| {
            let mut tokens = value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
            tokens.any(|found| found.eq_ignore_ascii_case(token.as_bytes()))
        })
    };
    if !lists(CONNECTION, "upgrade") || !lists(UPGRADE, "websocket") {
        return Ok(Asked::No);
    }
    let fits = parts.version == Version::HTTP_11 && parts.method == Method::GET && !has_body;
    if fits { Ok(Asked::Upgrade) } else { Err(Refusal::MalformedUpgrade) }
}

/// The key of a handshake that the hub makes for a client of HTTP/2.
#[derive(Debug, Clone)]
pub struct WebSocketKey(HeaderValue);

impl WebSocketKey {
    /// A random key.
    ///
    /// # Errors
    ///
    /// Fails where the system has no source of randomness.
    pub fn random() -> io::Result<Self> {
        let mut bytes = [0u8; 16];
        blueprint_common_types::fill_random(&mut bytes)?;
        HeaderValue::from_str(&STANDARD.encode(bytes)).map(Self).map_err(io::Error::other)
    }

    /// Completes the headers of the handshake with the service.
    pub fn apply(&self, headers: &mut HeaderMap) {
        headers.insert(SEC_WEBSOCKET_KEY, self.0.clone());
        headers.entry(SEC_WEBSOCKET_VERSION).or_insert(HeaderValue::from_static("13"));
        headers.remove(SEC_WEBSOCKET_ACCEPT);
    }

    /// Whether the answer of the service fits this key (RFC 6455, section 4.1).
    #[must_use]
    pub fn is_answered_by(&self, headers: &HeaderMap) -> bool {
        let mut context = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
        context.update(self.0.as_bytes());
        context.update(GUID);
        let expected = STANDARD.encode(context.finish());
        let mut values = headers.get_all(SEC_WEBSOCKET_ACCEPT).iter();
        values.next().is_some_and(|value| value.as_bytes() == expected.as_bytes()) && values.next().is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_fits_one_key() {
        // The example of RFC 6455, section 1.3.
        let key = WebSocketKey(HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ=="));
        let mut headers = HeaderMap::new();
        assert!(!key.is_answered_by(&headers));
        headers.insert(SEC_WEBSOCKET_ACCEPT, HeaderValue::from_static("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
        assert!(key.is_answered_by(&headers));
        assert!(!WebSocketKey::random().unwrap().is_answered_by(&headers));
        headers.append(SEC_WEBSOCKET_ACCEPT, HeaderValue::from_static("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
        assert!(!key.is_answered_by(&headers), "twice");
    }

    #[test]
    fn the_headers_of_the_handshake_are_ours() {
        let key = WebSocketKey::random().unwrap();
        let mut headers = HeaderMap::new();
        headers.append(SEC_WEBSOCKET_KEY, HeaderValue::from_static("a"));
        headers.append(SEC_WEBSOCKET_KEY, HeaderValue::from_static("b"));
        headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("8"));
        key.apply(&mut headers);
        assert_eq!(headers.get_all(SEC_WEBSOCKET_KEY).iter().collect::<Vec<_>>(), [&key.0]);
        assert_eq!(headers.get(SEC_WEBSOCKET_VERSION).unwrap(), "8", "the client's version is its own");
        assert_ne!(WebSocketKey::random().unwrap().0, key.0);
    }
}
