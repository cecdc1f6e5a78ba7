//! What operators and blueprints may ask about TLS of a service; the hub answers.

use blueprint_common_types::{Secret, ServiceKey, Timestamp};
use futures_util::future::BoxFuture;

use super::facts::Serial;
use super::profile::{CertificateRequest, NewProfile, ProfileError, TlsProfile};
use crate::trust::NotInForce;

/// A profile that is in force, and where it is met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsView {
    /// The service.
    pub service: ServiceKey,
    /// Its profile.
    pub profile: TlsProfile,
    /// Host names by which clients reach it.
    pub names: Vec<String>,
    /// URL of the address that has TLS; `None` where the hub has none.
    pub tls_listener: Option<String>,
    /// URL of the address that has none, where there is one beside it.
    pub http_listener: Option<String>,
    /// When it was set.
    pub changed_at: Timestamp,
}

/// A certificate for a client, with its key, which is shown this once and not kept.
#[derive(Debug, Clone)]
pub struct IssuedCertificate {
    /// The certificate in PEM.
    pub certificate_pem: String,
    /// Its private key in PEM.
    pub private_key_pem: Secret<String>,
    /// The service's authority in PEM, which signs its server certificate as well unless it has another.
    pub ca_bundle_pem: String,
    /// Serial number, by which it is revoked.
    pub serial: Serial,
    /// End of its life.
    pub expires_at: Timestamp,
}

/// A certificate as it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateView {
    /// The service it opens.
    pub service: ServiceKey,
    /// Serial number.
    pub serial: String,
    /// Whom it names; empty for one that the hub did not make.
    pub name: String,
    /// When it was made, or refused first.
    pub created_at: Timestamp,
    /// End of its life, where the hub knows it.
    pub expires_at: Option<Timestamp>,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
}

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
pub enum TlsAdminError {
    /// Something is wrong with what was asked for.
    #[error(transparent)]
    Asked(#[from] ProfileError),
    /// The service has no profile.
    #[error("service {0} has no TLS profile")]
    NoProfile(ServiceKey),
    /// The hub has no address with TLS.
    #[error("this hub has no address with TLS")]
    NoListener,
    /// The service has a raw forward without TLS, where nobody could be asked for a certificate.
    #[error(
        "service {service} has the raw forward {forward}, where nobody shows a certificate: take it out of the service's settings first or give it \"tls\": true, or do not require certificates"
    )]
    HasForward {
        /// The service.
        service: ServiceKey,
        /// Name of the forward.
        forward: String,
    },
    /// The service has too many live certificates.
    #[error("service {service} has {live} live client certificates, which is the most")]
    TooMany {
        /// The service.
        service: ServiceKey,
        /// How many.
        live: u32,
    },
    /// It was stored, and does not hold yet.
    #[error(transparent)]
    NotInForce(#[from] NotInForce),
    /// Stored keys cannot be opened, or nothing can be stored; nothing was changed.
    #[error("{0}")]
    Failed(&'static str, #[source] Option<Box<dyn std::error::Error + Send + Sync>>),
}

/// TLS of services. What a method has done is in force when it resolves, and is in the audit log.
///
/// A change that was begun is finished also where the future of its method is dropped.
pub trait TlsAdmin: Send + Sync {
    /// The profile of a service.
    fn show(&self, service: ServiceKey) -> BoxFuture<'_, Result<Option<TlsView>, TlsAdminError>>;

    /// Sets the profile of a service, and makes its authority where it has none.
    fn set(&self, service: ServiceKey, profile: NewProfile) -> BoxFuture<'_, Result<TlsView, TlsAdminError>>;

    /// Removes profile, authority and certificates of a service; false where there are none.
    fn remove(&self, service: ServiceKey) -> BoxFuture<'_, Result<bool, TlsAdminError>>;

    /// Makes a certificate for a client of a service.
    fn issue(
        &self,
        service: ServiceKey,
        request: CertificateRequest,
    ) -> BoxFuture<'_, Result<IssuedCertificate, TlsAdminError>>;

    /// Certificates of every service.
    fn certificates(&self) -> BoxFuture<'_, Result<Vec<CertificateView>, TlsAdminError>>;

    /// Revokes a certificate of a service, also one of another authority; false where it was revoked before.
    fn revoke(&self, service: ServiceKey, serial: Serial) -> BoxFuture<'_, Result<bool, TlsAdminError>>;
}
