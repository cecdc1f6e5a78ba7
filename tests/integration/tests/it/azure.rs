//! Machines of Azure, at a fake of it: signed in by an application, through the real hub, and nothing billed is left.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use blueprint_tests_cloud::azure::{AzureDialect, CLIENT_SECRET, SUBSCRIPTION};
use blueprint_tests_cloud::{FakeCloud, Fault, Kind, Power};
use blueprint_tests_support::eventually_ok;
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::fixture::{Hub, SOON, json_of, text};

const TOKEN: &str = "canary-of-an-access-token";

/// Longest wait for machines to be made or gone on a busy machine.
const SETTLED: Duration = Duration::from_secs(60);

struct Rig {
    runtime: Runtime,
    fake: FakeCloud,
    dialect: AzureDialect,
    hub: Hub<'static>,
}

impl Rig {
    /// A hub of Azure without any credentials of a developer in its environment.
    fn start() -> Result<Self> {
        let runtime = Runtime::new()?;
        let dialect = AzureDialect::default();
        let fake = runtime.block_on(FakeCloud::start(dialect.clone(), TOKEN));
        let url = fake.url();
        let settings = [
            "hub.advertise=127.0.0.1".to_owned(),
            "providers.azure.enabled=true".to_owned(),
            "providers.azure.regions=eastus".to_owned(),
            format!("providers.azure.endpoint={url}"),
            format!("providers.azure.login_endpoint={url}"),
            "provision.every=1s".to_owned(),
            "provision.call_again=2s".to_owned(),
            "provision.second_look=1s".to_owned(),
        ];
        let names = [
            "AZURE_SUBSCRIPTION_ID",
            "AZURE_TENANT_ID",
            "AZURE_CLIENT_ID",
            "AZURE_CLIENT_SECRET",
            "AZURE_ACCESS_TOKEN",
        ];
        let nothing = names.map(|name| (name, String::new())).to_vec();
        let hub = Hub::start_with(&settings.each_ref().map(String::as_str), nothing)?;
        Ok(Self { runtime, fake, dialect, hub })
    }

    fn configure(&self, secret: &str) -> Result<Value> {
        let lines = format!(
            "subscription_id = {SUBSCRIPTION}\ntenant_id = contoso.example\nclient_id = app\nclient_secret = {secret}\n"
        );
        let command = self.hub.command(&["provider", "configure", "azure", "--force", "--output", "json"])?;
        json_of(&command.stdin(&lines).run(SOON)?)
    }

    /// The command ended with this code and said this, and nothing of a secret.
    fn ended(&self, arguments: &[&str], code: i32, words: &[&str]) -> Result<()> {
        let finished = self.hub.command(arguments)?.run(SOON)?;
        let said = format!("{}{}", finished.stdout, finished.stderr);
        ensure!(finished.code == Some(code), "exit code {:?}, not {code}: {said}", finished.code);
        for word in words {
            ensure!(said.contains(word), "{word:?} is not in: {said}");
        }
        ensure!(!said.contains("canary"), "{said}");
        Ok(())
    }

    fn order(&self, options: &[&str]) -> Result<String> {
        let usual = ["deploy", "--yes", "--provider", "azure"];
        let ordered = eventually_ok(SETTLED, "an order", || self.hub.json(&[&usual, options].concat()))?;
        Ok(text(&ordered, "/id")?.to_owned())
    }

    fn until(
        &self,
        what: &str,
        is_it: impl Fn(&[blueprint_tests_cloud::Machine], &[String]) -> bool,
    ) -> Result<()> {
        let settled = eventually_ok(SETTLED, what, || {
            let (parts, machines) = (self.dialect.parts(), self.fake.world(|world| world.machines.clone()));
            ensure!(is_it(&machines, &parts), "{machines:?} {parts:?}");
            Ok(())
        });
        settled.with_context(|| self.hub.log())
    }

