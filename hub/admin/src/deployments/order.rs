//! Orders: what may be asked for, what it costs, and that no more is ordered than was agreed to.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use blueprint_common_types::{Micros, ServiceKey};
use blueprint_hub_provision_core::Candidate;
use blueprint_hub_provision_core::lifecycle::{
    DeployError, Deployment, Order, ParseSpreadError, Records, Spread, Wanted,
};
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::SHAPE;
use super::plan::{Chosen, choose};
use super::view::{offer, whole};
use crate::AdminState;
use crate::error::ApiError;
use crate::views::time;
use crate::wanted::Wanted as WantedMachine;

/// Most machines of one deployment.
const MAX_REPLICAS: u32 = 100;
/// Shortest and longest life.
const TTL: std::ops::RangeInclusive<u64> = 60..=365 * 24 * 3600;
/// Longest name and longest request key, in characters.
const MAX_NAME: usize = 40;
const MAX_KEY: usize = 128;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateDeployment {
    /// The same key gives the same deployment; needed unless `dry_run`.
    #[serde(default)]
    request_key: String,
    #[serde(default)]
    name: String,
    #[serde(default = "one")]
    pub(super) replicas: u32,
    /// What each machine has to have, as `GET /v1/estimate` asks for it; the cheapest that there is, where it is left out.
    #[serde(default)]
    pub(super) machine: WantedMachine,
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
    let chosen = match known.filter(|_| !asked.dry_run) {
        Some(known) => Chosen { plan: known.plan.clone(), ..Chosen::default() },
        None => {
            // Who plans an order again that stands already does not meet its own name.
            if known.is_none() {
                free(&records, &asked.name)?;
            }
            let mut chosen = choose(&state, &asked, spread).await?;
            if let Some(confirmed) = asked.confirmed.filter(|_| !asked.dry_run) {
                chosen.plan = confirmed.heed(chosen.plan, spread, asked.replicas)?;
            }
            check_places(&chosen.plan, spread, asked.replicas)?;
            chosen
        }
    };
    let Chosen { plan, explained, left_out, passed, waits_until } = chosen;
    let waits_until = waits_until.map(time);
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
                "unavailable": passed,
                "waits_until": waits_until,
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
    let answer = json!({
        "deployment": whole(&state, &deployment, &records),
        "is_new": is_new,
        "unavailable": passed,
        "waits_until": waits_until,
    });
    Ok((status, Json(answer)))
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

/// Refuses a name that a deployment has which is not being ended, before clouds are asked; the store looks again.
fn free(records: &Records, name: &str) -> Result<(), ApiError> {
    let is_it = |it: &&Deployment| !name.is_empty() && it.name == name && it.wanted != Wanted::Gone;
    let Some(other) = records.deployments.values().find(is_it) else { return Ok(()) };
    Err(DeployError::Named { name: name.to_owned(), id: other.id.clone() }.into())
}

#[cfg(test)]
mod tests;
