//! TLS profiles and client certificates.

use std::time::Duration;

use blueprint_common_types::ServiceKey;
use blueprint_hub_registry_core::{
    AuditKind, ClientCertificateError, ClientCertificateRecord, Store, TlsProfileRecord, TlsStore,
};
use blueprint_hub_store::SqliteStore;

use crate::support::{NOW, store};

const SERVICE: ServiceKey = ServiceKey { blueprint: u64::MAX, service: 42 };

fn profile(document: &str) -> TlsProfileRecord {
    let (document, sealed) = (document.to_owned(), "v4.local.sealed".to_owned());
    TlsProfileRecord { service: SERVICE, document, sealed, changed_at: NOW }
}

fn certificate(serial: &str) -> ClientCertificateRecord {
    ClientCertificateRecord {
        service: SERVICE,
        serial: serial.to_owned(),
        name: "acme".to_owned(),
        created_at: NOW,
        expires_at: Some(NOW.plus(Duration::from_secs(3600))),
        revoked_at: None,
    }
}

#[tokio::test]
async fn profiles_replace_each_other_survive_and_take_their_certificates_along() {
    let (dir, store) = store();
    assert_eq!(store.list_tls_profiles().await.unwrap(), []);
    for document in ["{}", "{\"a\":1}"] {
        store.set_tls_profile(profile(document), "mutual".to_owned()).await.unwrap();
    }
    store.create_client_certificate(certificate("4001"), 8).await.unwrap();
    drop(store);
    let store = SqliteStore::open(dir.path()).unwrap();
    assert_eq!(store.list_tls_profiles().await.unwrap(), [profile("{\"a\":1}")]);
    assert_eq!(store.list_client_certificates().await.unwrap(), [certificate("4001")]);
    assert!(store.remove_tls_profile(SERVICE, NOW).await.unwrap());
    assert!(!store.remove_tls_profile(SERVICE, NOW).await.unwrap());
    assert_eq!(store.list_client_certificates().await.unwrap(), []);
    let kinds: Vec<_> = store.audit_tail(9).await.unwrap().iter().map(|row| row.event.kind).collect();
    let set = AuditKind::TlsProfileSet;
    assert_eq!(kinds, [set, set, AuditKind::ClientCertificateIssue, AuditKind::TlsProfileRemove]);
}

#[tokio::test]
async fn certificates_are_bounded_and_revoked_once_also_those_of_others() {
    let (_dir, store) = store();
    for serial in ["4001", "4002"] {
        store.create_client_certificate(certificate(serial), 2).await.unwrap();
    }
    let full = store.create_client_certificate(certificate("4003"), 2).await;
    assert!(matches!(full, Err(ClientCertificateError::TooMany { live: 2 })), "{full:?}");
    for serial in ["4001", "beef"] {
        assert!(store.revoke_client_certificate(SERVICE, serial.to_owned(), NOW).await.unwrap());
        assert!(!store.revoke_client_certificate(SERVICE, serial.to_owned(), NOW).await.unwrap());
    }
    store.create_client_certificate(certificate("4003"), 2).await.unwrap();
    let records = store.list_client_certificates().await.unwrap();
    let seen: Vec<_> = records.iter().map(|r| (r.serial.as_str(), r.revoked_at.is_some())).collect();
    assert_eq!(seen, [("4001", true), ("4002", false), ("4003", false), ("beef", true)]);
    assert_eq!(records.last().unwrap().expires_at, None);

    // Long after their end they are forgotten, but for those whose end nobody knows.
    let late = NOW.plus(Duration::from_secs(40 * 24 * 3600));
    let after = ClientCertificateRecord { created_at: late, ..certificate("4004") };
    store.create_client_certificate(after, 2).await.unwrap();
    let left: Vec<_> = store.list_client_certificates().await.unwrap();
    assert_eq!(left.iter().map(|r| r.serial.as_str()).collect::<Vec<_>>(), ["beef", "4004"]);
}
