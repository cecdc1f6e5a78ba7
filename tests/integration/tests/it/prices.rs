//! Prices that providers tell: asked for, kept over a kill, and not believed where they cannot be.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, ensure};
use blueprint_common_types::Timestamp;
use blueprint_hub_provision_core::catalogue::Catalogue;
use blueprint_tests_support::eventually_ok;
use blueprint_tests_support::http::Request;
use serde_json::{Value, json};

use crate::fixture::{CALL, Hub, SOON, rows, text};

/// A stand-in for every provider: it knows what Vultr and AWS sell, as long as it has a price, and nothing else.
struct StandIn {
    price: Arc<Mutex<Option<f64>>>,
    settings: Vec<String>,
}

impl StandIn {
    fn start(price: f64) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let url = format!("http://{}", listener.local_addr()?);
        let price = Arc::new(Mutex::new(Some(price)));
        let told = Arc::clone(&price);
        std::thread::Builder::new().spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { continue };
                let mut head = [0u8; 4096];
                let count = stream.read(&mut head).unwrap_or(0);
                let head = String::from_utf8_lossy(head.get(..count).unwrap_or_default()).into_owned();
                let price = *told.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                let path = head.split(' ').nth(1).unwrap_or_default();
                let body = answer(path, price).map(|body| body.to_string());
                // AWS, whose stand-in breaks off in the middle below a price of 0.01.
                let is_aws = path == "/offers/v1.0/aws/AmazonEC2/current/us-east-1/index.csv";
                let body = body.or_else(|| is_aws.then(|| csv(price)).flatten());
                let status = if body.is_some() { "200 OK" } else { "503 Service Unavailable" };
                let mut body = body.unwrap_or_default();
                let length = body.len();
                if is_aws && price.is_some_and(|price| price < 0.01) {
                    body.truncate(length / 2);
                }
                let _ = write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n{body}");
            }
        })?;
        let names = ["aws", "vultr", "linode", "scaleway", "azure"];
        let settings = names.map(|name| format!("prices.{name}_endpoint={url}")).to_vec();
        Ok(Self { price, settings })
    }

    fn settings<'a>(&'a self, more: &[&'a str]) -> Vec<&'a str> {
        self.settings.iter().map(String::as_str).chain(more.iter().copied()).collect()
    }

    fn tell(&self, price: Option<f64>) {
        *self.price.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = price;
    }
}

fn answer(path: &str, price: Option<f64>) -> Option<Value> {
    let meta = json!({"total": 1, "links": {"next": "", "prev": ""}});
    if path.starts_with("/v2/plans-metal?") {
        return Some(json!({"plans_metal": [], "meta": meta}));
    }
    let plan = |id: &str, price: f64| json!({"id": id, "vcpu_count": 2, "ram": 4096, "disk": 80, "hourly_cost": price, "locations": ["ewr"]});
    let plans = json!({"plans": [plan("vc2-2c-4gb", price?), plan("vc2-free", 0.0)], "meta": meta});
    path.starts_with("/v2/plans?").then_some(plans)
}

/// AWS's public list, in the columns that count: what is known of us-east-1 at its known price, and `m7g.large` at this one.
fn csv(price: Option<f64>) -> Option<String> {
    let price = price?;
    let row = |plan: &str, price: &str, system: &str| {
        format!(
            "\"S\",\"OnDemand\",\"Hrs\",\"{price}\",\"USD\",\"AWS Region\",\"{plan}\",\"Shared\",\"{system}\",\"RunInstances\",\
             \"Used\",\"NA\",\"us-east-1\"\n"
        )
    };
    let all = Catalogue::embedded().ok()?;
    let here = all.offers().iter().filter(|offer| &*offer.provider == "aws" && &*offer.region == "us-east-1");
    let rows: String = here
        .filter(|offer| &*offer.plan != "m7g.large")
        .map(|offer| row(&offer.plan, &offer.on_demand.to_string(), "Linux"))
        .collect();
    // The list of this day, as AWS's are.
    let today = Timestamp::from(std::time::SystemTime::now());
    Some(format!(
        "\"FormatVersion\",\"v1.0\"\n\"Publication Date\",\"{today}\"\n\"OfferCode\",\"AmazonEC2\"\n\"SKU\",\"TermType\",\"Unit\",\
         \"PricePerUnit\",\"Currency\",\"Location Type\",\"Instance Type\",\"Tenancy\",\"Operating System\",\"operation\",\
         \"CapacityStatus\",\"Pre Installed S/W\",\"Region Code\"\n{}{}{rows}",
        row("m7g.large", &format!("{price:.10}"), "Linux"),
        row("m7g.large", "9.0000000000", "Windows"),
    ))
}

/// What the hub knows of the plan: its price, and how old that is.
fn known(hub: &Hub<'_>) -> Result<(String, String)> {
    let found = hub.json(&["offers", "--provider", "vultr", "--region", "ewr", "--limit", "1000"])?;
    let rows = rows(&found, "/offers")?;
    let row = rows.iter().find(|row| row["plan"] == "vc2-2c-4gb").context("the plan is offered")?;
    ensure!(rows.iter().all(|row| row["plan"] != "vc2-free"), "nothing is for nothing");
    Ok((text(row, "/hourly")?.to_owned(), text(row, "/freshness")?.to_owned()))
}

