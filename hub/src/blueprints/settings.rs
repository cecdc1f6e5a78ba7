//! Owners and prefix of a service, as its blueprint names them.

use std::collections::BTreeSet;
use std::time::SystemTime;

use blueprint_common_types::ServiceKey;
use blueprint_hub_proxy_core::identity::{KeyKind, OwnerKey};
use blueprint_hub_proxy_core::{Service, ServiceSettings};
use blueprint_hub_registry_core::{ServiceChange, ServiceChangeError};
use blueprint_proto::blueprint_manager_bridge::{KeyType, ServiceOwner};
use serde_json::json;
use tonic::Status;
use tracing::error;

use super::BlueprintPort;

/// How often a change is made again where somebody else changed the settings meanwhile.
const TRIES: usize = 4;

/// Reads owners; the first that is none refuses all.
pub(super) fn owners(owners: &[ServiceOwner]) -> Result<BTreeSet<OwnerKey>, Status> {
    owners.iter().map(|one| owner(Some(one))).collect()
}

/// Reads an owner.
pub(super) fn owner(owner: Option<&ServiceOwner>) -> Result<OwnerKey, Status> {
    let owner = owner.ok_or_else(|| Status::invalid_argument("the owner is missing"))?;
    let kind = match owner.key_type() {
        KeyType::Ecdsa => KeyKind::Ecdsa,
        KeyType::Sr25519 => KeyKind::Sr25519,
        KeyType::Bn254Bls => KeyKind::Bn254Bls,
        KeyType::Unknown => return Err(Status::invalid_argument("key_type of the owner is not known")),
    };
    OwnerKey::new(kind, &owner.key_bytes).map_err(|error| Status::invalid_argument(error.to_string()))
}

impl BlueprintPort {
    /// Changes the settings of a service and has them in force.
    pub(super) async fn change(
        &self,
        service: ServiceKey,
        change: impl Fn(&mut ServiceSettings) + Send,
    ) -> Result<(), Status> {
        for _ in 0..TRIES {
            let records = self.store.list_services().await.map_err(|error| busy(service, &error))?;
            let record = records.into_iter().find(|record| record.service == service);
            let version = record.as_ref().map_or(0, |record| record.version);
            let before: ServiceSettings = match &record {
                Some(record) => {
                    serde_json::from_str(&record.document).map_err(|error| busy(service, &error))?
                }
                None => ServiceSettings::default(),
            };
            let mut settings = before.clone();
            change(&mut settings);
            if record.is_some() && settings == before {
                return Ok(());
            }
            let checked =
                Service::new(settings).map_err(|error| Status::invalid_argument(error.to_string()))?;
            let gone =
                before.owners.difference(&checked.settings().owners).map(ToString::to_string).collect();
            let stored = self.store.change_service(ServiceChange {
                service,
                document: json!(checked.settings()).to_string(),
                replaces: Some(version),
                revoke_owners: gone,
                summary: format!("{} owners, by its blueprint", checked.settings().owners.len()),
                now: SystemTime::now().into(),
            });
            match stored.await {
                Ok(_) => {
                    let in_force = self.tls.tables().reload().await;
                    return in_force.map_err(|error| Status::unavailable(error.to_string()));
                }
                Err(ServiceChangeError::Conflict { .. }) => {}
                Err(ServiceChangeError::Store(error)) => return Err(busy(service, &error)),
            }
        }
        Err(Status::aborted("the settings of the service are being changed by others; try again"))
    }
}

fn busy(service: ServiceKey, error: &(dyn std::error::Error + 'static)) -> Status {
    error!(%service, %error, "what a blueprint asked for is not stored");
    Status::unavailable("the hub cannot store this now; try again in a moment")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_that_is_none_refuses_all() {
        let point = [
            vec![2u8],
            vec![
                0x79, 0xbe, 0x66, 0x7e, 0xf9, 0xdc, 0xbb, 0xac, 0x55, 0xa0, 0x62, 0x95, 0xce, 0x87, 0x0b,
                0x07, 0x02, 0x9b, 0xfc, 0xdb, 0x2d, 0xce, 0x28, 0xd9, 0x59, 0xf2, 0x81, 0x5b, 0x16, 0xf8,
                0x17, 0x98,
            ],
        ]
        .concat();
        let one = ServiceOwner { key_type: KeyType::Ecdsa.into(), key_bytes: point };
        assert_eq!(owners(std::slice::from_ref(&one)).unwrap().len(), 1);
        for bad in [
            ServiceOwner { key_type: KeyType::Unknown.into(), ..one.clone() },
            ServiceOwner { key_type: 9, ..one.clone() },
            ServiceOwner { key_bytes: vec![1, 2, 3], ..one.clone() },
        ] {
            let refused = owners(&[one.clone(), bad]).unwrap_err();
            assert_eq!(refused.code(), tonic::Code::InvalidArgument);
        }
        assert_eq!(owner(None).unwrap_err().code(), tonic::Code::InvalidArgument);
    }
}
