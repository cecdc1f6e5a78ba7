//! Signed calls, one request each.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use blueprint_common_types::Timestamp;
use blueprint_hub_provider_kit::{CredentialSource, HttpClient, cloud_time, redacted, retry_after};
use blueprint_hub_provision_core::ProviderError;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Request, Response};
use serde_json::Value;
use tracing::debug;

use crate::action::{Action, Service};
use crate::keys::Keys;
use crate::query::Query;
use crate::refusal::Refusal;
use crate::sign::{Scope, sign};
use crate::xml::Node;

const FORM: &str = "application/x-www-form-urlencoded; charset=utf-8";
const JSON: &str = "application/x-amz-json-1.1";

/// Why a call was not done, or may not have been.
#[derive(Debug)]
pub(crate) enum Failure {
    /// AWS said no.
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
pub(crate) struct Answer {
    /// The document.
    pub(crate) root: Node,
    /// AWS's clock.
    pub(crate) cloud_time: Option<Timestamp>,
}

/// Calls AWS with the keys that its source has at that moment. Clones are handles of the same.
#[derive(Clone)]
pub(crate) struct Api {
    http: HttpClient,
    source: Arc<dyn CredentialSource>,
    endpoint: Option<String>,
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Api").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

impl Api {
    /// Calls go to `endpoint` where there is one, else to AWS.
    pub(crate) fn new(http: HttpClient, source: Arc<dyn CredentialSource>, endpoint: Option<String>) -> Self {
        Self { http, source, endpoint }
    }

    /// A call of EC2 or STS.
    ///
    /// # Errors
    ///
    /// As AWS answers; an answer that cannot be read may be one to a call that was done.
    pub(crate) async fn query(&self, region: &str, action: Action, query: &Query) -> Result<Answer, Failure> {
        let body = query.form(action.name(), action.service().version());
        let answer = self.send(region, action, body).await?;
        let cloud_time = cloud_time(answer.headers());
        match Node::parse(answer.body()) {
            Ok(root) => Ok(Answer { root, cloud_time }),
            Err(error) => Err(unreadable(action, error)),
        }
    }

    /// A call of SSM or of the price list.
    ///
    /// # Errors
    ///
    /// As for [`Self::query`].
    pub(crate) async fn json(&self, region: &str, action: Action, body: &Value) -> Result<Value, Failure> {
        let answer = self.send(region, action, body.to_string()).await?;
        serde_json::from_slice(answer.body()).map_err(|error| unreadable(action, error))
    }

    async fn send(&self, region: &str, action: Action, body: String) -> Result<Response<Bytes>, Failure> {
        let (call, service) = (action.name(), action.service());
        let keys = Keys::of(&*self.source.get().await.map_err(Failure::Failed)?).map_err(Failure::Failed)?;
        let request = Request::post(self.url(service, region));
        let request = match service {
            Service::Ec2 | Service::Sts => request.header(CONTENT_TYPE, FORM),
            Service::Ssm => {
                request.header(CONTENT_TYPE, JSON).header("x-amz-target", format!("AmazonSSM.{call}"))
            }
            Service::Pricing => {
                let target = format!("AWSPriceListService.{call}");
                request.header(CONTENT_TYPE, JSON).header("x-amz-target", target)
            }
        };
        let refused = |reason: String| Failure::Failed(ProviderError::Reject { reason });
        let mut request = request.body(Bytes::from(body)).map_err(|error| {
            refused(format!("{call} has no URL that can be called, look at providers.aws.endpoint: {error}"))
        })?;
        let scope = Scope { region, service: service.name(), at: now() };
        sign(&mut request, &keys, scope).map_err(|_| {
            refused(format!("{call} cannot be signed: a key of AWS has characters that no header takes"))
        })?;
        let answer = self.http.send(call, request).await.map_err(Failure::Failed)?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let request = answer.headers().get("x-amzn-requestid").and_then(|id| id.to_str().ok());
        let pause = retry_after(answer.headers(), now());
        let status = answer.status().as_u16();
        debug!(call, region, status, answer = redacted(answer.body()), "refused");
        Err(Failure::Refused(Refusal::read(status, request.unwrap_or_default(), pause, answer.body())))
    }

    fn url(&self, service: Service, region: &str) -> String {
        match &self.endpoint {
            Some(endpoint) => format!("{}/", endpoint.trim_end_matches('/')),
            None => {
                let end = if region.starts_with("cn-") { ".cn" } else { "" };
                let host = if service == Service::Pricing { "api.pricing" } else { service.name() };
                format!("https://{host}.{region}.amazonaws.com{end}/")
            }
        }
    }
}

/// The time of day.
pub(crate) fn now() -> Timestamp {
    Timestamp::from(SystemTime::now())
}

/// An answer that says yes in words that cannot be read.
pub(crate) fn unreadable(action: Action, error: impl std::error::Error + Send + Sync + 'static) -> Failure {
    Failure::Failed(ProviderError::Other { call: action.name(), source: Box::new(error) })
}
