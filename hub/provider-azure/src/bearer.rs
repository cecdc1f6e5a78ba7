//! What calls are signed with: an access token out of an application's secret, of the hub's own machine, or as it is given.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use blueprint_common_types::{Secret, Timestamp};
use blueprint_hub_provider_kit::{CredentialSource, Credentials, HttpClient, Kept, redacted, retry_after};
use blueprint_hub_provision_core::ProviderError;
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{Request, Response, StatusCode};
use serde::Deserialize;

use crate::api::now;

/// Shortest and longest time that a token's end is believed to be away.
const LIFE: (u64, u64) = (0, 24 * 3600);

const SIGN_IN: &str = "sign-in";
const IDENTITY: &str = "managed identity";

/// A subscription and the right to call it.
#[derive(Clone)]
pub(crate) struct Access {
    /// Id of the subscription: hexadecimal digits and `-`.
    pub(crate) subscription: String,
    /// The bearer token.
    pub(crate) token: Secret<String>,
}

/// Gives access by the credentials that the source has at that moment; whoever comes while a token is asked for waits for it.
pub(crate) struct Bearers {
    pub(crate) http: HttpClient,
    pub(crate) source: Arc<dyn CredentialSource>,
    pub(crate) login: String,
    pub(crate) metadata: String,
    /// What Azure's own tokens are for: the public endpoint, whatever stands in for it.
    pub(crate) audience: &'static str,
    kept: Kept<Secret<String>>,
    /// Whether this machine's identity was given once, so that a moment without an answer is no lack of one.
    had_identity: AtomicBool,
}

impl fmt::Debug for Bearers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bearers").field("login", &self.login).finish_non_exhaustive()
    }
}

