//! What a new machine is told, in the eyes of those that read it there: cloud-init and systemd.

mod paths;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use blueprint_common_types::Secret;
use blueprint_hub_bootstrap_core::{AgentArch, Bootstrap};
use blueprint_tests_support::{Launch, Need, require, scratch};

/// Python takes seconds to start on a busy machine.
const WITHIN: Duration = Duration::from_secs(60);

/// Worst exposure of the agent's unit, in tenths.
const WORST_EXPOSURE: &str = "20";

fn bootstrap() -> Result<Bootstrap> {
    let digest = "ab".repeat(32).parse().ok().context("a digest")?;
    Ok(Bootstrap {
        name: "bp-abcdefghijklmnop-1".to_owned(),
        join_line: Secret::new("hub.example.org:7443/PIN/TOKEN".to_owned()),
        identity: None,
        agents: BTreeMap::from([(AgentArch::X86_64, digest)]),
        url: Secret::new("https://hub.example.org:7443/agent/0123456789abcdef/TICKET".to_owned()),
        within_secs: 900,
        powers_off: true,
        by_cloud_init: true,
        has_devices: true,
        allows_unlimited: false,
    })
}

#[test]
fn cloud_init_finds_nothing_wrong_with_the_user_data() -> Result<()> {
    if !require(&[Need::Program("cloud-init")]) {
        return Ok(());
    }
    let folder = scratch("bootstrap")?;
    let file = folder.path().join("user-data");
    std::fs::write(&file, bootstrap()?.cloud_config()?.expose())?;
    let checked = Launch::new("cloud-init").args(["schema", "--config-file"]).arg(&file).run(WITHIN)?;
    ensure!(checked.code == Some(0), "{}{}", checked.stdout, checked.stderr);
    let is_warned = ["Deprecated", "Invalid", "Error"].iter().any(|word| checked.stdout.contains(word));
    ensure!(!is_warned, "{}", checked.stdout);
    Ok(())
}

#[test]
fn the_agents_unit_is_hardened_and_all_units_are_right() -> Result<()> {
    if !require(&[Need::Program("systemd-analyze")]) {
        return Ok(());
    }
    let folder = scratch("bootstrap")?;
    for file in bootstrap()?.files()? {
        let name = file.path.rsplit('/').next().unwrap_or(file.path);
        std::fs::write(folder.path().join(name), file.content.expose())?;
    }
    let agent = folder.path().join("blueprint-agent.service");
    let analysed = Launch::new("systemd-analyze")
        .args(["security", "--offline=yes", "--no-pager", "--threshold", WORST_EXPOSURE])
        .arg(&agent)
        .run(WITHIN)?;
    ensure!(analysed.code == Some(0), "{}{}", analysed.stdout, analysed.stderr);
    for script in ["bootstrap", "firewall"] {
        let checked = Launch::new("sh").arg("-n").arg(folder.path().join(script)).run(WITHIN)?;
        ensure!(checked.code == Some(0), "{script}: {}", checked.stderr);
    }
    // systemd names what it does not understand, and goes on.
    let verify = |name: &str| Launch::new("systemd-analyze").args(["verify"]).arg(folder.path().join(name));
    for unit in ["blueprint-agent.service", "blueprint-bootstrap.service", "blueprint-firewall.service"] {
        let said = verify(unit).run(WITHIN)?.stderr;
        let about_unit: Vec<_> = said.lines().filter(|line| line.contains("Unknown")).collect();
        ensure!(about_unit.is_empty(), "{unit}: {said}");
    }
    Ok(())
}
