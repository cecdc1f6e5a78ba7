//! Which machines an order is tried with.

use std::collections::BTreeSet;
use std::sync::Arc;

use blueprint_hub_provision_core::catalogue::{Catalogue, Offer, facts, is_one_machine};
use blueprint_hub_provision_core::lifecycle::Spread;
use blueprint_hub_provision_core::placement::{Choice, Question, Target, place};
use blueprint_hub_provision_core::{Candidate, ErrorClass};
use futures_util::future::join_all;
use http::StatusCode;
use serde_json::Value;
use tracing::warn;

use super::CreateDeployment;
use crate::AdminState;
use crate::error::ApiError;
use crate::market::Market;
use crate::wanted::Asked;

/// Offers that an answer names where none fits.
const MAX_NAMED: usize = 12;

/// What was chosen.
#[derive(Debug)]
pub(super) struct Chosen {
    /// The machines to try, the first one first.
    pub(super) plan: Vec<Candidate>,
    /// Whose word each condition was.
    pub(super) explained: Value,
}

/// What a person does next when a provider fails so.
pub(super) fn next_step(provider: &str, class: ErrorClass) -> String {
    match class {
        ErrorClass::Deny => format!(
            "the account or its key is refused: `blueprint-hub provider check {provider}` says what is missing, \
             `blueprint-hub provider configure {provider}` takes another key"
        ),
        ErrorClass::Reject => format!(
            "the hub cannot ask {provider} so: look at providers.{provider} in hub.toml, such as its regions; \
             `blueprint-hub provider check {provider}` says more"
        ),
        ErrorClass::Quota | ErrorClass::NoQuota => {
            format!("end something there, or ask {provider} for a higher quota")
        }
        ErrorClass::Throttle
        | ErrorClass::Again
        | ErrorClass::Capacity
        | ErrorClass::NotSold
        | ErrorClass::Unknown => format!(
            "try again in a minute, or name another --provider; `blueprint-hub provider check {provider}` and the hub's \
             log say more"
        ),
    }
}

/// Providers to ask: the one that was named, or all there are.
fn providers(state: &AdminState, named: Option<&str>) -> Result<Vec<String>, ApiError> {
    if let Some(ended) = named.and_then(facts).and_then(|facts| facts.discontinued()) {
        return Err(ApiError::conflict(ended, "order elsewhere: `blueprint-hub offers` says what there is"));
    }
    let clouds = state.hub.deployer().overview();
    let names: Vec<String> = clouds.clouds.iter().map(|cloud| cloud.name.clone()).collect();
    if names.is_empty() {
        return Err(ApiError::conflict(
            "no provider is configured",
            "set providers.sim.enabled = true in hub.toml and restart the hub; docs/provisioning.md says more",
        ));
    }
    match named {
        None => Ok(names),
        Some(named) if names.iter().any(|name| name == named) => Ok(vec![named.to_owned()]),
        Some(named) => Err(ApiError::not_found(
            format!("no provider is called {named:?}"),
            format!("this hub has {}", names.join(", ")),
        )),
    }
}

/// What the providers sell now. All are asked at once, and one that does not answer does not keep the others from it.
async fn sold(state: &AdminState, named: Option<&str>) -> Result<Vec<Offer>, ApiError> {
    let asked = providers(state, named)?;
    let answers = join_all(asked.into_iter().map(|provider| state.hub.deployer().offers(provider))).await;
    let (mut offers, mut failed) = (Vec::new(), None);
    for answer in answers {
        match answer {
            Ok(own) => offers.extend(own),
            Err(error) => {
                warn!(%error, "left out of the choice");
                failed = Some(error);
            }
        }
    }
    match failed.filter(|_| offers.is_empty()) {
        Some(error) => Err(error.into()),
        None => Ok(offers),
    }
}

/// The machines to try, the first one first, by what their providers sell now.
pub(super) async fn choose(
    state: &AdminState,
    asked: &CreateDeployment,
    spread: Spread,
) -> Result<Chosen, ApiError> {
    let market = Arc::clone(&state.market);
    let understood = asked.machine.clone().understand(&market)?;
    let replicas = asked.replicas;
    understood.allows(replicas)?;
    let offers = sold(state, understood.provider()).await?;
    let found = tokio::task::spawn_blocking(move || {
        let plan = search(&market, &understood, offers, (replicas, spread))?;
        Ok(Chosen { plan, explained: understood.explained(&market, replicas) })
    });
    found
        .await
        .map_err(|_| ApiError::unavailable("the search in the catalogue failed; the hub's log says why"))?
}

/// Where a search ends; on a thread that may block.
fn search(
    market: &Market,
    understood: &Asked,
    offers: Vec<Offer>,
    (replicas, spread): (u32, Spread),
) -> Result<Vec<Candidate>, ApiError> {
    let names: BTreeSet<_> = offers
        .iter()
        .map(|offer| format!("{} of {} in {}", offer.plan, offer.provider, offer.region))
        .collect();
    let known = market.catalogue()?;
    let catalogue = Catalogue::new(offers.into_iter().map(|offer| known.newer(offer)).collect());
    let max_hourly = understood.most(market, replicas);
    let question = Question { replicas, spread, max_hourly, ..understood.question(market, true) };
    let placement = place(&catalogue, &question).map_err(|error| {
        let some: Vec<_> = names.into_iter().take(MAX_NAMED).collect();
        ApiError::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "nothing_fits",
            error.to_string(),
            format!("{}; there is {}", understood.way_out(&error), some.join(", ")),
        )
    })?;
    if placement.target != Target::Machines {
        return Err(ApiError::invalid(
            "this strategy orders no machine",
            "a workload runs on nodes that have joined: `blueprint-hub workload run`",
        ));
    }
    let plan: Vec<_> = placement.plan.iter().map(Choice::candidate).collect();
    // Where every plan is one machine, there are no more machines than plans.
    let wanted = usize::try_from(replicas).unwrap_or(usize::MAX);
    if plan.iter().all(|offer| is_one_machine(&offer.provider)) && plan.len() < wanted {
        return Err(ApiError::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "nothing_fits",
            format!("{wanted} machines are asked for, and {} that are free fit", plan.len()),
            "ask for fewer replicas, or add hosts to the inventory: `blueprint-hub host check` shows each of them",
        ));
    }
    Ok(plan)
}
