//! What ordered machines cost.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use blueprint_common_types::{Micros, Timestamp};
use blueprint_hub_provision_core::catalogue::Day;
use blueprint_hub_provision_core::cost::{self, Limits, Span, committed, month_of, sum_by};
use blueprint_hub_provision_core::lifecycle::Records;
use blueprint_hub_provision_core::{DeploymentId, InstanceKey};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::AdminState;
use crate::deployments::find;
use crate::error::ApiError;
use crate::views::time;

const DAYS: std::ops::RangeInclusive<u32> = 1..=400;
const DAY: Duration = Duration::from_secs(24 * 3600);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CostsQuery {
    /// Name, id, or the beginning of the id.
    deployment: Option<String>,
    #[serde(default)]
    by: By,
    /// Days to look back, today included; 31 where not given.
    days: Option<u32>,
}

/// What rows are made of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum By {
    #[default]
    Deployment,
    Provider,
    Day,
    Month,
}

pub(crate) async fn show(
    State(state): State<AdminState>,
    query: Result<Query<CostsQuery>, QueryRejection>,
) -> Result<Json<Value>, ApiError> {
    let Query(query) = query
        .map_err(|error| ApiError::invalid(error.body_text(), "docs/costs.md says what can be asked for"))?;
    let days = query.days.unwrap_or(31);
    if !DAYS.contains(&days) {
        return Err(ApiError::invalid("costs are kept for 400 days", "give --days within 1 and 400"));
    }
    let deployer = state.hub.deployer();
    let now = deployer.now();
    let records = deployer.records().await?;
    let of = query.deployment.as_deref().map(|text| find(&records, text).map(|it| it.id.clone()));
    let of = of.transpose()?;
    let epoch = Timestamp::default();
    let since = Day::from(epoch.plus(now.since(epoch.plus(DAY * (days - 1)))));
    // Limits look at the whole of this month, whatever is shown.
    let kept = epoch.plus(now.since(epoch.plus(DAY * (days.max(32) + 1))));
    let spans = deployer.spans(kept).await?;
    let meter = Meter { records: &records, spans: &spans, now, since, of };
    let mut answer = meter.answer(query.by);
    if let Some(fields) = answer.as_object_mut() {
        fields.insert("limits".to_owned(), limits(&deployer.limits(), &records, &spans, now));
    }
    Ok(Json(answer))
}

/// What is used of each limit.
fn limits(limits: &Limits, records: &Records, spans: &[Span], now: Timestamp) -> Value {
    let used = committed(records, spans, limits, now);
    let money = |limit: Option<Micros>, used: Micros| json!({ "limit": limit.map(|limit| limit.to_string()), "used": used.to_string() });
    json!({
        "machines": { "limit": limits.max_machines, "used": used.machines },
        "hourly": money(limits.max_hourly, used.hourly),
        "monthly": money(limits.max_monthly, used.month),
        "spent_this_month": limits.spent(spans, now).to_string(),
        "counts_sim": limits.counts_sim,
    })
}

struct Meter<'a> {
    records: &'a Records,
    spans: &'a [Span],
    now: Timestamp,
    /// First day that is shown.
    since: Day,
    /// The one deployment that is shown.
    of: Option<DeploymentId>,
}

