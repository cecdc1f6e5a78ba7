//! What has to stand before a droplet is ordered: a firewall that lets nothing in, and an SSH key that nobody holds.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use blueprint_common_types::HubId;
use blueprint_hub_provision_core::{ProviderError, Tidied};
use http::Method;
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::Mutex;
use tracing::{info, warn};

use crate::api::{Api, Call, Rows, call};
use crate::tags;

pub(crate) const TAG_CREATE: Call = call("tags_create", "tag:create");
pub(crate) const FIREWALL_LIST: Call = call("firewalls_list", "firewall:read");
pub(crate) const FIREWALL_GET: Call = call("firewalls_get", "firewall:read");
pub(crate) const FIREWALL_CREATE: Call = call("firewalls_create", "firewall:create");
pub(crate) const FIREWALL_UPDATE: Call = call("firewalls_update", "firewall:update");
pub(crate) const FIREWALL_DELETE: Call = call("firewalls_delete", "firewall:delete");
pub(crate) const KEY_DELETE: Call = call("sshKeys_delete", "ssh_key:delete");
pub(crate) const KEY_LIST: Call = call("sshKeys_list", "ssh_key:read");
pub(crate) const KEY_CREATE: Call = call("sshKeys_create", "ssh_key:create");

/// Everything, in both families.
const ANYWHERE: [&str; 2] = ["0.0.0.0/0", "::/0"];

/// What goes out; what is not listed does not. Port "0" is all of them.
const PROTOCOLS: [&str; 3] = ["tcp", "udp", "icmp"];

/// Names of what was made, so that it is not looked for each time.
#[derive(Debug, Default)]
struct Kept {
    firewall: Option<String>,
    key: Option<u64>,
}

/// The hub's firewall and key.
#[derive(Debug)]
pub(crate) struct Guard {
    name: String,
    /// Held while they are looked for, so that of two orders at once one makes them.
    kept: Mutex<Kept>,
}

#[derive(Debug, Deserialize)]
struct Firewall {
    id: String,
    name: String,
    #[serde(default)]
    tags: Option<Vec<String>>,
    #[serde(default)]
    droplet_ids: Option<Vec<u64>>,
    #[serde(default)]
    inbound_rules: Option<Vec<Value>>,
    #[serde(default)]
    outbound_rules: Option<Vec<Outbound>>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Outbound {
    protocol: String,
    #[serde(default)]
    ports: String,
    #[serde(default)]
    destinations: Destinations,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Destinations {
    #[serde(default)]
    addresses: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct OneFirewall {
    firewall: Firewall,
}

#[derive(Deserialize)]
struct Firewalls {
    firewalls: Vec<Firewall>,
}

impl Rows for Firewalls {
    type Row = Firewall;

    fn rows(self) -> Vec<Firewall> {
        self.firewalls
    }

    fn id(row: &Firewall) -> String {
        row.id.clone()
    }
}

#[derive(Serialize)]
struct WantedFirewall<'a> {
    name: &'a str,
    tags: [&'a str; 1],
    droplet_ids: Vec<u64>,
    inbound_rules: [(); 0],
    outbound_rules: Vec<Outbound>,
}

#[derive(Serialize)]
struct WantedTag<'a> {
    name: &'a str,
}

#[derive(Deserialize)]
struct SshKey {
    id: u64,
    name: String,
}

#[derive(Deserialize)]
struct OneKey {
    ssh_key: SshKey,
}

#[derive(Deserialize)]
struct SshKeys {
    ssh_keys: Vec<SshKey>,
}

impl Rows for SshKeys {
    type Row = SshKey;

    fn rows(self) -> Vec<SshKey> {
        self.ssh_keys
    }

    fn id(row: &SshKey) -> String {
        row.id.to_string()
    }
}

#[derive(Serialize)]
struct WantedKey<'a> {
    name: &'a str,
    public_key: String,
}

impl Firewall {
    /// Whether it lets nothing in and everything out.
    fn is_right(&self, tag: &str) -> bool {
        let lets_out = |protocol: &str| {
            self.outbound_rules.iter().flatten().any(|rule| {
                let addresses = rule.destinations.addresses.as_deref().unwrap_or_default();
                rule.protocol == protocol
                    && matches!(rule.ports.as_str(), "" | "0" | "all" | "1-65535")
                    && ANYWHERE.iter().all(|wanted| addresses.iter().any(|address| address == wanted))
            })
        };
        self.inbound_rules.as_deref().unwrap_or_default().is_empty()
            && self.tags.iter().flatten().any(|own| own.eq_ignore_ascii_case(tag))
            && PROTOCOLS.iter().all(|protocol| lets_out(protocol))
    }
}

impl Guard {
    /// That of one hub.
    pub(crate) fn new(hub: HubId) -> Self {
        Self { name: tags::of_hub(hub), kept: Mutex::default() }
    }

