//! Profiles and certificates of services: read from the store, changed in it, put in force.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use blueprint_common_types::{Secret, ServiceKey, Timestamp};
use blueprint_hub_proxy::Proxy;
use blueprint_hub_proxy::tls::{Material, read_authorities};
use blueprint_hub_proxy_core::Trust;
use blueprint_hub_proxy_core::tls::{
    CertificateRequest, CertificateView, IssuedCertificate, NewProfile, ProfileError, Serial, TlsAdminError,
    TlsProfile, TlsView, service_name,
};
use blueprint_hub_registry_core::{
    ClientCertificateError, ClientCertificateRecord, StoreError, TlsProfileRecord,
};
use tokio::sync::Mutex;

use super::issue::ServiceCa;
use super::services::{ProfileKeys, TlsServices, client_authorities, host_names};
use crate::ports::authority;
use crate::tables::TablesHandle;

/// Live client certificates that one service may have.
const MAX_CERTIFICATES: u32 = 100_000;

/// Changes profiles one after the other.
pub(super) struct Profiles {
    services: Arc<TlsServices>,
    tables: TablesHandle,
    /// What the proxy decides by.
    trust: Arc<ArcSwap<Trust>>,
    /// URLs of the addresses with TLS and without, once they are bound.
    listeners: OnceLock<(Option<String>, Option<String>)>,
    /// Held while a profile is read, changed and put in force.
    turn: Mutex<()>,
}

/// What was done, or why it was not.
pub(super) type Done<T> = Result<T, TlsAdminError>;

fn failed(what: &'static str) -> impl FnOnce(StoreError) -> TlsAdminError {
    move |error| TlsAdminError::Failed(what, Some(Box::new(error)))
}

fn broken(what: &'static str) -> impl FnOnce(anyhow::Error) -> TlsAdminError {
    move |error| TlsAdminError::Failed(what, Some(error.into()))
}

impl Profiles {
    pub(super) fn new(services: Arc<TlsServices>, tables: TablesHandle, trust: Arc<ArcSwap<Trust>>) -> Self {
        Self { services, tables, trust, listeners: OnceLock::new(), turn: Mutex::default() }
    }

    /// Notes where the proxy listens.
    pub(super) fn listens(&self, proxy: &Proxy) -> anyhow::Result<()> {
        let (plain, tls) = (proxy.local_addr()?, proxy.tls_addr()?);
        let beside = (tls != Some(plain)).then(|| format!("http://{}", authority(plain)));
        let _ = self.listeners.set((tls.map(|tls| format!("https://{}", authority(tls))), beside));
        Ok(())
    }

    async fn find(&self, service: ServiceKey) -> Done<Option<(TlsProfileRecord, TlsProfile)>> {
        let records = self.services.store.list_tls_profiles().await;
        let records = records.map_err(failed("tls profiles cannot be read"))?;
        let Some(record) = records.into_iter().find(|record| record.service == service) else {
            return Ok(None);
        };
        let profile = serde_json::from_str(&record.document)
            .map_err(|error| TlsAdminError::Failed("the stored profile is damaged", Some(Box::new(error))))?;
        Ok(Some((record, profile)))
    }

    async fn view(&self, record: &TlsProfileRecord, profile: TlsProfile) -> Done<TlsView> {
        let all = self.services.store.list_tls_profiles().await;
        let all = all.map_err(failed("tls profiles cannot be read"))?;
        let profiles = all
            .into_iter()
            .filter_map(|record| Some((record.service, serde_json::from_str(&record.document).ok()?)))
            .collect();
        let mut names = host_names(&profiles, &self.services.domain, |name| self.services.is_own(name));
        let (tls_listener, http_listener) = self.listeners.get().cloned().unwrap_or_default();
        Ok(TlsView {
            service: record.service,
            profile,
            names: names.remove(&record.service).unwrap_or_default(),
            tls_listener,
            http_listener,
            changed_at: record.changed_at,
        })
    }

