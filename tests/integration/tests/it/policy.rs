//! `policy get|set|test`: what the operator sees, and what the tunnel is given.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use blueprint_tests_support::http::{Request, Response};
use blueprint_tests_support::{Finished, eventually_ok, free_port};
use serde_json::{Value, json};

use crate::fixture::{Agent, CALL, Hub, rows, text};

/// Longest time until a policy holds, also for machines that join or go.
const HOLDS: Duration = Duration::from_secs(2);

/// Exit codes of the command line.
const FAILURE: i32 = 1;
const USAGE: i32 = 2;
const NOT_FOUND: i32 = 3;
const CONFLICT: i32 = 5;

const DOCUMENT: &str = r#"
[[grant]]
name = "web to db"
from = ["web"]
to = ["db"]
allow = ["tcp/5432", "icmp"]

[[test]]
name = "web reaches only the database"
from = "web"
to = "db"
allow = ["tcp/5432"]
deny = ["tcp/22", "udp"]
"#;

/// A command with a policy on its standard input, or with nothing.
fn run(hub: &Hub<'_>, arguments: &[&str], input: Option<&str>) -> Result<Finished> {
    let launch = hub.command(arguments)?;
    match input {
        Some(input) => launch.stdin(input).run(CALL),
        None => launch.run(CALL),
    }
}

/// Runs a command that has to end with `code`; gives what it said.
fn ends(hub: &Hub<'_>, arguments: &[&str], input: Option<&str>, code: i32) -> Result<Finished> {
    let finished = run(hub, arguments, input)?;
    ensure!(finished.code == Some(code), "{arguments:?}: {finished:?}");
    Ok(finished)
}

const SESSIONS: &str = r#"
[[session]]
name = "repair"
services = ["7/42"]
allow = ["exec", "port/80-89"]

[[session]]
name = "nodes"
nodes = ["db"]
allow = ["port/5432"]

[[test]]
name = "nobody reaches the node by its name"
node = "db"
deny = ["port/22"]

[[test]]
name = "repair gets a shell"
service = "7/42"
allow = ["exec"]
"#;

#[test]
fn questions_and_tests_of_sessions_are_answered_before_anything_is_stored() -> Result<()> {
    let hub = Hub::start(&[])?;
    let _db = join(&hub, "db")?;
    ends(&hub, &["policy", "set", "-"], Some(SESSIONS), 0)?;
    let done = ends(&hub, &["policy", "test"], None, 0)?;
    ensure!(done.stdout.matches("pass").count() == 2, "{done:?}");
    for (arguments, code, words) in [
        (&["--service", "7/42", "exec"][..], 0, "yes"),
        (&["--service", "7/42", "port/80-89"], 0, "repair"),
        (&["--service", "7/42", "port/80-90"], FAILURE, "in part"),
        (&["--service", "7/43", "exec"], FAILURE, "no"),
        (&["--node", "db", "port/5432"], 0, "nodes"),
        (&["--node", "db", "reverse/5432"], FAILURE, "no"),
        (&["--node", "gone", "port/5432"], NOT_FOUND, ""),
        (&["--service", "7/42", "tcp/22"], USAGE, ""),
        (&["--service", "7/42", "--node", "db", "exec"], USAGE, ""),
        (&["--service", "7/42"], USAGE, ""),
    ] {
        let done = ends(&hub, &[&["policy", "test"], arguments].concat(), None, code)?;
        ensure!(done.stdout.contains(words), "{arguments:?}: {done:?}");
    }
    // Of another document than the stored one; and as JSON.
    let other = SESSIONS.replace("\"exec\", ", "");
    let question = ["policy", "test", "--service", "7/42", "exec", "--file", "-", "--output", "json"];
    let done = ends(&hub, &question, Some(&other), FAILURE)?;
    let answer: Value = serde_json::from_str(&done.stdout)?;
    ensure!(answer["allowed"] == false && answer["by"] == json!([]), "{answer}");
    let done = ends(&hub, &["policy", "set", "-"], Some(&other), FAILURE)?;
    let told = "exec with service 7/42 should be allowed, and no [[session]] allows it";
    ensure!(done.stdout.contains(told) || done.stderr.contains(told), "{done:?}");
    ends(&hub, &["policy", "test", "--service", "7/42", "exec"], None, 0).map(drop)
}

/// The gauges of the policy: version, rules, machines left out.
fn gauges(hub: &Hub<'_>) -> Result<[u64; 3]> {
    let page = hub.api(&Request::get("/metrics"))?.text();
    let samples: BTreeMap<_, _> = page.lines().filter_map(|line| line.split_once(' ')).collect();
    let gauge = |name: &str| {
        let value = samples.get(name).with_context(|| format!("no {name} in {page}"))?;
        value.parse::<u64>().with_context(|| format!("{name} is {value}"))
    };
    Ok([gauge("hub_policy_version")?, gauge("hub_policy_rules")?, gauge("hub_policy_nodes_left_out")?])
}

