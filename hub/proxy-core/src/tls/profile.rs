//! TLS profiles of services, and requests for certificates of their clients.

use std::collections::BTreeSet;

use blueprint_common_types::{Secret, ServiceKey};
use serde::{Deserialize, Serialize};

use super::names::is_dns_name;

/// Life of a client certificate whose profile names none, in hours.
const DEFAULT_CLIENT_HOURS: u32 = 24;

/// Longest life of a client certificate, in hours: 90 days, as that of API keys.
const MAX_CLIENT_HOURS: u32 = 90 * 24;

/// Most host names of one profile, and most names in one client certificate.
const MAX_NAMES: usize = 32;

/// Longest PEM text of a profile, in bytes.
const MAX_PEM: usize = 64 * 1024;

/// Longest common name (RFC 5280, appendix A.1).
const MAX_COMMON_NAME: usize = 64;

/// Longest alternative name of a client certificate.
const MAX_ALTERNATIVE: usize = 256;

/// What stands for the common name in a template.
const TENANT: &str = "{tenant}";

/// TLS of one service as it is stored and shown: nothing in it is secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsProfile {
    /// Whether the service has host names and certificates of its own.
    pub tls_enabled: bool,
    /// Whether only callers with a certificate get in.
    pub require_client_mtls: bool,
    /// Longest life of client certificates made here, in hours.
    pub client_cert_ttl_hours: u32,
    /// A host name beside `sSERVICE.bBLUEPRINT.DOMAIN`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sni: Option<String>,
    /// A URI that every client certificate made here carries; `{tenant}` stands for its common name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject_alt_name_template: Option<String>,
    /// Host names that client certificates may carry (all, where it is empty), and further host names of the
    /// service.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub allowed_dns_names: BTreeSet<String>,
    /// Certificate chain of the service in PEM; without one, the service's own authority signs one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_certificate_pem: Option<String>,
    /// Further authorities whose client certificates count, in PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_ca_pem: Option<String>,
    /// The service's own authority, made by the hub, in PEM.
    pub ca_certificate_pem: String,
}

/// A profile to be, as the operator or a blueprint asks for it. It replaces the one before; the service's own
/// authority stays. In JSON the names are those of [`TlsProfile`], with `server_key_pem` beside the certificate.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "ProfileBody")]
pub struct NewProfile {
    /// See [`TlsProfile`].
    pub tls_enabled: bool,
    /// See [`TlsProfile`].
    pub require_client_mtls: bool,
    /// See [`TlsProfile`]; 0 for the default.
    pub client_cert_ttl_hours: u32,
    /// See [`TlsProfile`].
    pub sni: Option<String>,
    /// See [`TlsProfile`].
    pub subject_alt_name_template: Option<String>,
    /// See [`TlsProfile`].
    pub allowed_dns_names: BTreeSet<String>,
    /// Certificate chain and private key of the service, both in PEM.
    pub server: Option<(String, Secret<String>)>,
    /// See [`TlsProfile`].
    pub client_ca_pem: Option<String>,
}

/// What a client of the existing Blueprint auth proxy sends, and the rest of a profile.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ProfileBody {
    #[serde(default = "yes")]
    tls_enabled: bool,
    #[serde(default)]
    require_client_mtls: bool,
    #[serde(default)]
    client_cert_ttl_hours: u32,
    #[serde(default)]
    sni: Option<String>,
    #[serde(default)]
    subject_alt_name_template: Option<String>,
    #[serde(default)]
    allowed_dns_names: Option<BTreeSet<String>>,
    #[serde(default)]
    server_certificate_pem: Option<String>,
    #[serde(default)]
    server_key_pem: Option<String>,
    #[serde(default)]
    client_ca_pem: Option<String>,
}

const fn yes() -> bool {
    true
}

impl TryFrom<ProfileBody> for NewProfile {
    type Error = ProfileError;

    fn try_from(body: ProfileBody) -> Result<Self, ProfileError> {
        let server = match (body.server_certificate_pem, body.server_key_pem) {
            (None, None) => None,
            (Some(certificate), Some(key)) => Some((certificate, Secret::new(key))),
            (Some(_), None) | (None, Some(_)) => return Err(ProfileError::HalfPair),
        };
        let fold = |name: String| name.to_ascii_lowercase();
        Ok(Self {
            tls_enabled: body.tls_enabled,
            require_client_mtls: body.require_client_mtls,
            client_cert_ttl_hours: body.client_cert_ttl_hours,
            sni: body.sni.map(fold),
            subject_alt_name_template: body.subject_alt_name_template,
            allowed_dns_names: body.allowed_dns_names.unwrap_or_default().into_iter().map(fold).collect(),
            server,
            client_ca_pem: body.client_ca_pem,
        })
    }
}

