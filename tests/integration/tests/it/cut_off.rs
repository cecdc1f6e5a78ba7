//! An agent that is cut off from its hub for an hour: nothing of what it sampled or what its workload wrote is missing.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use blueprint_tests_support::http::Request;
use blueprint_tests_support::{Lab, Need, eventually_ok, require, scratch};
use serde_json::Value;

use crate::fixture::{Agent, CALL, Environment, Hub, SOON, Service, rows, text};

/// Time until everything is delivered.
const DELIVERED: Duration = Duration::from_secs(40);

/// How far the clock is moved at once, and how often; together somewhat more than an hour.
const STRIDE_SECS: u64 = 50;
const STRIDES: u64 = 74;

/// Wall clocks of processes that are moved while they run; the time that passes stays what it is.
struct Clock {
    file: PathBuf,
    moved_secs: u64,
}

impl Clock {
    fn new(folder: &Path) -> Result<Self> {
        let mut clock = Self { file: folder.join("clock"), moved_secs: 0 };
        clock.advance(0)?;
        Ok(clock)
    }

    fn environment(&self) -> Result<Environment> {
        let folders = [
            "/usr/lib/x86_64-linux-gnu/faketime",
            "/usr/lib/aarch64-linux-gnu/faketime",
            "/usr/lib/faketime",
        ];
        let library = folders.iter().map(|folder| Path::new(folder).join("libfaketimeMT.so.1"));
        let library = library.into_iter().find(|path| path.exists()).context("no libfaketimeMT.so.1")?;
        Ok(vec![
            ("LD_PRELOAD", library.display().to_string()),
            ("FAKETIME_TIMESTAMP_FILE", self.file.display().to_string()),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ])
    }

    fn advance(&mut self, secs: u64) -> Result<()> {
        self.moved_secs += secs;
        let beside = self.file.with_extension("new");
        std::fs::write(&beside, format!("+{}\n", self.moved_secs))?;
        Ok(std::fs::rename(beside, &self.file)?)
    }
}

fn minute(point: &Value) -> Result<u64> {
    Ok(point["at"].as_u64().with_context(|| format!("no time in {point}"))? / 60_000)
}

#[test]
fn an_hour_without_the_hub_is_delivered_afterwards_without_a_gap() -> Result<()> {
    if !require(&[Need::Program("faketime"), Need::Root]) {
        return Ok(());
    }
    let folder = scratch("clock")?;
    let mut clock = Clock::new(folder.path())?;
    let mut hub = Hub::start_with(&["session.heartbeat=1s"], clock.environment()?)?;
    let mut agent = Agent::join(None, "cut-off", &hub.join_line(&[])?)?
        .within(clock.environment()?)
        .set("workload.testing=true")
        .set(&format!("workload.data_dir={}", folder.path().join("data").display()));
    agent.run()?;
    let address = agent.observe()?;
    let path = counts(folder.path())?;
    hub.json(&["workload", "run", "7/42", "--path", &path, "--test-mode", "--wait", "20s"])?;
    let qos = format!("/v1/nodes/{}/qos?points=100000", agent.id());
    let first = eventually_ok(SOON, "a first sample", || {
        let told = hub.api(&Request::get(&qos))?.json()?;
        minute(&told["latest"])
    })?;

    hub.kill()?;
    // The clock goes on once a sample was kept, so that no minute is passed over.
    let kept = |address| -> Result<f64> {
        let page = Request::get("/metrics").send(address, CALL)?.text();
        let line = page.lines().find_map(|line| line.strip_prefix("agent_samples_backlog_bytes "));
        Ok(line.context("no size of the backlog")?.parse()?)
    };
    let mut before = 0.0;
    for _ in 0..STRIDES {
        before = eventually_ok(SOON, "a sample that is kept", || {
            let now = kept(address)?;
            ensure!(now > before, "{now} bytes");
            Ok(now)
        })?;
        clock.advance(STRIDE_SECS)?;
    }
    hub.start_again()?;
    let back = eventually_ok(SOON, "a new sample, which waits for none of the old", || {
        let told = hub.api(&Request::get(&qos))?.json()?;
        minute(&told["latest"])
    })?;
    ensure!(back >= first + 60, "the clock was moved by {} minutes", back - first);

    let told = eventually_ok(DELIVERED, "every minute of the hour", || {
        let told = hub.api(&Request::get(&qos))?.json()?;
        let minutes = rows(&told, "/history")?.iter().map(minute).collect::<Result<BTreeSet<_>>>()?;
        let missing: Vec<u64> =
            (first + 1..=back).filter(|minute| !minutes.contains(minute)).map(|m| m - first).collect();
        ensure!(missing.is_empty(), "minutes without a sample: {missing:?}");
        Ok(told)
    })?;
    let times: Vec<u64> = rows(&told, "/history")?.iter().filter_map(|point| point["at"].as_u64()).collect();
    ensure!(times.is_sorted(), "{times:?}");

    every_line_is_there(&hub, "7/42")
}

