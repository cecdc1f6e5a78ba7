//! What joining gave this machine, kept in one file.
//!
//! Invariants:
//! - `identity.json` is 0600 and replaced whole; a version that this agent does not know is refused, never overwritten;
//! - keys have no text form but in that file.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use blueprint_common_runtime::state::{Mode, StateDir, StateError};
use blueprint_common_tunnel_core::MTU_RANGE;
use blueprint_common_types::{
    AgentId, Carrier, HubId, OverlayLease, Secret, Timestamp, WgPrivateKey, WgPublicKey,
};
use blueprint_proto::v1;
use ipnetwork::{Ipv4Network, Ipv6Network};
use serde::{Deserialize, Serialize};

use crate::dial::HubAddress;

/// The file.
const FILE: &str = "identity.json";

/// Version of the file.
const VERSION: u32 = 1;

/// Ways to the hub that are kept at most.
const MAX_CARRIERS: usize = 16;

/// The stored identity cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file does not parse, or holds values that are none.
    #[error("identity.json is damaged ({0})")]
    Damaged(String),
    /// A newer agent wrote it.
    #[error("identity.json has version {0}, and this agent knows {VERSION}")]
    Version(u32),
    /// The disk refuses.
    #[error(transparent)]
    State(#[from] StateError),
}

/// A message of the hub holds a value that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the hub sent an unusable {0}")]
pub struct BadAnswer(pub &'static str);

/// Certificate and private key of the control plane.
#[derive(Debug, Clone)]
pub struct Credential {
    /// The agent's certificate, DER.
    pub certificate: Vec<u8>,
    /// Its private key, PKCS#8 DER.
    pub key: Secret<Vec<u8>>,
    /// Certificate of the hub's authority, DER.
    pub authority: Vec<u8>,
    /// Start of the certificate's life.
    pub not_before: Timestamp,
    /// End of the certificate's life.
    pub not_after: Timestamp,
}

/// One way to the hub.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// What carries the datagrams.
    pub carrier: Carrier,
    /// `HOST:PORT`; without a host it is the one of the control plane.
    pub endpoint: String,
}

/// What the agent has to know of the tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunnelSettings {
    /// Changes whenever the hub lost its tunnel sessions.
    pub epoch: u64,
    /// The hub as a peer.
    pub hub_key: WgPublicKey,
    /// Ways to the hub, best first.
    pub carriers: Vec<Offer>,
    /// The agent's own addresses.
    pub address: OverlayLease,
    /// The hub's addresses inside the tunnel.
    pub hub: OverlayLease,
    /// IPv4 prefix that is reached through the hub.
    pub overlay_v4: Ipv4Network,
    /// IPv6 prefix that is reached through the hub.
    pub overlay_v6: Ipv6Network,
    /// Largest inner packet in bytes.
    pub mtu: u16,
    /// Time between keepalives; zero for none.
    pub keepalive: Duration,
}

impl TryFrom<v1::TunnelConfig> for TunnelSettings {
    type Error = BadAnswer;

    fn try_from(config: v1::TunnelConfig) -> Result<Self, BadAnswer> {
        let key: [u8; 32] = config.hub_public_key.try_into().map_err(|_| BadAnswer("hub_public_key"))?;
        let mtu = u16::try_from(config.mtu).ok().filter(|mtu| MTU_RANGE.contains(mtu));
        if config.carriers.len() > MAX_CARRIERS {
            return Err(BadAnswer("carriers"));
        }
        let carriers = config.carriers.into_iter().filter_map(offer).collect::<Result<Vec<_>, _>>()?;
        if carriers.is_empty() {
            return Err(BadAnswer("carriers"));
        }
        Ok(Self {
            epoch: config.epoch,
            hub_key: WgPublicKey::from_bytes(key),
            carriers,
            address: lease(&config.address_v4, &config.address_v6).ok_or(BadAnswer("address"))?,
            hub: lease(&config.hub_v4, &config.hub_v6).ok_or(BadAnswer("hub address"))?,
            overlay_v4: config.overlay_v4.parse().map_err(|_| BadAnswer("overlay_v4"))?,
            overlay_v6: config.overlay_v6.parse().map_err(|_| BadAnswer("overlay_v6"))?,
            mtu: mtu.ok_or(BadAnswer("mtu"))?,
            keepalive: Duration::from_secs(config.keepalive_secs.min(3600).into()),
        })
    }
}

