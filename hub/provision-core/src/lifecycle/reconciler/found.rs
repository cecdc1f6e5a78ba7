//! From what a cloud lists to what it is asked.

use std::collections::{BTreeMap, BTreeSet};

use blueprint_common_types::Timestamp;

use super::churn::STAY;
use super::{Action, Alarm, Reconciler, View, Why};
use crate::catalogue::{delivered_within, listed_within};
use crate::lifecycle::{Record, RecordState, Wanted};
use crate::{Candidate, ErrorClass, Instance, InstanceKey, InstanceState};

/// One record, what its cloud lists of it, and what is wanted of its deployment.
struct Case<'a> {
    record: &'a Record,
    seen: Vec<&'a Instance>,
    /// Everything that was listed with it, also what is another hub's.
    listed: &'a [Instance],
    wanted: Wanted,
}

impl Case<'_> {
    /// True where the machine of this name is listed and does not carry the tag of this hub: `seen` has those that do.
    fn is_anothers(&self, provider_id: &str) -> bool {
        let is_seen = self.seen.iter().any(|instance| instance.provider_id == provider_id);
        !is_seen && self.listed.iter().any(|instance| instance.provider_id == provider_id)
    }

    /// True where something is seen that is not left for another call to finish. One call finishes one machine, for a
    /// deployment that wants it to run.
    fn has_machine(&self) -> bool {
        match self.seen.as_slice() {
            [] => false,
            [only] => only.state != InstanceState::Unfinished || self.wanted != Wanted::Running,
            _ => true,
        }
    }

    /// When the first of what is seen was made.
    fn made_at(&self, now: Timestamp) -> Option<Timestamp> {
        let seen = self.seen.iter().map(|instance| first_sight(self.record, instance, now)).min();
        self.record.made_at.or(seen)
    }

    fn delete_all(&self, record: &Record, why: Why) -> Vec<Action> {
        let ids = self.seen.iter().map(|instance| instance.provider_id.clone());
        ids.map(|provider_id| Action::Delete { record: record.clone(), provider_id, why }).collect()
    }
}

impl Reconciler {
    /// What is to be done for the machines of one provider. `listed` was asked for after the last call to it had
    /// ended, and no call to it is under way.
    pub fn plan_provider(&mut self, provider: &str, listed: &[Instance], view: &View<'_>) -> Vec<Action> {
        let mut actions = Vec::new();
        let mut alarms = BTreeSet::new();
        let mut ours: BTreeMap<&InstanceKey, Vec<&Instance>> = BTreeMap::new();
        for instance in listed {
            // Without this hub's tag it is another hub's, or a person's.
            if instance.tags.as_ref().is_some_and(|tags| tags.hub == self.hub) {
                ours.entry(&instance.key).or_default().push(instance);
            }
        }
        self.deleted.retain(|(of, id), _| of != provider || listed.iter().any(|it| it.provider_id == *id));
        for record in view.records.values().filter(|record| record.candidate.provider == provider) {
            let seen = ours.remove(&record.key).unwrap_or_default();
            let deployment = view.deployments.get(&record.deployment);
            let wanted = deployment.map_or(Wanted::Gone, |deployment| deployment.wanted);
            if !seen.is_empty() {
                self.unlisted.remove(&record.key);
            }
            let case = Case { record, seen, listed, wanted };
            actions.extend(match record.state {
                RecordState::Planned => self.planned(&case, view.now, &mut alarms),
                RecordState::Calling => self.calling(&case, view.now),
                RecordState::Created | RecordState::Active => self.standing(&case, view, &mut alarms),
                RecordState::Deleting => self.deleting(&case, view.now, &mut alarms),
                RecordState::Gone | RecordState::Lost | RecordState::Failed => {
                    self.remove(&case, Why::Ghost, view.now)
                }
            });
        }
        let strangers: Vec<&Instance> = ours.into_values().flatten().collect();
        actions.extend(self.orphans(provider, &strangers, view.now, &mut alarms));
        actions.extend(self.alarms.replace(provider, alarms));
        actions
    }

