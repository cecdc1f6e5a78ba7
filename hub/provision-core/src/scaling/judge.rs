//! What is to be done next about the replicas of a service.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use blueprint_common_types::{ServiceKey, Timestamp};

use super::{Phase, Presence, Replica, Scaling, Sight};
use crate::InstanceKey;

/// Least time that a replica drains, so that nothing is on its way to it any more: a table of targets is in force in far
/// less than that.
const LEAST_DRAIN: Duration = Duration::from_secs(2);

/// Fewer replicas are enough where they would use this part of the target: what lies between is for neither way, so that
/// the number does not swing.
const ROOM: f64 = 0.8;

/// Times that scaling goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScalerSettings {
    /// Least time between two steps up. Default 1 min.
    pub up_pause: Duration,
    /// How long fewer replicas have to be enough before some go. Default 5 min.
    pub down_after: Duration,
    /// How long what is open at a replica may last once it leaves. Default 1 min.
    pub drain: Duration,
    /// How long a deployment without replicas is kept once nobody pays. Default 7 days.
    pub grace: Duration,
    /// How long the agent of a replica may be away before another one takes its place. Default 10 min.
    pub give_up: Duration,
    /// Age from which on a measurement does not count. Default 45 s, four samples of an agent.
    pub stale: Duration,
}

impl Default for ScalerSettings {
    fn default() -> Self {
        Self {
            up_pause: Duration::from_secs(60),
            down_after: Duration::from_secs(300),
            drain: Duration::from_secs(60),
            grace: Duration::from_secs(7 * 24 * 3600),
            give_up: Duration::from_secs(600),
            stale: Duration::from_secs(45),
        }
    }
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Want more machines.
    Grow {
        /// How many in all.
        to: u32,
        /// Why, one line.
        reason: String,
    },
    /// Give these no new requests any more.
    Drain {
        /// Which.
        keys: BTreeSet<InstanceKey>,
        /// Why, one line.
        reason: String,
    },
    /// Give these requests again.
    Keep {
        /// Which.
        keys: BTreeSet<InstanceKey>,
        /// Why, one line.
        reason: String,
    },
    /// Want fewer machines, and have these deleted.
    Shrink {
        /// How many are left.
        to: u32,
        /// Which go.
        released: BTreeSet<InstanceKey>,
        /// Why, one line.
        reason: String,
    },
    /// Have a machine deleted whose agent stays away, and another one take its place: as many are wanted as before.
    Replace {
        /// Which.
        key: InstanceKey,
        /// Why, one line.
        reason: String,
    },
    /// Note how it stands with the payment.
    Turn {
        /// How.
        phase: Phase,
        /// Why, one line.
        reason: String,
    },
    /// End the deployment for good.
    End {
        /// Why, one line.
        reason: String,
    },
}

impl Step {
    /// One word, stable, for metric labels.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Grow { .. } => "grow",
            Self::Drain { .. } => "drain",
            Self::Keep { .. } => "keep",
            Self::Shrink { .. } => "shrink",
            Self::Replace { .. } => "replace",
            Self::Turn { .. } => "phase",
            Self::End { .. } => "end",
        }
    }

    /// Why.
    #[must_use]
    pub fn reason(&self) -> &str {
        match self {
            Self::Grow { reason, .. }
            | Self::Drain { reason, .. }
            | Self::Keep { reason, .. }
            | Self::Shrink { reason, .. }
            | Self::Replace { reason, .. }
            | Self::Turn { reason, .. }
            | Self::End { reason } => reason,
        }
    }
}

/// How many replicas the load asks for.
struct Demand {
    /// So many at the least.
    up: u32,
    /// So many would be enough with room to spare; `None` where not everything is measured.
    enough: Option<u32>,
    /// In words.
    text: String,
}

