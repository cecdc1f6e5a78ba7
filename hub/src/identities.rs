//! Machines that join by what a cloud says of them: rules of the configuration, keys of issuers, and a cluster that is asked.
//!
//! `hub/identity-core` decides; this fetches what it needs to. A challenge is used up once its proof is good.

mod certificates;
mod issuer;
mod ordered;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Context, Result};
use blueprint_common_runtime::tasks::{Spawner, Supervisor};
use blueprint_common_types::{CaPin, ProofBinding, ProofKind, Secret, Timestamp};
use blueprint_hub_identity_core::aws::{self, AwsRules};
use blueprint_hub_identity_core::azure::{self, AzureRules};
use blueprint_hub_identity_core::gcp::{self, GcpRules};
use blueprint_hub_identity_core::kubernetes::{self, KubernetesRules};
use blueprint_hub_identity_core::sts::{self, StsRules};
use blueprint_hub_identity_core::{Challenges, Machine, ProofRefusal, key_named};
use blueprint_hub_provider_kit::{HttpClient, HttpConfig};
use blueprint_hub_proxy_core::identity::JwksUrl;
use blueprint_hub_registry::{Identities, Proof, ProofFailure};
use blueprint_hub_registry_core::{CloudIdentity, ServiceGrant};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::Request;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use parking_lot::Mutex;

use crate::config::{AwsIdentity, GcpIdentity, IdentitySettings, KubernetesIdentity};
use crate::provision::Clouds;
use issuer::IssuerKeys;

pub(crate) use ordered::OrderedMachines;

/// Longest answer of a host that is asked about identities, in bytes.
const MAX_ANSWER: usize = 256 * 1024;

/// Times for the name, the connection and TLS, each, and for the answer; all of it is within one join.
const WITHIN: (std::time::Duration, std::time::Duration) =
    (std::time::Duration::from_secs(2), std::time::Duration::from_secs(4));

/// Checks what clouds say of machines.
pub(crate) struct CloudIdentities {
    pin: CaPin,
    challenges: Mutex<Challenges>,
    aws: Option<AwsRules>,
    /// Keys by their issuers.
    sts: Option<(StsRules, BTreeMap<String, IssuerKeys>)>,
    gcp: Option<(GcpRules, IssuerKeys)>,
    azure: Option<AzureRules>,
    kubernetes: Option<Cluster>,
    unordered: Vec<ProofKind>,
    services: ServiceGrant,
    ordered: Arc<OrderedMachines>,
}

/// A cluster that is asked about tokens of its pods.
struct Cluster {
    rules: KubernetesRules,
    settings: KubernetesIdentity,
    http: HttpClient,
}

impl CloudIdentities {
    /// Reads the certificates that the configuration names; asks nobody.
    ///
    /// # Errors
    ///
    /// Where a file cannot be read or holds none, or there is no randomness.
    pub(crate) fn new(
        settings: &IdentitySettings,
        pin: CaPin,
        ordered: Arc<OrderedMachines>,
        spawner: Spawner,
    ) -> Result<Self> {
        let mut key = [0; 32];
        blueprint_common_types::fill_random(&mut key).context("no randomness for challenges")?;
        let client = |extra_roots: Option<PathBuf>| {
            HttpClient::new(HttpConfig {
                extra_roots,
                max_body: MAX_ANSWER,
                connect_within: WITHIN.0,
                answer_within: WITHIN.1,
                ..HttpConfig::default()
            })
            .context("cannot ask about identities (join.identity.ca)")
        };
        let aws = settings.aws.as_ref().map(certificates::of_aws).transpose()?.flatten();
        let sts = settings.aws.as_ref().filter(|own| !own.issuers.is_empty());
        let sts = sts.map(|own| of_sts(own, settings.ca.as_ref(), client, &spawner)).transpose()?;
        let azure = settings.azure.as_ref().map(certificates::of_azure).transpose()?;
        let gcp = settings.gcp.as_ref().map(|gcp| {
            let http = client(settings.ca.clone().filter(|_| !are_googles(&gcp.keys)))?;
            Ok::<_, anyhow::Error>(of_google(gcp, http, spawner.clone()))
        });
        let gcp = gcp.transpose()?;
        let http = client(settings.ca.clone())?;
        let kubernetes = settings.kubernetes.clone().map(|settings| {
            let rules = KubernetesRules {
                service_accounts: settings.accounts.clone(),
                audience: settings.audience.clone(),
            };
            Cluster { rules, settings, http }
        });
        Ok(Self {
            pin,
            challenges: Mutex::new(Challenges::new(&Secret::new(key))),
            aws,
            sts,
            gcp,
            azure,
            kubernetes,
            unordered: settings.unordered.clone(),
            services: settings.services.clone(),
            ordered,
        })
    }