/// `None` for a kind that only a newer agent knows.
fn offer(offer: v1::CarrierOffer) -> Option<Result<Offer, BadAnswer>> {
    let carrier = Carrier::try_from(offer.kind()).ok()?;
    let is_good = split_endpoint(&offer.endpoint).is_some();
    Some(if is_good { Ok(Offer { carrier, endpoint: offer.endpoint }) } else { Err(BadAnswer("carriers")) })
}

fn lease(v4: &str, v6: &str) -> Option<OverlayLease> {
    let (v4, v6): (Ipv4Addr, Ipv6Addr) = (v4.parse().ok()?, v6.parse().ok()?);
    Some(OverlayLease { v4, v6 })
}

/// Host, empty where there is none, and port of an endpoint.
pub(crate) fn split_endpoint(endpoint: &str) -> Option<(&str, u16)> {
    let (host, port) = endpoint.rsplit_once(':')?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let port: u16 = port.parse().ok()?;
    (port != 0 && host.len() <= 253).then_some((host, port))
}

/// Who this machine is to its hub.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Where the hub is, as the join line said.
    pub hub: HubAddress,
    /// Which hub it is.
    pub hub_id: HubId,
    /// Who the agent is.
    pub agent_id: AgentId,
    /// Name for people.
    pub name: String,
    /// When this machine joined.
    pub joined_at: Timestamp,
    /// Key of the tunnel.
    pub wireguard_key: WgPrivateKey,
    /// Key and certificate of the control plane.
    pub credential: Credential,
    /// The tunnel, as the hub described it last.
    pub tunnel: TunnelSettings,
    /// When the hub said that it removed this agent.
    pub revoked_at: Option<Timestamp>,
}

impl Identity {
    /// Reads the stored identity; `None` where this machine has not joined.
    ///
    /// # Errors
    ///
    /// [`IdentityError`] where there is one that cannot be used.
    pub fn load(state: &StateDir) -> Result<Option<Self>, IdentityError> {
        #[derive(Deserialize)]
        struct Head {
            version: u32,
        }
        let Some(bytes) = state.read(FILE)? else { return Ok(None) };
        // A parser's message may quote what it read; only its place is told.
        let damaged = |error: serde_json::Error| {
            IdentityError::Damaged(format!("line {}, column {}", error.line(), error.column()))
        };
        let head: Head = serde_json::from_slice(&bytes).map_err(damaged)?;
        if head.version != VERSION {
            return Err(IdentityError::Version(head.version));
        }
        let stored: Stored = serde_json::from_slice(&bytes).map_err(damaged)?;
        stored.into_identity().map(Some)
    }

    /// Stores it; on the disk when this returns.
    ///
    /// # Errors
    ///
    /// [`IdentityError::State`] where the disk refuses; what was stored before is then untouched.
    pub fn store(&self, state: &StateDir) -> Result<(), IdentityError> {
        let bytes = serde_json::to_vec_pretty(&Stored::from_identity(self))
            .map_err(|error| IdentityError::Damaged(error.to_string()))?;
        Ok(state.write(FILE, &bytes, Mode::Secret)?)
    }

    /// Forgets the stored identity; does nothing where there is none.
    ///
    /// # Errors
    ///
    /// [`StateError`] where the disk refuses.
    pub fn forget(state: &StateDir) -> Result<(), StateError> {
        state.remove(FILE).map(drop)
    }
}

/// The file as written.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    version: u32,
    hub_host: String,
    hub_port: u16,
    hub_id: HubId,
    agent_id: AgentId,
    name: String,
    joined_at: Timestamp,
    revoked_at: Option<Timestamp>,
    wireguard_private_key: String,
    tls_private_key: String,
    certificate: String,
    authority: String,
    not_before: Timestamp,
    not_after: Timestamp,
    tunnel: StoredTunnel,
}

/// The tunnel as written.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredTunnel {
    epoch: u64,
    hub_public_key: String,
    carriers: Vec<Offer>,
    address: OverlayLease,
    hub: OverlayLease,
    overlay_v4: String,
    overlay_v6: String,
    mtu: u16,
    keepalive_secs: u32,
}

