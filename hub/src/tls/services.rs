//! TLS profiles of services: read from the store, put in force, changed by the operator.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use blueprint_common_types::{Secret, ServiceKey, Timestamp};
use blueprint_hub_proxy::tls::{ClientAuthorities, Material, ServiceHandshake, TlsHandle, read_authorities};
use blueprint_hub_proxy_core::identity::SealingKey;
use blueprint_hub_proxy_core::tls::{Serial, ServiceTls, TlsProfile, service_name};
use blueprint_hub_registry_core::{StoreError, TlsProfileRecord, TlsStore};
use parking_lot::Mutex;
use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use tracing::error;

use super::ProxyHandshakes;
use super::issue::{SERVER_LIFE, ServiceCa};
use super::own::OwnCertificate;

/// Private keys of a profile, only ever stored sealed.
#[derive(Serialize, Deserialize)]
pub(super) struct ProfileKeys {
    pub(super) ca_key_pem: String,
    pub(super) server_key_pem: Option<String>,
}

impl Drop for ProfileKeys {
    fn drop(&mut self) {
        // A `Secret` wipes what it held.
        drop(Secret::new(std::mem::take(&mut self.ca_key_pem)));
        drop(self.server_key_pem.take().map(Secret::new));
    }
}

/// What is in force for handshakes and requests.
type InForce = BTreeMap<ServiceKey, ServiceTls>;

/// Server certificates signed here, by service: made again only where authority or names change, or the end is
/// near.
type Signed = BTreeMap<ServiceKey, ((String, Vec<String>), Material)>;

/// Reads profiles, and gives the handshakes theirs.
pub(crate) struct TlsServices {
    pub(super) store: Arc<dyn TlsStore>,
    sealing: Arc<SealingKey>,
    pub(super) domain: String,
    handle: Option<TlsHandle>,
    own: Option<Arc<OwnCertificate>>,
    reserved: BTreeSet<String>,
    signed: Mutex<Signed>,
}

impl TlsServices {
    pub(crate) fn new(
        store: Arc<dyn TlsStore>,
        sealing: Arc<SealingKey>,
        domain: &str,
        handshakes: &ProxyHandshakes,
    ) -> Self {
        let domain = domain.to_ascii_lowercase();
        let ProxyHandshakes { handle, own, reserved, .. } = handshakes.clone();
        Self { store, sealing, domain, handle, own, reserved, signed: Mutex::default() }
    }

