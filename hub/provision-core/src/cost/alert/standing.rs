//! How it stands with an alert, by what the meter says now.

use std::collections::{BTreeMap, BTreeSet};

use blueprint_common_types::{Micros, Timestamp};

use super::{Alert, AlertAction, AlertKind, Mark, Period, Scope};
use crate::DeploymentId;
use crate::catalogue::Day;
use crate::cost::egress::{Egress, priced};
use crate::cost::{Limits, Span, day_end, month_end, month_of};
use crate::lifecycle::MAX_CLOCK_STEP;

/// What the meter says.
#[derive(Debug, Clone, Copy)]
pub struct Bill<'a> {
    /// Times for which machines are billed, as far back as the longest period goes.
    pub spans: &'a [Span],
    /// What they sent, from the beginning of the first month of that.
    pub egress: &'a [Egress],
    /// Whose costs count at all.
    pub limits: &'a Limits,
    /// Now.
    pub now: Timestamp,
    /// When time was believed last, where it may not be: what was held then is held still.
    pub last: Option<Timestamp>,
}

/// How it stands with an alert.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Its period: `2026-11-22`, `2026-11` or `total`.
    pub period: String,
    /// What was spent in it, in US dollars; sending beyond what is included counts where its price is known.
    pub spent: Micros,
    /// What it comes to at its end, where what runs goes on to; `None` where the period has no end.
    pub forecast: Option<Micros>,
    /// Whether all of it is spent.
    pub is_over: bool,
    /// Whether its action is in force: all is spent, it has an action, and the operator did not call it off.
    pub is_in_force: bool,
}

/// Something to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What.
    pub mark: Mark,
    /// What was spent: in the period, or on the day that is unusual.
    pub spent: Micros,
    /// What the period comes to at this rate.
    pub forecast: Option<Micros>,
    /// All of it, in one line.
    pub text: String,
}

/// An alert does not let anything be ordered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("alert {alert} holds orders of {scope}: ${spent} of ${amount} was spent ({period})")]
pub struct Held {
    /// Which alert.
    pub alert: String,
    /// Whose costs it counts.
    pub scope: Scope,
    /// What may be spent.
    pub amount: Micros,
    /// What was.
    pub spent: Micros,
    /// In which period.
    pub period: String,
}

/// What is believed beside `now`: when clouds were last looked at, where that is further away than a clock may move. It is
/// noted only while the clock is trusted, so a wrong clock does not begin another period.
#[must_use]
pub fn last_believed(scanned_at: Option<Timestamp>, now: Timestamp) -> Option<Timestamp> {
    scanned_at.filter(|last| last.distance(now) > MAX_CLOCK_STEP)
}

impl Bill<'_> {
    /// What `scope` costs, by days.
    #[must_use]
    pub fn by_day(&self, scope: &Scope) -> BTreeMap<Day, Micros> {
        let counts = |deployment: &DeploymentId, provider: &str| {
            self.limits.counts(provider) && scope.takes(deployment, provider)
        };
        let mut days: BTreeMap<Day, Micros> = BTreeMap::new();
        let mut add = |day, amount| {
            let sum = days.entry(day).or_default();
            *sum = sum.plus(amount);
        };
        for span in self.spans.iter().filter(|span| counts(&span.deployment, &span.provider)) {
            span.by_day(self.now).into_iter().for_each(|(day, amount)| add(day, amount));
        }
        let sent = priced(self.egress).into_iter();
        for (row, cost) in sent.filter(|(row, _)| counts(&row.deployment, &row.provider)) {
            add(row.day, cost.unwrap_or_default());
        }
        days
    }

    /// What an hour of `scope` costs now.
    fn hourly(&self, scope: &Scope) -> Micros {
        let open =
            self.spans.iter().filter(|span| span.until.is_none() && self.limits.counts(&span.provider));
        open.filter(|span| scope.takes(&span.deployment, &span.provider)).map(|span| span.hourly).sum()
    }
}

impl Period {
    /// The one that `day` lies in: `2026-11-22`, `2026-11` or `total`.
    #[must_use]
    pub fn of(self, day: Day) -> String {
        match self {
            Self::Day => day.to_string(),
            Self::Month => month_of(day),
            Self::Total => self.label().to_owned(),
        }
    }

    /// When the one that `now` lies in ends.
    fn end(self, now: Timestamp) -> Option<Timestamp> {
        match self {
            Self::Day => Some(day_end(now)),
            Self::Month => Some(month_end(now)),
            Self::Total => None,
        }
    }
}

impl Alert {
    /// How it stands; by the time that was believed last where it is in force by that alone.
    #[must_use]
    pub fn standing(&self, bill: &Bill<'_>) -> Standing {
        let by = |bill: &Bill<'_>| self.standing_by(bill, &bill.by_day(&self.terms.scope));
        let standing = by(bill);
        let Some(last) = bill.last.filter(|_| !standing.is_in_force) else { return standing };
        Some(by(&Bill { now: last, ..*bill })).filter(|then| then.is_in_force).unwrap_or(standing)
    }

