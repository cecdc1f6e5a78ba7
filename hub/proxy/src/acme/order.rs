//! One order: account, authorizations, challenges, certificate.

use std::time::Duration;

use blueprint_common_runtime::state::StateError;
use blueprint_common_types::Secret;
use instant_acme::{
    Account, AccountCredentials, AuthorizationStatus, ChallengeType, Identifier, NewAccount, NewOrder,
    OrderStatus, RetryPolicy,
};
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::RootCertStore;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};
use tracing::info;

use super::AcmeConfig;
use super::http::AcmeHttp;
use super::keep::Files;
use crate::tls::{Material, MaterialError, TlsHandle};

/// File with the account's key.
const ACCOUNT: &str = "acme-account.json";

/// How often the server is asked whether it is done.
const POLL: RetryPolicy = RetryPolicy::new()
    .initial_delay(Duration::from_millis(500))
    .backoff(1.5)
    .timeout(Duration::from_secs(120));

/// Why no certificate came.
#[derive(Debug, thiserror::Error)]
pub(super) enum OrderError {
    /// The server refused, or cannot be reached.
    #[error("the acme server did not give a certificate")]
    Acme(#[from] instant_acme::Error),
    /// It does not know the one challenge that is answered here.
    #[error("the acme server offers no tls-alpn-01 challenge for {0}")]
    NoChallenge(String),
    /// It came to another verdict.
    #[error(
        "the acme server could not validate every name: the order is {0:?}; is the TLS port of the proxy reached at port 443 of each?"
    )]
    NotReady(OrderStatus),
    /// What is stored cannot be used.
    #[error("{ACCOUNT} in the state folder is damaged; move it away, and a new account is made")]
    Account,
    /// The state folder.
    #[error("cannot read the acme account")]
    State(#[from] StateError),
    /// A key or certificate of ours cannot be made.
    #[error("cannot make a key or a certificate")]
    Make(#[from] rcgen::Error),
    /// The certificate that came is of no use.
    #[error("the certificate that came cannot be used")]
    Material(#[from] MaterialError),
    /// TLS towards the server.
    #[error("cannot set up TLS towards the acme server")]
    Tls(#[from] rustls::Error),
    /// It took too long.
    #[error("no certificate came within {0:?}")]
    TooLong(Duration),
}

/// The account as it is stored.
#[derive(Serialize, Deserialize)]
struct Stored {
    directory: String,
    credentials: AccountCredentials,
}

/// Makes orders.
pub(super) struct Orders {
    config: AcmeConfig,
    roots: RootCertStore,
    files: Files,
    handle: TlsHandle,
    wish: parking_lot::Mutex<Option<Duration>>,
}

/// Ends a challenge, however the order ends.
struct Pending<'h>(&'h TlsHandle, String);

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.0.set_challenge(&self.1, None);
    }
}

impl Orders {
    pub(super) fn new(config: AcmeConfig, roots: RootCertStore, files: Files, handle: TlsHandle) -> Self {
        Self { config, roots, files, handle, wish: parking_lot::Mutex::default() }
    }

    /// How long the server wants to be left alone, by the last order.
    pub(super) fn take_wish(&self) -> Option<Duration> {
        self.wish.lock().take()
    }

    /// Gives chain and private key in PEM.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends the challenges; an order that is begun expires at the server.
    pub(super) async fn order(&self) -> Result<Secret<String>, OrderError> {
        let http = AcmeHttp::new(self.roots.clone())?;
        let ordered = self.order_by(&http).await;
        *self.wish.lock() = http.take_wish();
        ordered
    }

    async fn order_by(&self, http: &AcmeHttp) -> Result<Secret<String>, OrderError> {
        let account = self.account(http).await?;
        let names: Vec<Identifier> = self.config.names.iter().cloned().map(Identifier::Dns).collect();
        let mut order = account.new_order(&NewOrder::new(&names)).await?;
        let mut pending = Vec::new();
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization?;
            if authorization.status == AuthorizationStatus::Valid {
                continue;
            }
            let name = authorization.identifier().to_string();
            let challenge = authorization.challenge(ChallengeType::TlsAlpn01);
            let mut challenge = challenge.ok_or_else(|| OrderError::NoChallenge(name.clone()))?;
            let answer = challenge_answer(&name, challenge.key_authorization().digest().as_ref())?;
            self.handle.set_challenge(&name, Some(answer));
            pending.push(Pending(&self.handle, name));
            challenge.set_ready().await?;
        }
        let status = order.poll_ready(&POLL).await?;
        drop(pending);
        if status != OrderStatus::Ready {
            return Err(OrderError::NotReady(status));
        }
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::new(self.config.names.iter().cloned().collect::<Vec<_>>())?;
        params.distinguished_name = DistinguishedName::new();
        order.finalize_csr(params.serialize_request(&key)?.der()).await?;
        let chain = order.poll_certificate(&POLL).await?;
        let key = Secret::new(key.serialize_pem());
        Ok(Secret::new(format!("{}\n{}", chain.trim_end(), key.expose())))
    }

    /// The account at this server, made where there is none.
    async fn account(&self, http: &AcmeHttp) -> Result<Account, OrderError> {
        let builder = Account::builder_with_http(Box::new(http.clone()));
        if let Some(bytes) = self.files.read(ACCOUNT)? {
            let stored: Stored =
                serde_json::from_slice(bytes.expose().as_slice()).map_err(|_| OrderError::Account)?;
            if stored.directory == self.config.directory {
                return Ok(builder.from_credentials(stored.credentials).await?);
            }
        }
        let contact: Vec<&str> = self.config.contact.iter().map(String::as_str).collect();
        // The configuration is refused unless the operator agrees in it.
        let new =
            NewAccount { contact: &contact, terms_of_service_agreed: true, only_return_existing: false };
        let directory = self.config.directory.clone();
        let (account, credentials) = builder.create(&new, directory.clone(), None).await?;
        let stored = Stored { directory, credentials };
        let text = Secret::new(serde_json::to_vec(&stored).map_err(|_| OrderError::Account)?);
        self.files.write(ACCOUNT, text);
        info!(account = account.id(), "acme account made");
        Ok(account)
    }
}

/// The certificate by which a server knows that this host answers for the name.
fn challenge_answer(name: &str, digest: &[u8]) -> Result<Material, OrderError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::new([name.to_owned()])?;
    params.distinguished_name = DistinguishedName::new();
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
    let certificate = params.self_signed(&key)?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    Ok(Material::of_challenge(certificate.der().clone(), key)?)
}
