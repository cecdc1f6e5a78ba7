//! What the hub keeps of TLS: profiles of services, and the certificates of their clients.

use blueprint_common_types::{ServiceKey, Timestamp};
use futures_util::future::BoxFuture;

use crate::{StoreError, StoreResult};

/// The TLS profile of a service as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsProfileRecord {
    /// Which service.
    pub service: ServiceKey,
    /// JSON; nothing in it is secret.
    pub document: String,
    /// Private keys, sealed by the caller.
    pub sealed: String,
    /// When it was stored.
    pub changed_at: Timestamp,
}

/// A certificate of a client: one that the hub made, or one that it was told to refuse.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificateRecord {
    /// The service that it opens.
    pub service: ServiceKey,
    /// Serial number in hexadecimal, lower case, without zeros in front.
    pub serial: String,
    /// Whom it names; empty for one that the hub did not make.
    pub name: String,
    /// When it was made, or refused first.
    pub created_at: Timestamp,
    /// End of its life, where the hub knows it.
    pub expires_at: Option<Timestamp>,
    /// When it was taken back.
    pub revoked_at: Option<Timestamp>,
}

/// Why a client certificate was not stored.
#[derive(Debug, thiserror::Error)]
pub enum ClientCertificateError {
    /// The service has as many as it may have.
    #[error("the service has {live} live client certificates")]
    TooMany {
        /// How many.
        live: u32,
    },
    /// The store failed; nothing was changed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Durable state of TLS. The contract is that of [`Store`](crate::Store), audit rows included.
pub trait TlsStore: Send + Sync {
    /// Every profile.
    fn list_tls_profiles(&self) -> BoxFuture<'_, StoreResult<Vec<TlsProfileRecord>>>;

    /// Stores a profile in place of the one before; `summary` goes to the audit log.
    fn set_tls_profile(&self, record: TlsProfileRecord, summary: String) -> BoxFuture<'_, StoreResult<()>>;

    /// Forgets the profile of a service, and its clients' certificates with it; false where there is none.
    fn remove_tls_profile(&self, service: ServiceKey, now: Timestamp) -> BoxFuture<'_, StoreResult<bool>>;

    /// Keeps a certificate that was made, unless the service has `most` live ones already.
    fn create_client_certificate(
        &self,
        record: ClientCertificateRecord,
        most: u32,
    ) -> BoxFuture<'_, Result<(), ClientCertificateError>>;

    /// Every certificate, oldest first; those that ended more than 30 days ago may be left out.
    fn list_client_certificates(&self) -> BoxFuture<'_, StoreResult<Vec<ClientCertificateRecord>>>;

    /// Marks a certificate as revoked, also one of another authority that is seen here for the first time;
    /// false where it was revoked before.
    fn revoke_client_certificate(
        &self,
        service: ServiceKey,
        serial: String,
        now: Timestamp,
    ) -> BoxFuture<'_, StoreResult<bool>>;
}
