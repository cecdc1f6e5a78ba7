//! Calls to Azure Resource Manager: requests, answers, pages.

use std::fmt;
use std::time::SystemTime;

use blueprint_common_types::{Secret, Timestamp};
use blueprint_hub_provider_kit::{HttpClient, cloud_time};
use blueprint_hub_provision_core::ProviderError;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, IF_NONE_MATCH};
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::bearer::Bearers;
use crate::errors::{self, About, Refusal};

/// Pages of a list at most; of machines one has 50 or more.
const MAX_PAGES: usize = 1000;

/// One call of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Call {
    /// Its name in errors and the log: the operation of Azure's reference.
    pub(crate) name: &'static str,
    /// The action that a role has to allow for it.
    pub(crate) action: &'static str,
    /// Version of the API that it is written for.
    pub(crate) version: &'static str,
}

/// A call by the name of its operation, the action it needs, and its version.
pub(crate) const fn call(name: &'static str, action: &'static str, version: &'static str) -> Call {
    Call { name, action, version }
}

/// Versions of the APIs that this crate is written for. Compute's is the first whose reference has tags for the interface and
/// the address of a machine.
pub(crate) mod version {
    pub(crate) const COMPUTE: &str = "2025-04-01";
    pub(crate) const DISKS: &str = "2024-03-02";
    pub(crate) const SKUS: &str = "2021-07-01";
    pub(crate) const NETWORK: &str = "2024-05-01";
    pub(crate) const RESOURCES: &str = "2021-04-01";
    pub(crate) const SUBSCRIPTIONS: &str = "2022-12-01";
    pub(crate) const PERMISSIONS: &str = "2022-04-01";
}

/// The subscription.
pub(crate) struct Api {
    pub(crate) http: HttpClient,
    /// Scheme and host, without a slash at the end.
    pub(crate) endpoint: String,
    pub(crate) bearers: Bearers,
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Api").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

/// A page of a list.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Page<T> {
    value: Vec<T>,
    #[serde(default)]
    next_link: Option<String>,
}

/// What is sent besides the path.
#[derive(Default)]
pub(crate) struct Sent {
    /// The document.
    pub(crate) body: Option<Secret<Vec<u8>>>,
    /// Whether it is refused where there is such a thing already.
    pub(crate) only_new: bool,
}

impl Api {
    /// `/subscriptions/ID`, with which the id of everything begins.
    pub(crate) async fn scope(&self) -> Result<String, ProviderError> {
        Ok(format!("/subscriptions/{}", self.bearers.get().await?.subscription))
    }

    /// Sends one request about what stands in the subscription, and takes any answer. `path` begins behind the subscription and may
    /// have a query.
    pub(crate) async fn send(
        &self,
        call: Call,
        method: Method,
        path: &str,
        sent: Sent,
    ) -> Result<Response<Bytes>, ProviderError> {
        let sign = if path.contains('?') { '&' } else { '?' };
        let path = format!("{}{path}{sign}api-version={}", self.scope().await?, call.version);
        self.send_to(call, method, &path, sent).await
    }

