//! Kubernetes: a projected token of a service account, about which the cluster itself is asked (`TokenReview`).
//!
//! The cluster says whether it is good, for whom it was made, and of which pod it is. What the token claims is read only to
//! leave the cluster alone about one that cannot be good.

use std::collections::BTreeMap;

use blueprint_common_types::{ProofKind, Secret};
use serde::Deserialize;
use serde_json::json;

use crate::jwt::{Audience, unverified};
use crate::{Allowed, MAX_DOCUMENT, Machine, ProofRefusal, plain};

/// Where a cluster is asked.
pub const REVIEWS: &str = "/apis/authentication.k8s.io/v1/tokenreviews";

/// Name of the extra field with the pod's id.
const POD: &str = "authentication.kubernetes.io/pod-uid";

/// What the name of a service account starts with.
const ACCOUNT: &str = "system:serviceaccount:";

/// Whose pods are let in.
#[derive(Debug, Clone)]
pub struct KubernetesRules {
    /// Service accounts, such as `blueprint:agent`.
    pub service_accounts: Allowed,
    /// The audience that their tokens are made for.
    pub audience: String,
}

#[derive(Deserialize)]
struct Review {
    kind: String,
    status: Option<Status>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    #[serde(default)]
    authenticated: bool,
    #[serde(default)]
    audiences: Vec<String>,
    user: Option<User>,
}

#[derive(Deserialize)]
struct User {
    #[serde(default)]
    username: String,
    #[serde(default)]
    extra: BTreeMap<String, Vec<String>>,
}

/// What a token claims to be.
#[derive(Deserialize)]
struct Claims {
    #[serde(default)]
    iss: String,
    #[serde(default)]
    sub: String,
    aud: Option<Audience>,
}

/// Refuses a token whose claims, which anybody may have written, say already that it is none of those that are let in.
fn check_claims(text: &str, rules: &KubernetesRules) -> Result<(), ProofRefusal> {
    let Claims { iss, sub, aud } = unverified(text)?;
    if iss.is_empty() {
        return Err(ProofRefusal::Issuer);
    }
    if !aud.is_some_and(|aud| aud.has(&rules.audience)) {
        return Err(ProofRefusal::Audience);
    }
    let account = sub.strip_prefix(ACCOUNT).ok_or(ProofRefusal::Incomplete("a service account"))?;
    rules.service_accounts.check("service account", account)
}

/// What a cluster is asked about a token.
///
/// # Errors
///
/// Where it cannot be a token at all, or does not claim to be one that is let in.
pub fn request(token: &[u8], rules: &KubernetesRules) -> Result<Secret<String>, ProofRefusal> {
    let malformed = ProofRefusal::Malformed("not a token of a service account");
    let text = std::str::from_utf8(token).map_err(|_| malformed.clone())?.trim();
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if text.is_empty() || text.len() > MAX_DOCUMENT || !text.bytes().all(is_token) {
        return Err(malformed);
    }
    check_claims(text, rules)?;
    let review = json!({
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenReview",
        "spec": { "token": text, "audiences": [rules.audience] },
    });
    Ok(Secret::new(review.to_string()))
}

/// Reads what the cluster answered.
///
/// # Errors
///
/// Where the cluster does not vouch for the token, for the audience, or for a pod, or no rule names its service account.
pub fn verify(answer: &[u8], rules: &KubernetesRules) -> Result<Machine, ProofRefusal> {
    let review: Review = serde_json::from_slice(answer)
        .map_err(|_| ProofRefusal::Malformed("the cluster answered with no TokenReview"))?;
    let status = review.status.filter(|_| review.kind == "TokenReview");
    let status = status.ok_or(ProofRefusal::Malformed("the cluster answered with no TokenReview"))?;
    if !status.authenticated {
        return Err(ProofRefusal::Signature);
    }
    if !status.audiences.contains(&rules.audience) {
        return Err(ProofRefusal::Audience);
    }
    let user = status.user.ok_or(ProofRefusal::Incomplete("whose it is"))?;
    let account = user.username.strip_prefix(ACCOUNT);
    let account = account.ok_or(ProofRefusal::Incomplete("a service account"))?;
    rules.service_accounts.check("service account", account)?;
    let pod = match user.extra.get(POD).map(Vec::as_slice) {
        Some([pod]) => Some(pod.clone()),
        Some(_) | None => None,
    };
    let instance = plain(pod, "its pod (the token has to be bound to one)")?;
    let account = plain(Some(account.to_owned()), "its service account")?;
    Ok(Machine {
        kind: ProofKind::Kubernetes,
        account,
        region: String::new(),
        instance,
        provider_ids: Vec::new(),
    })
}
