//! The calls of an engine that machines need, each once and without another try.

use std::collections::BTreeSet;
use std::time::Duration;

use blueprint_common_engine::encode;
use blueprint_common_types::{HubId, Timestamp};
use blueprint_hub_provision_core::ProviderError;
use blueprint_hub_provision_core::resource::Arch;
use http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::archive::Body;
use crate::cloud::Patience;
use crate::engine::{Call, Engine, Said};
use crate::machine::{FOLDER, Found, HUB, Row, bridge_name, network_name};
use crate::plans::Machine;
use crate::refusal;

/// What keeps containers of a network apart, and what binds the ports they publish where nothing else is said.
const APART: &str = "com.docker.network.bridge.enable_icc";
const BIND: &str = "com.docker.network.bridge.host_binding_ipv4";

/// What rules of the host's firewall know the network by.
const BRIDGE: &str = "com.docker.network.bridge.name";

/// An engine and what it speaks.
pub(crate) struct Api<'e> {
    engine: &'e Engine,
    prefix: String,
    pub(crate) arch: Option<Arch>,
    patience: Patience,
}

/// `POST /containers/create`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Created {
    id: String,
}

/// What came of a creation.
pub(crate) enum Made {
    /// The engine's name of the new container.
    New(String),
    /// Another one has the name.
    Taken,
}

impl<'e> Api<'e> {
    pub(crate) async fn of(engine: &'e Engine, patience: Patience) -> Result<Self, ProviderError> {
        let spoken = engine.spoken().await?;
        Ok(Self { engine, prefix: spoken.prefix, arch: spoken.arch, patience })
    }

    pub(crate) fn call(&self, name: &'static str, method: Method, path: &str, within: Duration) -> Call {
        Call::new(name, method, format!("{}{path}", self.prefix), within)
    }

    fn get(&self, name: &'static str, path: &str) -> Call {
        self.call(name, Method::GET, path, self.patience.ask)
    }

    fn change(&self, name: &'static str, method: Method, path: &str) -> Call {
        self.call(name, method, path, self.patience.change)
    }

    pub(crate) async fn send(&self, call: Call) -> Result<Said, ProviderError> {
        self.engine.send(call).await
    }

    /// What the engine runs on.
    pub(crate) async fn machine(&self) -> Result<Machine, ProviderError> {
        self.send(self.get("SystemInfo", "/info")).await?.read()
    }

    /// Containers with the label of a hub, of any where `hub` is `None`; and the engine's clock.
    pub(crate) async fn containers(
        &self,
        hub: Option<HubId>,
    ) -> Result<(Vec<Row>, Option<Timestamp>), ProviderError> {
        let label = hub.map_or_else(|| HUB.to_owned(), |hub| format!("{HUB}={hub}"));
        let filters = encode(&json!({ "label": [label] }).to_string());
        let path = format!("/containers/json?all=1&filters={filters}");
        let said = self.send(self.get("ContainerList", &path)).await?;
        let mut rows: Vec<Row> = said.read()?;
        // An engine that knows no filters shows everything.
        rows.retain(|row| row.hub().is_some_and(|own| hub.is_none_or(|hub| hub == own)));
        let mut ids = BTreeSet::new();
        if !rows.iter().all(|row| is_id(&row.id) && ids.insert(row.id.as_str())) {
            return Err(refusal::unclear(&said, "with an id that is none, or is there twice"));
        }
        Ok((rows, said.time))
    }

    /// A container by its name or id.
    pub(crate) async fn find(&self, name: &str) -> Result<Option<Row>, ProviderError> {
        let said = self.send(self.get("ContainerInspect", &format!("/containers/{name}/json"))).await?;
        if said.status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let found: Found = said.read()?;
        if !is_id(&found.id) {
            return Err(refusal::unclear(&said, "with an id that is none"));
        }
        // Its birthday is not asked for by anybody who looks for one.
        let created = said.time.map_or(0, Timestamp::as_secs);
        Ok(Some(found.row(created)))
    }

    pub(crate) async fn create(&self, name: &str, body: &Value) -> Result<Made, ProviderError> {
        let path = format!("/containers/create?name={name}");
        let said = self.send(self.change("ContainerCreate", Method::POST, &path).json(body)).await?;
        if said.status == StatusCode::CONFLICT {
            return Ok(Made::Taken);
        }
        let created: Created = said.read()?;
        if !is_id(&created.id) {
            return Err(refusal::unclear(&said, "with an id that is none"));
        }
        Ok(Made::New(created.id))
    }

