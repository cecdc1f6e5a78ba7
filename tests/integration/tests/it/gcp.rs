//! Machines of Compute Engine, at a fake of it: from the key of a service account to the last machine, with a real agent that
//! joins by what its machine was told, and the hub killed on the way.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use blueprint_tests_cloud::gcp::{GcpDialect, PROJECT, ServiceAccount};
use blueprint_tests_cloud::{FakeCloud, Fault, Kind, Machine, Power};
use blueprint_tests_support::{Need, eventually_ok, require, scratch};
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::fixture::{Agent, Hub, SOON, json_of, rows, text};

/// What Google gives for the key.
const TOKEN: &str = "ya29.canary-of-google";

/// Longest wait for machines to be made, switched or gone on a busy machine.
const SETTLED: Duration = Duration::from_secs(90);

/// Variables of a developer's own account, set to nothing.
const VARIABLES: [&str; 6] = [
    "GCP_PROJECT_ID",
    "GOOGLE_CLOUD_PROJECT",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "GCP_ACCESS_TOKEN",
    "GCP_SERVICE_ACCOUNT_KEY",
    "GCP_API_KEY",
];

fn start(fake: &FakeCloud) -> Result<Hub<'static>> {
    let settings = [
        "hub.advertise=127.0.0.1".to_owned(),
        "providers.gcp.enabled=true".to_owned(),
        "providers.gcp.regions=us-central1".to_owned(),
        format!("providers.gcp.endpoint={}", fake.url()),
        "provision.every=1s".to_owned(),
        "provision.call_again=2s".to_owned(),
        "provision.second_look=1s".to_owned(),
        "provision.max_price_age_days=3650".to_owned(),
    ];
    let mut environment: Vec<_> = VARIABLES.map(|name| (name, String::new())).into();
    // Nothing listens there: this machine may be one of Google's.
    environment.push(("GCE_METADATA_HOST", "127.0.0.1:1".to_owned()));
    Hub::start_with(&settings.each_ref().map(String::as_str), environment)
}

fn machines(fake: &FakeCloud) -> Vec<Machine> {
    fake.world(|world| {
        let is_ours =
            |machine: &&Machine| machine.tags.iter().any(|tag| tag.starts_with("blueprint-instance="));
        world.machines.iter().filter(is_ours).cloned().collect()
    })
}

fn until_there_are(hub: &Hub<'_>, fake: &FakeCloud, count: usize) -> Result<Vec<Machine>> {
    let settled = eventually_ok(SETTLED, &format!("{count} machines"), || {
        let there = machines(fake);
        let names: Vec<_> = there.iter().map(|machine| &machine.name).collect();
        ensure!(names.len() == count, "{names:?}");
        Ok(there)
    });
    settled.with_context(|| hub.log())
}

fn until_it_is(hub: &Hub<'_>, id: &str, state: &str) -> Result<()> {
    let settled = eventually_ok(SETTLED, state, || {
        let shown = hub.json(&["deployment", "show", id])?;
        ensure!(text(&shown, "/state")? == state, "{shown}");
        Ok(())
    });
    settled.with_context(|| hub.log())
}

/// The join line that a machine reads in its user data.
fn join_line(machine: &Machine) -> Result<String> {
    let document = machine.user_data.strip_prefix("#cloud-config\n").context("no #cloud-config")?;
    let document: Value = serde_json::from_str(document)?;
    let files = rows(&document, "/write_files")?;
    let file = files.iter().find(|file| file.pointer("/path") == Some(&"/etc/blueprint-agent/join".into()));
    Ok(text(file.context("no join line")?, "/content")?.trim().to_owned())
}

