//! Nodes that reach nothing but their hub: programs that were pushed to it, and the operator's RPC behind it.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use blueprint_proto::v1::ArtefactRequest;
use blueprint_tests_support::http::Request;
use blueprint_tests_support::{Host, Lab, binary, eventually_ok, scratch};
use sha2::{Digest, Sha256};
use tonic::Code;

use super::is_possible;
use super::rig::{self, Node};
use super::stranger::{self, Spoke};
use crate::fixture::{Agent, CALL, Hub, SOON, rows, text};

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_pushed_artefact_runs_on_the_node_that_needs_it_and_no_other_gets_it() -> Result<()> {
    if !is_possible() {
        return Ok(());
    }
    let hub = Hub::start(&[])?;
    let one = Node::start(&hub, None, "one")?;
    let program = binary("blueprint-example-service")?;
    let content = std::fs::read(&program)?;
    let path = program.display().to_string();
    let pushed = hub.json(&["artefact", "push", &path])?;
    let digest = text(&pushed, "/sha256")?.to_owned();
    ensure!(digest == hex(&content) && pushed["is_new"] == true, "{pushed}");
    ensure!(text(&pushed, "/workload_run")?.ends_with(&digest), "{pushed}");
    ensure!(hub.json(&["artefact", "push", &path])?["is_new"] == false, "pushed twice");
    let shown = hub.command(&["artefact", "push", &path])?.run(CALL)?;
    ensure!(
        shown.stdout.contains("--url hub:// --sha256") && shown.stdout.contains(&digest),
        "{}",
        shown.stdout
    );

    let run = ["workload", "run", "7/42", "--url", "hub://", "--sha256", &digest, "--wait", "20s"];
    let running = hub.json(&[&run[..], &["--node", "one"]].concat())?;
    ensure!(text(&running, "/state")? == "running" && text(&running, "/source")? == "native", "{running}");
    hub.wait_served("42", &hub.access_token("7/42")?, SOON)?;
    let generation = running["generation"].as_u64().context("no generation")?;

    // Another machine, and the right one with another digest or an older assignment, get nothing.
    let other = Agent::join(None, "other", &hub.join_line(&[])?)?;
    let request = ArtefactRequest {
        blueprint_id: 7,
        service_id: 42,
        generation,
        sha256: Sha256::digest(&content).to_vec(),
        offset: 0,
    };
    let code = |agent: &Agent<'_>, request: &ArtefactRequest| -> Result<Code> {
        Ok(stranger::fetch(agent, request.clone())?.err().context("it was given")?.0)
    };
    ensure!(code(&other, &request)? == Code::PermissionDenied);
    let unnamed = ArtefactRequest { sha256: vec![7; 32], ..request.clone() };
    ensure!(code(&one.agent, &unnamed)? == Code::PermissionDenied);
    let unknown = ArtefactRequest { service_id: 43, ..request.clone() };
    ensure!(code(&one.agent, &unknown)? == Code::PermissionDenied);
    let older = ArtefactRequest { generation: generation.wrapping_sub(1), ..request.clone() };
    ensure!(code(&one.agent, &older)? == Code::Aborted);
    let odd = ArtefactRequest { sha256: vec![7; 31], ..request.clone() };
    ensure!(code(&one.agent, &odd)? == Code::InvalidArgument);
    let from = content.len().saturating_sub(100_000);
    let rest = ArtefactRequest { offset: u64::try_from(from)?, ..request };
    let given =
        stranger::fetch(&one.agent, rest)?.map_err(|(code, text)| anyhow::anyhow!("{code}: {text}"))?;
    ensure!(given == content[from..], "the rest of the file is not what was pushed");
    let audit = hub.audit()?.join("\n");
    for part in [
        format!("artefact.push {digest}"),
        "artefact.refuse 7/42 node other asked".to_owned(),
        "its workload does not name it".to_owned(),
    ] {
        ensure!(audit.contains(&part), "{part} is not in\n{audit}");
    }

    // It stays while it is named, unless the operator insists.
    let kept = hub.command(&["artefact", "rm", &digest])?.run(CALL)?;
    ensure!(kept.code == Some(5) && kept.stderr.contains("7/42"), "{:?} {}", kept.code, kept.stderr);
    let listed = hub.json(&["artefact", "ls"])?;
    ensure!(rows(&listed, "/artefacts/0/workloads")?.len() == 1, "{listed}");
    hub.json(&["artefact", "rm", &digest, "--force"])?;
    ensure!(rows(&hub.json(&["artefact", "ls"])?, "/artefacts")?.is_empty(), "it is still there");
    ensure!(hub.command(&["artefact", "rm", &digest])?.run(CALL)?.code == Some(3), "removed twice");

    // What was never pushed is said where the operator looks.
    hub.json(&["workload", "run", "7/44", "--url", "hub://", "--sha256", &"ab".repeat(32), "--node", "one"])?;
    eventually_ok(SOON, "the reason", || {
        let shown = hub.json(&["workload", "show", "7/44"])?;
        ensure!(text(&shown, "/reason")?.contains("blueprint-hub artefact push"), "{shown}");
        Ok(())
    })
}

