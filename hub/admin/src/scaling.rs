//! Tiers of services: how many replicas they have, why, and until when they are paid for.

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, Query, State};
use blueprint_common_types::{AgentId, Micros, ServiceKey, Timestamp};
use blueprint_hub_provision_core::lifecycle::Records;
use blueprint_hub_provision_core::scaling::{
    Phase, Presence, Replica, ScaleDeskError, ScaleEvent, ScaleView, Scaling, Terms, Tier,
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::AdminState;
use crate::error::ApiError;
use crate::views::time;
use crate::workloads::node_name;

const SHAPE: &str = "docs/scaling.md shows every field of a tier";
const LIST: &str = "`blueprint-hub scale ls` lists services with a tier";

/// How often terms are set over what another asked for at the same time.
const TRIES: u32 = 8;

/// Rows of history at once, and how many there are where nobody says.
const EVENTS: (u32, u32) = (1000, 100);

impl From<ScaleDeskError> for ApiError {
    fn from(error: ScaleDeskError) -> Self {
        let text = error.to_string();
        match error {
            ScaleDeskError::NoDeployment(service) => Self::not_found(
                text,
                format!("order its first machines: `blueprint-hub deploy --service {service} --replicas 2`"),
            ),
            ScaleDeskError::ManyDeployments { .. } => {
                Self::conflict(text, "end all but one of them: `blueprint-hub deployment ls` shows them")
            }
            ScaleDeskError::NoTerms(_) => Self::not_found(text, LIST),
            ScaleDeskError::Terms(_) => {
                Self::invalid(text, "`blueprint-hub scale tiers` shows what each tier allows")
            }
            ScaleDeskError::Ended(_) => Self::conflict(
                text,
                "order machines anew with `blueprint-hub deploy`, then set the tier again",
            ),
            ScaleDeskError::Unpaid { service, .. } => Self::conflict(
                text,
                format!(
                    "say until when it is paid for now: `blueprint-hub scale set {service} --tier NAME --paid-until 30d`; or \
                     forget its tier with `blueprint-hub scale rm {service}` and set it anew"
                ),
            ),
            ScaleDeskError::Changed(service) => Self::conflict(
                text,
                format!(
                    "nothing was changed; see what holds with `blueprint-hub scale show {service}`, and ask again"
                ),
            ),
            ScaleDeskError::Store(error) => {
                let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                tracing::error!(%error, source, "store failed");
                Self::unavailable("the hub's store cannot do this now; the hub's log says why")
            }
        }
    }
}

/// What each tier gives.
pub(crate) async fn tiers(State(state): State<AdminState>) -> Json<Value> {
    let rows: Vec<Value> = Tier::ALL.into_iter().map(tier_view).collect();
    Json(json!({ "tiers": rows, "target_cpu": state.hub.scaling().target_cpu() }))
}

fn tier_view(tier: Tier) -> Value {
    let given = tier.terms();
    json!({
        "tier": tier.label(),
        "replicas": given.replicas,
        "max_replicas": given.max_replicas,
        "cpu_millis": given.cpu_millis,
        "memory_bytes": given.memory_bytes,
        "gpus": given.gpus,
        "autoscale": given.autoscale,
    })
}

pub(crate) async fn list(State(state): State<AdminState>) -> Result<Json<Value>, ApiError> {
    let records = state.hub.deployer().records().await?;
    let all = state.hub.scaling().list().await?;
    let rows: Vec<Value> = all.iter().map(|view| row(view, &records)).collect();
    Ok(Json(json!({ "services": rows })))
}

pub(crate) async fn show(
    State(state): State<AdminState>,
    Path((blueprint, service)): Path<(u64, u64)>,
) -> Result<Json<Value>, ApiError> {
    let key = ServiceKey { blueprint, service };
    let view = find(&state, key).await?.ok_or(ScaleDeskError::NoTerms(key))?;
    let records = state.hub.deployer().records().await?;
    Ok(Json(row(&view, &records)))
}

async fn find(state: &AdminState, key: ServiceKey) -> Result<Option<ScaleView>, ApiError> {
    Ok(state.hub.scaling().list().await?.into_iter().find(|view| view.scaling.service == key))
}

/// What is left out stays as it is; of another tier, the numbers are those of the tier.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct SetScaling {
    tier: Option<String>,
    min: Option<u32>,
    max: Option<u32>,
    target_cpu: Option<u32>,
    /// Requests a second of each replica; 0 for none.
    target_rate: Option<u32>,
    /// Milliseconds since 1970; 0 for without end.
    paid_until: Option<u64>,
    /// Looks whether that would be allowed, and changes nothing.
    dry_run: bool,
}