    /// Takes note of what is offered, for the hub's own certificate.
    pub(crate) fn follow<'s>(&self, offered: impl Iterator<Item = &'s ServiceKey>) {
        if let (Some(own), Some(handle)) = (&self.own, &self.handle) {
            own.follow(offered.map(|service| service.blueprint), handle);
        }
    }

    /// Whether a host name is the hub's own.
    pub(super) fn is_own(&self, name: &str) -> bool {
        self.reserved.contains(name) || self.handle.as_ref().is_some_and(|handle| handle.is_configured(name))
    }

    /// Puts what the store holds in force for handshakes, and gives what requests are judged by.
    ///
    /// A profile that cannot be read closes its service and no other.
    pub(crate) async fn load(&self) -> Result<InForce, StoreError> {
        let records = self.store.list_tls_profiles().await?;
        let mut revoked: BTreeMap<ServiceKey, BTreeSet<Serial>> = BTreeMap::new();
        for record in self.store.list_client_certificates().await? {
            if let (Some(_), Ok(serial)) = (record.revoked_at, record.serial.parse()) {
                revoked.entry(record.service).or_default().insert(serial);
            }
        }
        let profiles = self.profiles(&records);
        let names = host_names(&profiles, &self.domain, |name| self.is_own(name));
        let mut in_force = InForce::new();
        let mut handshakes = Vec::new();
        for record in &records {
            let service = record.service;
            let revoked = revoked.remove(&service).unwrap_or_default();
            let Some(profile) = profiles.get(&service) else {
                // Nobody knows what it asked for, so it asks for what nobody has.
                in_force.insert(service, ServiceTls { requires_client: true, authorities: [0; 32], revoked });
                continue;
            };
            if !profile.tls_enabled {
                continue;
            }
            let names = names.get(&service).cloned().unwrap_or_default();
            let (clients, material) = self.handshake(record, profile, &names);
            if let Some(clients) = &clients {
                let (requires_client, authorities) = (clients.required, clients.digest);
                in_force.insert(service, ServiceTls { requires_client, authorities, revoked });
            }
            handshakes.push(ServiceHandshake { service, names, material, clients });
        }
        self.signed.lock().retain(|service, _| profiles.contains_key(service));
        if let Some(handle) = &self.handle {
            handle.set_services(handshakes);
        }
        Ok(in_force)
    }

    fn profiles(&self, records: &[TlsProfileRecord]) -> BTreeMap<ServiceKey, TlsProfile> {
        let mut profiles = BTreeMap::new();
        for record in records {
            match serde_json::from_str::<TlsProfile>(&record.document) {
                Ok(profile) => drop(profiles.insert(record.service, profile)),
                Err(error) => {
                    error!(service = %record.service, %error, "tls profile is damaged, the service is closed");
                }
            }
        }
        profiles
    }

    /// Who may call, and what it is met with; without material, handshakes for the service fail.
    fn handshake(
        &self,
        record: &TlsProfileRecord,
        profile: &TlsProfile,
        names: &[String],
    ) -> (Option<ClientAuthorities>, Option<Material>) {
        let service = record.service;
        let closed = ClientAuthorities {
            certificates: Vec::new(),
            digest: [0; 32],
            required: profile.require_client_mtls,
        };
        let clients = client_authorities(profile).unwrap_or_else(|problem| {
            error!(%service, error = format!("{problem:#}"), "authorities of clients cannot be used");
            Some(closed)
        });
        let material = self.material(record, profile, names);
        let material = material
            .inspect_err(|problem| {
                error!(%service, error = format!("{problem:#}"), "tls profile cannot be used, handshakes fail");
            })
            .ok();
        (clients, material)
    }

    fn material(
        &self,
        record: &TlsProfileRecord,
        profile: &TlsProfile,
        names: &[String],
    ) -> Result<Material> {
        let service = record.service;
        let keys = self.open(record)?;
        if let (Some(chain), Some(key)) = (&profile.server_certificate_pem, &keys.server_key_pem) {
            return Ok(Material::from_pem(chain.as_bytes(), &Secret::new(key.clone().into_bytes()))?);
        }
        let by = (profile.ca_certificate_pem.clone(), names.to_vec());
        let now = SystemTime::now();
        let fresh = Timestamp::from(now).plus(SERVER_LIFE.mul_f32(0.66));
        let mut signed = self.signed.lock();
        if let Some((of, material)) = signed.get(&service)
            && *of == by
            && material.not_after() > fresh
        {
            return Ok(material.clone());
        }
        let ca_key = Secret::new(keys.ca_key_pem.clone());
        let material = ServiceCa::load(&profile.ca_certificate_pem, &ca_key)?.server(names, now)?;
        signed.insert(service, (by, material.clone()));
        Ok(material)
    }

    /// The private keys of a profile.
    pub(super) fn open(&self, record: &TlsProfileRecord) -> Result<ProfileKeys> {
        let opened = self.sealing.open_text(&purpose(record.service), &record.sealed);
        let opened = opened.context("the sealed keys were not sealed with the sealing key of this hub")?;
        // The error of the parser would show parts of the text.
        serde_json::from_str(opened.expose()).ok().context("the sealed keys are damaged")
    }

    /// Seals private keys for the store.
    pub(super) fn seal(&self, service: ServiceKey, keys: &ProfileKeys) -> Result<String> {
        let text = Secret::new(serde_json::to_string(keys).ok().context("the keys cannot be written")?);
        self.sealing.seal_text(&purpose(service), &text).context("there is no randomness to seal keys with")
    }

    /// Whether the hub has an address with TLS.
    pub(super) const fn has_listener(&self) -> bool {
        self.handle.is_some()
    }
}

fn purpose(service: ServiceKey) -> String {
    format!("tls profile {service}")
}

/// Whose certificates count, where the profile asks for any.
pub(super) fn client_authorities(profile: &TlsProfile) -> Result<Option<ClientAuthorities>> {
    if !profile.require_client_mtls && profile.client_ca_pem.is_none() {
        return Ok(None);
    }
    let mut certificates = read_authorities(profile.ca_certificate_pem.as_bytes())?;
    if let Some(further) = &profile.client_ca_pem {
        certificates.extend(read_authorities(further.as_bytes()).context("client_ca_pem")?);
    }
    let digest = ServiceTls::digest(certificates.iter().map(CertificateDer::as_ref));
    let clients = ClientAuthorities { certificates, digest, required: profile.require_client_mtls };
    clients.check()?;
    Ok(Some(clients))
}

/// Host names of every service: its own, the one of its profile, and those it alone allows its clients and that
/// are not the hub's.
pub(super) fn host_names(
    profiles: &BTreeMap<ServiceKey, TlsProfile>,
    domain: &str,
    is_own: impl Fn(&str) -> bool,
) -> BTreeMap<ServiceKey, Vec<String>> {
    let enabled = || profiles.iter().filter(|(_, profile)| profile.tls_enabled);
    let named: BTreeSet<&String> = enabled().filter_map(|(_, profile)| profile.sni.as_ref()).collect();
    let mut wanted: BTreeMap<&String, usize> = BTreeMap::new();
    for name in enabled().flat_map(|(_, profile)| &profile.allowed_dns_names) {
        let count = wanted.entry(name).or_insert(0);
        *count = count.saturating_add(1);
    }
    enabled()
        .map(|(service, profile)| {
            let mut names = vec![service_name(*service, domain)];
            names.extend(profile.sni.iter().cloned());
            let alone =
                |name: &&String| !named.contains(*name) && !is_own(name) && wanted.get(*name) == Some(&1);
            names.extend(profile.allowed_dns_names.iter().filter(alone).cloned());
            names.sort_unstable();
            names.dedup();
            (*service, names)
        })
        .collect()
}

