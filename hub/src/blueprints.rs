//! What blueprints on nodes get from the hub: their keys, and what their bridge asks for.

mod settings;
mod tls;

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::{Context, Result};
use blueprint_common_runtime::state::StateDir;
use blueprint_common_types::workload::Bundle;
use blueprint_common_types::{Secret, ServiceKey, WgPublicKey};
use blueprint_hub_proxy_core::identity::SealingKey;
use blueprint_hub_registry::{Blueprints, lease_of};
use blueprint_hub_registry_core::workload::WorkloadRecord;
use blueprint_hub_registry_core::{ServiceRecord, Store, StoreError, StoreResult};
use blueprint_proto::v1::bridge_request::Call;
use futures_util::future::{BoxFuture, FutureExt};
use ring::hmac;
use tonic::Status;
use tracing::info;

use crate::files;
use crate::tls::TlsOperator;

/// Keys of workloads at rest, and the keys of the envelopes in which blueprints hand certificates over.
#[derive(Clone)]
pub(crate) struct WorkloadKeys {
    sealing: Arc<SealingKey>,
    envelopes: hmac::Key,
}

impl WorkloadKeys {
    /// Reads the hub's envelope key, or makes it.
    pub(crate) fn load(state: &StateDir, sealing: Arc<SealingKey>) -> Result<Self> {
        let seed = files::envelope_seed(state)?;
        Ok(Self { sealing, envelopes: hmac::Key::new(hmac::HMAC_SHA256, seed.expose()) })
    }

    /// What keeps secrets at rest.
    pub(crate) fn sealing(&self) -> Arc<SealingKey> {
        Arc::clone(&self.sealing)
    }

    /// Seals a keystore as it is stored.
    pub(crate) fn seal(&self, service: ServiceKey, bundle: &Bundle) -> Option<String> {
        self.sealing.seal_text(&purpose(service), &bundle.to_text())
    }

    /// Opens what [`Self::seal`] gave; `None` where another key sealed it.
    pub(crate) fn open_sealed(&self, service: ServiceKey, sealed: &str) -> Option<Bundle> {
        let text = self.sealing.open_text(&purpose(service), sealed)?;
        Bundle::from_text(text.expose()).ok()
    }

    fn open(&self, record: &WorkloadRecord) -> Result<Bundle> {
        let Some(sealed) = &record.keystore else { return Ok(Bundle::default()) };
        let text = self.sealing.open_text(&purpose(record.service), sealed);
        let text = text.context("it was sealed with another key; set the workload again with --keystore")?;
        Ok(Bundle::from_text(text.expose())?)
    }

    /// The key of one service's envelopes; it tells nothing of another's.
    fn envelope_key(&self, service: ServiceKey) -> Secret<[u8; 32]> {
        let tag = hmac::sign(&self.envelopes, format!("tls envelope {service}").as_bytes());
        let mut key = [0u8; 32];
        for (byte, from) in key.iter_mut().zip(tag.as_ref()) {
            *byte = *from;
        }
        Secret::new(key)
    }
}

fn purpose(service: ServiceKey) -> String {
    format!("workload keystore {service}")
}

/// Does what blueprints ask for.
pub(crate) struct BlueprintPort {
    pub(crate) keys: WorkloadKeys,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) tls: Arc<TlsOperator>,
}

impl BlueprintPort {
    /// Takes the rights away that the blueprint of a service gave, and revokes the API keys that came of them.
    ///
    /// # Errors
    ///
    /// It could not be stored, or is not in force.
    pub(crate) async fn forget_owners(&self, service: ServiceKey) -> StoreResult<()> {
        let records = self.store.list_services().await?;
        let is_its = |record: &ServiceRecord| record.service == service;
        // Most services have none; nothing is written for those.
        if !records.iter().any(|record| is_its(record) && record.document.contains("blueprint_owners")) {
            return Ok(());
        }
        let forgotten = self.change(service, |settings| settings.name_owners(&BTreeSet::new())).await;
        forgotten.map_err(|status| StoreError::Other {
            action: "take the rights of owners away that the blueprint named",
            source: Box::new(status),
        })
    }
}

impl Blueprints for BlueprintPort {
    fn keystore_for(&self, record: &WorkloadRecord, node: &WgPublicKey) -> Result<Vec<u8>, String> {
        let mut bundle = self.keys.open(record).map_err(|error| format!("{error:#}"))?;
        if lease_of(record).is_none() {
            bundle.envelope_key = Some(self.keys.envelope_key(record.service));
        }
        // Else its certificates go to the Manager behind its launcher, whose key came along or did not.
        bundle.seal(node, record.service, record.generation).map_err(|error| error.to_string())
    }

    fn seal_keystore(&self, service: ServiceKey, bundle: &Bundle) -> Option<String> {
        self.keys.seal(service, bundle)
    }

    fn bridge(&self, service: ServiceKey, call: Call) -> BoxFuture<'_, Result<(), Status>> {
        async move {
            match call {
                Call::Register(call) => {
                    // Both are judged before either is changed.
                    let owners = settings::owners(&call.owners)?;
                    let profile = call.tls_profile.map(|profile| self.profile(service, &profile));
                    let profile = profile.transpose()?;
                    let (added, prefix) = (owners.len(), call.api_key_prefix);
                    self.change(service, |settings| {
                        settings.name_owners(&owners);
                        settings.api_key_prefix.clone_from(&prefix);
                    })
                    .await?;
                    if let Some(profile) = profile {
                        self.set_tls(service, profile).await?;
                    }
                    info!(target: "audit", %service, owners = added, "blueprint registered its service");
                    Ok(())
                }
                // The node withdraws the target; whose keys are whose stays for the next registration.
                Call::Unregister(_) => Ok(()),
                Call::AddOwner(call) => {
                    let owner = settings::owner(call.owner_to_add.as_ref())?;
                    self.change(service, |settings| {
                        if settings.owners.insert(owner.clone()) {
                            settings.blueprint_owners.insert(owner.clone());
                        }
                    })
                    .await
                }
                Call::RemoveOwner(call) => {
                    let owner = settings::owner(call.owner_to_remove.as_ref())?;
                    self.change(service, |settings| {
                        settings.owners.remove(&owner);
                        settings.blueprint_owners.remove(&owner);
                    })
                    .await
                }
                Call::UpdateTls(call) => match call.tls_profile {
                    Some(profile) => {
                        let profile = self.profile(service, &profile)?;
                        self.set_tls(service, profile).await
                    }
                    None => self.remove_tls(service).await,
                },
            }
        }
        .boxed()
    }
}
