//! A machine as its engine sees it: names, labels, limits, states.

use std::collections::BTreeMap;

use blueprint_common_types::{HubId, Timestamp};
use blueprint_hub_provision_core::{Instance, InstanceKey, InstanceSpec, InstanceState, Tags};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::plans::{MAX_PROCESSES, Plan};

/// Where the volume of a machine is mounted.
pub(crate) const FOLDER: &str = "/blueprint";

/// Who the agent is in its machine; no user of any host has this number.
pub(crate) const USER: u32 = 65_532;

pub(crate) const HUB: &str = "blueprint.hub";
const DEPLOYMENT: &str = "blueprint.deployment";
const ATTEMPT: &str = "blueprint.attempt";
const KEY: &str = "blueprint.key";
const PLAN: &str = "blueprint.plan";

/// What tells hubs apart in names.
pub(crate) fn mark(hub: HubId) -> String {
    hub.to_string().chars().filter(char::is_ascii_hexdigit).take(8).collect()
}

/// The name of the container of an order. Unique at its engine, so that there is one.
pub(crate) fn name(key: &InstanceKey, hub: HubId) -> String {
    format!("{key}.{}", mark(hub))
}

/// The network of a hub's machines.
pub(crate) fn network_name(hub: HubId) -> String {
    format!("blueprint-{}", mark(hub))
}

/// The bridge of that network on its host, which rules of firewalls name; at most 15 characters.
pub(crate) fn bridge_name(hub: HubId) -> String {
    format!("bp-{}", mark(hub))
}

/// `GET /containers/json`, a row.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Row {
    pub(crate) id: String,
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
    state: String,
    /// Seconds since 1970.
    created: u64,
}

/// `GET /containers/ID/json`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Found {
    pub(crate) id: String,
    config: Config,
    state: State,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Config {
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct State {
    status: String,
}

impl Found {
    /// The same as a row of a list has it.
    pub(crate) fn row(self, created: u64) -> Row {
        Row { id: self.id, labels: self.config.labels, state: self.state.status, created }
    }
}

impl Row {
    fn label(&self, name: &str) -> Option<&str> {
        self.labels.as_ref()?.get(name).map(String::as_str)
    }

    /// The hub that made it.
    pub(crate) fn hub(&self) -> Option<HubId> {
        self.label(HUB)?.parse().ok()
    }

    pub(crate) fn key(&self) -> Option<InstanceKey> {
        self.label(KEY)?.parse().ok()
    }

    /// Bytes of memory that its plan has.
    pub(crate) fn memory_bytes(&self) -> u64 {
        self.label(PLAN).and_then(Plan::named).map_or(0, |plan| plan.memory_bytes())
    }

    /// Whether it was made and never started, so that it may not have its files.
    pub(crate) fn is_unfinished(&self) -> bool {
        self.state == "created"
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.state == "paused"
    }

    /// The machine, in this region; `None` for what carries a hub's label and is none.
    pub(crate) fn instance(&self, region: &str) -> Option<Instance> {
        let tags = || {
            let attempt = self.label(ATTEMPT)?.parse().ok()?;
            Some(Tags { hub: self.hub()?, deployment: self.label(DEPLOYMENT)?.parse().ok()?, attempt })
        };
        Some(Instance {
            key: self.key()?,
            provider_id: format!("{region}/{}", self.id),
            tags: tags(),
            state: self.state(),
            created_at: Timestamp::from_millis(self.created.saturating_mul(1000)),
        })
    }

    fn state(&self) -> InstanceState {
        match self.state.as_str() {
            "running" => InstanceState::Running,
            // The engine starts an agent again that ends by itself.
            "restarting" => InstanceState::Starting,
            // Whoever made it may have ended before it was given its files.
            "created" => InstanceState::Unfinished,
            "removing" => InstanceState::Stopping,
            "dead" => {
                InstanceState::Failed { reason: "the engine could not remove it; see its log".to_owned() }
            }
            // "exited" is what somebody stopped: what ends by itself is started again.
            _ => InstanceState::Stopped,
        }
    }
}

/// The body of `POST /containers/create`.
pub(crate) fn container(spec: &InstanceSpec, tags: &Tags, plan: &Plan, image: &str) -> Value {
    json!({
        "Hostname": spec.key.as_str(),
        "Image": image,
        "User": format!("{USER}:{USER}"),
        "Entrypoint": [format!("{FOLDER}/bin/blueprint-agent")],
        "Cmd": ["run", "--state", format!("{FOLDER}/state"), "--config", format!("{FOLDER}/agent.toml")],
        "Env": [format!("XDG_RUNTIME_DIR={FOLDER}/run"), format!("HOME={FOLDER}/state")],
        "WorkingDir": FOLDER,
        "Labels": {
            HUB: tags.hub.to_string(),
            DEPLOYMENT: tags.deployment.to_string(),
            ATTEMPT: tags.attempt.to_string(),
            KEY: spec.key.as_str(),
            PLAN: plan.name,
        },
        "Volumes": { FOLDER: {} },
        "Healthcheck": { "Test": ["NONE"] },
        "StopSignal": "SIGTERM",
        "HostConfig": {
            "NanoCpus": u64::from(plan.vcpus).saturating_mul(1_000_000_000),
            "Memory": plan.memory_bytes(),
            // As much as memory: no swap beside it.
            "MemorySwap": plan.memory_bytes(),
            "PidsLimit": MAX_PROCESSES,
            "ReadonlyRootfs": true,
            "Tmpfs": { "/tmp": "rw,nosuid,nodev,noexec,size=64m" },
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges"],
            "Privileged": false,
            "PublishAllPorts": false,
            "NetworkMode": network_name(tags.hub),
            "RestartPolicy": { "Name": "unless-stopped" },
            // Reaps what workloads leave behind.
            "Init": true,
            "LogConfig": { "Type": "json-file", "Config": { "max-size": "10m", "max-file": "2" } },
        },
    })
}
