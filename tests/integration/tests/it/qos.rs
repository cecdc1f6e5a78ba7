//! Quality of service: the Blueprint SDK's protocol inside the tunnel and on the hub's host, history that outlives a killed
//! hub, objectives, and signed reports.

mod foreign;
mod pages;
mod recipe;
mod whole;

use std::future::{Ready, ready};
use std::net::SocketAddr;
use std::task::{Context as Wake, Poll};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use blueprint_proto::qos::qos_metrics_client::QosMetricsClient;
use blueprint_proto::qos::{
    GetBlueprintMetricsRequest, GetHistoricalMetricsRequest, GetResourceUsageRequest, GetStatusRequest,
    MetricsType,
};
use blueprint_tests_support::{Host, Lab, Need, eventually_ok, require, scratch};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

use crate::fixture::{Agent, CALL, Hub, Mode, SOON, Spoke, rows, text};
use crate::say::pass;

const POLICY: &str = r#"
[[grant]]
name = "the manager watches"
from = ["manager"]
to = ["worker"]
allow = ["tcp"]
"#;

/// A stream that is open already.
pub(crate) struct Opened(Option<std::net::TcpStream>);

impl Opened {
    /// This stream.
    pub(crate) const fn of(stream: std::net::TcpStream) -> Self {
        Self(Some(stream))
    }
}

impl tower_service::Service<http::Uri> for Opened {
    type Response = TokioIo<TcpStream>;
    type Error = std::io::Error;
    type Future = Ready<std::io::Result<Self::Response>>;

    fn poll_ready(&mut self, _: &mut Wake<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Uri) -> Self::Future {
        let stream = self.0.take().ok_or_else(|| std::io::ErrorKind::NotConnected.into());
        let stream = stream.and_then(|stream| {
            stream.set_nonblocking(true)?;
            TcpStream::from_std(stream)
        });
        ready(stream.map(TokioIo::new))
    }
}

/// What a program on a host asks.
struct Asker<'h> {
    host: &'h Host,
    at: SocketAddr,
    runtime: tokio::runtime::Runtime,
}

impl<'h> Asker<'h> {
    fn new(host: &'h Host, at: &str) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { host, at: at.parse()?, runtime })
    }

    /// Asks once over a connection of its own.
    fn ask<T>(
        &self,
        call: impl AsyncFnOnce(QosMetricsClient<Channel>) -> Result<T, tonic::Status>,
    ) -> Result<Result<T, tonic::Status>> {
        let stream = self.host.connect(self.at, CALL)?;
        self.runtime.block_on(async {
            let endpoint = Endpoint::from_static("http://hub.test").timeout(CALL);
            let channel = endpoint.connect_with_connector(Opened(Some(stream))).await?;
            Ok(call(QosMetricsClient::new(channel)).await)
        })
    }

    fn status(&self, service_id: u64) -> Result<Result<u32, Code>> {
        let ask = GetStatusRequest { blueprint_id: 7, service_id };
        let answer = self.ask(async move |mut client| client.get_status(ask).await)?;
        Ok(answer.map(|answer| answer.into_inner().status_code).map_err(|status| status.code()))
    }
}