    fn planned(&self, case: &Case<'_>, now: Timestamp, alarms: &mut BTreeSet<Alarm>) -> Vec<Action> {
        let is_held = self.held.get(&case.record.key).is_some_and(|until| *until > now);
        if case.has_machine() {
            return self.found(case, now);
        }
        if case.wanted != Wanted::Running {
            return Vec::new();
        }
        if let Some(limit) = self.limited.get(&case.record.key) {
            alarms.insert(Alarm {
                subject: case.record.key.to_string(),
                why: Why::Limit,
                text: format!("it is not ordered: {limit}; raise the limit in hub.toml, or end something"),
            });
        }
        if is_held {
            return Vec::new();
        }
        if self.blocks.until(&case.record.candidate, now).is_some() {
            let record = case.record.turned(RecordState::Failed, "its offer was refused a moment ago", now);
            return vec![Action::Save { record, why: Why::Answered }];
        }
        vec![call(case.record, Why::Planned, now)]
    }

    fn calling(&mut self, case: &Case<'_>, now: Timestamp) -> Vec<Action> {
        let record = case.record;
        if case.has_machine() {
            return self.found(case, now);
        }
        if self.may_come(record, now) {
            return Vec::new();
        }
        if record.attempt >= self.settings.attempts {
            let reason = format!("no answer after {} calls", record.attempt);
            self.blocks.handle_failure(&record.candidate, ErrorClass::Unknown, now);
            // The cloud may still make it: a failed record keeps looking for its ghost.
            let record = record.turned(RecordState::Failed, reason, now);
            return vec![Action::Save { record, why: Why::Unanswered }];
        }
        match case.wanted {
            Wanted::Running => vec![call(record, Why::Unanswered, now)],
            // It is not asked for again before it is wanted; what may still come is found then, too.
            Wanted::Stopped | Wanted::Gone => {
                let record =
                    record.turned(RecordState::Planned, "no answer, and nothing of it is listed", now);
                vec![Action::Save { record, why: Why::Unanswered }]
            }
        }
    }

    /// True where what was asked for may still come into the list: some clouds list a machine only once it was delivered.
    fn may_come(&self, record: &Record, now: Timestamp) -> bool {
        let within = self.settings.call_again.saturating_add(listed_within(&record.candidate.provider));
        record.called_at.is_some_and(|at| now.since(at) < within)
    }

    /// A machine stands that no answer told of.
    fn found(&self, case: &Case<'_>, now: Timestamp) -> Vec<Action> {
        if let [instance] = case.seen.as_slice() {
            let mut record = case.record.turned(RecordState::Created, "", now);
            record.provider_id = Some(instance.provider_id.clone());
            record.made_at = Some(first_sight(&record, instance, now));
            return vec![Action::Save { record, why: Why::Found }];
        }
        // Which of them has the token that works is not known here, so none is kept; another takes their place.
        let mut record = case.record.turned(RecordState::Deleting, "its cloud made it more than once", now);
        record.made_at = case.made_at(now);
        case.delete_all(&record, Why::Duplicate)
    }