    fn standing_by(&self, bill: &Bill<'_>, days: &BTreeMap<Day, Micros>) -> Standing {
        let terms = &self.terms;
        let period = terms.period.of(Day::from(bill.now));
        let own = days.iter().filter(|(day, _)| terms.period.of(**day) == period);
        let spent: Micros = own.map(|(_, amount)| *amount).sum();
        let forecast = terms.period.end(bill.now).map(|end| {
            let secs = end.since(bill.now).as_secs();
            spent.plus(bill.hourly(&terms.scope).share(secs, 3600))
        });
        let is_over = reaches(spent, terms.amount, 100);
        let is_released = self.released.as_ref() == Some(&period);
        let is_in_force = is_over && !is_released && terms.action != AlertAction::Notify;
        Standing { period, spent, forecast, is_over, is_in_force }
    }

    /// What is to be told now: thresholds that are reached and an unusual day, without what was `told` already.
    #[must_use]
    pub fn due(&self, bill: &Bill<'_>, told: &BTreeSet<Mark>) -> Vec<Finding> {
        let days = bill.by_day(&self.terms.scope);
        let standing = self.standing_by(bill, &days);
        let mut found: Vec<Finding> = Vec::new();
        for threshold in &self.terms.thresholds {
            if reaches(standing.spent, self.terms.amount, *threshold) {
                found.push(self.reached(&standing, *threshold));
            }
        }
        let today = Day::from(bill.now);
        let unusual = self.terms.anomaly.and_then(|anomaly| Some((anomaly, anomaly.find(&days, today)?)));
        if let Some((anomaly, median)) = unusual {
            let spent = days.get(&today).copied().unwrap_or_default();
            let text = format!(
                "alert {}: {today} costs ${spent} so far, more than {} times the usual ${median} a day ({})",
                self.name, anomaly.times, self.terms.scope
            );
            let mark = Mark { kind: AlertKind::Anomaly, period: today.to_string(), threshold: 0 };
            found.push(Finding { mark, spent, forecast: standing.forecast, text });
        }
        found.retain(|finding| !told.contains(&finding.mark));
        found
    }

    /// What is told when the operator tries it; `number` makes it another one each time.
    #[must_use]
    pub fn test(&self, bill: &Bill<'_>, number: u64) -> Finding {
        let Standing { spent, forecast, .. } = self.standing(bill);
        let mark = Mark { kind: AlertKind::Test, period: format!("test {number}"), threshold: 0 };
        let text = format!("alert {}: this is a test", self.name);
        Finding { mark, spent, forecast, text }
    }

    fn reached(&self, standing: &Standing, threshold: u16) -> Finding {
        let Standing { period, spent, forecast, .. } = standing;
        let amount = self.terms.amount;
        let mut text = format!(
            "alert {}: {threshold} % of ${amount} is spent ({}, {period}): ${spent}",
            self.name, self.terms.scope
        );
        if let Some(forecast) = forecast {
            text.push_str(&format!("; at this rate ${forecast} at the end"));
        }
        match self.terms.action {
            AlertAction::Hold if threshold == 100 => text.push_str("; nothing more is ordered"),
            AlertAction::Terminate if threshold == 100 => {
                text.push_str("; nothing more is ordered, and what runs is ended");
            }
            AlertAction::Notify | AlertAction::Hold | AlertAction::Terminate => {}
        }
        let mark = Mark { kind: AlertKind::Threshold, period: period.clone(), threshold };
        Finding { mark, spent: *spent, forecast: *forecast, text }
    }
}

/// Whether `spent` is `percent` of `amount`, or more.
fn reaches(spent: Micros, amount: Micros, percent: u16) -> bool {
    u128::from(spent.get()) * 100 >= u128::from(amount.get()) * u128::from(percent)
}

/// The first of `alerts` that does not let a machine of `deployment` be ordered at `provider`.
#[must_use]
pub fn held(alerts: &[Alert], bill: &Bill<'_>, deployment: &DeploymentId, provider: &str) -> Option<Held> {
    if !bill.limits.counts(provider) {
        return None;
    }
    let own = alerts.iter().filter(|alert| {
        alert.terms.action != AlertAction::Notify && alert.terms.scope.takes(deployment, provider)
    });
    own.map(|alert| (alert, alert.standing(bill))).find(|(_, standing)| standing.is_in_force).map(
        |(alert, standing)| Held {
            alert: alert.name.clone(),
            scope: alert.terms.scope.clone(),
            amount: alert.terms.amount,
            spent: standing.spent,
            period: standing.period,
        },
    )
}