    /// Host names of other services cannot be taken: neither those under the domain nor those of their profiles.
    async fn check_names(&self, service: ServiceKey, profile: &NewProfile) -> Done<()> {
        let domain = &self.services.domain;
        let own = service_name(service, domain);
        for (field, name) in profile.names() {
            let below = name.strip_suffix(domain.as_str());
            let is_ours = below.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
            // What clients may carry is no claim: such a name only leads to the service where it is free.
            let is_claim = field == "sni" && self.services.is_own(name);
            if *name != own && (is_ours || is_claim) {
                let (name, of) = (name.clone(), "this hub".to_owned());
                return Err(ProfileError::Taken { field, name, of }.into());
            }
        }
        let Some(sni) = &profile.sni else { return Ok(()) };
        let all = self.services.store.list_tls_profiles().await;
        for record in all.map_err(failed("tls profiles cannot be read"))? {
            let other = serde_json::from_str::<TlsProfile>(&record.document).ok();
            if record.service != service && other.is_some_and(|other| other.sni.as_ref() == Some(sni)) {
                let (name, of) = (sni.clone(), format!("service {}", record.service));
                return Err(ProfileError::Taken { field: "sni", name, of }.into());
            }
        }
        Ok(())
    }

    /// A raw port without TLS asks nobody for a certificate, so a service that wants them has none. Where both come at
    /// one time the port stays closed.
    fn check_forwards(&self, service: ServiceKey, profile: &NewProfile) -> Done<()> {
        if !(profile.tls_enabled && profile.require_client_mtls) {
            return Ok(());
        }
        let trust = self.trust.load();
        let known = trust.services.get(&service);
        let mut forwards = known.into_iter().flat_map(|known| &known.settings().forwards);
        match forwards.find(|forward| !forward.asks_for_certificates()) {
            Some(forward) => Err(TlsAdminError::HasForward { service, forward: forward.name.clone() }),
            None => Ok(()),
        }
    }

    pub(super) async fn put(&self, service: ServiceKey, new: NewProfile) -> Done<TlsView> {
        if !self.services.has_listener() {
            return Err(TlsAdminError::NoListener);
        }
        new.check()?;
        self.check_forwards(service, &new)?;
        let _turn = self.turn.lock().await;
        self.check_names(service, &new).await?;
        let (ca_pem, ca_key) = match self.find(service).await? {
            Some((record, profile)) => {
                let keys = self.services.open(&record).map_err(broken(
                    "the keys of the profile cannot be opened; remove it, and set it again",
                ))?;
                (profile.ca_certificate_pem, Secret::new(keys.ca_key_pem.clone()))
            }
            None => {
                let (ca, key) = ServiceCa::create(service, SystemTime::now())
                    .map_err(broken("no authority can be made for the service"))?;
                (ca.certificate_pem, key)
            }
        };
        check_pem(&new)?;
        let server_key_pem = new.server.as_ref().map(|(_, key)| key.expose().clone());
        let keys = ProfileKeys { ca_key_pem: ca_key.expose().clone(), server_key_pem };
        let sealed = self.services.seal(service, &keys).map_err(broken("the keys cannot be sealed"))?;
        let profile = new.into_profile(ca_pem);
        client_authorities(&profile)
            .map_err(|why| ProfileError::Pem { field: "client_ca_pem", why: format!("{why:#}") })?;
        let document = serde_json::to_string(&profile)
            .map_err(|error| TlsAdminError::Failed("the profile cannot be written", Some(Box::new(error))))?;
        let changed_at = Timestamp::from(SystemTime::now());
        let record = TlsProfileRecord { service, document, sealed, changed_at };
        let stored = self.services.store.set_tls_profile(record.clone(), summary(&profile)).await;
        stored.map_err(failed("the profile was not stored"))?;
        self.tables.reload().await?;
        self.view(&record, profile).await
    }