    async fn machine(&self, proof: &Proof, now: Timestamp) -> Result<Machine, ProofFailure> {
        let document = proof.document.expose();
        let binding = ProofBinding::new(self.pin, &proof.nonce, &proof.certificate_request, &proof.key);
        let off = || ProofFailure::Refused(ProofRefusal::Off(proof.kind.to_string()));
        match proof.kind {
            ProofKind::Aws => Ok(aws::verify(document, self.aws.as_ref().ok_or_else(off)?, now)?),
            ProofKind::AwsSts => {
                let (rules, keys) = self.sts.as_ref().ok_or_else(off)?;
                let text = text_of(document)?;
                let issuer = sts::issuer_named(text, rules)?;
                let keys = keys.get(&issuer).ok_or(ProofRefusal::Issuer)?;
                let keys = keys.named(&key_named(text)?).await.map_err(ProofFailure::Unavailable)?;
                Ok(sts::verify(text, rules, (&issuer, &keys), &binding, now)?)
            }
            ProofKind::Azure => {
                Ok(azure::verify(document, self.azure.as_ref().ok_or_else(off)?, &binding, now)?)
            }
            ProofKind::Gcp => {
                let (rules, keys) = self.gcp.as_ref().ok_or_else(off)?;
                let text = text_of(document)?;
                let keys = keys.named(&key_named(text)?).await.map_err(ProofFailure::Unavailable)?;
                Ok(gcp::verify(text, rules, &keys, &binding, now)?)
            }
            ProofKind::Kubernetes => self.kubernetes.as_ref().ok_or_else(off)?.ask(document).await,
        }
    }
}

impl Identities for CloudIdentities {
    fn kinds(&self) -> Vec<ProofKind> {
        let on = [
            (ProofKind::Kubernetes, self.kubernetes.is_some()),
            // Before the document, which has no end.
            (ProofKind::AwsSts, self.sts.is_some()),
            (ProofKind::Aws, self.aws.is_some()),
            (ProofKind::Gcp, self.gcp.is_some()),
            (ProofKind::Azure, self.azure.is_some()),
        ];
        on.into_iter().filter_map(|(kind, is_on)| is_on.then_some(kind)).collect()
    }

    fn challenge(&self) -> Option<Vec<u8>> {
        let mut random = [0; 16];
        blueprint_common_types::fill_random(&mut random).ok()?;
        Some(self.challenges.lock().issue(random, Timestamp::from(SystemTime::now())))
    }

    fn check(&self, proof: Proof) -> BoxFuture<'_, Result<CloudIdentity, ProofFailure>> {
        Box::pin(async move {
            let now = Timestamp::from(SystemTime::now());
            self.challenges.lock().check(&proof.nonce, now)?;
            let machine = self.machine(&proof, now).await?;
            let unordered = self.unordered.contains(&machine.kind).then(|| self.services.clone());
            let identity = CloudIdentity {
                kind: machine.kind,
                account: machine.account.clone(),
                instance: machine.instance.clone(),
                provider_ids: machine.provider_ids.clone(),
                unordered,
            };
            self.challenges.lock().use_up(&proof.nonce, &identity.to_string(), now)?;
            if machine.kind != ProofKind::Azure {
                return Ok(identity);
            }
            // With a challenge used up, so that nobody has the hub ask without end.
            let provider_ids = self.ordered.provider_ids(&proof.name, &machine).await;
            let provider_ids = provider_ids.map_err(ProofFailure::Unavailable)?;
            Ok(CloudIdentity { provider_ids, ..identity })
        })
    }
}