/// Waits until the tunnel goes by this version with this many rules.
fn holds(hub: &Hub<'_>, version: u64, rules: u64) -> Result<()> {
    eventually_ok(HOLDS, "the policy in the tunnel", || {
        let found = gauges(hub)?;
        ensure!(found == [version, rules, 0], "{found:?}");
        Ok(())
    })
}

fn join(hub: &Hub<'_>, name: &str) -> Result<Agent<'static>> {
    Agent::join(None, name, &hub.join_line(&[])?)
}

fn send(hub: &Hub<'_>, method: &str, path: &str, body: &Value) -> Result<Response> {
    let request = Request::new(method, path).header("content-type", "application/json");
    hub.api(&request.body(body.to_string()))
}

#[test]
fn a_policy_is_stored_once_its_tests_pass_and_follows_the_machines() -> Result<()> {
    let mut hub = Hub::start(&[])?;
    assert_eq!(gauges(&hub)?, [0, 0, 0]);
    let none = ends(&hub, &["policy", "get"], None, 0)?.stdout;
    assert!(none.starts_with("# No policy is stored") && none.contains("[[grant]]"), "{none}");
    ends(&hub, &["policy", "set", "-", "--dry-run"], Some(&none), 0)?;

    let early = ends(&hub, &["policy", "set", "-"], Some(DOCUMENT), FAILURE)?;
    assert!(early.stdout.contains("no machine is called \"web\""), "{early:?}");
    assert!(early.stderr.contains("1 of 1 tests failed, nothing was stored"), "{early:?}");

    let web = join(&hub, "web")?;
    let _db = join(&hub, "db")?;
    let dry = ends(&hub, &["policy", "set", "-", "--dry-run"], Some(DOCUMENT), 0)?;
    assert_eq!(dry.stdout, "policy would be stored: 2 rules, 0 sessions, 1 tests passed\n");
    assert_eq!(text(&hub.json(&["policy", "get"])?, "/document")?, none, "a dry run stores nothing");
    let set = ends(&hub, &["policy", "set", "-", "--if-version", "0"], Some(DOCUMENT), 0)?;
    assert_eq!(set.stdout, "policy 1 is stored: 2 rules, 0 sessions, 1 tests passed\n");
    assert_eq!(gauges(&hub)?, [1, 2, 0], "it holds when the command ends");
    assert_eq!(ends(&hub, &["policy", "get"], None, 0)?.stdout, DOCUMENT);

    let second = join(&hub, "web")?;
    holds(&hub, 1, 4)?;
    hub.json(&["node", "rm", second.id()])?;
    holds(&hub, 1, 2)?;

    hub.kill()?;
    hub.start_again()?;
    assert_eq!(gauges(&hub)?, [1, 2, 0], "it holds before the hub says that it is up");

    hub.json(&["node", "rm", web.id()])?;
    holds(&hub, 1, 0)?;
    let shown = hub.json(&["policy", "get"])?;
    assert_eq!(text(&shown, "/warnings/0")?, "grant \"web to db\": no machine is called \"web\" yet");
    assert_eq!(text(&shown, "/changed_by")?, "operator (socket)");
    let failed = ends(&hub, &["policy", "test"], None, FAILURE)?;
    assert!(failed.stdout.contains("fail    web reaches only the database"), "{failed:?}");
    let audit = hub.audit()?;
    let row = "policy.set version 1 1 grants, 1 tests; by operator (socket)";
    assert!(audit.iter().any(|found| found == row), "{audit:?}");
    Ok(())
}

#[test]
fn questions_tests_and_mistakes_have_their_exit_codes() -> Result<()> {
    let hub = Hub::start(&[])?;
    let (_web, _db) = (join(&hub, "web")?, join(&hub, "db")?);
    let question = |traffic| ["policy", "test", "--from", "web", "--to", "db", traffic];
    ends(&hub, &question("icmp"), None, FAILURE)?;
    ends(&hub, &["policy", "set", "-"], Some(DOCUMENT), 0)?;

    let yes = ends(&hub, &question("tcp/5432"), None, 0)?;
    assert!(yes.stdout.contains("yes      web   db  web to db"), "{yes:?}");
    let no = ends(&hub, &question("tcp/5431-5432"), None, FAILURE)?;
    assert!(
        no.stdout.contains("in part") && no.stderr.contains("tcp/5431-5432 from web to db is denied"),
        "{no:?}"
    );
    ends(&hub, &["policy", "test", "--from", "db", "--to", "web", "icmp"], None, FAILURE)?;
    ends(&hub, &["policy", "test", "--from", "nobody", "--to", "web", "icmp"], None, NOT_FOUND)?;
    ends(&hub, &question("sctp"), None, USAGE)?;
    ends(&hub, &["policy", "test", "--from", "web", "icmp"], None, USAGE)?;
    ends(&hub, &["policy", "test"], None, 0)?;
    let stricter = DOCUMENT.replace("deny = [", "deny = [\"icmp\", ");
    let failed = ends(&hub, &["policy", "test", "-"], Some(&stricter), FAILURE)?;
    assert!(
        failed.stdout.contains("icmp from web to db should be denied, and \"web to db\" allows it"),
        "{failed:?}"
    );

    let typo = DOCUMENT.replace("tcp/5432", "tpc/5432");
    let wrong = ends(&hub, &["policy", "set", "-"], Some(&typo), USAGE)?;
    assert!(
        wrong.stderr.contains("line 6, column 10: grant[1].allow: \"tpc/5432\" is not a kind of traffic"),
        "{wrong:?}"
    );
    let late = ends(&hub, &["policy", "set", "-", "--if-version", "0"], Some(""), CONFLICT)?;
    assert!(late.stderr.contains("the policy has version 1 by now, not 0"), "{late:?}");
    ends(&hub, &["policy", "set", "-", "--if-version", "7", "--dry-run"], Some(""), CONFLICT)?;
    ends(&hub, &["policy", "set", "/no/such/file"], None, NOT_FOUND)?;
    assert_eq!(gauges(&hub)?, [1, 2, 0], "none of it changed anything");
    ends(&hub, &["policy", "set", "-", "--if-version", "1"], Some(""), 0)?;
    assert_eq!(gauges(&hub)?, [2, 0, 0], "an empty policy denies everything");
    Ok(())
}

#[test]
fn the_api_says_code_message_and_hint() -> Result<()> {
    let port = free_port()?;
    let hub = Hub::start(&[&format!("admin.listen=127.0.0.1:{port}")])?;
    let failed = send(&hub, "PUT", "/v1/policy", &json!({ "document": DOCUMENT }))?;
    assert_eq!(failed.status, 422);
    assert_eq!(text(&failed.json()?, "/error/code")?, "tests_failed");
    assert_eq!(text(&failed.json()?, "/tests/0/verdict")?, "fail");
    for (method, path, body, status, code) in [
        ("PUT", "/v1/policy", json!({ "document": "[grant]" }), 400, "invalid"),
        ("PUT", "/v1/policy", json!({ "documents": "" }), 400, "invalid"),
        ("PUT", "/v1/policy", json!({ "document": "", "version": 3 }), 409, "conflict"),
        ("POST", "/v1/policy/test", json!({ "from": "a" }), 400, "invalid"),
        ("POST", "/v1/policy/test", json!({ "from": "a", "to": "b", "traffic": "icmp" }), 404, "not_found"),
    ] {
        let answer = send(&hub, method, path, &body)?;
        assert_eq!(answer.status, status, "{}", answer.text());
        assert_eq!(text(&answer.json()?, "/error/code")?, code, "{}", answer.text());
        assert!(!text(&answer.json()?, "/error/hint")?.is_empty());
    }
    // Longer than what other routes take.
    let long = format!("{DOCUMENT}{}", "# comment\n".repeat(20_000))
        .replace("[[test]]", "[[test]]\noptional = true");
    let set = send(&hub, "PUT", "/v1/policy", &json!({ "document": long }))?;
    assert_eq!(set.status, 200, "{}", set.text());
    assert_eq!(text(&set.json()?, "/tests/0/verdict")?, "skip");

    let over_tcp = Request::new("PUT", "/v1/policy").header("content-type", "application/json");
    let over_tcp = over_tcp.body(json!({ "document": "", "version": 1 }).to_string());
    let address = ([127, 0, 0, 1], port).into();
    assert_eq!(over_tcp.send(address, CALL)?.status, 401);
    let token = std::fs::read_to_string(hub.state().join("admin.token"))?;
    let set = over_tcp.bearer(token.trim()).send(address, CALL)?;
    assert_eq!(set.status, 200, "{}", set.text());
    let shown = hub.json(&["policy", "get"])?;
    assert_eq!(text(&shown, "/changed_by")?, "operator (port)");
    assert_eq!(shown.pointer("/version"), Some(&json!(2)));
    assert!(rows(&shown, "/warnings")?.is_empty());
    Ok(())
}
