//! Has the cloud of this machine say who it is: its metadata service, or the token that a cluster gave to a pod.

mod metadata;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use blueprint_common_spoke::{MadeProof, ProofAsk, Prover};
use blueprint_common_types::{ProofKind, Secret};
use futures_util::future::BoxFuture;
use tokio::io::AsyncReadExt;

use metadata::{Question, ask};

/// Longest document of a cloud in bytes; the hub takes no longer one.
const MAX_DOCUMENT: usize = 16 * 1024;

/// How long one cloud may take. Where there is no metadata service at all, this is how long nobody answers.
const WITHIN: Duration = Duration::from_secs(4);

/// Whose word is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProofChoice {
    /// That of the first one that answers.
    Auto,
    /// That of one.
    One(ProofKind),
}

impl FromStr for ProofChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        let one = text.parse().map(Self::One);
        one.map_err(|_| "not one of auto, aws, gcp, azure, kubernetes".to_owned())
    }
}

/// Asks the cloud of this machine.
#[derive(Debug)]
pub(crate) struct CloudProver {
    pub(crate) choice: ProofChoice,
    /// Where the metadata service of clouds is.
    pub(crate) metadata: SocketAddr,
    /// Where a cluster puts the token of a pod.
    pub(crate) token: PathBuf,
}

impl Prover for CloudProver {
    fn prove(&self, wanted: ProofAsk) -> BoxFuture<'_, Result<MadeProof, String>> {
        Box::pin(async move {
            let kinds: Vec<_> = match self.choice {
                ProofChoice::Auto => wanted.kinds.clone(),
                ProofChoice::One(kind) => vec![kind],
            };
            let mut refused = Vec::new();
            for kind in kinds {
                if !wanted.kinds.contains(&kind) {
                    refused.push(format!("{kind}: the hub takes no identity of it"));
                    continue;
                }
                match tokio::time::timeout(WITHIN, self.of(kind, &wanted)).await {
                    Ok(Ok(document)) => return Ok(MadeProof { kind, document }),
                    Ok(Err(why)) => refused.push(format!("{kind}: {why}")),
                    Err(_) => refused.push(format!("{kind}: nobody answered within {} s", WITHIN.as_secs())),
                }
            }
            Err(refused.join("; "))
        })
    }
}

impl CloudProver {
    async fn of(&self, kind: ProofKind, wanted: &ProofAsk) -> Result<Secret<Vec<u8>>, String> {
        let audience = wanted.binding.audience();
        match kind {
            ProofKind::Aws => self.aws().await,
            ProofKind::Gcp => {
                let path = format!(
                    "/computeMetadata/v1/instance/service-accounts/default/identity?audience={audience}&format=full"
                );
                let headers = [("metadata-flavor", Secret::new("Google".to_owned()))];
                self.ask("GET", &path, "metadata.google.internal", &headers).await
            }
            ProofKind::Azure => {
                let path = format!(
                    "/metadata/attested/document?api-version=2020-09-01&nonce={}",
                    wanted.binding.short()
                );
                self.ask("GET", &path, "169.254.169.254", &[("metadata", Secret::new("true".to_owned()))])
                    .await
            }
            ProofKind::Kubernetes => read_token(&self.token).await,
        }
    }

    async fn aws(&self) -> Result<Secret<Vec<u8>>, String> {
        const HOST: &str = "169.254.169.254";
        let life = [("x-aws-ec2-metadata-token-ttl-seconds", Secret::new("60".to_owned()))];
        let token = self.ask("PUT", "/latest/api/token", HOST, &life).await?;
        let token =
            String::from_utf8(token.expose().clone()).map_err(|_| "its token is no text".to_owned())?;
        let headers = [("x-aws-ec2-metadata-token", Secret::new(token))];
        self.ask("GET", "/latest/dynamic/instance-identity/rsa2048", HOST, &headers).await
    }

    async fn ask(
        &self,
        method: &str,
        path: &str,
        host: &str,
        headers: &[(&'static str, Secret<String>)],
    ) -> Result<Secret<Vec<u8>>, String> {
        let question = Question { method, path, host, headers };
        ask(self.metadata, question, MAX_DOCUMENT).await.map(Secret::new)
    }
}

/// Reads the token of a pod.
async fn read_token(path: &Path) -> Result<Secret<Vec<u8>>, String> {
    let named = |error: std::io::Error| format!("cannot read {}: {error}", path.display());
    let file = tokio::fs::File::open(path).await.map_err(named)?;
    let mut text = Vec::new();
    let most = u64::try_from(MAX_DOCUMENT).unwrap_or(u64::MAX).saturating_add(1);
    file.take(most).read_to_end(&mut text).await.map_err(named)?;
    if text.is_empty() || text.len() > MAX_DOCUMENT {
        return Err(format!("{} holds no token", path.display()));
    }
    Ok(Secret::new(text))
}

#[cfg(test)]
mod tests;
