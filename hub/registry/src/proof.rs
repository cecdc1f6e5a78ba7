//! Proofs of clouds, as the control plane needs them: who checks them is the binary's to say.

use blueprint_common_types::{ProofKind, Secret, WgPublicKey};
use blueprint_hub_identity_core::ProofRefusal;
use blueprint_hub_registry_core::CloudIdentity;
use futures_util::future::BoxFuture;

/// What a machine shows in place of a token.
#[derive(Debug)]
pub struct Proof {
    /// Who vouches.
    pub kind: ProofKind,
    /// The name that the machine gives itself; ordered ones have that of their order.
    pub name: String,
    /// The challenge that it answers.
    pub nonce: Vec<u8>,
    /// The document or token of the cloud.
    pub document: Secret<Vec<u8>>,
    /// The certificate request (DER) that it is bound to.
    pub certificate_request: Vec<u8>,
    /// The key of the tunnel that it is bound to.
    pub key: WgPublicKey,
}

/// Why a proof does not let a machine in.
#[derive(Debug)]
pub enum ProofFailure {
    /// It is refused.
    Refused(ProofRefusal),
    /// It cannot be checked now; says what is missing.
    Unavailable(String),
}

impl From<ProofRefusal> for ProofFailure {
    fn from(refusal: ProofRefusal) -> Self {
        Self::Refused(refusal)
    }
}

/// Gives challenges, and checks proofs.
pub trait Identities: Send + Sync {
    /// What is taken; nothing by default.
    fn kinds(&self) -> Vec<ProofKind>;

    /// A new challenge; `None` where there is no randomness.
    fn challenge(&self) -> Option<Vec<u8>>;

    /// Checks a proof and uses its challenge up.
    fn check(&self, proof: Proof) -> BoxFuture<'_, Result<CloudIdentity, ProofFailure>>;
}