    /// The same with a whole path, such as that of a next page.
    pub(crate) async fn send_to(
        &self,
        call: Call,
        method: Method,
        path: &str,
        sent: Sent,
    ) -> Result<Response<Bytes>, ProviderError> {
        let access = self.bearers.get().await?;
        let bearer = Secret::new(format!("Bearer {}", access.token.expose()));
        let mut bearer = HeaderValue::from_str(bearer.expose()).map_err(|_| ProviderError::Deny {
            action: "use azure: the access token has characters that no token has; run `blueprint-hub provider configure \
                     azure`"
                .to_owned(),
        })?;
        bearer.set_sensitive(true);
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.endpoint))
            .header(AUTHORIZATION, bearer)
            .header(ACCEPT, "application/json");
        if sent.body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        if sent.only_new {
            request = request.header(IF_NONE_MATCH, "*");
        }
        let body = sent.body.map(|body| Bytes::from(body.expose().clone())).unwrap_or_default();
        let request = request.body(body).map_err(|_| ProviderError::Reject {
            reason: format!(
                "{} makes no URL for {}; check providers.azure.endpoint",
                self.endpoint, call.name
            ),
        })?;
        let answer = self.http.send(call.name, request).await?;
        if answer.status() == StatusCode::UNAUTHORIZED {
            // Another is asked for at the next call.
            self.bearers.forget().await;
        }
        Ok(answer)
    }

    /// `GET`; `None` where there is no such thing.
    pub(crate) async fn find<T: DeserializeOwned>(
        &self,
        call: Call,
        path: &str,
    ) -> Result<Option<T>, ProviderError> {
        let answer = self.send(call, Method::GET, path, Sent::default()).await?;
        if is_absent(&answer) {
            return Ok(None);
        }
        read(call, &answer).map(Some)
    }

    /// `PUT` of a document; the answer is one of success.
    pub(crate) async fn put(
        &self,
        call: Call,
        path: &str,
        body: &Value,
    ) -> Result<Response<Bytes>, ProviderError> {
        let sent = Sent { body: Some(document(body)), only_new: false };
        success(call, self.send(call, Method::PUT, path, sent).await?)
    }

    /// Every row of a list and the cloud's clock; no row where what is listed has nothing that it stands in.
    ///
    /// # Errors
    ///
    /// As Azure answers; the list is whole or an error.
    pub(crate) async fn list<T: DeserializeOwned>(
        &self,
        call: Call,
        path: &str,
    ) -> Result<(Vec<T>, Option<Timestamp>), ProviderError> {
        let mut rows = Vec::new();
        let mut answer = self.send(call, Method::GET, path, Sent::default()).await?;
        if is_absent(&answer) {
            return Ok((rows, cloud_time(answer.headers())));
        }
        let mut last = None;
        for _ in 0..MAX_PAGES {
            let page: Page<T> = read(call, &answer)?;
            rows.extend(page.value);
            let next = match page.next_link.filter(|link| !link.is_empty()) {
                None => return Ok((rows, cloud_time(answer.headers()))),
                Some(link) => self.path_of(call, &link)?,
            };
            if last.as_ref() == Some(&next) {
                break;
            }
            answer = self.send_to(call, Method::GET, &next, Sent::default()).await?;
            last = Some(next);
        }
        let source = format!("the list does not end, or has more than {MAX_PAGES} pages").into();
        Err(ProviderError::Other { call: call.name, source })
    }

    /// Path and query of a link to the same host. Links to others are not followed: the token would go with them.
    pub(crate) fn path_of(&self, call: Call, link: &str) -> Result<String, ProviderError> {
        let (own, uri) = (self.endpoint.parse::<Uri>().ok(), link.parse::<Uri>().ok());
        let is_own = |uri: &Uri| {
            own.as_ref().is_some_and(|own| own.authority() == uri.authority() && own.scheme() == uri.scheme())
        };
        let path = uri.filter(is_own).and_then(|uri| Some(uri.path_and_query()?.as_str().to_owned()));
        path.ok_or_else(|| ProviderError::Other {
            call: call.name,
            source: format!("its answer leads to another host than {}, which is not followed", self.endpoint)
                .into(),
        })
    }
}

/// A document as it is sent.
pub(crate) fn document(body: &Value) -> Secret<Vec<u8>> {
    Secret::new(body.to_string().into_bytes())
}

/// Whether an answer says that there is no such thing. A 404 of something on the way is none.
pub(crate) fn is_absent(answer: &Response<Bytes>) -> bool {
    answer.status() == StatusCode::NOT_FOUND
        && matches!(
            Refusal::read(answer).code.as_str(),
            "ResourceNotFound" | "ResourceGroupNotFound" | "NotFound" | "ParentResourceNotFound"
        )
}

/// The answer where it is one of success.
///
/// # Errors
///
/// What the refusal means.
pub(crate) fn success(call: Call, answer: Response<Bytes>) -> Result<Response<Bytes>, ProviderError> {
    if answer.status().is_success() {
        return Ok(answer);
    }
    Err(Refusal::read(&answer).into_error(call, &About::default()))
}

/// The document of a success.
pub(crate) fn read<T: DeserializeOwned>(call: Call, answer: &Response<Bytes>) -> Result<T, ProviderError> {
    if !answer.status().is_success() {
        return Err(Refusal::read(answer).into_error(call, &About::default()));
    }
    serde_json::from_slice(answer.body()).map_err(|error| errors::nonsense(call, answer, &error))
}

/// The time of day, for answers that do not tell theirs.
pub(crate) fn now() -> Timestamp {
    Timestamp::from(SystemTime::now())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use blueprint_hub_provider_kit::{Credentials, Fixed, HttpConfig};

    use super::*;

    #[test]
    fn links_to_other_hosts_are_not_followed() {
        let http = HttpClient::new(HttpConfig::default()).unwrap();
        let source = Arc::new(Fixed::new(Credentials::new("a test", [])));
        let bearers = Bearers::new(http.clone(), source, String::new(), String::new());
        let api = Api { http, endpoint: crate::ENDPOINT.to_owned(), bearers };
        let call = call("VirtualMachines_List", "x", "y");
        let path =
            api.path_of(call, "https://management.azure.com/subscriptions/s/x?$skiptoken=a%20b").unwrap();
        assert_eq!(path, "/subscriptions/s/x?$skiptoken=a%20b");
        for link in [
            "https://management.azure.com.evil.example/x",
            "https://evil.example/x",
            "http://management.azure.com/x",
            "https://management.azure.com:8443/x",
            "https://x@management.azure.com/x",
            "/subscriptions/s/x",
            "",
        ] {
            assert!(api.path_of(call, link).is_err(), "{link}");
        }
    }
}
