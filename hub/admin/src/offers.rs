//! Machines that can be ordered, and what they cost.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use blueprint_hub_provision_core::catalogue::{
    Currency, Gpu, Offer, PriceKind, Template, area_of, facts, is_plugin, providers, templates,
};
use blueprint_hub_provision_core::estimate::{CostReport, pricing_toml, unit_rates};
use blueprint_hub_provision_core::placement::{Choice, Placement, Target, Verdict, examine, place};
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::AdminState;
use crate::error::ApiError;
use crate::market::{Market, freshness, today};
use crate::wanted::{Asked, Wanted};

type Query_<T> = Result<Query<T>, QueryRejection>;

fn query<T>(query: Query_<T>) -> Result<T, ApiError> {
    let Query(query) = query.map_err(|error| {
        ApiError::invalid(error.body_text(), "docs/prices.md lists what can be asked for")
    })?;
    Ok(query)
}

/// Runs `work` on the market where it may take a while.
async fn on_market<F>(state: &AdminState, work: F) -> Result<Json<Value>, ApiError>
where
    F: FnOnce(&Market) -> Result<Value, ApiError> + Send + 'static,
{
    let market = state.market.clone();
    let done = tokio::task::spawn_blocking(move || work(&market)).await;
    let answer = done
        .map_err(|_| ApiError::unavailable("the search in the catalogue failed; the hub's log says why"))?;
    answer.map(Json)
}

pub(crate) async fn list_providers(State(state): State<AdminState>) -> Result<Json<Value>, ApiError> {
    on_market(&state, |market| {
        let catalogue = market.catalogue()?;
        let offers = catalogue.offers();
        let plugins = market.configured.iter().filter(|name| is_plugin(name));
        let plugins = plugins.filter_map(|name| Some((name.as_str(), facts(name)?)));
        let known = providers().iter().map(|facts| (facts.name, facts)).chain(plugins);
        let rows = known.map(|(name, facts)| {
            let own: Vec<_> = offers.iter().filter(|offer| &*offer.provider == name).collect();
            let prices = own.iter().map(|offer| offer.on_demand);
            let of_it = templates().iter().filter(|row| row.provider == name);
            json!({
                "name": name,
                "title": facts.shown,
                "configured": market.configured.contains(name),
                "discontinued": facts.discontinued(),
                "templates": of_it.count(),
                "offers": own.len(),
                "regions": facts.regions().collect::<Vec<_>>(),
                "lowest": prices.clone().min().map(|price| price.to_string()),
                "highest": prices.max().map(|price| price.to_string()),
                "currency": own.first().map(|offer| currency(offer)),
                "gpus": own.iter().filter(|offer| offer.gpu.is_some()).count(),
                "spot": facts.has_spot,
                "price_age_days": ages(&own).min(),
                "oldest_price_age_days": ages(&own).max(),
                "unchecked": own.iter().filter(|offer| offer.kind == PriceKind::Template).count(),
            })
        });
        Ok(json!({ "providers": rows.collect::<Vec<_>>() }))
    })
    .await
}

/// Days since prices were asked for; none of those that the specification states, which nobody asked for.
fn ages<'a>(own: &'a [&Offer]) -> impl Iterator<Item = u32> + use<'a> {
    let asked = own.iter().filter(|offer| offer.kind != PriceKind::Template);
    asked.map(|offer| offer.as_of.days_until(today()))
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct TemplatesAsked {
    gpu: bool,
    provider: Option<String>,
}

pub(crate) async fn list_templates(asked: Query_<TemplatesAsked>) -> Result<Json<Value>, ApiError> {
    let asked = query(asked)?;
    if let Some(name) = &asked.provider {
        known_provider(name)?;
    }
    let is_asked = |row: &&Template| {
        (!asked.gpu || row.gpu.is_some()) && asked.provider.as_deref().is_none_or(|name| name == row.provider)
    };
    let rows = templates().iter().filter(is_asked).map(|row| {
        json!({
            "id": row.id,
            "provider": row.provider,
            "plan": row.plan,
            "vcpus": row.vcpus,
            "memory_mib": row.memory_mib,
            "disk_gb": row.disk_gb,
            "transfer_gb": row.transfer_gb,
            "arch": row.arch,
            "hourly": row.hourly.to_string(),
            "monthly": row.monthly.to_string(),
            "gpu": row.gpu,
            "regions": row.regions(),
            "note": row.note,
        })
    });
    Ok(Json(json!({ "templates": rows.collect::<Vec<_>>() })))
}

