//! Orders of machines: how long it takes to choose one, and what the hub adds before its cloud is asked for it.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use blueprint_common_types::Micros;
use blueprint_hub_provision_core::catalogue::{Catalogue, Day};
use blueprint_hub_provision_core::lifecycle::{self, Dice};
use blueprint_hub_provision_core::placement::{Demand, Question, Strategy, place};
use blueprint_hub_provision_core::resource::ResourceSpec;
use http::Method;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::hub::{Hub, SOON};
use crate::report::Figure;
use crate::stats::{Spread, millis, percentile};

/// Specifications that are placed.
const SPECIFICATIONS: usize = 1000;

/// Orders that are timed after the first one.
const ORDERS: u32 = 10;

/// Pause between two looks at the folder of machines: no finer is what it can tell.
const LOOK: Duration = Duration::from_millis(1);

/// The promises (issue 6, "How it is judged"), in milliseconds.
const PLACEMENT_MS: f64 = 10.0;
const OVERHEAD_MS: f64 = 100.0;

/// Places specifications made from a seed over the catalogue that the hub is built with, by each strategy in turn.
///
/// # Errors
///
/// Fails where the catalogue cannot be read, or fits hardly anything.
pub(crate) fn placement() -> Result<Vec<Figure>> {
    let catalogue = Catalogue::embedded().context("the price list of the hub")?;
    let strategies = [Strategy::Cheapest, Strategy::FirstMatch, Strategy::Preferred(vec!["gcp".to_owned()])];
    let today: Day = "2026-11-22".parse().context("a day")?;
    let (mut dice, mut took, mut fit) = (Dice::new(11), Vec::new(), 0_usize);
    for (number, strategy) in (0..SPECIFICATIONS).zip(strategies.iter().cycle()) {
        let mut below = |most: u64| dice.below(most);
        let spec = ResourceSpec {
            cpu_millis: u32::try_from(250 + below(32_000))?,
            memory_bytes: (256 << 20) + below(128 << 30),
            storage_bytes: (1 << 30) + below(500 << 30),
            region: number
                .is_multiple_of(3)
                .then(|| if number.is_multiple_of(2) { "us" } else { "eu" }.to_owned()),
            ..ResourceSpec::default()
        };
        let demand = Demand::service(&spec);
        let question = Question {
            demand: &demand,
            replicas: u32::try_from(1 + number % 5)?,
            spread: lifecycle::Spread::None,
            strategy,
            max_hourly: number.is_multiple_of(4).then(|| Micros::new(50_000 + below(2_000_000))),
            configured: None,
            clusters: &[],
            usd_per_eur: Some(Micros::new(1_100_000)),
            today,
            max_age_days: None,
            reaches_ipv6: false,
            unavailable: &[],
        };
        let began = std::time::Instant::now();
        let placed = place(&catalogue, &question);
        took.push(began.elapsed());
        fit = fit.saturating_add(usize::from(placed.is_ok()));
    }
    ensure!(fit * 2 > SPECIFICATIONS, "only {fit} of {SPECIFICATIONS} fit anywhere");
    Ok(vec![
        Figure::of("orders.placement", "ms", Spread::of(took.iter().copied().map(millis)))
            .at_most(PLACEMENT_MS),
        Figure::once("orders.placement_p99", "ms", millis(percentile(&took, 99))).at_most(PLACEMENT_MS),
        Figure::once("orders.placement_longest", "ms", millis(percentile(&took, 100))).at_most(PLACEMENT_MS),
    ])
}

/// From the request for a machine of the simulated cloud until that cloud has begun to make it: first of a hub that has just
/// started, then of one that has read its price list.
///
/// # Errors
///
/// Fails where no machine is made.
pub(crate) async fn overhead(folder: &Path) -> Result<Vec<Figure>> {
    let settings = ["hub.advertise=127.0.0.1", "providers.sim.enabled=true"];
    let hub = Hub::start_with(folder, &settings).await?;
    let machines = folder.join("hub/sim/machines");
    let first = order(&hub, &machines, 0).await?;
    let mut others = Vec::new();
    for number in 1..=ORDERS {
        others.push(millis(order(&hub, &machines, number).await?));
    }
    hub.end().await?;
    Ok(vec![
        Figure::once("orders.first_overhead", "ms", millis(first)).at_most(OVERHEAD_MS),
        Figure::of("orders.overhead", "ms", Spread::of(others)).at_most(OVERHEAD_MS),
    ])
}

/// Orders one, says how long it took until its folder was there, and ends it.
async fn order(hub: &Hub, machines: &Path, number: u32) -> Result<Duration> {
    let body = json!({
        "request_key": format!("bench-{number}"), "replicas": 1, "machine": { "provider": "sim", "cpu": "1" },
    });
    let began = Instant::now();
    let asked = hub.ask(Method::POST, "/v1/deployments", Some(body));
    let seen = async {
        while count(machines) == 0 {
            ensure!(began.elapsed() < SOON, "no machine of the simulated cloud was made");
            sleep(LOOK).await;
        }
        Ok(began.elapsed())
    };
    let (answer, took) = tokio::join!(asked, seen);
    let (answer, took) = (answer?, took?);
    let id = answer.pointer("/deployment/id").and_then(Value::as_str).context("an id")?;
    hub.ask(Method::DELETE, &format!("/v1/deployments/{id}"), None).await?;
    let ends = Instant::now();
    while count(machines) > 0 {
        ensure!(ends.elapsed() < SOON, "the machine does not end");
        sleep(LOOK).await;
    }
    Ok(took)
}

fn count(machines: &Path) -> usize {
    std::fs::read_dir(machines).map_or(0, Iterator::count)
}
