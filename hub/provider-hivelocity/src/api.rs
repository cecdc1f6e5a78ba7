//! Calls to the core API: requests and answers. It has no pages.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use blueprint_common_types::Timestamp;
use blueprint_hub_provider_kit::{CredentialSource, HttpClient};
use blueprint_hub_provision_core::ProviderError;
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::errors;

/// One call of the API, by the name of its operation.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call(pub(crate) &'static str);

/// The account.
pub(crate) struct Api {
    pub(crate) http: HttpClient,
    /// Scheme and host, without a slash at the end.
    pub(crate) endpoint: String,
    pub(crate) credentials: Arc<dyn CredentialSource>,
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Api").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

impl Api {
    /// Sends one request and takes any answer.
    pub(crate) async fn send(
        &self,
        call: Call,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
    ) -> Result<Response<Bytes>, ProviderError> {
        let credentials = self.credentials.get().await?;
        let key = credentials.require("api_key")?;
        let mut key = HeaderValue::from_str(key.expose()).map_err(|_| ProviderError::Deny {
            action: format!(
                "use hivelocity: the API key of {} has characters that none has; copy it again, and run `blueprint-hub \
                 provider configure hivelocity`",
                credentials.origin()
            ),
        })?;
        key.set_sensitive(true);
        let wrong = || ProviderError::Reject {
            reason: format!("{} {path} makes no URL; check providers.hivelocity.endpoint", self.endpoint),
        };
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}/api/v2{path}", self.endpoint))
            .header("x-api-key", key)
            .header(ACCEPT, "application/json");
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let request = request.body(Bytes::from(body.unwrap_or_default())).map_err(|_| wrong())?;
        self.http.send(call.0, request).await
    }

    /// `GET`, and the head of its answer for the cloud's clock.
    pub(crate) async fn get<T: DeserializeOwned>(
        &self,
        call: Call,
        path: &str,
    ) -> Result<(T, Response<Bytes>), ProviderError> {
        let answer = self.send(call, Method::GET, path, None).await?;
        Ok((read(call, &answer)?, answer))
    }

    /// `GET`; `None` where there is no such thing.
    pub(crate) async fn find<T: DeserializeOwned>(
        &self,
        call: Call,
        path: &str,
    ) -> Result<Option<T>, ProviderError> {
        let answer = self.send(call, Method::GET, path, None).await?;
        if errors::is_absent(&answer) { Ok(None) } else { read(call, &answer).map(Some) }
    }

    /// `POST` of a document, answered by one.
    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        call: Call,
        path: &str,
        body: &(impl Serialize + Sync),
    ) -> Result<T, ProviderError> {
        let body = serde_json::to_vec(body).map_err(|_| ProviderError::Reject {
            reason: "the request cannot be written as JSON".to_owned(),
        })?;
        let answer = self.send(call, Method::POST, path, Some(body)).await?;
        read(call, &answer)
    }

    /// `POST` without a document, whose answer says nothing.
    pub(crate) async fn act(&self, call: Call, path: &str) -> Result<(), ProviderError> {
        let answer = self.send(call, Method::POST, path, None).await?;
        if answer.status().is_success() { Ok(()) } else { Err(errors::refused(call, &answer, now())) }
    }

    /// A cancellation; what is cancelled already, or is not there, is no error.
    pub(crate) async fn cancel(&self, call: Call, path: &str) -> Result<(), ProviderError> {
        let answer = self.send(call, Method::DELETE, path, None).await?;
        let is_over = answer.status().is_success()
            || answer.status() == StatusCode::CONFLICT
            || errors::is_absent(&answer);
        match answer.status() {
            _ if is_over => Ok(()),
            // "Device Cancellation Failed." says no more, and has to be tried again.
            StatusCode::BAD_REQUEST => Err(ProviderError::Busy {
                reason: format!("the cancellation failed: {}", errors::said(&answer)),
            }),
            _ => Err(errors::refused(call, &answer, now())),
        }
    }
}

/// The document of a success.
fn read<T: DeserializeOwned>(call: Call, answer: &Response<Bytes>) -> Result<T, ProviderError> {
    if !answer.status().is_success() {
        return Err(errors::refused(call, answer, now()));
    }
    serde_json::from_slice(answer.body()).map_err(|error| errors::nonsense(call, answer, &error))
}

/// The time of day; devices show no date of their own.
pub(crate) fn now() -> Timestamp {
    Timestamp::from(SystemTime::now())
}
