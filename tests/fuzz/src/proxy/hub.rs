//! What the proxy knows in these targets: one service, one token that opens it, keys that nobody else has.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, LazyLock};

use blueprint_common_types::{AccessToken, AgentId, Health, Secret, ServiceKey, Timestamp};
use blueprint_hub_proxy_core::identity::{IdentitySigner, SealingKey};
use blueprint_hub_proxy_core::{AccessGrant, AccessTable, Downstream, RouteTable, Scope, Target, Trust};

pub(super) const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);
pub(super) const SERVICE: ServiceKey = ServiceKey { blueprint: 7, service: 42 };
pub(super) const SOURCE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 9));

pub(super) struct Hub {
    pub(super) token: AccessToken,
    pub(super) trust: Trust,
    pub(super) signer: IdentitySigner,
}

impl Hub {
    pub(super) fn get() -> &'static Self {
        static HUB: LazyLock<Hub> = LazyLock::new(Hub::new);
        &HUB
    }

    fn new() -> Self {
        let seed = Secret::new([9; 32]);
        let token = AccessToken::random().unwrap();
        let grant = AccessGrant {
            hash: token.hash(),
            label: "acme".to_owned(),
            scope: Scope::Only(BTreeSet::from([SERVICE])),
            expires_at: None,
            is_revoked: false,
        };
        let target = Target {
            address: SocketAddr::from(([10, 88, 0, 2], 80)),
            health: Health::Healthy,
            reason: String::new(),
            agent: AgentId::from_bytes([1; 16]),
            weight: 100,
        };
        let empty = Trust::empty(Arc::new(SealingKey::new(&seed).unwrap()));
        let trust = Trust {
            access: AccessTable::new([(token.id(), grant)]),
            routes: RouteTable::new([SERVICE], [(SERVICE, target)]),
            ..empty
        };
        Self { token, trust, signer: IdentitySigner::new(&seed, "hub").unwrap() }
    }

    pub(super) fn bearer(&self) -> String {
        format!("Bearer {}", self.token.expose_text().expose())
    }

    /// The lines that admit a request.
    pub(super) fn admitted(&self) -> String {
        format!("Host: hub\r\nAuthorization: {}\r\nX-Service-Id: 7/42\r\n", self.bearer())
    }

    pub(super) fn downstream(&self) -> Downstream<'static> {
        Downstream { source: SOURCE, tls: false, domain: "bp.example", request_id: "fresh" }
    }
}