    fn no_secret(&self) -> Result<()> {
        let mut places = vec![("the log".to_owned(), self.hub.log().into_bytes())];
        for entry in std::fs::read_dir(self.hub.state())? {
            let path = entry?.path();
            if path.is_file() {
                places.push((path.display().to_string(), std::fs::read(&path)?));
            }
        }
        for (place, bytes) in places {
            let has = |secret: &str| bytes.windows(secret.len()).any(|part| part == secret.as_bytes());
            ensure!(!has(TOKEN) && !has(CLIENT_SECRET), "a secret is in {place}");
        }
        Ok(())
    }
}

#[test]
fn a_machine_of_azure_is_ordered_stopped_started_and_ended_by_a_hub_that_is_killed() -> Result<()> {
    let mut rig = Rig::start()?;
    rig.ended(&["provider", "check", "azure"], 4, &["AZURE_SUBSCRIPTION_ID", "provider configure azure"])?;
    rig.configure("wrong-canary")?;
    rig.ended(&["provider", "check", "azure"], 4, &["invalid_client", "provider configure azure"])?;
    rig.configure(CLIENT_SECRET)?;
    let words = [
        SUBSCRIPTION,
        "Machines of ops",
        "Microsoft.Compute/virtualMachines/write",
        "eastus",
        "cores in eastus",
    ];
    rig.ended(&["provider", "check", "azure"], 0, &words)?;
    rig.ended(&["provider", "policy", "azure"], 0, &["AssignableScopes", "Microsoft.Compute/skus/read"])?;

    // The answer is lost, the hub dies, and there are as many machines as were ordered.
    rig.fake.fail(Kind::Create, Fault::DoAndBreak);
    let id = rig.order(&["--replicas", "2", "--request-key", "once"])?;
    rig.hub.kill()?;
    rig.hub.start_again()?;
    ensure!(rig.order(&["--replicas", "2", "--request-key", "once"])? == id, "ordered twice");
    rig.until("two machines", |machines, parts| machines.len() == 2 && parts.len() == 6)?;
    let plan = rig.fake.world(|world| world.machines.first().map(|machine| machine.user_data.clone()));
    ensure!(plan.is_some_and(|data| data.starts_with("#cloud-config")), "no user data");

    rig.hub.json(&["deployment", "stop", &id])?;
    rig.until("both off", |machines, _| machines.iter().all(|machine| machine.power == Power::Off))?;
    rig.hub.json(&["deployment", "start", &id])?;
    rig.until("both on", |machines, _| machines.iter().all(|machine| machine.power == Power::On))?;

    // Parts stay behind when the machines go, and are removed, too.
    rig.dialect.leave_parts(true);
    rig.hub.json(&["deployment", "terminate", &id, "--yes"])?;
    rig.hub.kill()?;
    rig.hub.start_again()?;
    rig.until("nothing", |machines, parts| machines.is_empty() && parts.is_empty())?;
    let deployment = || rig.hub.json(&["deployment", "show", &id]);
    eventually_ok(SETTLED, "an end", || {
        let shown = deployment()?;
        ensure!(shown.to_string().contains("terminated"), "{shown}");
        Ok(())
    })?;
    rig.no_secret()
}

#[test]
fn where_azure_has_no_room_in_the_end_nothing_is_left_and_the_next_offer_is_taken() -> Result<()> {
    let rig = Rig::start()?;
    rig.configure(CLIENT_SECRET)?;
    rig.dialect.fail_later("AllocationFailed", "We do not have sufficient capacity.");
    let id = rig.order(&["--min-cpu", "2"])?;
    rig.until("another kind of machine", |machines, parts| {
        matches!(machines, [one] if one.plan != "Standard_D2s_v5") && parts.len() == 3
    })?;
    let made = rig.fake.count(Kind::Create);
    ensure!(made == 2, "{made} calls: {}", rig.hub.log());
    rig.hub.json(&["deployment", "terminate", &id, "--yes"])?;
    rig.until("nothing", |machines, parts| machines.is_empty() && parts.is_empty())?;
    drop(rig.runtime);
    Ok(())
}
