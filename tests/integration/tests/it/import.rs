//! Files of the Manager's remote mode through the real hub: explained, stored once, and used by the next order.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use blueprint_tests_support::{Need, binary, eventually_ok, require, scratch};
use serde_json::Value;

use crate::fixture::{CALL, Hub, SOON, json_of, rows, text};

/// Longest wait for machines on a busy machine.
const SETTLED: Duration = Duration::from_secs(90);

/// A file of the importer's own tests.
fn fixture(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../hub/import-core/tests/files").join(name);
    path.display().to_string()
}

fn import(hub: &Hub<'_>, files: &[&str], options: &[&str]) -> Result<Value> {
    let files: Vec<String> = files.iter().map(|name| fixture(name)).collect();
    let command = hub.command(&["import", "--output", "json"])?.args(options).args(&files);
    let command = command.env("AWS_CANARY", "canary-of-the-environment").env("WIREGUARD_KEY", "canary-key");
    json_of(&command.env("FLY_AUTH_TOKEN", "canary-of-fly").run(SOON)?)
}

/// Whether a subject came to this outcome in a part of the answer; several files may name it.
fn came_to(answer: &Value, part: &str, subject: &str, outcome: &str) -> Result<()> {
    let found = rows(answer, part)?.iter().filter(|row| row["subject"] == subject);
    let outcomes: Vec<_> = found.map(|row| text(row, "/outcome")).collect::<Result<_>>()?;
    ensure!(outcomes.contains(&outcome), "{subject} of {part} came to {outcomes:?}, not {outcome}");
    Ok(())
}

/// Every file below a folder.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let (mut found, mut open) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(at) = open.pop() {
        for entry in std::fs::read_dir(at)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                open.push(entry.path());
            } else if kind.is_file() {
                found.push(entry.path());
            }
        }
    }
    Ok(found)
}

#[test]
fn every_file_is_explained_and_stored_once_and_no_secret_is_written_in_clear() -> Result<()> {
    let hub = Hub::start(&["hub.advertise=127.0.0.1"])?;
    let config = hub.state().join("hub.toml");
    let before = std::fs::read_to_string(&config)?;
    let all = [
        "operator.toml",
        "remote.toml",
        "guide.toml",
        "cloud.json",
        "deployment_state.json",
        "providers.yml",
        "variables.env",
        "preferences.toml",
        "pricing.toml",
        "pricing-engine.toml",
        "machines.csv",
        "deployment-policy.json",
    ];

    // A look changes nothing.
    let looked = import(&hub, &all, &["--dry-run"])?;
    ensure!(looked["stored"] == false && rows(&looked, "/files")?.len() == all.len(), "{looked}");
    for file in rows(&looked, "/files")? {
        ensure!(file["unknown"] == 0, "{file}");
    }
    ensure!(std::fs::read_to_string(&config)? == before, "a dry run wrote");
    ensure!(!hub.state().join("remotes.toml").exists() && !hub.state().join("known-machines.json").exists());

    let stored = import(&hub, &all, &["--yes", "--strict"])?;
    ensure!(stored["stored"] == true && stored["restart"] == true, "{stored}");
    came_to(&stored, "/settings", "provision.max_order_hourly", "set")?;
    // What `init` was told stays until somebody says otherwise.
    came_to(&stored, "/settings", "hub.advertise", "kept")?;
    came_to(&stored, "/credentials", "digitalocean", "set")?;
    came_to(&stored, "/remotes", "gpu", "set")?;
    ensure!(rows(&stored, "/machines")?.len() == 4 && !rows(&stored, "/by_hand")?.is_empty(), "{stored}");
    let shown = hub.json(&["config", "show"])?;
    let value = |key: &str| -> Result<String> {
        let row = shown.as_array().context("no list")?.iter().find(|row| row["key"] == key);
        Ok(text(row.with_context(|| format!("no {key}"))?, "/value")?.to_owned())
    };
    ensure!(value("provision.max_order_hourly")? == "5.00" && value("provision.spot")? == "preferred");
    ensure!(value("provision.ttl")? == "24h" && value("providers.digitalocean.enabled")? == "true");
    let accounts = hub.json(&["provider", "ls"])?;
    let account = rows(&accounts, "/accounts")?.iter().find(|row| row["name"] == "digitalocean");
    ensure!(account.context("no account")?["credentials"]["source"] == "sealed", "{accounts}");

    // Again: all is as it is.
    let again = import(&hub, &["operator.toml", "remote.toml"], &["--yes"])?;
    came_to(&again, "/remotes", "homelab", "as it is")?;
    // Two files have hosts of the provider ssh, which no order could tell apart.
    let merged = hub.command(&["deploy", "--dry-run", "--remote", "homelab"])?.run(CALL)?;
    ensure!(merged.code == Some(2) && merged.stderr.contains("could land on another"), "{}", merged.stderr);
    let twice = import(&hub, &["variables.env"], &["--yes"])?;
    came_to(&twice, "/credentials", "digitalocean", "kept")?;

    let known = hub.json(&["inventory", "--known"])?;
    ensure!(rows(&known, "/known")?.len() == 4, "{known}");
    ensure!(rows(&hub.json(&["inventory"])?, "/known")?.len() == 4);
    hub.json(&["inventory", "--forget", "m-1"])?;
    ensure!(hub.command(&["inventory", "--forget", "m-1"])?.run(CALL)?.code == Some(3));
    ensure!(rows(&hub.json(&["inventory", "--known"])?, "/known")?.len() == 3);

    let said = format!("{looked}{stored}{again}{twice}{}", hub.log());
    ensure!(!said.to_lowercase().contains("canary"), "a secret was shown");
    for path in files(&hub.state())? {
        let content = String::from_utf8_lossy(&std::fs::read(&path)?).to_lowercase();
        ensure!(!content.contains("canary"), "{} holds a secret in clear", path.display());
    }
    Ok(())
}

