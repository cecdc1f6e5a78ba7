//! Which machines an order is tried with.

use std::collections::BTreeSet;
use std::sync::Arc;

use blueprint_common_types::Timestamp;
use blueprint_hub_provision_core::catalogue::{Catalogue, Offer, PriceKind, facts, is_one_machine};
use blueprint_hub_provision_core::lifecycle::{DeployError, Spread};
use blueprint_hub_provision_core::placement::{Around, Choice, Question, Target, Unavailable, place_around};
use blueprint_hub_provision_core::{Candidate, ErrorClass};
use futures_util::future::join_all;
use http::StatusCode;
use serde_json::{Value, json};
use tracing::warn;

use super::order::CreateDeployment;
use crate::AdminState;
use crate::accounts::AccountView;
use crate::error::ApiError;
use crate::market::Market;
use crate::views::time;
use crate::wanted::Asked;

/// Offers that an answer names where none fits.
const MAX_NAMED: usize = 12;

/// What was chosen.
#[derive(Debug, Default)]
pub(super) struct Chosen {
    /// The machines to try, the first one first.
    pub(super) plan: Vec<Candidate>,
    /// Whose word each condition was.
    pub(super) explained: Value,
    /// Providers that could not be asked: `provider` and `reason`.
    pub(super) left_out: Vec<Value>,
    /// Offers that were in the plan if they could be had now: which, `reason`, `class` and `until`.
    pub(super) passed: Vec<Value>,
    /// When the first of the plan is ordered at the earliest, where none can be had now.
    pub(super) waits_until: Option<Timestamp>,
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
async fn providers(state: &AdminState, named: Option<&str>) -> Result<Vec<String>, ApiError> {
    if let Some(ended) = named.and_then(facts).and_then(|facts| facts.discontinued()) {
        return Err(ApiError::conflict(ended, "order elsewhere: `blueprint-hub offers` says what there is"));
    }
    let clouds = state.hub.deployer().overview();
    let names: Vec<String> = clouds.clouds.iter().map(|cloud| cloud.name.clone()).collect();
    match named {
        None if !names.is_empty() => Ok(names),
        Some(named) if names.iter().any(|name| name == named) => Ok(vec![named.to_owned()]),
        None | Some(_) => Err(not_there(&names, named, &state.hub.accounts().list().await)),
    }
}

/// What switches a provider on.
fn switch(account: &AccountView) -> String {
    format!("providers.{}.enabled = true", account.name.replace('-', "_"))
}

/// Why an order cannot go to the provider that was named, or to any, and what switches it on.
fn not_there(names: &[String], named: Option<&str>, accounts: &[AccountView]) -> ApiError {
    let known = accounts.iter().find(|account| named == Some(account.name.as_str()) && !account.is_enabled);
    if let Some(account) = known {
        if let Some(feature) = account.lacks {
            let text = format!("this program was built without the provider {}", account.name);
            return ApiError::conflict(text, format!("build it with the feature {feature}"));
        }
        return ApiError::conflict(
            format!("{} is switched off", account.name),
            format!("set {} in hub.toml and start the hub again", switch(account)),
        );
    }
    if let Some(named) = named.filter(|_| !names.is_empty()) {
        let text = format!("no provider is called {named:?}");
        return ApiError::not_found(text, format!("this hub has {}", names.join(", ")));
    }
    let sealed: Vec<_> = accounts
        .iter()
        .filter(|account| account.sealed.is_some() && account.lacks.is_none())
        .map(switch)
        .collect();
    let keys =
        if sealed.is_empty() { "providers.sim.enabled = true".to_owned() } else { sealed.join(" or ") };
    ApiError::conflict(
        "no provider is switched on",
        format!("set {keys} in hub.toml and start the hub again; docs/provisioning.md says more"),
    )
}

/// What the providers sell now. All are asked at once, and one that does not answer does not keep the others from it.
async fn sold(state: &AdminState, named: Option<&str>) -> Result<(Vec<Offer>, Vec<Value>), ApiError> {
    let asked = providers(state, named).await?;
    let answers = asked.iter().map(|provider| state.hub.deployer().offers(provider.clone()));
    let answers = join_all(answers).await;
    let (mut offers, mut left_out, mut failed) = (Vec::new(), Vec::new(), None);
    for (provider, answer) in asked.iter().zip(answers) {
        match answer {
            Ok(own) => offers.extend(own),
            Err(error) => {
                warn!(%error, "left out of the choice");
                left_out.push(json!({ "provider": provider, "reason": reason(&error) }));
                failed = Some(error);
            }
        }
    }
    match failed.filter(|_| offers.is_empty()) {
        Some(error) => Err(error.into()),
        None => Ok((offers, left_out)),
    }
}

/// What failed, without the provider's name before it.
fn reason(error: &DeployError) -> String {
    match error {
        DeployError::Provider { reason, .. } => reason.clone(),
        DeployError::UnknownProvider(_)
        | DeployError::Mismatch { .. }
        | DeployError::OverLimit(_)
        | DeployError::Held(_)
        | DeployError::Named { .. }
        | DeployError::Unknown(_)
        | DeployError::Terminated(_)
        | DeployError::Unavailable(_)
        | DeployError::Store(_) => error.to_string(),
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
    let (offers, left_out) = sold(state, understood.provider()).await?;
    let gone = {
        let deployer = state.hub.deployer();
        deployer.overview().unavailable_at(deployer.now())
    };
    let found = tokio::task::spawn_blocking(move || {
        let found = search(&market, &understood, offers, (replicas, spread), &gone)?;
        Ok(Chosen { explained: understood.explained(&market, replicas), left_out, ..found })
    });
    found
        .await
        .map_err(|_| ApiError::unavailable("the search in the catalogue failed; the hub's log says why"))?
}

/// The offers, those of the built-in list at the prices that their providers told since. Where none is of that list, the
/// catalogue is not read for them.
fn at_newest(market: &Market, offers: Vec<Offer>) -> Result<Vec<Offer>, ApiError> {
    if offers.iter().all(|offer| offer.kind != PriceKind::Snapshot) {
        return Ok(offers);
    }
    let known = market.catalogue()?;
    Ok(offers.into_iter().map(|offer| known.newer(offer)).collect())
}

/// The first few of what there is, by name.
fn some_of(catalogue: &Catalogue) -> String {
    let name = |offer: &Offer| format!("{} of {} in {}", offer.plan, offer.provider, offer.region);
    let names: BTreeSet<_> = catalogue.offers().iter().map(name).collect();
    names.into_iter().take(MAX_NAMED).collect::<Vec<_>>().join(", ")
}

/// Where a search ends; on a thread that may block.
fn search(
    market: &Market,
    understood: &Asked,
    offers: Vec<Offer>,
    (replicas, spread): (u32, Spread),
    gone: &[Unavailable],
) -> Result<Chosen, ApiError> {
    let catalogue = Catalogue::new(at_newest(market, offers)?);
    let max_hourly = understood.most(market, replicas);
    let question =
        Question { replicas, spread, max_hourly, unavailable: gone, ..understood.question(market, true) };
    let Around { placement, passed, waits_until } = place_around(&catalogue, &question).map_err(|error| {
        ApiError::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "nothing_fits",
            error.to_string(),
            format!("{}; there is {}", understood.way_out(&error), some_of(&catalogue)),
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
    let passed = passed.iter().map(|(choice, known)| passed_over(choice, known)).collect();
    Ok(Chosen { plan, passed, waits_until, ..Chosen::default() })
}

/// An offer that the plan goes around.
fn passed_over(choice: &Choice<'_>, known: &Unavailable) -> Value {
    json!({
        "provider": &*choice.offer.provider,
        "plan": &*choice.offer.plan,
        "region": &*choice.offer.region,
        "spot": choice.spot,
        "hourly": choice.total.hourly().to_string(),
        "class": known.class.label(),
        "reason": known.why(),
        "until": time(known.until),
    })
}

#[cfg(test)]
mod tests {
    use blueprint_common_types::Micros;
    use blueprint_hub_provision_core::CredentialRecord;

    use super::*;

    fn account(name: &str, lacks: Option<&'static str>, is_sealed: bool) -> AccountView {
        let sealed = is_sealed.then(|| CredentialRecord {
            provider: name.to_owned(),
            shown: "…1234".to_owned(),
            sealed: String::new(),
            changed_at: Timestamp::default(),
            changed_by: "socket".to_owned(),
        });
        AccountView {
            name: name.to_owned(),
            is_enabled: false,
            lacks,
            fields: Vec::new(),
            origin: None,
            sealed,
            checked: None,
        }
    }

    /// It takes 40 ms and 4 MiB, which a hub need not have whose clouds say their own prices.
    #[test]
    fn the_built_in_list_is_read_where_an_offer_is_of_it_alone() {
        let (_keep, lists) = tokio::sync::watch::channel(Arc::default());
        let market = Market::new(None, 180, BTreeSet::new(), Vec::new(), lists);
        let mut offer = Offer::live("sim", "small", "local", (1, 1024), Micros::new(5000));
        assert_eq!(at_newest(&market, vec![offer.clone()]).unwrap(), [offer.clone()]);
        assert!(!market.is_read());
        offer.kind = PriceKind::Snapshot;
        assert_eq!(at_newest(&market, vec![offer.clone()]).unwrap(), [offer]);
        assert!(market.is_read());
    }

    #[test]
    fn of_what_there_is_a_few_are_named() {
        let offer =
            |number: u32| Offer::live("sim", &format!("s{number:02}"), "local", (1, 1024), Micros::new(5000));
        let named = some_of(&Catalogue::new((0..20).map(offer).collect()));
        assert!(named.starts_with("s00 of sim in local, s01 of sim in local"), "{named}");
        assert_eq!(named.split(", ").count(), MAX_NAMED);
    }

    #[test]
    fn what_is_switched_off_is_told_from_what_is_not_known() {
        let accounts = [account("digitalocean", None, true), account("aws", Some("aws"), false)];
        let sim = ["sim".to_owned()];
        for names in [&sim[..], &[]] {
            let (status, _, message, hint) = not_there(names, Some("digitalocean"), &accounts).parts();
            assert_eq!((status, message.as_str()), (StatusCode::CONFLICT, "digitalocean is switched off"));
            assert!(hint.contains("set providers.digitalocean.enabled = true in hub.toml"), "{hint}");
        }
        let (_, _, message, _) = not_there(&sim, Some("aws"), &accounts).parts();
        assert!(message.contains("built without"), "{message}");
        let (status, _, message, hint) = not_there(&sim, Some("nobody"), &accounts).parts();
        assert_eq!((status, hint.as_str()), (StatusCode::NOT_FOUND, "this hub has sim"), "{message}");
        let (_, _, _, hint) = not_there(&[], None, &accounts).parts();
        assert!(hint.contains("providers.digitalocean.enabled") && !hint.contains("aws"), "{hint}");
        let (_, _, _, hint) = not_there(&[], None, &accounts[1..]).parts();
        assert!(hint.contains("providers.sim.enabled"), "{hint}");
    }
}
