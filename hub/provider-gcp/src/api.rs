//! Calls with a bearer token, one request each, and pages of lists.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use blueprint_common_types::{Secret, Timestamp};
use blueprint_hub_provider_kit::{CredentialSource, HttpClient, cloud_time, redacted};
use blueprint_hub_provision_core::ProviderError;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, Request};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tracing::debug;

use crate::action::Action;
use crate::refusal::Refusal;
use crate::tokens::Tokens;

/// Where Compute Engine is.
const COMPUTE: &str = "https://compute.googleapis.com";

/// Where the rights of a project are asked for.
const RESOURCES: &str = "https://cloudresourcemanager.googleapis.com";

/// Where prices are, and the name that Compute Engine has there.
const BILLING: (&str, &str) = ("https://cloudbilling.googleapis.com", "6F81-5844-456A");

/// Most pages of one list, of 500 rows each.
const MAX_PAGES: usize = 1000;

/// What a scope of a list says where it has nothing.
const NOTHING_HERE: &str = "NO_RESULTS_ON_PAGE";

/// Why a call was not done, or may not have been.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Google said no.
    Refused(Refusal),
    /// Anything else.
    Failed(ProviderError),
}

impl Failure {
    /// The error that it is to the hub; see [`Refusal::into_error`].
    pub(crate) fn into_error(self, action: Action, what: &str) -> ProviderError {
        match self {
            Self::Refused(refusal) => refusal.into_error(action, what),
            Self::Failed(error) => error,
        }
    }
}

/// What a call answered.
#[derive(Debug)]
pub(crate) struct Answer<T> {
    /// The document.
    pub(crate) body: T,
    /// Google's clock.
    pub(crate) cloud_time: Option<Timestamp>,
}

/// Calls Google with the credentials that its source has at that moment.
pub(crate) struct Api {
    http: HttpClient,
    pub(crate) tokens: Tokens,
    endpoint: Option<String>,
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Api").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

/// A page of a list over all zones.
#[derive(Deserialize)]
struct Page<T> {
    #[serde(default = "Vec::new")]
    unreachables: Vec<String>,
    warning: Option<Warning>,
    #[serde(rename = "nextPageToken")]
    next: Option<String>,
    items: Option<std::collections::BTreeMap<String, Scope<T>>>,
    /// What every list says it is; a document without it is none.
    kind: String,
}

#[derive(Deserialize)]
struct Scope<T> {
    warning: Option<Warning>,
    #[serde(flatten)]
    rows: T,
}

#[derive(Deserialize)]
struct Warning {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

impl Api {
    /// Calls go to `endpoint` where there is one, else to Google.
    pub(crate) fn new(http: HttpClient, source: Arc<dyn CredentialSource>, endpoint: Option<String>) -> Self {
        let endpoint = endpoint.map(|endpoint| endpoint.trim_end_matches('/').to_owned());
        let tokens = Tokens::new(http.clone(), source, endpoint.clone());
        Self { http, tokens, endpoint }
    }