pub(crate) async fn list_offers(
    State(state): State<AdminState>,
    wanted: Query_<Wanted>,
) -> Result<Json<Value>, ApiError> {
    let wanted = query(wanted)?;
    if let Some(name) = &wanted.provider {
        known_provider(name)?;
    }
    on_market(&state, move |market| {
        let asked = wanted.understand(market)?;
        let catalogue = market.catalogue()?;
        let (mut fits, verdicts) = examine(&catalogue, &asked.question(market, false));
        fits.sort_by(|a, b| key(a).cmp(&key(b)));
        let rows: Vec<_> = fits.iter().take(asked.limit).map(|choice| row(choice, market)).collect();
        let reasons = verdicts.iter().map(|(name, verdict)| verdict_view(name, verdict, market));
        Ok(json!({ "offers": rows, "found": fits.len(), "searched": catalogue.offers().len(), "providers": reasons.collect::<Vec<_>>() }))
    })
    .await
}

fn key<'a>(choice: &'a Choice<'_>) -> (u64, bool, u32, &'a str, &'a str, &'a str) {
    let offer = choice.offer;
    (choice.total.hourly().get(), choice.spot, offer.vcpus, &offer.provider, &offer.region, &offer.plan)
}

pub(crate) async fn estimate(
    State(state): State<AdminState>,
    wanted: Query_<Wanted>,
) -> Result<Json<Value>, ApiError> {
    let wanted = query(wanted)?;
    if let Some(name) = &wanted.provider {
        known_provider(name)?;
    }
    on_market(&state, move |market| {
        let asked = wanted.understand(market)?;
        let catalogue = market.catalogue()?;
        let placement = place(&catalogue, &asked.question(market, true)).map_err(|error| {
            let hint = format!("{}; `blueprint-hub offers` lists what there is", asked.way_out(&error));
            ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "nothing_fits", error.to_string(), hint)
        })?;
        Ok(estimated(&asked, &placement, market))
    })
    .await
}

fn estimated(asked: &Asked, placement: &Placement<'_>, market: &Market) -> Value {
    let report =
        |choice: &Choice<'_>| CostReport::of(choice, &asked.demand, market.usd_per_eur, &asked.terms);
    let plan = placement.plan.iter().map(|choice| {
        let mut shown = row(choice, market);
        if let (Some(fields), Some(report)) = (shown.as_object_mut(), report(choice)) {
            fields.insert("cost".to_owned(), cost(&report));
        }
        shown
    });
    let providers = placement.verdicts.iter().map(|(name, verdict)| {
        let mut shown = verdict_view(name, verdict, market);
        if let (Some(fields), Verdict::Fits { best, .. }) = (shown.as_object_mut(), verdict)
            && let Some(report) = report(best)
        {
            fields.insert("cost".to_owned(), cost(&report));
        }
        shown
    });
    let first = placement.plan.first();
    let pricing = first.and_then(|choice| Some((choice, report(choice)?))).map(|(choice, report)| {
        let rates = unit_rates(&asked.spec, report.final_hourly, choice.total.disk);
        let note = format!(
            "{} of {} in {}, {} US dollars an hour; {}.\nCopy it beside the pricing engine and start that again: it reads this file once.",
            choice.offer.plan, choice.offer.provider, choice.offer.region, report.final_hourly, freshness(choice.offer)
        );
        let units = rates.iter().map(|rate| {
            json!({ "kind": rate.kind, "count": rate.count, "pico_usd_per_second": rate.pico_usd })
        });
        json!({ "units": units.collect::<Vec<_>>(), "toml": pricing_toml(&rates, &note) })
    });
    json!({
        "target": match &placement.target {
            Target::Machines => "machines",
            Target::Local => "local",
            Target::Kubernetes(_) => "kubernetes",
        },
        "replicas": asked.terms.replicas,
        "hours": asked.terms.hours,
        "plan": plan.collect::<Vec<_>>(),
        "providers": providers.collect::<Vec<_>>(),
        "explained": asked.explained(market, asked.terms.replicas),
        "pricing": pricing,
    })
}