/// How often server certificates are looked at for their end.
pub(crate) const RENEW: Duration = Duration::from_secs(24 * 3600);

#[cfg(test)]
mod tests {
    use blueprint_common_runtime::metrics::Metrics;
    use blueprint_hub_proxy_core::tls::NewProfile;
    use blueprint_hub_store::SqliteStore;

    use super::*;

    #[test]
    fn a_name_that_two_services_want_leads_to_neither() {
        let key = |service| ServiceKey { blueprint: 7, service };
        let profile = |sni: Option<&str>, allowed: &[&str]| {
            let new = NewProfile {
                sni: sni.map(str::to_owned),
                allowed_dns_names: allowed.iter().map(|&name| name.to_owned()).collect(),
                ..NewProfile::default()
            };
            new.into_profile(String::new())
        };
        let profiles = BTreeMap::from([
            (key(1), profile(None, &["localhost", "a.example"])),
            (key(2), profile(Some("b.example"), &["localhost"])),
            (key(3), profile(None, &["b.example", "hub.example"])),
        ]);
        let names = host_names(&profiles, "bp", |name| name == "hub.example");
        assert_eq!(names[&key(1)], ["a.example", "s1.b7.bp"]);
        assert_eq!(names[&key(2)], ["b.example", "s2.b7.bp"]);
        assert_eq!(names[&key(3)], ["s3.b7.bp"]);
    }

    #[tokio::test]
    async fn a_profile_that_cannot_be_opened_or_read_closes_its_service_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let store: Arc<dyn TlsStore> = Arc::new(SqliteStore::open(folder.path()).unwrap());
        let handle = TlsHandle::new(None, &Metrics::new()).unwrap();
        let handshakes = ProxyHandshakes { handle: Some(handle), ..ProxyHandshakes::default() };
        let with_key = |byte| {
            let sealing = Arc::new(SealingKey::new(&Secret::new([byte; 32])).unwrap());
            TlsServices::new(Arc::clone(&store), sealing, "bp", &handshakes)
        };
        let ours = with_key(1);
        let service = |service| ServiceKey { blueprint: 7, service };
        for number in [1, 2, 3] {
            let (ca, key) = ServiceCa::create(service(number), SystemTime::now()).unwrap();
            let keys = ProfileKeys { ca_key_pem: key.expose().clone(), server_key_pem: None };
            let new = NewProfile { require_client_mtls: number != 3, ..NewProfile::default() };
            let document = serde_json::to_string(&new.into_profile(ca.certificate_pem.clone())).unwrap();
            let sealed = ours.seal(service(number), &keys).unwrap();
            assert!(!sealed.contains("PRIVATE") && !document.contains("PRIVATE"));
            let changed_at = Timestamp::default();
            let record = TlsProfileRecord { service: service(number), document, sealed, changed_at };
            store.set_tls_profile(record, String::new()).await.unwrap();
        }
        let opened = ours.load().await.unwrap();
        assert_eq!(
            opened.keys().copied().collect::<Vec<_>>(),
            [service(1), service(2)],
            "the third asks nobody"
        );

        // Another key: as closed to requests as before, and nothing to shake hands with.
        assert_eq!(with_key(2).load().await.unwrap(), opened);
        let records = store.list_tls_profiles().await.unwrap();
        assert!(with_key(2).open(&records[0]).is_err() && ours.open(&records[0]).is_ok());
        let moved = TlsProfileRecord { sealed: records[1].sealed.clone(), ..records[0].clone() };
        assert!(ours.open(&moved).is_err(), "keys of another service");

        let broken = TlsProfileRecord { document: "{".to_owned(), ..records[0].clone() };
        store.set_tls_profile(broken, String::new()).await.unwrap();
        let closed = ours.load().await.unwrap();
        assert!(closed[&service(1)].requires_client && closed[&service(1)].authorities == [0; 32]);
        assert_eq!(closed[&service(2)], opened[&service(2)]);
    }

    #[test]
    fn an_authority_signs_for_its_service_and_its_clients() {
        let service = ServiceKey { blueprint: 7, service: 42 };
        let now = SystemTime::now();
        let (ca, key) = ServiceCa::create(service, now).unwrap();
        let again = ServiceCa::load(&ca.certificate_pem, &key).unwrap();
        let server = again.server(&["s42.b7.bp".to_owned()], now).unwrap();
        assert_eq!(server.facts().hosts, ["s42.b7.bp"]);
        let hour = Duration::from_secs(3600);
        let client = again.client("acme", &[], &["spiffe://acme/x".to_owned()], now, hour).unwrap();
        assert_eq!(client.serial.as_str().len(), 32);
        assert_eq!(client.expires_at.as_secs(), Timestamp::from(now.checked_add(hour).unwrap()).as_secs());
        assert!(!format!("{client:?}").contains("PRIVATE KEY"));
        assert!(client.private_key_pem.expose().contains("BEGIN PRIVATE KEY"));
    }
}