#[test]
fn what_is_pushed_has_bounds_and_what_fails_leaves_nothing() -> Result<()> {
    let mut hub = Hub::start(&["artefacts.max_bytes=1MiB", "artefacts.max_total_bytes=1536KiB"])?;
    let folder = scratch("pushed")?;
    let file = |name: &str, bytes: usize| -> Result<String> {
        let path = folder.path().join(name);
        std::fs::write(&path, name.repeat(bytes).get(..bytes).unwrap_or_default())?;
        Ok(path.display().to_string())
    };
    let put = |digest: &str, body: Vec<u8>| {
        hub.api(&Request::new("PUT", &format!("/v1/artefacts/{digest}")).body(body))
    };
    let (first, second) = (file("a", 1 << 20)?, file("b", 1 << 20)?);
    hub.json(&["artefact", "push", &first])?;
    let full = hub.command(&["artefact", "push", &second])?.run(CALL)?;
    ensure!(full.code == Some(1) && full.stderr.contains("1.5 MiB"), "{}", full.stderr);
    let large = hub.command(&["artefact", "push", &file("c", (1 << 20) + 1)?])?.run(CALL)?;
    ensure!(large.code == Some(1) && large.stderr.contains("artefacts.max_bytes"), "{}", large.stderr);
    let folder_itself = folder.path().display().to_string();
    ensure!(hub.command(&["artefact", "push", &folder_itself])?.run(CALL)?.code == Some(2), "a folder");

    // Whoever asks the API directly is held to the same.
    let big = vec![3; 4 << 20];
    let answer = put(&hex(&big), big)?;
    ensure!(answer.status == 413 && answer.text().contains("too_large"), "{}", answer.text());
    let answer = put(&hex(b"good"), b"evil".to_vec())?;
    ensure!(answer.status == 400 && answer.text().contains(&hex(b"evil")), "{}", answer.text());
    let more = vec![4; 1 << 20];
    let answer = put(&hex(&more), more)?;
    ensure!(answer.status == 507 && answer.text().contains("\"full\""), "{}", answer.text());
    ensure!(put("../../x", Vec::new())?.status == 404 && put("zz", Vec::new())?.status == 400, "no digest");
    let kept: Vec<_> = std::fs::read_dir(hub.state().join("artefacts"))?.collect::<Result<_, _>>()?;
    ensure!(kept.len() == 1, "{kept:?}");

    hub.kill()?;
    hub.start_again()?;
    let listed = hub.json(&["artefact", "ls"])?;
    ensure!(rows(&listed, "/artefacts")?.len() == 1 && listed["total_bytes"] == 1 << 20, "{listed}");
    Ok(())
}

/// An HTTP server on the loopback of a host: it answers with the first line of the request, and its own name.
fn server(host: &Host, name: &'static str) -> Result<SocketAddr> {
    let listener = host.enter(|| TcpListener::bind("127.0.0.1:0"))??;
    let address = listener.local_addr()?;
    std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut reader = BufReader::new(&stream);
            let mut first = String::new();
            let _ = reader.read_line(&mut first);
            let mut line = String::new();
            while reader.read_line(&mut line).is_ok_and(|count| count > 2) {
                line.clear();
            }
            let body = format!("{name}: {}\n", first.trim_end());
            let head =
                format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            let _ = (&stream).write_all(format!("{head}{body}").as_bytes());
        }
    })?;
    Ok(address)
}

