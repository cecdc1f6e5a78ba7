//! What survives the hub: a naive store that changes are applied to.

use std::collections::BTreeMap;

use blueprint_common_types::{AgentId, ServiceKey, TargetKey};
use blueprint_hub_registry_core::{Agent, Change, ChangeBody, TargetRecord};

use crate::fault::{Checked, require, require_equal};
use crate::naive::{Naive, View, seen};

/// How far the index jumps at every start, so that no watcher takes an index of one life for one of another.
const INDEX_JUMP: u64 = 10_000;

/// The hub's database.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    pub(crate) agents: BTreeMap<AgentId, Agent>,
    pub(crate) targets: BTreeMap<TargetKey, TargetRecord>,
    pub(crate) claims: BTreeMap<ServiceKey, AgentId>,
    pub(crate) index: u64,
    pub(crate) epoch: u64,
    /// The naive registry as it was when everything was last saved.
    pub(crate) naive: Naive,
}

impl Disk {
    /// Counts a start.
    pub(crate) const fn open(&mut self) {
        self.epoch += 1;
        self.index += INDEX_JUMP;
    }

    /// Saves changes in one write.
    pub(crate) fn save(&mut self, changes: &[Change]) -> Checked {
        for change in changes {
            require_equal(&change.index, &(self.index + 1), "saved changes have a gap")?;
            self.index = change.index;
            match &change.body {
                ChangeBody::Upsert(record) => {
                    self.targets.insert(record.key, record.clone());
                }
                ChangeBody::Remove(record) => {
                    self.targets.remove(&record.key);
                }
                ChangeBody::Claim { service, agent } => {
                    let old = self.claims.insert(*service, *agent);
                    require(old.is_none(), || format!("{service} is claimed twice: {old:?}, {agent}"))?;
                }
                ChangeBody::Unclaim { service, .. } => {
                    self.claims.remove(service);
                }
            }
        }
        Ok(())
    }

    /// Notes what the naive registry says is saved now, and compares.
    pub(crate) fn settle(&mut self, naive: &Naive) -> Checked {
        self.naive = naive.clone();
        let saved: View = self.targets.iter().map(|(key, record)| (*key, seen(record))).collect();
        require_equal(&saved, &naive.stored, "saved targets are not those shown last")?;
        require_equal(&self.claims, &naive.claims, "saved claims are not those made")
    }

    /// Forgets an agent in one write, before the registry hears of it.
    pub(crate) fn remove(&mut self, id: AgentId) {
        self.agents.remove(&id);
        self.targets.retain(|key, _| key.agent != id);
        self.claims.retain(|_, owner| *owner != id);
        self.naive.remove(id);
    }
}