/// All four answers about the service of the worker.
fn four(asker: &Asker<'_>) -> Result<()> {
    let (blueprint_id, service_id) = (7, 42);
    let status = asker
        .ask(async move |mut client| client.get_status(GetStatusRequest { blueprint_id, service_id }).await)??
        .into_inner();
    ensure!(status.status_code == 0, "{status:?}");
    ensure!((status.blueprint_id, status.service_id) == (7, 42), "{status:?}");
    ensure!(
        status.start_time > 1_700_000_000 && status.timestamp - status.start_time == status.uptime,
        "{status:?}"
    );
    ensure!(status.last_heartbeat.is_some_and(|at| at.abs_diff(status.timestamp) < 10), "{status:?}");

    let usage = GetResourceUsageRequest { blueprint_id, service_id };
    let usage = asker.ask(async move |mut client| client.get_resource_usage(usage).await)??.into_inner();
    ensure!((0.0..=100.0).contains(&usage.cpu_usage), "{usage:?}");
    ensure!(usage.memory_usage > 100_000 && usage.memory_usage < usage.total_memory, "{usage:?}");
    ensure!(usage.disk_usage > 0 && usage.disk_usage <= usage.total_disk, "{usage:?}");
    ensure!(usage.network_rx_bytes > 0 && usage.network_tx_bytes > 0, "{usage:?}");
    ensure!(usage.timestamp.abs_diff(status.timestamp) < 10, "{usage:?}");

    let page = GetBlueprintMetricsRequest { blueprint_id, service_id };
    let page = asker.ask(async move |mut client| client.get_blueprint_metrics(page).await)??.into_inner();
    ensure!(page.custom_metrics.keys().any(|name| name.starts_with("example_")), "{page:?}");
    ensure!(page.timestamp.abs_diff(status.timestamp) < 20, "{page:?}");

    let past = |metrics_type: MetricsType, most: u32| GetHistoricalMetricsRequest {
        blueprint_id,
        service_id,
        max_data_points: most,
        start_time: Some(status.timestamp - 3600),
        end_time: Some(status.timestamp + 60),
        metrics_type: metrics_type.into(),
    };
    let ask = past(MetricsType::System, 0);
    let system = asker.ask(async move |mut client| client.get_historical_metrics(ask).await)??.into_inner();
    let last = system.system_metrics.last().context("no history of the machine's figures")?;
    ensure!(last.memory_usage > 100_000 && last.total_memory > last.memory_usage, "{last:?}");
    ensure!(last.total_disk > 0 && last.network_rx_bytes > 0 && last.timestamp % 60 == 0, "{last:?}");
    ensure!(system.blueprint_metrics.is_empty());
    let ask = past(MetricsType::Blueprint, 2);
    let said = asker.ask(async move |mut client| client.get_historical_metrics(ask).await)??.into_inner();
    ensure!((1..=2).contains(&said.blueprint_metrics.len()), "{} points", said.blueprint_metrics.len());
    let known = said
        .blueprint_metrics
        .iter()
        .all(|point| point.custom_metrics.keys().any(|it| it.starts_with("example_")));
    ensure!(known && said.system_metrics.is_empty());

    let mut backwards = past(MetricsType::System, 0);
    backwards.end_time = Some(1);
    let refused = asker.ask(async move |mut client| client.get_historical_metrics(backwards).await)?;
    ensure!(refused.is_err_and(|status| status.code() == Code::InvalidArgument));
    ensure!(asker.status(43)? == Err(Code::NotFound), "a service that is none");
    Ok(())
}

/// Milliseconds that the history of a command says.
fn total(hub: &Hub<'_>, arguments: &[&str], field: &str) -> Result<u64> {
    let answer = hub.json(&[&["qos", "history"], arguments].concat())?;
    Ok(rows(&answer, "/points")?.iter().filter_map(|point| point.get(field)?.as_u64()).sum())
}

#[test]
fn the_sdks_clients_are_answered_by_policy_and_history_outlives_a_killed_hub() -> Result<()> {
    if !require(&[Need::Device("/dev/net/tun"), Need::Program("openssl")]) {
        return Ok(());
    }
    let Some(lab) = Lab::new()? else { return Ok(()) };
    let (public, worker_host) = (lab.host("hub")?, lab.host("worker")?);
    let (manager_host, other_host) = (lab.host("manager")?, lab.host("other")?);
    let settings = [
        "session.heartbeat=1s",
        "session.target_ttl=3s",
        "qos.write_every=1s",
        "qos.metrics_every=1s",
        "qos.listen=127.0.0.1:9615",
    ];
    let mode = Mode::MachineDevices;
    let mut hub = Hub::start_on(&public, &public.address().to_string(), &settings)?;
    let worker = Spoke::start_in(mode, &hub, Some(&worker_host), "worker", "7/42")?;
    let mut machines = Vec::new();
    for (name, host) in [("manager", &manager_host), ("other", &other_host)] {
        let agent = Agent::join(Some(host), name, &hub.join_line(&[])?)?;
        let mut agent = mode.of_machine().iter().fold(agent, |agent, setting| agent.set(setting));
        agent.run()?;
        machines.push(agent);
    }
    let overlay = "10.88.0.1:9615";
    let (manager, other) = (Asker::new(&manager_host, overlay)?, Asker::new(&other_host, overlay)?);
    let (own, local) = (Asker::new(&worker_host, overlay)?, Asker::new(&public, "127.0.0.1:9615")?);

    // Default deny: a machine is told of what it serves, the hub's host of everything, others of nothing.
    eventually_ok(SOON, "all four answers on the hub's host", || four(&local)).with_context(|| hub.log())?;
    eventually_ok(SOON, "all four answers on the machine that serves it", || four(&own))?;
    for asker in [&manager, &other] {
        eventually_ok(SOON, "an answer inside the tunnel", || {
            ensure!(asker.status(42)? == Err(Code::NotFound));
            Ok(())
        })?;
    }
    let set = hub.command(&["policy", "set", "-"])?.stdin(POLICY).run(CALL)?;
    ensure!(set.code == Some(0), "{set:?}");
    eventually_ok(SOON, "all four answers by a grant", || four(&manager))?;
    ensure!(other.status(42)? == Err(Code::NotFound), "without a grant");

    eventually_ok(SOON, "some seconds of history", || {
        for (arguments, least) in [(["7/42", "--from=1h"], 3000), (["--node=worker", "--from=1h"], 3000)] {
            ensure!(total(&hub, &arguments, "up_ms")? >= least, "{arguments:?}");
            ensure!(total(&hub, &arguments, "samples")? >= 3, "{arguments:?}");
        }
        Ok(())
    })?;
    let before = [["7/42", "--from=1h"], ["--node=worker", "--from=1h"], ["--tunnel=worker", "--from=1h"]];
    let figures = |hub: &Hub<'_>| -> Result<Vec<u64>> {
        let mut figures = Vec::new();
        for arguments in &before {
            figures.push(total(hub, arguments, "up_ms")?);
            figures.push(total(hub, arguments, "samples")?);
        }
        Ok(figures)
    };
    let known = figures(&hub)?;
    hub.kill()?;
    // Some seconds without a hub, which agents measure.
    pass(Duration::from_secs(6))?;
    hub.start_again()?;
    let found = eventually_ok(SOON, "the history after the restart", || figures(&hub))?;
    ensure!(
        found.iter().zip(&known).all(|(found, known)| found >= known),
        "{known:?} before, {found:?} after"
    );
    eventually_ok(SOON, "all four answers after the restart", || four(&manager))
        .with_context(|| hub.log())?;

    came_late(&hub)?;
    samples_are_there(&local)?;
    objectives_and_reports(&hub)?;
    months_of_a_machine(&hub)?;
    down_is_down(&hub, worker, &local)
}

