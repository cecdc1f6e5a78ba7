//! Machines of Scaleway, at a fake of it: a whole life with a real hub, killed on the way; and what ended elsewhere.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use blueprint_tests_cloud::scaleway::{PROJECT, ScalewayDialect};
use blueprint_tests_cloud::{FakeCloud, Fault, Kind, Power};
use blueprint_tests_support::eventually_ok;
use tokio::runtime::Runtime;

use crate::fixture::{CALL, Hub, SOON, rows, text};

const KEY: &str = "canary00-1111-2222-3333-444444444444";

/// Longest wait for machines to be made or gone on a busy machine.
const SETTLED: Duration = Duration::from_secs(60);

fn until(hub: &Hub<'_>, fake: &FakeCloud, what: &str, wanted: &[Power]) -> Result<()> {
    let settled = eventually_ok(SETTLED, what, || {
        let found = fake.world(|world| world.machines.iter().map(|one| one.power).collect::<Vec<_>>());
        ensure!(found == wanted, "{found:?}");
        Ok(())
    });
    settled.with_context(|| hub.log())
}

#[test]
fn instances_live_from_order_to_end_and_leave_nothing() -> Result<()> {
    let runtime = Runtime::new()?;
    let dialect = ScalewayDialect::default();
    let fake = runtime.block_on(FakeCloud::start(dialect.clone(), KEY));
    let endpoint = format!("providers.scaleway.endpoint={}", fake.url());
    let mut hub = Hub::start(&[
        "hub.advertise=127.0.0.1",
        "providers.scaleway.enabled=true",
        "providers.scaleway.zones=par1,nl-ams-1",
        &endpoint,
        "provision.usd_per_eur=1.08",
        "provision.every=1s",
        "provision.call_again=2s",
        "provision.second_look=1s",
    ])?;
    let path = hub.state().join("scaleway.credentials");
    std::fs::write(&path, format!("secret_key = {KEY}\nproject_id = {PROJECT}\n"))?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    let checked = hub.json(&["provider", "check", "scaleway"])?;
    ensure!(text(&checked, "/account")? == PROJECT, "{checked}");

    // The answer to the first order is lost, so its machine is switched off and was told nothing; then the hub is killed.
    fake.fail(Kind::Create, Fault::DoAndBreak);
    let options = ["deploy", "--yes", "--provider", "scaleway", "--replicas", "2", "--request-key", "once"];
    let ordered = eventually_ok(SETTLED, "an order", || hub.json(&options))?;
    let id = text(&ordered, "/id")?.to_owned();
    hub.kill()?;
    hub.start_again()?;
    until(&hub, &fake, "two that run", &[Power::On, Power::On])?;
    let told =
        fake.world(|world| world.machines.iter().all(|one| one.user_data.starts_with("#cloud-config")));
    ensure!(told, "a machine was not told what to run");
    let disks = dialect.volumes().len();
    ensure!(disks == 2, "{disks} disks of two machines");

    hub.json(&["deployment", "stop", &id])?;
    until(&hub, &fake, "two that are off", &[Power::Off, Power::Off])?;
    hub.json(&["deployment", "start", &id])?;
    until(&hub, &fake, "two that run again", &[Power::On, Power::On])?;

    hub.json(&["deployment", "terminate", &id, "--yes"])?;
    hub.kill()?;
    hub.start_again()?;
    until(&hub, &fake, "none", &[])?;
    let left = eventually_ok(SETTLED, "no disk", || {
        let left = dialect.volumes();
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    });
    left.with_context(|| hub.log())?;
    ensure!(!hub.log().contains(KEY), "the log holds the key");
    Ok(())
}

#[test]
fn equinix_metal_is_refused_everywhere_with_who_sells_the_like() -> Result<()> {
    let hub = Hub::start(&[])?;
    let file = tempfile::tempdir()?;
    let declared = file.path().join("machines.toml");
    std::fs::write(&declared, "[[deployment]]\nname = \"old\"\nmachine = { provider = \"equinix\" }\n")?;
    let declared = declared.to_string_lossy();
    for arguments in [
        &["deploy", "--yes", "--provider", "equinix"][..],
        &["provider", "check", "equinix"],
        &["provider", "configure", "equinix"],
        &["apply", "-f", &declared, "--yes"],
        &["config", "check", "--set", "providers.equinix.enabled=true"],
    ] {
        let finished = hub.command(arguments)?.stdin("x").run(SOON)?;
        let told = finished.stderr.contains("2026-06-30") && finished.stderr.contains("Hivelocity");
        ensure!(finished.code != Some(0) && told, "{arguments:?}: {:?} {}", finished.code, finished.stderr);
    }
    let listed = hub.command(&["provider", "ls"])?.run(CALL)?;
    ensure!(listed.code == Some(0) && listed.stdout.contains("discontinued"), "{}", listed.stdout);
    let accounts = hub.json(&["provider", "ls"])?;
    let equinix = rows(&accounts, "/accounts")?.iter().find(|row| row["name"] == "equinix");
    let ended = equinix.and_then(|row| row["discontinued"].as_str()).context("equinix is listed")?;
    ensure!(ended.contains("Latitude.sh"), "{ended}");
    Ok(())
}