/// Decides for every service. What it keeps in memory only makes it wait longer after a restart.
#[derive(Debug)]
pub struct Scaler {
    settings: ScalerSettings,
    began: Timestamp,
    /// When a service grew last, or tried to.
    grown: BTreeMap<ServiceKey, Timestamp>,
    /// Since when fewer replicas are enough, and how many were needed at the most since then.
    low: BTreeMap<ServiceKey, (Timestamp, u32)>,
    /// Since when the agents of replicas are away.
    away: BTreeMap<ServiceKey, BTreeMap<InstanceKey, Timestamp>>,
}

impl Scaler {
    /// Starts without memory.
    #[must_use]
    pub const fn new(settings: ScalerSettings, now: Timestamp) -> Self {
        Self { settings, began: now, grown: BTreeMap::new(), low: BTreeMap::new(), away: BTreeMap::new() }
    }

    /// A service has no terms any more.
    pub fn forget(&mut self, service: ServiceKey) {
        self.grown.remove(&service);
        self.low.remove(&service);
        self.away.remove(&service);
    }

    /// What is to be done now, if anything, and how it stands in one line.
    pub fn look(&mut self, scaling: &Scaling, sight: &Sight, now: Timestamp) -> (Option<Step>, String) {
        self.note_away(scaling, sight, now);
        if let (Phase::Paid | Phase::Draining, Some(doing), false) =
            (scaling.phase, &sight.updating, sight.is_gone)
        {
            self.low.remove(&scaling.service);
            let why = "an update is under way, and replicas stay as they are until it is over";
            return (None, format!("{why}: {doing}"));
        }
        let step = match scaling.phase {
            Phase::Ended => return (None, "its deployment was ended".to_owned()),
            Phase::Paid | Phase::Draining | Phase::Zero if sight.is_gone => {
                let reason = "its deployment is to be gone".to_owned();
                Some(Step::Turn { phase: Phase::Ended, reason })
            }
            Phase::Paid => return self.paid(scaling, sight, now),
            // By a clock in doubt nobody knows whether it is paid for: neither way is gone until it is known.
            Phase::Draining | Phase::Zero if !is_due(scaling, now) && is_by_clock(scaling, sight) => {
                self.low.remove(&scaling.service);
                return (
                    None,
                    "it is paid for by a clock that is in doubt: nothing is done until that is clear"
                        .to_owned(),
                );
            }
            Phase::Draining | Phase::Zero if !is_due(scaling, now) => {
                Some(Step::Turn { phase: Phase::Paid, reason: "it is paid for again".to_owned() })
            }
            Phase::Draining => self.empty(sight, now),
            Phase::Zero => self.end(scaling, sight, now),
        };
        self.low.remove(&scaling.service);
        let why = match (&step, scaling.phase) {
            (Some(step), _) => step.reason().to_owned(),
            (None, Phase::Draining) => "it is not paid for: what is open at its replicas ends".to_owned(),
            (None, Phase::Paid | Phase::Zero | Phase::Ended) => {
                let end = scaling.phase_since.plus(self.settings.grace);
                format!("it is not paid for: its deployment ends at {end}")
            }
        };
        (step, why)
    }

    fn paid(&mut self, scaling: &Scaling, sight: &Sight, now: Timestamp) -> (Option<Step>, String) {
        let mut doubt = "";
        if is_due(scaling, now) {
            if sight.is_clock_trusted {
                let reason = "the time that it was paid for is over".to_owned();
                return (Some(Step::Turn { phase: Phase::Draining, reason: reason.clone() }), reason);
            }
            doubt = "; the time that it was paid for is over by a clock that is in doubt";
        }
        if !sight.is_running {
            self.low.remove(&scaling.service);
            return (None, "its deployment is switched off".to_owned());
        }
        let demand = self.demand(scaling, sight, now);
        let step = self.load(scaling, sight, &demand, now);
        let step = step.or_else(|| self.replace(scaling.service, sight, now));
        let why = step.as_ref().map_or(demand.text.as_str(), Step::reason);
        let leaving = sight.replicas.iter().filter(|it| it.leaving_since.is_some()).count();
        let drains = match leaving {
            0 => String::new(),
            1 => "; one replica drains, and goes once nothing is open there".to_owned(),
            more => format!("; {more} replicas drain, and go once nothing is open there"),
        };
        (step.clone(), format!("{why}{drains}{doubt}"))
    }

