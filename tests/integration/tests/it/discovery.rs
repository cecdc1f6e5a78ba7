//! DNS of the overlay, asked with `dig` by machines and by the hub's own.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use blueprint_tests_support::{Host, Lab, Launch, Need, eventually_ok, require};

use crate::fixture::{Agent, CALL, Hub, Mode, SOON, Service, text};

/// Longest time between a change and the answers that know of it.
const SEEN: Duration = Duration::from_secs(2);

const POLICY: &str = r#"
[[grant]]
name = "web uses the databases"
from = ["web"]
to = ["db-1", "db-2"]
allow = ["tcp"]
"#;

/// What `dig` prints for a question to the hub's overlay address, sorted lines; its status where there is no answer.
fn dig(host: &Host, arguments: &[&str]) -> Result<Vec<String>> {
    ask(host, "@10.88.0.1", arguments)
}

fn ask(host: &Host, server: &str, arguments: &[&str]) -> Result<Vec<String>> {
    let options = ["+time=2", "+tries=3", "+norecurse", server];
    let run = |more: &[&str]| Launch::new("dig").on(host).args(options).args(arguments).args(more).run(CALL);
    let short = run(&["+short"])?;
    ensure!(short.code == Some(0), "dig {arguments:?}: {short:?}");
    let mut lines: Vec<String> = short.stdout.lines().map(str::to_owned).collect();
    lines.sort();
    if lines.is_empty() {
        let full = run(&[])?.stdout;
        let status = full.split("status: ").nth(1).and_then(|rest| rest.split(',').next());
        lines.push(status.context("no status")?.to_owned());
    }
    Ok(lines)
}

/// Waits for an answer.
fn dig_until(host: &Host, arguments: &[&str], wanted: &[&str], within: Duration) -> Result<()> {
    eventually_ok(within, &format!("{wanted:?} for {arguments:?}"), || {
        let found = dig(host, arguments)?;
        ensure!(found == wanted, "{found:?}");
        Ok(())
    })
}

fn address(hub: &Hub<'_>, node: &str) -> Result<String> {
    Ok(text(&hub.json(&["node", "show", node])?, "/node/address_v4")?.to_owned())
}

fn healthy(hub: &Hub<'_>) -> Result<u64> {
    let services = hub.json(&["service", "ls"])?;
    services.pointer("/services/0/healthy").and_then(serde_json::Value::as_u64).context("no count")
}

#[test]
fn names_are_told_to_those_that_may_reach_them_and_follow_health() -> Result<()> {
    if !require(&[Need::Program("dig"), Need::Device("/dev/net/tun")]) {
        return Ok(());
    }
    let Some(lab) = Lab::new()? else { return Ok(()) };
    for mode in [Mode::MachineDevices, Mode::Devices] {
        names(&lab, mode).with_context(|| format!("{mode:?}"))?;
    }
    Ok(())
}

