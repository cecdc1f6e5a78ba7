//! Where API keys are kept; the proxy makes them and nobody else sees them whole.

use std::collections::BTreeMap;

use blueprint_common_types::{ServiceKey, Timestamp};
use blueprint_hub_proxy_core::NotInForce;
use blueprint_hub_proxy_core::identity::{KeyHash, KeyId, OwnerKey};
use futures_util::future::BoxFuture;

/// Why a key was not kept.
#[derive(Debug, thiserror::Error)]
pub enum KeyStoreError {
    /// The owner has as many live keys of this service as it may have.
    #[error("this owner has {count} live API keys of the service already; let one be revoked first")]
    TooMany {
        /// How many.
        count: usize,
    },
    /// The key is durable, and the proxy does not decide by it yet.
    #[error(transparent)]
    NotInForce(#[from] NotInForce),
    /// The store failed; nothing was kept.
    #[error("the key could not be stored")]
    Failed(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// A key to keep, without its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// Public part.
    pub id: KeyId,
    /// Hash of all of it.
    pub hash: KeyHash,
    /// The service that it opens.
    pub service: ServiceKey,
    /// Who gets it.
    pub owner: OwnerKey,
    /// Headers that go with its requests.
    pub headers: BTreeMap<String, String>,
    /// The hub's time.
    pub created_at: Timestamp,
    /// End of its life.
    pub expires_at: Timestamp,
}

/// Keeps API keys.
pub trait KeyStore: Send + Sync {
    /// Keeps a key; once it resolves the key is durable and the proxy decides by it.
    ///
    /// A key that was being kept is kept also where the future is dropped.
    fn create(&self, key: ApiKey) -> BoxFuture<'_, Result<(), KeyStoreError>>;
}