fn cost(report: &CostReport) -> Value {
    json!({
        "base_hourly": report.base.hourly().to_string(),
        "spot_discount": report.spot_discount.to_string(),
        "markup": report.markup.to_string(),
        "priority_premium": report.priority_premium.to_string(),
        "sla_cost": report.sla_cost.to_string(),
        "final_hourly": report.final_hourly.to_string(),
        "daily": report.final_hourly.times(24).to_string(),
        "total": report.total.to_string(),
        "monthly": report.monthly.to_string(),
        "billed_secs": report.billed_secs,
        "currency": "USD",
    })
}

fn currency(offer: &Offer) -> &'static str {
    match offer.currency {
        Currency::Usd => "USD",
        Currency::Eur => "EUR",
    }
}

fn gpu(gpu: &Gpu) -> Value {
    json!({ "kind": gpu.kind.as_str(), "name": gpu.to_string(), "count_millis": gpu.count_millis, "vram_mib": gpu.vram_mib })
}

fn row(choice: &Choice<'_>, market: &Market) -> Value {
    let offer = choice.offer;
    let listed = offer.spot.filter(|_| choice.spot).unwrap_or(offer.on_demand);
    json!({
        "provider": &*offer.provider,
        "configured": market.configured.contains(&*offer.provider),
        "plan": &*offer.plan,
        "region": &*offer.region,
        "area": area_of(&offer.provider, &offer.region).map(|area| area.name),
        "arch": offer.arch,
        "vcpus": offer.vcpus,
        "burstable": offer.is_burstable,
        "cpu_share": offer.cpu_share().code(),
        "cpu_promised_millis": offer.cpu_share().promised_millis(offer.vcpus),
        "memory_mib": offer.memory_mib,
        "disk_gb": offer.disk_gb,
        "gpu": offer.gpu.as_ref().map(gpu),
        "spot": choice.spot,
        "list_price": listed.to_string(),
        "currency": currency(offer),
        "hourly": choice.total.hourly().to_string(),
        "monthly": choice.total.monthly().to_string(),
        "parts": {
            "compute": choice.total.compute.to_string(),
            "disk": choice.total.disk.to_string(),
            "address": choice.total.address.to_string(),
            "egress": choice.total.egress.to_string(),
        },
        "price_kind": offer.kind,
        "price_of": offer.as_of.to_string(),
        "price_age_days": offer.as_of.days_until(today()),
        "price_source": &*offer.source,
        "freshness": freshness(offer),
    })
}

fn verdict_view(name: &str, verdict: &Verdict<'_>, market: &Market) -> Value {
    match verdict {
        Verdict::Fits { best, count } => {
            json!({ "provider": name, "fits": count, "best": row(best, market) })
        }
        Verdict::Nearest { offer, reason } => json!({
            "provider": name, "fits": 0, "code": reason.code(),
            "reason": format!("{} in {} {reason}", offer.plan, offer.region),
        }),
        Verdict::Closed { reason } => {
            json!({ "provider": name, "fits": 0, "code": reason.code(), "reason": reason.to_string() })
        }
    }
}

fn known_provider(name: &str) -> Result<(), ApiError> {
    if facts(name).is_some() {
        return Ok(());
    }
    let names: Vec<_> = providers().iter().map(|facts| facts.name).collect();
    Err(ApiError::not_found(format!("there is no provider {name:?}"), format!("one of {}", names.join(", "))))
}
