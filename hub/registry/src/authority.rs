//! The hub's certificate authority: makes itself once, then certificates for the hub and for agents.

use std::time::{Duration, SystemTime};

use blueprint_common_types::{AgentId, CaPin, HUB_TLS_NAME, HubId, Secret, Timestamp, fill_random};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData,
    SanType, SerialNumber,
};
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::identity;

/// How long the authority itself lives. It moves only with the state folder.
const AUTHORITY_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Life of the hub's own TLS certificate. Its key is made at each start and never stored, and a hub may run
/// for years, so it lives as long as the authority.
const SERVER_LIFE: Duration = AUTHORITY_LIFE;

/// Certificates start this much in the past, for agents whose clock is a little behind.
pub(crate) const BACKDATE: Duration = Duration::from_secs(10 * 60);

/// The authority could not be made, read or used.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// No randomness.
    #[error("no randomness for a key or a serial number")]
    Random(#[source] std::io::Error),
    /// A certificate request that is not one, or whose signature is wrong.
    #[error("the certificate request is not valid")]
    Request(#[source] rcgen::Error),
    /// Stored key or certificate of the authority is damaged.
    #[error("the authority's key or certificate is damaged")]
    Damaged(#[source] rcgen::Error),
    /// Signing failed.
    #[error("cannot sign a certificate")]
    Sign(#[source] rcgen::Error),
}

/// A certificate made for an agent.
#[derive(Debug, Clone)]
pub struct Issued {
    /// The certificate.
    pub der: Vec<u8>,
    /// Its serial number, 16 random bytes.
    pub serial: [u8; 16],
    /// Start of its life.
    pub not_before: Timestamp,
    /// End of its life.
    pub not_after: Timestamp,
}

/// Signs certificates of this hub and its agents.
#[derive(Debug)]
pub struct Authority {
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
    hub: HubId,
}

impl Authority {
    /// Makes a new authority; returns it with its private key in PKCS#8 DER, for a file of mode 0600.
    ///
    /// # Errors
    ///
    /// Fails without randomness.
    pub fn create(hub: HubId, now: SystemTime) -> Result<(Self, Secret<Vec<u8>>), AuthorityError> {
        let key = new_key()?;
        let key_der = key.serialize_der();
        let mut params = parameters(now, AUTHORITY_LIFE, random_serial()?);
        params.distinguished_name = name(&format!("blueprint-hub {hub}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).map_err(AuthorityError::Sign)?.der().clone();
        Ok((Self::load(hub, certificate.to_vec(), &Secret::new(key_der.clone()))?, Secret::new(key_der)))
    }

    /// Reads an authority back.
    ///
    /// # Errors
    ///
    /// [`AuthorityError::Damaged`] where the two do not parse.
    pub fn load(hub: HubId, certificate: Vec<u8>, key: &Secret<Vec<u8>>) -> Result<Self, AuthorityError> {
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.expose().clone()));
        let key = KeyPair::from_der_and_sign_algo(&key, &PKCS_ECDSA_P256_SHA256)
            .map_err(AuthorityError::Damaged)?;
        let certificate = CertificateDer::from(certificate);
        let issuer = Issuer::from_ca_cert_der(&certificate, key).map_err(AuthorityError::Damaged)?;
        Ok(Self { certificate, issuer, hub })
    }

    /// The authority's certificate.
    #[must_use]
    pub const fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The hub this authority belongs to.
    #[must_use]
    pub const fn hub(&self) -> HubId {
        self.hub
    }

    /// What join lines carry.
    #[must_use]
    pub fn pin(&self) -> CaPin {
        CaPin::of_spki(&self.issuer.key().subject_public_key_info())
    }

    /// Makes a certificate for an agent from its request, of which only the public key is used.
    ///
    /// # Errors
    ///
    /// [`AuthorityError::Request`] for a request that is not valid.
    pub fn issue_agent(
        &self,
        request: &[u8],
        agent: AgentId,
        generation: u32,
        now: SystemTime,
        life: Duration,
    ) -> Result<Issued, AuthorityError> {
        let request = CertificateSigningRequestDer::from(request);
        let request = CertificateSigningRequestParams::from_der(&request).map_err(AuthorityError::Request)?;
        let serial = random_serial()?;
        let mut params = parameters(now, life, serial);
        params.distinguished_name = name(&agent.to_string());
        params.distinguished_name.push(DnType::OrganizationalUnitName, identity::generation_text(generation));
        let uri = identity::agent_uri(self.hub, agent).try_into().map_err(AuthorityError::Sign)?;
        params.subject_alt_names = vec![SanType::URI(uri)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let certificate =
            params.signed_by(&request.public_key, &self.issuer).map_err(AuthorityError::Sign)?;
        Ok(Issued {
            der: certificate.der().to_vec(),
            serial,
            not_before: Timestamp::from(SystemTime::from(params.not_before)),
            not_after: Timestamp::from(SystemTime::from(params.not_after)),
        })
    }

    /// Makes a TLS key and certificate for the hub's own listeners; `names` come beside [`HUB_TLS_NAME`].
    ///
    /// # Errors
    ///
    /// Fails without randomness.
    pub fn issue_server(
        &self,
        names: &[String],
        now: SystemTime,
    ) -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>), AuthorityError> {
        let key = new_key()?;
        let mut all = vec![HUB_TLS_NAME.to_owned()];
        all.extend_from_slice(names);
        let fresh = CertificateParams::new(all).map_err(AuthorityError::Sign)?;
        let mut params = parameters(now, SERVER_LIFE, random_serial()?);
        params.subject_alt_names = fresh.subject_alt_names;
        params.distinguished_name = name("blueprint-hub");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let certificate = params.signed_by(&key, &self.issuer).map_err(AuthorityError::Sign)?;
        Ok((certificate.der().clone(), PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()))))
    }
}

fn new_key() -> Result<KeyPair, AuthorityError> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(AuthorityError::Sign)
}

fn random_serial() -> Result<[u8; 16], AuthorityError> {
    let mut serial = [0u8; 16];
    fill_random(&mut serial).map_err(AuthorityError::Random)?;
    // A serial number is a positive integer (RFC 5280, 4.1.2.2): the top bit stays clear, the next is set
    // so that every one has the same length.
    let [first, ..] = &mut serial;
    *first = (*first & 0x7f) | 0x40;
    Ok(serial)
}

fn parameters(now: SystemTime, life: Duration, serial: [u8; 16]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = now.checked_sub(BACKDATE).unwrap_or(now).into();
    params.not_after = now.checked_add(life).unwrap_or(now).into();
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.use_authority_key_identifier_extension = true;
    params
}

fn name(common: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common);
    name
}