    fn standing(&mut self, case: &Case<'_>, view: &View<'_>, alarms: &mut BTreeSet<Alarm>) -> Vec<Action> {
        let (record, now) = (case.record, view.now);
        let attempt = |instance: &Instance| instance.tags.as_ref().map(|tags| tags.attempt);
        let is_own = |instance: &Instance| match record.agent {
            Some(_) if record.agent_attempt > 0 => attempt(instance) == Some(record.agent_attempt),
            Some(_) | None => record.provider_id.as_ref() == Some(&instance.provider_id),
        };
        let twins: BTreeSet<_> = case
            .seen
            .iter()
            .filter(|instance| is_own(instance))
            .map(|instance| &instance.provider_id)
            .collect();
        if twins.len() > 1 {
            // A cloud that refused a call and made it all the same: which of them joined with the call's token is not
            // known, and each is billed.
            let record = record.turned(RecordState::Deleting, "its cloud made it more than once", now);
            return case.delete_all(&record, Why::Duplicate);
        }
        let own = case.seen.iter().copied().find(|instance| is_own(instance));
        let others: Vec<_> = case.seen.iter().copied().filter(|instance| !is_own(instance)).collect();
        if own.is_none() && !others.is_empty() {
            // The machine whose agent joined, or the one that was made, is not there; what is there is no use.
            let record =
                record.turned(RecordState::Deleting, "another machine of its key stands in its place", now);
            return case.delete_all(&record, Why::Duplicate);
        }
        let others = Case { record, seen: others, listed: &[], wanted: case.wanted };
        let mut actions = self.remove(&others, Why::Duplicate, now);
        let Some(instance) = own else {
            actions.extend(self.unlisted(record, view, alarms));
            return actions;
        };
        if record.state == RecordState::Created && record.agent.is_some() {
            actions.push(Self::joined(record, instance, now));
            return actions;
        }
        if record.state == RecordState::Active
            && let Some(made_at) = record.made_at.filter(|_| now.since(record.since) >= STAY)
        {
            self.blocks.handle_success(&record.candidate, made_at);
        }
        let mut noted = record.clone();
        if is_off(&instance.state) != record.is_off {
            (noted.is_off, noted.switched_at) = (!record.is_off, Some(now));
            actions.push(Action::Save { record: noted.clone(), why: Why::Switched });
        }
        let case = &Case { record: &noted, seen: Vec::new(), listed: &[], wanted: case.wanted };
        if let Some((why, reason)) = self.is_useless(case, instance, view) {
            let record = noted.turned(RecordState::Deleting, reason, now);
            let provider_id = instance.provider_id.clone();
            actions.push(Action::Delete { record, provider_id, why });
            return actions;
        }
        self.silent(case, view, alarms);
        actions.extend(self.switch(case, instance, now));
        actions
    }

    /// The record of a machine whose agent joined.
    fn joined(record: &Record, instance: &Instance, now: Timestamp) -> Action {
        let made_at = record.made_at.unwrap_or_else(|| first_sight(record, instance, now));
        let record = Record {
            provider_id: Some(instance.provider_id.clone()),
            made_at: Some(made_at),
            is_off: is_off(&instance.state),
            switched_at: is_off(&instance.state).then_some(now),
            ..record.turned(RecordState::Active, "", now)
        };
        Action::Save { record, why: Why::Joined }
    }

    /// A machine runs and its agent is not connected: a person is told, and nothing is deleted, since what it runs may
    /// only be cut off.
    fn silent(&mut self, case: &Case<'_>, view: &View<'_>, alarms: &mut BTreeSet<Alarm>) {
        let record = case.record;
        let is_connected = record.agent.is_none_or(|agent| view.agents.get(&agent) == Some(&true));
        if is_connected || case.wanted != Wanted::Running {
            self.silent.remove(&record.key);
            return;
        }
        let since = *self.silent.entry(record.key.clone()).or_insert(view.now);
        if view.now.since(since) >= self.settings.join_within {
            alarms.insert(Alarm {
                subject: record.key.to_string(),
                why: Why::Silent,
                text: format!(
                    "its machine runs and its agent is not connected since {since}: look at the machine; \
                     `blueprint-hub node rm {}` has another one take its place",
                    record.key
                ),
            });
        }
    }

    /// A machine that stands is not in the list.
    fn unlisted(&mut self, record: &Record, view: &View<'_>, alarms: &mut BTreeSet<Alarm>) -> Vec<Action> {
        let now = view.now;
        let apart = self.settings.second_look;
        if self.may_come(record, now) || !Self::is_second_look(&mut self.unlisted, &record.key, apart, now) {
            return Vec::new();
        }
        let is_connected = record.agent.is_some_and(|agent| view.agents.get(&agent) == Some(&true));
        if is_connected {
            alarms.insert(Alarm {
                subject: record.key.to_string(),
                why: Why::Unlisted,
                text: "its cloud does not list it, and its agent is connected: look at the cloud's own pages; it is \
                       kept as long as it answers"
                    .to_owned(),
            });
            return Vec::new();
        }
        let record = record.turned(RecordState::Lost, "its cloud listed without it twice", now);
        vec![Action::Save { record, why: Why::Unlisted }]
    }