impl Default for NewProfile {
    fn default() -> Self {
        Self {
            tls_enabled: true,
            require_client_mtls: false,
            client_cert_ttl_hours: 0,
            sni: None,
            subject_alt_name_template: None,
            allowed_dns_names: BTreeSet::new(),
            server: None,
            client_ca_pem: None,
        }
    }
}

/// What is wrong with a profile or with a request for a certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProfileError {
    /// Certificates without TLS.
    #[error("require_client_mtls needs tls_enabled")]
    NoTls,
    /// A certificate without its key, or a key without its certificate.
    #[error("server_certificate_pem and server_key_pem belong together: give both or none")]
    HalfPair,
    /// Outside its bounds.
    #[error("client_cert_ttl_hours is above {MAX_CLIENT_HOURS}, which is 90 days")]
    Life,
    /// Not a host name.
    #[error("{field}: {name:?} is not a host name in lower case")]
    Host {
        /// Which field.
        field: &'static str,
        /// What it says.
        name: String,
    },
    /// A host name of another service or of the hub itself.
    #[error("{field}: {name} is a host name of {of}")]
    Taken {
        /// Which field.
        field: &'static str,
        /// The name.
        name: String,
        /// Whose it is.
        of: String,
    },
    /// Not a URI with the placeholder in it.
    #[error("subject_alt_name_template is a URI of at most {MAX_ALTERNATIVE} plain characters")]
    Template,
    /// Too much of something.
    #[error("{field} is longer than {most}")]
    TooLong {
        /// Which field.
        field: &'static str,
        /// The bound, in entries or bytes.
        most: usize,
    },
    /// PEM that cannot be used.
    #[error("{field}: {why}")]
    Pem {
        /// Which field.
        field: &'static str,
        /// Why.
        why: String,
    },
    /// The service does not ask for client certificates.
    #[error("service {0} has no TLS profile that asks for client certificates")]
    NotAsked(ServiceKey),
    /// The certificate would live longer than the profile allows.
    #[error("ttl_hours is {asked}, and the profile of the service allows 1 to {most}")]
    CertificateLife {
        /// What was asked for.
        asked: u32,
        /// The bound.
        most: u32,
    },
    /// Not a name for a caller.
    #[error("common_name has 1 to {MAX_COMMON_NAME} letters, digits, '.', '_', '-', '@' and no others")]
    CommonName,
    /// A name that the certificate may not carry.
    #[error("subject_alt_names: {0:?} is not allowed by the profile of the service")]
    Alternative(String),
}

impl NewProfile {
    /// Checks everything but the PEM texts, which only a TLS library can read.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), ProfileError> {
        if self.require_client_mtls && !self.tls_enabled {
            return Err(ProfileError::NoTls);
        }
        if self.client_cert_ttl_hours > MAX_CLIENT_HOURS {
            return Err(ProfileError::Life);
        }
        if self.allowed_dns_names.len() > MAX_NAMES {
            return Err(ProfileError::TooLong { field: "allowed_dns_names", most: MAX_NAMES });
        }
        for (field, name) in self.names() {
            if !is_dns_name(name) {
                return Err(ProfileError::Host { field, name: name.clone() });
            }
        }
        let is_uri = |uri: &String| {
            let uri = uri.replace(TENANT, "t");
            uri.len() <= MAX_ALTERNATIVE && is_uri(&uri)
        };
        if self.subject_alt_name_template.as_ref().is_some_and(|template| !is_uri(template)) {
            return Err(ProfileError::Template);
        }
        let chain = self.server.as_ref().map(|(chain, _)| chain);
        let key = self.server.as_ref().map(|(_, key)| key.expose());
        for (field, text) in [
            ("server certificate", chain),
            ("server key", key),
            ("client authorities", self.client_ca_pem.as_ref()),
        ] {
            if text.is_some_and(|text| text.len() > MAX_PEM) {
                return Err(ProfileError::TooLong { field, most: MAX_PEM });
            }
        }
        Ok(())
    }

    /// Every host name in it with the field that holds it.
    pub fn names(&self) -> impl Iterator<Item = (&'static str, &String)> {
        let allowed = self.allowed_dns_names.iter().map(|name| ("allowed_dns_names", name));
        self.sni.iter().map(|name| ("sni", name)).chain(allowed)
    }

    /// The profile to store.
    #[must_use]
    pub fn into_profile(self, ca_certificate_pem: String) -> TlsProfile {
        let hours = self.client_cert_ttl_hours;
        TlsProfile {
            tls_enabled: self.tls_enabled,
            require_client_mtls: self.require_client_mtls,
            client_cert_ttl_hours: if hours == 0 { DEFAULT_CLIENT_HOURS } else { hours },
            sni: self.sni,
            subject_alt_name_template: self.subject_alt_name_template,
            allowed_dns_names: self.allowed_dns_names,
            server_certificate_pem: self.server.map(|(chain, _)| chain),
            client_ca_pem: self.client_ca_pem,
            ca_certificate_pem,
        }
    }
}

