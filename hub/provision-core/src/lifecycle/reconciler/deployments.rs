//! From what is wanted to records: nothing here calls a cloud.

use std::collections::{BTreeMap, BTreeSet};

use super::churn::{Pause, pause};
use super::{Action, Alarm, Reconciler, View, Why};
use crate::lifecycle::{Deployment, Record, RecordState, Wanted};
use crate::{DeploymentId, InstanceKey};

impl Reconciler {
    /// What is to be stored because of what deployments want; `providers` are those that are configured.
    pub fn plan_deployments(&mut self, view: &View<'_>, providers: &BTreeSet<String>) -> Vec<Action> {
        let mut actions = Vec::new();
        let mut alarms = BTreeSet::new();
        let mut records: BTreeMap<&DeploymentId, Vec<&Record>> = BTreeMap::new();
        for record in view.records.values() {
            records.entry(&record.deployment).or_default().push(record);
            if let Some(agent) =
                record.agent.filter(|it| !record.state.is_live() && view.agents.contains_key(it))
            {
                actions.push(Action::Evict { key: record.key.clone(), agent, why: Why::Doomed });
            }
            if !record.state.is_ended() && !providers.contains(&record.candidate.provider) {
                alarms.insert(Alarm {
                    subject: record.key.to_string(),
                    why: Why::NoProvider,
                    text: format!(
                        "provider {:?} is not configured any more, and this machine of it is {}: configure it again, \
                         or delete the machine by hand",
                        record.candidate.provider, record.state
                    ),
                });
            }
        }
        for deployment in view.deployments.values() {
            let own = records.get(&deployment.id).map(Vec::as_slice).unwrap_or_default();
            self.plan_deployment(deployment, own, view, &mut actions, &mut alarms);
        }
        actions.extend(self.alarms.replace("", alarms));
        actions
    }

    fn plan_deployment(
        &self,
        deployment: &Deployment,
        own: &[&Record],
        view: &View<'_>,
        actions: &mut Vec<Action>,
        alarms: &mut BTreeSet<Alarm>,
    ) {
        let now = view.now;
        let is_over = deployment.expires_at.is_some_and(|end| end <= now);
        if is_over && deployment.wanted != Wanted::Gone {
            if view.is_clock_trusted {
                actions.push(Action::Expire { deployment: deployment.id.clone() });
                return;
            }
            alarms.insert(Alarm {
                subject: deployment.id.to_string(),
                why: Why::Clock,
                text: "its time is over by a clock that was set or stood still; it is ended once a cloud twice agrees \
                       about the time, or the clock went evenly for an hour"
                    .to_owned(),
            });
        }
        let mut live: Vec<&Record> = own.iter().copied().filter(|record| record.state.is_live()).collect();
        match deployment.wanted {
            Wanted::Gone => actions.extend(live.iter().map(|record| doom(record, Why::Terminated, now))),
            // What is kept switched off is not made up for where one is lost: it would have to be switched on for that.
            Wanted::Stopped => {}
            Wanted::Running => {
                let wanted = usize::try_from(deployment.replicas).unwrap_or(usize::MAX);
                // The least far go first: those that run are kept.
                live.sort_by_key(|record| (std::cmp::Reverse(record.state), record.number));
                let surplus = live.iter().skip(wanted);
                actions.extend(surplus.map(|record| doom(record, Why::Surplus, now)));
                let missing = wanted.saturating_sub(live.len());
                self.plan_missing(deployment, own, missing, view, actions, alarms);
            }
        }
    }

    fn plan_missing(
        &self,
        deployment: &Deployment,
        own: &[&Record],
        missing: usize,
        view: &View<'_>,
        actions: &mut Vec<Action>,
        alarms: &mut BTreeSet<Alarm>,
    ) {
        if missing == 0 {
            return;
        }
        if let Some(Pause { until, ended }) = pause(own, deployment.replicas, view.now) {
            alarms.insert(Alarm {
                subject: deployment.id.to_string(),
                why: Why::Churn,
                text: format!(
                    "{ended} of its machines ended within an hour of being made: look at why with `blueprint-hub \
                     deployment history {}`; the next is ordered at {until}, or end it with `blueprint-hub deployment \
                     terminate {}`",
                    deployment.id, deployment.id
                ),
            });
            return;
        }
        let candidate = match self.blocks.choose(&deployment.plan, view.now) {
            Ok(candidate) => candidate,
            Err(until) => {
                let last = own.iter().filter(|record| !record.reason.is_empty()).max_by_key(|it| it.number);
                let last = last.map_or("-", |record| record.reason.as_str());
                alarms.insert(Alarm {
                    subject: deployment.id.to_string(),
                    why: Why::NoOffer,
                    text: format!(
                        "nothing of its plan can be had; the next try is at {until}. The last reason: {last}"
                    ),
                });
                return;
            }
        };
        let first = own.iter().map(|record| record.number).max().unwrap_or_default();
        for number in (first.saturating_add(1)..).take(missing) {
            let record = Record {
                key: InstanceKey::of(&deployment.id, number),
                deployment: deployment.id.clone(),
                number,
                candidate: candidate.clone(),
                state: RecordState::Planned,
                attempt: 0,
                created_at: view.now,
                since: view.now,
                called_at: None,
                made_at: None,
                is_off: false,
                switched_at: None,
                deleted_at: None,
                provider_id: None,
                agent: None,
                agent_attempt: 0,
                reason: String::new(),
            };
            actions.push(Action::Save { record, why: Why::Missing });
        }
    }
}

/// What ends a live record: at once where its cloud was never called, else by a deletion.
fn doom(record: &Record, why: Why, now: blueprint_common_types::Timestamp) -> Action {
    let was_called = record.state != RecordState::Planned || record.called_at.is_some();
    let state = if was_called { RecordState::Deleting } else { RecordState::Gone };
    Action::Save { record: record.turned(state, why.label(), now), why }
}
