//! What one workload, or the agent behind it, may cause at its hub.

use std::net::{SocketAddr, TcpListener};

use anyhow::{Context, Result, ensure};
use blueprint_proto::blueprint_manager_bridge::UnregisterBlueprintServiceProxyRequest;
use blueprint_proto::v1::BridgeRequest;
use blueprint_proto::v1::bridge_request::Call;
use blueprint_tests_support::Lab;
use blueprint_tests_support::http::Request;
use tonic::Code;

use super::is_possible;
use super::rig::{self, Node};
use super::stranger::{self, Spoke};
use crate::fixture::{CALL, Hub};

#[test]
fn a_workload_has_a_part_of_its_nodes_connections_to_rpcs_and_silent_ones_are_cut() -> Result<()> {
    let Some(lab) = Lab::new()?.filter(|_| is_possible()) else { return Ok(()) };
    let hosts = [lab.host("hub")?, lab.host("one")?];
    let [hub_host, one_host] = &hosts;
    let address = hub_host.address().to_string();
    let hub = Hub::start_on(hub_host, &address, &["tunnel.rpc_idle_timeout=6s"])?;
    // It takes connections and says nothing, as a chain does between two blocks.
    let silent = hub_host.enter(|| TcpListener::bind("127.0.0.1:0"))??;
    let url = format!("http://localhost:{}", silent.local_addr()?.port());
    let mut one = Node::start(&hub, Some(one_host), "one")?;
    let program = rig::program(&one)?.display().to_string();
    let mut generations = Vec::new();
    for service in ["7/42", "7/43", "7/44", "7/45", "7/46"] {
        let run = ["workload", "run", service, "--path", &program, "--http-rpc-url", &url, "--wait", "20s"];
        let running = hub.json(&run)?;
        generations.push((service, running["generation"].as_u64().context("no generation")?));
    }
    one.agent.process()?.kill()?;
    let spoke = Spoke::start(&one.agent, one_host, SocketAddr::from((hub_host.address(), 51820)))?;
    let mut open = Vec::new();
    for (position, (service, generation)) in generations.iter().enumerate() {
        let line = format!("bp-rpc/1 {service} {generation} http\n");
        for _ in 0..if position < 4 { 32 } else { 0 } {
            let (stream, answer) = spoke.open(7446, &line, CALL)?;
            ensure!(answer == "ok\n", "{service}, {} are open: {answer}", open.len());
            open.push(stream);
        }
        let answer = spoke.ask(7446, &line, CALL)?;
        let why = if position < 3 { "has 32 connections" } else { "has 128 connections" };
        ensure!(answer.starts_with("refused") && answer.contains(why), "{service}: {answer}");
    }
    let metrics = hub.api(&Request::get("/metrics"))?.text();
    for (reason, count) in [("rpc_too_many_of_workload", 3), ("rpc_too_many", 2)] {
        let line = format!("hub_control_calls_refused_total{{reason=\"{reason}\"}} {count}");
        ensure!(metrics.contains(&line), "{line} is not in\n{metrics}");
    }
    for stream in &mut open {
        spoke.wait_for_end(stream)?;
    }
    let metrics = hub.api(&Request::get("/metrics"))?.text();
    let line = "hub_control_rpc_connections_cut_total{reason=\"idle\"} 128";
    ensure!(metrics.contains(line), "{line} is not in\n{metrics}");
    Ok(())
}

#[test]
fn a_bridge_that_is_called_without_end_is_refused_and_audited_once() -> Result<()> {
    if !is_possible() {
        return Ok(());
    }
    let hub = Hub::start(&[])?;
    let node = Node::start(&hub, None, "one")?;
    let program = rig::program(&node)?.display().to_string();
    for service in ["7/42", "7/43"] {
        hub.json(&["workload", "run", service, "--path", &program, "--test-mode", "--wait", "20s"])?;
    }
    let call = |service_id: u64| BridgeRequest {
        blueprint_id: 7,
        service_id,
        // Of another service than the bridge's: the hub refuses it, and does no more.
        call: Some(Call::Unregister(UnregisterBlueprintServiceProxyRequest { service_id: 99 })),
        strangers: 0,
    };
    let codes = stranger::bridge(&node.agent, (0..300).map(|_| call(42)).collect())?;
    let of = |code: Code| codes.iter().filter(|found| **found == code).count();
    let (denied, exhausted) = (of(Code::PermissionDenied), of(Code::ResourceExhausted));
    ensure!(denied >= 128 && exhausted >= 50 && denied + exhausted == 300, "{denied} {exhausted}");
    let other = stranger::bridge(&node.agent, vec![call(43)])?;
    ensure!(other == [Code::PermissionDenied], "another workload is not held up: {other:?}");
    let metrics = hub.api(&Request::get("/metrics"))?.text();
    let line = format!("hub_control_calls_refused_total{{reason=\"bridge_too_many\"}} {exhausted}");
    ensure!(metrics.contains(&line), "{line} is not in\n{metrics}");
    let audit = hub.audit()?;
    let rows: Vec<_> = audit.iter().filter(|row| row.starts_with("bridge.refuse")).collect();
    ensure!(rows.len() == 1, "once a minute for each node and reason: {rows:?}");
    Ok(())
}
