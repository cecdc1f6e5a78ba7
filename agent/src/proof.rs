//! Has the cloud of this machine say who it is: its metadata service, or the token that a cluster gave to a pod.

mod metadata;
mod sts;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use blueprint_common_spoke::{MadeProof, ProofAsk, Prover};
use blueprint_common_types::{ProofKind, Secret, Timestamp};
use futures_util::future::BoxFuture;
use tokio::io::AsyncReadExt;

use metadata::{Question, ask};
pub(crate) use sts::StsPlace;
use sts::{RoleKeys, web_identity};

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
        one.map_err(|_| "not one of auto, aws, aws-sts, gcp, azure, kubernetes".to_owned())
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
    /// Where AWS gives tokens; `None` for the service of the machine's region.
    pub(crate) sts: Option<StsPlace>,
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
            ProofKind::Aws => self.aws("/latest/dynamic/instance-identity/rsa2048").await,
            ProofKind::AwsSts => self.aws_sts(&audience).await,
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

    /// A token of the role that this machine has.
    async fn aws_sts(&self, audience: &str) -> Result<Secret<Vec<u8>>, String> {
        const ROLES: &str = "/latest/meta-data/iam/security-credentials/";
        let is_word = |text: &str| {
            let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"+=,.@-_".contains(&byte);
            (1..=128).contains(&text.len()) && text.bytes().all(is_plain)
        };
        let word = async |path: &str| {
            let text = self.aws(path).await?;
            let text = String::from_utf8_lossy(text.expose()).trim().to_owned();
            Some(text).filter(|text| is_word(text)).ok_or_else(|| format!("{path} holds no name"))
        };
        let role = word(ROLES).await.map_err(|why| format!("this machine has no role: {why}"))?;
        let region = word("/latest/meta-data/placement/region").await?;
        let keys = RoleKeys::read(self.aws(&format!("{ROLES}{role}")).await?.expose())?;
        let now = Timestamp::from(SystemTime::now());
        web_identity(&keys, (&region, self.sts.as_ref()), audience, now).await
    }

    async fn aws(&self, path: &str) -> Result<Secret<Vec<u8>>, String> {
        const HOST: &str = "169.254.169.254";
        let life = [("x-aws-ec2-metadata-token-ttl-seconds", Secret::new("60".to_owned()))];
        let token = self.ask("PUT", "/latest/api/token", HOST, &life).await?;
        let token =
            String::from_utf8(token.expose().clone()).map_err(|_| "its token is no text".to_owned())?;
        let headers = [("x-aws-ec2-metadata-token", Secret::new(token))];
        self.ask("GET", path, HOST, &headers).await
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
