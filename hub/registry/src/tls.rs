//! TLS of the control plane: version 1.3 only, an agent's certificate where there is one.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use blueprint_common_tunnel::carrier;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    AlertDescription, CertificateError, DigitallySignedStruct, DistinguishedName, RootCertStore,
    ServerConfig, SignatureScheme,
};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::{Authority, AuthorityError, download};

/// How long past its end a certificate may still be exchanged for a fresh one.
///
/// A machine that was off for a weekend comes back by itself; one that was off for longer joins again.
pub const RENEW_GRACE: Duration = Duration::from_secs(7 * 24 * 3600);

/// The TLS set-up could not be made.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// No certificate for the hub.
    #[error("cannot make the hub's own certificate")]
    Authority(#[from] AuthorityError),
    /// The library refused the set-up.
    #[error("cannot set up TLS")]
    Rustls(#[from] rustls::Error),
    /// The library refused the authority.
    #[error("cannot verify agents against the hub's authority")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

/// Makes the configuration of the control listener.
///
/// # Errors
///
/// Fails where the authority or the library refuses; nothing of it depends on the outside.
pub fn control_config(authority: &Authority) -> Result<Arc<ServerConfig>, TlsError> {
    let (certificate, key) = authority.issue_server(&[], SystemTime::now())?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(authority.certificate().clone())?;
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .allow_unauthenticated()
        .build()?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(GraceVerifier { inner: verifier }))
        .with_single_cert(vec![certificate, authority.certificate().clone()], key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), carrier::ALPN.to_vec(), download::ALPN.to_vec()];
    // A session that outlives its certificate would outlive its revocation.
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// Makes the configuration of carriers that have a port of their own: as on the control listener, but nobody comes
/// in without a certificate that is good now.
///
/// # Errors
///
/// Fails where the authority or the library refuses; nothing of it depends on the outside.
pub fn carrier_config(authority: &Authority) -> Result<ServerConfig, TlsError> {
    let (certificate, key) = authority.issue_server(&[], SystemTime::now())?;
    let provider = carrier::crypto_provider();
    let mut roots = RootCertStore::empty();
    roots.add(authority.certificate().clone())?;
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build()?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![certificate, authority.certificate().clone()], key)?;
    config.alpn_protocols = vec![carrier::ALPN.to_vec()];
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// Verifies agents, and lets a certificate that ended within [`RENEW_GRACE`] through: the service that is
/// called then decides, and only renewal accepts it.
#[derive(Debug)]
struct GraceVerifier {
    inner: Arc<dyn ClientCertVerifier>,
}

impl ClientCertVerifier for GraceVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verdict = self.inner.verify_client_cert(end_entity, intermediates, now);
        let Err(rustls::Error::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        )) = verdict
        else {
            return verdict;
        };
        let ended = X509Certificate::from_der(end_entity)
            .ok()
            .and_then(|(_, certificate)| u64::try_from(certificate.validity().not_after.timestamp()).ok());
        match ended {
            Some(ended) if now.as_secs().saturating_sub(ended) <= RENEW_GRACE.as_secs() => {
                let then = UnixTime::since_unix_epoch(Duration::from_secs(ended.saturating_sub(1)));
                self.inner.verify_client_cert(end_entity, intermediates, then)
            }
            Some(_) | None => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// Why a TLS handshake ended, as far as an operator acts on it. The names are metric labels and audit details.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HandshakeFailure {
    /// The other side refused our certificate: most often a join line of another hub.
    PinMismatch,
    /// The other side's certificate ran out beyond the grace.
    CertificateExpired,
    /// The other side's certificate is not ours.
    CertificateRefused,
    /// It took too long.
    TimedOut,
    /// Anything else: scanners, cut connections, other protocols.
    Other,
}

impl HandshakeFailure {
    /// Sorts an error of the TLS accept.
    #[must_use]
    pub fn of(error: &std::io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(rustls::Error::AlertReceived(
                AlertDescription::AccessDenied
                | AlertDescription::UnknownCA
                | AlertDescription::BadCertificate,
            )) => Self::PinMismatch,
            Some(rustls::Error::InvalidCertificate(
                CertificateError::Expired | CertificateError::ExpiredContext { .. },
            )) => Self::CertificateExpired,
            Some(rustls::Error::InvalidCertificate(_)) => Self::CertificateRefused,
            Some(_) | None => Self::Other,
        }
    }

    /// Name in metrics and in the audit log.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::PinMismatch => "pin_mismatch",
            Self::CertificateExpired => "certificate_expired",
            Self::CertificateRefused => "certificate_refused",
            Self::TimedOut => "timed_out",
            Self::Other => "other",
        }
    }
}