impl Stored {
    fn from_identity(identity: &Identity) -> Self {
        let Identity { credential, tunnel, .. } = identity;
        Self {
            version: VERSION,
            hub_host: identity.hub.host.clone(),
            hub_port: identity.hub.port,
            hub_id: identity.hub_id,
            agent_id: identity.agent_id,
            name: identity.name.clone(),
            joined_at: identity.joined_at,
            revoked_at: identity.revoked_at,
            wireguard_private_key: identity.wireguard_key.expose_text().expose().clone(),
            tls_private_key: STANDARD.encode(credential.key.expose()),
            certificate: STANDARD.encode(&credential.certificate),
            authority: STANDARD.encode(&credential.authority),
            not_before: credential.not_before,
            not_after: credential.not_after,
            tunnel: StoredTunnel {
                epoch: tunnel.epoch,
                hub_public_key: tunnel.hub_key.to_string(),
                carriers: tunnel.carriers.clone(),
                address: tunnel.address,
                hub: tunnel.hub,
                overlay_v4: tunnel.overlay_v4.to_string(),
                overlay_v6: tunnel.overlay_v6.to_string(),
                mtu: tunnel.mtu,
                keepalive_secs: u32::try_from(tunnel.keepalive.as_secs()).unwrap_or(u32::MAX),
            },
        }
    }

    fn into_identity(self) -> Result<Identity, IdentityError> {
        let damaged = |field: &'static str| IdentityError::Damaged(field.to_owned());
        let bytes = |text: &str, field: &'static str| STANDARD.decode(text).map_err(|_| damaged(field));
        let tunnel = self.tunnel.into_settings().map_err(damaged)?;
        Ok(Identity {
            hub: HubAddress { host: self.hub_host, port: self.hub_port },
            hub_id: self.hub_id,
            agent_id: self.agent_id,
            name: self.name,
            joined_at: self.joined_at,
            wireguard_key: self
                .wireguard_private_key
                .parse()
                .map_err(|_| damaged("wireguard_private_key"))?,
            credential: Credential {
                certificate: bytes(&self.certificate, "certificate")?,
                key: Secret::new(bytes(&self.tls_private_key, "tls_private_key")?),
                authority: bytes(&self.authority, "authority")?,
                not_before: self.not_before,
                not_after: self.not_after,
            },
            tunnel,
            revoked_at: self.revoked_at,
        })
    }
}

