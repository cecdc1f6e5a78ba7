//! Joining by what a cloud says of this machine, in place of a token.

use std::fmt;

use blueprint_common_runtime::state::StateDir;
use blueprint_common_tunnel::carrier::ProxyUrl;
use blueprint_common_types::{HubLine, JoinToken, ProofBinding, ProofKind, Secret};
use blueprint_proto::v1;
use futures_util::future::BoxFuture;
use tokio::time::timeout;

use crate::identity::Identity;
use crate::join::{CALL_TIMEOUT, CallError, JoinError, Joining};

/// What a hub wants to be proved.
#[derive(Debug, Clone)]
pub struct ProofAsk {
    /// What the proof is made for: the hub's challenge, and the keys of this machine.
    pub binding: ProofBinding,
    /// Whose proofs the hub takes.
    pub kinds: Vec<ProofKind>,
}

/// What a cloud said of this machine.
#[derive(Debug)]
pub struct MadeProof {
    /// Which cloud.
    pub kind: ProofKind,
    /// Its document or token, as it came.
    pub document: Secret<Vec<u8>>,
}

/// Has a cloud say who this machine is.
pub trait Prover: fmt::Debug + Send + Sync {
    /// Makes a proof of one of the kinds; the error says why there is none.
    fn prove(&self, ask: ProofAsk) -> BoxFuture<'_, Result<MadeProof, String>>;
}

/// What joining by an identity needs.
#[derive(Debug)]
pub struct ProofOptions {
    /// Where the hub is and how to know it.
    pub hub: HubLine,
    /// What to join with where the identity is not proved or not taken.
    pub token: Option<JoinToken>,
    /// Has a cloud say who this machine is.
    pub prover: Box<dyn Prover>,
    /// Name for people; the host name where `None`.
    pub name: Option<String>,
    /// Where the identity is stored.
    pub state: StateDir,
    /// HTTP proxy on the way to the hub.
    pub proxy: Option<ProxyUrl>,
}

/// A machine that joined.
#[derive(Debug)]
pub struct Joined {
    /// What it is from now on.
    pub identity: Identity,
    /// Why it took the token, where it did.
    pub fell_back: Option<String>,
}

/// Joins a hub by this machine's identity, or with the token where that does not work; as [`join`](fn@crate::join) otherwise.
///
/// # Errors
///
/// Each variant of [`JoinError`] says its case. With a token, only what the hub said of that.
///
/// # Cancel safety
///
/// Dropping it may leave the identity, or the token, spent.
pub async fn join_proven(options: ProofOptions) -> Result<Joined, JoinError> {
    let ProofOptions { hub, token, prover, name, state, proxy } = options;
    let joining = Joining::new(hub, name, state, proxy)?;
    let refused = match by_proof(&joining, prover.as_ref()).await {
        Ok(identity) => return Ok(Joined { identity, fell_back: None }),
        Err(error) => error,
    };
    let may_be_asked_again = refused.is_transient() || matches!(refused, JoinError::Identity(_));
    let Some(token) = token.filter(|_| !may_be_asked_again) else { return Err(refused) };
    let identity = joining.join(joining.with_token(&token)).await?;
    Ok(Joined { identity, fell_back: Some(refused.to_string()) })
}

async fn by_proof(joining: &Joining, prover: &dyn Prover) -> Result<Identity, JoinError> {
    // The hub gives a stranger's connection ten seconds, and a metadata service may take some of them: two connections.
    let mut client = joining.client().await?;
    let asked = timeout(CALL_TIMEOUT, client.challenge(v1::ChallengeRequest {})).await;
    let challenge = asked.map_err(|_| CallError::TimedOut)?.map_err(CallError::from)?.into_inner();
    drop(client);
    let key = joining.wireguard_key.public_key();
    let binding = ProofBinding::new(joining.hub.pin, &challenge.nonce, &joining.request, &key);
    // A kind of a later version is not one that could be proved.
    let kinds = challenge.kinds.iter().filter_map(|kind| kind.parse().ok()).collect();
    let proof = prover.prove(ProofAsk { binding, kinds }).await.map_err(JoinError::Proof)?;
    let proof = v1::IdentityProof {
        kind: proof.kind.to_string(),
        nonce: challenge.nonce,
        document: proof.document.expose().clone(),
    };
    joining.join(v1::JoinRequest { proof: Some(proof), ..joining.message() }).await
}
