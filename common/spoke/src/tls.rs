//! TLS 1.3 to the hub: pinned by the join line at first, then by the authority that joining gave.

use std::sync::Arc;

use blueprint_common_tunnel::carrier;
use blueprint_common_types::{CaPin, HUB_TLS_NAME};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme, version::TLS13,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::identity::Credential;

/// The name that the hub's certificate must carry.
pub(crate) fn hub_name() -> Result<ServerName<'static>, rustls::Error> {
    ServerName::try_from(HUB_TLS_NAME).map_err(|error| rustls::Error::General(error.to_string()))
}

/// For joining: no certificate of our own, and the hub is known by `pin`.
pub(crate) fn joining_config(pin: CaPin) -> Result<Arc<ClientConfig>, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Arc::new(PinVerifier { pin, provider: Arc::clone(&provider) });
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    Ok(finish(config))
}

/// For everything after: mutual, and the hub is known by the stored authority alone.
pub(crate) fn session_config(credential: &Credential) -> Result<Arc<ClientConfig>, rustls::Error> {
    Ok(finish(mutual(credential, Arc::new(rustls::crypto::ring::default_provider()))?))
}

fn mutual(credential: &Credential, provider: Arc<CryptoProvider>) -> Result<ClientConfig, rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(credential.authority.clone()))?;
    let certificate = CertificateDer::from(credential.certificate.clone());
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(credential.key.expose().clone()));
    ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![certificate], key)
}

/// For links of carriers: as a session, with the suite that is fastest here first.
pub(crate) fn carrier_config(credential: &Credential) -> Result<ClientConfig, rustls::Error> {
    let mut config = mutual(credential, carrier::crypto_provider())?;
    config.alpn_protocols = vec![carrier::ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(config)
}

fn finish(mut config: ClientConfig) -> Arc<ClientConfig> {
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.resumption = Resumption::disabled();
    Arc::new(config)
}

/// Accepts a chain that ends in the authority whose public key the join line pins.
///
/// Deviation from the usual: the leaf is checked at a moment inside its own life, not at this machine's time.
/// A machine that joins may have a wrong clock, and it is the hub that judges it and says by how much it is off.
#[derive(Debug)]
struct PinVerifier {
    pin: CaPin,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PinVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let authority = intermediates
            .iter()
            .find(|certificate| is_pinned(certificate, self.pin))
            .ok_or(rustls::Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))?;
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        let leaf = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(
            &leaf,
            &roots,
            intermediates,
            within_life(end_entity, now)?,
            self.provider.signature_verification_algorithms.all,
        )?;
        verify_server_name(&leaf, server_name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Whether `certificate` is that of an authority with the pinned key.
fn is_pinned(certificate: &CertificateDer<'_>, pin: CaPin) -> bool {
    X509Certificate::from_der(certificate).is_ok_and(|(rest, certificate)| {
        rest.is_empty() && certificate.is_ca() && CaPin::of_spki(certificate.public_key().raw) == pin
    })
}

/// The moment inside the certificate's life that is nearest to `now`.
fn within_life(certificate: &CertificateDer<'_>, now: UnixTime) -> Result<UnixTime, rustls::Error> {
    let bad = || rustls::Error::InvalidCertificate(CertificateError::BadEncoding);
    let (_, certificate) = X509Certificate::from_der(certificate).map_err(|_| bad())?;
    let secs = |time: i64| u64::try_from(time).map_err(|_| bad());
    let validity = certificate.validity();
    let (from, to) = (secs(validity.not_before.timestamp())?, secs(validity.not_after.timestamp())?);
    if from > to {
        return Err(bad());
    }
    let at = now.as_secs().clamp(from, to);
    Ok(UnixTime::since_unix_epoch(std::time::Duration::from_secs(at)))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, PublicKeyData};

    use super::*;

    struct Chain {
        leaf: CertificateDer<'static>,
        authority: CertificateDer<'static>,
        pin: CaPin,
    }

    /// A chain as a hub shows it; the leaf's life ends `ended` ago.
    fn chain(names: &[&str], is_ca: bool, ended: Duration) -> Chain {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = if is_ca { IsCa::Ca(BasicConstraints::Constrained(0)) } else { IsCa::NoCa };
        let authority = params.self_signed(&key).unwrap().der().clone();
        let pin = CaPin::of_spki(&key.subject_public_key_info());
        let issuer = Issuer::new(params, key);
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        let end =
            SystemTime::now().checked_add(Duration::from_secs(600)).unwrap().checked_sub(ended).unwrap();
        params.not_before = end.checked_sub(Duration::from_secs(1200)).unwrap().into();
        params.not_after = end.into();
        let leaf = params.signed_by(&KeyPair::generate().unwrap(), &issuer).unwrap().der().clone();
        Chain { leaf, authority, pin }
    }

    fn verify(
        pin: CaPin,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
    ) -> Result<(), rustls::Error> {
        let verifier = PinVerifier { pin, provider: Arc::new(rustls::crypto::ring::default_provider()) };
        let name = hub_name().unwrap();
        verifier.verify_server_cert(leaf, others, &name, &[], UnixTime::now()).map(|_| ())
    }

    const WRONG_PIN: rustls::Error =
        rustls::Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure);

    #[test]
    fn the_right_pin_is_accepted_whatever_this_machines_clock_says() {
        for ended in [Duration::ZERO, Duration::from_secs(400 * 24 * 3600)] {
            let chain = chain(&[HUB_TLS_NAME], true, ended);
            assert_eq!(verify(chain.pin, &chain.leaf, std::slice::from_ref(&chain.authority)), Ok(()));
        }
    }

    #[test]
    fn a_wrong_pin_is_refused_in_a_way_the_hub_can_tell() {
        let (ours, theirs) =
            (chain(&[HUB_TLS_NAME], true, Duration::ZERO), chain(&[HUB_TLS_NAME], true, Duration::ZERO));
        assert_eq!(verify(ours.pin, &theirs.leaf, &[theirs.authority]), Err(WRONG_PIN));
        // No authority shown at all.
        assert_eq!(verify(ours.pin, &ours.leaf, &[]), Err(WRONG_PIN));
    }

    #[test]
    fn the_pinned_authority_must_have_signed_the_leaf() {
        let (ours, theirs) =
            (chain(&[HUB_TLS_NAME], true, Duration::ZERO), chain(&[HUB_TLS_NAME], true, Duration::ZERO));
        assert!(verify(ours.pin, &theirs.leaf, &[ours.authority, theirs.authority]).is_err());
    }

    #[test]
    fn a_pinned_key_without_authority_and_another_name_are_refused() {
        let no_ca = chain(&[HUB_TLS_NAME], false, Duration::ZERO);
        assert_eq!(verify(no_ca.pin, &no_ca.leaf, &[no_ca.authority]), Err(WRONG_PIN));
        let other = chain(&["hub.example.org"], true, Duration::ZERO);
        assert!(verify(other.pin, &other.leaf, &[other.authority]).is_err());
    }
}