    pub(super) async fn make(
        &self,
        service: ServiceKey,
        request: CertificateRequest,
    ) -> Done<IssuedCertificate> {
        let Some((record, profile)) = self.find(service).await? else {
            return Err(TlsAdminError::NoProfile(service));
        };
        let (hours, (hosts, uris)) = request.check(service, &profile)?;
        let keys = self.services.open(&record).map_err(broken("the keys of the profile cannot be opened"))?;
        let now = SystemTime::now();
        let life = Duration::from_secs(u64::from(hours).saturating_mul(3600));
        let ca_key = Secret::new(keys.ca_key_pem.clone());
        let issued = ServiceCa::load(&profile.ca_certificate_pem, &ca_key)
            .and_then(|ca| ca.client(&request.common_name, &hosts, &uris, now, life))
            .map_err(broken("no certificate can be made"))?;
        let record = ClientCertificateRecord {
            service,
            serial: issued.serial.to_string(),
            name: request.common_name,
            created_at: Timestamp::from(now),
            expires_at: Some(issued.expires_at),
            revoked_at: None,
        };
        match self.services.store.create_client_certificate(record, MAX_CERTIFICATES).await {
            Ok(()) => Ok(issued),
            Err(ClientCertificateError::TooMany { live }) => Err(TlsAdminError::TooMany { service, live }),
            Err(ClientCertificateError::Store(error)) => Err(failed("the certificate was not stored")(error)),
        }
    }

    pub(super) async fn show(&self, service: ServiceKey) -> Done<Option<TlsView>> {
        match self.find(service).await? {
            Some((record, profile)) => self.view(&record, profile).await.map(Some),
            None => Ok(None),
        }
    }

    pub(super) async fn remove(&self, service: ServiceKey) -> Done<bool> {
        let _turn = self.turn.lock().await;
        let now = Timestamp::from(SystemTime::now());
        let removed = self.services.store.remove_tls_profile(service, now).await;
        let removed = removed.map_err(failed("the profile was not removed"))?;
        self.tables.reload().await?;
        Ok(removed)
    }

    pub(super) async fn certificates(&self) -> Done<Vec<CertificateView>> {
        let records = self.services.store.list_client_certificates().await;
        let view = |record: ClientCertificateRecord| CertificateView {
            service: record.service,
            serial: record.serial,
            name: record.name,
            created_at: record.created_at,
            expires_at: record.expires_at,
            revoked_at: record.revoked_at,
        };
        Ok(records.map_err(failed("certificates cannot be read"))?.into_iter().map(view).collect())
    }

    pub(super) async fn revoke(&self, service: ServiceKey, serial: Serial) -> Done<bool> {
        let _turn = self.turn.lock().await;
        let now = Timestamp::from(SystemTime::now());
        if self.find(service).await?.is_none() {
            return Err(TlsAdminError::NoProfile(service));
        }
        let revoked = self.services.store.revoke_client_certificate(service, serial.to_string(), now).await;
        let revoked = revoked.map_err(failed("the revocation was not stored"))?;
        self.tables.reload().await?;
        Ok(revoked)
    }
}

/// What only a TLS library can tell of a profile.
fn check_pem(new: &NewProfile) -> Result<(), ProfileError> {
    if let Some((chain, key)) = &new.server {
        let key = Secret::new(key.expose().clone().into_bytes());
        Material::from_pem(chain.as_bytes(), &key)
            .map_err(|error| ProfileError::Pem { field: "server_certificate_pem", why: error.to_string() })?;
    }
    if let Some(authorities) = &new.client_ca_pem {
        read_authorities(authorities.as_bytes())
            .map_err(|error| ProfileError::Pem { field: "client_ca_pem", why: error.to_string() })?;
    }
    Ok(())
}

fn summary(profile: &TlsProfile) -> String {
    let clients = if profile.require_client_mtls { "required" } else { "not required" };
    let server = if profile.server_certificate_pem.is_some() { "its own" } else { "of its authority" };
    let enabled = if profile.tls_enabled { "on" } else { "off" };
    format!("TLS {enabled}, client certificates {clients}, server certificate {server}")
}
