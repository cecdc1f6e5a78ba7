//! What the rest of the hub does for the provisioner.

use std::collections::BTreeMap;

use blueprint_common_types::{AgentId, JoinToken, Secret, ServiceKey};
use blueprint_hub_provision_core::lifecycle::Record;
use futures_util::future::BoxFuture;

/// The hub around the provisioner.
pub trait Host: Send + Sync {
    /// What a machine reads at its first boot; it holds the join line of `token`, unless its cloud vouches for the
    /// machine, and no other secret.
    ///
    /// # Errors
    ///
    /// Why there is none for this machine, one line; nothing is ordered then.
    fn user_data(
        &self,
        record: &Record,
        service: Option<ServiceKey>,
        token: JoinToken,
    ) -> Result<Secret<String>, String>;

    /// Agents that are joined, and whether each is connected.
    fn agents(&self) -> BTreeMap<AgentId, bool>;

    /// Removes a node: its peer, targets, sessions and certificate. One that is not there is no error.
    ///
    /// # Errors
    ///
    /// Why it is still there, one line.
    fn remove_agent(&self, agent: AgentId) -> BoxFuture<'_, Result<(), String>>;
}
