//! Carriers: left when they fall silent, taken again when they work, forced and forbidden.

use std::io::{Read, Write, copy};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use blueprint_tests_support::http::Request;
use blueprint_tests_support::{Fault, Host, Lab, eventually_ok};

use super::rig::{HUB_NAME, Hosts, Rig};
use crate::fixture::{Agent, CALL, Hub, Mode, SOON, json_of, rows, text};
use crate::say::say;

/// From the first lost packet to another carrier: 3 s, and the noise of a machine that runs other things too.
const LEFT_WITHIN: Duration = Duration::from_secs(5);
/// From the carrier's working again to its use.
const CLIMBED_WITHIN: Duration = Duration::from_secs(60);
/// An answer of many full packets.
const LARGE_BYTES: usize = 3_000_000;
/// Longest pause of a stream over a change of carriers.
const PAUSE: Duration = Duration::from_secs(5);

/// The carrier by which the hub reaches a machine, and where.
fn carrier(hub: &Hub<'_>, name: &str) -> Result<(String, String)> {
    let nodes = hub.api(&Request::get("/v1/nodes"))?.json()?;
    let node = rows(&nodes, "/nodes")?.iter().find(|row| text(row, "/name").is_ok_and(|is| is == name));
    let node = node.with_context(|| format!("no {name} in {nodes}"))?;
    Ok((text(node, "/tunnel/carrier")?.to_owned(), text(node, "/tunnel/endpoint")?.to_owned()))
}

/// Waits until hub and agent both say that this carrier is in use; how long that took.
fn wait_for(hub: &Hub<'_>, agent: &Agent<'_>, wanted: &str, within: Duration) -> Result<Duration> {
    let begin = Instant::now();
    eventually_ok(within, wanted, || {
        let (carrier, _) = carrier(hub, agent.name())?;
        ensure!(carrier == wanted, "the hub says {carrier}");
        let status = agent.json(&["status"])?;
        ensure!(text(&status, "/data_plane/carrier")? == wanted, "{status}");
        Ok(())
    })
    .with_context(|| format!("--- agent\n{}\n--- hub\n{}", agent.log(), hub.log()))?;
    Ok(begin.elapsed())
}

#[test]
fn carriers_are_left_when_they_fall_silent_and_climbed_back_to_without_a_flow_lost() -> Result<()> {
    let Some(lab) = Lab::new()? else { return Ok(()) };
    let hosts = Hosts::new(&lab)?;
    let rig = Rig::start(&hosts, Mode::Netstack, &[])?;
    let agent = &rig.one.spoke.agent;
    wait_for(&rig.hub, agent, "udp", SOON)?;
    let flow = rig.flow(&rig.one)?;
    for (fault, wanted) in [(Fault::NoWireGuard, "quic"), (Fault::NoUdp, "tls")] {
        hosts.one.spoil(fault)?;
        let took = wait_for(&rig.hub, agent, wanted, LEFT_WITHIN)?;
        say(format_args!("{fault:?}: {wanted} after {took:.3?}"));
        let begin = Instant::now();
        rig.fetch(&rig.one, LARGE_BYTES).with_context(|| rig.logs())?;
        say(format_args!("{LARGE_BYTES} bytes over {wanted} in {:.3?}", begin.elapsed()));
        flow.wait_while_it_flows(Duration::from_secs(2))?;
    }
    hosts.one.heal()?;
    let took = wait_for(&rig.hub, agent, "udp", CLIMBED_WITHIN)?;
    say(format_args!("healed: udp after {took:.3?}"));
    flow.wait_while_it_flows(Duration::from_secs(6))?;
    let seen = flow.finish().with_context(|| rig.logs())?;
    say(format_args!("{} pieces, longest pause {:.3?}", seen.pieces, seen.longest_pause));
    ensure!(seen.longest_pause < PAUSE, "the stream paused for {:?}\n{}", seen.longest_pause, rig.logs());
    wait_for(&rig.hub, agent, "udp", Duration::from_secs(1))?;
    rig.ensure_same()
}

