//! One question to a public API, and its answer.

use blueprint_common_types::Timestamp;
pub(crate) use blueprint_hub_provider_kit::plans::{blank, price};
use blueprint_hub_provider_kit::{HttpClient, redacted, retry_after};
use blueprint_hub_provision_core::ProviderError;
use bytes::Bytes;
use http::header::ACCEPT;
use http::{HeaderMap, Request, StatusCode};
use serde::de::DeserializeOwned;

/// Most pages of one list.
pub(crate) const MAX_PAGES: usize = 200;

/// An API without credentials.
#[derive(Debug, Clone)]
pub(crate) struct Fetch {
    http: HttpClient,
    endpoint: String,
}

#[derive(Debug, thiserror::Error)]
enum Odd {
    #[error("status {status}: {body}")]
    Status { status: u16, body: String },
    #[error("its answer is wrong at line {line} column {column}: {body}")]
    Document { line: usize, column: usize, body: String },
    #[error("its list has more than {MAX_PAGES} pages")]
    Endless,
}

impl Fetch {
    /// `endpoint` is scheme and host, without a slash at the end.
    pub(crate) const fn new(http: HttpClient, endpoint: String) -> Self {
        Self { http, endpoint }
    }

    /// Whom it asks.
    pub(crate) fn origin(&self) -> String {
        self.endpoint.clone()
    }

    /// The document at `path`, which may have a query, and the head of the answer.
    pub(crate) async fn get<T: DeserializeOwned>(
        &self,
        call: &'static str,
        path: &str,
    ) -> Result<(T, HeaderMap), ProviderError> {
        let wrong = |_| ProviderError::Reject { reason: format!("{}{path} makes no URL", self.endpoint) };
        let request = Request::get(format!("{}{path}", self.endpoint)).header(ACCEPT, "application/json");
        let answer = self.http.send(call, request.body(Bytes::new()).map_err(wrong)?).await?;
        let (head, body) = answer.into_parts();
        let other = |odd| ProviderError::Other { call, source: Box::new(odd) };
        if head.status == StatusCode::TOO_MANY_REQUESTS {
            let now = Timestamp::from(std::time::SystemTime::now());
            return Err(ProviderError::Throttle { retry_after: retry_after(&head.headers, now) });
        }
        if head.status != StatusCode::OK {
            return Err(other(Odd::Status { status: head.status.as_u16(), body: redacted(&body) }));
        }
        let document = serde_json::from_slice(&body).map_err(|error| {
            other(Odd::Document { line: error.line(), column: error.column(), body: redacted(&body) })
        })?;
        Ok((document, head.headers))
    }
}

/// A list that does not end.
pub(crate) fn endless(call: &'static str) -> ProviderError {
    ProviderError::Other { call, source: Box::new(Odd::Endless) }
}
