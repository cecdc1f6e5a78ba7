//! Calls to API v2: requests, answers, pages.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use blueprint_common_types::{Secret, Timestamp};
use blueprint_hub_provider_kit::{CredentialSource, HttpClient, cloud_time};
use blueprint_hub_provision_core::ProviderError;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::errors;

/// Rows of a page: the most there are (the API's reference, `per_page`).
const PER_PAGE: usize = 200;

/// Pages of a list at most; 20,000 droplets are more than any account may have.
const MAX_PAGES: usize = 100;

/// One call of the API.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call {
    /// Its name in errors and the log: the operation of the API's reference.
    pub(crate) name: &'static str,
    /// The scope that a token needs for it.
    pub(crate) scope: &'static str,
}

/// A call by the name of its operation, and the scope it needs.
pub(crate) const fn call(name: &'static str, scope: &'static str) -> Call {
    Call { name, scope }
}

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

#[derive(Deserialize)]
struct Envelope<T> {
    #[serde(flatten)]
    rows: T,
    #[serde(default)]
    links: Links,
    meta: Meta,
}

#[derive(Deserialize, Default)]
struct Links {
    #[serde(default)]
    pages: Pages,
}

#[derive(Deserialize, Default)]
struct Pages {
    next: Option<String>,
}

#[derive(Deserialize)]
struct Meta {
    total: usize,
}

/// One page of a list, under whatever name the API has for it.
pub(crate) trait Rows: DeserializeOwned {
    /// What is listed.
    type Row;
    /// The rows.
    fn rows(self) -> Vec<Self::Row>;
    /// What tells two rows apart.
    fn id(row: &Self::Row) -> String;
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
        let token = credentials.require("token")?;
        let bearer = Secret::new(format!("Bearer {}", token.expose()));
        let mut bearer = HeaderValue::from_str(bearer.expose()).map_err(|_| ProviderError::Deny {
            action: format!(
                "use digitalocean: the token of {} has characters that no token has; copy it again",
                credentials.origin()
            ),
        })?;
        bearer.set_sensitive(true);
        let wrong = || ProviderError::Reject {
            reason: format!("{} {path} makes no URL; check providers.digitalocean.endpoint", self.endpoint),
        };
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.endpoint))
            .header(AUTHORIZATION, bearer)
            .header(ACCEPT, "application/json");
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let request = request.body(Bytes::from(body.unwrap_or_default())).map_err(|_| wrong())?;
        self.http.send(call.name, request).await
    }

    /// `GET`; `None` where there is no such thing.
    pub(crate) async fn find<T: DeserializeOwned>(
        &self,
        call: Call,
        path: &str,
    ) -> Result<Option<T>, ProviderError> {
        let answer = self.send(call, Method::GET, path, None).await?;
        if errors::is_absent(&answer) {
            return Ok(None);
        }
        read(call, &answer).map(Some)
    }

    /// `POST` or `PUT` of a document, answered by one.
    pub(crate) async fn write<T: DeserializeOwned>(
        &self,
        call: Call,
        method: Method,
        path: &str,
        body: &(impl Serialize + Sync),
    ) -> Result<T, ProviderError> {
        let answer = self.send(call, method, path, Some(json(body)?)).await?;
        read(call, &answer)
    }

    /// `DELETE`; what is not there is no error.
    pub(crate) async fn delete(
        &self,
        call: Call,
        path: &str,
        body: Option<Vec<u8>>,
    ) -> Result<(), ProviderError> {
        let answer = self.send(call, Method::DELETE, path, body).await?;
        if answer.status().is_success() || errors::is_absent(&answer) {
            return Ok(());
        }
        Err(errors::refused(call, &answer, now()))
    }

    /// Every row of a list, and the cloud's clock. `path` may have a query.
    ///
    /// # Errors
    ///
    /// [`ProviderError::Busy`] where the list changed between two pages, so that a row may be missing.
    pub(crate) async fn list<T: Rows>(
        &self,
        call: Call,
        path: &str,
    ) -> Result<(Vec<T::Row>, Option<Timestamp>), ProviderError> {
        let changed =
            || ProviderError::Busy { reason: format!("{}: the list changed while it was read", call.name) };
        let (mut rows, mut seen) = (Vec::new(), BTreeSet::new());
        let mut first_total = None;
        for number in 1..=MAX_PAGES {
            let sign = if path.contains('?') { '&' } else { '?' };
            let page = format!("{path}{sign}page={number}&per_page={PER_PAGE}");
            let answer = self.send(call, Method::GET, &page, None).await?;
            let page: Envelope<T> = read(call, &answer)?;
            let (is_last, total) = (page.links.pages.next.is_none(), page.meta.total);
            let page = page.rows.rows();
            // One that goes while pages are read moves the next one to a page that was read already.
            if (page.is_empty() && !is_last) || *first_total.get_or_insert(total) != total {
                return Err(changed());
            }
            rows.extend(page.into_iter().filter(|row| seen.insert(T::id(row))));
            if is_last {
                let is_whole = rows.len() == total;
                return if is_whole { Ok((rows, cloud_time(answer.headers()))) } else { Err(changed()) };
            }
        }
        let source = format!("the list has more than {MAX_PAGES} pages of {PER_PAGE}").into();
        Err(ProviderError::Other { call: call.name, source })
    }
}

/// The document of a success.
fn read<T: DeserializeOwned>(call: Call, answer: &Response<Bytes>) -> Result<T, ProviderError> {
    if !answer.status().is_success() {
        return Err(errors::refused(call, answer, now()));
    }
    serde_json::from_slice(answer.body()).map_err(|error| errors::nonsense(call, answer, &error))
}

/// A document as bytes.
pub(crate) fn json(body: &impl Serialize) -> Result<Vec<u8>, ProviderError> {
    serde_json::to_vec(body)
        .map_err(|_| ProviderError::Reject { reason: "the request cannot be written as JSON".to_owned() })
}

/// The time of day, for clouds that do not tell theirs.
pub(crate) fn now() -> Timestamp {
    Timestamp::from(SystemTime::now())
}
