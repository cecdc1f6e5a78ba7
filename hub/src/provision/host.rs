//! What the rest of the hub does for the provisioner.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use blueprint_common_types::workload::Sha256Digest;
use blueprint_common_types::{AgentId, HubLine, JoinLine, JoinToken, ProofKind, Secret, ServiceKey};
use blueprint_hub_admin::HubFacts;
use blueprint_hub_bootstrap_core::{AgentArch, Bootstrap, BootstrapError};
use blueprint_hub_provision::Host;
use blueprint_hub_provision_core::lifecycle::Record;
use blueprint_hub_registry::{ControlPlane, RegistrarHandle};
use futures_util::future::{BoxFuture, FutureExt};
use serde_json::json;
use tracing::info;

use crate::identities::OrderedMachines;

/// The provider whose machines run already, and stay what they are.
const OWN_HOSTS: &str = "ssh";

/// The providers that bring the agent and its configuration into a machine themselves.
const CONTAINERS: [&str; 2] = ["local-docker", "docker"];

/// The hub, as the provisioner needs it.
pub(super) struct HubHost {
    facts: Arc<HubFacts>,
    control: ControlPlane,
    registrar: RegistrarHandle,
    agents: BTreeMap<AgentArch, Sha256Digest>,
    ordered: Arc<OrderedMachines>,
    join_within: Duration,
    /// Whether machines run workloads whose limits they cannot hold.
    allows_unlimited: bool,
}

impl HubHost {
    /// The hub with the agents that it holds, and which machines join by identity; `join_within` is how long one tries to.
    pub(super) fn new(
        facts: Arc<HubFacts>,
        control: ControlPlane,
        registrar: RegistrarHandle,
        (agents, ordered): (BTreeMap<AgentArch, Sha256Digest>, Arc<OrderedMachines>),
        join_within: Duration,
    ) -> Self {
        Self { facts, control, registrar, agents, ordered, join_within, allows_unlimited: false }
    }

    /// The same, whose machines may run workloads that ask for limits which they cannot hold.
    pub(super) const fn allowing_unlimited(mut self, allows_unlimited: bool) -> Self {
        self.allows_unlimited = allows_unlimited;
        self
    }

    /// What a machine reads that boots from an image with cloud-init, or what is brought to one of the operator's own.
    /// Where its cloud vouches for it, the token stays here: nobody has it then, and only its ticket goes along, which fetches the
    /// agent and nothing else.
    fn bootstrap(&self, record: &Record, line: &JoinLine) -> Result<Secret<String>, BootstrapError> {
        let identity = self.ordered.proof_of(&record.candidate.provider, &record.candidate.region);
        if let Some(kind) = identity {
            info!(instance = %record.key, %kind, "the machine gets no token and joins by its identity");
        }
        let host = if line.host.contains(':') { format!("[{}]", line.host) } else { line.host.clone() };
        let ticket = line.token.hash().ticket();
        let url = format!("https://{host}:{}/agent/{}/{}", line.port, line.token.id(), ticket.expose());
        let is_own = record.candidate.provider == OWN_HOSTS;
        let bootstrap = Bootstrap {
            name: record.key.to_string(),
            join_line: line_for(line, identity),
            identity,
            agents: self.agents.clone(),
            url: Secret::new(url),
            within_secs: self.join_within.as_secs(),
            powers_off: !is_own,
            by_cloud_init: !is_own,
            has_devices: true,
            allows_unlimited: self.allows_unlimited,
        };
        if is_own { bootstrap.order() } else { bootstrap.cloud_config() }
    }
}

/// What a machine joins with: the whole line, or the hub's alone.
fn line_for(line: &JoinLine, identity: Option<ProofKind>) -> Secret<String> {
    if identity.is_none() {
        return line.expose_text();
    }
    let hub = HubLine { host: line.host.clone(), port: line.port, pin: line.pin };
    Secret::new(hub.to_string())
}

impl Host for HubHost {
    fn user_data(
        &self,
        record: &Record,
        service: Option<ServiceKey>,
        token: JoinToken,
    ) -> Result<Secret<String>, String> {
        let line = JoinLine {
            host: self.facts.advertise_host.clone(),
            port: self.facts.control_port,
            pin: self.facts.pin,
            token,
        };
        if CONTAINERS.contains(&record.candidate.provider.as_str()) {
            let document = json!({ "join_line": line.expose_text().expose(), "name": record.key.as_str() });
            return Ok(Secret::new(document.to_string()));
        }
        if record.candidate.provider != "sim" {
            return self.bootstrap(record, &line).map_err(|error| error.to_string());
        }
        let services: Vec<_> =
            service.iter().map(|key| json!({ "blueprint": key.blueprint, "service": key.service })).collect();
        let document = json!({
            "join_line": line.expose_text().expose(),
            "name": record.key.as_str(),
            "services": services,
        });
        Ok(Secret::new(document.to_string()))
    }

    fn agents(&self) -> BTreeMap<AgentId, bool> {
        let snapshot = self.registrar.snapshot();
        snapshot.agents.iter().map(|(id, view)| (*id, view.connected)).collect()
    }

    fn remove_agent(&self, agent: AgentId) -> BoxFuture<'_, Result<(), String>> {
        async move {
            if !self.registrar.snapshot().agents.contains_key(&agent) {
                return Ok(());
            }
            self.control.remove_agent(agent).await.map_err(|error| error.to_string())
        }
        .boxed()
    }
}
