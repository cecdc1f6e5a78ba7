//! What a hub tells of its clients' requests, and what it refuses for its own sake.

use std::io::Write;
use std::net::TcpStream;

use anyhow::{Context, Result, ensure};
use blueprint_tests_support::eventually_ok;
use blueprint_tests_support::http::Request;
use serde_json::Value;

use crate::fixture::{CALL, Hub, SOON, Spoke, rows, text};

fn number(value: &Value, pointer: &str) -> Result<u64> {
    value
        .pointer(pointer)
        .and_then(Value::as_u64)
        .with_context(|| format!("no number at {pointer} of {value}"))
}

/// The lines of the access log so far, as JSON.
fn access(hub: &Hub<'_>) -> Vec<Value> {
    let log = hub.log();
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["target"] == "access").collect()
}

#[test]
fn requests_are_written_summed_and_refusals_audited() -> Result<()> {
    let mut hub = Hub::start(&["log.format=json"])?;
    let _spoke = Spoke::start(&hub, None, "seen", "7/42")?;
    let token = hub.access_token("7/42")?;
    hub.wait_served("42", &token, SOON)?;
    let before = hub.json(&["service", "usage", "7/42"])?;
    for _ in 0..10 {
        // The example has no such page; what it says about that is an answer like any other.
        ensure!(hub.get("42", &token, "/a/../b?secret=1")?.status == 404, "the service answers");
    }
    let id = "an-id-of-the-clients-own";
    let refused = Request::get("/").bearer(&token).header("x-service-id", "7/43").header("x-request-id", id);
    let refused = hub.request(&refused)?;
    ensure!(refused.status == 403 && refused.text().contains(id), "{}", refused.text());

    let line = eventually_ok(SOON, "the lines of the access log", || {
        let lines = access(&hub);
        let served = lines.iter().filter(|line| line["path"] == "/b" && line["status"] == 404).count();
        ensure!(served == 10, "{served} lines");
        lines.into_iter().find(|line| line["request_id"] == id).context("no line of the refused one")
    })?;
    ensure!(line["refused"] == "service_not_allowed" && line["auth"] == "token", "{line}");
    ensure!(!hub.log().contains(&token) && !hub.log().contains("secret=1"), "no secret in the log");

    let after = hub.json(&["service", "usage", "7/42"])?;
    let grown = number(&after, "/requests")? - number(&before, "/requests")?;
    ensure!(grown == 10 && number(&after, "/by_key/0/requests")? == number(&after, "/requests")?, "{after}");

    // Rows are written each minute, and at the end.
    hub.process.terminate(CALL)?;
    hub.start_again()?;
    let kept = hub.json(&["service", "usage", "7/42"])?;
    for pointer in ["/requests", "/by_key/0/requests", "/by_key/0/key", "/bytes_out", "/since"] {
        ensure!(kept.pointer(pointer) == after.pointer(pointer), "{pointer}: {after} became {kept}");
    }
    let found = hub.json(&["audit", "show", "--kind", "request.refuse", "--since", "1h"])?;
    let details: Vec<_> = rows(&found, "/rows")?.iter().filter_map(|row| text(row, "/detail").ok()).collect();
    let expected = "service_not_allowed: 1 request from 127.0.0.1, the last with ";
    ensure!(details.iter().any(|detail| detail.starts_with(expected)), "{details:?}");

    let check = hub.json(&["audit", "verify"])?;
    ensure!(check["intact"] == true && number(&check, "/rows")? > 3, "{check}");
    let head = text(&check, "/head")?.to_owned();
    hub.json(&["access", "create", "--service", "7/42"])?;
    let check = hub.json(&["audit", "verify", "--seen", &head])?;
    ensure!(
        check["intact"] == true && number(&check, "/seen_at")? + 1 == number(&check, "/rows")?,
        "{check}"
    );
    let other = hub.command(&["audit", "verify", "--seen", &"ab".repeat(32)])?.run(CALL)?;
    ensure!(other.code == Some(1) && other.stderr.contains("was replaced"), "{}", other.stderr);
    Ok(())
}

#[test]
fn a_hub_that_is_short_of_memory_says_so_and_keeps_its_operator() -> Result<()> {
    let hub = Hub::start(&["memory.limit=4MiB"])?;
    eventually_ok(SOON, "a hub that refuses", || {
        ensure!(hub.log().contains("short of memory"), "{}", hub.log());
        Ok(())
    })?;
    let mut refused = TcpStream::connect(hub.proxy())?;
    refused.write_all(b"GET / HTTP/1.1\r\nHost: hub\r\n\r\n")?;
    ensure!(std::io::Read::read(&mut refused, &mut [0; 64]).unwrap_or(0) == 0, "an answer");
    let metrics = hub.api(&Request::get("/metrics"))?.text();
    ensure!(metrics.contains("hub_memory_refuses 1"), "{metrics}");
    ensure!(metrics.contains("hub_proxy_connections_cut_total{reason=\"overloaded\"} 1"), "{metrics}");
    Ok(())
}

#[test]
fn a_hub_without_files_left_goes_on_once_it_has_some_again() -> Result<()> {
    let mut hub = Hub::start(&[])?;
    let _spoke = Spoke::start(&hub, None, "files", "7/42")?;
    let token = hub.access_token("7/42")?;
    hub.wait_served("42", &token, SOON)?;
    let pid = hub.process.pid().to_string();
    let used = std::fs::read_dir(format!("/proc/{pid}/fd"))?.count();
    let limit = format!("--nofile={}", used + 20);
    let lowered = std::process::Command::new("prlimit").args(["--pid", &pid, &limit]).status()?;
    ensure!(lowered.success(), "prlimit: {lowered}");

    let held = (0..100).map(|_| TcpStream::connect(hub.proxy())).collect::<Result<Vec<_>, _>>()?;
    eventually_ok(SOON, "an accept that fails", || {
        ensure!(hub.log().contains("accept failed"), "{}", hub.log());
        Ok(())
    })?;
    ensure!(hub.process.is_running(), "the hub ended:\n{}", hub.log());
    drop(held);
    hub.wait_served("42", &token, std::time::Duration::from_secs(1))?;
    let lines = hub.log().matches("accept failed").count();
    ensure!(lines < 5, "{lines} lines in the log about one thing");
    let status = hub.json(&["status"])?;
    ensure!(number(&status, "/clients/connections")? < 20, "{status}");
    Ok(())
}
