//! What is asked of an alert, over what it is already.

use blueprint_common_types::{Micros, Secret};
use blueprint_hub_provision_core::catalogue::facts;
use blueprint_hub_provision_core::cost::Limits;
use blueprint_hub_provision_core::cost::alert::{
    Alert, AlertAction, AlertTerms, Anomaly, MAX_THRESHOLD, MAX_THRESHOLDS, ParseAlertError, Period, Scope,
    THRESHOLDS,
};
use blueprint_hub_provision_core::lifecycle::Records;
use serde::Deserialize;

use crate::deployments::find;
use crate::error::ApiError;

/// What a day has to cost to be unusual, where nobody says.
const USUAL: Anomaly = Anomaly { times: 3, floor: Micros::new(1_000_000) };

/// Fields that are left out stay as they are, or as they are by default where the alert is new.
// No `Debug`: the URL of a webhook often holds a secret.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SetAlert {
    /// US dollars, as text; needed for a new alert.
    amount: Option<String>,
    /// `day`, `month` or `total`.
    per: Option<String>,
    /// Name, id, or the beginning of the id.
    deployment: Option<String>,
    provider: Option<String>,
    /// Counts all deployments, as it does by default.
    #[serde(default)]
    all: bool,
    /// Percent.
    at: Option<Vec<u16>>,
    /// `notify`, `hold` or `terminate`.
    action: Option<String>,
    /// So many times the usual; 0 for never.
    anomaly_times: Option<u32>,
    /// US dollars, as text.
    anomaly_floor: Option<String>,
    /// A URL; empty for none.
    webhook: Option<String>,
    /// Whether it may end deployments at once, where all is spent already.
    #[serde(default)]
    pub(super) sure: bool,
}

impl SetAlert {
    /// The terms with the webhook that stays, and the URL of another one.
    pub(super) fn over(
        self,
        known: Option<&Alert>,
        records: &Records,
        limits: &Limits,
    ) -> Result<(AlertTerms, Option<Secret<String>>), ApiError> {
        let before = known.map(|alert| &alert.terms);
        let word = |error: ParseAlertError, option: &str| {
            ApiError::invalid(error.to_string(), format!("give one of these with {option}"))
        };
        let amount = match &self.amount {
            Some(text) => money(text, "--amount")?,
            None => before.map(|terms| terms.amount).ok_or_else(|| {
                ApiError::invalid("a new alert needs an amount", "give --amount in US dollars, such as 50")
            })?,
        };
        if amount == Micros::ZERO {
            return Err(ApiError::invalid(
                "the amount of an alert is more than zero",
                "give --amount such as 50",
            ));
        }
        let period = match &self.per {
            Some(text) => text.parse().map_err(|error| word(error, "--per"))?,
            None => before.map_or(Period::Month, |terms| terms.period),
        };
        let action = match &self.action {
            Some(text) => text.parse().map_err(|error| word(error, "--action"))?,
            None => before.map_or(AlertAction::Notify, |terms| terms.action),
        };
        let scope = self.scope(before, records, limits)?;
        if period == Period::Total && !matches!(scope, Scope::Deployment(_)) {
            return Err(ApiError::invalid(
                "only a deployment has a total: what was ever spent by all does not end",
                "name one with --deployment, or give --per day or --per month",
            ));
        }
        let mut thresholds = match self.at.clone() {
            Some(at) => at.into_iter().collect(),
            None => before.map_or_else(|| THRESHOLDS.into(), |terms| terms.thresholds.clone()),
        };
        if action != AlertAction::Notify {
            // What is done is told.
            thresholds.insert(100);
        }
        let is_percent = |percent: &u16| (1..=MAX_THRESHOLD).contains(percent);
        if !(1..=MAX_THRESHOLDS).contains(&thresholds.len()) || !thresholds.iter().all(is_percent) {
            return Err(ApiError::invalid(
                format!("an alert has 1 to {MAX_THRESHOLDS} thresholds of 1 to {MAX_THRESHOLD} percent"),
                "give --at such as 50,80,100",
            ));
        }
        let anomaly = self.anomaly(before.map_or(Some(USUAL), |terms| terms.anomaly))?;
        let (webhook, url) = match self.webhook {
            Some(url) => (None, Some(url).filter(|url| !url.is_empty()).map(Secret::new)),
            None => (before.and_then(|terms| terms.webhook.clone()), None),
        };
        Ok((AlertTerms { scope, period, amount, thresholds, action, anomaly, webhook }, url))
    }

    fn anomaly(&self, before: Option<Anomaly>) -> Result<Option<Anomaly>, ApiError> {
        let floor = self.anomaly_floor.as_deref().map(|text| money(text, "--anomaly-floor")).transpose()?;
        let times = match self.anomaly_times {
            Some(0) => return Ok(None),
            Some(times) if Anomaly::TIMES.contains(&times) => Some(times),
            Some(times) => {
                let (least, most) = (Anomaly::TIMES.start(), Anomaly::TIMES.end());
                return Err(ApiError::invalid(
                    format!("a day is unusual at {least} to {most} times the usual, not {times}"),
                    "give --anomaly such as 3, or off",
                ));
            }
            None => None,
        };
        if before.is_none() && times.is_none() && floor.is_none() {
            return Ok(None);
        }
        let before = before.unwrap_or(USUAL);
        Ok(Some(Anomaly { times: times.unwrap_or(before.times), floor: floor.unwrap_or(before.floor) }))
    }