/// The answer of both services. `expires_in` is a number at the one and a text at the other.
#[derive(Deserialize)]
struct Granted {
    access_token: String,
    expires_in: Number,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Number {
    Number(u64),
    Text(String),
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Refused {
    error: String,
    error_description: String,
}

impl Bearers {
    pub(crate) fn new(
        http: HttpClient,
        source: Arc<dyn CredentialSource>,
        login: String,
        metadata: String,
    ) -> Self {
        Self {
            http,
            source,
            login,
            metadata,
            audience: crate::ENDPOINT,
            kept: Kept::default(),
            had_identity: AtomicBool::new(false),
        }
    }

    /// Access now.
    ///
    /// # Errors
    ///
    /// [`ProviderError::Deny`] where credentials are missing or refused, which says what to do.
    pub(crate) async fn get(&self) -> Result<Access, ProviderError> {
        let own = self.source.get().await?;
        let subscription = own.require("subscription_id")?.expose().clone();
        if !is_id(&subscription) {
            return Err(unusable(
                &own,
                "its subscription_id is no id such as 00000000-0000-0000-0000-000000000000",
            ));
        }
        if let Some(token) = field(&own, "access_token") {
            return Ok(Access { subscription, token: token.clone() });
        }
        let token = self.kept.get(now(), Some(&own), async || self.renew(&own).await).await?;
        Ok(Access { subscription, token })
    }

    /// Has the next call ask for another token.
    pub(crate) async fn forget(&self) {
        self.kept.forget().await;
    }

    async fn renew(&self, own: &Credentials) -> Result<(Secret<String>, Timestamp), ProviderError> {
        let asked_at = now();
        let granted = match (field(own, "tenant_id"), field(own, "client_secret")) {
            (Some(tenant), Some(secret)) => self.sign_in(own, tenant.expose(), secret).await?,
            (None, Some(_)) => {
                return Err(unusable(own, "it has a client_secret and no tenant_id; add that"));
            }
            (Some(_), None) => {
                let why = "it has a tenant_id and no client_secret; add that, or take tenant_id out to use the identity of this machine";
                return Err(unusable(own, why));
            }
            (None, None) => self.identity(own).await?,
        };
        let seconds = match granted.expires_in {
            Number::Number(seconds) => seconds,
            Number::Text(text) => text.parse().unwrap_or_default(),
        };
        let ends = asked_at.plus(Duration::from_secs(seconds.clamp(LIFE.0, LIFE.1)));
        Ok((Secret::new(granted.access_token), ends))
    }

    /// The client credentials grant (RFC 6749, section 4.4) of Microsoft's identity platform, version 2.
    async fn sign_in(
        &self,
        own: &Credentials,
        tenant: &str,
        secret: &Secret<String>,
    ) -> Result<Granted, ProviderError> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-.".contains(&byte);
        if tenant.is_empty() || !tenant.bytes().all(is_plain) {
            return Err(unusable(own, "its tenant_id is neither an id nor a domain"));
        }
        let client = own.require("client_id")?;
        let scope = format!("{}/.default", self.audience);
        let rows = [
            ("grant_type", "client_credentials"),
            ("client_id", client.expose()),
            ("client_secret", secret.expose()),
            ("scope", &scope),
        ];
        let form = serde_urlencoded::to_string(rows).map_err(|_| unusable(own, "it cannot be sent"))?;
        let request = Request::post(format!("{}/{tenant}/oauth2/v2.0/token", self.login))
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(ACCEPT, "application/json")
            .body(Bytes::from(form))
            .map_err(|_| ProviderError::Reject {
                reason: "no URL of a sign-in; check providers.azure.login_endpoint".to_owned(),
            })?;
        let answer = self.http.send(SIGN_IN, request).await?;
        if answer.status().is_success() {
            return granted(SIGN_IN, &answer);
        }
        let said: Refused = serde_json::from_slice(answer.body()).unwrap_or_default();
        let words = redacted(said.error_description.as_bytes()).chars().take(200).collect::<String>();
        match said.error.as_str() {
            "invalid_client" | "unauthorized_client" | "invalid_request" | "invalid_grant" => {
                Err(unusable(own, &format!("the sign-in refuses it ({}: {words})", said.error)))
            }
            _ => Err(odd(SIGN_IN, &answer)),
        }
    }

    /// The identity of the machine that the hub runs on; that of `client_id` where it has several.
    async fn identity(&self, own: &Credentials) -> Result<Granted, ProviderError> {
        let mut rows =
            vec![("api-version", "2018-02-01".to_owned()), ("resource", format!("{}/", self.audience))];
        if let Some(client) = field(own, "client_id") {
            rows.push(("client_id", client.expose().clone()));
        }
        let query = serde_urlencoded::to_string(rows).map_err(|_| unusable(own, "it cannot be sent"))?;
        let request = Request::get(format!("{}/metadata/identity/oauth2/token?{query}", self.metadata))
            .header("metadata", "true")
            .body(Bytes::new())
            .map_err(|_| ProviderError::Reject { reason: "no URL of a metadata service".to_owned() })?;
        let answer = match self.http.send(IDENTITY, request).await {
            Err(ProviderError::Unsent { .. }) if !self.had_identity.load(Ordering::Relaxed) => {
                let why = "it has neither access_token nor client_secret, and this machine has no identity of Azure";
                return Err(unusable(own, why));
            }
            Err(error @ ProviderError::Unsent { .. }) => return Err(error),
            // Whatever became of it, asking changes nothing.
            Err(error) => return Err(ProviderError::Busy { reason: error.line() }),
            Ok(answer) => answer,
        };
        match answer.status() {
            status if status.is_success() => {
                let granted = granted(IDENTITY, &answer)?;
                self.had_identity.store(true, Ordering::Relaxed);
                Ok(granted)
            }
            StatusCode::BAD_REQUEST | StatusCode::FORBIDDEN | StatusCode::NOT_FOUND => {
                let why = "this machine has no such identity of Azure; give it one, or set a client_secret";
                Err(unusable(own, why))
            }
            _ => Err(odd(IDENTITY, &answer)),
        }
    }
}

/// A field that is there and not empty.
fn field<'a>(own: &'a Credentials, name: &str) -> Option<&'a Secret<String>> {
    own.get(name).filter(|value| !value.expose().is_empty())
}

fn is_id(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
}

fn granted(call: &'static str, answer: &Response<Bytes>) -> Result<Granted, ProviderError> {
    // The document holds the token, so nothing of it is repeated.
    serde_json::from_slice(answer.body()).map_err(|error| ProviderError::Other {
        call,
        source: format!("its answer is wrong at line {} column {}", error.line(), error.column()).into(),
    })
}

fn odd(call: &'static str, answer: &Response<Bytes>) -> ProviderError {
    let status = answer.status();
    if status == StatusCode::TOO_MANY_REQUESTS {
        return ProviderError::Throttle { retry_after: retry_after(answer.headers(), now()) };
    }
    // A sign-in that failed made nothing, so the same call may be made again.
    ProviderError::Busy { reason: format!("{call}: status {}: {}", status.as_u16(), redacted(answer.body())) }
}

fn unusable(own: &Credentials, why: &str) -> ProviderError {
    let origin = own.origin();
    ProviderError::Deny {
        action: format!("use azure with {origin}: {why}; run `blueprint-hub provider configure azure`"),
    }
}