    /// Remembers since when agents are away; by a clock in doubt that is not known. While no agent at all reaches the hub, it is
    /// the hub that is cut off: their time begins once one does. Whatever answers is not away.
    fn note_away(&mut self, scaling: &Scaling, sight: &Sight, now: Timestamp) {
        let before = self.away.remove(&scaling.service).unwrap_or_default();
        if !sight.is_clock_trusted || !sight.is_reached || !sight.is_running || scaling.phase != Phase::Paid {
            return;
        }
        let away = sight.replicas.iter().filter(|it| it.presence == Presence::Away && !it.is_ready);
        let since = |key: &InstanceKey| before.get(key).copied().unwrap_or(now);
        let away: BTreeMap<_, _> = away.map(|it| (it.key.clone(), since(&it.key))).collect();
        if !away.is_empty() {
            self.away.insert(scaling.service, away);
        }
    }

    /// Gives the replica up whose agent is away for longest, where that is too long and its cloud listed its machine since. Not
    /// while another one is to come, of this service or in place of one of another: one that cannot come would be the second
    /// that is missing.
    fn replace(&self, service: ServiceKey, sight: &Sight, now: Timestamp) -> Option<Step> {
        if sight.is_replacing {
            return None;
        }
        let stand = sight.replicas.iter().filter(|it| it.presence != Presence::Coming);
        if u32::try_from(stand.clone().count()).unwrap_or(u32::MAX) < sight.wanted {
            return None;
        }
        let away = self.away.get(&service)?;
        let stays = stand.filter(|it| it.leaving_since.is_none());
        let since = stays.filter_map(|it| {
            let since = *away.get(&it.key)?;
            it.listed_at.is_some_and(|at| at > since).then_some((since, &it.key))
        });
        let (since, key) = since.min()?;
        let away_for = now.since(since);
        (away_for >= self.settings.give_up).then(|| Step::Replace {
            key: key.clone(),
            reason: format!(
                "the agent of {key} is away for {} s, and its cloud lists its machine",
                away_for.as_secs()
            ),
        })
    }

    /// What the load asks for, between the least and the most.
    fn demand(&self, scaling: &Scaling, sight: &Sight, now: Timestamp) -> Demand {
        let terms = &scaling.terms;
        if !terms.follows_load() {
            let text = format!("the terms say {}", terms.min);
            return Demand { up: terms.min, enough: Some(terms.min), text };
        }
        let within = |count: u32| count.clamp(terms.min, terms.max);
        let cpu_millis = terms.tier.terms().cpu_millis;
        let used: Vec<Option<f64>> = sight
            .replicas
            .iter()
            .map(|it| it.used(cpu_millis, self.settings.stale, now).filter(|_| it.is_ready))
            .collect();
        let sum: f64 = used.iter().flatten().sum();
        let unknown = used.iter().filter(|used| used.is_none()).count();
        let known = used.len().saturating_sub(unknown);
        let target = f64::from(terms.target_cpu) / 100.0;
        let mut up = enough_for(sum, target, terms.max);
        let mut enough = (unknown == 0).then(|| enough_for(sum, target * ROOM, terms.max));
        let mean = if known == 0 { 0.0 } else { 100.0 * sum / f64::from(u32::try_from(known).unwrap_or(1)) };
        let mut text = format!(
            "{known} of {} replicas measured use {mean:.0} % of {cpu_millis}m on average, {} % is the target",
            used.len(),
            terms.target_cpu
        );
        if let Some(most) = terms.target_rate {
            match sight.rate.filter(|rate| rate.is_finite()) {
                Some(rate) => {
                    up = up.max(enough_for(rate, most.into(), terms.max));
                    enough =
                        enough.map(|count| count.max(enough_for(rate, f64::from(most) * ROOM, terms.max)));
                    text.push_str(&format!("; {rate:.0} requests a second, {most} is the target of each"));
                }
                None => enough = None,
            }
        }
        Demand { up: within(up), enough: enough.map(within), text }
    }