/// What a client certificate is to say.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct CertificateRequest {
    /// Who will show it.
    pub common_name: String,
    /// Host names (also as `DNS:NAME`) and URIs (also as `URI:TEXT`).
    #[serde(default)]
    pub subject_alt_names: Vec<String>,
    /// Its life; 0 for as long as the profile allows.
    #[serde(default)]
    pub ttl_hours: u32,
}

/// Names of a client certificate: host names and URIs.
type Alternatives = (Vec<String>, Vec<String>);

impl CertificateRequest {
    /// Its life in hours, its host names and its URIs, where the profile allows all of them.
    ///
    /// # Errors
    ///
    /// The first thing that the profile does not allow.
    pub fn check(
        &self,
        service: ServiceKey,
        profile: &TlsProfile,
    ) -> Result<(u32, Alternatives), ProfileError> {
        if !profile.tls_enabled || !profile.require_client_mtls {
            return Err(ProfileError::NotAsked(service));
        }
        let most = profile.client_cert_ttl_hours.min(MAX_CLIENT_HOURS);
        let hours = if self.ttl_hours == 0 { most } else { self.ttl_hours };
        if hours > most {
            return Err(ProfileError::CertificateLife { asked: hours, most });
        }
        let is_plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'@');
        if !(1..=MAX_COMMON_NAME).contains(&self.common_name.len()) || !self.common_name.bytes().all(is_plain)
        {
            return Err(ProfileError::CommonName);
        }
        if self.subject_alt_names.len() > MAX_NAMES {
            return Err(ProfileError::TooLong { field: "subject_alt_names", most: MAX_NAMES });
        }
        let (mut hosts, mut uris) = (Vec::new(), Vec::new());
        for name in &self.subject_alt_names {
            let refused = || ProfileError::Alternative(name.chars().take(MAX_ALTERNATIVE).collect());
            let as_uri =
                name.strip_prefix("URI:").or(Some(name.as_str()).filter(|name| name.contains("://")));
            if let Some(uri) = as_uri {
                if uri.len() > MAX_ALTERNATIVE || !is_uri(uri) {
                    return Err(refused());
                }
                uris.push(uri.to_owned());
                continue;
            }
            let host = name.strip_prefix("DNS:").unwrap_or(name);
            let allowed = &profile.allowed_dns_names;
            if !is_dns_name(host) || !(allowed.is_empty() || allowed.contains(host)) {
                return Err(refused());
            }
            hosts.push(host.to_owned());
        }
        if let Some(template) = &profile.subject_alt_name_template {
            uris.push(template.replace(TENANT, &self.common_name));
        }
        Ok((hours, (hosts, uris)))
    }
}