#[test]
fn a_file_that_cannot_be_imported_changes_nothing_and_says_why() -> Result<()> {
    let mut hub = Hub::start(&["hub.advertise=127.0.0.1"])?;
    let config = hub.state().join("hub.toml");
    let before = std::fs::read_to_string(&config)?;
    let folder = scratch("import")?;
    let write = |name: &str, content: &str| -> Result<String> {
        let path = folder.path().join(name);
        std::fs::write(&path, content)?;
        Ok(path.display().to_string())
    };
    let ended = |hub: &Hub<'_>, arguments: &[&str], code: i32, says: &str| -> Result<()> {
        let finished = hub.command(arguments)?.run(CALL)?;
        let said = format!("{}{}", finished.stdout, finished.stderr);
        ensure!(
            finished.code == Some(code) && said.contains(says),
            "{arguments:?}: {:?} {said}",
            finished.code
        );
        Ok(())
    };
    let strange = write("strange.toml", "colour = 1\n")?;
    let broken = write("broken.yml", "aws:\n  api_key: *canary\n")?;
    let mistyped = write("mistyped.toml", "[operator.deployment]\nmode = \"local\"\nmax_cost_per_hor = 1\n")?;
    ended(&hub, &["import", &strange, "--yes"], 2, "none of the files")?;
    ended(&hub, &["import", &broken, "--yes"], 2, "line 2")?;
    ended(&hub, &["import", "/nonexistent/file", "--yes"], 3, "name a file that this user may read")?;
    ended(&hub, &["import", &mistyped, "--yes", "--strict"], 2, "did you mean max_cost_per_hour?")?;
    ended(&hub, &["import", &mistyped], 2, "nobody is there to agree")?;
    let sections = (0..=1000).map(|n| format!("[remote.r{n}]\ntype = \"aws\"\n")).collect::<String>();
    let many = write("many.toml", &sections)?;
    let early = write("early.yml", "digitalocean: canary\n")?;
    ended(&hub, &["import", &many, &early, "--yes"], 2, "at most 1000 are kept; nothing was stored")?;
    let accounts = hub.json(&["provider", "ls"])?;
    ensure!(rows(&accounts, "/accounts")?.iter().all(|row| row["sealed"].is_null()), "{accounts}");
    let allowed = write("allowed.toml", "allowed_types = [\"AwsEc2\", \"AwsEks\"]\n")?;
    ended(&hub, &["import", &allowed, "--dry-run"], 0, "\"AwsEks\" is left out")?;
    let on = "the provider digitalocean is on and not among allowed_types";
    ended(&hub, &["import", &allowed, &early, "--dry-run"], 0, on)?;
    ensure!(std::fs::read_to_string(&config)? == before);

    // Without a hub nothing can be sealed, and then nothing else is stored.
    hub.kill()?;
    let secret = write("providers.yml", "digitalocean: canary\n")?;
    ended(&hub, &["import", &secret, "--yes"], 6, "--without-credentials")?;
    ended(&hub, &["import", &secret, "--dry-run"], 0, "no hub runs to be asked")?;
    ensure!(std::fs::read_to_string(&config)? == before);
    ended(&hub, &["import", &secret, "--yes", "--without-credentials"], 0, "1 settings")?;
    ended(&hub, &["import", &mistyped, "--yes"], 0, "start the hub again")?;
    let after = std::fs::read_to_string(&config)?;
    ensure!(after.contains("strategy = \"local-only\"") && after != before, "{after}");
    ended(&hub, &["config", "check"], 0, "good")
}