    fn load(&mut self, scaling: &Scaling, sight: &Sight, demand: &Demand, now: Timestamp) -> Option<Step> {
        let (service, terms) = (scaling.service, &scaling.terms);
        let leaving: Vec<&Replica> =
            sight.replicas.iter().filter(|replica| replica.leaving_since.is_some()).collect();
        let kept = sight.wanted.saturating_sub(u32::try_from(leaving.len()).unwrap_or(u32::MAX));
        if demand.up > kept {
            self.low.remove(&service);
            if let Some(step) = keep(&leaving, demand.up - kept, &demand.text) {
                return Some(step);
            }
            return self.grow(scaling, sight, demand, now);
        }
        if let Some(step) = self.release(sight, &leaving, now) {
            return Some(step);
        }
        if !leaving.is_empty() {
            return None;
        }
        if kept > terms.max {
            return fewer(sight, terms.max, format!("the terms allow {} at the most", terms.max));
        }
        let Some(enough) = demand.enough.filter(|enough| *enough < kept) else {
            self.low.remove(&service);
            return None;
        };
        let (since, most) = self.low.entry(service).or_insert((now, enough));
        *most = enough.max(*most);
        let (low_for, most) = (now.since(*since), *most);
        if terms.follows_load() && low_for < self.settings.down_after {
            return None;
        }
        let reason = if terms.follows_load() {
            format!("{most} were enough for {} s: {}", low_for.as_secs(), demand.text)
        } else {
            demand.text.clone()
        };
        let step = fewer(sight, most, reason);
        // After machines that do not stand yet, others may go without a second wait.
        if !matches!(step, Some(Step::Shrink { .. })) {
            self.low.remove(&service);
        }
        step
    }

    fn grow(&mut self, scaling: &Scaling, sight: &Sight, demand: &Demand, now: Timestamp) -> Option<Step> {
        let is_short = sight.wanted < scaling.terms.min;
        let last = self.grown.get(&scaling.service).copied();
        let pause_over = now.since(last.unwrap_or(self.began)) >= self.settings.up_pause;
        // What the terms promise does not wait, but for what was refused a moment ago.
        if !pause_over && (!is_short || last.is_some()) {
            return None;
        }
        self.grown.insert(scaling.service, now);
        // At most twice as many at once: the next look is by what those measure that are there then.
        let to = demand.up.min(sight.wanted.saturating_mul(2)).max(scaling.terms.min);
        let reason = if is_short {
            format!("the terms promise {} at the least", scaling.terms.min)
        } else {
            demand.text.clone()
        };
        Some(Step::Grow { to, reason })
    }

    /// Lets go of what has drained, where something else answers.
    fn release(&self, sight: &Sight, leaving: &[&Replica], now: Timestamp) -> Option<Step> {
        let is_ready = |is_leaving: bool| {
            sight.replicas.iter().any(|it| it.is_ready && it.leaving_since.is_some() == is_leaving)
        };
        if is_ready(true) && !is_ready(false) {
            let why = "no other replica answers";
            return keep(leaving, u32::MAX, why);
        }
        // Where nothing answers, as after a restart, it is not known yet which of them will.
        if !is_ready(false) {
            return None;
        }
        let released = self.drained(leaving.iter().copied(), now);
        if released.is_empty() {
            return None;
        }
        let count = u32::try_from(released.len()).unwrap_or(u32::MAX);
        let reason = "nothing is open at them any more, or the time to drain is over".to_owned();
        Some(Step::Shrink { to: sight.wanted.saturating_sub(count), released, reason })
    }

