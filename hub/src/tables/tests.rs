//! What is stored gets in force: with the real store, which is damaged and mended on the way.

use std::collections::BTreeSet;

use blueprint_common_runtime::tasks::Supervisor;
use blueprint_common_types::{AccessToken, Secret, Timestamp};
use blueprint_hub_proxy::tls::TlsHandle;
use blueprint_hub_proxy::{ApiKey, KeyStore};
use blueprint_hub_proxy_core::ServiceSettings;
use blueprint_hub_proxy_core::identity::{KeyKind, NewApiKey, OwnerKey};
use blueprint_hub_proxy_core::tls::{NewProfile, TlsAdmin};
use blueprint_hub_registry::Registrar;
use blueprint_hub_registry_core::{AddressPool, Registry, ServiceChange, TlsStore};
use blueprint_hub_store::SqliteStore;
use futures_util::future::FutureExt;

use super::*;
use crate::stored_keys::StoredKeys;
use crate::tls::{ProxyHandshakes, TlsOperator};

const SERVICE: ServiceKey = ServiceKey { blueprint: 7, service: 42 };

/// The tables over a store in a folder of its own, followed until it is dropped.
struct Rig {
    store: Arc<dyn Store>,
    tables: TablesHandle,
    trust: Arc<ArcSwap<Trust>>,
    tls: Arc<TlsServices>,
    supervisor: Supervisor,
    _folder: tempfile::TempDir,
}

impl Rig {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let opened = Arc::new(SqliteStore::open(folder.path()).unwrap());
        let tls_store: Arc<dyn TlsStore> = opened.clone();
        let store: Arc<dyn Store> = opened;
        let now = Timestamp::from_millis(1_000);
        let ttl = Duration::from_secs(30);
        let registry = Registry::restore(Vec::new(), Vec::new(), BTreeMap::new(), 1, now, ttl);
        let pool = AddressPool::new("10.88.0.0/29".parse().unwrap(), "fd00::/64".parse().unwrap()).unwrap();
        let (registrar, handle) = Registrar::new(registry, pool, Arc::clone(&store));
        let sealing = Arc::new(SealingKey::new(&Secret::new([7; 32])).unwrap());
        let handshakes = ProxyHandshakes {
            handle: Some(TlsHandle::new(None, &Metrics::new()).unwrap()),
            ..ProxyHandshakes::default()
        };
        let tls = Arc::new(TlsServices::new(tls_store, Arc::clone(&sealing), "bp", &handshakes));
        let (task, tables, trust) =
            TablesTask::new(Arc::clone(&store), handle, sealing, Arc::clone(&tls)).await.unwrap();
        let supervisor = Supervisor::new();
        let stop = supervisor.stop().stop;
        crate::app::spawn(&supervisor, "registrar", registrar.run(stop.clone()));
        crate::app::spawn(&supervisor, "tables", task.run(stop));
        Self { store, tables, trust, tls, supervisor, _folder: folder }
    }

    /// Replaces the settings of the service, whatever they are worth.
    async fn write(&self, document: &str) {
        let change = ServiceChange {
            service: SERVICE,
            document: document.to_owned(),
            replaces: None,
            revoke_owners: Vec::new(),
            summary: String::new(),
            now: Timestamp::from_millis(2_000),
        };
        self.store.change_service(change).await.unwrap();
    }

    /// Waits until the proxy decides by what `holds`; changes that nobody asks for come by themselves.
    async fn until(&self, holds: impl Fn(&Trust) -> bool) {
        let wait = async {
            while !holds(&self.trust.load()) {
                // As fast as the store answers.
                self.store.list_services().await.unwrap();
            }
        };
        tokio::time::timeout(Duration::from_secs(20), wait).await.expect("never in force");
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.supervisor.stop().stop.cancel();
    }
}

#[tokio::test]
async fn a_revocation_that_cannot_be_read_back_is_an_error_and_is_retried_until_it_holds() {
    let rig = Rig::start().await;
    let token = AccessToken::random().unwrap();
    let record = AccessTokenRecord {
        id: token.id(),
        hash: token.hash(),
        label: String::new(),
        created_at: Timestamp::from_millis(1_000),
        expires_at: None,
        revoked_at: None,
        services: AccessScope::All,
    };
    rig.store.create_access_token(record).await.unwrap();
    assert_eq!(rig.tables.reload().await, Ok(()));
    let grants = |revoked| {
        let grant = AccessGrant {
            hash: token.hash(),
            label: String::new(),
            scope: Scope::All,
            expires_at: None,
            is_revoked: revoked,
        };
        AccessTable::new([(token.id(), grant)])
    };
    assert_eq!(rig.trust.load().access, grants(false));

    rig.write("{").await;
    assert!(rig.store.revoke_access_token(token.id(), Timestamp::from_millis(2_000)).await.unwrap());
    assert_eq!(rig.tables.reload().await, Err(NotInForce), "nobody is told that it holds");
    assert_eq!(*rig.tables.failures.borrow(), 1);
    assert_eq!(rig.trust.load().access, grants(false));

    // Mended, and nobody asks again.
    rig.write(&serde_json::to_string(&ServiceSettings::default()).unwrap()).await;
    rig.tables.failures.clone().wait_for(|failures| *failures == 0).await.unwrap();
    assert_eq!(rig.trust.load().access, grants(true));
}

#[tokio::test]
async fn what_a_client_changed_gets_in_force_also_where_it_leaves_at_once() {
    let rig = Rig::start().await;
    let spawner = rig.supervisor.child_spawner();
    let keys = StoredKeys { store: Arc::clone(&rig.store), tables: rig.tables.clone(), spawner };
    let key = NewApiKey::random("ak_").unwrap();
    let point = blueprint_hub_proxy_core::identity::decode_hex(
        "0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798",
    );
    let kept = ApiKey {
        id: key.id.clone(),
        hash: key.hash,
        service: SERVICE,
        owner: OwnerKey::new(KeyKind::Ecdsa, &point.unwrap()).unwrap(),
        headers: BTreeMap::new(),
        created_at: Timestamp::from_millis(1_000),
        expires_at: Timestamp::from_millis(9_000),
    };
    assert!(keys.create(kept).now_or_never().is_none(), "asked once, and left");
    rig.until(|trust| trust.keys.len() == 1).await;

    let operator = TlsOperator::new(
        Arc::clone(&rig.tls),
        (rig.tables.clone(), Arc::clone(&rig.trust)),
        None,
        &rig.supervisor,
    );
    let profile = NewProfile { require_client_mtls: true, ..NewProfile::default() };
    assert!(operator.set(SERVICE, profile).now_or_never().is_none(), "asked once, and left");
    rig.until(|trust| trust.tls.keys().copied().collect::<BTreeSet<_>>() == BTreeSet::from([SERVICE])).await;
    assert!(operator.remove(SERVICE).now_or_never().is_none(), "asked once, and left");
    rig.until(|trust| trust.tls.is_empty()).await;
}
