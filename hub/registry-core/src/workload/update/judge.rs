//! What of an update was seen by this hub, and what follows from that.

use std::time::Duration;

use blueprint_common_types::workload::WorkloadState;
use blueprint_common_types::{Health, Timestamp};

use super::{Advance, Phase, Side, Sight, Tally, Update};
use crate::workload::plan::Strategy;

/// How long the next version may be sick, between two healthy times: a check that failed once is no verdict.
const SICK: Duration = Duration::from_secs(5);

/// How long its node may be away; twice the patience of workloads in general.
const AWAY: Duration = Duration::from_secs(30);

/// How long a version that gets nothing more is left at least: who picked it just before is on the way.
const QUIET: Duration = Duration::from_secs(2);

/// Starts anew after which the next version is given up before it was healthy.
const MAX_RESTARTS: u32 = 3;

/// Failed requests that say something.
const MIN_FAILED: u64 = 3;

/// How many more of a hundred requests may fail than with the old version.
const WORSE_BY: u64 = 5;

/// What was seen since this hub took the update up, or since the phase began.
#[derive(Debug, Clone)]
pub(super) struct Watch {
    /// When this hub saw the phase begin.
    entered: Timestamp,
    ready_since: Option<Timestamp>,
    sick_since: Option<Timestamp>,
    away_since: Option<Timestamp>,
    /// Since when a replica that `rolling` has moved is sick.
    served_sick_since: Option<Timestamp>,
    /// Tallies when the phase began.
    at_entry: Option<(Tally, Tally)>,
    /// The old version's tally when this hub took the update up.
    old_at_start: Option<Tally>,
    /// Starts of the next version, of all its replicas, when it was ready first.
    restarts: Option<u32>,
    /// Whether the old version was seen with a target: it may have registered after the update began.
    had_target: bool,
}

impl Watch {
    pub(super) const fn new(now: Timestamp) -> Self {
        Self {
            entered: now,
            ready_since: None,
            sick_since: None,
            away_since: None,
            served_sick_since: None,
            at_entry: None,
            old_at_start: None,
            restarts: None,
            had_target: false,
        }
    }

    /// The same phase, with other weights.
    pub(super) fn weighed_anew(&self, now: Timestamp) -> Self {
        Self { entered: now, ..self.clone() }
    }

    /// Keeps what goes beyond one phase.
    pub(super) const fn carry_over(&mut self, before: &Self) {
        self.old_at_start = before.old_at_start;
        self.restarts = before.restarts;
        self.away_since = before.away_since;
        self.sick_since = before.sick_since;
        self.served_sick_since = before.served_sick_since;
        self.had_target = before.had_target;
    }

    /// Keeps what goes beyond one replica: another one has not been ready yet.
    pub(super) const fn carry_on(&mut self, before: &Self) {
        self.carry_over(before);
        self.restarts = None;
        self.sick_since = None;
    }

    /// Keeps what goes beyond the replicas' turns: from now on all are looked at, and their starts are counted together.
    pub(super) const fn carry_to_all(&mut self, before: &Self) {
        self.carry_over(before);
        self.restarts = None;
    }

    /// Whether the next version has to be reached before it may serve.
    const fn needs_target(&self, update: &Update) -> bool {
        update.needs_target || self.had_target
    }

    /// Notes what is seen.
    pub(super) fn see(&mut self, update: &Update, sight: &Sight, now: Timestamp) {
        let Sight { old, next, served } = sight;
        self.at_entry.get_or_insert((old.tally, next_tally(sight)));
        self.old_at_start.get_or_insert(old.tally);
        self.had_target |= old.target.is_some();
        let needs_target = self.needs_target(update);
        let is_served_here = served.as_ref().is_none_or(|side| side.is_here);
        let is_served_sick =
            served.as_ref().is_some_and(|side| is_served_here && !is_ready(needs_target, side, false));
        self.served_sick_since = if is_served_sick { self.served_sick_since.or(Some(now)) } else { None };
        let is_here = next.is_here && is_served_here;
        self.away_since = if is_here { None } else { self.away_since.or(Some(now)) };
        let is_ready = is_ready(needs_target, next, is_kept_off(sight));
        self.ready_since = if is_ready { self.ready_since.or(Some(now)) } else { None };
        // While its node is away nothing is known of it.
        let is_sick = next.is_here && !is_ready;
        self.sick_since = if is_sick { self.sick_since.or(Some(now)) } else { None };
        if is_ready {
            self.restarts.get_or_insert(next.restarts.saturating_add(next.other_restarts));
        }
    }

