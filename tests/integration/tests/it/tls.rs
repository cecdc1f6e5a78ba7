//! TLS of the proxy: profiles of services, client certificates, files that change, over restarts.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use blueprint_tests_support::http::{Request, Response};
use blueprint_tests_support::{Launch, Need, eventually_ok, free_port, require};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::certificate::self_signed;
use crate::fixture::{Agent, CALL, Hub, SOON, Service, Spoke, joining, rows, text};

/// A hub with an address for each way, and a client that keeps files.
struct World {
    hub: Hub<'static>,
    port: u16,
    files: TempDir,
}

/// What `curl` got: the status and the body; status 0 where the handshake failed.
type Got = (u16, String);

impl World {
    fn start(settings: &[&str]) -> Result<Self> {
        let port = free_port()?;
        let listen = format!("proxy.tls_listen=127.0.0.1:{port}");
        let mut all = vec![listen.as_str(), "proxy.domain=bp.example"];
        all.extend(settings);
        Ok(Self { hub: Hub::start(&all)?, port, files: tempfile::tempdir()? })
    }

    fn file(&self, name: &str, content: &str) -> Result<PathBuf> {
        let path = self.files.path().join(name);
        std::fs::write(&path, content)?;
        Ok(path)
    }

    /// What only the operator may do over the proxy.
    fn operate(&self, method: &str, path: &str, body: &Value) -> Result<Response> {
        let token = std::fs::read_to_string(self.hub.state().join("admin.token"))?;
        let request = Request::new(method, path).header("X-Service-Id", "42").bearer(token.trim());
        self.hub.request(&request.body(body.to_string()))
    }

    /// A request by TLS for a host name; `arguments` are those of `curl`.
    fn curl(&self, host: &str, arguments: &[&str]) -> Result<Got> {
        self.curl_at(self.port, host, arguments)
    }

    fn curl_at(&self, port: u16, host: &str, arguments: &[&str]) -> Result<Got> {
        let resolve = format!("{host}:{port}:127.0.0.1");
        let url = format!("https://{host}:{port}/");
        let mut all =
            vec!["--silent", "--max-time", "5", "--resolve", &resolve, "--write-out", "\n%{http_code}"];
        all.extend(arguments);
        all.push(&url);
        let finished = Launch::new("curl").args(all).run(CALL)?;
        let (body, status) = finished.stdout.rsplit_once('\n').context("no status")?;
        Ok((status.parse()?, body.to_owned()))
    }
}

/// Files of one client, as `curl` wants them.
struct Client {
    ca: String,
    certificate: String,
    key: String,
}

impl Client {
    /// Keeps what the hub answered.
    fn keep(world: &World, issued: &Value) -> Result<Self> {
        let keep = |name, field| -> Result<String> {
            Ok(world.file(name, text(issued, field)?)?.display().to_string())
        };
        Ok(Self {
            ca: keep("ca.pem", "/ca_bundle_pem")?,
            certificate: keep("client.pem", "/certificate_pem")?,
            key: keep("client.key", "/private_key_pem")?,
        })
    }

    /// Exit code of a `curl` whose answer takes long.
    fn slow(&self, world: &World, host: &str, path: &str) -> Result<Option<i32>> {
        let resolve = format!("{host}:{}:127.0.0.1", world.port);
        let url = format!("https://{host}:{}/{path}", world.port);
        let arguments = ["--silent", "--cacert", &self.ca, "--cert", &self.certificate, "--key", &self.key];
        let launch = Launch::new("curl").arg("--fail").args(arguments);
        Ok(launch.args(["--output", "/dev/null", "--resolve", &resolve, &url]).run(2 * CALL)?.code)
    }

    fn get(&self, world: &World, host: &str, more: &[&str]) -> Result<Got> {
        let mut all = vec!["--cacert", &self.ca, "--cert", &self.certificate, "--key", &self.key];
        all.extend(more);
        world.curl(host, &all)
    }
}

const HOST: &str = "s42.b7.bp.example";

