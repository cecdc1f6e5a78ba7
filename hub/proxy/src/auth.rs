//! The proxy's own routes: how owners and their customers come by credentials.
//!
//! Paths, fields and answers are those of the existing Blueprint auth proxy, so that its clients work
//! unchanged; what it forgives is refused here. These paths are the hub's on every host: a service
//! that has the same ones is not reached by them.

mod answers;
mod exchange;
mod oauth;
mod owner;
mod tls;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use blueprint_common_runtime::tasks::Spawner;
use blueprint_common_types::{ServiceKey, Timestamp};
use blueprint_hub_proxy_core::identity::{Challenges, IdentitySigner};
use blueprint_hub_proxy_core::rate::{Rate, RateTable};
use blueprint_hub_proxy_core::tls::TlsAdmin;
use blueprint_hub_proxy_core::{CanonicalRequest, Refusal, Trust, source_network};
use bytes::Bytes;
use http::{Method, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use crate::assertions::UsedAssertions;
use crate::body::{AnswerBody, ClientBody};
use crate::jwks::Jwks;
use crate::keys::KeyStore;
use crate::operator::OperatorDoor;
use crate::server::ProxyParts;

use answers::json;

/// Longest body of these routes, in bytes.
const MAX_BODY: usize = 64 * 1024;

/// How long a body may take.
const BODY_TIME: Duration = Duration::from_secs(10);

/// How often one source may use these routes: 120 a minute, as the existing proxy means to allow.
const ATTEMPTS: (u32, Duration) = (120, Duration::from_secs(60));

/// One of the proxy's own routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route {
    /// An owner asks for something to sign.
    Challenge,
    /// It comes back signed: an API key for it.
    Verify,
    /// An API key for a token of a few minutes.
    Exchange,
    /// An assertion for a token of a few minutes.
    OAuthToken,
    /// TLS of a service; the operator's.
    TlsProfile,
    /// A certificate for a client; the operator's.
    Certificates,
    /// One that counts no more; the operator's.
    RevokeCertificate,
    /// The key that statements about callers are signed with.
    JwkSet,
}

impl Route {
    /// The route of a request in its normal form.
    pub(crate) fn of(path: &str) -> Option<Self> {
        match path {
            "/v1/auth/challenge" => Some(Self::Challenge),
            "/v1/auth/verify" => Some(Self::Verify),
            "/v1/auth/exchange" => Some(Self::Exchange),
            "/v1/oauth/token" => Some(Self::OAuthToken),
            "/.well-known/blueprint-hub/jwks.json" => Some(Self::JwkSet),
            "/v1/auth/certificates" => Some(Self::Certificates),
            other if tls::is_profile(other) => Some(Self::TlsProfile),
            other if tls::is_revocation(other) => Some(Self::RevokeCertificate),
            _ => None,
        }
    }

    const fn method(self) -> Method {
        match self {
            Self::JwkSet => Method::GET,
            Self::TlsProfile => Method::PUT,
            Self::Challenge
            | Self::Verify
            | Self::Exchange
            | Self::OAuthToken
            | Self::Certificates
            | Self::RevokeCertificate => Method::POST,
        }
    }
}

/// Answers these routes.
pub(crate) struct AuthApi {
    trust: Arc<ArcSwap<Trust>>,
    keys: Arc<dyn KeyStore>,
    signer: Arc<IdentitySigner>,
    jwks: Option<Jwks>,
    spawner: Spawner,
    operator: Option<OperatorDoor>,
    challenges: Mutex<Challenges>,
    assertions: UsedAssertions,
    attempts: Mutex<RateTable<IpAddr>>,
}

/// An answer of these routes, or why there is none.
type Answer = Result<Response<AnswerBody>, Refusal>;

impl AuthApi {
    pub(crate) fn new(parts: &ProxyParts, jwks: Option<Jwks>, spawner: Spawner) -> Self {
        Self {
            trust: Arc::clone(&parts.trust),
            keys: Arc::clone(&parts.keys),
            signer: Arc::clone(&parts.signer),
            operator: parts.operator.clone(),
            jwks,
            spawner,
            challenges: Mutex::default(),
            assertions: parts.assertions.clone(),
            attempts: Mutex::new(RateTable::new(Rate::per(ATTEMPTS.0, ATTEMPTS.1))),
        }
    }

    /// Answers a request to one of these routes.
    ///
    /// # Errors
    ///
    /// A [`Refusal`] where the request has no place here at all; what a route itself refuses is an
    /// answer in the words that its clients know.
    ///
    /// # Cancel safety
    ///
    /// A key whose request is dropped may exist; nobody has seen it.
    pub(crate) async fn answer(&self, route: Route, request: &CanonicalRequest, body: ClientBody) -> Answer {
        // A success would open the WebSocket that an extended CONNECT asks for.
        if *request.method() != route.method() || request.is_translated() {
            return Err(Refusal::MethodRefused);
        }
        if route == Route::JwkSet {
            return Ok(answers::cached(self.signer.jwk_set()));
        }
        let taken = self.attempts.lock().take(source_network(request.source()), Instant::now());
        if let Err(wait) = taken {
            return Err(Refusal::TooManyRequests { retry_after: wait.as_secs().saturating_add(1) });
        }
        let Some(body) = read(body).await else {
            let words =
                format!("a body of at most {MAX_BODY} bytes within {} s is expected", BODY_TIME.as_secs());
            return Ok(json(StatusCode::BAD_REQUEST, &answers::error("invalid_request", &words)));
        };
        let now = Timestamp::from(SystemTime::now());
        let trust = self.trust.load_full();
        match route {
            Route::Challenge => self.challenge(request, &trust, &body, now),
            Route::Verify => self.verify(request, &trust, &body, now).await,
            Route::Exchange => Ok(exchange::answer(request, &trust, &body, now)),
            Route::OAuthToken => self.oauth(request, &trust, &body).await,
            Route::TlsProfile => self.set_profile(request, &trust, &body).await,
            Route::Certificates => self.issue(request, &trust, &body).await,
            Route::RevokeCertificate => self.revoke(request, &trust).await,
            Route::JwkSet => Err(Refusal::MethodRefused),
        }
    }

    /// What only the operator gets to.
    fn door(&self, request: &CanonicalRequest) -> Result<&dyn TlsAdmin, Refusal> {
        self.operator.as_ref().ok_or(Refusal::OperatorOnly)?.open(request)
    }
}

/// The whole body, where it is short and comes soon.
async fn read(body: ClientBody) -> Option<Bytes> {
    let collected = timeout(BODY_TIME, Limited::new(body, MAX_BODY).collect()).await;
    Some(collected.ok()?.ok()?.to_bytes())
}

/// The service that the request names.
fn named(request: &CanonicalRequest, trust: &Trust) -> Result<ServiceKey, Refusal> {
    trust.find(request.selector().ok_or(Refusal::ServiceNotNamed)?)
}

/// Reads a body of JSON; the text says what is wrong, for whoever writes a client.
fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    serde_json::from_slice(body).map_err(|error| format!("the body cannot be read: {error}"))
}