impl Cluster {
    async fn ask(&self, token: &[u8]) -> Result<Machine, ProofFailure> {
        let body = kubernetes::request(token, &self.rules)?;
        let path = &self.settings.token;
        let own = tokio::fs::read_to_string(path).await.map(Secret::new);
        let own = own.map_err(|error| {
            ProofFailure::Unavailable(format!("join.identity.kubernetes_token {}: {error}", path.display()))
        })?;
        let bearer = HeaderValue::from_str(&format!("Bearer {}", own.expose().trim()));
        let mut bearer = bearer.map_err(|_| {
            ProofFailure::Unavailable(format!(
                "join.identity.kubernetes_token {} holds no token",
                path.display()
            ))
        })?;
        bearer.set_sensitive(true);
        let request = Request::post(format!("{}{}", self.settings.api, kubernetes::REVIEWS))
            .header(AUTHORIZATION, bearer)
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, "application/json")
            .body(Bytes::from(body.expose().clone()));
        let request = request.map_err(|error| ProofFailure::Unavailable(error.to_string()))?;
        let answer = self.http.send("TokenReview", request).await;
        let answer = answer.map_err(|error| ProofFailure::Unavailable(error.line()))?;
        if !answer.status().is_success() {
            let why = format!("the cluster answered {} to a TokenReview", answer.status().as_u16());
            return Err(ProofFailure::Unavailable(why));
        }
        Ok(kubernetes::verify(answer.body(), &self.rules)?)
    }
}

fn text_of(token: &[u8]) -> Result<&str, ProofRefusal> {
    Ok(std::str::from_utf8(token).map_err(|_| ProofRefusal::Malformed("not a JWT"))?.trim())
}

/// What the hosts of AWS's issuers end with: authorities of a cluster have no say in what their keys are.
const OF_AWS: [&str; 2] = [".api.aws", ".amazonaws.com"];

/// The rules for tokens of AWS, and where the keys of each issuer come from.
fn of_sts(
    settings: &AwsIdentity,
    ca: Option<&PathBuf>,
    client: impl Fn(Option<PathBuf>) -> Result<HttpClient>,
    spawner: &Spawner,
) -> Result<(StsRules, BTreeMap<String, IssuerKeys>)> {
    let mut keys = BTreeMap::new();
    for (issuer, url) in &settings.issuers {
        let is_of_aws = OF_AWS.iter().any(|end| url.host().ends_with(end));
        let http = client(ca.cloned().filter(|_| !is_of_aws))?;
        keys.insert(issuer.clone(), IssuerKeys::new(url.clone(), http, spawner.clone()));
    }
    let rules = StsRules {
        issuers: settings.issuers.keys().cloned().collect(),
        accounts: settings.accounts.clone(),
        regions: settings.regions.clone(),
    };
    Ok((rules, keys))
}

/// True for the URL of Google itself: authorities of a cluster have no say in what its keys are.
fn are_googles(keys: &JwksUrl) -> bool {
    JwksUrl::parse(gcp::KEYS).is_ok_and(|googles| googles == *keys)
}

/// The rules for Google Cloud, and where its keys come from.
fn of_google(settings: &GcpIdentity, http: HttpClient, spawner: Spawner) -> (GcpRules, IssuerKeys) {
    let rules = GcpRules {
        projects: settings.projects.clone(),
        regions: settings.regions.clone(),
        service_accounts: settings.service_accounts.clone(),
    };
    (rules, IssuerKeys::new(settings.keys.clone(), http, spawner))
}

/// What the control plane needs, of this configuration.
///
/// # Errors
///
/// As [`CloudIdentities::new`].
pub(crate) fn start(
    settings: &IdentitySettings,
    pin: CaPin,
    clouds: &Clouds,
    supervisor: &Supervisor,
) -> Result<Arc<dyn Identities>> {
    let (ordered, spawner) = (clouds.ordered(), supervisor.child_spawner());
    Ok(Arc::new(CloudIdentities::new(settings, pin, ordered, spawner)?))
}

#[cfg(test)]
mod tests;
