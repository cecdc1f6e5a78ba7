//! Deployments: machines that the hub orders of clouds.

mod plan;
mod view;

use std::time::Duration;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, Query, State};
use blueprint_common_types::{Micros, ServiceKey};
use blueprint_hub_provision_core::lifecycle::{
    DeployError, Deployment, Order, ParseSpreadError, Records, Spread, Wanted,
};
use blueprint_hub_provision_core::{Candidate, DeploymentId, ErrorClass};
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use self::plan::{Chosen, choose};
use self::view::{offer, summary, whole};
use crate::AdminState;
use crate::error::ApiError;
use crate::views::time;
use crate::wanted::Wanted as WantedMachine;

const SHAPE: &str = "docs/provisioning.md shows every field of a deployment";
const LIST: &str = "`blueprint-hub deployment ls --all` lists them";

/// Most machines of one deployment.
const MAX_REPLICAS: u32 = 100;
/// Shortest and longest life.
const TTL: std::ops::RangeInclusive<u64> = 60..=365 * 24 * 3600;
/// Longest name and longest request key, in characters.
const MAX_NAME: usize = 40;
const MAX_KEY: usize = 128;
/// Most rows of history at once.
const MAX_EVENTS: u32 = 1000;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateDeployment {
    /// The same key gives the same deployment; needed unless `dry_run`.
    #[serde(default)]
    request_key: String,
    #[serde(default)]
    name: String,
    #[serde(default = "one")]
    replicas: u32,
    /// What each machine has to have, as `GET /v1/estimate` asks for it; the cheapest that there is, where it is left out.
    #[serde(default)]
    machine: WantedMachine,
    service: Option<ServiceKey>,
    /// `regions`, `providers` or `none`.
    spread: Option<String>,
    ttl_secs: Option<u64>,
    /// Answers what would be ordered, and orders nothing.
    #[serde(default)]
    dry_run: bool,
    /// What a dry run answered and a person agreed to: nothing dearer is ordered.
    confirmed: Option<Confirmed>,
}

/// Prices of an hour of all replicas, as a dry run answered them.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
struct Confirmed {
    /// Of the first offer.
    #[serde(deserialize_with = "amount")]
    hourly: Micros,
    /// Of the dearest one that may be ordered in its place.
    #[serde(deserialize_with = "amount")]
    most_hourly: Micros,
}

fn amount<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Micros, D::Error> {
    String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
}

impl Confirmed {
    /// What of `plan` costs no more than was agreed to.
    fn heed(
        self,
        mut plan: Vec<Candidate>,
        spread: Spread,
        replicas: u32,
    ) -> Result<Vec<Candidate>, ApiError> {
        let all = |offer: &Candidate| offer.hourly.times(replicas.into());
        let now = hourly_of(&plan, spread, replicas);
        if now > self.hourly {
            return Err(ApiError::new(
                StatusCode::CONFLICT,
                "price_changed",
                format!(
                    "it costs ${now} an hour now, and ${} was agreed to; nothing is ordered",
                    self.hourly
                ),
                "look at the plan again: `blueprint-hub deploy` with --dry-run, or without --yes",
            ));
        }
        plan.retain(|offer| all(offer) <= self.most_hourly);
        Ok(plan)
    }
}

/// What an hour of so many machines costs, where the first offers can be had.
fn hourly_of(plan: &[Candidate], spread: Spread, replicas: u32) -> Micros {
    spread.layout(plan, replicas).iter().map(|offer| offer.hourly).sum()
}

const fn one() -> u32 {
    1
}

impl CreateDeployment {
    fn check(&self) -> Result<(), ApiError> {
        let is_key = |c: char| c.is_ascii_graphic();
        if !self.dry_run && (self.request_key.is_empty() || !self.request_key.chars().all(is_key)) {
            return Err(ApiError::invalid(
                "request_key is 1 to 128 printable characters without spaces",
                "give one of your own for each deployment, and the same one when you ask again",
            ));
        }
        if self.request_key.len() > MAX_KEY {
            return Err(ApiError::invalid("request_key is longer than 128 characters", "give a shorter one"));
        }
        let is_label = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if self.name.len() > MAX_NAME || !self.name.chars().all(is_label) {
            return Err(ApiError::invalid(
                "a name has at most 40 characters of a-z, 0-9 and '-'",
                "give another --name",
            ));
        }
        if !(1..=MAX_REPLICAS).contains(&self.replicas) {
            return Err(ApiError::invalid("a deployment has 1 to 100 replicas", "give --replicas within it"));
        }
        if self.ttl_secs.is_some_and(|ttl| !TTL.contains(&ttl)) {
            return Err(ApiError::invalid(
                "a deployment lives between 1 min and 365 days",
                "give a --ttl within it",
            ));
        }
        Ok(())
    }