    /// One call; `path` begins behind the project and has no slash at its begin.
    ///
    /// # Errors
    ///
    /// As Google answers; an answer that cannot be read may be one to a call that was done.
    pub(crate) async fn call<T: DeserializeOwned>(
        &self,
        action: Action,
        path: &str,
        query: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<Answer<T>, Failure> {
        let call = action.name();
        let access = self.tokens.access().await.map_err(Failure::Failed)?;
        let refused = |reason: String| Failure::Failed(ProviderError::Reject { reason });
        let mut url = if action == Action::TestPermissions {
            let base = self.endpoint.as_deref().unwrap_or(RESOURCES);
            format!("{base}/v1/projects/{}:testIamPermissions", access.project)
        } else if action == Action::ListSkus {
            let base = self.endpoint.as_deref().unwrap_or(BILLING.0);
            format!("{base}/v1/services/{}/skus", BILLING.1)
        } else {
            let slash = if path.is_empty() { "" } else { "/" };
            let base = self.endpoint.as_deref().unwrap_or(COMPUTE);
            format!("{base}/compute/v1/projects/{}{slash}{path}", access.project)
        };
        if !query.is_empty() {
            let query = serde_urlencoded::to_string(query)
                .map_err(|error| refused(format!("{call} has no query that can be written: {error}")))?;
            url = format!("{url}?{query}");
        }
        let bearer = Secret::new(format!("Bearer {}", access.token.expose()));
        let mut bearer = HeaderValue::from_str(bearer.expose()).map_err(|_| {
            Failure::Failed(ProviderError::Deny {
                action: "use gcp: the access token has characters that no token has; copy it again"
                    .to_owned(),
            })
        })?;
        bearer.set_sensitive(true);
        let request = Request::builder()
            .method(action.method())
            .uri(url)
            .header(AUTHORIZATION, bearer)
            .header(ACCEPT, "application/json")
            .header(CONTENT_TYPE, "application/json");
        let body = body.map(|body| Bytes::from(body.to_string())).unwrap_or_default();
        let request = request.body(body).map_err(|error| {
            refused(format!("{call} has no URL that can be called, look at providers.gcp.endpoint: {error}"))
        })?;
        let answer = self.http.send(call, request).await.map_err(Failure::Failed)?;
        if !answer.status().is_success() {
            let status = answer.status().as_u16();
            debug!(call, path, status, answer = redacted(answer.body()), "refused");
            return Err(Failure::Refused(Refusal::read(&answer, now())));
        }
        let body = serde_json::from_slice(answer.body()).map_err(|error| unreadable(action, &error))?;
        Ok(Answer { body, cloud_time: cloud_time(answer.headers()) })
    }

    /// Every zone's part of a list over all zones, page by page, and Google's clock.
    ///
    /// # Errors
    ///
    /// As for [`Self::call`], and where a zone could not be asked: a list is whole or none.
    pub(crate) async fn everywhere<T: DeserializeOwned>(
        &self,
        action: Action,
        path: &str,
        query: &[(&str, &str)],
    ) -> Result<(Vec<(String, T)>, Option<Timestamp>), ProviderError> {
        let (mut scopes, mut next) = (Vec::new(), None::<String>);
        let lacks = |what: String| ProviderError::Other { call: action.name(), source: what.into() };
        for _ in 0..MAX_PAGES {
            let mut page = query.to_vec();
            if let Some(token) = &next {
                page.push(("pageToken", token));
            }
            let answer = self.call::<Page<T>>(action, path, &page, None).await;
            let Answer { body, cloud_time } = answer.map_err(|failure| failure.into_error(action, path))?;
            if !body.kind.starts_with("compute#") {
                return Err(lacks("the answer is no list".to_owned()));
            }
            if let Some(zone) = body.unreachables.first() {
                return Err(lacks(format!("the list lacks {zone}, which cannot be reached now")));
            }
            let items = body.items.unwrap_or_default();
            let warned = items.iter().map(|(zone, scope)| (zone.as_str(), scope.warning.as_ref()));
            for (place, warning) in warned.chain([("the list", body.warning.as_ref())]) {
                if let Some(warning) = warning.filter(|warning| warning.code != NOTHING_HERE) {
                    let said: String = redacted(warning.message.as_bytes()).chars().take(200).collect();
                    return Err(lacks(format!("{place} may not be whole: {} {said}", warning.code)));
                }
            }
            scopes.extend(items.into_iter().map(|(place, scope)| {
                let zone = place.strip_prefix("zones/").unwrap_or(&place).to_owned();
                (zone, scope.rows)
            }));
            match body.next.filter(|token| !token.is_empty()) {
                Some(token) if next.as_ref() != Some(&token) => next = Some(token),
                Some(_) => break,
                None => return Ok((scopes, cloud_time)),
            }
        }
        Err(lacks("the list does not end".to_owned()))
    }
}

/// The time of day.
pub(crate) fn now() -> Timestamp {
    Timestamp::from(SystemTime::now())
}

/// An answer that says yes in words that cannot be read. The error's own text may repeat a value.
pub(crate) fn unreadable(action: Action, error: &serde_json::Error) -> Failure {
    let source = format!("the answer is no such document at line {} column {}", error.line(), error.column());
    Failure::Failed(ProviderError::Other { call: action.name(), source: source.into() })
}