    /// Unpacks an archive in the volume of a container.
    pub(crate) async fn put(&self, id: &str, archive: Body) -> Result<(), ProviderError> {
        let path = format!("/containers/{id}/archive?path={}", encode(FOLDER));
        let call = self.call("PutContainerArchive", Method::PUT, &path, self.patience.transfer);
        self.send(call.archive(archive)).await?.done(&[])
    }

    pub(crate) async fn start(&self, id: &str) -> Result<(), ProviderError> {
        let path = format!("/containers/{id}/start");
        let said = self.send(self.change("ContainerStart", Method::POST, &path)).await?;
        let done = said.done(&[StatusCode::NOT_MODIFIED]);
        // What a runtime cannot start, it cannot start the next time: no init program, limits above those of the engine.
        if said.status == StatusCode::INTERNAL_SERVER_ERROR
            && matches!(done, Err(ProviderError::Other { .. }))
        {
            let reason = format!("the engine cannot start the container: {}", refusal::words(&said.body));
            return Err(ProviderError::Reject { reason });
        }
        done
    }

    pub(crate) async fn resume(&self, id: &str) -> Result<(), ProviderError> {
        let path = format!("/containers/{id}/unpause");
        self.send(self.change("ContainerUnpause", Method::POST, &path)).await?.done(&[])
    }

    /// Asks it to end, and kills it where it has not within `grace`.
    pub(crate) async fn stop(&self, id: &str, grace: Duration) -> Result<(), ProviderError> {
        let path = format!("/containers/{id}/stop?t={}", grace.as_secs());
        let said = self.send(self.change("ContainerStop", Method::POST, &path)).await?;
        said.done(&[StatusCode::NOT_MODIFIED])
    }

    /// Removes it with its volume, killing it first where it runs. One that is gone is no error.
    pub(crate) async fn remove(&self, id: &str) -> Result<(), ProviderError> {
        let path = format!("/containers/{id}?force=1&v=1");
        let said = self.send(self.change("ContainerDelete", Method::DELETE, &path)).await?;
        said.done(&[StatusCode::NOT_FOUND])
    }

    /// The network of a hub's machines, made where it is not there.
    pub(crate) async fn ensure_network(&self, hub: HubId) -> Result<(), ProviderError> {
        let name = network_name(hub);
        let said = self.send(self.get("NetworkInspect", &format!("/networks/{name}"))).await?;
        if said.status != StatusCode::NOT_FOUND {
            let found: Value = said.read()?;
            let bridge = bridge_name(hub);
            let has = |option: &str, value: &str| {
                found.pointer("/Options").and_then(|it| it.get(option)) == Some(&json!(value))
            };
            if has(APART, "false") && has(BRIDGE, &bridge) {
                return Ok(());
            }
            let reason = format!(
                "the network {name} is not one that keeps its containers apart on a bridge {bridge}; remove it: `docker network rm {name}`"
            );
            return Err(ProviderError::Reject { reason });
        }
        let body = json!({
            "Name": name, "Driver": "bridge", "CheckDuplicate": true, "Labels": { HUB: hub.to_string() },
            "Options": { APART: "false", BIND: "127.0.0.1", BRIDGE: bridge_name(hub) },
        });
        let call = self.change("NetworkCreate", Method::POST, "/networks/create").json(&body);
        // 409: another one was as fast.
        self.send(call).await?.done(&[StatusCode::CONFLICT])
    }

    /// Removes the network of a hub without machines. One that is in use, or is gone, is no error.
    pub(crate) async fn remove_network(&self, hub: HubId) -> Result<(), ProviderError> {
        let path = format!("/networks/{}", network_name(hub));
        let said = self.send(self.change("NetworkDelete", Method::DELETE, &path)).await?;
        said.done(&[StatusCode::NOT_FOUND, StatusCode::FORBIDDEN, StatusCode::CONFLICT])
    }
}

/// Whether a text is an id as engines make them, so that it may stand in a path.
pub(crate) fn is_id(text: &str) -> bool {
    (12..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}
