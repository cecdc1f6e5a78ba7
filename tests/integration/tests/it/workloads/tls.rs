//! TLS profiles that blueprints hand over at their bridge: in force at once, and over restarts of the hub.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use blueprint_tests_support::{Launch, Need, free_port, require};

use super::is_possible;
use super::rig::{self, Node};
use crate::certificate::self_signed;
use crate::fixture::{CALL, Hub, SOON};

const HOST: &str = "s42.b7.bp.example";

/// How soon a profile is in force once its blueprint has handed it over; the example looks at its files 10 times a second.
const AT_ONCE: Duration = Duration::from_millis(1100);

/// Makes a certificate for the service with its key, where any user may read them.
pub(super) fn make(folder: &Path) -> Result<()> {
    self_signed("service", Some(HOST), &folder.join("new.key"), &folder.join("new.pem"))?;
    for end in ["key", "pem"] {
        let new = folder.join(format!("new.{end}"));
        std::fs::set_permissions(&new, std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
        std::fs::rename(&new, folder.join(format!("service.{end}")))?;
    }
    Ok(())
}

/// How long it takes until the service is met with the certificate that lies in `folder`.
pub(super) fn met(folder: &Path, port: u16, token: &str, within: Duration) -> Result<Duration> {
    let begun = Instant::now();
    loop {
        let got = Launch::new("curl")
            .args(["--silent", "--max-time", "5", "--write-out", "%{http_code}", "--output", "/dev/null"])
            .args(["--resolve".to_owned(), format!("{HOST}:{port}:127.0.0.1")])
            .args(["--cacert".into(), folder.join("service.pem")])
            .args(["--header".to_owned(), format!("Authorization: Bearer {token}")])
            .arg(format!("https://{HOST}:{port}/"))
            .run(CALL)?;
        if got.stdout == "200" {
            return Ok(begun.elapsed());
        }
        ensure!(begun.elapsed() < within, "not met after {within:?}: {} {}", got.stdout, got.stderr);
    }
}

#[test]
fn a_certificate_that_a_blueprint_hands_over_is_in_force_within_a_second_and_after_a_restart() -> Result<()> {
    if !is_possible() || !require(&[Need::Program("curl"), Need::Program("openssl")]) {
        return Ok(());
    }
    let port = free_port()?;
    let listen = format!("proxy.tls_listen=127.0.0.1:{port}");
    let mut hub = Hub::start(&[&listen, "proxy.tls=hub", "proxy.domain=bp.example"])?;
    let node = Node::start(&hub, None, "one")?;
    let folder = node.folder("files")?;
    make(&folder)?;
    let program = rig::program(&node)?.display().to_string();
    let named = |name: &str, file: &str| format!("EXAMPLE_TLS_{name}={}", folder.join(file).display());
    let (certificate, key) = (named("CERTIFICATE", "service.pem"), named("KEY", "service.key"));
    let run = ["workload", "run", "7/42", "--path", &program, "--env", &certificate, "--env", &key];
    hub.json(&run)?;
    let token = hub.access_token("7/42")?;
    hub.wait_served("42", &token, SOON)?;
    met(&folder, port, &token, SOON).with_context(|| node.agent.log())?;

    make(&folder)?;
    let took = met(&folder, port, &token, SOON)?;
    ensure!(took <= AT_ONCE, "the next certificate took {took:?}");

    hub.kill()?;
    hub.start_again()?;
    met(&folder, port, &token, SOON).context("after a restart")?;
    Ok(())
}
