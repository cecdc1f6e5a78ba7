//! What a person should look at: raised once, kept while it lasts.

use std::collections::{BTreeMap, BTreeSet};

use super::{Action, Why};

/// Something that a person should look at.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Alarm {
    /// A deployment, a machine, or a machine's name at its cloud.
    pub subject: String,
    /// What it is about.
    pub why: Why,
    /// What is the matter and what to do, one line.
    pub text: String,
}

/// Alarms by where they come from: the deployments (an empty name), or one provider.
#[derive(Debug, Default)]
pub(super) struct Alarms(BTreeMap<String, BTreeSet<Alarm>>);

impl Alarms {
    /// Replaces those of one place; gives what is new as actions.
    pub(super) fn replace(&mut self, place: &str, now: BTreeSet<Alarm>) -> Vec<Action> {
        let before = self.0.insert(place.to_owned(), now.clone()).unwrap_or_default();
        let is_new =
            |alarm: &Alarm| !before.iter().any(|old| old.subject == alarm.subject && old.why == alarm.why);
        now.into_iter().filter(is_new).map(Action::Report).collect()
    }

    pub(super) fn list(&self) -> Vec<Alarm> {
        self.0.values().flatten().cloned().collect()
    }
}