    /// What is to happen.
    pub(super) fn judge(&self, update: &Update, sight: &Sight, now: Timestamp) -> Option<Advance> {
        let passed = now.since(self.entered);
        if update.phase == Phase::Back {
            let is_drained = passed >= QUIET && sight.next.tally.open == 0 || passed >= update.plan.drain();
            let is_late = now.since(update.since) >= patience(update);
            let is_over = update.is_recreate() || (!update.is_covered && is_drained) || is_late;
            let over = is_over.then(|| Advance::TakeBack(update.reason.clone()));
            return over.or_else(|| self.cover(update, sight));
        }
        if let Some(reason) = self.failure(update, sight, now) {
            return Some(go_back(update, reason, now));
        }
        if let Some(covered) = self.cover(update, sight) {
            return Some(covered);
        }
        let is_ready = self.ready_since.is_some();
        match update.phase {
            Phase::Starting => is_ready.then(|| self.enter(update, Phase::Proving, now)),
            Phase::Proving => {
                let healthy_for = self.ready_since.map(|since| now.since(since))?;
                (healthy_for >= update.plan.health()).then(|| match update.plan.strategy {
                    Strategy::Rolling if update.has_more() => Advance::Enter(Update {
                        phase: Phase::Starting,
                        rolled: update.rolled.saturating_add(1),
                        since: now,
                        needs_target: self.needs_target(update),
                        is_covered: false,
                        ..update.clone()
                    }),
                    Strategy::Rolling | Strategy::BlueGreen => self.enter(update, Phase::Moved, now),
                    Strategy::Canary => self.enter(update, Phase::Step(0), now),
                    Strategy::Recreate => Advance::Finish,
                })
            }
            Phase::Step(number) => (is_ready && passed >= update.plan.pause())
                .then(|| self.enter(update, after(update, number), now)),
            Phase::Moved => {
                let keeps = match update.plan.strategy {
                    Strategy::BlueGreen => update.plan.pause(),
                    Strategy::Rolling | Strategy::Canary | Strategy::Recreate => Duration::ZERO,
                };
                let is_idle = sight.old.tally.open == 0 && passed >= QUIET.max(keeps);
                let is_over = passed >= keeps.saturating_add(update.plan.drain());
                (is_ready && (is_idle || is_over)).then_some(Advance::Finish)
            }
            Phase::Back => None,
        }
    }

    /// The next phase, with what was learned of the service meanwhile.
    fn enter(&self, update: &Update, phase: Phase, now: Timestamp) -> Advance {
        let needs_target = self.needs_target(update);
        Advance::Enter(Update { phase, since: now, needs_target, is_covered: false, ..update.clone() })
    }

    /// Gives the next version everything, in the same phase, while the old one cannot serve and it can; takes it away
    /// after that. What the operator took back gets nothing more. `None` where nothing of this changes.
    fn cover(&self, update: &Update, sight: &Sight) -> Option<Advance> {
        let is_phase = matches!(update.phase, Phase::Proving | Phase::Back) && !update.is_recreate();
        let is_wanted = is_phase && !update.is_aborted;
        let is_covered =
            is_wanted && self.needs_target(update) && !sight.old.answers() && sight.next.answers();
        (is_phase && is_covered != update.is_covered)
            .then(|| Advance::Enter(Update { is_covered, ..update.clone() }))
    }

    /// What the next version lacks to serve.
    fn lacks(&self, update: &Update, sight: &Sight) -> String {
        lacks(self.needs_target(update), &sight.next, is_kept_off(sight))
    }

    /// Why the next version is not to serve.
    fn failure(&self, update: &Update, sight: &Sight, now: Timestamp) -> Option<String> {
        let (next, to) = (&sight.next, update.to);
        if update.phase == Phase::Moved && sight.old.serves() && !next.serves() {
            // It has everything and cannot serve, and the other can: there is nothing to wait for.
            let why = if next.is_here {
                self.lacks(update, sight)
            } else {
                format!("its node{} is away", on(next))
            };
            return Some(format!("version {to} cannot serve while version {} can: {why}", update.from));
        }
        let why = |text: &str| if text.is_empty() { String::new() } else { format!(": {text}") };
        match next.state {
            Some(WorkloadState::Failed) => {
                return Some(format!("version {to} cannot be run{}", why(&next.reason)));
            }
            Some(WorkloadState::Ended) => return Some(format!("version {to} ended{}", why(&next.reason))),
            Some(_) | None => {}
        }
        if self.away_since.is_some_and(|since| now.since(since) >= AWAY) {
            let away = sight.served.as_ref().filter(|served| !served.is_here).unwrap_or(next);
            return Some(format!(
                "the node{} of version {to} has been away for {} s",
                on(away),
                AWAY.as_secs()
            ));
        }
        let (times, most, when) = match self.restarts {
            None => (next.restarts, MAX_RESTARTS, "before it was healthy"),
            Some(first) => (
                next.restarts.saturating_add(next.other_restarts),
                first.saturating_add(1),
                "after it had been healthy",
            ),
        };
        if times >= most {
            return Some(format!("version {to} was started again {times} times {when}{}", why(&next.reason)));
        }
        if let Some(reason) = &next.asks_move {
            return Some(format!("version {to} did not get well on its node{}", why(reason)));
        }
        if let Some(served) = &sight.served
            && self.served_sick_since.is_some_and(|since| now.since(since) >= SICK)
        {
            let (secs, lack) = (SICK.as_secs(), lacks(self.needs_target(update), served, false));
            return Some(format!("version {to} has not been healthy for {secs} s where it serves: {lack}"));
        }
        if update.phase == Phase::Starting {
            // The stored time counts here: a hub that is started again and again gives it no more.
            let is_late = now.since(update.since) >= update.plan.start();
            let late = is_late.then(|| {
                let secs = update.plan.start_secs;
                format!("version {to} was not healthy within {secs} s: {}", self.lacks(update, sight))
            });
            return late.or_else(|| self.errors(update, sight));
        }
        let proves_within = update.plan.start().saturating_add(update.plan.health());
        if update.phase == Phase::Proving && now.since(update.since) >= proves_within {
            let (secs, within) = (update.plan.health_secs, proves_within.as_secs());
            return Some(format!(
                "version {to} was not healthy for {secs} s without a break within {within} s"
            ));
        }
        if self.sick_since.is_some_and(|since| now.since(since) >= SICK) {
            let secs = SICK.as_secs();
            return Some(format!(
                "version {to} has not been healthy for {secs} s: {}",
                self.lacks(update, sight)
            ));
        }
        self.errors(update, sight)
    }

