//! One command makes a service reachable, and what it prints works.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use blueprint_tests_support::http::Request;
use blueprint_tests_support::{Finished, Launch, eventually_ok};
use serde_json::{Value, json};

use crate::fixture::{CALL, Hub, SOON, Spoke, json_of, rows, text};

/// Exit codes of the command line.
const NOT_FOUND: i32 = 3;
const UNAVAILABLE: i32 = 6;

/// Runs a line that was printed for people, as they would.
fn shell(line: &str) -> Result<Finished> {
    Launch::new(Path::new("/bin/sh")).args(["-c", line]).run(CALL)
}

/// Waits until the service has a healthy target, and exposes it with a new token.
fn expose(hub: &Hub<'_>) -> Result<Value> {
    eventually_ok(SOON, "service expose", || hub.json(&["service", "expose", "7/42", "--token"]))
}

fn status(hub: &Hub<'_>, token: &str) -> Result<u16> {
    Ok(hub.get("42", token, "/")?.status)
}

/// Replaces the settings of the service.
fn set(hub: &Hub<'_>, settings: &Value) -> Result<()> {
    let command = hub.command(&["service", "settings", "7/42", "--file", "-"])?;
    let finished = command.stdin(&settings.to_string()).run(CALL)?;
    ensure!(finished.code == Some(0), "{}", finished.stderr);
    Ok(())
}

#[test]
fn the_printed_line_works_until_the_service_is_hidden() -> Result<()> {
    let mut hub = Hub::start(&[])?;
    let nobody = hub.command(&["service", "expose", "7/42"])?.run(CALL)?;
    ensure!(nobody.code == Some(NOT_FOUND), "{:?}: {}", nobody.code, nobody.stderr);
    ensure!(nobody.stderr.contains("service add"), "the next step is named: {}", nobody.stderr);

    let spoke = Spoke::start(&hub, None, "greeter", "7/42")?;
    let exposed = expose(&hub)?;
    let token = text(&exposed, "/access_token")?;
    let url = text(&exposed, "/url")?;
    ensure!(url == format!("http://{}/s42.b7/", hub.proxy()), "{url}");
    ensure!(text(&exposed, "/host_url")?.contains("//s42.b7.bp.internal:"), "{exposed}");
    let warnings = rows(&exposed, "/warnings")?;
    let warned = warnings
        .iter()
        .filter_map(Value::as_str)
        .any(|warning| warning.contains("proxy.listen") && warning.contains("hub.toml"));
    ensure!(warned, "nobody else reaches loopback: {exposed}");

    let line = text(&exposed, "/curl")?;
    let answer = shell(line)?;
    ensure!(answer.code == Some(0), "{line}\n{}{}", answer.stdout, answer.stderr);
    ensure!(answer.stdout.contains("greeter"), "{}", answer.stdout);

    // For people, and without a token: the line says where one belongs.
    let shown = hub.command(&["service", "expose", "7/42"])?.run(CALL)?;
    ensure!(shown.code == Some(0) && !shown.stdout.contains(token), "{}{}", shown.stdout, shown.stderr);
    let line = shown.stdout.lines().find(|line| line.contains("curl ")).context("a curl line")?;
    let answer = shell(&format!("TOKEN={token}; {line}"))?;
    ensure!(answer.code == Some(0) && answer.stdout.contains("greeter"), "{line}: {}", answer.stderr);

    hub.json(&["service", "hide", "7/42"])?;
    ensure!(status(&hub, token)? == 404, "hidden at once");
    hub.kill()?;
    hub.start_again()?;
    eventually_ok(SOON, "the target of the service", || {
        let listed = hub.json(&["service", "show", "7/42"])?;
        ensure!(listed.to_string().contains("\"healthy\""), "{listed}");
        Ok(())
    })?;
    ensure!(status(&hub, token)? == 404, "and over a restart");
    hub.json(&["service", "expose", "7/42"])?;
    ensure!(hub.wait_served("42", token, SOON)?.status == 200, "and back");

    // Limits hold from the next request on, for everybody and for each.
    for (limits, code) in [("limits", "service_rate_limit"), ("key_limits", "key_rate_limit")] {
        set(&hub, &json!({ limits: { "requests_per_second": 1, "burst": 2 } }))?;
        let answers: Vec<_> = (0..8).map(|_| hub.get("42", token, "/")).collect::<Result<_>>()?;
        let refused = answers.iter().find(|answer| answer.status == 429).context("a refusal")?;
        ensure!(answers.iter().any(|answer| answer.status == 200), "two may come together");
        ensure!(refused.text().contains(code), "{}", refused.text());
    }
    set(&hub, &json!({ "key_limits": { "body_bytes": 10 } }))?;
    let upload = Request::new("POST", "/echo").header("x-service-id", "42").bearer(token).body("12345678901");
    ensure!(hub.request(&upload)?.status == 413, "eleven bytes");
    set(&hub, &json!({}))?;
    ensure!(status(&hub, token)? == 200, "no limits, at once");

    // The node may be emptied; then there is nothing to expose.
    hub.json(&["service", "drain", "7/42", "greeter"])?;
    let refused = hub.get("42", token, "/")?;
    ensure!(refused.status == 503 && refused.text().contains("drained"), "{}", refused.text());
    let shown = hub.command(&["service", "show", "7/42"])?.run(CALL)?;
    ensure!(shown.stdout.contains("drained"), "{}", shown.stdout);
    let drained = hub.command(&["service", "expose", "7/42", "--token"])?.run(CALL)?;
    ensure!(drained.code == Some(UNAVAILABLE) && drained.stderr.contains("undrain"), "{}", drained.stderr);
    hub.json(&["service", "weight", "7/42", "greeter", "50"])?;
    hub.json(&["service", "undrain", "7/42", spoke.agent.id()])?;
    ensure!(status(&hub, token)? == 200, "its share is back");
    let shown = hub.command(&["service", "show", "7/42"])?.run(CALL)?;
    ensure!(shown.stdout.contains(" 50 "), "{}", shown.stdout);
    let tokens = hub.json(&["access", "ls"])?;
    ensure!(rows(&tokens, "/tokens")?.len() == 1, "none was made in vain: {tokens}");
    ensure!(!hub.log().contains(token), "no token in the log");
    Ok(())
}

#[test]
fn the_printed_line_works_with_the_hubs_own_certificate() -> Result<()> {
    let hub = Hub::start(&["proxy.tls=hub"])?;
    let _spoke = Spoke::start(&hub, None, "greeter", "7/42")?;
    let finished = eventually_ok(SOON, "service expose", || {
        let command = hub.command(&["service", "expose", "7/42", "--token", "--ttl", "1h"])?;
        let finished = command.args(["--output", "json"]).run(CALL)?;
        json_of(&finished)
    })?;
    let line = text(&finished, "/curl")?;
    ensure!(line.contains("--cacert") && !line.contains("--insecure"), "{line}");
    let answer = shell(line)?;
    ensure!(answer.code == Some(0) && answer.stdout.contains("greeter"), "{line}\n{}", answer.stderr);
    Ok(())
}
