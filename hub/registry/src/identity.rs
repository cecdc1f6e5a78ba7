//! Who is on the other end of a control connection: read from its certificate, never from a field.

use std::net::SocketAddr;

use blueprint_common_types::{AgentId, HubId, Timestamp};
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// An agent, as its certificate names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AgentIdentity {
    /// The agent.
    pub agent: AgentId,
    /// How many certificates it got before this one.
    pub generation: u32,
    /// End of the certificate's life.
    pub not_after: Timestamp,
}

/// One control connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Connection {
    /// Where it comes from.
    pub(crate) source: SocketAddr,
    /// Who it is; `None` for a machine that has not joined.
    pub(crate) identity: Option<AgentIdentity>,
}

/// A certificate of ours that does not look like one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the certificate does not name an agent of this hub")]
pub struct NotAnAgent;

/// The URI that an agent's certificate carries (SPIFFE ID, trust domain is the hub).
pub(crate) fn agent_uri(hub: HubId, agent: AgentId) -> String {
    format!("spiffe://{hub}/agent/{agent}")
}

/// The organisational unit that carries the generation.
pub(crate) fn generation_text(generation: u32) -> String {
    format!("generation {generation}")
}

/// Reads a certificate that the TLS layer has verified against this hub's authority.
///
/// # Errors
///
/// [`NotAnAgent`] unless there is exactly one URI, of this hub, with an agent's id, and a generation.
pub fn read(certificate: &CertificateDer<'_>, hub: HubId) -> Result<AgentIdentity, NotAnAgent> {
    let (rest, certificate) = X509Certificate::from_der(certificate).map_err(|_| NotAnAgent)?;
    if !rest.is_empty() {
        return Err(NotAnAgent);
    }
    // An extension that appears twice is an error here as well.
    let names = certificate.subject_alternative_name().ok().flatten().ok_or(NotAnAgent)?;
    let [GeneralName::URI(uri)] = names.value.general_names.as_slice() else { return Err(NotAnAgent) };
    let prefix = format!("spiffe://{hub}/agent/");
    let agent = uri.strip_prefix(prefix.as_str()).and_then(|id| id.parse().ok()).ok_or(NotAnAgent)?;
    let unit = certificate.subject().iter_organizational_unit().next().ok_or(NotAnAgent)?;
    let unit = unit.as_str().map_err(|_| NotAnAgent)?;
    let generation = unit.strip_prefix("generation ").and_then(|text| text.parse().ok()).ok_or(NotAnAgent)?;
    let not_after = u64::try_from(certificate.validity().not_after.timestamp()).map_err(|_| NotAnAgent)?;
    Ok(AgentIdentity { agent, generation, not_after: Timestamp::from_millis(not_after.saturating_mul(1000)) })
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use rcgen::{CertificateParams, KeyPair};

    use super::*;
    use crate::Authority;

    #[test]
    fn an_issued_certificate_names_its_agent_and_no_other_hub_accepts_it() {
        let hub = HubId::random().unwrap();
        let (authority, _) = Authority::create(hub, SystemTime::now()).unwrap();
        let key = KeyPair::generate().unwrap();
        let request = CertificateParams::default().serialize_request(&key).unwrap();
        let agent = AgentId::random().unwrap();
        let day = Duration::from_secs(24 * 3600);
        let issued = authority.issue_agent(request.der(), agent, 3, SystemTime::now(), day).unwrap();
        let der = CertificateDer::from(issued.der);

        let identity = read(&der, hub).unwrap();
        assert_eq!((identity.agent, identity.generation), (agent, 3));
        assert_eq!(identity.not_after.as_secs(), issued.not_after.as_secs());
        assert_eq!(read(&der, HubId::random().unwrap()), Err(NotAnAgent));
        assert_eq!(read(authority.certificate(), hub), Err(NotAnAgent));
    }

    #[test]
    fn an_authority_survives_its_files() {
        let hub = HubId::random().unwrap();
        let (authority, key) = Authority::create(hub, SystemTime::now()).unwrap();
        let again = Authority::load(hub, authority.certificate().to_vec(), &key).unwrap();
        assert_eq!(again.pin(), authority.pin());
    }
}