#[test]
fn a_client_of_the_existing_proxy_gets_a_certificate_and_calls_with_it_also_after_a_restart() -> Result<()> {
    if !require(&[Need::Program("curl")]) {
        return Ok(());
    }
    let mut world = World::start(&["proxy.tls=hub"])?;
    let _spoke = Spoke::start(&world.hub, None, "greeter", "7/42")?;
    let token = world.hub.access_token("7/42")?;
    world.hub.wait_served("42", &token, SOON)?;

    // What clients of the existing proxy send, but only the operator may.
    let profile = json!({ "require_client_mtls": true, "client_cert_ttl_hours": 24, "allowed_dns_names": ["localhost"],
        "subject_alt_name_template": "spiffe://tenant-{tenant}/default" });
    let path = "/v1/admin/services/42/tls-profile";
    for credential in ["", &token] {
        let asked = Request::new("PUT", path).header("X-Service-Id", "42").bearer(credential);
        let refused = world.hub.request(&asked.body(profile.to_string()))?;
        ensure!(refused.status == 401 && refused.text().contains("operator_only"), "{}", refused.text());
    }
    let set = world.operate("PUT", path, &profile)?;
    ensure!(set.status == 200, "{}", set.text());
    let set = set.json()?;
    let listener = format!("https://127.0.0.1:{}", world.port);
    ensure!(text(&set, "/mtls_listener")? == listener, "{set}");
    ensure!(text(&set, "/ca_certificate_pem")?.contains("BEGIN CERTIFICATE"), "{set}");

    // Live at once: a token in clear is not enough any more.
    ensure!(world.hub.get("42", &token, "/")?.status == 401, "without a certificate");

    let asked = json!({ "service_id": 42, "common_name": "acme", "subject_alt_names": ["localhost"], "ttl_hours": 12 });
    let long = json!({ "service_id": 42, "common_name": "acme", "ttl_hours": 48 });
    ensure!(world.operate("POST", "/v1/auth/certificates", &long)?.status == 400, "longer than the profile");
    let issued = world.operate("POST", "/v1/auth/certificates", &asked)?;
    ensure!(issued.status == 200, "{}", issued.text());
    let issued = issued.json()?;
    ensure!(text(&issued, "/private_key_pem")?.contains("BEGIN PRIVATE KEY"), "no key");
    let client = Client::keep(&world, &issued)?;

    let bearer = format!("Authorization: Bearer {token}");
    for host in [HOST, "localhost"] {
        let (status, body) =
            client.get(&world, host, &["--header", &bearer, "--header", "X-Service-Id: 42"])?;
        ensure!(status == 200, "{host}: {status} {body}");
    }
    let (status, body) = client.get(&world, HOST, &[])?;
    ensure!(status == 200, "a certificate is enough: {status} {body}");
    let (status, _) = world.curl(HOST, &["--cacert", &client.ca, "--header", &bearer])?;
    ensure!(status == 0, "no handshake without a certificate: {status}");

    world.hub.kill()?;
    world.hub.start_again()?;
    eventually_ok(SOON, "the same certificate after a restart", || {
        let (status, body) = client.get(&world, HOST, &[])?;
        ensure!(status == 200, "{status} {body}");
        Ok(())
    })?;
    ensure!(world.hub.get("42", &token, "/")?.status == 401, "the profile is there, too");

    let revoked = world.operate("POST", text(&issued, "/revocation_url")?, &json!({}))?;
    ensure!(revoked.status == 200, "{}", revoked.text());
    let (status, body) = client.get(&world, HOST, &[])?;
    ensure!(status == 401 && body.contains("revoked_certificate"), "{status} {body}");
    let audit = world.hub.audit()?.join("\n");
    for event in ["tls_profile.set", "client_certificate.issue", "client_certificate.revoke"] {
        ensure!(audit.contains(event), "{event} is not in\n{audit}");
    }
    let database = std::fs::read(world.hub.state().join("hub.db"))?;
    let log = std::fs::read(world.hub.state().join("hub.db-wal")).unwrap_or_default();
    for bytes in [database, log, world.hub.log().into_bytes(), audit.into_bytes()] {
        ensure!(!String::from_utf8_lossy(&bytes).contains("PRIVATE KEY"), "a private key lies open");
    }
    Ok(())
}