impl SetScaling {
    fn terms(&self, before: Option<&Scaling>, target_cpu: u32) -> Result<Terms, ApiError> {
        let tier = match (&self.tier, before) {
            (Some(text), _) => text.parse().map_err(|error| ApiError::invalid(format!("{error}"), SHAPE))?,
            (None, Some(known)) => known.terms.tier,
            (None, None) => return Err(ApiError::invalid("no tier is given", SHAPE)),
        };
        let known = before.map(|known| &known.terms);
        let mut terms = match known.filter(|known| known.tier == tier) {
            Some(known) => known.clone(),
            None => Terms {
                target_cpu: known.map_or(target_cpu, |known| known.target_cpu),
                target_rate: known.and_then(|known| known.target_rate),
                paid_until: known.and_then(|known| known.paid_until),
                ..Terms::of(tier)
            },
        };
        terms.min = self.min.unwrap_or(terms.min);
        terms.max = self.max.unwrap_or(terms.max);
        terms.target_cpu = self.target_cpu.unwrap_or(terms.target_cpu);
        if let Some(rate) = self.target_rate {
            terms.target_rate = (rate > 0).then_some(rate);
        }
        if let Some(millis) = self.paid_until {
            terms.paid_until = (millis > 0).then(|| Timestamp::from_millis(millis));
        }
        Ok(terms)
    }
}

pub(crate) async fn set(
    State(state): State<AdminState>,
    Path((blueprint, service)): Path<(u64, u64)>,
    body: Result<Json<SetScaling>, JsonRejection>,
) -> Result<Json<Value>, ApiError> {
    let key = ServiceKey { blueprint, service };
    let Json(asked) = body.map_err(|error| ApiError::invalid(error.body_text(), SHAPE))?;
    let desk = state.hub.scaling();
    for _ in 0..TRIES {
        let before = find(&state, key).await?.map(|view| view.scaling);
        let terms = asked.terms(before.as_ref(), desk.target_cpu())?;
        if asked.dry_run {
            desk.check(key, &terms, before.as_ref())?;
            return Ok(Json(json!({ "service": key, "dry_run": true })));
        }
        match desk.set(key, terms, before).await {
            // Somebody else set something: what was left out is as they said.
            Err(ScaleDeskError::Changed(_)) => {}
            set => {
                let view = set?;
                let records = state.hub.deployer().records().await?;
                return Ok(Json(row(&view, &records)));
            }
        }
    }
    Err(ScaleDeskError::Changed(key).into())
}