    /// Why a machine that is listed is to go although its deployment wants one; also notes the offer as bad.
    fn is_useless(&mut self, case: &Case<'_>, instance: &Instance, view: &View<'_>) -> Option<(Why, String)> {
        let (record, now) = (case.record, view.now);
        if case.wanted != Wanted::Running {
            return None;
        }
        let Candidate { provider, plan, .. } = &record.candidate;
        let within = self.settings.join_within.saturating_add(delivered_within(provider, plan));
        let late = now.since(record.since) > within && view.is_clock_trusted;
        if record.state == RecordState::Created && late {
            self.blocks.handle_failure(&record.candidate, ErrorClass::Capacity, now);
            let waited = within.as_secs();
            return Some((Why::Late, format!("its agent did not join within {waited} s")));
        }
        match record.agent {
            Some(agent) if record.state == RecordState::Active && !view.agents.contains_key(&agent) => {
                let apart = self.settings.second_look;
                if Self::is_second_look(&mut self.agentless, &record.key, apart, now) {
                    return Some((Why::NodeRemoved, "its node was removed from the hub".to_owned()));
                }
            }
            Some(_) | None => {
                self.agentless.remove(&record.key);
            }
        }
        let boots = self.boots.get(&record.key).map_or(0, |(_, boots)| *boots);
        match &instance.state {
            InstanceState::Failed { reason } if boots >= self.settings.boots => {
                self.blocks.handle_failure(&record.candidate, ErrorClass::Capacity, now);
                Some((Why::Broken, format!("it ended by itself {boots} times: {reason}")))
            }
            InstanceState::Failed { .. }
            | InstanceState::Starting
            | InstanceState::Running
            | InstanceState::Stopping
            | InstanceState::Stopped
            | InstanceState::Halted
            | InstanceState::Unfinished => None,
        }
    }

    /// Switches a machine on or off where it is not as it is wanted.
    fn switch(&mut self, case: &Case<'_>, instance: &Instance, now: Timestamp) -> Option<Action> {
        let (record, provider_id) = (case.record.clone(), instance.provider_id.clone());
        let (last, boots) = self.boots.get(&record.key).copied().unwrap_or_default();
        match (&instance.state, case.wanted) {
            (InstanceState::Stopped | InstanceState::Halted, Wanted::Running) => {
                Some(Action::Boot { record, provider_id, why: Why::Off })
            }
            (InstanceState::Failed { .. }, Wanted::Running) => {
                if boots > 0 && now.since(last) < self.settings.second_look {
                    return None;
                }
                self.boots.insert(record.key.clone(), (now, boots.saturating_add(1)));
                Some(Action::Boot { record, provider_id, why: Why::Broken })
            }
            (InstanceState::Starting | InstanceState::Running | InstanceState::Halted, Wanted::Stopped) => {
                Some(Action::Stop { record, provider_id, why: Why::On })
            }
            // One that was told nothing stays as it is, until its time to join is over.
            (
                InstanceState::Starting
                | InstanceState::Running
                | InstanceState::Stopping
                | InstanceState::Unfinished,
                Wanted::Running,
            )
            | (
                InstanceState::Stopping
                | InstanceState::Stopped
                | InstanceState::Unfinished
                | InstanceState::Failed { .. },
                Wanted::Stopped,
            )
            | (
                InstanceState::Starting
                | InstanceState::Running
                | InstanceState::Stopping
                | InstanceState::Stopped
                | InstanceState::Halted
                | InstanceState::Unfinished
                | InstanceState::Failed { .. },
                Wanted::Gone,
            ) => None,
        }
    }

    fn deleting(&mut self, case: &Case<'_>, now: Timestamp, alarms: &mut BTreeSet<Alarm>) -> Vec<Action> {
        let record = case.record;
        if now.since(record.since) > self.settings.delete_within {
            alarms.insert(Alarm {
                subject: record.key.to_string(),
                why: Why::Undeletable,
                text: format!(
                    "it is being deleted since {} and its cloud still has it: look at the cloud's own pages; it is \
                     asked again",
                    record.since
                ),
            });
        }
        if !case.seen.is_empty() {
            let due =
                case.seen.iter().copied().filter(|instance| self.is_due(record, instance, now)).collect();
            return Case { record, seen: due, listed: &[], wanted: case.wanted }
                .delete_all(record, Why::Doomed);
        }
        let is_open = record.provider_id.as_ref().filter(|_| record.deleted_at.is_none());
        if let Some(provider_id) = is_open.filter(|id| !case.is_anothers(id)).cloned() {
            // A cloud may list late what it made: it is not gone before its deletion was accepted.
            self.unlisted.remove(&record.key);
            return vec![Action::Delete { record: record.clone(), provider_id, why: Why::Doomed }];
        }
        // What is not known to have been made may still come.
        let is_open = record.provider_id.is_none() && self.may_come(record, now);
        let apart = self.settings.second_look;
        if is_open || !Self::is_second_look(&mut self.unlisted, &record.key, apart, now) {
            return Vec::new();
        }
        self.forget(&record.key);
        let record = record.turned(RecordState::Gone, &record.reason, now);
        vec![Action::Save { record, why: Why::Unlisted }]
    }

