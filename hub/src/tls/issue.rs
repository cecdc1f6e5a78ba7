//! Authorities of services, and what they sign.

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use blueprint_common_types::{Secret, ServiceKey, Timestamp, fill_random};
use blueprint_hub_proxy::tls::Material;
use blueprint_hub_proxy_core::tls::{IssuedCertificate, Serial};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType, SerialNumber,
};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

/// How long an authority of a service lives: it ends with its profile.
const AUTHORITY_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Life of the server certificates that it signs; a fresh one is made at a third of it.
pub(super) const SERVER_LIFE: Duration = Duration::from_secs(90 * 24 * 3600);

/// Certificates start this much in the past, for clients whose clock is a little behind.
const BACKDATE: Duration = Duration::from_secs(10 * 60);

/// An authority with its key.
pub(super) struct ServiceCa {
    pub(super) certificate_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl ServiceCa {
    /// Makes one; gives its private key in PEM.
    pub(super) fn create(service: ServiceKey, now: SystemTime) -> Result<(Self, Secret<String>)> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = parameters(&format!("blueprint-hub service {service}"), now, AUTHORITY_LIFE)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate_pem = params.self_signed(&key)?.pem();
        let key_pem = Secret::new(key.serialize_pem());
        Ok((Self::load(&certificate_pem, &key_pem)?, key_pem))
    }

    /// Reads one back.
    pub(super) fn load(certificate_pem: &str, key_pem: &Secret<String>) -> Result<Self> {
        let key = KeyPair::from_pem(key_pem.expose()).context("the key of the authority cannot be read")?;
        let issuer =
            Issuer::from_ca_cert_pem(certificate_pem, key).context("the authority cannot be read")?;
        Ok(Self { certificate_pem: certificate_pem.to_owned(), issuer })
    }

    /// Makes a certificate and its key for a client.
    pub(super) fn client(
        &self,
        common_name: &str,
        hosts: &[String],
        uris: &[String],
        now: SystemTime,
        life: Duration,
    ) -> Result<IssuedCertificate> {
        let mut params = parameters(common_name, now, life)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        for host in hosts {
            params.subject_alt_names.push(SanType::DnsName(host.as_str().try_into()?));
        }
        for uri in uris {
            params.subject_alt_names.push(SanType::URI(uri.as_str().try_into()?));
        }
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let serial = params.serial_number.as_ref().map(SerialNumber::to_bytes).unwrap_or_default();
        Ok(IssuedCertificate {
            certificate_pem: certificate.pem(),
            private_key_pem: Secret::new(key.serialize_pem()),
            ca_bundle_pem: self.certificate_pem.clone(),
            serial: Serial::from_bytes(&serial),
            expires_at: Timestamp::from(SystemTime::from(params.not_after)),
        })
    }

    /// Makes a certificate for the service itself.
    pub(super) fn server(&self, names: &[String], now: SystemTime) -> Result<Material> {
        let first = names.first().context("a service has a host name")?;
        let mut params = parameters(first, now, SERVER_LIFE)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        for name in names {
            params.subject_alt_names.push(SanType::DnsName(name.as_str().try_into()?));
        }
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        Ok(Material::from_der(vec![certificate.der().clone()], key)?)
    }
}

fn parameters(common_name: &str, now: SystemTime, life: Duration) -> Result<CertificateParams> {
    let mut serial = [0u8; 16];
    fill_random(&mut serial)?;
    // Positive, and always of the same length (RFC 5280, section 4.1.2.2).
    let [first, ..] = &mut serial;
    *first = (*first & 0x7f) | 0x40;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    // A common name has 64 characters at most; host names that are longer stand among the other names.
    params.distinguished_name.push(DnType::CommonName, common_name.chars().take(64).collect::<String>());
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.not_before = now.checked_sub(BACKDATE).unwrap_or(now).into();
    params.not_after = now.checked_add(life).unwrap_or(now).into();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}