fn names(lab: &Lab, mode: Mode) -> Result<()> {
    let label = |name: &str| format!("{name}{}", if mode == Mode::Devices { "d" } else { "" });
    let hosts = ["hub", "web", "dba", "dbb"].map(|name| lab.host(&label(name)));
    let [public, web_host, first_host, second_host] = hosts;
    let (public, web_host, first_host, second_host) = (public?, web_host?, first_host?, second_host?);
    let mut settings =
        vec!["discovery.dns_port=53", "discovery.dns_listen=127.0.0.1:5355", "session.heartbeat=1s"];
    settings.extend(mode.of_hub());
    let hub = Hub::start_on(&public, &public.address().to_string(), &settings)?;
    let web = Agent::join(Some(&web_host), "web", &hub.join_line(&[])?)?;
    let mut web = mode.of_machine().iter().fold(web, |agent, setting| agent.set(setting));
    web.run()?;
    let (mut first, mut greeter) = database(mode, &hub, &first_host, "db-1")?;
    let (mut second, mut second_service) = database(mode, &hub, &second_host, "db-2")?;
    let (one, two) = (address(&hub, "db-1")?, address(&hub, "db-2")?);
    let service = "s42.b7.bp.internal";

    // Whoever may not reach it learns nothing; the operator sees it.
    dig_until(&web_host, &[service], &["NXDOMAIN"], SOON)?;
    ensure!(dig(&web_host, &["db-1.node.bp.internal"])? == ["NXDOMAIN"]);
    ensure!(dig(&web_host, &["hub.bp.internal"])? == ["10.88.0.1"]);
    ensure!(dig(&web_host, &["example.org"])? == ["REFUSED"]);
    eventually_ok(SOON, "the operator's answer", || {
        let found = ask(&public, "@127.0.0.1", &["-p", "5355", service])?;
        ensure!(found == [one.as_str(), two.as_str()], "{found:?}");
        Ok(())
    })?;

    let set = hub.command(&["policy", "set", "-"])?.stdin(POLICY).run(CALL)?;
    ensure!(set.code == Some(0), "{set:?}");
    dig_until(&web_host, &[service], &[&one, &two], SEEN)?;
    ensure!(dig(&web_host, &["+tcp", service])? == [one.as_str(), two.as_str()]);
    ensure!(dig(&web_host, &["db-1.node.bp.internal"])? == [one.as_str()]);
    ensure!(dig(&web_host, &["-x", &one])? == ["db-1.node.bp.internal."]);
    let places = dig(&web_host, &["_blueprint._tcp.s42.b7.bp.internal", "SRV"])?;
    ensure!(places.len() == 2, "{places:?}");
    let place = places.iter().find(|place| place.ends_with(" db-1.node.bp.internal."));
    let port = place.and_then(|place| place.split(' ').nth(2)).with_context(|| format!("{places:?}"))?;
    ensure!(dig(&first_host, &["db-2.node.bp.internal"])? == ["NXDOMAIN"], "grants have a direction");
    ensure!(dig(&first_host, &["db-1.node.bp.internal"])? == [one.as_str()], "a machine knows itself");
    // What is named is what answers, by way of the tunnel.
    let url = format!("http://{one}:{port}/healthz");
    let got = Launch::new("curl").on(&web_host).args(["-sS", "-m", "5", &url]).run(CALL)?;
    ensure!(got.code == Some(0), "{got:?}");

    // A service that dies is not told any more, counted from its death.
    greeter.process.kill()?;
    dig_until(&web_host, &[service], &[&two], SEEN)?;
    ensure!(healthy(&hub)? == 1, "the hub's own word");
    // Nor is what was on a machine all of whose processes die.
    second.process()?.kill()?;
    second_service.process.kill()?;
    dig_until(&web_host, &[service], &["NOERROR"], SEEN)?;
    ensure!(healthy(&hub)? == 0, "the hub's own word");
    // Both are back as soon.
    second.run()?;
    let again = Service::start(Some(&second_host), "db-2")?;
    second.json(&["service", "rm", "7/42"])?;
    second.offer("7/42", again.address)?;
    dig_until(&web_host, &[service], &[&two], SOON)?;

    bounded(&hub, &web_host)?;
    first.process()?.terminate(SOON)?;
    Ok(())
}

/// A machine that may offer the service, and does.
fn database<'h>(mode: Mode, hub: &Hub<'_>, host: &'h Host, name: &str) -> Result<(Agent<'h>, Service)> {
    let agent = Agent::join(Some(host), name, &hub.join_line(&["--services", "7/42"])?)?;
    let mut agent = mode.of_machine().iter().fold(agent, |agent, setting| agent.set(setting));
    let service = Service::start(Some(host), name)?;
    agent.run()?;
    agent.offer("7/42", service.address)?;
    Ok((agent, service))
}

/// Who asks without end is cut short, and counted; who asks a little later is answered.
fn bounded(hub: &Hub<'_>, host: &Host) -> Result<()> {
    let question: Vec<u8> =
        [&[0x12, 0x34, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], b"\x03hub\x02bp\x08internal\x00\x00\x01\x00\x01"]
            .concat();
    let socket = host.enter(|| std::net::UdpSocket::bind(("0.0.0.0", 0)))??;
    let began_at = Instant::now();
    for number in 0..3000 {
        socket.send_to(&question, ("10.88.0.1", 53))?;
        if number % 50 == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    ensure!(began_at.elapsed() < CALL, "3000 questions took {:?}", began_at.elapsed());
    eventually_ok(SOON, "the count of what was refused", || {
        let page = hub.api(&blueprint_tests_support::http::Request::get("/metrics"))?.text();
        ensure!(page.contains("hub_dns_queries_total{result=\"too_many\"}"), "{page}");
        Ok(())
    })?;
    dig_until(host, &["hub.bp.internal"], &["10.88.0.1"], SOON)
}
