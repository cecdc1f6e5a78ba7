//! One meaning for every request, or none.

use std::net::IpAddr;
use std::sync::Arc;

use blueprint_common_types::{Secret, TokenHash, TokenId};
use http::header::HOST;
use http::request::Parts;
use http::uri::Authority;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version};

use crate::credential::{self, Credential};
use crate::framing;
use crate::headers::{REQUEST_ID, is_grpc, is_request_id};
use crate::path;
use crate::refusal::Refusal;
use crate::request_id::RequestId;
use crate::selector::{self, Selector};
use crate::tls::Channel;
use crate::websocket::{self, Asked};

/// Most header fields of a request.
pub const MAX_HEADERS: usize = 100;

/// Most bytes in the names and values of a request's headers.
pub const MAX_HEADER_BYTES: usize = 16 * 1024;

/// Most bytes in the path and query of a request; half of what all headers may take.
pub const MAX_TARGET_BYTES: usize = 8 * 1024;

/// What the driver knows of a request besides its bytes.
#[derive(Debug, Clone, Copy)]
pub struct Downstream<'a> {
    /// Address the connection comes from; never taken from a header.
    pub source: IpAddr,
    /// Whether it came over TLS.
    pub tls: bool,
    /// Domain under which host names name services; empty to have none.
    pub domain: &'a str,
    /// A fresh id for the request, used unless it brings a well-formed one.
    pub request_id: &'a str,
}

/// A request in its only reading: what is decided about is what is forwarded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CanonicalRequest {
    method: Method,
    path: Arc<str>,
    prefix: Option<String>,
    query: Option<String>,
    authority: Option<Authority>,
    selector: Option<Selector>,
    credential: Credential,
    source: IpAddr,
    tls: bool,
    request_id: RequestId,
    grpc: bool,
    websocket: bool,
    translated: bool,
    channel: Channel,
}

impl CanonicalRequest {
    /// Reads the head of a request.
    ///
    /// # Errors
    ///
    /// A [`Refusal`] where the head has several readings, none, or is too large; the credential is
    /// read but not judged here.
    pub fn parse(parts: &Parts, downstream: &Downstream<'_>) -> Result<Self, Refusal> {
        check_size(parts)?;
        let asked = websocket::asked(parts)?;
        framing::check(parts.version, &parts.headers)?;
        let authority = authority(parts, downstream.tls)?;
        let path = path::normalise(parts.uri.path()).map_err(|fault| Refusal::MalformedPath { fault })?;
        // Without a domain no host names a service.
        let host = authority.as_ref().filter(|_| !downstream.domain.is_empty()).map(Authority::host);
        let split = selector::split_path(&path);
        let by_path = split.map(|(key, _, _)| key);
        let selector = selector::parse(&parts.headers, host, downstream.domain, by_path)?;
        let (prefix, path) = match split {
            Some((_, prefix, rest)) => (Some(prefix.to_owned()), rest.into()),
            None => (None, Arc::from(&*path)),
        };
        let credential = credential::parse(&parts.headers)?;
        let websocket = asked != Asked::No;
        Ok(Self {
            // What an extended CONNECT asks for is what a GET asks for in HTTP/1.1.
            method: if asked == Asked::Connect { Method::GET } else { parts.method.clone() },
            path,
            prefix,
            query: parts.uri.query().map(str::to_owned),
            authority,
            selector,
            credential,
            source: downstream.source,
            tls: downstream.tls,
            request_id: request_id(&parts.headers).unwrap_or(downstream.request_id).into(),
            grpc: matches!(parts.version, Version::HTTP_2 | Version::HTTP_3)
                && !websocket
                && is_grpc(&parts.headers),
            websocket,
            translated: asked == Asked::Connect,
            channel: Channel::default(),
        })
    }

    /// The same request on a connection whose handshake showed this.
    #[must_use]
    pub fn on_channel(mut self, channel: Channel) -> Self {
        self.channel = channel;
        self
    }

    /// What the connection showed.
    #[must_use]
    pub const fn channel(&self) -> &Channel {
        &self.channel
    }

    /// Method, never `CONNECT` or `TRACE`.
    #[must_use]
    pub const fn method(&self) -> &Method {
        &self.method
    }

    /// The normal form of the path, without a segment that names the service: what is authorised, and what
    /// the service gets.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// [`Self::path`], to be kept for longer than the request.
    #[must_use]
    pub const fn shared_path(&self) -> &Arc<str> {
        &self.path
    }

    /// The first segment of the path as it came, where that names the service, such as `/s42.b7`.
    #[must_use]
    pub fn prefix(&self) -> Option<&str> {
        self.prefix.as_deref()
    }

    /// The normal form of the path and the query as it came: the target of the new request.
    #[must_use]
    pub fn path_and_query(&self) -> String {
        match &self.query {
            Some(query) => format!("{}?{query}", self.path),
            None => self.path.as_ref().to_owned(),
        }
    }

