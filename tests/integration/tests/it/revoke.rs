//! `node rm`: the machine is a stranger at once, also in the middle of a request.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use blueprint_tests_support::http::Request;
use blueprint_tests_support::{Host, Lab, eventually, eventually_ok};

use crate::fixture::{CALL, Hub, Mode, SOON, Spoke, rows, text};

/// Longest time from the command to its effect.
const AT_ONCE: Duration = Duration::from_secs(2);

/// Exit code of what is denied.
const DENIED: i32 = 4;

#[test]
fn a_removed_node_is_cut_within_two_seconds_and_says_so() -> Result<()> {
    let hub = Hub::start(&["session.heartbeat=1s"])?;
    removed_and_cut(Mode::Netstack, &hub, [None, None])
}

#[test]
fn a_removed_node_is_cut_within_two_seconds_and_says_so_with_devices() -> Result<()> {
    for mode in Mode::WITH_DEVICES {
        let Some(lab) = Lab::new()?.filter(|_| mode.is_possible()) else { return Ok(()) };
        let hosts = [lab.host("hub")?, lab.host("removed")?, lab.host("kept")?];
        let settings = [mode.of_hub(), &["session.heartbeat=1s"]].concat();
        let hub = Hub::start_on(&hosts[0], &hosts[0].address().to_string(), &settings)?;
        removed_and_cut(mode, &hub, [Some(&hosts[1]), Some(&hosts[2])])?;
    }
    Ok(())
}

fn removed_and_cut(mode: Mode, hub: &Hub<'_>, hosts: [Option<&Host>; 2]) -> Result<()> {
    let mut removed = Spoke::start_in(mode, hub, hosts[0], "removed", "7/42")?;
    let kept = Spoke::start_in(mode, hub, hosts[1], "kept", "7/43")?;
    let token = text(&hub.json(&["access", "create", "--all"])?, "/access_token")?.to_owned();
    hub.wait_served("42", &token, SOON)?;
    hub.wait_served("43", &token, SOON)?;

    let (slow, done) = (Request::get("/slow/30000"), AtomicBool::new(false));
    let slow = slow.header("x-service-id", "42").bearer(&token);
    std::thread::scope(|scope| {
        let running = scope.spawn(|| {
            let answer = hub.request(&slow);
            done.store(true, Ordering::Relaxed);
            answer
        });
        eventually_ok(SOON, "a running request", || {
            let status = removed.agent.json(&["status"])?;
            let streams = status.pointer("/services/0/streams").and_then(serde_json::Value::as_u64);
            ensure!(streams.is_some_and(|streams| streams > 0), "{status}");
            Ok(())
        })?;
        let began = Instant::now();
        hub.json(&["node", "rm", removed.agent.name()])?;
        let cut = eventually(AT_ONCE, "the end of the running request", || {
            done.load(Ordering::Relaxed).then_some(())
        });
        let ended = removed.agent.process()?.wait(AT_ONCE.saturating_sub(began.elapsed()));
        // The request goes on until its client's patience ends where it was not cut.
        cut?;
        assert_eq!(ended?.code(), Some(DENIED));
        match running.join() {
            Ok(Ok(response)) => assert!(response.status >= 500, "{}: {}", response.status, response.text()),
            Ok(Err(_)) => {}
            Err(_) => anyhow::bail!("the request panicked"),
        }
        Ok(())
    })?;

    let log = removed.agent.log();
    assert!(log.lines().any(|line| line.starts_with("error: ") && line.contains("removed")), "{log}");
    assert!(log.lines().any(|line| line.starts_with("hint: ")), "{log}");
    let status = removed.agent.command(&["status"])?.run(CALL)?;
    assert_eq!(status.code, Some(DENIED), "{}", status.stderr);
    assert!(status.stdout.contains("removed by the hub"), "{}", status.stdout);
    let again = removed.agent.command(&["run", "--set", "observe.listen=off"])?.run(CALL)?;
    assert_eq!(again.code, Some(DENIED), "{}", again.stderr);

    let nodes = hub.json(&["node", "ls"])?;
    let names: Vec<_> =
        rows(&nodes, "/nodes")?.iter().map(|node| text(node, "/name")).collect::<Result<_>>()?;
    assert_eq!(names, [kept.agent.name()]);
    let gone = hub.get("42", &token, "/")?;
    assert!(matches!(gone.status, 404 | 503), "{}: {}", gone.status, gone.text());
    assert_eq!(hub.get("43", &token, "/")?.status, 200, "the others are not disturbed");
    let audit = hub.audit()?;
    let row = format!("agent.remove {}", removed.agent.id());
    assert!(audit.iter().any(|found| found.starts_with(&row)), "{audit:?}");
    Ok(())
}

#[test]
fn a_revoked_access_token_is_refused_at_once() -> Result<()> {
    let hub = Hub::start(&["session.heartbeat=1s"])?;
    let _spoke = Spoke::start(&hub, None, "one", "7/42")?;
    let made = hub.json(&["access", "create", "--service", "7/42"])?;
    let (id, token) = (text(&made, "/token/id")?, text(&made, "/access_token")?);
    hub.wait_served("42", token, SOON)?;
    hub.json(&["access", "revoke", id])?;
    let refused = hub.get("42", token, "/")?;
    assert_eq!(refused.status, 401);
    assert_eq!(text(&refused.json()?, "/error/code")?, "revoked_token");
    Ok(())
}

#[test]
fn what_is_revoked_by_a_client_that_leaves_at_once_is_refused_all_the_same() -> Result<()> {
    let hub = Hub::start(&[])?;
    let tokens: Vec<_> = (0..8)
        .map(|_| hub.json(&["access", "create", "--all"]))
        .map(|made| {
            let made = made?;
            Ok((text(&made, "/token/id")?.to_owned(), text(&made, "/access_token")?.to_owned()))
        })
        .collect::<Result<_>>()?;
    eventually_ok(SOON, "the revocations in the store", || {
        let listed = hub.json(&["access", "ls"])?;
        let mut live = 0;
        for row in rows(&listed, "/tokens")? {
            if text(row, "/state")? == "revoked" {
                continue;
            }
            live += 1;
            // Whoever is gone before the hub has read a word has asked for nothing, and asks again.
            let mut socket = UnixStream::connect(hub.state().join("hub.sock"))?;
            write!(socket, "DELETE /v1/access/{} HTTP/1.1\r\nhost: hub\r\n\r\n", text(row, "/id")?)?;
        }
        ensure!(live == 0, "{live} are live");
        Ok(())
    })?;
    eventually_ok(SOON, "the revocations at the proxy", || {
        for (id, token) in &tokens {
            let status = hub.get("42", token, "/")?.status;
            ensure!(status == 401, "{id}: {status}");
        }
        Ok(())
    })
}