/// The time without the hub is what agents measured meanwhile, in the months of the service and its machine; a tunnel has none.
fn came_late(hub: &Hub<'_>) -> Result<()> {
    eventually_ok(SOON, "what came late", || {
        for (of, least) in
            [(&["7/42"][..], 4000), (&["--node", "worker"], 4000), (&["--tunnel", "worker"], 0)]
        {
            let report = hub.json(&[&["qos", "report"], of].concat())?;
            let total = |name: &str| {
                report.pointer(&format!("/report/total/{name}")).and_then(Value::as_u64).context("no figure")
            };
            let (up, down) = (total("late_up_ms")?, total("late_down_ms")?);
            ensure!(up >= least && (least > 0 || up + down == 0), "{of:?}: {report}");
        }
        Ok(())
    })
    .with_context(|| hub.log())
}

/// Single samples of before the restart, and not rows of minutes, answer for the last half hour.
fn samples_are_there(asker: &Asker<'_>) -> Result<()> {
    let status = GetStatusRequest { blueprint_id: 7, service_id: 42 };
    let now = asker.ask(async move |mut client| client.get_status(status).await)??.into_inner().timestamp;
    let ask = GetHistoricalMetricsRequest {
        blueprint_id: 7,
        service_id: 42,
        max_data_points: 0,
        start_time: Some(now - 1800),
        end_time: None,
        metrics_type: MetricsType::System.into(),
    };
    let found = asker.ask(async move |mut client| client.get_historical_metrics(ask).await)??.into_inner();
    let seconds: Vec<u64> = found.system_metrics.iter().map(|point| point.timestamp).collect();
    ensure!(seconds.len() >= 5 && seconds.is_sorted(), "{seconds:?}");
    ensure!(seconds.iter().any(|second| second % 60 != 0), "rows of minutes: {seconds:?}");
    Ok(())
}

/// A machine and its tunnel have objectives and signed months of their own.
fn months_of_a_machine(hub: &Hub<'_>) -> Result<()> {
    hub.json(&["qos", "objective", "set", "--node", "worker", "99.5"])?;
    hub.json(&["qos", "objective", "set", "--tunnel", "worker", "95"])?;
    let set = hub.json(&["qos", "objective", "ls"])?;
    let told: Vec<_> = rows(&set, "/objectives")?
        .iter()
        .map(|row| (row["kind"].as_str(), row["name"].as_str(), row["objective"].as_str()))
        .collect();
    let worker = Some("worker");
    ensure!(told == [(Some("node"), worker, Some("99.5")), (Some("tunnel"), worker, Some("95"))], "{set}");
    ensure!(hub.audit()?.iter().any(|row| row.starts_with("objective.set node ")), "not audited");
    let shown = hub.json(&["qos", "show", "--node", "worker"])?;
    ensure!(
        text(&shown, "/machine/objective")? == "99.5" && text(&shown, "/tunnel/objective")? == "95",
        "{shown}"
    );

    let folder = scratch("months")?;
    for of in ["--node", "--tunnel"] {
        for options in [&[][..], &["--csv"], &["--output", "json"]] {
            let made = hub.command(&[&["qos", "report", of, "worker"], options].concat())?.run(CALL)?;
            ensure!(made.code == Some(0) && made.stdout.contains("worker"), "{of} {options:?}: {made:?}");
            let file = folder.path().join("report");
            std::fs::write(&file, &made.stdout)?;
            let verified = hub.command(&["qos", "verify", &file.display().to_string()])?.run(CALL)?;
            ensure!(verified.code == Some(0), "{of} {options:?}: {verified:?}");
        }
    }
    hub.json(&["qos", "objective", "rm", "--tunnel", "worker"])?;
    let again = hub.command(&["qos", "objective", "rm", "--tunnel", "worker"])?.run(CALL)?;
    ensure!(again.code == Some(3) && again.stderr.contains("has no objective of its own"), "{again:?}");
    let none = hub.command(&["qos", "report", "--node", "nobody"])?.run(CALL)?;
    ensure!(none.code == Some(3), "{none:?}");
    Ok(())
}