#[test]
fn prices_are_asked_for_kept_over_a_kill_and_stay_where_nobody_answers() -> Result<()> {
    let vultr = StandIn::start(0.031)?;
    let mut hub = Hub::start(&vultr.settings(&[]))?;
    let (built_in, freshness) = known(&hub)?;
    ensure!(built_in != "0.031" && freshness.contains("specification"), "{built_in} {freshness}");

    let asked = hub.json(&["prices", "refresh", "vultr"])?;
    let list = rows(&asked, "/prices")?.first().context("a list")?;
    ensure!(list["rows"] == 1 && list["left_out"]["zero_price"] == 1, "{list}");
    ensure!(known(&hub)? == ("0.031".to_owned(), "asked today".to_owned()));
    let estimate =
        hub.json(&["estimate-cost", "--provider", "vultr", "--region", "ewr", "--min-cpu", "2"])?;
    ensure!(text(&estimate, "/plan/0/price_kind")? == "cached", "{estimate}");

    // A price that cannot be meant, and a provider that is down: what was known stays, and why is told.
    for (price, word) in [(Some(0.000_031), "no row that can be believed"), (None, "503")] {
        vultr.tell(price);
        let finished = hub.command(&["prices", "refresh", "vultr"])?.run(SOON)?;
        ensure!(finished.code != Some(0) && finished.stderr.contains(word), "{word}: {}", finished.stderr);
        ensure!(known(&hub)?.0 == "0.031");
    }
    let unknown = hub.command(&["prices", "refresh", "nowhere"])?.run(CALL)?;
    ensure!(unknown.code == Some(3) && unknown.stderr.contains("linode"), "{}", unknown.stderr);

    hub.kill()?;
    hub.start_again()?;
    ensure!(known(&hub)?.0 == "0.031", "what was answered is on the disk");
    Ok(())
}

#[test]
fn lists_are_renewed_where_that_is_asked_for() -> Result<()> {
    let vultr = StandIn::start(0.033)?;
    let hub = Hub::start(&vultr.settings(&["prices.every=1h"]))?;
    eventually_ok(SOON, "the price of Vultr is asked for", || {
        ensure!(known(&hub)?.0 == "0.033");
        let listed = hub.json(&["prices", "ls"])?;
        let failed = rows(&listed, "/prices")?.iter().filter(|row| !row["error"].is_null()).count();
        ensure!(failed == 3, "the others but AWS do not answer: {listed}");
        Ok(())
    })?;
    let metrics = hub.api(&Request::get("/metrics"))?.text();
    for line in [
        "hub_provision_price_lists_asked_total{provider=\"vultr\",result=\"ok\"} 1\n",
        "hub_provision_price_lists_asked_total{provider=\"linode\",result=\"failed\"} 1\n",
        "hub_provision_price_list_renewed_timestamp_seconds{provider=\"vultr\"} ",
    ] {
        ensure!(metrics.contains(line), "{line} in {metrics}");
    }
    Ok(())
}

/// What the hub knows of a machine of AWS: its price, how old that is, and who said so.
fn of_aws(hub: &Hub<'_>) -> Result<[String; 3]> {
    let asked =
        ["offers", "--provider", "aws", "--region", "us-east-1", "--arch", "arm64", "--limit", "1000"];
    let found = hub.json(&asked)?;
    let rows = rows(&found, "/offers")?;
    let row = rows.iter().find(|row| row["plan"] == "m7g.large").context("the plan is offered")?;
    Ok([
        text(row, "/list_price")?.to_owned(),
        text(row, "/freshness")?.to_owned(),
        text(row, "/price_source")?.to_owned(),
    ])
}

#[test]
fn prices_of_aws_are_asked_for_without_an_account_and_half_a_list_changes_nothing() -> Result<()> {
    let aws = StandIn::start(0.0777)?;
    let hub = Hub::start(&aws.settings(&[]))?;
    let [built_in, freshness, _] = of_aws(&hub)?;
    ensure!(built_in != "0.0777" && freshness.contains("2026-07-20"), "{built_in} {freshness}");
    let asked = hub.json(&["prices", "refresh", "aws"])?;
    let list = rows(&asked, "/prices")?.first().context("a list")?;
    ensure!(list["rows"].as_u64() > Some(1000) && list["regions"] == 1, "{list}");
    let [price, freshness, source] = of_aws(&hub)?;
    ensure!(price == "0.0777" && freshness == "asked today", "{price} {freshness}");
    ensure!(source.starts_with("aws price list of 20"), "{source}");

    for (told, word) in [(Some(0.005), "broke off"), (None, "503")] {
        aws.tell(told);
        let finished = hub.command(&["prices", "refresh", "aws"])?.run(SOON)?;
        ensure!(finished.code != Some(0) && finished.stderr.contains(word), "{word}: {}", finished.stderr);
        ensure!(of_aws(&hub)?[0] == price);
    }
    // Where the account is asked, or nobody is, nobody asks the list.
    let off = Hub::start(&aws.settings(&["prices.aws_regions=off"]))?;
    let finished = off.command(&["prices", "refresh", "aws"])?.run(CALL)?;
    ensure!(finished.code == Some(3) && finished.stderr.contains("vultr"), "{}", finished.stderr);
    Ok(())
}
