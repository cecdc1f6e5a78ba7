//! Whether a cloud vouches for a machine: its documents and tokens, checked against keys, rules and a time that are given.
//!
//! Each kind of proof has a module with one function that gives a [`Machine`] or the [`ProofRefusal`].
//!
//! Invariants:
//! - nothing in a proof is believed before its signature is good, and the signature is of a key that was given;
//! - the algorithm is ours: what a proof says about algorithms can only have it refused;
//! - no account, project, subscription or service account is accepted that no rule names;
//! - bytes of strangers cost no more than [`MAX_DOCUMENT`] of them, and no deep recursion.
//!
//! What it leaves to others: fetching keys and asking clusters (the hub's binary), and that each machine joins once
//! (`hub/store`).

pub mod aws;
pub mod azure;
mod ber;
mod challenge;
mod cms;
mod date;
pub mod gcp;
mod jwt;
pub mod kubernetes;
pub mod sts;

use std::collections::BTreeSet;

use blueprint_common_types::ProofKind;

pub use challenge::{CHALLENGE_LIFE, Challenges, NONCE_BYTES};
pub use jwt::{SignatureKeys, key_named};

/// Longest document or token that is looked at, in bytes. Those of clouds have 1 to 6 KiB.
pub const MAX_DOCUMENT: usize = 16 * 1024;

/// A machine that a cloud vouches for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// Who vouches.
    pub kind: ProofKind,
    /// Account, project, subscription, or namespace.
    pub account: String,
    /// Region; empty where the proof says none.
    pub region: String,
    /// What the cloud calls the machine, for good; unique with kind and account.
    pub instance: String,
    /// How a provider of this hub may call the same machine, the surest first; empty where none can know it.
    pub provider_ids: Vec<String>,
}

/// Why a proof is refused. `Display` is for the hub's log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProofRefusal {
    /// The hub takes no proof of this kind.
    #[error("this hub takes no identity of {0}; join.identity in its configuration says which")]
    Off(String),
    /// The challenge is not of this start of the hub, or over.
    #[error("the challenge is not of this hub, or it is over")]
    Challenge,
    /// The challenge was used.
    #[error("the challenge was used before")]
    Replayed,
    /// More challenges were used lately than can be remembered.
    #[error("too many challenges were used lately")]
    Full,
    /// The document is none; says what is wrong.
    #[error("the document cannot be read: {0}")]
    Malformed(&'static str),
    /// It is signed with something else than what this kind of proof is signed with.
    #[error("the document is not signed as it has to be: {0}")]
    Algorithm(&'static str),
    /// Whoever signed it is not trusted.
    #[error("the signer of the document is not one that this hub trusts: {0}")]
    Signer(&'static str),
    /// The signature is wrong.
    #[error("the signature of the document is wrong")]
    Signature,
    /// It is of another issuer.
    #[error("the token is of another issuer")]
    Issuer,
    /// It is made for somebody else, or for another challenge, or other keys.
    #[error("the document is made for another audience or challenge")]
    Audience,
    /// Its time is over, or still to come.
    #[error("the document is too old, or of a time to come")]
    Times,
    /// What is needed to know the machine is not in it.
    #[error("the document does not say {0}")]
    Incomplete(&'static str),
    /// No rule names the account, project, subscription or service account.
    #[error("{0} is not allowed by join.identity of the hub's configuration")]
    NotAllowed(String),
}

impl ProofRefusal {
    /// Stable code for the wire, audit rows and metric labels.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Off(_) => "identity_off",
            Self::Challenge => "identity_challenge",
            Self::Replayed => "identity_replayed",
            Self::Full => "identity_busy",
            Self::Malformed(_) => "identity_malformed",
            Self::Algorithm(_) => "identity_algorithm",
            Self::Signer(_) => "identity_signer",
            Self::Signature => "identity_signature",
            Self::Issuer => "identity_issuer",
            Self::Audience => "identity_audience",
            Self::Times => "identity_times",
            Self::Incomplete(_) => "identity_incomplete",
            Self::NotAllowed(_) => "identity_not_allowed",
        }
    }
}

/// Values of which a proof has to name one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Allowed(pub BTreeSet<String>);

impl Allowed {
    /// True where nothing is allowed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Refuses what is not in the list.
    fn check(&self, what: &'static str, value: &str) -> Result<(), ProofRefusal> {
        if self.0.contains(value) {
            return Ok(());
        }
        let shown: String = value.chars().filter(|c| c.is_ascii_graphic()).take(96).collect();
        Err(ProofRefusal::NotAllowed(format!("{what} {shown:?}")))
    }

    /// The same, where an empty list is no rule at all.
    fn check_where_named(&self, what: &'static str, value: &str) -> Result<(), ProofRefusal> {
        if self.is_empty() { Ok(()) } else { self.check(what, value) }
    }
}

impl FromIterator<String> for Allowed {
    fn from_iter<I: IntoIterator<Item = String>>(values: I) -> Self {
        Self(values.into_iter().collect())
    }
}

/// A name of a machine or an account as it may be stored and printed: 1 to 128 plain characters.
fn plain(text: Option<String>, what: &'static str) -> Result<String, ProofRefusal> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
    text.filter(|text| (1..=128).contains(&text.len()) && text.bytes().all(is_plain))
        .ok_or(ProofRefusal::Incomplete(what))
}