    /// The query as it came, if there is one.
    #[must_use]
    pub fn query(&self) -> Option<&str> {
        self.query.as_deref()
    }

    /// Host and port that were asked for, in lower case, without a default port.
    #[must_use]
    pub fn authority(&self) -> Option<&str> {
        self.authority.as_ref().map(Authority::as_str)
    }

    /// How the client named the service.
    #[must_use]
    pub const fn selector(&self) -> Option<Selector> {
        self.selector
    }

    /// Where the connection comes from.
    #[must_use]
    pub const fn source(&self) -> IpAddr {
        self.source
    }

    /// Whether it came over TLS.
    #[must_use]
    pub const fn is_tls(&self) -> bool {
        self.tls
    }

    /// Id that follows the request through every log: the client's where well formed, else ours.
    #[must_use]
    pub fn request_id(&self) -> &str {
        self.request_id.as_str()
    }

    /// Whether this is gRPC, which needs HTTP/2 up to the service.
    #[must_use]
    pub const fn is_grpc(&self) -> bool {
        self.grpc
    }

    /// Whether the client asks to go on as a WebSocket.
    #[must_use]
    pub const fn is_websocket(&self) -> bool {
        self.websocket
    }

    /// Whether it asks so in the way of HTTP/2, so that the service has to be asked in another.
    #[must_use]
    pub const fn is_translated(&self) -> bool {
        self.translated
    }

    /// Whether it shows this token; compares in constant time.
    #[must_use]
    pub fn shows(&self, id: TokenId, hash: &TokenHash) -> bool {
        match &self.credential {
            Credential::Token { id: shown, hash: of_shown } => {
                *shown == id && Secret::new(*of_shown.as_bytes()) == Secret::new(*hash.as_bytes())
            }
            Credential::Missing
            | Credential::Unreadable
            | Credential::ApiKey { .. }
            | Credential::Sealed(_) => false,
        }
    }

    pub(crate) const fn credential(&self) -> &Credential {
        &self.credential
    }
}

fn check_size(parts: &Parts) -> Result<(), Refusal> {
    let target = parts.uri.path_and_query().map_or(0, |target| target.as_str().len());
    if target > MAX_TARGET_BYTES {
        return Err(Refusal::TargetTooLong);
    }
    if are_bounded(&parts.headers) { Ok(()) } else { Err(Refusal::HeadersTooLarge) }
}

/// Whether these are at most [`MAX_HEADERS`] fields of [`MAX_HEADER_BYTES`] bytes.
#[must_use]
pub fn are_bounded(fields: &HeaderMap) -> bool {
    let length = |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len().saturating_add(value.len());
    fields.len() <= MAX_HEADERS
        && fields.iter().map(length).fold(0, usize::saturating_add) <= MAX_HEADER_BYTES
}

/// The one authority of a request: `:authority` or absolute form, and `Host`, which must agree.
fn authority(parts: &Parts, tls: bool) -> Result<Option<Authority>, Refusal> {
    let mut hosts = parts.headers.get_all(HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(Refusal::MalformedAuthority);
    }
    let by_host = match host {
        None => None,
        Some(value) => {
            let text = value.to_str().map_err(|_| Refusal::MalformedAuthority)?;
            Some(canonical_authority(text, tls)?)
        }
    };
    let by_target = match parts.uri.authority() {
        None => None,
        // The authority form, which is for `CONNECT` alone (RFC 9112, section 3.2.3).
        Some(_) if parts.uri.scheme().is_none() => return Err(Refusal::MalformedAuthority),
        Some(authority) => Some(canonical_authority(authority.as_str(), tls)?),
    };
    match (by_target, by_host) {
        (Some(target), Some(host)) if target != host => Err(Refusal::MalformedAuthority),
        (None, None) if parts.version == Version::HTTP_11 => Err(Refusal::MalformedAuthority),
        (Some(authority), _) | (None, Some(authority)) => Ok(Some(authority)),
        (None, None) => Ok(None),
    }
}

fn canonical_authority(text: &str, tls: bool) -> Result<Authority, Refusal> {
    let mut lower = text.to_ascii_lowercase();
    let default_port = if tls { ":443" } else { ":80" };
    if lower.ends_with(default_port) {
        lower.truncate(lower.len().saturating_sub(default_port.len()));
    }
    let authority = Authority::try_from(lower).map_err(|_| Refusal::MalformedAuthority)?;
    let host = authority.host();
    let has_port = authority.as_str().len() != host.len();
    let port_is_good = !has_port || authority.port_u16().is_some();
    if authority.as_str().contains('@') || host.is_empty() || !port_is_good {
        return Err(Refusal::MalformedAuthority);
    }
    Ok(authority)
}

fn request_id(headers: &HeaderMap) -> Option<&str> {
    const NAME: HeaderName = HeaderName::from_static(REQUEST_ID);
    let mut values = headers.get_all(NAME).iter();
    let value = values.next()?.to_str().ok()?;
    (values.next().is_none() && is_request_id(value)).then_some(value)
}