/// A script that writes a numbered line each second.
fn counts(folder: &Path) -> Result<String> {
    let script = folder.join("counts");
    std::fs::write(&script, "#!/bin/sh\ni=0\nwhile :; do i=$((i+1)); echo \"line $i\"; sleep 1; done\n")?;
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    std::fs::set_permissions(folder, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    Ok(script.display().to_string())
}

/// Every line that was written meanwhile is there, with a time of its own.
fn every_line_is_there(hub: &Hub<'_>, service: &str) -> Result<()> {
    let logs = hub.command(&["logs", service, "--output", "json"])?.run(CALL)?.stdout;
    let lines: Vec<Value> = logs.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let numbers: Vec<u64> = lines
        .iter()
        .filter_map(|line| line["text"].as_str().and_then(|text| text.strip_prefix("line "))?.parse().ok())
        .collect();
    ensure!(numbers.len() > 60 && numbers.iter().copied().eq((1..).take(numbers.len())), "{numbers:?}");
    let times: Vec<&str> = lines.iter().map(|line| text(line, "/time")).collect::<Result<_>>()?;
    let seconds: BTreeSet<&str> = times.iter().filter_map(|time| time.get(..19)).collect();
    ensure!(times.is_sorted() && seconds.len() > 60, "the lines have the time of their delivery: {logs}");
    Ok(())
}

/// Minutes of a history, with samples.
fn sampled(hub: &Hub<'_>, of: &str, first: u64) -> Result<BTreeSet<u64>> {
    let path = format!("/v1/{of}/qos/history?step=minute&points=10000&from={}", first * 60_000);
    let told = hub.api(&Request::get(&path))?.json()?;
    let points = rows(&told, "/points")?.iter();
    points.filter(|point| point["samples"].as_u64() > Some(0)).map(minute).collect()
}

/// The hub runs on while nothing passes; afterwards it is killed before it stored what it was given on the stream.
#[test]
fn an_hour_without_the_way_to_a_hub_that_runs_is_in_its_history_also_after_it_was_killed() -> Result<()> {
    if !require(&[Need::Program("faketime"), Need::Root]) {
        return Ok(());
    }
    let Some(lab) = Lab::new()? else { return Ok(()) };
    let (public, host) = (lab.host("hub")?, lab.host("worker")?);
    let folder = scratch("clock")?;
    let mut clock = Clock::new(folder.path())?;
    let settings = ["session.heartbeat=1s", "session.target_ttl=3s", "qos.write_every=5m"];
    let mut hub = Hub::start_within(&public, &public.address().to_string(), &settings, clock.environment()?)?;
    let mut agent = Agent::join(Some(&host), "cut-off", &hub.join_line(&[])?)?
        .within(clock.environment()?)
        .set("workload.testing=true")
        .set(&format!("workload.data_dir={}", folder.path().join("data").display()));
    let service = Service::start(Some(&host), "offered")?;
    agent.run()?;
    agent.offer("7/42", service.address)?;
    let address = agent.observe()?;
    let path = counts(folder.path())?;
    hub.json(&["workload", "run", "7/43", "--path", &path, "--test-mode", "--wait", "20s"])?;
    let qos = format!("/v1/nodes/{}/qos?points=1", agent.id());
    let newest = |hub: &Hub<'_>| -> Result<u64> {
        let told = hub.api(&Request::get(&qos))?.json()?;
        ensure!(!rows(&told, "/latest/services")?.is_empty(), "no sample of the service: {told}");
        minute(&told["latest"])
    };
    let first = eventually_ok(SOON, "a first sample", || newest(&hub))?;

    host.cut()?;
    let kept = || -> Result<f64> {
        let page = Request::get("/metrics").send_from(&host, address, CALL)?.text();
        let line = page.lines().find_map(|line| line.strip_prefix("agent_samples_backlog_bytes "));
        Ok(line.context("no size of the backlog")?.parse()?)
    };
    let mut before = 0.0;
    for _ in 0..STRIDES {
        before = eventually_ok(SOON, "a sample that is kept", || {
            let now = kept()?;
            ensure!(now > before, "{now} bytes");
            Ok(now)
        })?;
        clock.advance(STRIDE_SECS)?;
    }
    let offered = hub.json(&["service", "ls"])?;
    ensure!(
        rows(&offered, "/services")?.iter().all(|row| row["healthy"] == 0),
        "it is served still: {offered}"
    );
    host.heal()?;
    let back = eventually_ok(DELIVERED, "a new sample", || {
        let back = newest(&hub)?;
        ensure!(back >= first + 60, "{back} is the minute of before");
        Ok(back)
    })?;

    hub.kill()?;
    hub.start_again()?;
    let node = format!("nodes/{}", agent.id());
    eventually_ok(DELIVERED, "every minute of the hour", || {
        for of in ["services/7/42", node.as_str()] {
            let minutes = sampled(&hub, of, first)?;
            let missing: Vec<u64> =
                (first..=back).filter(|minute| !minutes.contains(minute)).map(|m| m - first).collect();
            ensure!(missing.is_empty(), "{of}: minutes without a sample: {missing:?}");
        }
        Ok(())
    })
    .with_context(|| format!("the agent: {}", agent.log()))?;
    every_line_is_there(&hub, "7/43")
}