    /// Replicas that no client has anything open at, or whose time to drain is over.
    fn drained<'a>(&self, of: impl Iterator<Item = &'a Replica>, now: Timestamp) -> BTreeSet<InstanceKey> {
        let is_drained = |replica: &&Replica| {
            let Some(since) = replica.leaving_since else { return false };
            let drains_for = now.since(since);
            drains_for >= self.settings.drain.max(LEAST_DRAIN)
                || (drains_for >= LEAST_DRAIN && replica.open == 0)
        };
        of.filter(is_drained).map(|replica| replica.key.clone()).collect()
    }

    /// Towards no replica at all, since nobody pays.
    fn empty(&self, sight: &Sight, now: Timestamp) -> Option<Step> {
        let stays = sight.replicas.iter().filter(|it| it.leaving_since.is_none());
        let stays: BTreeSet<_> = stays.map(|replica| replica.key.clone()).collect();
        let reason = "it is not paid for any more".to_owned();
        if !stays.is_empty() {
            return Some(Step::Drain { keys: stays, reason });
        }
        if sight.wanted == 0 && sight.replicas.is_empty() {
            return Some(Step::Turn { phase: Phase::Zero, reason: "it has no replica any more".to_owned() });
        }
        let released = self.drained(sight.replicas.iter(), now);
        if released.len() < sight.replicas.len() {
            return None;
        }
        Some(Step::Shrink { to: 0, released, reason })
    }

    fn end(&self, scaling: &Scaling, sight: &Sight, now: Timestamp) -> Option<Step> {
        let is_over = now.since(scaling.phase_since) >= self.settings.grace;
        let days = self.settings.grace.as_secs();
        (is_over && sight.is_clock_trusted).then(|| Step::End {
            reason: format!("it was not paid for within {days} s after its replicas were gone"),
        })
    }
}

/// Whether the time that was paid for is over.
fn is_due(scaling: &Scaling, now: Timestamp) -> bool {
    scaling.terms.paid_until.is_some_and(|end| end <= now)
}

/// Whether what is known of the payment comes from a clock that is in doubt.
const fn is_by_clock(scaling: &Scaling, sight: &Sight) -> bool {
    scaling.terms.paid_until.is_some() && !sight.is_clock_trusted
}

/// The fewest that a load is enough for, where each takes `each`; `most` at the most.
fn enough_for(load: f64, each: f64, most: u32) -> u32 {
    // A hair more than the target is the target: sums of fractions are not exact.
    (1..most).find(|count| load <= f64::from(*count) * each * 1.000_001).unwrap_or(most)
}

/// Takes so many back that were to leave, the last that began to first.
fn keep(leaving: &[&Replica], count: u32, why: &str) -> Option<Step> {
    let mut back = leaving.to_vec();
    back.sort_by_key(|replica| (Reverse(replica.leaving_since), replica.number));
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    let keys: BTreeSet<_> = back.iter().take(count).map(|replica| replica.key.clone()).collect();
    (!keys.is_empty()).then(|| Step::Keep { keys, reason: why.to_owned() })
}

/// Towards `to` replicas where more are wanted and none leaves: machines that do not stand yet are not wanted any more, and
/// only then does something that stands drain.
fn fewer(sight: &Sight, to: u32, reason: String) -> Option<Step> {
    let stand = u32::try_from(sight.replicas.len()).unwrap_or(u32::MAX);
    if sight.wanted > stand.max(to) {
        return Some(Step::Shrink { to: stand.max(to), released: BTreeSet::new(), reason });
    }
    let keys = leave(sight, sight.wanted.saturating_sub(to));
    (!keys.is_empty()).then_some(Step::Drain { keys, reason })
}

/// Which replicas leave: those that do not answer first, then those of the place that has most; of these the one with the
/// fewest open requests, so that what lasts is not broken off, and then the newest.
fn leave(sight: &Sight, count: u32) -> BTreeSet<InstanceKey> {
    let mut left: Vec<&Replica> = sight.replicas.iter().filter(|it| it.leaving_since.is_none()).collect();
    let mut keys = BTreeSet::new();
    for _ in 0..count {
        let at = |replica: &Replica| left.iter().filter(|it| it.place == replica.place).count();
        let next = left.iter().max_by_key(|it| (!it.is_ready, at(it), Reverse(it.open), it.number)).copied();
        let Some(next) = next else { break };
        left.retain(|it| it.key != next.key);
        keys.insert(next.key.clone());
    }
    keys
}