    /// Sees to it that both stand, and gives the id of the key.
    ///
    /// The firewall is looked at each time: a person may have opened it, and a machine must not be born behind that.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves a firewall or a key, which the next call finds by its name.
    pub(crate) async fn stand(&self, api: &Api) -> Result<u64, ProviderError> {
        let mut kept = self.kept.lock().await;
        let found = match kept.firewall.take() {
            Some(id) => self.firewall_by_id(api, &id).await?,
            None => None,
        };
        let found = match found {
            Some(found) => Some(found),
            None => self.firewall_by_name(api).await?,
        };
        kept.firewall = Some(match found {
            Some(found) if found.is_right(&self.name) => found.id,
            Some(found) => self.mend(api, found).await?,
            None => self.make_firewall(api).await?,
        });
        let key = match kept.key {
            Some(key) => key,
            None => self.key(api).await?,
        };
        kept.key = Some(key);
        Ok(key)
    }

    /// Deletes both. The tag that the firewall goes by stays: with it every droplet would lose the sign of whose it is, also one
    /// that no list showed yet.
    pub(crate) async fn remove(&self, api: &Api, tidied: &mut Tidied) -> Result<(), ProviderError> {
        let mut kept = self.kept.lock().await;
        *kept = Kept::default();
        let mut gone = |kind: &str| {
            info!(target: "audit", provider = "digitalocean", what = kind, name = self.name, "deleted, since no machine stands");
            tidied.removed.push(format!("{kind} {}", self.name));
        };
        let (firewalls, _) = api.list::<Firewalls>(FIREWALL_LIST, "/v2/firewalls").await?;
        for firewall in firewalls.iter().filter(|firewall| firewall.name == self.name) {
            api.delete(FIREWALL_DELETE, &format!("/v2/firewalls/{}", firewall.id), None).await?;
            gone("firewall");
        }
        let (keys, _) = api.list::<SshKeys>(KEY_LIST, "/v2/account/keys").await?;
        for key in keys.iter().filter(|key| key.name == self.name) {
            api.delete(KEY_DELETE, &format!("/v2/account/keys/{}", key.id), None).await?;
            gone("SSH key");
        }
        if !tidied.removed.is_empty() {
            tidied.kept.push(format!("tag {}: droplets are known by it, and it costs nothing", self.name));
        }
        Ok(())
    }

    /// The key is not there any more: the next call makes another.
    pub(crate) async fn forget_key(&self) {
        self.kept.lock().await.key = None;
    }

    async fn firewall_by_id(&self, api: &Api, id: &str) -> Result<Option<Firewall>, ProviderError> {
        let found: Option<OneFirewall> = api.find(FIREWALL_GET, &format!("/v2/firewalls/{id}")).await?;
        Ok(found.map(|found| found.firewall))
    }

    async fn firewall_by_name(&self, api: &Api) -> Result<Option<Firewall>, ProviderError> {
        let (firewalls, _) = api.list::<Firewalls>(FIREWALL_LIST, "/v2/firewalls").await?;
        Ok(firewalls.into_iter().find(|firewall| firewall.name == self.name))
    }

    fn wanted(&self, droplet_ids: Vec<u64>) -> WantedFirewall<'_> {
        let outbound_rules = PROTOCOLS.map(|protocol| Outbound {
            protocol: protocol.to_owned(),
            ports: "0".to_owned(),
            destinations: Destinations { addresses: Some(ANYWHERE.map(str::to_owned).to_vec()) },
        });
        WantedFirewall {
            name: &self.name,
            tags: [&self.name],
            droplet_ids,
            inbound_rules: [],
            outbound_rules: outbound_rules.into(),
        }
    }

    async fn make_firewall(&self, api: &Api) -> Result<String, ProviderError> {
        self.make_tag(api).await?;
        let body = self.wanted(Vec::new());
        let made: OneFirewall = api.write(FIREWALL_CREATE, Method::POST, "/v2/firewalls", &body).await?;
        info!(target: "audit", provider = "digitalocean", firewall = self.name, "firewall created");
        Ok(made.firewall.id)
    }

