//! A certificate chain and its private key, read and found to fit together.

use std::sync::Arc;

use blueprint_common_types::{Secret, Timestamp};
use blueprint_hub_proxy_core::tls::CertificateFacts;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

/// Most certificates in one chain or list.
const MAX_CHAIN: usize = 64;

/// Why certificate and key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MaterialError {
    /// Not PEM, or without a certificate in it.
    #[error("there is no certificate in PEM")]
    NoCertificate,
    /// Not PEM, or without a private key in it.
    #[error("there is no private key in PEM")]
    NoKey,
    /// More certificates than anybody needs.
    #[error("there are more than {MAX_CHAIN} certificates")]
    TooMany,
    /// The first certificate cannot be read.
    #[error("the certificate cannot be read")]
    Unreadable,
    /// The key is of no kind that is supported, or belongs to another certificate.
    #[error("certificate and private key do not fit together")]
    Mismatch(#[source] rustls::Error),
}

/// A certificate that handshakes can use. Its key cannot be printed.
#[derive(Debug, Clone)]
pub struct Material {
    key: Arc<CertifiedKey>,
    facts: CertificateFacts,
}

impl Material {
    /// Reads a chain and a key in PEM, the certificate itself first.
    ///
    /// # Errors
    ///
    /// [`MaterialError`] says which of them cannot be used.
    pub fn from_pem(chain: &[u8], key: &Secret<Vec<u8>>) -> Result<Self, MaterialError> {
        let chain = read_authorities(chain)?;
        let key = PrivateKeyDer::from_pem_slice(key.expose()).map_err(|_| MaterialError::NoKey)?;
        Self::from_der(chain, key)
    }

    /// Takes a chain and a key.
    ///
    /// # Errors
    ///
    /// [`MaterialError`] says why they cannot be used.
    pub fn from_der(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Self, MaterialError> {
        let first = chain.first().ok_or(MaterialError::NoCertificate)?;
        let facts = CertificateFacts::read(first).ok_or(MaterialError::Unreadable)?;
        let key =
            CertifiedKey::from_der(chain, key, &ring::default_provider()).map_err(MaterialError::Mismatch)?;
        Ok(Self { key: Arc::new(key), facts })
    }

    /// Takes a certificate of ours for an ACME challenge. Its critical extension (RFC 8737) is one that the TLS
    /// library does not know, so it is not asked whether certificate and key fit: they were made together.
    pub(crate) fn of_challenge(
        certificate: CertificateDer<'static>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Self, MaterialError> {
        let facts = CertificateFacts::read(&certificate).ok_or(MaterialError::Unreadable)?;
        let key = ring::default_provider().key_provider.load_private_key(key);
        let key = CertifiedKey::new(vec![certificate], key.map_err(MaterialError::Mismatch)?);
        Ok(Self { key: Arc::new(key), facts })
    }

    /// What the certificate says.
    #[must_use]
    pub const fn facts(&self) -> &CertificateFacts {
        &self.facts
    }

    /// End of the certificate's life.
    #[must_use]
    pub const fn not_after(&self) -> Timestamp {
        self.facts.not_after
    }

    pub(crate) fn key(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.key)
    }
}

/// Reads a list of certificates in PEM.
///
/// # Errors
///
/// Fails where there is none, where one is damaged, or where there are too many.
pub fn read_authorities(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, MaterialError> {
    let read = CertificateDer::pem_slice_iter(pem).take(MAX_CHAIN.saturating_add(1));
    let certificates: Vec<_> = read.collect::<Result<_, _>>().map_err(|_| MaterialError::NoCertificate)?;
    match certificates.len() {
        0 => Err(MaterialError::NoCertificate),
        count if count > MAX_CHAIN => Err(MaterialError::TooMany),
        _ => Ok(certificates),
    }
}