#[test]
fn the_command_line_sets_up_two_services_whose_clients_stay_apart() -> Result<()> {
    if !require(&[Need::Program("curl")]) {
        return Ok(());
    }
    let world = World::start(&["proxy.tls=hub"])?;
    let hub = &world.hub;
    let _spokes = [Spoke::start(hub, None, "one", "7/42")?, Spoke::start(hub, None, "two", "7/43")?];
    let token = text(&hub.json(&["access", "create", "--all"])?, "/access_token")?.to_owned();
    hub.wait_served("42", &token, SOON)?;
    hub.wait_served("43", &token, SOON)?;
    for service in ["7/42", "7/43"] {
        hub.json(&["service", "tls", "set", service, "--require-client-cert"])?;
    }
    let taken = hub.command(&["service", "tls", "set", "7/43", "--sni", HOST])?.run(CALL)?;
    ensure!(taken.code != Some(0) && taken.stderr.contains(HOST), "{}", taken.stderr);
    let shown = hub.json(&["service", "tls", "show", "7/42"])?;
    ensure!(text(&shown, "/host_names/0")? == HOST, "{shown}");

    let prefix = world.files.path().join("acme").display().to_string();
    let issued = hub.json(&["service", "cert", "issue", "7/42", "acme", "--out", &prefix])?;
    let file = |ending: &str| format!("{prefix}.{ending}");
    let client = Client { ca: file("ca.crt"), certificate: file("crt"), key: file("key") };
    ensure!(client.get(&world, HOST, &[])?.0 == 200, "its own service");
    // The same connection, another service.
    let bearer = format!("Authorization: Bearer {token}");
    for (header, status) in [("Host: s43.b7.bp.example", 421), ("X-Service-Id: 7/43", 400)] {
        let got = client.get(&world, HOST, &["--header", header, "--header", &bearer])?;
        ensure!(got.0 == status, "{header}: {got:?}");
    }
    let got = client.get(&world, HOST, &["--header", "Host: s43.b7.bp.example"])?;
    ensure!(got.0 == 403 || got.0 == 421, "{got:?}");
    let other = hub.json(&["service", "tls", "show", "7/43"])?;
    let client = Client {
        ca: world.file("43.pem", text(&other, "/profile/ca_certificate_pem")?)?.display().to_string(),
        ..client
    };
    ensure!(client.get(&world, "s43.b7.bp.example", &["--header", &bearer])?.0 == 0, "another authority");

    let listed = hub.json(&["service", "cert", "ls", "7/42"])?;
    let [row] = rows(&listed, "/certificates")? else { anyhow::bail!("one certificate: {listed}") };
    ensure!(text(row, "/serial")? == text(&issued, "/serial")? && text(row, "/state")? == "live", "{row}");
    // What is open is cut with the certificate that let it in.
    let client = Client { ca: file("ca.crt"), ..client };
    let began = std::thread::scope(|scope| {
        let slow = scope.spawn(|| client.slow(&world, HOST, "slow/30000"));
        eventually_ok(SOON, "an open request", || {
            let metrics = hub.api(&Request::get("/metrics"))?.text();
            ensure!(metrics.contains("\nhub_proxy_requests_open 1\n"), "{metrics}");
            Ok(())
        })?;
        let began = Instant::now();
        hub.json(&["service", "cert", "revoke", "7/42", text(&issued, "/serial")?])?;
        let code = slow.join().ok().context("curl")??;
        ensure!(code != Some(0), "the answer was not cut");
        Ok(began)
    })?;
    ensure!(began.elapsed() < Duration::from_secs(4), "cut after {:?}", began.elapsed());
    hub.json(&["service", "tls", "rm", "7/42"])?;
    ensure!(hub.get("42", &token, "/")?.status == 200, "as before there was a profile");
    Ok(())
}

