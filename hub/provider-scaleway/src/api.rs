//! Calls to the API: requests, answers, pages.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use blueprint_common_types::Timestamp;
use blueprint_hub_provider_kit::{CredentialSource, Credentials, HttpClient, cloud_time};
use blueprint_hub_provision_core::ProviderError;
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::errors;

/// Rows of a page: the most there are (the API's reference, `per_page` and `page_size`).
const PER_PAGE: usize = 100;

/// Pages of a list at most; 10,000 servers in one zone are more than any project may have.
const MAX_PAGES: usize = 100;

/// One call of the API.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call {
    /// Its name in errors and the log: the operation of the API's reference.
    pub(crate) name: &'static str,
    /// The permission set that a key needs for it; empty for what anybody may ask.
    pub(crate) right: &'static str,
}

/// A call by the name of its operation, and the permission set it needs.
pub(crate) const fn call(name: &'static str, right: &'static str) -> Call {
    Call { name, right }
}

/// The permission sets of IAM that calls here need.
pub(crate) mod rights {
    pub(crate) const INSTANCES: &str = "InstancesFullAccess";
    pub(crate) const BLOCK: &str = "BlockStorageFullAccess";
    pub(crate) const PROJECT: &str = "ProjectReadOnly";
    pub(crate) const NONE: &str = "";
}

/// The project.
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

/// One page of a list, under whatever name the API has for it.
pub(crate) trait Rows: DeserializeOwned {
    /// What is listed.
    type Row;
    /// The rows.
    fn rows(self) -> Vec<Self::Row>;
    /// How many there are on all pages, where the page itself says so; else its head does.
    fn total(&self) -> Option<usize> {
        None
    }
    /// What tells two rows apart.
    fn id(row: &Self::Row) -> String;
    /// How the length of a page is asked for: products differ in it.
    const SIZE: &'static str = "per_page";
}

impl Api {
    /// The project that everything is in.
    pub(crate) async fn project(&self) -> Result<String, ProviderError> {
        let credentials = self.credentials.get().await?;
        let project = credentials.require("project_id")?.expose().clone();
        let is_id = !project.is_empty() && project.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
        if is_id { Ok(project) } else { Err(unusable(&credentials, "project id")) }
    }

    /// Sends one request and takes any answer. A body is what `kind` says, such as `application/json`.
    pub(crate) async fn send(
        &self,
        call: Call,
        method: Method,
        path: &str,
        body: Option<(&'static str, Vec<u8>)>,
    ) -> Result<Response<Bytes>, ProviderError> {
        let credentials = self.credentials.get().await?;
        let token = credentials.require("secret_key")?;
        let mut token =
            HeaderValue::from_str(token.expose()).map_err(|_| unusable(&credentials, "secret key"))?;
        token.set_sensitive(true);
        let wrong = || ProviderError::Reject {
            reason: format!("{} {path} makes no URL; check providers.scaleway.endpoint", self.endpoint),
        };
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.endpoint))
            .header("x-auth-token", token)
            .header(ACCEPT, "application/json");
        let body = match body {
            Some((kind, body)) => {
                request = request.header(CONTENT_TYPE, kind);
                body
            }
            None => Vec::new(),
        };
        self.http.send(call.name, request.body(Bytes::from(body)).map_err(|_| wrong())?).await
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

    /// `POST` or `PATCH` of a document, answered by one.
    pub(crate) async fn write<T: DeserializeOwned>(
        &self,
        call: Call,
        method: Method,
        path: &str,
        body: &(impl Serialize + Sync),
    ) -> Result<T, ProviderError> {
        let answer = self.send(call, method, path, Some(("application/json", json(body)?))).await?;
        read(call, &answer)
    }

    /// A call whose answer says nothing; what is not there is no error where `may_lack` says so.
    pub(crate) async fn order(
        &self,
        call: Call,
        method: Method,
        path: &str,
        body: Option<(&'static str, Vec<u8>)>,
        may_lack: bool,
    ) -> Result<(), ProviderError> {
        let answer = self.send(call, method, path, body).await?;
        if answer.status().is_success() || (may_lack && errors::is_absent(&answer)) {
            return Ok(());
        }
        Err(errors::refused(call, &answer, now()))
    }

    /// `DELETE`; what is not there is no error.
    pub(crate) async fn delete(&self, call: Call, path: &str) -> Result<(), ProviderError> {
        self.order(call, Method::DELETE, path, None, true).await
    }

    /// Every row of a list, and the cloud's clock. `path` may have a query. A zone where the product is not sold has none
    /// where `may_lack` says so.
    ///
    /// # Errors
    ///
    /// [`ProviderError::Busy`] where the list changed between two pages, so that a row may be missing.
    pub(crate) async fn list<T: Rows>(
        &self,
        call: Call,
        path: &str,
        may_lack: bool,
    ) -> Result<(Vec<T::Row>, Option<Timestamp>), ProviderError> {
        let changed =
            || ProviderError::Busy { reason: format!("{}: the list changed while it was read", call.name) };
        let (mut rows, mut seen) = (Vec::new(), BTreeSet::new());
        let mut first_total = None;
        for number in 1..=MAX_PAGES {
            let sign = if path.contains('?') { '&' } else { '?' };
            let page = format!("{path}{sign}page={number}&{}={PER_PAGE}", T::SIZE);
            let answer = self.send(call, Method::GET, &page, None).await?;
            if may_lack && number == 1 && errors::is_absent(&answer) {
                return Ok((rows, cloud_time(answer.headers())));
            }
            let page: T = read(call, &answer)?;
            let total = page.total().or_else(|| total(answer.headers())).ok_or_else(|| {
                let source = "the answer does not say how many there are".into();
                ProviderError::Other { call: call.name, source }
            })?;
            let page = page.rows();
            // One that goes while pages are read moves the next one to a page that was read already.
            let is_end = page.is_empty();
            if *first_total.get_or_insert(total) != total {
                return Err(changed());
            }
            rows.extend(page.into_iter().filter(|row| seen.insert(T::id(row))));
            if rows.len() == total {
                return Ok((rows, cloud_time(answer.headers())));
            }
            if is_end || rows.len() > total {
                return Err(changed());
            }
        }
        let source = format!("the list has more than {MAX_PAGES} pages of {PER_PAGE}").into();
        Err(ProviderError::Other { call: call.name, source })
    }
}

fn total(head: &HeaderMap) -> Option<usize> {
    head.get("x-total-count")?.to_str().ok()?.parse().ok()
}

fn unusable(credentials: &Credentials, what: &str) -> ProviderError {
    ProviderError::Deny {
        action: format!(
            "use scaleway: the {what} of {} has characters that none has; copy it again, and run `blueprint-hub provider \
             configure scaleway`",
            credentials.origin()
        ),
    }
}

/// The document of a success.
pub(crate) fn read<T: DeserializeOwned>(call: Call, answer: &Response<Bytes>) -> Result<T, ProviderError> {
    if answer.status() == StatusCode::NO_CONTENT || !answer.status().is_success() {
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
