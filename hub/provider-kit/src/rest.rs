//! Calls to JSON APIs with a bearer token: requests, answers, lists that are whole.
//!
//! What of an API's answers is an error, and which, its plugin says ([`Style::refused`]); what statuses mean everywhere is
//! in [`by_status`].

mod refusals;
mod rows;

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use blueprint_common_types::{Secret, Timestamp};
use blueprint_hub_provision_core::ProviderError;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use self::refusals::{by_status, nonsense, unclear};
pub use self::rows::Rows;
use crate::{CredentialSource, HttpClient};

/// One call of an API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    /// Its name in errors and the log: the operation of the API's reference.
    pub name: &'static str,
    /// The right that credentials need for it, in the API's words; empty where they need none.
    pub scope: &'static str,
}

/// A call by the name of its operation, and the right it needs.
#[must_use]
pub const fn call(name: &'static str, scope: &'static str) -> Call {
    Call { name, scope }
}

/// What tells one API from another.
#[derive(Clone, Copy)]
pub struct Style {
    /// Name of the provider, as in its section of the configuration.
    pub provider: &'static str,
    /// The field of its credentials that holds the token.
    pub token: &'static str,
    /// The page where people make a token.
    pub tokens_page: &'static str,
    /// Whether a 404 is the API's own, which says that there is no such thing; a page of something on the way does not.
    pub absent: fn(&Response<Bytes>) -> bool,
    /// What a refusal means whose status alone does not say it ([`by_status`]).
    pub refused: fn(Call, &Response<Bytes>) -> ProviderError,
}

impl fmt::Debug for Style {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Style").field("provider", &self.provider).finish_non_exhaustive()
    }
}

/// One account of one API.
pub struct Rest {
    style: Style,
    http: HttpClient,
    endpoint: String,
    credentials: Arc<dyn CredentialSource>,
}

impl fmt::Debug for Rest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rest").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

impl Rest {
    /// An account of the API at `endpoint`, scheme and host; calls nothing yet.
    #[must_use]
    pub fn new(
        style: Style,
        http: HttpClient,
        endpoint: &str,
        credentials: Arc<dyn CredentialSource>,
    ) -> Self {
        Self { style, http, endpoint: endpoint.trim_end_matches('/').to_owned(), credentials }
    }

    /// Sends one request and takes any answer. `headers` are sent besides those of every call.
    ///
    /// # Errors
    ///
    /// [`ProviderError::Deny`] where there is no token, else as [`HttpClient::send`].
    ///
    /// # Cancel safety
    ///
    /// As [`HttpClient::send`].
    pub async fn send(
        &self,
        call: Call,
        method: Method,
        path: &str,
        headers: &[(&'static str, String)],
        body: Option<Vec<u8>>,
    ) -> Result<Response<Bytes>, ProviderError> {
        let Style { provider, token, .. } = self.style;
        let credentials = self.credentials.get().await?;
        let bearer = Secret::new(format!("Bearer {}", credentials.require(token)?.expose()));
        let mut bearer = HeaderValue::from_str(bearer.expose()).map_err(|_| ProviderError::Deny {
            action: format!(
                "use {provider}: the {token} of {} has characters that no token has; copy it again",
                credentials.origin()
            ),
        })?;
        bearer.set_sensitive(true);
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.endpoint))
            .header(AUTHORIZATION, bearer)
            .header(ACCEPT, "application/json");
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let request = request.body(Bytes::from(body.unwrap_or_default())).map_err(|_| {
            let reason = format!("{}{path} makes no URL; check providers.{provider}.endpoint", self.endpoint);
            ProviderError::Reject { reason }
        })?;
        self.http.send(call.name, request).await
    }

    fn is_absent(&self, answer: &Response<Bytes>) -> bool {
        answer.status() == StatusCode::NOT_FOUND && (self.style.absent)(answer)
    }

    /// What an answer that is no success means.
    #[must_use]
    pub fn refused(&self, call: Call, answer: &Response<Bytes>) -> ProviderError {
        by_status(&self.style, call, answer, now()).unwrap_or_else(|| (self.style.refused)(call, answer))
    }

    /// The document of a success.
    ///
    /// # Errors
    ///
    /// What the refusal means; [`ProviderError::Other`] where the document is none.
    pub fn read<T: DeserializeOwned>(
        &self,
        call: Call,
        answer: &Response<Bytes>,
    ) -> Result<T, ProviderError> {
        if !answer.status().is_success() {
            return Err(self.refused(call, answer));
        }
        serde_json::from_slice(answer.body()).map_err(|error| nonsense(call, answer, &error))
    }

    /// `GET`; `None` where there is no such thing.
    ///
    /// # Errors
    ///
    /// As [`Self::send`] and [`Self::read`].
    pub async fn find<T: DeserializeOwned>(
        &self,
        call: Call,
        path: &str,
    ) -> Result<Option<T>, ProviderError> {
        let answer = self.send(call, Method::GET, path, &[], None).await?;
        if self.is_absent(&answer) {
            return Ok(None);
        }
        self.read(call, &answer).map(Some)
    }

    /// `POST` or `PUT` of a document, answered by one.
    ///
    /// # Errors
    ///
    /// As [`Self::send`] and [`Self::read`].
    pub async fn write<T: DeserializeOwned>(
        &self,
        call: Call,
        method: Method,
        path: &str,
        body: &(impl Serialize + Sync),
    ) -> Result<T, ProviderError> {
        let answer = self.send(call, method, path, &[], Some(json(body)?)).await?;
        self.read(call, &answer)
    }

    /// `POST` without a document, whose answer says nothing but that it was taken.
    ///
    /// # Errors
    ///
    /// As [`Self::send`], and what the refusal means.
    pub async fn act(&self, call: Call, path: &str) -> Result<(), ProviderError> {
        let answer = self.send(call, Method::POST, path, &[], None).await?;
        if answer.status().is_success() { Ok(()) } else { Err(self.refused(call, &answer)) }
    }

    /// `DELETE`; what is not there is no error.
    ///
    /// # Errors
    ///
    /// As [`Self::send`], and what the refusal means.
    pub async fn delete(&self, call: Call, path: &str) -> Result<(), ProviderError> {
        let answer = self.send(call, Method::DELETE, path, &[], None).await?;
        if answer.status().is_success() || self.is_absent(&answer) {
            return Ok(());
        }
        Err(self.refused(call, &answer))
    }
}

/// A document as bytes.
///
/// # Errors
///
/// [`ProviderError::Reject`] where it has no form as JSON.
pub fn json(body: &impl Serialize) -> Result<Vec<u8>, ProviderError> {
    serde_json::to_vec(body)
        .map_err(|_| ProviderError::Reject { reason: "the request cannot be written as JSON".to_owned() })
}

/// The time of day, for clouds that do not tell theirs.
#[must_use]
pub fn now() -> Timestamp {
    Timestamp::from(SystemTime::now())
}
