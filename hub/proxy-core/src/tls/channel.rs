//! Connections and what their handshake showed, judged again with every request.

use std::collections::BTreeSet;
use std::sync::Arc;

use blueprint_common_types::{ServiceKey, Timestamp};

use sha2::{Digest, Sha256};

use super::facts::{CertificateFacts, Serial};
use crate::identity::{encode_hex, tenant_id};
use crate::refusal::Refusal;
use crate::trust::Trust;

/// What is in force for callers of one service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceTls {
    /// Whether only callers with a certificate get in.
    pub requires_client: bool,
    /// SHA-256 of the authorities whose certificates count.
    pub authorities: [u8; 32],
    /// Certificates that count no more.
    pub revoked: BTreeSet<Serial>,
}

impl ServiceTls {
    /// What tells one list of authorities from another: certificates in DER.
    #[must_use]
    pub fn digest<'c>(authorities: impl IntoIterator<Item = &'c [u8]>) -> [u8; 32] {
        let mut hash = Sha256::new();
        for certificate in authorities {
            hash.update(Sha256::digest(certificate));
        }
        hash.finalize().into()
    }
}

/// A certificate of a caller that the handshake has verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    facts: CertificateFacts,
    fingerprint: [u8; 32],
}

impl ClientCertificate {
    /// Reads a certificate; its chain and its signature are verified by the caller.
    #[must_use]
    pub fn of_verified(der: &[u8]) -> Option<Self> {
        let fingerprint = Sha256::digest(der).into();
        CertificateFacts::read(der).map(|facts| Self { facts, fingerprint })
    }

    /// Public name of it, for logs and counters: serial number, and the beginning of its SHA-256, since several
    /// authorities of a service may give the same number.
    #[must_use]
    pub fn id(&self) -> String {
        let beginning = self.fingerprint.get(..8).unwrap_or_default();
        format!("certificate:{}.{}", self.facts.serial, encode_hex(beginning))
    }

    /// Whom sums and limits are counted for: everybody whom authorities of the service give this subject.
    #[must_use]
    pub fn account(&self) -> String {
        format!("certificate:{}", tenant_id(&self.facts.subject))
    }

    /// SHA-256 of it whole.
    #[must_use]
    pub const fn fingerprint(&self) -> &[u8; 32] {
        &self.fingerprint
    }

    /// What it says.
    #[must_use]
    pub const fn facts(&self) -> &CertificateFacts {
        &self.facts
    }
}

/// A connection whose host name is that of a service with authorities of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bound {
    /// The service.
    pub service: ServiceKey,
    /// [`ServiceTls::authorities`] that the handshake was judged by.
    pub authorities: [u8; 32],
    /// The certificate that was shown.
    pub client: Option<ClientCertificate>,
}

/// What requests inherit of their connection. The default is one without TLS.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Channel {
    is_tls: bool,
    bound: Option<Arc<Bound>>,
}

impl Channel {
    /// A connection over TLS, bound to a service where its host name was one with authorities.
    #[must_use]
    pub fn tls(bound: Option<Bound>) -> Self {
        Self { is_tls: true, bound: bound.map(Arc::new) }
    }

    /// Whether it has TLS.
    #[must_use]
    pub const fn is_tls(&self) -> bool {
        self.is_tls
    }

    /// Whether it leads to one service alone, and so no other connection may take its place.
    #[must_use]
    pub const fn is_bound(&self) -> bool {
        self.bound.is_some()
    }

    /// The certificate of the caller, if it has shown one.
    #[must_use]
    pub fn client(&self) -> Option<&ClientCertificate> {
        self.bound.as_ref()?.client.as_ref()
    }

    /// The service that the certificate was shown for.
    pub(crate) fn service(&self) -> Option<ServiceKey> {
        self.bound.as_ref().map(|bound| bound.service)
    }

    /// Whether requests for `service` may come this way now.
    ///
    /// # Errors
    ///
    /// [`Refusal::Misdirected`] where another connection would do, and the other refusals of
    /// certificates where none would.
    pub(crate) fn check(&self, service: ServiceKey, trust: &Trust, now: Timestamp) -> Result<(), Refusal> {
        let in_force = trust.tls.get(&service);
        let requires = in_force.is_some_and(|tls| tls.requires_client);
        let Some(bound) = &self.bound else {
            return match (requires, self.is_tls) {
                (false, _) => Ok(()),
                (true, true) => Err(Refusal::Misdirected { service }),
                (true, false) => Err(Refusal::CertificateRequired { service }),
            };
        };
        let Some(in_force) = in_force.filter(|tls| tls.authorities == bound.authorities) else {
            return Err(Refusal::Misdirected { service });
        };
        if bound.service != service {
            return Err(Refusal::Misdirected { service });
        }
        match &bound.client {
            None if requires => Err(Refusal::CertificateRequired { service }),
            None => Ok(()),
            Some(client) if in_force.revoked.contains(&client.facts.serial) => {
                Err(Refusal::RevokedCertificate)
            }
            Some(client) if client.facts.not_after <= now => {
                Err(Refusal::ExpiredCertificate { at: client.facts.not_after })
            }
            Some(_) => Ok(()),
        }
    }
}