    /// Over what the machines are to be spread.
    fn spread(&self) -> Result<Spread, ApiError> {
        let text = self.spread.as_deref().unwrap_or("none");
        text.parse().map_err(|error: ParseSpreadError| ApiError::invalid(format!("spread: {error}"), SHAPE))
    }

    /// What is asked for, without prices, which may be others when it is asked again.
    fn asked(&self) -> String {
        let service = self.service.map_or_else(|| "none".to_owned(), |service| service.to_string());
        let ttl = self.ttl_secs.map_or_else(|| "none".to_owned(), |ttl| format!("{ttl} s"));
        // Left out where nothing is said, so that orders of before are the same order still.
        let spread = match self.spread.as_deref() {
            None | Some("none") => String::new(),
            Some(spread) => format!(", spread over {spread}"),
        };
        format!(
            "{} x {}, service {service}, ttl {ttl}, name {:?}{spread}",
            self.replicas,
            self.machine.text(),
            self.name,
        )
    }
}

pub(crate) async fn create(
    State(state): State<AdminState>,
    body: Result<Json<CreateDeployment>, JsonRejection>,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    let Json(asked) = body.map_err(|error| ApiError::invalid(error.body_text(), SHAPE))?;
    asked.check()?;
    let spread = asked.spread()?;
    let deployer = state.hub.deployer();
    let text = asked.asked();
    // What was asked stays what was asked, so that the same order is known again under other preferences.
    let ttl = asked.ttl_secs.or(state.market.preferences.ttl_secs);
    // Who asks again gets an answer also while the cloud gives none.
    let records = deployer.records().await?;
    let is_known = |it: &&Deployment| !asked.request_key.is_empty() && it.request_key == asked.request_key;
    let known = records.deployments.values().find(is_known);
    let (plan, explained, left_out) = match known.filter(|_| !asked.dry_run) {
        Some(known) => (known.plan.clone(), Value::Null, Vec::new()),
        None => {
            // Who plans an order again that stands already does not meet its own name.
            if known.is_none() {
                free(&records, &asked.name)?;
            }
            let Chosen { plan, explained, left_out } = choose(&state, &asked, spread).await?;
            let plan = match asked.confirmed.filter(|_| !asked.dry_run) {
                Some(confirmed) => confirmed.heed(plan, spread, asked.replicas)?,
                None => plan,
            };
            check_places(&plan, spread, asked.replicas)?;
            (plan, explained, left_out)
        }
    };
    if asked.dry_run {
        let all = |hourly: Option<Micros>| hourly.unwrap_or_default().times(u64::from(asked.replicas));
        let hourly = hourly_of(&plan, spread, asked.replicas);
        let most = all(plan.iter().map(|offer| offer.hourly).max());
        return Ok((
            StatusCode::OK,
            Json(json!({
                "replicas": asked.replicas,
                "plan": plan.iter().map(offer).collect::<Vec<_>>(),
                "spread": spread.label(),
                "layout": spread.layout(&plan, asked.replicas).into_iter().map(offer).collect::<Vec<_>>(),
                "unspread_hourly": hourly_of(&plan, Spread::None, asked.replicas).to_string(),
                "hourly": hourly.to_string(),
                "most_hourly": most.to_string(),
                "monthly": hourly.times(730).to_string(),
                "ttl_secs": ttl,
                "explained": explained,
                "left_out": left_out,
            })),
        ));
    }
    let order = Order {
        request_key: asked.request_key,
        name: asked.name,
        asked: text,
        replicas: asked.replicas,
        plan,
        spread,
        service: asked.service,
        ttl: ttl.map(Duration::from_secs),
    };
    let (deployment, is_new) = deployer.deploy(order).await?;
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    let records = deployer.records().await?;
    Ok((status, Json(json!({ "deployment": whole(&state, &deployment, &records), "is_new": is_new }))))
}

