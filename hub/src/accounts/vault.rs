//! Credentials of providers that the operator gave the hub: sealed in the store, opened for a call.

use std::collections::BTreeMap;
use std::sync::Arc;

use blueprint_common_types::Timestamp;
use blueprint_hub_admin::AccountError;
use blueprint_hub_provider_kit::{CredentialSource, CredentialSpec, Credentials};
use blueprint_hub_provision_core::lifecycle::RecordsResult;
use blueprint_hub_provision_core::{CredentialRecord, CredentialStore, ProviderError};
use blueprint_hub_proxy_core::identity::SealingKey;
use futures_util::future::{BoxFuture, FutureExt, ready};
use parking_lot::Mutex;
use tracing::info;

/// Shortest value of which the last characters are shown.
const LONG: usize = 12;

/// What is sealed, as the store has it. Nothing of it is kept open.
pub(crate) struct Vault {
    store: Arc<dyn CredentialStore>,
    sealing: Arc<SealingKey>,
    held: Mutex<BTreeMap<String, CredentialRecord>>,
    /// One change after the other, so that what is held is what was stored last.
    changing: tokio::sync::Mutex<()>,
}

impl Vault {
    /// Reads what is stored.
    ///
    /// # Errors
    ///
    /// Where the store cannot be read.
    pub(crate) async fn open(
        store: Arc<dyn CredentialStore>,
        sealing: Arc<SealingKey>,
    ) -> RecordsResult<Arc<Self>> {
        let records = store.credentials().await?;
        let held = records.into_iter().map(|record| (record.provider.clone(), record)).collect();
        Ok(Arc::new(Self { store, sealing, held: Mutex::new(held), changing: tokio::sync::Mutex::default() }))
    }

    /// What is sealed of a provider, still sealed.
    pub(crate) fn record(&self, provider: &str) -> Option<CredentialRecord> {
        self.held.lock().get(provider).cloned()
    }

    /// Stores credentials in place of those of before.
    pub(crate) async fn set(
        &self,
        spec: &CredentialSpec,
        credentials: &Credentials,
        by: &str,
        now: Timestamp,
    ) -> Result<CredentialRecord, AccountError> {
        let sealed = self.sealing.seal_text(&purpose(spec.provider), &credentials.to_json());
        let record = CredentialRecord {
            provider: spec.provider.to_owned(),
            sealed: sealed.ok_or(AccountError::NoRandomness)?,
            shown: shown(spec, credentials),
            changed_at: now,
            changed_by: by.to_owned(),
        };
        let names: Vec<_> = credentials.names().collect();
        let summary = format!("by {by}: {}, {}", names.join(", "), record.shown);
        let _one = self.changing.lock().await;
        self.store.set_credentials(record.clone(), summary).await?;
        self.held.lock().insert(record.provider.clone(), record.clone());
        info!(target: "audit", provider = spec.provider, by, "credentials stored");
        Ok(record)
    }

    /// Forgets the credentials of a provider; false where there are none.
    pub(crate) async fn forget(
        &self,
        provider: &'static str,
        by: &str,
        now: Timestamp,
    ) -> Result<bool, AccountError> {
        let _one = self.changing.lock().await;
        let was_there = self.store.forget_credentials(provider.to_owned(), by.to_owned(), now).await?;
        self.held.lock().remove(provider);
        if was_there {
            info!(target: "audit", provider, by, "credentials forgotten");
        }
        Ok(was_there)
    }

    fn open_for(&self, spec: &CredentialSpec) -> Result<Arc<Credentials>, ProviderError> {
        let Some(record) = self.record(spec.provider) else { return Err(spec.missing()) };
        let name = spec.provider;
        let Some(text) = self.sealing.open_text(&purpose(name), &record.sealed) else {
            return Err(spec.unusable(&format!(
                "its credentials in the store were sealed with another key than the hub has now; put its sealing.key back (or \
                 PASETO_SIGNING_KEY), or run `blueprint-hub provider configure {name}`, or `blueprint-hub provider forget {name}` \
                 to do without them"
            )));
        };
        match Credentials::read(spec, "the sealed store", text.expose()) {
            Ok(credentials) => Ok(Arc::new(credentials)),
            Err(why) => Err(spec.unusable(&format!(
                "what is sealed in the store {why}; run `blueprint-hub provider configure {name}`"
            ))),
        }
    }
}

/// What a sealed text is bound to: one provider's cannot be given out as another's.
fn purpose(provider: &str) -> String {
    format!("provider credentials {provider}")
}

/// What tells people which credentials these are: the end of the first field that has to be there.
fn shown(spec: &CredentialSpec, credentials: &Credentials) -> String {
    let first = spec.required.first().and_then(|field| credentials.get(field.name));
    let value = first.map_or("", |value| value.expose().as_str());
    match value.len().checked_sub(4).and_then(|at| value.get(at..)) {
        Some(end) if value.len() >= LONG => format!("...{end}"),
        Some(_) | None => "set".to_owned(),
    }
}

/// The sealed credentials of one provider.
pub(crate) struct Sealed {
    vault: Arc<Vault>,
    spec: CredentialSpec,
}

impl Sealed {
    pub(crate) const fn new(vault: Arc<Vault>, spec: CredentialSpec) -> Self {
        Self { vault, spec }
    }
}

impl CredentialSource for Sealed {
    fn get(&self) -> BoxFuture<'_, Result<Arc<Credentials>, ProviderError>> {
        ready(self.vault.open_for(&self.spec)).boxed()
    }

    fn is_there(&self) -> BoxFuture<'_, bool> {
        ready(self.vault.record(self.spec.provider).is_some()).boxed()
    }
}
