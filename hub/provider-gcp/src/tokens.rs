//! What calls are made with: an access token out of credentials, kept until shortly before it ends.

mod key;
mod machine;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use blueprint_common_types::{Secret, Timestamp};
use blueprint_hub_provider_kit::{CredentialSource, Credentials, HttpClient, Kept, redacted};
use blueprint_hub_provision_core::ProviderError;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Request, Response, StatusCode};
use serde::Deserialize;

use crate::api::now;
use key::Key;
pub use machine::MachineAccount;

/// Where a key is changed for a token. The `token_uri` of a key is not called: it is one more place that a file names.
const TOKENS: &str = "https://oauth2.googleapis.com/token";

/// Longest life of a token that is believed; Google gives an hour.
const LONGEST: u64 = 12 * 3600;

const CALL: &str = "token";

/// What one call is made with.
#[derive(Debug, Clone)]
pub(crate) struct Access {
    /// Id of the project.
    pub(crate) project: String,
    /// What Google knows the caller by.
    pub(crate) token: Secret<String>,
    /// Who calls: the address of the account, or where its token comes from.
    pub(crate) identity: String,
}

/// Changes credentials for tokens. Whoever comes while one is had waits for that.
pub(crate) struct Tokens {
    http: HttpClient,
    source: Arc<dyn CredentialSource>,
    url: String,
    kept: Kept<Arc<Access>>,
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").field("url", &self.url).finish_non_exhaustive()
    }
}

/// What the token endpoint answers, well or not.
#[derive(Deserialize)]
struct Granted {
    access_token: String,
    expires_in: u64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Denied {
    error: String,
    error_description: String,
}

impl Tokens {
    /// Tokens for the credentials of `source`; keys are changed at `endpoint` where there is one, else at Google.
    pub(crate) fn new(http: HttpClient, source: Arc<dyn CredentialSource>, endpoint: Option<String>) -> Self {
        let url = endpoint.map_or_else(|| TOKENS.to_owned(), |endpoint| format!("{endpoint}/token"));
        Self { http, source, url, kept: Kept::default() }
    }

    /// What to call with now: a token as it was given, or one for the key of a service account.
    ///
    /// # Errors
    ///
    /// [`ProviderError::Deny`] where there are no credentials that can be used, [`ProviderError::Busy`] or
    /// [`ProviderError::Unsent`] where none can be had now. Nothing was done in either case.
    pub(crate) async fn access(&self) -> Result<Arc<Access>, ProviderError> {
        let own = self.source.get().await?;
        let field = |name: &str| own.get(name).filter(|value| !value.expose().is_empty());
        if let Some(token) = field("access_token") {
            let project = project(&own, None)?;
            let identity = format!("the access token of {}", own.origin());
            return Ok(Arc::new(Access { project, token: token.clone(), identity }));
        }
        let now = now();
        // Google's token service has its bad minutes; a key that it refuses is another thing.
        let renew = async || self.renew(&own, now).await.map(|(access, ends)| (Arc::new(access), ends));
        self.kept.get(now, Some(&own), renew).await
    }

    async fn renew(&self, own: &Credentials, now: Timestamp) -> Result<(Access, Timestamp), ProviderError> {
        let key = Key::of(own).await?;
        let project = project(own, key.project.as_deref())?;
        let assertion = key.assertion(TOKENS, now)?;
        let grant = "urn:ietf:params:oauth:grant-type:jwt-bearer";
        let form = [("grant_type", grant), ("assertion", assertion.expose().as_str())];
        let form = serde_urlencoded::to_string(form)
            .map_err(|_| unusable("the request for a token cannot be written"))?;
        let request = Request::post(&self.url)
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(Bytes::from(form))
            .map_err(|_| unusable("there is no URL to have a token from; look at providers.gcp.endpoint"))?;
        let answer = match self.http.send(CALL, request).await {
            Ok(answer) => answer,
            Err(error @ ProviderError::Unsent { .. }) => return Err(error),
            Err(error) => return Err(busy(&error.line())),
        };
        if !answer.status().is_success() {
            return Err(refused(&answer, &key.email));
        }
        let granted: Granted = serde_json::from_slice(answer.body())
            .map_err(|_| busy("Google's token service answers what is no token"))?;
        let ends = now.plus(Duration::from_secs(granted.expires_in.min(LONGEST)));
        let access =
            Access { project, token: Secret::new(granted.access_token), identity: key.email.clone() };
        Ok((access, ends))
    }
}

/// The project that machines are made in: that of the credentials, else that of the key.
fn project(own: &Credentials, of_key: Option<&str>) -> Result<String, ProviderError> {
    let named = own.get("project_id").map(|value| value.expose().as_str()).filter(|text| !text.is_empty());
    let project = match named.or(of_key) {
        Some(project) => project,
        None => own.require("project_id")?.expose(),
    };
    let is_of = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.:".contains(&byte);
    let is_project =
        (1..=100).contains(&project.len()) && project.bytes().all(is_of) && !project.contains("..");
    if is_project {
        return Ok(project.to_owned());
    }
    Err(unusable(&format!(
        "{} has a project_id that is none: one such as my-project-123 was expected",
        own.origin()
    )))
}

fn refused(answer: &Response<Bytes>, email: &str) -> ProviderError {
    let denied: Denied = serde_json::from_slice(answer.body()).unwrap_or_default();
    let said = redacted(format!("{} {}", denied.error, denied.error_description).as_bytes());
    let said: String = said.chars().take(200).collect();
    match answer.status() {
        StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN
            if !denied.error.is_empty() =>
        {
            unusable(&format!(
                "Google does not take the key of {email} ({}); compare this machine's clock with the time of day, or make a \
                 new key and run `blueprint-hub provider configure gcp`",
                said.trim()
            ))
        }
        status => busy(&format!("Google's token service answers {} {}", status.as_u16(), said.trim())),
    }
}

/// No token now: nothing was done, and the same call may succeed soon.
fn busy(why: &str) -> ProviderError {
    ProviderError::Busy { reason: why.to_owned() }
}

/// The credentials cannot be used: `why` says what to do.
fn unusable(why: &str) -> ProviderError {
    blueprint_hub_provider_kit::GCP.unusable(why)
}