/// A scheme, `:`, and characters that RFC 3986 allows.
fn is_uri(text: &str) -> bool {
    let is_rest = |b: u8| b.is_ascii_alphanumeric() || b"-._~:/?#[]@!$&'()*+,;=%".contains(&b);
    text.split_once(':').is_some_and(|(scheme, rest)| {
        scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'))
            && !rest.is_empty()
            && rest.bytes().all(is_rest)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVICE: ServiceKey = ServiceKey { blueprint: 7, service: 42 };

    fn profile(change: impl FnOnce(&mut NewProfile)) -> Result<TlsProfile, ProfileError> {
        let mut new = NewProfile { require_client_mtls: true, ..NewProfile::default() };
        change(&mut new);
        new.check()?;
        Ok(new.into_profile("CA".to_owned()))
    }

    fn request(names: &[&str], ttl_hours: u32) -> CertificateRequest {
        let subject_alt_names = names.iter().map(|&name| name.to_owned()).collect();
        CertificateRequest { common_name: "acme".to_owned(), subject_alt_names, ttl_hours }
    }

    #[test]
    fn a_profile_has_bounds() {
        assert_eq!(profile(|_| ()).unwrap().client_cert_ttl_hours, DEFAULT_CLIENT_HOURS);
        assert_eq!(profile(|new| new.tls_enabled = false), Err(ProfileError::NoTls));
        assert_eq!(profile(|new| new.client_cert_ttl_hours = MAX_CLIENT_HOURS + 1), Err(ProfileError::Life));
        assert!(profile(|new| new.sni = Some("*.a.b".to_owned())).is_err());
        assert!(profile(|new| new.allowed_dns_names = (0..33).map(|n| format!("h{n}")).collect()).is_err());
        for (template, fits) in
            [("spiffe://tenant-{tenant}/default", true), ("no uri", false), ("a://b c", false), (":x", false)]
        {
            let made = profile(|new| new.subject_alt_name_template = Some(template.to_owned()));
            assert_eq!(made.is_ok(), fits, "{template}");
        }
    }

    #[test]
    fn a_profile_is_read_as_clients_of_the_existing_proxy_write_it() {
        let read = |text: &str| serde_json::from_str::<NewProfile>(text);
        let new = read(
            r#"{"require_client_mtls":true,"client_cert_ttl_hours":2,"allowed_dns_names":["LocalHost"]}"#,
        );
        let new = new.unwrap();
        assert!(new.tls_enabled && new.require_client_mtls && new.allowed_dns_names.contains("localhost"));
        assert!(read(r#"{"require_client_mtls":true,"allowed_dns_names":null,"sni":null}"#).is_ok());
        let half = read(r#"{"server_key_pem":"canary"}"#).unwrap_err().to_string();
        assert!(half.contains("belong together") && !half.contains("canary"), "{half}");
        assert!(read(r#"{"upstream_ca_bundle":"x"}"#).is_err(), "nothing is ignored");
        let pair = read(r#"{"server_certificate_pem":"chain","server_key_pem":"canary"}"#).unwrap();
        assert!(!format!("{pair:?}").contains("canary"));
    }

    #[test]
    fn a_certificate_says_what_the_profile_allows_and_no_more() {
        let open =
            profile(|new| new.subject_alt_name_template = Some("spiffe://{tenant}/x".to_owned())).unwrap();
        let (hours, (hosts, uris)) =
            request(&["localhost", "DNS:a.b", "URI:urn:x", "spiffe://a/b"], 0).check(SERVICE, &open).unwrap();
        assert_eq!(hours, DEFAULT_CLIENT_HOURS);
        assert_eq!(hosts, ["localhost", "a.b"]);
        assert_eq!(uris, ["urn:x", "spiffe://a/b", "spiffe://acme/x"]);

        let narrow = profile(|new| new.allowed_dns_names = BTreeSet::from(["localhost".to_owned()])).unwrap();
        assert!(request(&["localhost"], 24).check(SERVICE, &narrow).is_ok());
        assert!(matches!(request(&["a.b"], 1).check(SERVICE, &narrow), Err(ProfileError::Alternative(_))));
        let long = request(&[], 25).check(SERVICE, &narrow);
        assert_eq!(long, Err(ProfileError::CertificateLife { asked: 25, most: 24 }));
        for name in ["", "a b", "a,O=b", "a\n", &"a".repeat(65)] {
            let asked = CertificateRequest { common_name: name.to_owned(), ..request(&[], 1) };
            assert_eq!(asked.check(SERVICE, &narrow), Err(ProfileError::CommonName), "{name:?}");
        }
        let off = profile(|new| new.require_client_mtls = false).unwrap();
        assert_eq!(request(&[], 1).check(SERVICE, &off), Err(ProfileError::NotAsked(SERVICE)));
    }
}