    /// Whether the proxy sees more failures than with the old version.
    fn errors(&self, update: &Update, sight: &Sight) -> Option<String> {
        let (old_before, next_before) = self.at_entry?;
        let old = match update.phase {
            Phase::Step(_) => old_before,
            // Some replicas serve, and others do not yet.
            Phase::Starting | Phase::Proving if sight.served.is_some() => old_before,
            // It gets nothing more, so what it did before counts.
            Phase::Moved => self.old_at_start?,
            Phase::Starting | Phase::Proving | Phase::Back => return None,
        };
        let old = between(old, sight.old.tally);
        let next = between(next_before, next_tally(sight));
        let of = old.requests.max(1);
        let most = next
            .requests
            .saturating_mul(old.failed.saturating_mul(100).saturating_add(WORSE_BY.saturating_mul(of)));
        let is_worse = next.failed >= MIN_FAILED && next.failed.saturating_mul(100).saturating_mul(of) > most;
        is_worse.then(|| {
            format!(
                "{} of {} requests failed at version {}, {} of {} at version {}",
                next.failed, next.requests, update.to, old.failed, old.requests, update.from
            )
        })
    }
}

fn between(before: Tally, now: Tally) -> Tally {
    Tally {
        requests: now.requests.saturating_sub(before.requests),
        failed: now.failed.saturating_sub(before.failed),
        open: now.open,
    }
}

/// Of all replicas of the next version that get requests; until it has moved all, the one that `rolling` has come to gets none,
/// but for a while in which nothing else serves.
fn next_tally(sight: &Sight) -> Tally {
    sight.served.as_ref().map_or(sight.next.tally, |served| served.tally)
}

/// Whether the operator keeps requests from the next version's node and not from the other's.
const fn is_kept_off(sight: &Sight) -> bool {
    sight.next.is_drained && !sight.old.is_drained
}

/// Whether it may serve, or go on to.
fn is_ready(needs_target: bool, next: &Side, is_kept_off: bool) -> bool {
    let is_reached = match &next.target {
        // The proxy gives nothing to what is not healthy, whatever the plan leaves out.
        Some((health, _)) => *health == Health::Healthy,
        None => !needs_target,
    };
    next.is_here && next.state == Some(WorkloadState::Running) && is_reached && !is_kept_off
}

/// Its node in parentheses, where it is one of several.
fn on(side: &Side) -> String {
    if side.on.is_empty() { String::new() } else { format!(" ({})", side.on) }
}

/// What it lacks for that.
fn lacks(needs_target: bool, next: &Side, is_kept_off: bool) -> String {
    match (next.state, &next.target) {
        (Some(WorkloadState::Running), None) if needs_target => {
            format!("it runs{} and has not registered its service", on(next))
        }
        (Some(WorkloadState::Running), Some((Health::Healthy, _))) if is_kept_off => {
            "its node is drained, or has the weight 0".to_owned()
        }
        (Some(WorkloadState::Running), Some((health, reason))) if reason.is_empty() => {
            format!("its service is {health}")
        }
        (Some(WorkloadState::Running), Some((health, reason))) => {
            format!("its service is {health}: {reason}")
        }
        (Some(state), _) if next.reason.is_empty() => format!("it is {}", state.label()),
        (Some(state), _) => format!("it is {}: {}", state.label(), next.reason),
        (None, _) => format!("its node{} says nothing of it", on(next)),
    }
}

fn after(update: &Update, number: u8) -> Phase {
    let next = number.saturating_add(1);
    if usize::from(next) < update.plan.canary.len() { Phase::Step(next) } else { Phase::Moved }
}

/// How long an update goes back at the most: an old version that cannot serve has as long to come back as the next one had to
/// start.
fn patience(update: &Update) -> Duration {
    update.plan.start().saturating_add(update.plan.drain())
}

/// Weights first, then the end; by `recreate` there is nothing to weigh.
fn go_back(update: &Update, reason: String, now: Timestamp) -> Advance {
    if update.is_recreate() {
        return Advance::TakeBack(reason);
    }
    Advance::Enter(Update { phase: Phase::Back, reason, since: now, is_covered: false, ..update.clone() })
}
