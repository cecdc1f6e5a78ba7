//! What a hub keeps in its state folder beside the database.

use std::net::UdpSocket;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Context, Result, anyhow};
use blueprint_common_runtime::state::{Mode, StateDir};
use blueprint_common_types::{AccessToken, HubId, Secret, WgPrivateKey};
use blueprint_hub_proxy_core::identity::{IdentitySigner, SealingKey, decode_hex};
use blueprint_hub_registry::Authority;

/// Identity of the hub, in text.
const ID: &str = "hub-id";
/// Certificate of the authority, DER.
pub(crate) const CA_CERTIFICATE: &str = "ca.der";
/// Key of the authority, PKCS#8 DER.
const CA_KEY: &str = "ca.key";
/// Key of the tunnel, base64.
const WIREGUARD_KEY: &str = "wireguard.key";
/// Bearer token of the TCP port of the JSON API.
pub(crate) const ADMIN_TOKEN: &str = "admin.token";
/// Bearer token of the TCP port for scrapers.
pub(crate) const METRICS_TOKEN: &str = "metrics.token";
/// Seed of the key that signs who calls, for services.
const IDENTITY_KEY: &str = "identity.key";
/// Key that seals the proxy's tokens of a few minutes.
const SEALING_KEY: &str = "sealing.key";
/// From which the keys of blueprints' envelopes are made.
const ENVELOPE_KEY: &str = "envelope.key";
/// Takes the place of that file: 64 hexadecimal digits, as the existing Blueprint auth proxy reads it.
const SEALING_VARIABLE: &str = "PASETO_SIGNING_KEY";
/// Shortest token that is taken, in characters.
const MIN_TOKEN: usize = 32;
/// Default configuration file inside the state folder.
pub(crate) const CONFIG: &str = "hub.toml";
/// Places that orders may name.
pub(crate) const REMOTES: &str = "remotes.toml";
/// Machines that others made.
pub(crate) const KNOWN: &str = "known-machines.json";
/// Unix socket of the JSON API.
pub(crate) const ADMIN_SOCKET: &str = "hub.sock";
/// Unix socket of the operator's gRPC.
pub(crate) const REGISTRY_SOCKET: &str = "registry.sock";

/// Keys and identity of a hub.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) authority: Authority,
    pub(crate) wireguard: WgPrivateKey,
    pub(crate) admin_token: Secret<String>,
    pub(crate) metrics_token: Secret<String>,
}

/// Keys of the proxy, made where a hub of an earlier version has none.
pub(crate) struct ProxyKeys {
    pub(crate) signer: Arc<IdentitySigner>,
    pub(crate) sealing: Arc<SealingKey>,
}

/// Reads the proxy's keys, or makes them.
pub(crate) fn proxy_keys(state: &StateDir, hub: &str) -> Result<ProxyKeys> {
    let signing = seed(state, IDENTITY_KEY)?;
    let signer = IdentitySigner::new(&signing, hub).context("no signing key can be made")?;
    let sealing = match std::env::var(SEALING_VARIABLE) {
        Err(_) => seed(state, SEALING_KEY)?,
        Ok(digits) => {
            let digits = Secret::new(digits);
            let bytes = decode_hex(digits.expose().trim()).and_then(|bytes| bytes.try_into().ok());
            Secret::new(bytes.with_context(|| format!("{SEALING_VARIABLE} is not 64 hexadecimal digits"))?)
        }
    };
    let sealing = SealingKey::new(&sealing).context("no sealing key can be made")?;
    Ok(ProxyKeys { signer: Arc::new(signer), sealing: Arc::new(sealing) })
}

/// From which the keys of blueprints' envelopes are made.
pub(crate) fn envelope_seed(state: &StateDir) -> Result<Secret<[u8; 32]>> {
    seed(state, ENVELOPE_KEY)
}

