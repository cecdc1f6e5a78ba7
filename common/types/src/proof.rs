//! How a machine of a cloud proves to a hub who it is, in place of a token.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};

use crate::{CaPin, TokenId, WgPublicKey};

/// A text is not the name of a kind of proof.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no kind of identity: aws, aws-sts, gcp, azure or kubernetes was expected")]
pub struct ParseProofKindError(String);

/// Who vouches for a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProofKind {
    /// Amazon EC2: the signed instance identity document.
    Aws,
    /// Amazon EC2 by the web identity token of its Security Token Service, for the machine's role.
    AwsSts,
    /// Google Compute Engine: the instance identity token.
    Gcp,
    /// Azure: the attested document of the metadata service.
    Azure,
    /// Kubernetes: a projected token of a service account.
    Kubernetes,
}

impl ProofKind {
    /// Every kind there is.
    pub const ALL: [Self; 5] = [Self::Aws, Self::AwsSts, Self::Gcp, Self::Azure, Self::Kubernetes];

    /// Its name on the wire, in the store and in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Aws => "aws",
            Self::AwsSts => "aws-sts",
            Self::Gcp => "gcp",
            Self::Azure => "azure",
            Self::Kubernetes => "kubernetes",
        }
    }
}

/// What stands in place of a token's id for a machine that joins by its identity: the same for the same machine.
#[must_use]
pub fn identity_id(kind: ProofKind, account: &str, instance: &str) -> TokenId {
    let digest = Sha256::new()
        .chain_update(kind.name())
        .chain_update(Sha256::digest(account))
        .chain_update(Sha256::digest(instance))
        .finalize();
    let mut bytes = [0; 8];
    bytes.iter_mut().zip(digest).for_each(|(byte, from)| *byte = from);
    TokenId::from_bytes(bytes)
}

impl fmt::Display for ProofKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for ProofKind {
    type Err = ParseProofKindError;

    fn from_str(text: &str) -> Result<Self, ParseProofKindError> {
        let found = Self::ALL.into_iter().find(|kind| kind.name() == text);
        found.ok_or_else(|| ParseProofKindError(text.chars().take(32).collect()))
    }
}

/// What a proof is made for: one challenge of one hub, and the keys of one machine.
///
/// A cloud signs it where it can. So a proof that somebody else sees buys nothing: only who has these keys can use
/// what the hub gives for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProofBinding(String);

impl ProofBinding {
    /// Binds `nonce`, which the hub with `pin` gave, to a certificate request (DER) and a key of the tunnel.
    #[must_use]
    pub fn new(pin: CaPin, nonce: &[u8], certificate_request: &[u8], key: &WgPublicKey) -> Self {
        let digest = Sha256::new()
            .chain_update(b"blueprint-hub join by identity\0")
            .chain_update(Sha256::digest(pin.to_string()))
            .chain_update(Sha256::digest(nonce))
            .chain_update(Sha256::digest(certificate_request))
            .chain_update(key.as_bytes())
            .finalize();
        Self(digest.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// The audience of a token that is made for it.
    #[must_use]
    pub fn audience(&self) -> String {
        format!("blueprint-hub/{}", self.0)
    }

    /// 32 hexadecimal digits for where a cloud signs a short text: Azure takes no more.
    #[must_use]
    pub fn short(&self) -> &str {
        self.0.get(..32).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_survive_their_text_form() {
        for kind in ProofKind::ALL {
            assert_eq!(kind.to_string().parse(), Ok(kind));
        }
        assert!("".parse::<ProofKind>().is_err());
    }

    #[test]
    fn a_binding_is_of_all_its_parts() {
        let (pin, other) = (CaPin::of_spki(b"one"), CaPin::of_spki(b"other"));
        let [key, stolen] = [1, 2].map(|byte| WgPublicKey::from_bytes([byte; 32]));
        let good = ProofBinding::new(pin, b"nonce", b"request", &key);
        assert_eq!(good, ProofBinding::new(pin, b"nonce", b"request", &key));
        for wrong in [
            ProofBinding::new(other, b"nonce", b"request", &key),
            ProofBinding::new(pin, b"noncer", b"equest", &key),
            ProofBinding::new(pin, b"nonce", b"requesT", &key),
            ProofBinding::new(pin, b"nonce", b"request", &stolen),
        ] {
            assert_ne!(good, wrong);
        }
        assert_eq!(good.short().len(), 32);
        assert!(good.audience().ends_with(&good.0) && good.audience().contains(good.short()));
    }
}