/// Whether what is to be spread has more than one place to be at.
fn check_places(plan: &[Candidate], spread: Spread, replicas: u32) -> Result<(), ApiError> {
    let only = plan.first().filter(|_| spread != Spread::None && replicas > 1);
    let Some(only) = only.filter(|_| spread.places(plan, replicas) < 2) else { return Ok(()) };
    let (provider, region) = spread.place(only);
    let place = if region.is_empty() { provider.to_owned() } else { format!("{region} of {provider}") };
    Err(ApiError::new(
        StatusCode::UNPROCESSABLE_ENTITY,
        "nothing_to_spread",
        format!("{replicas} machines are to be spread over {spread}, and all that fit are at {place}"),
        "ask for less, for more an hour, or for no single region or provider; configure another provider; or leave --spread \
         out: `blueprint-hub offers` says what there is",
    ))
}

#[derive(Debug, Deserialize)]
pub(crate) struct ListQuery {
    #[serde(default)]
    all: bool,
}

pub(crate) async fn list(
    State(state): State<AdminState>,
    Query(query): Query<ListQuery>,
) -> Result<Json<Value>, ApiError> {
    let deployer = state.hub.deployer();
    let records = deployer.records().await?;
    let mut shown: Vec<&Deployment> = records
        .deployments
        .values()
        .filter(|deployment| query.all || !view::is_over(deployment, &records))
        .collect();
    shown.sort_by_key(|deployment| (deployment.created_at, deployment.id.clone()));
    let overview = deployer.overview();
    let clouds: Vec<_> = overview.clouds.iter().map(view::cloud).collect();
    let alarms: Vec<_> = overview.alarms.iter().map(view::alarm).collect();
    let rows: Vec<_> = shown.into_iter().map(|deployment| summary(deployment, &records)).collect();
    Ok(Json(json!({ "deployments": rows, "providers": clouds, "alarms": alarms })))
}

pub(crate) async fn show(
    State(state): State<AdminState>,
    Path(text): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let records = state.hub.deployer().records().await?;
    let deployment = find(&records, &text)?;
    Ok(Json(json!({ "deployment": whole(&state, deployment, &records) })))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ChangeDeployment {
    /// `running` or `stopped`.
    wanted: String,
}

pub(crate) async fn change(
    State(state): State<AdminState>,
    Path(text): Path<String>,
    body: Result<Json<ChangeDeployment>, JsonRejection>,
) -> Result<Json<Value>, ApiError> {
    let Json(asked) = body.map_err(|error| ApiError::invalid(error.body_text(), SHAPE))?;
    let wanted = asked.wanted.parse::<Wanted>().ok().filter(|wanted| *wanted != Wanted::Gone);
    let wanted = wanted.ok_or_else(|| {
        ApiError::invalid("a deployment is wanted running or stopped", "DELETE ends it for good")
    })?;
    want(&state, &text, wanted).await
}

pub(crate) async fn terminate(
    State(state): State<AdminState>,
    Path(text): Path<String>,
) -> Result<Json<Value>, ApiError> {
    want(&state, &text, Wanted::Gone).await
}

async fn want(state: &AdminState, text: &str, wanted: Wanted) -> Result<Json<Value>, ApiError> {
    let deployer = state.hub.deployer();
    let records = deployer.records().await?;
    let id = find(&records, text)?.id.clone();
    let deployment = deployer.set_wanted(id, wanted, "by the operator".to_owned()).await?;
    let records = deployer.records().await?;
    Ok(Json(json!({ "deployment": whole(state, &deployment, &records) })))
}

#[derive(Debug, Deserialize)]
pub(crate) struct HistoryQuery {
    deployment: Option<String>,
    limit: Option<u32>,
}

pub(crate) async fn history(
    State(state): State<AdminState>,
    Query(query): Query<HistoryQuery>,
) -> Result<Json<Value>, ApiError> {
    let deployer = state.hub.deployer();
    let id = match &query.deployment {
        Some(text) => Some(find(&deployer.records().await?, text)?.id.clone()),
        None => None,
    };
    let limit = query.limit.unwrap_or(100).min(MAX_EVENTS);
    let events = deployer.events(id, limit).await?;
    let rows: Vec<_> = events
        .iter()
        .map(|event| {
            json!({
                "at": time(event.at),
                "deployment": event.deployment.as_str(),
                "instance": event.instance.as_ref().map(ToString::to_string),
                "what": event.what,
                "reason": event.reason,
            })
        })
        .collect();
    Ok(Json(json!({ "events": rows })))
}

/// Finds a deployment by id, by the beginning of its id, or by its name where only one that is not over has it.
pub(crate) fn find<'r>(records: &'r Records, text: &str) -> Result<&'r Deployment, ApiError> {
    let exact = text.parse::<DeploymentId>().ok().and_then(|id| records.deployments.get(&id));
    if let Some(deployment) = exact {
        return Ok(deployment);
    }
    let named = |it: &&Deployment| it.name == text && !it.name.is_empty() && !view::is_over(it, records);
    let begins = |it: &&Deployment| text.len() >= 4 && it.id.as_str().starts_with(text);
    let mut found = records.deployments.values().filter(|it| named(it) || begins(it));
    match (found.next(), found.next()) {
        (Some(deployment), None) => Ok(deployment),
        (Some(_), Some(_)) => {
            let text = format!("more than one deployment is called {text:?}");
            Err(ApiError::conflict(text, format!("name it by its id: {LIST}")))
        }
        (None, _) => Err(ApiError::not_found(format!("no deployment is called {text:?}"), LIST)),
    }
}

