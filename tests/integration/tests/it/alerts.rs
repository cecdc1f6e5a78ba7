//! Alerts about costs: told once, delivered to a webhook that was away, held, released, and ended, also after a kill.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use blueprint_tests_support::http::Request;
use blueprint_tests_support::{eventually_ok, free_port};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::fixture::{Hub, SOON, json_of, rows, text};

/// Times short enough for a test, and play money that counts.
const QUICK: [&str; 8] = [
    "providers.sim.enabled=true",
    "hub.advertise=127.0.0.1",
    "provision.every=1s",
    "provision.second_look=1s",
    "provision.join_within=20s",
    "provision.limit_sim=true",
    "alerts.every=1s",
    "session.heartbeat=1s",
];

/// Longest wait for a deployment to come to its end state on a busy machine, and for a message that is tried again.
const SETTLED: Duration = Duration::from_secs(90);

/// What came in a request: its fields, in lower case, and its body.
type Got = (BTreeMap<String, String>, String);

/// A real receiver of webhooks; answers until the test ends.
struct Receiver(Arc<Mutex<Vec<Got>>>);

impl Receiver {
    fn start(port: u16) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", port))?;
        let got: Arc<Mutex<Vec<Got>>> = Arc::default();
        let noted = Arc::clone(&got);
        std::thread::Builder::new().spawn(move || {
            for stream in listener.incoming().flatten() {
                if let Ok(one) = take(stream) {
                    noted.lock().unwrap_or_else(PoisonError::into_inner).push(one);
                }
            }
        })?;
        Ok(Self(got))
    }

    fn got(&self) -> Vec<Got> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The messages; each has to be signed with `key`.
    fn messages(&self, key: &str) -> Result<Vec<Value>> {
        self.got()
            .iter()
            .map(|(fields, body)| {
                let signature = fields.get("x-blueprint-signature").context("no signature")?;
                let (time, tag) =
                    signature.strip_prefix("t=").and_then(|it| it.split_once(",v1=")).context("its shape")?;
                let own = hmac(key.as_bytes(), format!("{time}.{body}").as_bytes());
                ensure!(own == tag, "{signature} is not {own} of {body}");
                let now = std::time::UNIX_EPOCH.elapsed()?.as_secs();
                ensure!(now.abs_diff(time.parse()?) < 300, "signed at {time}, and it is {now}");
                let message: Value = serde_json::from_str(body)?;
                ensure!(
                    fields.get("x-blueprint-event") == message.get("id").map(Value::to_string).as_ref(),
                    "{fields:?}"
                );
                Ok(message)
            })
            .collect()
    }
}

fn take(mut stream: TcpStream) -> Result<Got> {
    stream.set_read_timeout(Some(SOON))?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head)?;
    ensure!(head.starts_with("POST /hook HTTP/1.1\r\n"), "{head}");
    let fields: BTreeMap<String, String> = head
        .lines()
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let mut body = vec![0; fields.get("content-length").context("no length")?.parse()?];
    stream.read_exact(&mut body)?;
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")?;
    Ok((fields, String::from_utf8(body)?))
}