impl StoredTunnel {
    fn into_settings(self) -> Result<TunnelSettings, &'static str> {
        Ok(TunnelSettings {
            epoch: self.epoch,
            hub_key: self.hub_public_key.parse().map_err(|_| "hub_public_key")?,
            carriers: self.carriers,
            address: self.address,
            hub: self.hub,
            overlay_v4: self.overlay_v4.parse().map_err(|_| "overlay_v4")?,
            overlay_v6: self.overlay_v6.parse().map_err(|_| "overlay_v6")?,
            mtu: self.mtu,
            keepalive: Duration::from_secs(self.keepalive_secs.into()),
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn wire_config() -> v1::TunnelConfig {
        v1::TunnelConfig {
            epoch: 3,
            hub_public_key: vec![7; 32],
            carriers: vec![wire_offer(v1::carrier_offer::Kind::Udp, ":51820")],
            address_v4: "10.101.0.2".to_owned(),
            address_v6: "fd00::2".to_owned(),
            hub_v4: "10.101.0.1".to_owned(),
            hub_v6: "fd00::1".to_owned(),
            overlay_v4: "10.101.0.0/16".to_owned(),
            overlay_v6: "fd00::/64".to_owned(),
            mtu: 1420,
            keepalive_secs: 10,
        }
    }

    fn wire_offer(kind: v1::carrier_offer::Kind, endpoint: &str) -> v1::CarrierOffer {
        v1::CarrierOffer { kind: kind.into(), endpoint: endpoint.to_owned() }
    }

    pub(crate) fn identity() -> Identity {
        Identity {
            hub: HubAddress { host: "hub.example.org".to_owned(), port: 7443 },
            hub_id: HubId::random().unwrap(),
            agent_id: AgentId::random().unwrap(),
            name: "gpu-1".to_owned(),
            joined_at: Timestamp::from_millis(1_700_000_000_000),
            wireguard_key: WgPrivateKey::random().unwrap(),
            credential: Credential {
                certificate: b"certificate".to_vec(),
                key: Secret::new(b"canary-tls-key".to_vec()),
                authority: b"authority".to_vec(),
                not_before: Timestamp::from_millis(1),
                not_after: Timestamp::from_millis(2),
            },
            tunnel: wire_config().try_into().unwrap(),
            revoked_at: None,
        }
    }

    pub(crate) fn state() -> (tempfile::TempDir, StateDir) {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path().join("state")).unwrap();
        (dir, state)
    }

    #[test]
    fn an_identity_survives_its_file() {
        let (_dir, state) = state();
        assert!(Identity::load(&state).unwrap().is_none());
        let identity = identity();
        identity.store(&state).unwrap();
        let again = Identity::load(&state).unwrap().unwrap();
        assert_eq!(again.agent_id, identity.agent_id);
        assert_eq!(again.tunnel, identity.tunnel);
        assert_eq!(again.hub, identity.hub);
        assert!(again.wireguard_key == identity.wireguard_key);
        assert!(again.credential.key == identity.credential.key);
        assert_eq!(again.credential.not_after, identity.credential.not_after);
    }

    #[test]
    fn keys_are_not_printed() {
        let identity = identity();
        let text = format!("{identity:?}");
        assert!(!text.contains(identity.wireguard_key.expose_text().expose().as_str()));
        assert!(!text.contains("canary") && !text.contains("99, 97, 110, 97, 114, 121"), "{text}");
    }

    #[test]
    fn damage_and_a_newer_version_are_told_apart() {
        let (_dir, state) = state();
        state.write(FILE, b"{\"version\":2}", Mode::Secret).unwrap();
        assert!(matches!(Identity::load(&state), Err(IdentityError::Version(2))));
        state.write(FILE, b"{\"version\":1,\"tls_private_key\":\"canary\"}", Mode::Secret).unwrap();
        let error = Identity::load(&state).unwrap_err();
        assert!(matches!(error, IdentityError::Damaged(_)));
        assert!(!error.to_string().contains("canary"), "{error}");
    }

    #[test]
    fn every_wrong_field_of_a_config_is_refused() {
        type Spoil = fn(&mut v1::TunnelConfig);
        let spoils: [(Spoil, &str); 7] = [
            (|c| c.hub_public_key.truncate(31), "hub_public_key"),
            (|c| c.carriers.clear(), "carriers"),
            (|c| c.carriers = vec![wire_offer(v1::carrier_offer::Kind::Tls, "hub")], "carriers"),
            (|c| c.address_v4 = "x".to_owned(), "address"),
            (|c| c.hub_v6 = "10.0.0.1".to_owned(), "hub address"),
            (|c| c.overlay_v4 = "10.0.0.0/33".to_owned(), "overlay_v4"),
            (|c| c.mtu = 70_000, "mtu"),
        ];
        for (spoil, field) in spoils {
            let mut config = wire_config();
            spoil(&mut config);
            assert_eq!(TunnelSettings::try_from(config), Err(BadAnswer(field)));
        }
    }

    #[test]
    fn a_carrier_of_the_future_is_left_out() {
        let mut config = wire_config();
        config.carriers.push(v1::CarrierOffer { kind: 99, endpoint: "x".to_owned() });
        config.carriers.push(wire_offer(v1::carrier_offer::Kind::Quic, ":443"));
        let settings = TunnelSettings::try_from(config).unwrap();
        let kinds: Vec<_> = settings.carriers.iter().map(|offer| offer.carrier).collect();
        assert_eq!(kinds, [Carrier::Udp, Carrier::Quic]);
    }

    #[test]
    fn endpoints_split_at_the_last_colon() {
        assert_eq!(split_endpoint(":51820"), Some(("", 51820)));
        assert_eq!(split_endpoint("[::1]:5"), Some(("::1", 5)));
        assert_eq!(split_endpoint("hub:5"), Some(("hub", 5)));
        for wrong in ["", "hub", "hub:", "hub:0", "hub:70000"] {
            assert_eq!(split_endpoint(wrong), None, "{wrong}");
        }
    }
}
