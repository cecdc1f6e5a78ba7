//! The hub around the provisioner, in memory.

use std::collections::BTreeMap;
use std::sync::Mutex;

use blueprint_common_types::{AgentId, JoinToken, Secret, ServiceKey, Timestamp};
use blueprint_hub_provision::Host;
use blueprint_hub_provision_core::cost::{Limits, Span};
use blueprint_hub_provision_core::lifecycle::{
    Begun, BoundToken, CreateDeploymentError, Deployment, Event, LifecycleStore, Record, Records,
    RecordsResult, Wanted,
};
use blueprint_hub_provision_core::{DeploymentId, InstanceKey};
use futures_util::future::{BoxFuture, FutureExt, ready};

/// A store in memory, and when the join tokens in it run out.
#[derive(Default)]
pub(crate) struct Memory(pub(crate) Mutex<Records>, pub(crate) Mutex<Vec<Timestamp>>);

impl LifecycleStore for Memory {
    fn load_lifecycle(&self) -> BoxFuture<'_, RecordsResult<Records>> {
        ready(Ok(self.0.lock().unwrap().clone())).boxed()
    }

    fn create_deployment(
        &self,
        deployment: Deployment,
        _: Limits,
    ) -> BoxFuture<'_, Result<(Deployment, bool), CreateDeploymentError>> {
        let mut records = self.0.lock().unwrap();
        let same = records.deployments.values().find(|known| known.request_key == deployment.request_key);
        let is_named =
            |it: &&Deployment| !it.name.is_empty() && it.name == deployment.name && it.wanted != Wanted::Gone;
        if let (None, Some(other)) = (same, records.deployments.values().find(is_named)) {
            let (name, id) = (deployment.name, other.id.clone());
            return ready(Err(CreateDeploymentError::Named { name, id })).boxed();
        }
        let answer = same.map_or((deployment, true), |known| (known.clone(), false));
        records.deployments.insert(answer.0.id.clone(), answer.0.clone());
        ready(Ok(answer)).boxed()
    }

    fn set_wanted(
        &self,
        id: DeploymentId,
        wanted: Wanted,
        _: String,
        _: Timestamp,
    ) -> BoxFuture<'_, RecordsResult<Option<Deployment>>> {
        let mut records = self.0.lock().unwrap();
        let changed = records.deployments.get_mut(&id).map(|it| {
            if it.wanted != Wanted::Gone {
                it.wanted = wanted;
            }
            it.clone()
        });
        ready(Ok(changed)).boxed()
    }

    fn save_instance(&self, record: Record) -> BoxFuture<'_, RecordsResult<()>> {
        let mut records = self.0.lock().unwrap();
        let agent = records.instances.get(&record.key).map(|known| (known.agent, known.agent_attempt));
        let (agent, agent_attempt) = agent.unwrap_or_default();
        records.instances.insert(record.key.clone(), Record { agent, agent_attempt, ..record });
        ready(Ok(())).boxed()
    }

    fn begin_call(
        &self,
        record: Record,
        token: BoundToken,
        _: Limits,
    ) -> BoxFuture<'_, RecordsResult<Begun>> {
        self.1.lock().unwrap().push(token.expires_at);
        self.save_instance(record).map(|saved| saved.map(|()| Begun::Stored)).boxed()
    }

    fn note_removal(&self, _: InstanceKey, _: String, _: Timestamp) -> BoxFuture<'_, RecordsResult<()>> {
        ready(Ok(())).boxed()
    }

    fn note_scan(&self, now: Timestamp) -> BoxFuture<'_, RecordsResult<()>> {
        self.0.lock().unwrap().scanned_at = Some(now);
        ready(Ok(())).boxed()
    }

    fn spans(&self, _: Timestamp) -> BoxFuture<'_, RecordsResult<Vec<Span>>> {
        ready(Ok(Vec::new())).boxed()
    }

    fn lifecycle_events(&self, _: Option<DeploymentId>, _: u32) -> BoxFuture<'_, RecordsResult<Vec<Event>>> {
        ready(Ok(Vec::new())).boxed()
    }
}

/// Agents that have joined, and whether each is connected.
pub(crate) struct Agents(pub(crate) Mutex<BTreeMap<AgentId, bool>>);

impl Host for Agents {
    fn user_data(&self, _: &Record, _: Option<ServiceKey>, _: JoinToken) -> Result<Secret<String>, String> {
        Ok(Secret::new(String::new()))
    }

    fn agents(&self) -> BTreeMap<AgentId, bool> {
        self.0.lock().unwrap().clone()
    }

    fn remove_agent(&self, agent: AgentId) -> BoxFuture<'_, Result<(), String>> {
        self.0.lock().unwrap().remove(&agent);
        ready(Ok(())).boxed()
    }
}