#[test]
fn a_machine_of_google_joins_stops_starts_and_ends_and_the_hub_is_killed_on_the_way() -> Result<()> {
    if !require(&[Need::Program("openssl")]) {
        return Ok(());
    }
    let (runtime, folder) = (Runtime::new()?, scratch("gcp")?);
    let owner = ServiceAccount::make(folder.path())?;
    let dialect = GcpDialect::new(2);
    let fake = runtime.block_on(FakeCloud::start(dialect.clone(), TOKEN));
    let stranger = fake.world(|world| world.add("somebody-elses", &[], "e2-small", "us-central1", ""));
    dialect.trust(&owner.email, owner.public_key.clone());
    let mut hub = start(&fake)?;
    let order = ["deploy", "--yes", "--provider", "gcp", "--plan", "e2-small", "--request-key", "once"];
    let refused = hub.command(&order)?.run(SOON)?;
    ensure!(
        refused.code != Some(0) && refused.stderr.contains("provider configure gcp"),
        "{}",
        refused.stderr
    );

    let configure = hub.command(&["provider", "configure", "gcp", "--output", "json"])?;
    json_of(&configure.stdin(&owner.json).run(SOON)?)?;
    let checked = hub.json(&["provider", "check", "gcp"])?;
    ensure!(
        text(&checked, "/account")? == PROJECT && text(&checked, "/identity")? == owner.email,
        "{checked}"
    );
    let policy = hub.json(&["provider", "policy", "gcp"])?;
    ensure!(rows(&policy, "/includedPermissions")?.contains(&"compute.instances.create".into()), "{policy}");

    // One zone has none, and the answer of the other one is lost.
    dialect.fill(&["us-central1-a"]);
    fake.fail(Kind::Create, Fault::DoAndBreak);
    let ordered = eventually_ok(SETTLED, "an order", || hub.json(&order))?;
    let id = text(&ordered, "/id")?.to_owned();
    hub.kill()?;
    hub.start_again()?;
    ensure!(text(&hub.json(&order)?, "/id")? == id, "ordered twice");
    let made = until_there_are(&hub, &fake, 1)?;
    let machine = made.first().context("a machine")?;
    ensure!(dialect.firewalls().len() == 1, "{:?}", dialect.firewalls());

    let mut agent = Agent::join(None, &machine.name, &join_line(machine)?)?;
    agent.run()?;
    until_it_is(&hub, &id, "running")?;
    hub.json(&["deployment", "stop", &id])?;
    until_it_is(&hub, &id, "stopped")?;
    ensure!(machines(&fake).iter().all(|machine| machine.power == Power::Off));
    agent.process()?.kill()?;
    hub.json(&["deployment", "start", &id])?;
    eventually_ok(SETTLED, "a machine that is switched on", || {
        ensure!(machines(&fake).iter().all(|machine| machine.power == Power::On));
        Ok(())
    })?;
    agent.run()?;
    until_it_is(&hub, &id, "running")?;

    hub.json(&["deployment", "terminate", &id, "--yes"])?;
    hub.kill()?;
    hub.start_again()?;
    until_there_are(&hub, &fake, 0)?;
    until_it_is(&hub, &id, "gone")?;
    let left = fake.world(|world| world.machines.iter().map(|machine| machine.id).collect::<Vec<_>>());
    ensure!(left == [stranger], "{left:?}");
    no_secret_in(&hub, &owner)
}

/// Neither token nor key is in a log or a database.
fn no_secret_in(hub: &Hub<'_>, owner: &ServiceAccount) -> Result<()> {
    let key: Value = serde_json::from_str(&owner.json)?;
    let line = text(&key, "/private_key")?.lines().nth(3).context("a key")?;
    let database = hub.state().join("hub.db");
    let mut texts = vec![("the log", hub.log().into_bytes())];
    for path in [database.clone(), database.with_extension("db-wal")] {
        texts.push(("the database", std::fs::read(path).unwrap_or_default()));
    }
    for (place, bytes) in texts {
        for secret in [TOKEN, line] {
            let is_there = bytes.windows(secret.len()).any(|part| part == secret.as_bytes());
            ensure!(!is_there, "{place} holds a secret");
        }
    }
    Ok(())
}
