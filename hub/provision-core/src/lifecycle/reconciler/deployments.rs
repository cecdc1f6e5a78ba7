//! From what is wanted to records: nothing here calls a cloud.

use std::collections::{BTreeMap, BTreeSet};

use blueprint_common_types::Timestamp;

use super::churn::{Pause, pause};
use super::{Action, Alarm, Reconciler, View, Why};
use crate::catalogue::is_one_machine;
use crate::lifecycle::{Deployment, Record, RecordState, Wanted};
use crate::{Candidate, DeploymentId, InstanceKey};

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
        let mark = |record: &Record| view.leaving.get(&record.key);
        // What scaling let go of is not one of those that are wanted any more, however many that are.
        let released = live.extract_if(.., |record| mark(record).is_some_and(|mark| mark.is_released));
        let is_given_up = |record: &Record| mark(record).is_some_and(|mark| mark.is_given_up);
        // Whether its agent is connected at this moment says nothing of why it was released.
        let why = |record: &Record| if is_given_up(record) { Why::Silent } else { Why::Surplus };
        actions.extend(released.map(|record| doom(record, why(record), now)));
        match deployment.wanted {
            Wanted::Gone => actions.extend(live.iter().map(|record| doom(record, Why::Terminated, now))),
            // What is kept switched off is not made up for where one is lost: it would have to be switched on for that.
            Wanted::Stopped => {}
            Wanted::Running => {
                let wanted = usize::try_from(deployment.replicas).unwrap_or(usize::MAX);
                // Those that leave go first, then the least far: those that run are kept.
                live.sort_by_key(|record| {
                    (mark(record).is_some(), std::cmp::Reverse(record.state), record.number)
                });
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
        let mut taken = taken(view, actions);
        let first = own.iter().map(|record| record.number).max().unwrap_or_default();
        let is_mine = |record: &&&Record| {
            record.state.is_live() && view.leaving.get(&record.key).is_none_or(|mark| !mark.is_released)
        };
        let mut placed: Vec<&Candidate> =
            own.iter().filter(is_mine).map(|record| &record.candidate).collect();
        for number in (first.saturating_add(1)..).take(missing) {
            let is_free = |candidate: &&Candidate| !taken.contains(&machine(candidate));
            let offers = deployment.spread.order(&deployment.plan, &placed);
            let candidate = match self.blocks.choose(offers.into_iter().filter(is_free), view.now) {
                Ok(candidate) => candidate,
                Err(until) => {
                    let is_none = !deployment.plan.iter().any(|candidate| is_free(&candidate));
                    alarms.insert(no_offer(deployment, own, (!is_none).then_some(until)));
                    return;
                }
            };
            if is_one_machine(&candidate.provider) {
                taken.insert(machine(candidate));
            }
            placed.push(candidate);
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

/// Names what a candidate is, where its plan is one machine.
fn machine(candidate: &Candidate) -> (String, String) {
    (candidate.provider.clone(), candidate.plan.clone())
}

/// Machines that are there once and have an order already, of those that are stored and those that are about to be.
fn taken(view: &View<'_>, actions: &[Action]) -> BTreeSet<(String, String)> {
    let saved = actions.iter().filter_map(|action| match action {
        Action::Save { record, .. } => Some(record),
        Action::Expire { .. }
        | Action::Create { .. }
        | Action::Delete { .. }
        | Action::Boot { .. }
        | Action::Stop { .. }
        | Action::Evict { .. }
        | Action::Remove { .. }
        | Action::Report(_) => None,
    });
    let open = view.records.values().chain(saved).filter(|record| !record.state.is_ended());
    open.map(|record| &record.candidate)
        .filter(|candidate| is_one_machine(&candidate.provider))
        .map(machine)
        .collect()
}

/// Nothing of a plan can be had before `until`; `None` where each machine of it has an order.
fn no_offer(deployment: &Deployment, own: &[&Record], until: Option<Timestamp>) -> Alarm {
    let last = own.iter().filter(|record| !record.reason.is_empty()).max_by_key(|it| it.number);
    let last = last.map_or("-", |record| record.reason.as_str());
    let text = match until {
        Some(until) => {
            format!("nothing of its plan can be had; the next try is at {until}. The last reason: {last}")
        }
        None => {
            "every machine of its plan has an order already: end another deployment, or order it anew once \
                 there are more machines"
                .to_owned()
        }
    };
    Alarm { subject: deployment.id.to_string(), why: Why::NoOffer, text }
}

/// What ends a live record: at once where its cloud was never called, else by a deletion.
fn doom(record: &Record, why: Why, now: Timestamp) -> Action {
    let was_called = record.state != RecordState::Planned || record.called_at.is_some();
    let state = if was_called { RecordState::Deleting } else { RecordState::Gone };
    Action::Save { record: record.turned(state, why.label(), now), why }
}
