//! The service account of the machine that the hub runs on, where that is one of Google's.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use blueprint_common_types::Secret;
use blueprint_hub_provider_kit::{CredentialSource, Credentials, HttpClient};
use blueprint_hub_provision_core::ProviderError;
use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt};
use http::{Request, Response};
use serde::Deserialize;

use super::{busy, unusable};

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
    /// Whether Google answered once, so that a machine whose metadata service fails for a moment is not taken for another's.
    is_googles: AtomicBool,
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
        Self { http, address, is_googles: AtomicBool::new(false) }
    }

    async fn ask(&self, path: &str) -> Result<Response<Bytes>, ProviderError> {
        let request = Request::get(format!("{}{path}", self.address)).header(FLAVOR.0, FLAVOR.1);
        let request = request.body(Bytes::new()).map_err(|_| {
            unusable("the metadata service of this machine has no URL; look at GCE_METADATA_HOST")
        })?;
        let answer = match self.http.send("metadata", request).await {
            Err(error @ ProviderError::Unsent { .. }) => return Err(error),
            // Whatever became of it, asking changes nothing.
            Err(error) => return Err(busy(&error.line())),
            Ok(answer) => answer,
        };
        let is_google =
            answer.headers().get(FLAVOR.0).is_some_and(|value| value.as_bytes() == FLAVOR.1.as_bytes());
        if !is_google {
            return Err(unusable("the metadata service of this machine is not Google's"));
        }
        self.is_googles.store(true, Ordering::Relaxed);
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
        async { self.ask(PROJECT).await.is_ok() || self.is_googles.load(Ordering::Relaxed) }.boxed()
    }
}

#[cfg(test)]
mod tests {
    use blueprint_hub_provider_kit::HttpConfig;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// Asks a metadata service that gives these answers, one for each connection; gives what became of it, and what was asked.
    async fn asked(answers: &[String]) -> (Result<Arc<Credentials>, ProviderError>, Vec<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let account =
            MachineAccount::new(HttpClient::new(HttpConfig::default()).unwrap(), Some(address.as_str()));
        let served = async {
            let mut heads = Vec::new();
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut head = vec![0; 4096];
                let length = stream.read(&mut head).await.unwrap();
                heads.push(String::from_utf8_lossy(&head[..length]).into_owned());
                stream.write_all(answer.as_bytes()).await.unwrap();
                stream.shutdown().await.unwrap();
            }
            heads
        };
        tokio::join!(account.get(), served)
    }

    fn answer(status: u16, flavor: &str, body: &str) -> String {
        let length = body.len();
        format!("HTTP/1.1 {status} x\r\nMetadata-Flavor: {flavor}\r\ncontent-length: {length}\r\n\r\n{body}")
    }

    #[tokio::test]
    async fn project_and_token_are_those_of_the_machine() {
        let token = r#"{"access_token":"canary","expires_in":3599,"token_type":"Bearer"}"#;
        let (got, heads) = asked(&[answer(200, "Google", "p-1\n"), answer(200, "Google", token)]).await;
        let got = got.unwrap();
        assert_eq!(got.require("project_id").unwrap().expose(), "p-1");
        assert_eq!(got.require("access_token").unwrap().expose(), "canary");
        assert!(!format!("{got:?}").contains("canary"));
        assert!(heads.iter().all(|head| head.contains("metadata-flavor: Google")), "{heads:?}");
        assert!(heads[1].starts_with("GET /computeMetadata/v1/instance/service-accounts/default/token "));
    }

    #[tokio::test]
    async fn who_answered_once_is_there_also_while_it_does_not() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let account =
            MachineAccount::new(HttpClient::new(HttpConfig::default()).unwrap(), Some(address.as_str()));
        let served = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = vec![0; 4096];
            let _ = stream.read(&mut head).await.unwrap();
            stream.write_all(answer(200, "Google", "p-1").as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
            drop(listener);
        };
        let (is_there, ()) = tokio::join!(account.is_there(), served);
        assert!(is_there && account.is_there().await);
        let error = account.get().await.unwrap_err();
        assert!(matches!(error, ProviderError::Unsent { .. } | ProviderError::Busy { .. }), "{error:?}");
        let nobody =
            MachineAccount::new(HttpClient::new(HttpConfig::default()).unwrap(), Some(address.as_str()));
        assert!(!nobody.is_there().await);
    }

    #[tokio::test]
    async fn what_is_not_googles_or_has_no_account_is_told() {
        for (answers, word) in [
            (vec![answer(200, "Other", "p-1")], "is not Google's"),
            (vec![answer(200, "Google", "p-1"), answer(404, "Google", "")], "no service account"),
            (vec![answer(200, "Google", "p-1"), answer(503, "Google", "")], "answers 503"),
            (vec![answer(200, "Google", "p-1"), answer(200, "Google", "canary")], "no token"),
        ] {
            let error = asked(&answers).await.0.unwrap_err().line();
            assert!(error.contains(word) && !error.contains("canary"), "{error}");
        }
    }
}