    /// Removes machines that carry the key of a record and are not its own.
    fn remove(&mut self, case: &Case<'_>, why: Why, now: Timestamp) -> Vec<Action> {
        let mut actions = Vec::new();
        for instance in case.seen.iter().copied() {
            if self.is_due(case.record, instance, now) {
                actions.push(Action::Remove {
                    provider: case.record.candidate.provider.clone(),
                    key: instance.key.clone(),
                    provider_id: instance.provider_id.clone(),
                    why,
                });
            }
        }
        actions
    }

    /// True where a deletion was not asked for lately.
    fn is_due(&self, record: &Record, instance: &Instance, now: Timestamp) -> bool {
        let place = (record.candidate.provider.clone(), instance.provider_id.clone());
        self.deleted.get(&place).is_none_or(|at| now.since(*at) >= self.settings.second_look)
    }

    fn orphans(
        &mut self,
        provider: &str,
        strangers: &[&Instance],
        now: Timestamp,
        alarms: &mut BTreeSet<Alarm>,
    ) -> Vec<Action> {
        let place = |instance: &Instance| (provider.to_owned(), instance.provider_id.clone());
        self.orphans.retain(|(of, id), _| {
            of != provider || strangers.iter().any(|instance| instance.provider_id == *id)
        });
        let mut actions = Vec::new();
        for instance in strangers {
            let since = *self.orphans.entry(place(instance)).or_insert(now);
            let end = since.plus(self.settings.orphan_grace);
            alarms.insert(Alarm {
                subject: instance.provider_id.clone(),
                why: Why::Orphan,
                text: format!(
                    "{provider} has the machine {} with this hub's tag, and this hub knows nothing of it: it is \
                     deleted at {end}; take the tag off to keep it",
                    instance.key
                ),
            });
            let asked = self.deleted.get(&place(instance));
            let is_due = asked.is_none_or(|at| now.since(*at) >= self.settings.second_look);
            if now > since && now >= end && is_due {
                actions.push(Action::Remove {
                    provider: provider.to_owned(),
                    key: instance.key.clone(),
                    provider_id: instance.provider_id.clone(),
                    why: Why::Orphan,
                });
            }
        }
        actions
    }

    pub(super) fn forget(&mut self, key: &InstanceKey) {
        self.unlisted.remove(key);
        self.agentless.remove(key);
        self.held.remove(key);
        self.limited.remove(key);
        self.boots.remove(key);
        self.silent.remove(key);
    }
}

/// True where a machine exists and does not run, and is not paid for as if it did.
const fn is_off(state: &InstanceState) -> bool {
    match state {
        InstanceState::Stopped | InstanceState::Unfinished | InstanceState::Failed { .. } => true,
        InstanceState::Starting
        | InstanceState::Running
        | InstanceState::Stopping
        | InstanceState::Halted => false,
    }
}

/// Since when a machine that no answer told of is billed: as its cloud says, where that can be.
fn first_sight(record: &Record, instance: &Instance, now: Timestamp) -> Timestamp {
    if (record.created_at..=now).contains(&instance.created_at) { instance.created_at } else { now }
}

/// The call that makes a machine, as the next attempt.
fn call(record: &Record, why: Why, now: Timestamp) -> Action {
    let mut record = record.turned(RecordState::Calling, "", now);
    record.attempt = record.attempt.saturating_add(1);
    record.called_at = Some(now);
    Action::Create { record, why }
}