/// Refuses a name that a deployment has which is not being ended.
fn free(records: &Records, name: &str) -> Result<(), ApiError> {
    let is_it = |it: &&Deployment| !name.is_empty() && it.name == name && it.wanted != Wanted::Gone;
    let Some(other) = records.deployments.values().find(is_it) else { return Ok(()) };
    Err(ApiError::conflict(
        format!("deployment {name} is there as {}", other.id),
        format!("give another --name, or end that one with `blueprint-hub terminate {}`", other.id),
    ))
}

/// The status that a provider's failure is answered with, as a check of its account is.
const fn failed(class: ErrorClass) -> StatusCode {
    match class {
        ErrorClass::Deny => StatusCode::FORBIDDEN,
        ErrorClass::Throttle | ErrorClass::Again | ErrorClass::Unknown => StatusCode::SERVICE_UNAVAILABLE,
        ErrorClass::Reject
        | ErrorClass::Quota
        | ErrorClass::NoQuota
        | ErrorClass::Capacity
        | ErrorClass::NotSold => StatusCode::BAD_GATEWAY,
    }
}

impl From<DeployError> for ApiError {
    fn from(error: DeployError) -> Self {
        let text = error.to_string();
        match error {
            DeployError::UnknownProvider(_) => {
                Self::not_found(text, "`blueprint-hub deployment ls` shows providers")
            }
            DeployError::Unknown(_) => Self::not_found(text, LIST),
            DeployError::Provider { provider, class, .. } => {
                Self::new(failed(class), "provider_failed", text, plan::next_step(&provider, class))
            }
            DeployError::OverLimit(_) => Self::new(
                StatusCode::CONFLICT,
                "over_limit",
                text,
                "end something (`blueprint-hub deployment ls`), or raise the limit in hub.toml and restart the hub; \
                 `blueprint-hub costs` shows what is used",
            ),
            DeployError::Held(held) => Self::new(
                StatusCode::CONFLICT,
                "held",
                text,
                format!(
                    "`blueprint-hub alerts release {0}` calls it off for this period, `blueprint-hub set-alert {0} --amount MORE` \
                     raises it; `blueprint-hub alerts show {0}` says more",
                    held.alert
                ),
            ),
            DeployError::Mismatch { id, .. } => Self::conflict(
                format!("the request key was used for deployment {id}, which asked for something else"),
                format!(
                    "ask with another --request-key, or for the same as before: `blueprint-hub deployment show {id} --output json` \
                     has it as `asked`"
                ),
            ),
            DeployError::Terminated(_) => Self::conflict(text, "make a new one with `blueprint-hub deploy`"),
            DeployError::Unavailable(_) => Self::unavailable(text),
            DeployError::Store(error) => {
                let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                tracing::error!(%error, source, "store failed");
                Self::unavailable("the hub's store cannot do this now; the hub's log says why")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use blueprint_hub_provision_core::resource::Arch;

    use super::*;

    #[test]
    fn what_has_one_place_alone_is_not_spread_in_silence() {
        let offer = |provider: &str, region: &str| Candidate {
            provider: provider.to_owned(),
            plan: "s1".to_owned(),
            region: region.to_owned(),
            spot: false,
            disk_gb: 8,
            arch: Arch::X86_64,
            hourly: Micros::new(1),
            stopped_hourly: Micros::new(1),
            egress: None,
        };
        let plan = [offer("scaleway", "fr-par-1"), offer("scaleway", "fr-par-2")];
        let error = check_places(&plan, Spread::Regions, 2).unwrap_err();
        assert!(format!("{error:?}").contains("all that fit are at fr-par of scaleway"), "{error:?}");
        assert!(check_places(&plan, Spread::Providers, 2).is_err());
        assert!(check_places(&plan, Spread::None, 2).is_ok());
        assert!(check_places(&plan, Spread::Regions, 1).is_ok());
        let plan = [plan[0].clone(), offer("scaleway", "nl-ams-1"), offer("aws", "eu-west-1")];
        assert!(check_places(&plan, Spread::Regions, 2).is_ok());
        assert!(check_places(&plan, Spread::Providers, 2).is_ok());
    }

    #[test]
    fn what_a_provider_refuses_is_told_from_one_that_cannot_be_asked() {
        let status = |class| {
            let failed = DeployError::Provider { provider: "aws".to_owned(), reason: "no".to_owned(), class };
            ApiError::from(failed).parts().0.as_u16()
        };
        assert_eq!(status(ErrorClass::Deny), 403);
        assert_eq!([ErrorClass::Again, ErrorClass::Unknown].map(status), [503, 503]);
        assert_eq!(status(ErrorClass::Capacity), 502);
    }

    #[test]
    fn a_name_that_stands_is_not_given_twice() {
        let (standing, mut records) = view::tests::records(Wanted::Running, &[]);
        let (status, _, message, hint) = free(&records, &standing.name).unwrap_err().parts();
        assert_eq!(status, StatusCode::CONFLICT);
        assert_eq!(message, format!("deployment demo is there as {}", standing.id));
        assert!(hint.contains(standing.id.as_str()), "{hint}");
        assert!(free(&records, "").is_ok() && free(&records, "other").is_ok());
        for deployment in records.deployments.values_mut() {
            deployment.wanted = Wanted::Gone;
        }
        assert!(free(&records, &standing.name).is_ok(), "what is being ended leaves its name");
    }

    #[test]
    fn nothing_is_ordered_that_is_dearer_than_what_was_agreed_to() {
        let offer = |hourly| Candidate {
            provider: "sim".to_owned(),
            plan: format!("of-{hourly}"),
            region: "local".to_owned(),
            spot: false,
            disk_gb: 8,
            arch: Arch::X86_64,
            hourly: Micros::new(hourly),
            stopped_hourly: Micros::new(hourly),
            egress: None,
        };
        let confirmed: Confirmed =
            serde_json::from_value(json!({ "hourly": "0.02", "most_hourly": "0.06" })).unwrap();
        let plan = [10_000, 30_000, 40_000].map(offer).to_vec();
        let heeded = confirmed.heed(plan.clone(), Spread::None, 2).unwrap();
        assert_eq!(heeded, plan[..2], "what was dearer than the dearest is left out");
        let error = confirmed.heed(plan, Spread::None, 3).unwrap_err();
        assert!(format!("{error:?}").contains("price_changed"), "{error:?}");
        assert!(confirmed.heed([10_001, 9_000].map(offer).to_vec(), Spread::None, 2).is_err());
        let wrong = json!({ "hourly": "-1", "most_hourly": "0.06" });
        assert!(serde_json::from_value::<Confirmed>(wrong).is_err());
    }
}
