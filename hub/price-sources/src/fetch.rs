//! One question to a public API, and its answer.

use blueprint_common_types::Timestamp;
pub(crate) use blueprint_hub_provider_kit::plans::{blank, price};
use blueprint_hub_provider_kit::{HttpClient, Take, redacted, retry_after};
use blueprint_hub_provision_core::ProviderError;
use bytes::Bytes;
use http::header::ACCEPT;
use http::{HeaderMap, Request, Response, StatusCode};
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
        let request = self.request(path, "application/json")?;
        let (headers, body) = given(call, self.http.send(call, request).await?)?;
        let document = serde_json::from_slice(&body).map_err(|error| {
            let odd = Odd::Document { line: error.line(), column: error.column(), body: redacted(&body) };
            ProviderError::Other { call, source: Box::new(odd) }
        })?;
        Ok((document, headers))
    }

    /// Gives `take` the text at `path` in pieces; it is never held whole.
    pub(crate) async fn read(
        &self,
        call: &'static str,
        path: &str,
        take: Take<'_>,
    ) -> Result<(), ProviderError> {
        let request = self.request(path, "text/csv")?;
        given(call, self.http.read(call, request, take).await?).map(|_| ())
    }

    fn request(&self, path: &str, accept: &'static str) -> Result<Request<Bytes>, ProviderError> {
        let wrong = |_| ProviderError::Reject { reason: format!("{}{path} makes no URL", self.endpoint) };
        let request = Request::get(format!("{}{path}", self.endpoint)).header(ACCEPT, accept);
        request.body(Bytes::new()).map_err(wrong)
    }
}

/// Head and body of an answer that is one.
fn given(call: &'static str, answer: Response<Bytes>) -> Result<(HeaderMap, Bytes), ProviderError> {
    let (head, body) = answer.into_parts();
    if head.status == StatusCode::TOO_MANY_REQUESTS {
        let now = Timestamp::from(std::time::SystemTime::now());
        return Err(ProviderError::Throttle { retry_after: retry_after(&head.headers, now) });
    }
    if head.status != StatusCode::OK {
        let odd = Odd::Status { status: head.status.as_u16(), body: redacted(&body) };
        return Err(ProviderError::Other { call, source: Box::new(odd) });
    }
    Ok((head.headers, body))
}

/// A list that does not end.
pub(crate) fn endless(call: &'static str) -> ProviderError {
    ProviderError::Other { call, source: Box::new(Odd::Endless) }
}
