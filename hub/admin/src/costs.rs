//! What ordered machines cost.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use blueprint_common_types::{Micros, Timestamp};
use blueprint_hub_provision_core::catalogue::Day;
use blueprint_hub_provision_core::cost::egress::{Egress, priced};
use blueprint_hub_provision_core::cost::{self, Limits, Span, committed, month_of, sum_by};
use blueprint_hub_provision_core::lifecycle::Records;
use blueprint_hub_provision_core::{DeploymentId, InstanceKey};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::AdminState;
use crate::alerts;
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
    let egress = state.hub.costs().egress(kept).await?;
    let meter = Meter { records: &records, spans: &spans, egress: &egress, now, since, of };
    let mut answer = meter.answer(query.by);
    if let Some(fields) = answer.as_object_mut() {
        fields.insert("held".to_owned(), alerts::in_force(&state).await?.into());
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
    egress: &'a [Egress],
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

    /// Bytes sent and what they cost beyond what is included, by whatever `key` makes of them.
    fn sent<K: Ord>(&self, key: impl Fn(&Egress) -> K) -> BTreeMap<K, Sent> {
        let mut sums: BTreeMap<K, Sent> = BTreeMap::new();
        let own = |row: &Egress| self.of.as_ref().is_none_or(|of| *of == row.deployment);
        for (row, cost) in
            priced(self.egress).into_iter().filter(|(row, _)| row.day >= self.since && own(row))
        {
            sums.entry(key(row)).or_default().add(row.bytes, cost);
        }
        sums
    }

    /// Rows named `name`, one for each of the values of both keys.
    fn rows<K: Ord + ToString>(
        &self,
        name: &str,
        of_span: impl Fn(&Span, Day) -> K,
        of_egress: impl Fn(&Egress) -> K,
    ) -> Vec<Value> {
        let mut both: BTreeMap<K, (Micros, Sent)> = BTreeMap::new();
        for (key, amount) in self.sums(of_span) {
            both.entry(key).or_default().0 = amount;
        }
        for (key, sent) in self.sent(of_egress) {
            both.entry(key).or_default().1 = sent;
        }
        let row = |(key, (amount, sent)): (K, (Micros, Sent))| {
            sent.beside(json!({ name: key.to_string(), "actual": amount.to_string() }))
        };
        both.into_iter().map(row).collect()
    }

    fn answer(&self, by: By) -> Value {
        let rows: Vec<Value> = match by {
            By::Deployment => self.deployments(),
            By::Provider => {
                self.rows("provider", |span, _| span.provider.clone(), |sent| sent.provider.clone())
            }
            By::Day => self.rows("day", |_, day| day, |sent| sent.day),
            By::Month => self.rows("month", |_, day| month_of(day), |sent| month_of(sent.day)),
        };
        let total: Micros = self.sums(|_, _| ()).into_values().sum();
        let sent = self.sent(|_| ()).remove(&()).unwrap_or_default();
        sent.beside(json!({
            "since": self.since.to_string(),
            "until": time(self.now),
            "currency": "USD",
            "rows": rows,
            "total": total.to_string(),
        }))
    }

    /// What was spent for each in the days shown, and, where it is remembered, in all against what its plan said.
    fn deployments(&self) -> Vec<Value> {
        let sums = self.sums(|span, _| span.deployment.clone());
        let mut sent = self.sent(|row| row.deployment.clone());
        let rows = sums.into_iter().map(|(id, actual)| {
            let own = || self.spans.iter().filter(|span| span.deployment == id);
            let machines: BTreeSet<&InstanceKey> = own().map(|span| &span.key).collect();
            let hourly: Micros = own().filter(|span| span.until.is_none()).map(|span| span.hourly).sum();
            let known = self.records.deployments.get(&id);
            // Older spans are not looked at, so the whole is known only of what began since.
            let is_whole = known.filter(|it| Day::from(it.created_at) >= self.since);
            sent.remove(&id).unwrap_or_default().beside(json!({
                "deployment": id.as_str(),
                "name": known.map(|it| it.name.as_str()),
                "wanted": known.map(|it| it.wanted.label()),
                "machines": machines.len(),
                "hourly": hourly.to_string(),
                "actual": actual.to_string(),
                "estimate": is_whole.map(|it| cost::estimate(it, self.now).to_string()),
            }))
        });
        rows.collect()
    }
}

/// What was sent.
#[derive(Debug, Default)]
struct Sent {
    bytes: u64,
    cost: Micros,
    /// Whether some of it has no known price.
    is_unknown: bool,
}

impl Sent {
    fn add(&mut self, bytes: u64, cost: Option<Micros>) {
        self.bytes = self.bytes.saturating_add(bytes);
        self.cost = self.cost.plus(cost.unwrap_or_default());
        self.is_unknown |= cost.is_none() && bytes > 0;
    }

    /// A row with this in it; a cost of which a part is unknown is null.
    fn beside(&self, mut row: Value) -> Value {
        if let Some(fields) = row.as_object_mut() {
            fields.insert("egress_bytes".to_owned(), self.bytes.into());
            let cost = (!self.is_unknown).then(|| self.cost.to_string());
            fields.insert("egress_cost".to_owned(), cost.into());
        }
        row
    }
}

#[cfg(test)]
mod tests {
    use blueprint_hub_provision_core::cost::egress::EgressPrice;

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
        let price = EgressPrice { gb: Micros::new(90_000), included_gb: 1 };
        let sent = |deployment: u8, provider: &str, price| {
            let deployment = DeploymentId::from_bytes([deployment; 10]);
            let key = InstanceKey::of(&deployment, 1);
            let (day, provider) = (Day::from(NOW), provider.to_owned());
            Egress { key, deployment, provider, day, bytes: 2_000_000_000, price }
        };
        let egress = [sent(1, "aws", Some(price)), sent(3, "linode", None)];
        let meter = |days: u32, of| {
            let since = Day::from(Timestamp::from_millis(NOW.as_millis() - u64::from(days - 1) * 86_400_000));
            Meter { records: &records, spans: &spans, egress: &egress, now: NOW, since, of }
        };
        let rows = |by| meter(60, None).answer(by).get("rows").cloned().unwrap_or_default();
        assert_eq!(
            rows(By::Provider),
            json!([
                { "provider": "aws", "actual": "0.26", "egress_bytes": 2_000_000_000, "egress_cost": "0.09" },
                { "provider": "linode", "actual": "0.00", "egress_bytes": 2_000_000_000, "egress_cost": null },
                { "provider": "vultr", "actual": "4.80", "egress_bytes": 0, "egress_cost": "0.00" },
            ])
        );
        assert_eq!(
            rows(By::Month),
            json!([
                { "month": "2026-10", "actual": "2.41", "egress_bytes": 0, "egress_cost": "0.00" },
                { "month": "2026-11", "actual": "2.65", "egress_bytes": 4_000_000_000u64, "egress_cost": null },
            ])
        );
        let total = |meter: Meter<'_>| meter.answer(By::Day).get("total").cloned();
        assert_eq!(total(meter(60, None)), Some(json!("5.06")));
        assert_eq!(total(meter(1, None)), Some(json!("0.24")), "today alone");
        assert_eq!(total(meter(60, Some(DeploymentId::from_bytes([2; 10])))), Some(json!("4.80")));
        let first = rows(By::Deployment).get(0).cloned().unwrap_or_default();
        assert_eq!((first.get("hourly"), first.get("machines")), (Some(&json!("0.01")), Some(&json!(1))));
    }
}
