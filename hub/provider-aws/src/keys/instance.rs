//! The role of the machine that the hub runs on, where that is one of EC2.

use std::sync::Arc;

use blueprint_common_types::{Secret, Timestamp};
use blueprint_hub_provider_kit::{CredentialSource, Credentials, HttpClient, Kept};
use blueprint_hub_provision_core::ProviderError;
use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt};
use http::{Method, Request, Response};
use serde::Deserialize;

use super::credentials;
use crate::answer::time;
use crate::api::now;

/// Where a machine of EC2 asks about itself.
const ADDRESS: &str = "http://169.254.169.254";

const ROLES: &str = "/latest/meta-data/iam/security-credentials/";

/// Asks the metadata service, version 2, and again 5 min before what it gave ends.
#[derive(Debug)]
pub struct InstanceRole {
    http: HttpClient,
    address: String,
    kept: Kept<Arc<Credentials>>,
}

/// What the service says of a role.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Role {
    code: String,
    #[serde(default)]
    access_key_id: String,
    #[serde(default)]
    secret_access_key: String,
    #[serde(default)]
    token: String,
    #[serde(default)]
    expiration: String,
}

impl InstanceRole {
    /// The role of this machine; `address` in place of the usual one, for stand-ins and IPv6.
    #[must_use]
    pub fn new(http: HttpClient, address: Option<&str>) -> Self {
        let address = address.unwrap_or(ADDRESS).trim_end_matches('/').to_owned();
        Self { http, address, kept: Kept::default() }
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        token: Option<&Secret<String>>,
    ) -> Result<Response<Bytes>, ProviderError> {
        let request = Request::builder().method(method).uri(format!("{}{path}", self.address));
        let request = match token {
            Some(token) => request.header("x-aws-ec2-metadata-token", token.expose()),
            None => request.header("x-aws-ec2-metadata-token-ttl-seconds", "60"),
        };
        let request =
            request.body(Bytes::new()).map_err(|error| unusable(&format!("cannot be asked: {error}")))?;
        self.http.send("metadata", request).await
    }

    async fn renew(&self) -> Result<(Credentials, Timestamp), ProviderError> {
        let token = self.ask(Method::PUT, "/latest/api/token", None).await?;
        let token = Secret::new(text(&token)?);
        let names = text(&self.ask(Method::GET, ROLES, Some(&token)).await?)?;
        let name = names.lines().next().unwrap_or_default().trim();
        if name.is_empty() {
            return Err(unusable("has no role; attach an instance profile to it, or set AWS_ACCESS_KEY_ID"));
        }
        let role = self.ask(Method::GET, &format!("{ROLES}{name}"), Some(&token)).await?;
        let role: Role =
            serde_json::from_slice(role.body()).map_err(|_| unusable("gave a role that cannot be read"))?;
        match time(Some(&role.expiration)) {
            Some(ends) if role.code == "Success" => {
                let origin = format!("the role {name} of this machine");
                let (secret, token) = (Secret::new(role.secret_access_key), Secret::new(role.token));
                Ok((credentials(&origin, &role.access_key_id, secret.expose(), Some(token.expose())), ends))
            }
            Some(_) | None => Err(unusable(&format!("has no keys for the role {name} ({})", role.code))),
        }
    }
}

impl CredentialSource for InstanceRole {
    fn get(&self) -> BoxFuture<'_, Result<Arc<Credentials>, ProviderError>> {
        async {
            let renew = async || self.renew().await.map(|(role, ends)| (Arc::new(role), ends));
            self.kept.get(now(), None, renew).await
        }
        .boxed()
    }

    fn is_there(&self) -> BoxFuture<'_, bool> {
        self.get().map(|got| got.is_ok()).boxed()
    }
}

fn text(answer: &Response<Bytes>) -> Result<String, ProviderError> {
    if answer.status().is_success() {
        return Ok(String::from_utf8_lossy(answer.body()).into_owned());
    }
    Err(unusable(&format!("answers {}", answer.status().as_u16())))
}

fn unusable(why: &str) -> ProviderError {
    ProviderError::Deny { action: format!("use aws: the metadata service of this machine {why}") }
}