/// HMAC-SHA256 (RFC 2104) in hexadecimal digits, by hand, for a key of at most 64 bytes.
fn hmac(key: &[u8], text: &[u8]) -> String {
    let padded = |pad: u8| -> Vec<u8> { (0..64).map(|at| key.get(at).copied().unwrap_or(0) ^ pad).collect() };
    let inner = Sha256::new().chain_update(padded(0x36)).chain_update(text).finalize();
    let outer = Sha256::new().chain_update(padded(0x5c)).chain_update(inner).finalize();
    outer.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn deploy(hub: &Hub<'_>, options: &[&str]) -> Result<String> {
    let command = hub.command(&["deploy", "--yes", "--wait", "--output", "json"])?.args(options);
    let ordered =
        json_of(&command.run(SETTLED)?).with_context(|| format!("the hub logged:\n{}", hub.log()))?;
    Ok(text(&ordered, "/id")?.to_owned())
}

/// Machines that stand at the cloud.
fn machines(hub: &Hub<'_>) -> Result<usize> {
    Ok(std::fs::read_dir(hub.state().join("sim/machines"))?.count())
}

fn refused(hub: &Hub<'_>, name: &str) -> Result<()> {
    let before = machines(hub)?;
    let finished = hub.command(&["deploy", "--yes"])?.run(SETTLED)?;
    let why = format!("alert {name} holds orders");
    ensure!(
        finished.code == Some(5) && finished.stderr.contains(&why),
        "{:?} {}",
        finished.code,
        finished.stderr
    );
    ensure!(machines(hub)? == before, "what was refused was ordered");
    Ok(())
}

fn events(hub: &Hub<'_>, name: &str) -> Result<Vec<Value>> {
    Ok(rows(&hub.json(&["alerts", "history", name])?, "/events")?.to_vec())
}

/// A sample of its metrics, 0 where there is none.
fn metric(hub: &Hub<'_>, name: &str) -> Result<f64> {
    let all = hub.api(&Request::get("/metrics"))?.text();
    let line = all.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    Ok(line.unwrap_or(0.0))
}

fn sent(hub: &Hub<'_>) -> Result<u64> {
    let costs = hub.json(&["costs", "--by", "provider"])?;
    let row = rows(&costs, "/rows")?.first().context("a row")?;
    ensure!(text(row, "/egress_cost")? == "0.00", "the simulated cloud takes nothing for it: {row}");
    row["egress_bytes"].as_u64().context("bytes")
}

/// Released, raised, and tried.
fn it_ends_as_the_operator_says(hub: &Hub<'_>, receiver: &Receiver, key: &str) -> Result<()> {
    hub.json(&["alerts", "release", "team"])?;
    let again = hub.command(&["alerts", "release", "team"])?.run(SOON)?;
    ensure!(again.code == Some(5) && again.stderr.contains("holds nothing"), "{}", again.stderr);
    deploy(hub, &["--name", "more"])?;
    // A released period is one of that amount.
    hub.json(&["set-alert", "team", "--amount", "0.00011"])?;
    refused(hub, "team")?;
    hub.json(&["set-alert", "team", "--amount", "5"])?;
    deploy(hub, &["--name", "third"])?;
    let told = hub.json(&["alerts", "test", "team"])?;
    let id = told.pointer("/event/id").context("its number")?;
    eventually_ok(SOON, "the test's message", || {
        let messages = receiver.messages(key)?;
        let own = messages.iter().find(|it| it.get("id") == Some(id)).context("not there")?;
        ensure!(text(own, "/kind")? == "test", "{own}");
        Ok(())
    })?;
    Ok(())
}

#[test]
fn a_spent_amount_is_told_once_to_a_webhook_that_was_away_and_holds_orders_until_it_is_released() -> Result<()>
{
    let mut hub = Hub::start(&QUICK)?;
    let port = free_port()?;
    let url = format!("http://127.0.0.1:{port}/hook");
    // A minute of one machine is billed at least, which costs 0.000084.
    let set =
        hub.json(&["set-alert", "team", "--amount", "0.0001", "--action", "hold", "--webhook", &url])?;
    let key = text(&set, "/webhook_key")?.to_owned();
    ensure!(text(&set, "/alert/webhook")?.ends_with("/..."), "{set}");
    let web = deploy(&hub, &["--name", "web", "--replicas", "2"])?;
    let waiting = eventually_ok(SETTLED, "three messages that could not be delivered", || {
        let events = events(&hub, "team")?;
        ensure!(
            events.len() == 3 && events.iter().all(|event| event["attempts"].as_u64() > Some(0)),
            "{events:?}"
        );
        Ok(events)
    })?;
    for event in &waiting {
        ensure!(
            event["delivery"] == "waiting" && text(event, "/error")?.contains("cannot connect"),
            "{event}"
        );
    }
    let thresholds: Vec<_> = waiting.iter().map(|event| event["threshold"].as_u64()).collect();
    ensure!(thresholds == [50, 80, 100].map(Some), "{waiting:?}");
    refused(&hub, "team")?;

    let receiver = Receiver::start(port)?;
    eventually_ok(SETTLED, "all messages", || {
        let states: Vec<_> = events(&hub, "team")?.iter().map(|event| event["delivery"].clone()).collect();
        ensure!(states == ["delivered"; 3].map(Value::from), "{states:?}");
        Ok(())
    })
    .with_context(|| hub.log())?;
    let ids = |messages: &[Value]| messages.iter().map(|it| it["id"].to_string()).collect::<BTreeSet<_>>();
    let messages = receiver.messages(&key)?;
    ensure!(messages.len() == 3 && ids(&messages).len() == 3, "{messages:?}");
    let last = messages.iter().find(|it| it["threshold_percent"] == 100).context("the last")?;
    ensure!(
        last["alert"] == "team" && last["action"] == "hold" && text(last, "/text")?.contains("nothing more"),
        "{last}"
    );

    let costs = hub.json(&["costs"])?;
    ensure!(text(&costs, "/held/0/alert")? == "team", "{costs}");
    let said = hub.command(&["costs"])?.run(SOON)?;
    ensure!(said.stderr.contains("held by alert team (hold)"), "{}", said.stderr);
    let before = eventually_ok(SOON, "bytes that were measured", || {
        let bytes = sent(&hub)?;
        ensure!(bytes > 0, "none");
        Ok(bytes)
    })?;

    hub.kill()?;
    hub.start_again()?;
    eventually_ok(SETTLED, "a look at the meter after the restart", || {
        ensure!(metric(&hub, "hub_provision_cost_alerts_in_force")? > 0.5);
        Ok(())
    })?;
    refused(&hub, "team")?;
    eventually_ok(SETTLED, "more bytes than before the restart", || {
        let bytes = sent(&hub)?;
        ensure!(bytes > before, "{bytes} after {before}");
        Ok(())
    })?;
    ensure!(
        events(&hub, "team")?.len() == 3 && receiver.got().len() == 3,
        "told twice: {:?}",
        receiver.got()
    );

    it_ends_as_the_operator_says(&hub, &receiver, &key)?;
    let audit = hub.audit()?;
    for event in ["alert.set team", "alert.fire team", "alert.release team"] {
        ensure!(audit.iter().any(|row| row.starts_with(event)), "no {event} in {audit:?}");
    }
    let log = hub.log();
    ensure!(!log.contains(&key) && !log.contains("/hook"), "a secret is in the log");
    ensure!(text(&hub.json(&["deployment", "show", &web])?, "/state")? == "running", "what runs goes on");
    Ok(())
}

#[test]
fn an_alert_that_terminates_ends_its_deployment_and_no_other() -> Result<()> {
    let mut hub = Hub::start(&QUICK)?;
    let web = deploy(&hub, &["--name", "web", "--replicas", "2"])?;
    let keep = deploy(&hub, &["--name", "keep"])?;
    let options = ["--amount", "0.0001", "--per", "total", "--deployment", "web", "--action", "terminate"];
    let sudden = hub.command(&["set-alert", "life"])?.args(options).run(SOON)?;
    ensure!(sudden.code == Some(5) && sudden.stderr.contains("ended for good at once"), "{}", sudden.stderr);
    let set = hub.json(&[["set-alert", "life", "--yes"].as_slice(), &options].concat())?;
    ensure!(text(&set, "/alert/deployment_name")? == "web", "{set}");
    eventually_ok(SETTLED, "an end of the deployment", || {
        let shown = hub.json(&["deployment", "show", &web])?;
        ensure!(text(&shown, "/state")? == "gone", "{shown}");
        Ok(())
    })
    .with_context(|| hub.log())?;
    ensure!(machines(&hub)? == 1, "machines are left");
    let steps = hub.json(&["deployment", "history", &web])?;
    let why = rows(&steps, "/events")?
        .iter()
        .any(|row| text(row, "/reason").is_ok_and(|it| it.contains("alert life")));
    ensure!(why, "{steps}");
    hub.kill()?;
    hub.start_again()?;
    eventually_ok(SETTLED, "a look at the meter after the restart", || {
        ensure!(metric(&hub, "hub_provision_cost_alerts_in_force")? > 0.5);
        Ok(())
    })?;
    ensure!(events(&hub, "life")?.len() == 3, "told twice");
    eventually_ok(SETTLED, "the other deployment", || {
        let shown = hub.json(&["deployment", "show", &keep])?;
        ensure!(text(&shown, "/state")? == "running", "{shown}");
        Ok(())
    })?;
    deploy(&hub, &["--name", "next"])?;
    Ok(())
}

#[test]
fn alerts_that_cannot_be_are_refused_with_what_to_do() -> Result<()> {
    let mut settings = QUICK.to_vec();
    settings.retain(|setting| !setting.contains("limit_sim"));
    let hub = Hub::start(&settings)?;
    for (options, word) in [
        (["--amount", "1", "--webhook", "http://169.254.169.254/latest"], "http is only for this machine"),
        (["--amount", "1", "--webhook", "https://169.254.169.254/latest"], "is not public"),
        (["--amount", "1", "--webhook", "https://10.0.0.1/"], "alerts.webhook_private_dangerously"),
        (["--amount", "1", "--provider", "sim"], "provision.limit_sim = true"),
        (["--amount", "1", "--deployment", "web"], "no deployment is called"),
        (["--amount", "1", "--per", "total"], "--deployment"),
        (["--amount", "0", "--per", "day"], "more than zero"),
    ] {
        let finished = hub.command(&["set-alert", "team"])?.args(options).run(SOON)?;
        ensure!(
            finished.code != Some(0) && finished.stderr.contains(word),
            "{options:?}: {}",
            finished.stderr
        );
    }
    let missing = hub.command(&["alerts", "show", "team"])?.run(SOON)?;
    ensure!(missing.code == Some(3), "{}", missing.stderr);
    ensure!(rows(&hub.json(&["alerts"])?, "/alerts")?.is_empty());
    hub.json(&["set-alert", "team", "--amount", "1"])?;
    ensure!(rows(&hub.json(&["alerts"])?, "/alerts")?.len() == 1);
    hub.json(&["alerts", "rm", "team"])?;
    ensure!(hub.command(&["alerts", "rm", "team"])?.run(SOON)?.code == Some(3));
    Ok(())
}
