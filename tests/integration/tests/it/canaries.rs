//! No secret in logs, command lines, metrics, answers and errors: planted ones are searched for in all of them.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE, URL_SAFE_NO_PAD};
use blueprint_tests_cloud::digitalocean::DigitalOceanDialect;
use blueprint_tests_cloud::{FakeCloud, Fault, Kind, Refusal};
use blueprint_tests_support::http::{Request, Response, curl};
use blueprint_tests_support::{
    Launch, Need, Process, binary, eventually_ok, free_port, processes_naming, require, scratch,
};
use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::fixture::{Agent, CALL, Hub, SOON, Service, joining, text};

/// Any bytes as text, one character each: the search of the standard library is fast on texts only.
fn characters(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

/// A secret in every form in which something careless would write it.
#[derive(Debug)]
struct Canary {
    what: String,
    forms: Vec<String>,
}

impl Canary {
    fn new(what: &str, secret: &[u8]) -> Self {
        let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
        let list = format!("{secret:?}");
        let mut forms = vec![
            secret.to_vec(),
            hex.to_uppercase().into_bytes(),
            hex.into_bytes(),
            // As `[u8]` and as `bytes::Bytes` print themselves for debugging.
            list.trim_matches(['[', ']']).as_bytes().to_vec(),
            secret.escape_ascii().to_string().into_bytes(),
            // Logs are read as text, so their bytes are searched for as that text.
            String::from_utf8_lossy(secret.get(4..secret.len() - 4).unwrap_or_default())
                .into_owned()
                .into_bytes(),
        ];
        // In base64 the same bytes look different at each of three positions in a longer text.
        for before in 0..3 {
            let whole = [vec![0; before], secret.to_vec()].concat();
            let cut = |text: String| {
                text.trim_end_matches('=').as_bytes().get(4..text.len() - 5).map(<[u8]>::to_vec)
            };
            forms.extend(cut(STANDARD.encode(&whole)));
            forms.extend(cut(URL_SAFE.encode(&whole)));
        }
        Self { what: what.to_owned(), forms: forms.iter().map(|form| characters(form)).collect() }
    }

    /// Takes the secret half of a token, `bpj_ID_SECRET`.
    fn token(what: &str, token: &str) -> Result<Self> {
        let secret = token.splitn(3, '_').nth(2).context("not a token")?;
        Ok(Self::new(what, &URL_SAFE_NO_PAD.decode(secret)?))
    }

    /// Takes a key that a file holds in base64.
    fn base64(what: &str, text: &str) -> Result<Self> {
        Ok(Self::new(what, &STANDARD.decode(text.trim())?))
    }

    /// Takes the number itself out of a P-256 key in PKCS#8 (RFC 5915: an octet string of 32 bytes).
    fn pkcs8(what: &str, der: &[u8]) -> Result<Self> {
        let key = der.windows(34).find_map(|window| window.strip_prefix(&[0x04, 0x20]));
        Ok(Self::new(what, key.context("no key of 32 bytes")?))
    }

    fn is_in(&self, seen: &str) -> bool {
        self.forms.iter().any(|form| seen.contains(form.as_str()))
    }
}

/// Everything that anybody may get to see, with where it was seen.
#[derive(Debug, Default)]
struct Seen(Vec<(String, String)>);

impl Seen {
    fn add(&mut self, place: impl Into<String>, bytes: impl AsRef<[u8]>) {
        self.0.push((place.into(), characters(bytes.as_ref())));
    }

    fn answer(&mut self, place: &str, answer: &Response) {
        self.add(place, format!("{:?} {:?}", answer.headers, answer.text()));
        self.add(place, &answer.body);
    }

    /// Command lines and environments of our processes.
    fn processes(&mut self, text: &str) {
        for pid in processes_naming(text) {
            for file in ["cmdline", "environ"] {
                let path = format!("/proc/{pid}/{file}");
                self.add(path.clone(), std::fs::read(&path).unwrap_or_default());
            }
        }
    }

    /// Fails with every secret and the place where it was found.
    fn assert_without(&self, canaries: &[Canary]) {
        let mut found = Vec::new();
        for canary in canaries {
            let places = self.0.iter().filter(|(_, seen)| canary.is_in(seen));
            found.extend(places.map(|(place, _)| format!("{} in {place}", canary.what)));
        }
        assert!(found.is_empty(), "{found:#?}");
    }
}

/// A machine that joins by itself, with a line in a file, at the highest log level.
struct SelfJoined {
    process: Process,
    folder: TempDir,
}

impl SelfJoined {
    fn start(line: &str) -> Result<Self> {
        let folder = scratch("self-joined")?;
        let file = folder.path().join("line");
        std::fs::write(&file, line)?;
        let launch = Launch::new(binary("blueprint-agent")?).args(["run", "--set", "log.level=trace"]);
        let launch =
            launch.args(["--set", "observe.listen=127.0.0.1:0", "--set", "agent.name=by-file", "--set"]);
        let launch = launch.arg(format!("agent.join_file={}", file.display()));
        let mut process = launch.arg("--state").arg(folder.path().join("state")).start()?;
        process.wait_for_line("control stream up", SOON)?;
        Ok(Self { process, folder })
    }
}

/// The agent's keys that its state folder holds.
fn keys_of(what: &str, state: &Path) -> Result<Vec<Canary>> {
    let identity: Value = serde_json::from_slice(&std::fs::read(state.join("identity.json"))?)?;
    let tls = STANDARD.decode(text(&identity, "/tls_private_key")?)?;
    Ok(vec![
        Canary::base64(&format!("WireGuard key of {what}"), text(&identity, "/wireguard_private_key")?)?,
        Canary::pkcs8(&format!("TLS key of {what}"), &tls)?,
    ])
}

fn keys_of_hub(state: &Path) -> Result<Vec<Canary>> {
    Ok(vec![
        Canary::base64("WireGuard key of the hub", &std::fs::read_to_string(state.join("wireguard.key"))?)?,
        Canary::pkcs8("key of the authority", &std::fs::read(state.join("ca.key"))?)?,
        Canary::token("operator's token", &std::fs::read_to_string(state.join("admin.token"))?)?,
    ])
}

fn token_of(line: &str) -> &str {
    line.rsplit('/').next().unwrap_or(line)
}

/// Joins that fail in each place that sees the token.
fn failed_joins(seen: &mut Seen, folder: &Path, line: &str) -> Result<()> {
    let cut = line.get(..line.len() - 2).context("a short line")?;
    let (address, rest) = line.split_once('/').context("no line")?;
    let nowhere = format!("{}9/{rest}", address.trim_end_matches(char::is_numeric));
    for (name, line) in [("used", line), ("cut", cut), ("nowhere", &nowhere)] {
        let failed = joining(None, name, &folder.join(name))?.stdin(line).run(CALL)?;
        ensure!(failed.code != Some(0), "{name} has joined");
        seen.add(format!("join, {name}"), failed.stdout + &failed.stderr);
    }
    Ok(())
}

/// Requests through the proxy, good ones and refused ones, over both versions of HTTP.
fn requests(seen: &mut Seen, hub: &Hub<'_>, token: &str, revoked: &str) -> Result<()> {
    let headers = hub.get("42", token, "/headers")?;
    ensure!(headers.status == 200, "{}", headers.text());
    seen.answer("what the service receives", &headers);
    seen.answer("refusal of a revoked token", &hub.get("42", revoked, "/")?);
    seen.answer(
        "refusal of half a token",
        &hub.get("42", token.get(..token.len() - 1).unwrap_or_default(), "/")?,
    );
    seen.answer("refusal of a scope", &hub.get("43", token, "/")?);
    let twice = Request::get("/").bearer(token).bearer(revoked).header("x-service-id", "42");
    seen.answer("refusal of two tokens", &hub.request(&twice)?);
    let misplaced = format!("/headers?access_token={token}");
    seen.answer(
        "refusal of a token in the query",
        &hub.request(&Request::get(&misplaced).header("x-service-id", "42"))?,
    );
    let url = format!("http://{}/headers", hub.proxy());
    for token in [token, revoked] {
        let bearer = format!("Authorization: Bearer {token}");
        let arguments = ["--http2-prior-knowledge", "-i", "-H", &bearer, "-H", "X-Service-Id: 42", &url];
        seen.add("an answer over HTTP/2", curl(None, &arguments, CALL)?.1);
    }
    Ok(())
}

/// Every route of the JSON API, over both of its ways in, and its errors.
fn api(seen: &mut Seen, hub: &Hub<'_>, port: SocketAddr, node: &str, secrets: &[&str]) -> Result<()> {
    let operator = std::fs::read_to_string(hub.state().join("admin.token"))?;
    let node_path = format!("/v1/nodes/{node}");
    let qos = format!("{node_path}/qos");
    let routes =
        ["/v1/status", "/v1/nodes", &node_path, &qos, "/v1/services", "/v1/services/7/42", "/v1/tokens"];
    for path in routes.into_iter().chain([
        "/v1/access",
        "/v1/identities",
        "/v1/audit?limit=1000",
        "/metrics",
        "/healthz",
    ]) {
        let answer = hub.api(&Request::get(path))?;
        ensure!(answer.status == 200, "{path}: {}", answer.status);
        seen.answer(path, &answer);
        seen.answer(path, &Request::get(path).bearer(operator.trim()).send(port, CALL)?);
    }
    seen.answer("no such route", &hub.api(&Request::get("/v1/nowhere"))?);
    for secret in secrets {
        let refused = Request::get("/v1/status").bearer(secret).send(port, CALL)?;
        ensure!(refused.status == 401, "{}", refused.text());
        seen.answer("refusal of another token by the API", &refused);
        // Somebody pastes the whole token where its id is meant.
        for list in ["tokens", "access"] {
            let path = format!("/v1/{list}/{secret}");
            seen.answer(&path.replace(secret, "TOKEN"), &hub.api(&Request::new("DELETE", &path))?);
        }
    }
    Ok(())
}

/// Credentials of clouds: given by each way that there is, used at a cloud that takes them and refuses them, and forgotten.
fn cloud_credentials(seen: &mut Seen, hub: &Hub<'_>, fake: &FakeCloud, token: &str, key: &str) -> Result<()> {
    let mut run = |what: &str, command: Launch, code: i32| -> Result<()> {
        let finished = command.run(SOON)?;
        seen.add(what, finished.stdout.clone() + &finished.stderr);
        ensure!(finished.code == Some(code), "{what}: {:?} {}", finished.code, finished.stderr);
        Ok(())
    };
    let provider = |words: &[&str]| hub.command(&[&["provider"], words].concat());
    let configure = || provider(&["configure", "digitalocean"]);
    run("configure with a wrong field", configure()?.stdin(&format!("tokem = {token}")), 2)?;
    run("configure with two values", configure()?.stdin(&format!("{token}\n{token}")), 2)?;
    run("configure with a blank", configure()?.stdin(&format!("token = a {token}")), 2)?;
    run("configure", configure()?.stdin(token), 0)?;
    let aws = provider(&["configure", "aws", "--from-env"])?.env("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE1234");
    run("configure from the environment", aws.env("AWS_SECRET_ACCESS_KEY", key), 0)?;
    let check = || provider(&["check", "digitalocean", "--output", "json"]);
    run("check", check()?, 0)?;
    for fault in [Fault::Refuse(Refusal::Broken), Fault::Refuse(Refusal::Unavailable), Fault::Break] {
        fake.fail(Kind::Other, fault);
        run("check that breaks", check()?, 6)?;
    }
    fake.world(|world| world.token = "another".to_owned());
    run("check of a wrong token", check()?, 4)?;
    run("forget", provider(&["forget", "digitalocean"])?, 0)?;
    run("configure once more", configure()?.stdin(token), 0)?;
    run("list", provider(&["ls"])?, 0)?;
    for path in ["/v1/accounts", "/v1/accounts/aws/policy"] {
        seen.answer(path, &hub.api(&Request::get(path))?);
    }
    let asked = Request::new("PUT", "/v1/accounts/digitalocean/credentials");
    let broken = asked.header("content-type", "application/json").body(format!("{{\"text\": \"{token}"));
    seen.answer("refusal of half a request", &hub.api(&broken)?);
    Ok(())
}

#[test]
fn planted_secrets_appear_nowhere_at_the_highest_log_level() -> Result<()> {
    if !require(&[Need::Program("curl")]) {
        return Ok(());
    }
    let port = SocketAddr::from(([127, 0, 0, 1], free_port()?));
    let listen = format!("admin.listen={port}");
    let (cloud_token, cloud_key) =
        ("dop_v1_9f8e7d6c5b4a39281706f5e4d3c2b1a0", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLE");
    let runtime = Runtime::new()?;
    let fake = runtime.block_on(FakeCloud::start(DigitalOceanDialect::default(), cloud_token));
    let endpoint = format!("providers.digitalocean.endpoint={}", fake.url());
    // Short certificates, so that a renewal is part of it.
    let mut settings = vec!["log.level=trace", "session.heartbeat=1s", "join.certificate_ttl=10s", &listen];
    settings.extend(["providers.digitalocean.enabled=true", "hub.advertise=127.0.0.1", &endpoint]);
    let hub = Hub::start(&settings)?;
    let (line, second_line) = (hub.join_line(&[])?, hub.join_line(&[])?);
    let mut agent = Agent::join(None, "by-stdin", &line)?.set("log.level=trace");
    let mut canaries = keys_of_hub(&hub.state())?;
    canaries.extend(keys_of("the first agent", &agent.state())?);
    agent.run()?;
    let service = Service::start(None, "canary")?;
    agent.offer("7/42", service.address)?;
    let other = SelfJoined::start(&second_line)?;
    canaries.extend(keys_of("the second agent", &other.folder.path().join("state"))?);

    let token = hub.access_token("7/42")?;
    let made = hub.json(&["access", "create", "--all"])?;
    let (revoked_id, revoked) = (text(&made, "/token/id")?, text(&made, "/access_token")?);
    hub.json(&["access", "revoke", revoked_id])?;
    for (what, token) in [("join token", token_of(&line)), ("second join token", token_of(&second_line))] {
        canaries.push(Canary::token(what, token)?);
    }
    canaries.push(Canary::token("access token", &token)?);
    canaries.push(Canary::token("revoked access token", revoked)?);

    canaries.push(Canary::new("token of a cloud", cloud_token.as_bytes()));
    canaries.push(Canary::new("key of a cloud", cloud_key.as_bytes()));

    hub.wait_served("42", &token, SOON)?;
    let mut seen = Seen::default();
    cloud_credentials(&mut seen, &hub, &fake, cloud_token, cloud_key)?;
    let folder = scratch("failed")?;
    failed_joins(&mut seen, folder.path(), &line)?;
    requests(&mut seen, &hub, &token, revoked)?;
    api(&mut seen, &hub, port, agent.id(), &[&token, token_of(&line)])?;
    eventually_ok(SOON, "a renewed certificate", || {
        let renewed = hub.audit()?.into_iter().find(|row| row.starts_with("certificate.renew"));
        renewed.map(drop).context("no row of it")
    })?;
    canaries.extend(keys_of("the first agent, renewed", &agent.state())?);
    seen.answer("the agent's metrics", &Request::get("/metrics").send(agent.observe()?, CALL)?);
    seen.add("the agent's status", agent.json(&["status"])?.to_string());
    for state in [hub.state(), agent.state(), other.folder.path().to_owned()] {
        seen.processes(state.to_str().context("a path that is no text")?);
    }
    assert!(seen.0.iter().filter(|(place, _)| place.ends_with("/cmdline")).count() >= 3);
    for file in ["hub.db", "hub.db-wal"] {
        seen.add(file, std::fs::read(hub.state().join(file))?);
    }
    for (what, log) in [("hub", hub.log()), ("agent", agent.log()), ("second agent", other.process.log())] {
        assert!(log.contains("TRACE"), "the {what} logs everything");
        seen.add(format!("log of the {what}"), log);
    }
    // What may be seen is seen, so the search looks at the right texts.
    let public = token.split('_').nth(1).context("no id")?;
    assert!(seen.0.iter().any(|(place, seen)| place == "/v1/access" && seen.contains(public)));
    seen.assert_without(&canaries);
    Ok(())
}

#[test]
fn every_form_of_a_planted_secret_is_found() {
    let secret: Vec<u8> = (0..32u8).map(|number| number.wrapping_mul(91).wrapping_add(7)).collect();
    let canary = Canary::new("planted", &secret);
    let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    for before in ["", "x", "xy", "xyz"] {
        let whole = [before.as_bytes(), &secret, b"after"].concat();
        for place in [
            whole.clone(),
            format!("key={hex}.").into_bytes(),
            hex.to_uppercase().into_bytes(),
            STANDARD.encode(&whole).into_bytes(),
            URL_SAFE_NO_PAD.encode(&whole).into_bytes(),
            format!("{whole:?}").into_bytes(),
            whole.escape_ascii().to_string().into_bytes(),
            String::from_utf8_lossy(&whole).into_owned().into_bytes(),
        ] {
            assert!(canary.is_in(&characters(&place)), "{}", String::from_utf8_lossy(&place));
        }
    }
    assert!(!canary.is_in(&characters(&[0; 256])));
    assert!(!canary.is_in(&STANDARD.encode([7; 64])));
}
