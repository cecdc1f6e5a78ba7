//! Replicas that leave their nodes: they get no new requests, and end once nothing is open at them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::SystemTime;

use blueprint_common_types::ServiceKey;
use blueprint_hub_registry_core::RegistrySnapshot;
use blueprint_hub_registry_core::workload::{Leaver, WorkloadRecord};
use tracing::{error, info};

use super::{Workloads, is_told_of};

impl Workloads {
    /// Looks what is open at those that leave; those that are done are told to end.
    pub(super) async fn look_at_leavers(&mut self, snapshot: &RegistrySnapshot) {
        if self.assigner.leavers().next().is_none() {
            return;
        }
        let traffic = Arc::clone(&self.traffic);
        // Whatever of the service is open at its node, since what is of another run gets no new requests either.
        let open = |record: &WorkloadRecord| {
            let of = snapshot.targets_of(record.service);
            let own = of.filter(|target| Some(target.key.agent) == record.node);
            own.map(|target| traffic.at(record.service, target.address).open).fold(0, u32::saturating_add)
        };
        let over = self.assigner.look_at_leavers(open, snapshot, SystemTime::now().into());
        for Leaver { record, until, .. } in &over {
            let node = record.node.map(|node| node.to_string()).unwrap_or_default();
            let until = until.map(|until| until.to_string()).unwrap_or_default();
            info!(target: "audit", service = %record.service, node, until, "a replica has drained and ends on its node");
        }
        self.publish().await;
    }

    /// Stores which of its replicas is shown in the place of a workload, so that it stays there once it has no others.
    pub(super) async fn save_nodes(&mut self) {
        for record in self.assigner.unsaved() {
            let WorkloadRecord { service, generation, node, .. } = *record;
            match self.store.keep_node(service, generation, node).await {
                Ok(()) => self.assigner.saved(service),
                // It is tried again in a second.
                Err(error) => error!(%service, %error, "the node of a workload with replicas is not stored"),
            }
        }
    }

    /// Whether a service has replicas, or some of them still leave.
    pub(super) fn has_or_had_replicas(&self, service: ServiceKey) -> bool {
        self.assigner.has_replicas(service) || self.assigner.leavers().any(|it| it.record.service == service)
    }

    /// Keeps what nodes said of what they are assigned: the run that is shown may be another one than when it was said, and a node
    /// says nothing twice.
    pub(super) fn sort_statuses(&mut self) {
        let mut all = std::mem::take(&mut self.copy_statuses);
        let shown = std::mem::take(&mut self.statuses);
        all.extend(shown.into_iter().map(|(service, (agent, status))| ((service, agent), status)));
        let leavers = self.assigner.leavers().map(|leaver| &leaver.record);
        let copies = self.assigner.copies().chain(leavers);
        let own: BTreeSet<_> = copies.filter_map(|run| Some((run.service, run.node?))).collect();
        for ((service, agent), status) in all {
            if self.assigner.get(service).is_some_and(|record| is_told_of(record, agent, &status)) {
                self.statuses.insert(service, (agent, status));
            } else if own.contains(&(service, agent)) {
                self.copy_statuses.insert((service, agent), status);
            }
        }
    }
}