pub(crate) async fn remove(
    State(state): State<AdminState>,
    Path((blueprint, service)): Path<(u64, u64)>,
) -> Result<Json<Value>, ApiError> {
    let key = ServiceKey { blueprint, service };
    let before = find(&state, key).await?;
    let (workloads, snapshot) = (state.hub.workloads(), state.hub.snapshot());
    state.hub.scaling().remove(key).await?;
    let machines = before
        .as_ref()
        .and_then(|view| view.sight.as_ref())
        .map(|sight| sight.replicas.iter().map(|replica| replica.key.as_str()).collect::<Vec<_>>());
    let name = |node: &AgentId| node_name(node, &snapshot);
    let drain: Vec<_> =
        workloads.copies.keys().filter(|(of, _)| *of == key).map(|(_, node)| name(node)).collect();
    Ok(Json(json!({
        "removed": key,
        "deployment": before.as_ref().map(|view| view.scaling.deployment.as_str()),
        "machines": machines.unwrap_or_default(),
        "runs_on": workloads.records.get(&key).and_then(|record| record.node.as_ref()).map(name),
        "draining": drain,
        "drain_secs": state.hub.scaling().drain().as_secs(),
    })))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct HistoryQuery {
    limit: Option<u32>,
}

pub(crate) async fn history(
    State(state): State<AdminState>,
    Path((blueprint, service)): Path<(u64, u64)>,
    Query(query): Query<HistoryQuery>,
) -> Result<Json<Value>, ApiError> {
    let key = ServiceKey { blueprint, service };
    let (most, usual) = EVENTS;
    let events = state.hub.scaling().history(key, query.limit.unwrap_or(usual).min(most)).await?;
    let rows: Vec<Value> = events.iter().map(event).collect();
    Ok(Json(json!({ "service": key, "events": rows })))
}

fn event(event: &ScaleEvent) -> Value {
    json!({ "at": time(event.at), "what": event.what, "replicas": event.replicas, "reason": event.reason })
}

/// A service with a tier, and what its replicas cost.
fn row(view: &ScaleView, records: &Records) -> Value {
    let Scaling { service, deployment, terms, phase, phase_since, changed_at } = &view.scaling;
    let known = records.deployments.get(deployment);
    let hourly = |replicas: u32| {
        let layout = known.map(|known| known.spread.layout(&known.plan, replicas)).unwrap_or_default();
        layout.iter().map(|offer| offer.hourly).sum::<Micros>().to_string()
    };
    let sight = view.sight.as_ref();
    let wanted = known.map_or(0, |known| known.replicas);
    json!({
        "service": service,
        "deployment": deployment.as_str(),
        "tier": tier_view(terms.tier),
        "min": terms.min,
        "max": terms.max,
        "target_cpu": terms.target_cpu,
        "target_rate": terms.target_rate,
        "paid_until": terms.paid_until.map(time),
        "phase": phase.label(),
        "phase_since": time(*phase_since),
        "changed_at": time(*changed_at),
        "replicas": if *phase == Phase::Ended { 0 } else { wanted },
        "ready": sight.map(|sight| sight.replicas.iter().filter(|replica| replica.is_ready).count()),
        "leaving": sight.map(|sight| sight.replicas.iter().filter(|it| it.leaving_since.is_some()).count()),
        "rate": sight.and_then(|sight| sight.rate),
        "why": view.why,
        "hourly": hourly(wanted),
        "min_hourly": hourly(terms.min),
        "max_hourly": hourly(terms.max),
        "machines": sight.map(|sight| sight.replicas.iter().map(replica).collect::<Vec<_>>()),
    })
}

fn replica(replica: &Replica) -> Value {
    let (provider, region) = &replica.place;
    json!({
        "key": replica.key.as_str(),
        "provider": provider,
        "region": region,
        "ready": replica.is_ready,
        "away": replica.presence == Presence::Away,
        "leaving_since": replica.leaving_since.map(time),
        "cpu_percent": replica.measure.map(|measure| measure.cpu_percent),
        "measured_at": replica.measure.map(|measure| time(measure.heard_at)),
        "open": replica.open,
    })
}

#[cfg(test)]
mod tests {
    use blueprint_hub_provision_core::DeploymentId;

    use super::*;

    #[test]
    fn what_is_left_out_stays_and_another_tier_brings_its_own_numbers() {
        let asked = SetScaling { tier: Some("standard".to_owned()), ..SetScaling::default() };
        assert_eq!(asked.terms(None, 60).unwrap(), Terms { target_cpu: 60, ..Terms::of(Tier::Standard) });
        let now = Timestamp::from_millis(1);
        let known = Scaling {
            service: ServiceKey { blueprint: 7, service: 42 },
            deployment: DeploymentId::from_bytes([0; 10]),
            terms: Terms { max: 3, target_rate: Some(9), paid_until: Some(now), ..Terms::of(Tier::Standard) },
            phase: Phase::Paid,
            phase_since: now,
            changed_at: now,
        };
        let longer = SetScaling { paid_until: Some(9), ..SetScaling::default() };
        let terms = longer.terms(Some(&known), 70).unwrap();
        assert_eq!((terms.max, terms.paid_until), (3, Some(Timestamp::from_millis(9))));
        let more = SetScaling { tier: Some("premium".to_owned()), ..SetScaling::default() };
        let terms = more.terms(Some(&known), 70).unwrap();
        assert_eq!((terms.min, terms.max, terms.target_rate, terms.paid_until), (3, 20, Some(9), Some(now)));
        let open = SetScaling { paid_until: Some(0), target_rate: Some(0), ..SetScaling::default() };
        let terms = open.terms(Some(&known), 70).unwrap();
        assert_eq!((terms.paid_until, terms.target_rate), (None, None));
        assert!(SetScaling::default().terms(None, 70).is_err(), "a new one needs a tier");
    }
}