#[test]
fn a_carrier_is_forced_by_configuration_and_netcheck_tries_them_all() -> Result<()> {
    let Some(lab) = Lab::new()? else { return Ok(()) };
    let (hub_host, machine) = (lab.host("hub")?, lab.host("one")?);
    let hub = Hub::start_on(&hub_host, &hub_host.address().to_string(), &[])?;
    let agent = Agent::join(Some(&machine), "one", &hub.join_line(&[])?)?;
    // Beside an agent that does not run.
    let report = agent.json(&["netcheck"])?;
    let of = |report: &serde_json::Value, field: &str| -> Result<Vec<String>> {
        rows(report, "/carriers")?
            .iter()
            .map(|row| Ok(row.get(field).context("no such field")?.to_string()))
            .collect()
    };
    ensure!(of(&report, "carrier")? == ["\"udp\"", "\"udp\"", "\"quic\"", "\"tls\""], "{report}");
    ensure!(of(&report, "reachable")?.iter().all(|is| is == "true"), "{report}");
    for forced in ["quic", "tls", "udp"] {
        let mut agent = Agent::join(Some(&machine), forced, &hub.join_line(&[])?)?
            .set(&format!("tunnel.carriers={forced}"));
        agent.run()?;
        let took = wait_for(&hub, &agent, forced, SOON)?;
        say(format_args!("forced {forced}: up after {took:.3?}"));
        let finished = agent.command(&["netcheck"])?.args(["--output", "json"]).run(CALL)?;
        let report = json_of(&finished)?;
        ensure!(of(&report, "reachable")?.iter().all(|is| is == "true"), "{report}");
        ensure!(of(&report, "in_use")?.iter().filter(|is| *is == "true").count() == 1, "{report}");
        wait_for(&hub, &agent, forced, SOON)?;
    }
    machine.spoil(Fault::NoUdp)?;
    let finished = agent.command(&["netcheck"])?.args(["--output", "json"]).run(SOON)?;
    ensure!(finished.code == Some(1), "{finished:?}");
    let report: serde_json::Value = serde_json::from_str(&finished.stdout)?;
    ensure!(of(&report, "reachable")? == ["false", "false", "false", "true"], "{report}");
    Ok(())
}

#[test]
fn the_tls_carrier_and_the_control_stream_pass_an_http_proxy() -> Result<()> {
    let Some(lab) = Lab::new()? else { return Ok(()) };
    let (hub_host, machine, proxy) = (lab.host("hub")?, lab.host("one")?, lab.host("proxy")?);
    lab.set_name(HUB_NAME, &[IpAddr::V4(hub_host.address())]);
    let hub = Hub::start_on(&hub_host, HUB_NAME, &[])?;
    let address = connect_proxy(&proxy, SocketAddr::from((hub_host.address(), 7443)))?;
    let mut agent = Agent::join(Some(&machine), "one", &hub.join_line(&[])?)?
        .set(&format!("tunnel.proxy=http://{address}"));
    machine.spoil(Fault::NoUdp)?;
    agent.run()?;
    wait_for(&hub, &agent, "tls", SOON)?;
    let (_, endpoint) = carrier(&hub, "one")?;
    ensure!(endpoint.starts_with(&format!("{}:", proxy.address())), "{endpoint} is not the proxy");
    Ok(())
}

/// A proxy on `host` that connects everybody to `hub`, whatever name they say.
fn connect_proxy(host: &Host, hub: SocketAddr) -> Result<SocketAddr> {
    let address = SocketAddr::from((host.address(), 3128));
    host.enter(move || -> Result<()> {
        let listener = TcpListener::bind(address)?;
        // Threads started here stay in the namespace; they end with the test's process.
        std::thread::Builder::new().name("proxy".to_owned()).spawn(move || {
            for client in listener.incoming().flatten() {
                let relay =
                    std::thread::Builder::new().name("relay".to_owned()).spawn(move || relay(client, hub));
                drop(relay);
            }
        })?;
        Ok(())
    })??;
    Ok(address)
}

fn relay(mut client: TcpStream, hub: SocketAddr) -> Result<()> {
    let mut head = Vec::new();
    let mut byte = [0; 1];
    while !head.ends_with(b"\r\n\r\n") {
        client.read_exact(&mut byte)?;
        head.extend_from_slice(&byte);
    }
    ensure!(head.starts_with(b"CONNECT hub.test:7443 HTTP/1.1\r\n"), "{}", String::from_utf8_lossy(&head));
    let upstream = TcpStream::connect(hub)?;
    client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")?;
    let (mut from_client, mut to_hub) = (client.try_clone()?, upstream.try_clone()?);
    let up = std::thread::Builder::new().spawn(move || copy(&mut from_client, &mut to_hub));
    let (mut from_hub, mut to_client) = (upstream, client);
    let _ = copy(&mut from_hub, &mut to_client);
    drop(up);
    Ok(())
}