/// An objective is set and audited; reports verify, and no longer once a byte is another.
fn objectives_and_reports(hub: &Hub<'_>) -> Result<()> {
    let wrong = hub.command(&["qos", "objective", "set", "7/42", "100.1"])?.run(CALL)?;
    ensure!(wrong.code == Some(2) && wrong.stderr.contains("objective"), "{wrong:?}");
    hub.json(&["qos", "objective", "set", "7/42", "99.95"])?;
    let set = hub.json(&["qos", "objective", "ls"])?;
    ensure!(text(&set, "/objectives/0/objective")? == "99.95" && text(&set, "/default")? == "99.9", "{set}");
    ensure!(hub.audit()?.iter().any(|row| row == "objective.set 7/42 99.95 %"), "not audited");

    let folder = scratch("reports")?;
    let key = folder.path().join("hub.pem");
    let pem = hub.command(&["qos", "key"])?.run(CALL)?;
    ensure!(pem.stdout.starts_with("-----BEGIN PUBLIC KEY-----"), "{pem:?}");
    std::fs::write(&key, &pem.stdout)?;
    let (pem, key) = (pem.stdout, key.display().to_string());
    for (name, options) in [("text", &[][..]), ("csv", &["--csv"]), ("json", &["--output", "json"])] {
        let made = hub.command(&[&["qos", "report", "7/42"], options].concat())?.run(CALL)?;
        ensure!(made.code == Some(0) && made.stdout.contains("99.95"), "{name}: {made:?}");
        let file = folder.path().join(name);
        std::fs::write(&file, &made.stdout)?;
        let path = file.display().to_string();
        let verified = hub.command(&["qos", "verify", &path, "--key", &key])?.run(CALL)?;
        ensure!(verified.code == Some(0), "{name}: {verified:?}");
        let verified = hub.command(&["qos", "verify", &path])?.run(CALL)?;
        ensure!(verified.code == Some(0), "{name}, with the hub's own key: {verified:?}");
        std::fs::write(&file, made.stdout.replacen("99.95", "99.85", 1))?;
        let changed = hub.command(&["qos", "verify", &path, "--key", &key])?.run(CALL)?;
        ensure!(changed.code == Some(4) && changed.stderr.contains("was changed"), "{name}: {changed:?}");
        if name != "json" {
            recipe::check(&made.stdout, &pem).with_context(|| format!("{name} by OpenSSL"))?;
        } else {
            let report: Value = serde_json::from_str(&made.stdout).context("a signed report is JSON")?;
            ensure!(report.pointer("/report/total/up_ms").and_then(Value::as_u64) >= Some(3000), "{report}");
            ensure!(text(&report, "/signature/alg")? == "EdDSA", "{report}");
        }
    }
    hub.json(&["qos", "objective", "rm", "7/42"])?;
    let none = hub.command(&["qos", "report", "9/9"])?.run(CALL)?;
    ensure!(none.code == Some(3), "{none:?}");
    Ok(())
}

/// A service that ended is unhealthy, and its time is down.
fn down_is_down(hub: &Hub<'_>, mut worker: Spoke<'_>, asker: &Asker<'_>) -> Result<()> {
    worker.service.process.kill()?;
    eventually_ok(SOON, "an unhealthy service", || {
        ensure!(asker.status(42)? == Ok(1));
        ensure!(total(hub, &["7/42", "--from=1h"], "down_ms")? >= 1000);
        Ok(())
    })?;
    let shown = hub.json(&["qos", "show", "7/42"])?;
    ensure!(text(&shown, "/state")? == "unhealthy", "{shown}");
    let used = shown.pointer("/budget/used_ms").and_then(Value::as_u64);
    ensure!(used >= Some(1000), "{shown}");
    Ok(())
}
