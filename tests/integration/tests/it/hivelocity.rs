//! Devices of Hivelocity, at a fake of it: delivered late, switched, and cancelled until the cancellation holds.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use blueprint_tests_cloud::hivelocity::HivelocityDialect;
use blueprint_tests_cloud::{FakeCloud, Power};
use blueprint_tests_support::eventually_ok;
use tokio::runtime::Runtime;

use crate::fixture::{Hub, SOON, text};

const KEY: &str = "canary-of-an-api-key";

/// Longest wait for devices to be made or gone on a busy machine; calls are one a second.
const SETTLED: Duration = Duration::from_secs(90);

fn until(hub: &Hub<'_>, fake: &FakeCloud, what: &str, wanted: &[Power]) -> Result<()> {
    let settled = eventually_ok(SETTLED, what, || {
        let found = fake.world(|world| world.machines.iter().map(|one| one.power).collect::<Vec<_>>());
        ensure!(found == wanted, "{found:?}");
        Ok(())
    });
    settled.with_context(|| hub.log())
}

#[test]
fn a_device_is_waited_for_and_its_cancellation_is_tried_until_it_holds() -> Result<()> {
    let runtime = Runtime::new()?;
    let dialect = HivelocityDialect::default();
    dialect.deliver_late();
    let fake = runtime.block_on(FakeCloud::start(dialect.clone(), KEY));
    let endpoint = format!("providers.hivelocity.endpoint={}", fake.url());
    let mut hub = Hub::start(&[
        "hub.advertise=127.0.0.1",
        "providers.hivelocity.enabled=true",
        "providers.hivelocity.facilities=new-york",
        &endpoint,
        "provision.every=1s",
        "provision.second_look=1s",
        // The time to deliver comes on top, else the device would be given up at once.
        "provision.join_within=1s",
    ])?;
    let configured = hub.command(&["provider", "configure", "hivelocity"])?.stdin(KEY).run(SOON)?;
    ensure!(configured.code == Some(0), "{}", configured.stderr);
    hub.json(&["provider", "check", "hivelocity"])?;
    let options = ["deploy", "--yes", "--provider", "hivelocity", "--request-key", "once"];
    let ordered = eventually_ok(SETTLED, "an order", || hub.json(&options))?;
    let id = text(&ordered, "/id")?.to_owned();
    until(&hub, &fake, "one that is not delivered", &[Power::Starting])?;
    hub.kill()?;
    hub.start_again()?;
    fake.world(|world| world.machines.iter_mut().for_each(|one| one.power = Power::On));

    hub.json(&["deployment", "stop", &id])?;
    until(&hub, &fake, "one that is off", &[Power::Off])?;
    hub.json(&["deployment", "start", &id])?;
    until(&hub, &fake, "one that runs again", &[Power::On])?;
    dialect.fail_cancellation();
    hub.json(&["deployment", "terminate", &id, "--yes"])?;
    until(&hub, &fake, "none", &[])?;
    ensure!(!hub.log().contains(KEY), "the log holds the key");
    Ok(())
}
