//! Updates of services that have replicas: which of them run the next version, what part each gets, and what is seen of all
//! of them as of one.

use std::cmp::Reverse;

use blueprint_common_types::workload::WorkloadState;
use blueprint_common_types::{AgentId, Health};

use super::{Phase, Shares, Side, Tally, Update};
use crate::workload::plan::Strategy;

impl Update {
    /// Whether it goes through replicas one after the other.
    #[must_use]
    pub fn is_in_turn(&self) -> bool {
        self.plan.strategy == Strategy::Rolling && self.replicas.len() > 1
    }

    /// Nodes that run the next version beside the old one by now; none by `recreate`.
    #[must_use]
    pub fn next_nodes(&self) -> &[AgentId] {
        let Some(run) = &self.next else { return &[] };
        if self.replicas.is_empty() {
            return std::slice::from_ref(&run.node);
        }
        let count = if self.is_in_turn() { self.rolled.saturating_add(1) } else { self.replicas.len() };
        self.replicas.get(..count).unwrap_or(&self.replicas)
    }

    /// How requests are shared at a node. Where the next version does not run, all are the old version's until the others have
    /// moved, and then nobody's. `None` by `recreate`.
    #[must_use]
    pub fn shares_at(&self, node: AgentId) -> Option<Shares> {
        let shares = self.shares()?;
        let place = self.next_nodes().iter().position(|it| *it == node);
        Some(match (place, self.phase) {
            // What came since the update began: it ends its requests together with the others.
            (None, Phase::Moved) => Shares::of(100),
            (None, _) => Shares::of(0),
            // Those that are through have everything, until all of them go back.
            (Some(place), Phase::Starting | Phase::Proving) if self.is_in_turn() && place < self.rolled => {
                Shares::of(100)
            }
            (Some(_), _) => shares,
        })
    }

    /// Whether `rolling` has another replica to come to.
    pub(super) fn has_more(&self) -> bool {
        self.is_in_turn() && self.rolled.saturating_add(1) < self.replicas.len()
    }

    /// Which of the replicas, for people; empty for one instance.
    pub(super) fn among(&self) -> String {
        match self.replicas.len() {
            0 | 1 => String::new(),
            all if self.is_in_turn() => format!(", replica {} of {all}", self.rolled.saturating_add(1)),
            all => format!(", {all} replicas"),
        }
    }
}

impl Side {
    /// Several replicas of a version that are all to be well, by the names of their nodes, which reasons begin with where they
    /// are not empty: what one of them lacks, all lack.
    #[must_use]
    pub fn all_of(sides: Vec<(String, Self)>) -> Self {
        let tally = tally_of(sides.iter().map(|(_, side)| side));
        let is_spared = sides.iter().any(|(_, side)| side.serves());
        let is_here = !sides.is_empty() && sides.iter().all(|(_, side)| side.is_here);
        let is_drained = !sides.is_empty() && sides.iter().all(|(_, side)| side.is_drained);
        let most = sides.iter().max_by_key(|(_, side)| side.restarts);
        let restarts = most.map_or(0, |(_, side)| side.restarts);
        let in_all = sides.iter().map(|(_, side)| side.restarts).fold(0, u32::saturating_add);
        let named = |name: &str, text: &str| match (name.is_empty(), text.is_empty()) {
            (true, _) => text.to_owned(),
            (false, true) => format!("on {name}"),
            (false, false) => format!("on {name}: {text}"),
        };
        let asks = sides.iter().find_map(|(name, side)| Some((name, side.asks_move.as_ref()?)));
        let asks_move = asks.map(|(name, why)| named(name, why));
        let Some((name, worst)) = sides.iter().min_by_key(|(_, side)| wellness(side)) else {
            return Self::default();
        };
        let target = worst.target.as_ref().map(|(health, why)| match health {
            Health::Healthy => (*health, why.clone()),
            Health::Unhealthy | Health::Unknown => (*health, named(name, why)),
        });
        // Where nothing else is wrong, the reason is that of the one that was started again.
        let is_well = worst.state == Some(WorkloadState::Running);
        let reason = match most.filter(|(_, side)| is_well && side.restarts > 0) {
            Some((name, side)) => named(name, &side.reason),
            None if is_well => worst.reason.clone(),
            None => named(name, &worst.reason),
        };
        Self {
            on: name.clone(),
            is_here,
            state: worst.state,
            reason,
            restarts,
            other_restarts: in_all.saturating_sub(restarts),
            asks_move,
            target,
            tally,
            is_drained,
            is_spared,
        }
    }

    /// Several replicas of a version of which one that is well is enough.
    #[must_use]
    pub fn any_of(sides: Vec<Self>) -> Self {
        let tally = tally_of(sides.iter());
        let best = sides
            .into_iter()
            .max_by_key(|side| (side.serves(), side.answers(), Reverse(side.target.is_none())));
        best.map_or_else(Self::default, |best| Self { tally, ..best })
    }

    /// Whether requests that are given to it are answered: they go through the tunnel, also where its node's control stream is
    /// broken for a moment, and a target whose node does not answer there is not healthy.
    pub(super) fn answers(&self) -> bool {
        let is_healthy = self.target.as_ref().is_some_and(|(health, _)| *health == Health::Healthy);
        self.is_spared || (is_healthy && !self.is_drained)
    }

    /// Whether that is so, and its node says so now.
    pub(super) fn serves(&self) -> bool {
        self.is_spared || (self.is_here && self.answers())
    }
}

/// The worst first: what is away, what cannot be run, what ended, what is not heard of, what does not run yet, and then by its target.
fn wellness(side: &Side) -> (bool, u8, u8) {
    let state = match side.state {
        Some(WorkloadState::Failed) => 0,
        Some(WorkloadState::Ended) => 1,
        None => 2,
        Some(WorkloadState::Running) => 4,
        Some(_) => 3,
    };
    let target = match &side.target {
        None => 0,
        Some((Health::Unhealthy, _)) => 1,
        Some((Health::Unknown, _)) => 2,
        Some((Health::Healthy, _)) => 3,
    };
    (side.is_here, state, target)
}

fn tally_of<'a>(sides: impl Iterator<Item = &'a Side>) -> Tally {
    sides.fold(Tally::default(), |sum, side| Tally {
        requests: sum.requests.saturating_add(side.tally.requests),
        failed: sum.failed.saturating_add(side.tally.failed),
        open: sum.open.saturating_add(side.tally.open),
    })
}
