//! A workload that runs and does not get well: restarted, deployed anew, moved, and then left with an alarm.

use std::time::Duration;

use anyhow::{Result, ensure};
use blueprint_tests_support::http::Request;
use blueprint_tests_support::{eventually_ok, scratch};
use serde_json::{Value, json};

use super::is_possible;
use super::rig::{Artefact, Node};
use crate::fixture::{CALL, Hub, SOON, rows, text};

/// Time for all rungs of two nodes, of a second and a few pauses each.
const RUNGS: Duration = Duration::from_secs(60);

/// A document whose check fails, since the path answers 200, with short rungs.
fn document(moves_per_hour: u32) -> Value {
    json!({
        "health": {
            "check": "http:204:/healthz",
            "pace": { "interval_secs": 1, "fall": 2 },
            "recovery": {
                "patience_secs": 1, "restarts": 1, "redeploys": 1, "moves_per_hour": moves_per_hour, "settled_secs": 600,
            },
        },
    })
}

fn events(hub: &Hub<'_>) -> Result<Vec<(String, String, String)>> {
    let told = hub.json(&["workload", "events", "7/42"])?;
    let row = |row: &Value| {
        let node = row["node"].as_str().unwrap_or("-").to_owned();
        Ok((text(row, "/kind")?.to_owned(), node, text(row, "/reason")?.to_owned()))
    };
    rows(&told, "/events")?.iter().map(row).collect()
}

#[test]
fn one_that_stays_unhealthy_is_restarted_deployed_anew_moved_once_and_then_degraded() -> Result<()> {
    if !is_possible() {
        return Ok(());
    }
    let mut hub = Hub::start(&[])?;
    let _nodes = (Node::start(&hub, None, "one")?, Node::start(&hub, None, "two")?);
    let (artefact, folder) = (Artefact::serve()?, scratch("recovery")?);
    let file = folder.path().join("workload.json");
    std::fs::write(&file, document(3).to_string())?;
    let (url, file) = (artefact.url(), file.display().to_string());
    hub.json(&["workload", "run", "7/42", "--url", &url, "--sha256", &artefact.sha256(), "--file", &file])?;

    let degraded = || {
        let shown = hub.json(&["workload", "show", "7/42"])?;
        ensure!(text(&shown, "/state")? == "degraded", "{shown} {:?}", events(&hub)?);
        Ok(shown)
    };
    let shown = eventually_ok(RUNGS, "the end of all rungs", degraded)?;
    ensure!(text(&shown, "/reason")?.starts_with("unhealthy: answers 200; no other node"), "{shown}");
    ensure!(shown["asks_move"] == true && text(&shown, "/health")? == "unhealthy", "{shown}");

    let told = events(&hub)?;
    let kinds: Vec<&str> = told.iter().map(|(kind, _, _)| kind.as_str()).collect();
    let rungs = ["restart", "redeploy", "ask-move"];
    let wanted = [&["placed"], &rungs[..], &["fail-over"], &rungs[..], &["degraded"]].concat();
    ensure!(kinds == wanted, "{told:#?}");
    let (first, second) = (&told[1].1, &told[5].1);
    ensure!(first != second && told[4].1 == *first, "{told:#?}");
    ensure!(told[1].2 == "unhealthy for 1 s: answers 200", "{told:#?}");
    ensure!(told[4].2.ends_with("unhealthy for 1 s: answers 200"), "{told:#?}");
    ensure!(text(&shown, "/node")? == second, "{shown}");
    ensure!(rows(&shown, "/events")?.len() == 9, "{shown}");
    // It is alarmed, and what is degraded runs on.
    let audit = hub.audit()?.join("\n");
    ensure!(audit.contains("workload.degrade 7/42"), "{audit}");
    let page = hub.api(&Request::get("/metrics"))?.text();
    ensure!(page.contains("hub_workload_degraded 1"), "{page}");
    ensure!(page.contains("hub_workload_recovery_steps_total{kind=\"redeploy\"} 2"), "{page}");
    let table = hub.command(&["workload", "events", "7/42"])?.run(CALL)?.stdout;
    ensure!(table.contains("AT") && table.contains("fail-over"), "{table}");

    // The next hub knows what was done, and does nothing of it again.
    hub.kill()?;
    hub.start_again()?;
    eventually_ok(SOON, "the same from the next hub", || {
        let shown = hub.json(&["workload", "show", "7/42"])?;
        ensure!(text(&shown, "/state")? == "degraded" && text(&shown, "/node")? == second, "{shown}");
        Ok(())
    })?;
    ensure!(events(&hub)? == told, "{:#?}", events(&hub)?);
    Ok(())
}