#[test]
fn a_certificate_opens_a_raw_forward_with_tls_until_it_is_revoked() -> Result<()> {
    if !require(&[Need::Program("curl")]) {
        return Ok(());
    }
    let port = free_port()?;
    let ports = format!("proxy.forward_ports={port}-{port}");
    let world = World::start(&["proxy.tls=hub", &ports, "proxy.forward_listen=127.0.0.1"])?;
    let _spoke = Spoke::start(&world.hub, None, "raw", "7/42")?;
    let hub = &world.hub;
    let forward = |tls| {
        json!({ "forwards": [{ "name": "raw", "protocol": "tcp", "listen_port": port,
            "sources": ["127.0.0.0/8"], "tls": tls }] })
    };
    let settle = |settings: &Value| {
        hub.command(&["service", "settings", "7/42", "--file", "-"])?.stdin(&settings.to_string()).run(CALL)
    };
    let status = |problem: &str| {
        eventually_ok(SOON, "the state of the forward", || {
            let shown = hub.json(&["service", "settings", "7/42"])?;
            let [row] = rows(&shown, "/status/forwards")? else { anyhow::bail!("{shown}") };
            let found = row.pointer("/problem").and_then(Value::as_str).unwrap_or_default();
            ensure!(found.is_empty() == problem.is_empty() && found.contains(problem), "{row}");
            Ok(())
        })
    };
    ensure!(settle(&forward(true))?.code == Some(0), "a forward with TLS");
    status("no TLS profile")?;
    hub.json(&["service", "tls", "set", "7/42", "--require-client-cert"])?;
    status("")?;
    let bare = settle(&forward(false))?;
    ensure!(bare.code == Some(2) && bare.stderr.contains("\"tls\": true"), "{}", bare.stderr);

    let prefix = world.files.path().join("acme").display().to_string();
    let issued = hub.json(&["service", "cert", "issue", "7/42", "acme", "--out", &prefix])?;
    let file = |ending: &str| format!("{prefix}.{ending}");
    let client = Client { ca: file("ca.crt"), certificate: file("crt"), key: file("key") };
    // The bytes behind it are HTTP here, and could be anything.
    let at = |arguments: &[&str]| world.curl_at(port, HOST, arguments);
    let shown = ["--cacert", &client.ca, "--cert", &client.certificate, "--key", &client.key];
    eventually_ok(SOON, "an answer of the service", || {
        let (status, body) = at(&shown)?;
        ensure!(status == 200, "{status} {body}");
        Ok(())
    })?;
    ensure!(at(&["--cacert", &client.ca])?.0 == 0, "without a certificate");
    hub.json(&["service", "cert", "revoke", "7/42", text(&issued, "/serial")?])?;
    eventually_ok(Duration::from_secs(2), "the end of the certificate", || {
        let (status, body) = at(&shown)?;
        ensure!(status == 0, "{status} {body}");
        Ok(())
    })
}

#[test]
fn the_hubs_own_certificate_is_for_the_host_names_of_its_services() -> Result<()> {
    if !require(&[Need::Program("curl"), Need::Program("openssl")]) {
        return Ok(());
    }
    let world = World::start(&["proxy.tls=hub"])?;
    let _spoke = Spoke::start(&world.hub, None, "greeter", "7/42")?;
    let token = world.hub.access_token("7/42")?;
    world.hub.wait_served("42", &token, SOON)?;
    let der = world.hub.state().join("ca.der").display().to_string();
    let ca = world.files.path().join("hub.pem").display().to_string();
    let arguments = ["x509", "-inform", "der", "-in", &der, "-out", &ca];
    let converted = Launch::new("openssl").args(arguments).run(CALL)?;
    ensure!(converted.code == Some(0), "{}", converted.stderr);
    let bearer = format!("Authorization: Bearer {token}");
    ensure!(world.curl(HOST, &["--cacert", &ca, "--header", &bearer])?.0 == 200, "by name alone");
    ensure!(world.curl("s1.b8.bp.example", &["--cacert", &ca])?.0 == 0, "nobody offers that");
    Ok(())
}