impl Meter<'_> {
    fn spans(&self) -> impl Iterator<Item = &Span> {
        self.spans.iter().filter(|span| self.of.as_ref().is_none_or(|of| *of == span.deployment))
    }

    fn sums<K: Ord>(&self, key: impl Fn(&Span, Day) -> K) -> BTreeMap<K, Micros> {
        sum_by(self.spans(), self.now, |span, day| (day >= self.since).then(|| key(span, day)))
    }

    fn answer(&self, by: By) -> Value {
        let row =
            |name: &str, text: String, amount: Micros| json!({ name: text, "actual": amount.to_string() });
        let rows: Vec<Value> = match by {
            By::Deployment => self.deployments(),
            By::Provider => {
                let sums = self.sums(|span, _| span.provider.clone());
                sums.into_iter().map(|(provider, sum)| row("provider", provider, sum)).collect()
            }
            By::Day => {
                let sums = self.sums(|_, day| day);
                sums.into_iter().map(|(day, sum)| row("day", day.to_string(), sum)).collect()
            }
            By::Month => {
                let sums = self.sums(|_, day| month_of(day));
                sums.into_iter().map(|(month, sum)| row("month", month, sum)).collect()
            }
        };
        let total: Micros = self.sums(|_, _| ()).into_values().sum();
        json!({
            "since": self.since.to_string(),
            "until": time(self.now),
            "currency": "USD",
            "rows": rows,
            "total": total.to_string(),
        })
    }

    /// What was spent for each in the days shown, and, where it is remembered, in all against what its plan said.
    fn deployments(&self) -> Vec<Value> {
        let sums = self.sums(|span, _| span.deployment.clone());
        let rows = sums.into_iter().map(|(id, actual)| {
            let own = || self.spans.iter().filter(|span| span.deployment == id);
            let machines: BTreeSet<&InstanceKey> = own().map(|span| &span.key).collect();
            let hourly: Micros = own().filter(|span| span.until.is_none()).map(|span| span.hourly).sum();
            let known = self.records.deployments.get(&id);
            // Older spans are not looked at, so the whole is known only of what began since.
            let is_whole = known.filter(|it| Day::from(it.created_at) >= self.since);
            json!({
                "deployment": id.as_str(),
                "name": known.map(|it| it.name.as_str()),
                "wanted": known.map(|it| it.wanted.label()),
                "machines": machines.len(),
                "hourly": hourly.to_string(),
                "actual": actual.to_string(),
                "estimate": is_whole.map(|it| cost::estimate(it, self.now).to_string()),
            })
        });
        rows.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-30T23:00:00Z.
    const NOW: Timestamp = Timestamp::from_millis(1_796_079_600_000);

    fn span(deployment: u8, provider: &str, hours_ago: u64, hours: Option<u64>) -> Span {
        let from = Timestamp::from_millis(NOW.as_millis() - hours_ago * 3_600_000);
        let deployment = DeploymentId::from_bytes([deployment; 10]);
        Span {
            key: InstanceKey::of(&deployment, 1),
            deployment,
            provider: provider.to_owned(),
            from,
            until: hours.map(|hours| from.plus(Duration::from_secs(3600) * u32::try_from(hours).unwrap())),
            is_off: false,
            hourly: Micros::new(10_000),
        }
    }

    #[test]
    fn rows_are_by_day_provider_month_or_deployment_and_add_up_to_the_total() {
        let spans =
            [span(1, "aws", 25, None), span(2, "vultr", 24 * 40, Some(24 * 20)), span(1, "aws", 2, Some(1))];
        let records = Records::default();
        let meter = |days: u32, of| {
            let since = Day::from(Timestamp::from_millis(NOW.as_millis() - u64::from(days - 1) * 86_400_000));
            Meter { records: &records, spans: &spans, now: NOW, since, of }
        };
        let rows = |by| meter(60, None).answer(by).get("rows").cloned().unwrap_or_default();
        assert_eq!(
            rows(By::Provider),
            json!([{ "provider": "aws", "actual": "0.26" }, { "provider": "vultr", "actual": "4.80" }])
        );
        assert_eq!(
            rows(By::Month),
            json!([{ "month": "2026-10", "actual": "2.41" }, { "month": "2026-11", "actual": "2.65" }])
        );
        let total = |meter: Meter<'_>| meter.answer(By::Day).get("total").cloned();
        assert_eq!(total(meter(60, None)), Some(json!("5.06")));
        assert_eq!(total(meter(1, None)), Some(json!("0.24")), "today alone");
        assert_eq!(total(meter(60, Some(DeploymentId::from_bytes([2; 10])))), Some(json!("4.80")));
        let first = rows(By::Deployment).get(0).cloned().unwrap_or_default();
        assert_eq!((first.get("hourly"), first.get("machines")), (Some(&json!("0.01")), Some(&json!(1))));
    }
}
