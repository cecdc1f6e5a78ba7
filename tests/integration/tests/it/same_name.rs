//! Two deployments of one name: the older one is being ended when the newer one is ordered.

use anyhow::{Result, ensure};

use crate::fixture::{CALL, Hub, rows, text};

#[test]
fn a_name_is_that_of_the_deployment_that_lasts_while_an_older_one_ends() -> Result<()> {
    // A cloud has to say twice that a machine is gone, and until then its deployment is being ended.
    let settings = ["providers.sim.enabled=true", "hub.advertise=127.0.0.1", "provision.second_look=10m"];
    let hub = Hub::start(&settings)?;
    let order = |key: &str| -> Result<String> {
        let ordered = hub.json(&["deploy", "--yes", "--name", "web", "--request-key", key])?;
        Ok(text(&ordered, "/id")?.to_owned())
    };
    let old = order("first")?;
    ensure!(text(&hub.json(&["deployment", "show", "web"])?, "/id")? == old);
    hub.json(&["deployment", "terminate", "web", "--yes"])?;
    ensure!(text(&hub.json(&["deployment", "show", "web"])?, "/state")? == "terminating");

    let new = order("second")?;
    ensure!(new != old, "the one that ends was ordered again");
    let shown = hub.json(&["deployment", "show", "web"])?;
    ensure!(text(&shown, "/id")? == new, "{shown}");
    ensure!(rows(&shown, "/others")?.len() == 1 && text(&shown, "/others/0/id")? == old, "{shown}");
    ensure!(text(&shown, "/others/0/state")? == "terminating", "{shown}");
    let read = hub.command(&["deployment", "show", "web"])?.run(CALL)?;
    ensure!(
        read.code == Some(0) && read.stderr.contains(&format!("deployment show {old}")),
        "{}",
        read.stderr
    );
    let stopped = hub.json(&["deployment", "stop", "web"])?;
    ensure!(text(&stopped, "/id")? == new && text(&stopped, "/wanted")? == "stopped", "{stopped}");

    hub.json(&["deployment", "terminate", "web", "--yes"])?;
    let shown = hub.json(&["deployment", "show", "web"])?;
    // The newest as long as it is not over, which it is at once where its machine was not made yet.
    ensure!(text(&shown, "/wanted")? == "gone", "{shown}");
    let refused = hub.command(&["deployment", "start", "web"])?.run(CALL)?;
    ensure!(refused.code != Some(0), "what ends was started");
    Ok(())
}