    fn scope(
        &self,
        before: Option<&AlertTerms>,
        records: &Records,
        limits: &Limits,
    ) -> Result<Scope, ApiError> {
        const PLAY: &str =
            "set provision.limit_sim = true in hub.toml and restart the hub to have them count";
        match (&self.deployment, &self.provider, self.all) {
            (None, None, true) => Ok(Scope::All),
            (None, None, false) => Ok(before.map_or(Scope::All, |terms| terms.scope.clone())),
            (Some(text), None, false) => {
                let deployment = find(records, text)?;
                if !deployment.plan.iter().any(|offer| limits.counts(&offer.provider)) {
                    let what =
                        format!("deployment {text} is of the simulated cloud, whose prices are play money");
                    return Err(ApiError::invalid(what, PLAY));
                }
                Ok(Scope::Deployment(deployment.id.clone()))
            }
            (None, Some(name), false) => {
                if facts(name).is_none() {
                    return Err(ApiError::not_found(
                        format!("no provider is called {name:?}"),
                        "`blueprint-hub providers` lists them",
                    ));
                }
                if !limits.counts(name) {
                    return Err(ApiError::invalid("prices of the simulated cloud are play money", PLAY));
                }
                Ok(Scope::Provider(name.clone()))
            }
            (Some(_), Some(_), _) | (Some(_), None, true) | (None, Some(_), true) => Err(ApiError::invalid(
                "an alert counts one deployment, one provider, or all",
                "give one of --deployment, --provider and --all",
            )),
        }
    }
}

fn money(text: &str, option: &str) -> Result<Micros, ApiError> {
    text.parse().map_err(|error: blueprint_common_types::ParseMicrosError| {
        ApiError::invalid(error.to_string(), format!("give {option} in US dollars, such as 50 or 2.50"))
    })
}

#[cfg(test)]
mod tests {
    use blueprint_common_types::Timestamp;
    use blueprint_hub_provision_core::cost::alert::Hook;
    use serde_json::{Value, json};

    use super::*;

    const LIMITS: Limits = Limits {
        max_machines: None,
        max_hourly: None,
        max_monthly: None,
        max_order_hourly: None,
        counts_sim: false,
    };

    fn set(body: Value, known: Option<&Alert>) -> Result<(AlertTerms, Option<Secret<String>>), String> {
        let asked: SetAlert = serde_json::from_value(body).unwrap();
        asked.over(known, &Records::default(), &LIMITS).map_err(|error| format!("{error:?}"))
    }

    #[test]
    fn what_is_left_out_stays_as_it_is() {
        let (terms, webhook) = set(json!({ "amount": "50" }), None).unwrap();
        let new = (terms.period, terms.action, terms.scope.clone(), terms.anomaly, webhook);
        assert_eq!(new, (Period::Month, AlertAction::Notify, Scope::All, Some(USUAL), None));
        let mut known = Alert {
            name: "team".to_owned(),
            terms,
            edition: 1,
            released: None,
            created_at: Timestamp::default(),
            changed_at: Timestamp::default(),
        };
        known.terms.webhook = Some(Hook { shown: "https://h/...".to_owned(), sealed: String::new() });
        let more = json!({ "action": "hold", "at": [80], "provider": "aws", "anomaly_times": 0 });
        let (terms, webhook) = set(more, Some(&known)).unwrap();
        assert_eq!(
            (terms.amount, terms.anomaly, &terms.webhook, webhook),
            (Micros::new(50_000_000), None, &known.terms.webhook, None)
        );
        assert_eq!(terms.thresholds, [80, 100].into(), "what is done is told");
        known.terms = AlertTerms { webhook: known.terms.webhook.clone(), ..terms };
        let (terms, webhook) = set(json!({ "amount": "60", "webhook": "" }), Some(&known)).unwrap();
        assert_eq!(
            (terms.action, terms.scope.to_string(), terms.webhook, webhook),
            (AlertAction::Hold, "provider aws".to_owned(), None, None)
        );
        let (terms, _) = set(json!({ "all": true, "anomaly_floor": "2.50" }), Some(&known)).unwrap();
        let floor = Anomaly { times: 3, floor: Micros::new(2_500_000) };
        assert_eq!((terms.scope, terms.anomaly), (Scope::All, Some(floor)));
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        for (body, word) in [
            (json!({}), "needs an amount"),
            (json!({ "amount": "0" }), "more than zero"),
            (json!({ "amount": "-3" }), "--amount"),
            (json!({ "amount": "1", "per": "week" }), "day, month and total"),
            (json!({ "amount": "1", "per": "total" }), "only a deployment"),
            (json!({ "amount": "1", "action": "stop" }), "notify, hold and terminate"),
            (json!({ "amount": "1", "at": [] }), "1 to 10 thresholds"),
            (json!({ "amount": "1", "at": [0] }), "1 to 10 thresholds"),
            (json!({ "amount": "1", "provider": "sim" }), "play money"),
            (json!({ "amount": "1", "provider": "nobody" }), "no provider is called"),
            (
                json!({ "amount": "1", "provider": "aws", "all": true }),
                "one deployment, one provider, or all",
            ),
            (json!({ "amount": "1", "deployment": "web" }), "no deployment is called"),
            (json!({ "amount": "1", "anomaly_times": 1 }), "2 to 100"),
        ] {
            let error = set(body.clone(), None).unwrap_err();
            assert!(error.contains(word), "{body}: {error}");
        }
        assert!(serde_json::from_value::<SetAlert>(json!({ "amont": "1" })).is_err());
    }
}
