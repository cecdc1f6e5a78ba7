//! Certificates by ACME, from Debian's `pebble`: the first, the one after a restart, and the next.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use blueprint_tests_support::http::Request;
use blueprint_tests_support::{Launch, Need, Process, eventually_ok, free_port, require};
use rcgen::{CertificateParams, KeyPair};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::fixture::{CALL, Hub, SOON, text};

const HOST: &str = "hub.example";

/// Life of pebble's certificates in seconds: they are ordered again after 13.
const LIFE: u64 = 20;

/// An ACME server, its name server, and where the hub is to have TLS.
struct Pebble {
    acme: Process,
    _names: Process,
    port: u16,
    manager: u16,
    hub: u16,
    files: TempDir,
}

impl Pebble {
    fn start() -> Result<Self> {
        let files = tempfile::tempdir()?;
        let key = KeyPair::generate()?;
        let own = CertificateParams::new(["localhost".to_owned()])?.self_signed(&key)?;
        let path = |name: &str| files.path().join(name).display().to_string();
        std::fs::write(path("pebble.pem"), own.pem())?;
        std::fs::write(path("pebble.key"), key.serialize_pem())?;
        let (port, manager, hub) = (free_port()?, free_port()?, free_port()?);
        let (unused, names, names_manager) = (free_port()?, free_port()?, free_port()?);
        let config = json!({ "pebble": {
            "listenAddress": format!("127.0.0.1:{port}"),
            "managementListenAddress": format!("127.0.0.1:{manager}"),
            "certificate": path("pebble.pem"), "privateKey": path("pebble.key"),
            "httpPort": unused, "tlsPort": hub, "certificateValidityPeriod": LIFE,
            "ocspResponderURL": "", "externalAccountBindingRequired": false,
        }});
        std::fs::write(path("pebble.json"), config.to_string())?;
        let names_at = format!("127.0.0.1:{names}");
        let none = ["-http01", "", "-https01", "", "-tlsalpn01", "", "-defaultIPv6", ""];
        let names = Launch::new("pebble-challtestsrv")
            .args(none)
            .args(["-defaultIPv4", "127.0.0.1", "-dns01", &names_at])
            .args(["-management", &format!("127.0.0.1:{names_manager}")])
            .start()?;
        let acme = Launch::new("pebble")
            .env("PEBBLE_VA_NOSLEEP", "1")
            .args(["-config", &path("pebble.json"), "-dnsserver", &names_at])
            .start()?;
        let pebble = Self { acme, _names: names, port, manager, hub, files };
        eventually_ok(SOON, "the directory of pebble", || pebble.curl(pebble.port, "/dir").map(drop))?;
        Ok(pebble)
    }

    fn file(&self, name: &str) -> String {
        self.files.path().join(name).display().to_string()
    }

    fn curl(&self, port: u16, path: &str) -> Result<String> {
        let url = format!("https://localhost:{port}{path}");
        let launch =
            Launch::new("curl").args(["--silent", "--fail", "--cacert", &self.file("pebble.pem"), &url]);
        let finished = launch.run(CALL)?;
        ensure!(finished.code == Some(0), "curl {url}: {:?}", finished.code);
        Ok(finished.stdout)
    }

    /// A request to the hub by TLS that believes pebble alone; 0 where it is met with another certificate.
    fn ask_hub(&self) -> Result<u16> {
        std::fs::write(self.file("root.pem"), self.curl(self.manager, "/roots/0")?)?;
        self.ask_hub_again()
    }

    /// The same by the root that is known.
    fn ask_hub_again(&self) -> Result<u16> {
        let resolve = format!("{HOST}:{}:127.0.0.1", self.hub);
        let url = format!("https://{HOST}:{}/", self.hub);
        let arguments =
            ["--silent", "--cacert", &self.file("root.pem"), "--resolve", &resolve, "--output", "/dev/null"];
        let launch = Launch::new("curl").args(arguments).args(["--write-out", "%{http_code}", &url]);
        Ok(launch.run(CALL)?.stdout.trim().parse()?)
    }
}

fn orders(hub: &Hub<'_>, result: &str) -> Result<u64> {
    let metrics = hub.api(&Request::get("/metrics"))?.text();
    let line = format!("hub_proxy_acme_orders_total{{result=\"{result}\"}} ");
    let count = metrics.lines().find_map(|found| found.strip_prefix(&line));
    Ok(count.with_context(|| format!("{line} is not in\n{metrics}"))?.parse()?)
}

fn acme(hub: &Hub<'_>) -> Result<Value> {
    Ok(hub.json(&["status"])?.get("acme").cloned().unwrap_or_default())
}

fn is_private(path: &Path) -> Result<bool> {
    Ok(std::fs::metadata(path)?.permissions().mode() & 0o777 == 0o600)
}

#[test]
fn a_certificate_is_ordered_kept_over_a_restart_and_ordered_again_in_time() -> Result<()> {
    if !require(&[Need::Program("pebble"), Need::Program("pebble-challtestsrv"), Need::Program("curl")]) {
        return Ok(());
    }
    let mut pebble = Pebble::start()?;
    let settings = [
        "proxy.tls=acme".to_owned(),
        format!("proxy.tls_listen=127.0.0.1:{}", pebble.hub),
        format!("proxy.acme_directory=https://localhost:{}/dir", pebble.port),
        format!("proxy.acme_roots={}", pebble.file("pebble.pem")),
        format!("proxy.acme_names={HOST}"),
        "proxy.acme_contact=ops@hub.example".to_owned(),
        "proxy.acme_agree_terms=true".to_owned(),
    ];
    let mut hub = Hub::start(&settings.each_ref().map(String::as_str))?;
    eventually_ok(SOON, "the first certificate", || {
        ensure!(orders(&hub, "done")? == 1, "{}", hub.log());
        ensure!(pebble.ask_hub()? == 401, "another certificate");
        Ok(())
    })?;
    let first = acme(&hub)?;
    ensure!(text(&first, "/names/0")? == HOST && first.get("failures") == Some(&json!(0)), "{first}");

    hub.kill()?;
    hub.start_again()?;
    ensure!(pebble.ask_hub()? == 401, "the certificate is there before the next is ordered");
    ensure!(text(&acme(&hub)?, "/until")? == text(&first, "/until")?, "the same one");

    let again = SOON + Duration::from_secs(LIFE);
    eventually_ok(again, "the next certificate", || {
        let until = acme(&hub)?;
        ensure!(text(&until, "/until")? > text(&first, "/until")?, "{until}");
        ensure!(orders(&hub, "done")? == 1 && orders(&hub, "failed")? == 0, "{}", hub.log());
        Ok(())
    })?;
    ensure!(pebble.ask_hub()? == 401, "met with the next one");

    // A server that is gone: the certificate at hand stays in use, and the operator is told.
    let last = acme(&hub)?;
    pebble.acme.kill()?;
    eventually_ok(again, "a failure in the status", || {
        let state = acme(&hub)?;
        ensure!(state.get("failures") == Some(&json!(1)), "{state}");
        ensure!(text(&state, "/error")?.contains("acme server"), "{state}");
        ensure!(text(&state, "/until")? == text(&last, "/until")?, "{state}");
        Ok(())
    })?;
    let said = hub.command(&["status"])?.run(CALL)?;
    ensure!(said.stdout.contains("1 orders failed"), "{}", said.stdout);
    for name in ["acme.pem", "acme-account.json"] {
        ensure!(is_private(&hub.state().join(name))?, "{name} is for its owner alone");
    }
    ensure!(!hub.log().contains("PRIVATE KEY"), "no key in the log");
    Ok(())
}
