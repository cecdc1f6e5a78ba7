//! Machines of DigitalOcean, at a fake of it: from the token to the last droplet, and the hub killed on the way.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use blueprint_tests_cloud::digitalocean::DigitalOceanDialect;
use blueprint_tests_cloud::{FakeCloud, Fault, Kind};
use blueprint_tests_support::eventually_ok;
use tokio::runtime::Runtime;

use crate::fixture::{Hub, SOON, text};

const TOKEN: &str = "dop_v1_canary0123456789";

/// Longest wait for droplets to be made or gone on a busy machine.
const SETTLED: Duration = Duration::from_secs(60);

fn write_token(hub: &Hub<'_>, mode: u32) -> Result<()> {
    let path = hub.state().join("digitalocean.credentials");
    std::fs::write(&path, format!("token = {TOKEN}\n"))?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode))?;
    Ok(())
}

fn until_there_are(hub: &Hub<'_>, fake: &FakeCloud, count: usize) -> Result<()> {
    let settled = eventually_ok(SETTLED, &format!("{count} droplets"), || {
        let names = fake.world(|world| world.machines.iter().map(|one| one.name.clone()).collect::<Vec<_>>());
        ensure!(names.len() == count, "{names:?}");
        Ok(())
    });
    settled.with_context(|| hub.log())
}

/// Nothing is ordered, and it is said why.
fn refused(hub: &Hub<'_>, word: &str) -> Result<()> {
    let finished = hub.command(&["deploy", "--yes", "--provider", "digitalocean"])?.run(SOON)?;
    ensure!(finished.code != Some(0) && finished.stderr.contains(word), "{word}: {}", finished.stderr);
    ensure!(!finished.stderr.contains("canary"), "{}", finished.stderr);
    Ok(())
}

#[test]
fn droplets_are_ordered_by_a_hub_that_is_killed_and_end_with_their_deployment() -> Result<()> {
    let runtime = Runtime::new()?;
    let dialect = DigitalOceanDialect::default();
    let fake = runtime.block_on(FakeCloud::start(dialect.clone(), TOKEN));
    let endpoint = format!("providers.digitalocean.endpoint={}", fake.url());
    let mut hub = Hub::start(&[
        "hub.advertise=127.0.0.1",
        "providers.digitalocean.enabled=true",
        "providers.digitalocean.regions=fra1,nyc1",
        &endpoint,
        "provision.every=1s",
        "provision.call_again=2s",
        "provision.second_look=1s",
    ])?;
    // A developer's own token is not used for anything but this fake.
    let own = ["DIGITALOCEAN_TOKEN", "DIGITALOCEAN_ACCESS_TOKEN", "DO_API_TOKEN", "DO_TOKEN"];
    if own.iter().all(|name| std::env::var_os(name).is_none()) {
        refused(&hub, "DIGITALOCEAN_TOKEN")?;
    }
    write_token(&hub, 0o644)?;
    refused(&hub, "chmod 600")?;
    write_token(&hub, 0o600)?;

    fake.fail(Kind::Create, Fault::DoAndBreak);
    let options =
        ["deploy", "--yes", "--provider", "digitalocean", "--replicas", "2", "--request-key", "once"];
    let ordered = eventually_ok(SETTLED, "an order", || hub.json(&options))?;
    let id = text(&ordered, "/id")?.to_owned();
    hub.kill()?;
    hub.start_again()?;
    ensure!(text(&hub.json(&options)?, "/id")? == id, "ordered twice");
    until_there_are(&hub, &fake, 2)?;
    let firewalls = dialect.firewalls();
    ensure!(firewalls.len() == 1, "{firewalls:?}");

    hub.json(&["deployment", "terminate", &id, "--yes"])?;
    hub.kill()?;
    hub.start_again()?;
    until_there_are(&hub, &fake, 0)?;
    no_secret_in(&hub, &hub.state().join("hub.db"))
}

/// The token is in no log and no database.
fn no_secret_in(hub: &Hub<'_>, database: &Path) -> Result<()> {
    ensure!(!hub.log().contains(TOKEN), "the log holds the token");
    for path in [database.to_owned(), database.with_extension("db-wal")] {
        let bytes = std::fs::read(&path).unwrap_or_default();
        let is_there = bytes.windows(TOKEN.len()).any(|part| part == TOKEN.as_bytes());
        ensure!(!is_there, "{} holds the token", path.display());
    }
    Ok(())
}