    async fn mend(&self, api: &Api, found: Firewall) -> Result<String, ProviderError> {
        warn!(
            provider = "digitalocean",
            firewall = self.name,
            "the firewall of the machines was changed by hand; it is set back to let nothing in and everything out"
        );
        self.make_tag(api).await?;
        let body = self.wanted(found.droplet_ids.unwrap_or_default());
        let path = format!("/v2/firewalls/{}", found.id);
        let made: OneFirewall = api.write(FIREWALL_UPDATE, Method::PUT, &path, &body).await?;
        Ok(made.firewall.id)
    }

    /// A firewall may only name tags that are there; one that is there is made again without harm.
    async fn make_tag(&self, api: &Api) -> Result<(), ProviderError> {
        let _: Value =
            api.write(TAG_CREATE, Method::POST, "/v2/tags", &WantedTag { name: &self.name }).await?;
        Ok(())
    }

    async fn key(&self, api: &Api) -> Result<u64, ProviderError> {
        let (keys, _) = api.list::<SshKeys>(KEY_LIST, "/v2/account/keys").await?;
        if let Some(key) = keys.iter().find(|key| key.name == self.name) {
            return Ok(key.id);
        }
        let body = WantedKey { name: &self.name, public_key: public_key(&self.name)? };
        let made: OneKey = api.write(KEY_CREATE, Method::POST, "/v2/account/keys", &body).await?;
        info!(target: "audit", provider = "digitalocean", ssh_key = self.name, "ssh key that nobody holds created");
        Ok(made.ssh_key.id)
    }
}

/// The public half of a new key, as OpenSSH writes it (RFC 8709, section 4); the private half is never kept.
fn public_key(comment: &str) -> Result<String, ProviderError> {
    const KIND: &[u8] = b"ssh-ed25519";
    let unmade =
        |_| ProviderError::Busy { reason: "the system gave no randomness for an SSH key".to_owned() };
    let pair = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(unmade)?;
    let pair = Ed25519KeyPair::from_pkcs8(pair.as_ref())
        .map_err(|_| ProviderError::Busy { reason: "a new SSH key cannot be read".to_owned() })?;
    let mut blob = Vec::with_capacity(51);
    for part in [KIND, pair.public_key().as_ref()] {
        blob.extend_from_slice(&u32::try_from(part.len()).unwrap_or_default().to_be_bytes());
        blob.extend_from_slice(part);
    }
    Ok(format!("ssh-ed25519 {} {comment}", STANDARD.encode(blob)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_one_that_openssh_reads() {
        let text = public_key("bp-hub-x").unwrap();
        let mut words = text.split(' ');
        assert_eq!(words.next(), Some("ssh-ed25519"));
        let blob = STANDARD.decode(words.next().unwrap()).unwrap();
        assert_eq!((blob.len(), &blob[..19]), (51, &b"\0\0\0\x0bssh-ed25519\0\0\0\x20"[..]));
        assert_eq!(words.next(), Some("bp-hub-x"));
        assert_ne!(text, public_key("bp-hub-x").unwrap());
    }

    #[test]
    fn a_firewall_that_was_opened_or_closed_by_hand_is_seen() {
        let guard = Guard::new("00112233-4455-6677-8899-aabbccddeeff".parse().unwrap());
        let right = serde_json::to_value(guard.wanted(Vec::new())).unwrap();
        let is_right = |change: &dyn Fn(&mut Value)| {
            let mut firewall = right.clone();
            firewall["id"] = "x".into();
            change(&mut firewall);
            serde_json::from_value::<Firewall>(firewall).unwrap().is_right(&guard.name)
        };
        assert!(is_right(&|_| {}));
        assert!(is_right(&|firewall| firewall["inbound_rules"] = Value::Null));
        assert!(is_right(&|firewall| firewall["outbound_rules"][0]["ports"] = "all".into()));
        assert!(!is_right(&|firewall| firewall["inbound_rules"] = serde_json::json!([{"protocol": "tcp"}])));
        assert!(!is_right(&|firewall| firewall["tags"] = Value::Null));
        assert!(!is_right(&|firewall| firewall["outbound_rules"][1]["ports"] = "53".into()));
        assert!(!is_right(&|firewall| {
            firewall["outbound_rules"][0]["destinations"]["addresses"] = serde_json::json!(["0.0.0.0/0"]);
        }));
    }
}
