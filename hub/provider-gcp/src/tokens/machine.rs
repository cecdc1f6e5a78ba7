//! The service account of the machine that the hub runs on, where that is one of Google's.

use std::sync::Arc;

use blueprint_common_types::Secret;
use blueprint_hub_provider_kit::{CredentialSource, Credentials, HttpClient};
use blueprint_hub_provision_core::ProviderError;
use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt};
use http::{Request, Response};
use serde::Deserialize;

use super::unusable;

/// Where a machine of Google asks about itself; the name `metadata.google.internal` is this address.
const ADDRESS: &str = "http://169.254.169.254";

const PROJECT: &str = "/computeMetadata/v1/project/project-id";
const TOKEN: &str = "/computeMetadata/v1/instance/service-accounts/default/token";

/// Says in both directions that it is Google that is asked: others answer at that address, too.
const FLAVOR: (&str, &str) = ("metadata-flavor", "Google");

/// Asks the metadata service for project and token at each call: it keeps tokens itself, until 5 min before they end.
#[derive(Debug)]
pub struct MachineAccount {
    http: HttpClient,
    address: String,
}

#[derive(Deserialize)]
struct Token {
    access_token: String,
}

impl MachineAccount {
    /// The account of this machine; `address` in place of the usual one, for stand-ins.
    #[must_use]
    pub fn new(http: HttpClient, address: Option<&str>) -> Self {
        let address = address.unwrap_or(ADDRESS).trim_end_matches('/').to_owned();
        Self { http, address }
    }

    async fn ask(&self, path: &str) -> Result<Response<Bytes>, ProviderError> {
        let request = Request::get(format!("{}{path}", self.address)).header(FLAVOR.0, FLAVOR.1);
        let request = request.body(Bytes::new()).map_err(|_| {
            unusable("the metadata service of this machine has no URL; look at GCE_METADATA_HOST")
        })?;
        let answer = self.http.send("metadata", request).await?;
        let is_google =
            answer.headers().get(FLAVOR.0).is_some_and(|value| value.as_bytes() == FLAVOR.1.as_bytes());
        if !is_google {
            return Err(unusable("the metadata service of this machine is not Google's"));
        }
        match answer.status().as_u16() {
            200 => Ok(answer),
            404 => Err(unusable(
                "this machine has no service account; attach one, or set GCP_PROJECT_ID and a key",
            )),
            status => Err(ProviderError::Busy { reason: format!("the metadata service answers {status}") }),
        }
    }

    async fn read(&self) -> Result<Arc<Credentials>, ProviderError> {
        let project = self.ask(PROJECT).await?;
        let project = String::from_utf8_lossy(project.body()).trim().to_owned();
        let token = self.ask(TOKEN).await?;
        let token: Token = serde_json::from_slice(token.body())
            .map_err(|_| unusable("the metadata service of this machine gives what is no token"))?;
        let field = |name: &str, value: String| (name.to_owned(), Secret::new(value));
        let fields = [field("project_id", project), field("access_token", token.access_token)];
        Ok(Arc::new(Credentials::new("the service account of this machine", fields)))
    }
}

impl CredentialSource for MachineAccount {
    fn get(&self) -> BoxFuture<'_, Result<Arc<Credentials>, ProviderError>> {
        self.read().boxed()
    }

    fn is_there(&self) -> BoxFuture<'_, bool> {
        async { self.ask(PROJECT).await.is_ok() }.boxed()
    }
}
