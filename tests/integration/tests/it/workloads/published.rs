//! The bridge as the Blueprint Manager's published client meets it.

use std::os::unix::fs::PermissionsExt;

use anyhow::{Context, Result, ensure};
use blueprint_tests_support::{Need, eventually_ok, free_port, require};

use super::is_possible;
use super::rig::Node;
use super::tls::{make, met};
use crate::fixture::{CALL, Hub, SOON};
use crate::owners::{Owner, token};

/// What each call of the client answers, in its order.
const ANSWERS: [&str; 15] = [
    "connect OK",
    "ping OK",
    "port OK",
    "port-again OK",
    "add-before FailedPrecondition",
    "register-other PermissionDenied",
    "register OK",
    "add OK",
    "remove OK",
    "tls OK",
    "tls-none OK",
    "unregister OK",
    "unregister-again FailedPrecondition",
    "register-with-tls OK",
    "done OK",
];

#[test]
#[ignore = "its client takes ten minutes to build: tests/published-bridge does, and runs this"]
fn the_managers_published_client_gets_what_it_was_promised() -> Result<()> {
    if !is_possible() || !require(&[Need::Program("curl"), Need::Program("openssl")]) {
        return Ok(());
    }
    let built = std::env::var("PUBLISHED_BRIDGE").context("PUBLISHED_BRIDGE: run tests/published-bridge")?;
    let port = free_port()?;
    let listen = format!("proxy.tls_listen=127.0.0.1:{port}");
    let hub = Hub::start(&[&listen, "proxy.tls=hub", "proxy.domain=bp.example"])?;
    let node = Node::start(&hub, None, "one")?;
    let program = node.folder("bin")?.join("published");
    std::fs::copy(&built, &program).with_context(|| built.clone())?;
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755))?;
    let files = node.folder("files")?;
    make(&files)?;
    let owner = Owner::new()?;
    let variables = [
        format!("PUBLISHED_OWNER={}", owner.public()),
        format!("PUBLISHED_CERTIFICATE={}", files.join("service.pem").display()),
        format!("PUBLISHED_KEY={}", files.join("service.key").display()),
    ];
    let path = program.display().to_string();
    let mut run = vec!["workload", "run", "7/42", "--path", &path];
    run.extend(variables.iter().flat_map(|variable| ["--env", variable]));
    hub.json(&run)?;
    eventually_ok(SOON, "all calls", || {
        let written = hub.command(&["logs", "7/42"])?.run(CALL)?.stdout;
        let is_said = |answer: &&&str| written.lines().any(|line| line.ends_with(&format!(" {answer}")));
        let missing: Vec<_> = ANSWERS.iter().filter(|answer| !is_said(answer)).collect();
        ensure!(missing.is_empty(), "{missing:?} in\n{written}");
        Ok(())
    })
    .with_context(|| node.agent.log())?;

    let access = token(&hub, &owner.api_key(&hub)?)?;
    let answer = hub.wait_served("42", &access, SOON)?;
    ensure!(answer.text() == "published", "{}", answer.text());
    met(&files, port, &access, SOON)?;
    Ok(())
}