#[test]
fn an_order_goes_to_an_imported_remote_and_heeds_the_preferences() -> Result<()> {
    let hub = Hub::start(&[
        "providers.sim.enabled=true",
        "hub.advertise=127.0.0.1",
        "provision.every=1s",
        "provision.ttl=6h",
        "provision.max_order_hourly=0.012",
        "provision.spot=never",
    ])?;
    let folder = scratch("remotes")?;
    let file = folder.path().join("remotes.toml");
    let sections = "[remote.play]\ntype = \"sim\"\nresources = { max_instances = 2 }\n[remote.eks]\ntype = \"kubernetes\"\n";
    std::fs::write(&file, sections)?;
    let file = file.display().to_string();
    let refused = |arguments: &[&str], code: i32, says: &str| -> Result<()> {
        let finished = hub.command(arguments)?.run(CALL)?;
        ensure!(
            finished.code == Some(code) && finished.stderr.contains(says),
            "{arguments:?}: {}",
            finished.stderr
        );
        Ok(())
    };
    // From the file alone, then from what the hub keeps of it.
    let dry = ["deploy", "--dry-run", "--remote", "play"];
    let plan = hub.json(&[&dry[..], &["--remote-config", &file]].concat())?;
    ensure!(text(&plan, "/plan/0/provider")? == "sim" && plan["ttl_secs"] == 6 * 3600, "{plan}");
    refused(&["deploy", "--dry-run", "--remote", "play"], 3, "no provider is called \"play\"")?;
    refused(&["deploy", "--dry-run", "--remote-config", &file], 2, "has 2 remotes")?;
    hub.json(&["import", &file, "--yes"])?;
    ensure!(text(&hub.json(&dry)?, "/plan/0/provider")? == "sim");
    refused(&["deploy", "--dry-run", "--remote", "eks"], 2, "no clusters")?;
    refused(&["deploy", "--dry-run", "--remote", "play", "--replicas", "3"], 2, "2 machines at most")?;
    refused(&["deploy", "--dry-run", "--remote", "play", "--spot"], 2, "provision.spot")?;
    // 0.005 an hour each: two fit into the limit of an order, three do not.
    ensure!(text(&hub.json(&[&dry[..], &["--replicas", "2"]].concat())?, "/hourly")? == "0.01");
    refused(&["deploy", "--dry-run", "--remote", "sim", "--replicas", "3"], 2, "fits")?;
    Ok(())
}

#[test]
fn a_package_runs_on_the_machine_that_is_ordered_for_it() -> Result<()> {
    if !require(&[Need::Root]) {
        return Ok(());
    }
    let hub = Hub::start(&["providers.sim.enabled=true", "hub.advertise=127.0.0.1", "provision.every=1s"])?;
    // Machines of the simulated cloud are in the hub's folder, which the users of workloads may not pass.
    let folder = scratch("package")?;
    let document = folder.path().join("workload.json");
    std::fs::write(&document, "{\"sandbox\": {\"own_user\": false}}")?;
    let document = document.display().to_string();
    let program = binary("blueprint-example-service")?.display().to_string();
    let missing =
        hub.command(&["deploy", "--yes", "--service", "7/42", "--package", "no-such"])?.run(CALL)?;
    ensure!(
        missing.code == Some(3) && missing.stderr.contains("cargo build --release"),
        "{}",
        missing.stderr
    );
    let order =
        ["deploy", "--yes", "--remote", "sim", "--service", "7/42", "--wait", "60s", "--package", &program];
    let command = hub.command(&order)?.args(["--workload", &document, "--output", "json"]);
    let ordered = json_of(&command.run(SETTLED)?).with_context(|| hub.log())?;
    ensure!(text(&ordered, "/workload/state")? == "running", "{ordered}");
    ensure!(text(&ordered, "/deployment/state")? == "running", "{ordered}");
    hub.wait_served("42", &hub.access_token("7/42")?, SOON)?;
    let id = text(&ordered, "/deployment/id")?;
    hub.json(&["workload", "rm", "7/42"])?;
    hub.json(&["terminate", id, "--yes"])?;
    eventually_ok(SETTLED, "the machine is gone", || {
        let shown = hub.json(&["deployment", "show", id])?;
        ensure!(text(&shown, "/state")? == "gone", "{shown}");
        Ok(())
    })
}