/// The token for scrapers, made where there is none.
fn metrics_token(state: &StateDir) -> Result<Secret<String>> {
    if let Some(bytes) = state.read(METRICS_TOKEN)? {
        let text = String::from_utf8(bytes).ok().map(|text| text.trim().to_owned());
        let path = state.path(METRICS_TOKEN);
        return match text.filter(|text| text.len() >= MIN_TOKEN) {
            Some(text) => Ok(Secret::new(text)),
            None => Err(anyhow!(
                "{} holds no token of {MIN_TOKEN} characters or more; restore it, or delete it to make another",
                path.display()
            )),
        };
    }
    let token = AccessToken::random()?.expose_text();
    state.write(METRICS_TOKEN, token.expose().as_bytes(), Mode::Secret)?;
    Ok(token)
}

/// 32 random bytes that are made once.
fn seed(state: &StateDir, name: &str) -> Result<Secret<[u8; 32]>> {
    if let Some(bytes) = state.read(name)? {
        let path = state.path(name);
        return match bytes.try_into() {
            Ok(bytes) => Ok(Secret::new(bytes)),
            Err(_) => Err(anyhow!(
                "{} does not hold 32 bytes; restore it, or delete it to make another",
                path.display()
            )),
        };
    }
    let mut bytes = [0u8; 32];
    blueprint_common_types::fill_random(&mut bytes)?;
    state.write(name, &bytes, Mode::Secret)?;
    Ok(Secret::new(bytes))
}

/// True where `init` was here.
pub(crate) fn is_initialised(state: &StateDir) -> Result<bool> {
    Ok(state.read(ID)?.is_some())
}

/// Makes identity and keys. The identity is written last: a folder with one is whole.
pub(crate) fn create(state: &StateDir) -> Result<Identity> {
    let hub = HubId::random()?;
    let (authority, key) = Authority::create(hub, SystemTime::now())?;
    let wireguard = WgPrivateKey::random()?;
    let token = AccessToken::random()?.expose_text();
    state.write(CA_CERTIFICATE, authority.certificate(), Mode::Plain)?;
    state.write(CA_KEY, key.expose(), Mode::Secret)?;
    state.write(WIREGUARD_KEY, wireguard.expose_text().expose().as_bytes(), Mode::Secret)?;
    state.write(ADMIN_TOKEN, token.expose().as_bytes(), Mode::Secret)?;
    state.write(ID, hub.to_string().as_bytes(), Mode::Plain)?;
    Ok(Identity { authority, wireguard, admin_token: token, metrics_token: metrics_token(state)? })
}

/// Reads identity and keys back.
pub(crate) fn load(state: &StateDir) -> Result<Identity> {
    let need =
        |name: &str| state.read(name)?.ok_or_else(|| anyhow!("{} is missing", state.path(name).display()));
    let text = |name: &str| -> Result<Secret<String>> {
        let text = String::from_utf8(need(name)?)
            .map_err(|_| anyhow!("{} is damaged", state.path(name).display()))?;
        Ok(Secret::new(text.trim().to_owned()))
    };
    let hub: HubId = text(ID)?.expose().parse()?;
    let authority = Authority::load(hub, need(CA_CERTIFICATE)?, &Secret::new(need(CA_KEY)?))
        .context("cannot read the hub's authority")?;
    let wireguard = text(WIREGUARD_KEY)?.expose().parse().context("cannot read the hub's WireGuard key")?;
    let admin_token = text(ADMIN_TOKEN)?;
    Ok(Identity { authority, wireguard, admin_token, metrics_token: metrics_token(state)? })
}

/// The address this machine would use towards the internet, else its host name. Sends nothing: connecting a
/// UDP socket only asks the routing table (192.0.2.1 is reserved for documentation, RFC 5737).
pub(crate) fn guess_advertise() -> String {
    let routed = UdpSocket::bind("0.0.0.0:0").and_then(|socket| {
        socket.connect("192.0.2.1:9")?;
        socket.local_addr()
    });
    match routed {
        Ok(address) if !address.ip().is_unspecified() => address.ip().to_string(),
        Ok(_) | Err(_) => {
            let name = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
            name.unwrap_or_else(|| "localhost".to_owned())
        }
    }
}
