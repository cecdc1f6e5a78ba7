//! The network of our containers: they reach the world and this node, and not each other.
//!
//! On the network that engines give by default every container reaches every other one, past the hub and its proxy.
//! So Docker is asked for one of ours that keeps them apart. It is made once and stays; all agents of a node share it.
//! Podman knows no such network, and its containers get the default one.

use std::collections::BTreeMap;
use std::net::IpAddr;

use http::StatusCode;
use serde::Deserialize;
use serde_json::json;

use super::transport::{Call, Socket};
use super::{EngineError, EngineInfo, Product};

/// Its name on the engine.
const NAME: &str = "blueprint";

/// What keeps its containers apart, and what binds the ports they publish where nothing else is said.
const APART: &str = "com.docker.network.bridge.enable_icc";
const BIND: &str = "com.docker.network.bridge.host_binding_ipv4";

/// The network that containers are put on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Network {
    pub(super) name: &'static str,
    /// This node in it; `None` where the engine does not say.
    pub(super) gateway: Option<IpAddr>,
}

/// `GET /networks/NAME`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Found {
    options: Option<BTreeMap<String, String>>,
    #[serde(rename = "IPAM")]
    ipam: Ipam,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Ipam {
    config: Option<Vec<Pool>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Pool {
    gateway: String,
}

/// The network, made where it is not there; `None` for that of the engine.
pub(super) async fn network(
    socket: &Socket,
    api: &str,
    engine: &EngineInfo,
) -> Result<Option<Network>, EngineError> {
    match engine.product {
        Product::Docker => {}
        Product::Podman => return Ok(None),
    }
    let look = Call::get(format!("look for the network {NAME}"), format!("{api}/networks/{NAME}"));
    if let Some(found) = socket.find::<Found>(&look).await? {
        return found.check().map(Some);
    }
    let body = json!({
        "Name": NAME, "Driver": "bridge", "CheckDuplicate": true, "Options": { APART: "false", BIND: "127.0.0.1" },
    });
    let create = Call::post(format!("make the network {NAME}"), format!("{api}/networks/create")).body(body);
    // 409: another one was as fast.
    socket.tell(&create, &[StatusCode::CONFLICT]).await?;
    socket.ask::<Found>(&look).await?.check().map(Some)
}

impl Found {
    fn check(&self) -> Result<Network, EngineError> {
        let is_apart =
            |options: &BTreeMap<String, String>| options.get(APART).is_some_and(|is| is == "false");
        if !self.options.as_ref().is_some_and(is_apart) {
            return Err(EngineError::Network { name: NAME });
        }
        let pools = self.ipam.config.iter().flatten();
        let gateway = pools.filter_map(|pool| pool.gateway.parse().ok()).next();
        Ok(Network { name: NAME, gateway })
    }
}
