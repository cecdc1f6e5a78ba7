//! Records to store, and a store in a folder of its own.

use std::net::SocketAddr;
use std::time::Duration;

use blueprint_common_types::{
    AgentId, Health, JoinToken, OverlayLease, ServiceKey, TargetKey, Timestamp, WgPublicKey,
};
use blueprint_hub_registry_core::{Agent, JoinCommit, JoinTokenRecord, ServiceGrant, Store, TargetRecord};
use blueprint_hub_store::SqliteStore;
use tempfile::TempDir;

/// Noon of the tests.
pub(crate) const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);
pub(crate) const MINUTE: Duration = Duration::from_secs(60);

pub(crate) fn store() -> (TempDir, SqliteStore) {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(dir.path()).unwrap();
    (dir, store)
}

pub(crate) fn id(n: u16) -> AgentId {
    let [high, low] = n.to_be_bytes();
    let mut bytes = [0; 16];
    bytes[..2].copy_from_slice(&[high, low]);
    AgentId::from_bytes(bytes)
}

pub(crate) fn agent(n: u16, token: &JoinToken) -> Agent {
    let [high, low] = n.to_be_bytes();
    let mut key = [7; 32];
    key[..2].copy_from_slice(&[high, low]);
    Agent {
        id: id(n),
        name: format!("node-{n}"),
        wireguard_key: WgPublicKey::from_bytes(key),
        lease: OverlayLease { v4: [10, 88, high, low].into(), v6: [0xfd00, 0, 0, 0, 0, 0, 0, n].into() },
        joined_at: NOW,
        generation: 1,
        token: token.id(),
        services: ServiceGrant::FirstClaim,
        agent_version: "0.1.0".to_owned(),
    }
}

pub(crate) fn record(token: &JoinToken, uses: u32) -> JoinTokenRecord {
    JoinTokenRecord {
        id: token.id(),
        hash: token.hash(),
        label: "test".to_owned(),
        created_at: NOW,
        expires_at: NOW.plus(15 * MINUTE),
        uses_left: uses,
        uses,
        services: "7/42".parse().unwrap(),
        address: None,
    }
}

pub(crate) async fn token(store: &SqliteStore, uses: u32) -> JoinToken {
    let token = JoinToken::random().unwrap();
    store.create_join_token(record(&token, uses)).await.unwrap();
    token
}

pub(crate) fn commit(n: u16, token: &JoinToken) -> JoinCommit {
    JoinCommit {
        token_id: token.id(),
        token_hash: token.hash(),
        identity: None,
        agent: agent(n, token),
        certificate_serial: n.to_be_bytes().to_vec(),
        not_after: NOW.plus(24 * 60 * MINUTE),
        now: NOW,
    }
}

pub(crate) fn target(n: u16, service: ServiceKey, port: u16) -> TargetRecord {
    let [high, low] = n.to_be_bytes();
    TargetRecord {
        key: TargetKey { service, agent: id(n), port },
        health: Health::Healthy,
        reason: String::new(),
        address: SocketAddr::from(([10, 88, high, low], port)),
        expires_at: NOW.plus(MINUTE),
        agent_name: format!("node-{n}"),
        generation: u64::from(n),
        weight: 100,
    }
}
