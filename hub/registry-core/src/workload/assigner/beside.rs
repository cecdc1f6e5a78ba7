//! Where the next version of a workload can run while the one before it serves.

use std::collections::BTreeSet;

use blueprint_common_types::AgentId;
use blueprint_common_types::workload::Seat;

use super::room::{is_here, limits_of, may_run, runs_two, together};
use super::{Assigner, MAX_PER_NODE, WorkloadRecord};
use crate::RegistrySnapshot;

impl Assigner {
    /// Where the next version of a workload can run beside the one that serves: on its node where that has room for both,
    /// else on another one, but on none of `drained`, which get no requests. With it the number of the instance.
    ///
    /// # Errors
    ///
    /// One line for the operator.
    pub fn place_beside(
        &self,
        next: &WorkloadRecord,
        drained: &BTreeSet<AgentId>,
        snapshot: &RegistrySnapshot,
    ) -> Result<(AgentId, u8), String> {
        let serving = self.records.get(&next.service);
        let (serving, node) = serving
            .and_then(|it| it.node.map(|node| (it, node)))
            .ok_or_else(|| "the workload has no node".to_owned())?;
        let slot = Seat::other_slot(serving.slot);
        let view = snapshot.agents.get(&node).ok_or_else(|| "its node is not joined any more".to_owned())?;
        if !runs_two(node, snapshot) {
            let name = &view.agent.name;
            return Err(format!("the agent of its node {name} is too old to tell two versions apart"));
        }
        let load = self.load();
        let limits = limits_of(next);
        let both = together(&limits, &limits_of(serving));
        let next = WorkloadRecord { node: None, ..next.clone() };
        let has_place = |node: AgentId| {
            let runs = snapshot.agents.get(&node).is_some_and(|view| view.runs_workloads);
            let is_open = may_run(&next, node) && !drained.contains(&node);
            is_open && is_here(node, snapshot) && runs && load.count(node) < MAX_PER_NODE
        };
        let lack = load.lack(node, &next, &both, snapshot);
        if has_place(node) && lack.is_none() {
            return Ok((node, slot));
        }
        let elsewhere = snapshot.agents.keys().copied().filter(|other| {
            *other != node
                && has_place(*other)
                && runs_two(*other, snapshot)
                && load.lack(*other, &next, &limits, snapshot).is_none()
        });
        let best = elsewhere.min_by_key(|other| (load.count(*other), *other));
        best.map(|other| (other, slot)).ok_or_else(|| {
            let why = match lack {
                Some(lack) => format!(": for both on its own, {lack}"),
                None if drained.contains(&node) => ": its own is drained, or has the weight 0".to_owned(),
                None => String::new(),
            };
            format!("no node has room for the next version beside the one that serves{why}")
        })
    }

    /// Where the next version of a workload that has replicas can run beside the one that serves: on each of `running`, the nodes
    /// of the replicas that run now, that it may run on and that gets requests. With them the number of the instance.
    ///
    /// # Errors
    ///
    /// One line for the operator: each of them has to have room for both.
    pub fn place_beside_replicas(
        &self,
        next: &WorkloadRecord,
        running: &[AgentId],
        drained: &BTreeSet<AgentId>,
        snapshot: &RegistrySnapshot,
    ) -> Result<(Vec<AgentId>, u8), String> {
        let serving = self.records.get(&next.service).ok_or_else(|| "there is no workload".to_owned())?;
        let slot = Seat::other_slot(serving.slot);
        let load = self.load();
        let both = together(&limits_of(next), &limits_of(serving));
        let next = WorkloadRecord { node: None, ..next.clone() };
        let is_open =
            |node: &AgentId| may_run(&next, *node) && !drained.contains(node) && is_here(*node, snapshot);
        let nodes: Vec<AgentId> = running.iter().copied().filter(is_open).collect();
        for node in &nodes {
            let Some(view) = snapshot.agents.get(node) else { continue };
            let name = &view.agent.name;
            if !runs_two(*node, snapshot) {
                return Err(format!("the agent of {name} is too old to tell two versions apart"));
            }
            if load.count(*node) >= MAX_PER_NODE {
                return Err(format!("{name} has {MAX_PER_NODE} workloads"));
            }
            if let Some(lack) = load.lack(*node, &next, &both, snapshot) {
                return Err(format!("{name} has no room for both: {lack}"));
            }
        }
        Ok((nodes, slot))
    }
}