#[test]
fn certificate_files_are_read_again_by_themselves_and_at_a_signal() -> Result<()> {
    if !require(&[Need::Program("curl"), Need::Program("openssl")]) {
        return Ok(());
    }
    let files = tempfile::tempdir()?;
    let [certificate, key] = ["hub.pem", "hub.key"].map(|name| files.path().join(name));
    let make = || self_signed("hub", Some("hub.example"), &key, &certificate);
    make()?;
    let [certificate, key] = [&certificate, &key].map(|path| path.display().to_string());
    let settings = [
        "proxy.tls=files".to_owned(),
        format!("proxy.certificate={certificate}"),
        format!("proxy.key={key}"),
    ];
    let mut world = World::start(&settings.each_ref().map(String::as_str))?;
    let met =
        |world: &World| Ok::<_, anyhow::Error>(world.curl("hub.example", &["--cacert", &certificate])?.0);
    ensure!(met(&world)? == 401, "met with the first certificate");
    make()?;
    eventually_ok(SOON, "the second certificate", || {
        ensure!(met(&world)? == 401, "still the first");
        Ok(())
    })?;

    let kept = std::fs::read(&certificate)?;
    let copy = world.file("copy.pem", &String::from_utf8(kept.clone())?)?.display().to_string();
    std::fs::write(&certificate, "no certificate")?;
    world.hub.process.signal(nix::sys::signal::Signal::SIGHUP)?;
    eventually_ok(SOON, "a line about it", || {
        ensure!(world.hub.log().contains("the one before stays in use"), "nothing said");
        Ok(())
    })?;
    ensure!(world.curl("hub.example", &["--cacert", &copy])?.0 == 401, "the second is still in use");
    let metrics = world.hub.api(&Request::get("/metrics"))?.text();
    ensure!(metrics.contains("hub_proxy_certificate_reloads_total{result=\"used\"}"), "{metrics}");
    Ok(())
}

#[test]
fn machines_are_met_by_tls_1_3_alone_at_either_address() -> Result<()> {
    if !require(&[Need::Program("openssl")]) {
        return Ok(());
    }
    let world = World::start(&["proxy.tls=hub"])?;
    let line = world.hub.join_line(&[])?;
    let control: String = line
        .split("127.0.0.1:")
        .nth(1)
        .map(|rest| rest.chars().take_while(char::is_ascii_digit).collect())
        .context("no port of the control plane in the join line")?;
    for port in [control, world.port.to_string()] {
        let shake = |version| {
            let arguments = ["s_client", "-connect", &format!("127.0.0.1:{port}"), version];
            let named = ["-servername", "hub.blueprint.internal"];
            Launch::new("openssl").args(arguments).args(named).stdin("").run(CALL)
        };
        let old = shake("-tls1_2")?;
        ensure!(old.code != Some(0) && old.stderr.contains("protocol version"), "{}", old.stderr);
        let new = shake("-tls1_3")?;
        ensure!(new.stdout.contains("TLSv1.3"), "{}{}", new.stdout, new.stderr);
    }
    Ok(())
}

#[test]
fn machines_and_clients_share_the_address_of_the_proxy() -> Result<()> {
    if !require(&[Need::Program("curl")]) {
        return Ok(());
    }
    let world = World::start(&["proxy.tls=hub"])?;
    let port = world.port.to_string();
    let line = world.hub.join_line(&["--port", &port])?;
    ensure!(line.contains(&format!(":{port}/")), "another port is in the join line");
    let mut agent = Agent::join(None, "behind", &line)?.set("tunnel.carriers=tls");
    let service = Service::start(None, "greeter")?;
    agent.run()?;
    agent.offer("7/42", service.address)?;
    let token = world.hub.access_token("7/42")?;
    world.hub.wait_served("42", &token, SOON)?;
    eventually_ok(SOON, "the carrier in the agent's status", || {
        let status = agent.json(&["status"])?;
        ensure!(text(&status, "/data_plane/carrier")? == "tls", "{status}");
        Ok(())
    })?;
    let bearer = format!("Authorization: Bearer {token}");
    ensure!(world.curl(HOST, &["--insecure", "--header", &bearer])?.0 == 200, "a client at the same address");
    // The hub's name leads to the control plane alone, which speaks to machines.
    let inside = world.curl("hub.blueprint.internal", &["--insecure", "--header", &bearer])?;
    ensure!(inside.1.is_empty(), "a service behind the hub's own name: {inside:?}");

    let alone = World::start(&["proxy.tls=hub", "control.on_proxy=false"])?;
    let line = alone.hub.join_line(&["--port", &alone.port.to_string()])?;
    let refused = joining(None, "refused", &alone.files.path().join("state"))?.stdin(&line).run(CALL)?;
    ensure!(refused.code != Some(0), "joined where agents are not served");
    Ok(())
}