#[test]
fn an_rpc_url_of_loopback_leads_to_the_operator_and_nowhere_else() -> Result<()> {
    let Some(lab) = Lab::new()?.filter(|_| is_possible()) else { return Ok(()) };
    let hosts = [lab.host("hub")?, lab.host("one")?, lab.host("two")?];
    let [hub_host, one_host, two_host] = &hosts;
    let hub = Hub::start_on(hub_host, &hub_host.address().to_string(), &[])?;
    let (chain, secret) = (server(hub_host, "chain")?, server(hub_host, "secret")?);
    let mut one = Node::start(&hub, Some(one_host), "one")?;
    let program = rig::program(&one)?.display().to_string();
    let url = format!("http://localhost:{}/v1?key=a", chain.port());
    let run = ["workload", "run", "7/42", "--path", &program, "--node", "one", "--http-rpc-url", &url];
    let far = ["--ws-rpc-url", "wss://rpc.example.org", "--wait", "20s"];
    let running = hub.json(&[&run[..], &far[..]].concat())?;
    let generation = running["generation"].as_u64().context("no generation")?;
    let access = hub.access_token("7/42")?;
    hub.wait_served("42", &access, SOON)?;

    // The blueprint is told a port of its own node, with path and query, and the chain by what the operator said.
    let told = hub.get("42", &access, "/blueprint")?.json()?;
    let here = text(&told, "/env/HTTP_RPC_URL")?.to_owned();
    let place =
        here.strip_prefix("http://").and_then(|rest| rest.strip_suffix("/v1?key=a")).context("rewritten")?;
    let place: SocketAddr = place.parse()?;
    ensure!(place.ip().is_loopback() && text(&told, "/env/CHAIN")? == "local_testnet", "{told}");
    for _ in 0..3 {
        let answer = Request::get("/v1?key=a").send_from(one_host, place, CALL)?;
        ensure!(answer.text().starts_with("chain: GET /v1?key=a"), "{}", answer.text());
    }

    // Another machine gets nowhere through the same port, and no machine to another port of the hub.
    let rpc = 7446;
    let hub_at = SocketAddr::from((hub_host.address(), 51820));
    let line = |generation: u64, kind: &str| format!("bp-rpc/1 7/42 {generation} {kind}\n");
    let two = Agent::join(Some(two_host), "two", &hub.join_line(&[])?)?;
    let spoke = Spoke::start(&two, two_host, hub_at)?;
    for _ in 0..2 {
        let answer = spoke.ask(rpc, &line(generation, "http"), CALL)?;
        ensure!(answer.starts_with("refused") && answer.contains("not assigned"), "{answer}");
    }
    let answer = spoke.ask(rpc, "GET / HTTP/1.1\n", CALL)?;
    ensure!(answer.contains("refused the first line"), "{answer}");
    for port in [chain.port(), secret.port(), 22] {
        let asked = spoke.ask(port, "GET / HTTP/1.1\r\n\r\n", Duration::from_secs(1));
        ensure!(asked.is_err(), "port {port} of the hub answers: {asked:?}");
    }

    // The right node by itself: what its document does not name is refused, too.
    one.agent.process()?.kill()?;
    let spoke = Spoke::start(&one.agent, one_host, hub_at)?;
    let answer = spoke.ask(rpc, &line(generation, "ws"), CALL)?;
    ensure!(answer.contains("names no ws RPC"), "{answer}");
    let answer = spoke.ask(rpc, &line(generation.wrapping_sub(1), "http"), CALL)?;
    ensure!(answer.contains("has changed"), "{answer}");
    let answer = spoke.ask(rpc, &line(generation, "http"), CALL)?;
    ensure!(answer.starts_with("ok\n"), "{answer}");

    let audit = hub.audit()?;
    let refusals: Vec<_> = audit.iter().filter(|row| row.starts_with("rpc.refuse 7/42")).collect();
    ensure!(refusals.len() == 2, "once for each node and reason: {refusals:?}");
    Ok(())
}
