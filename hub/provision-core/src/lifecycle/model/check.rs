//! What has to be so in the end.

use super::*;

impl World {
    /// True where there are exactly the machines wanted, each with an agent where it is to run.
    pub(super) fn check(&self) -> Result<(), String> {
        let mut expected = BTreeSet::new();
        for deployment in self.store.deployments.values() {
            let of = |record: &&Record| record.deployment == deployment.id && !record.state.is_ended();
            let records: Vec<_> = self.store.instances.values().filter(of).collect();
            let count = match deployment.wanted {
                Wanted::Running => usize::try_from(deployment.replicas).unwrap(),
                Wanted::Gone => 0,
                Wanted::Stopped => records.len(),
            };
            if records.len() != count {
                return Err(format!("{} records for {deployment:?}", records.len()));
            }
            for record in records {
                if record.state == RecordState::Planned && deployment.wanted == Wanted::Stopped {
                    continue;
                }
                if record.state != RecordState::Active && deployment.wanted == Wanted::Running {
                    return Err(format!("not active: {record:?}"));
                }
                let is_unsure = matches!(record.state, RecordState::Calling);
                if !(is_unsure && deployment.wanted == Wanted::Stopped) {
                    expected.insert(record.provider_id.clone().ok_or(format!("no id: {record:?}"))?);
                }
            }
        }
        let there = |machine: &&Machine| machine.deleted.is_none() && machine.hub == Some(HUB);
        let found: BTreeSet<_> = self.cloud.iter().filter(there).map(|machine| machine.id.clone()).collect();
        if found != expected {
            return Err(format!("wanted {expected:?}, found {found:?}"));
        }
        for machine in self.cloud.iter().filter(there) {
            let record = &self.store.instances[&machine.key];
            let wanted = self.store.deployments[&record.deployment].wanted;
            if (wanted == Wanted::Running) != (machine.state == InstanceState::Running) {
                return Err(format!("{wanted}, but {machine:?}"));
            }
            if wanted == Wanted::Running && (machine.agent.is_none() || machine.agent != record.agent) {
                return Err(format!("another agent: {machine:?} {record:?}"));
            }
        }
        let known: BTreeSet<_> = self
            .store
            .instances
            .values()
            .filter(|it| !it.state.is_ended())
            .filter_map(|it| it.agent)
            .collect();
        if let Some(agent) = self.agents.iter().find(|agent| !known.contains(agent)) {
            return Err(format!("node {agent} was forgotten"));
        }
        Ok(())
    }
}
