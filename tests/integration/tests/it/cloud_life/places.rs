//! The clouds of these lives: fakes of each, the server of moto, and the example of a plugin.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use blueprint_tests_cloud::azure::{AzureDialect, CLIENT_SECRET, SUBSCRIPTION};
use blueprint_tests_cloud::digitalocean::DigitalOceanDialect;
use blueprint_tests_cloud::gcp::{GcpDialect, PROJECT as GCP_PROJECT};
use blueprint_tests_cloud::hivelocity::HivelocityDialect;
use blueprint_tests_cloud::linode::LinodeDialect;
use blueprint_tests_cloud::scaleway::{PROJECT, ScalewayDialect};
use blueprint_tests_cloud::vultr::VultrDialect;
use blueprint_tests_cloud::{Dialect, FakeCloud, Fault, Kind, Power};
use blueprint_tests_support::moto::{Moto, all};
use blueprint_tests_support::{plugin_python, scratch};
use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::{Place, Seen};
use crate::fixture::{Environment, text};

const TOKEN: &str = "dop_v1_canary0123456789";

/// A machine of another hub, and one of nobody.
const STRANGERS: [&str; 2] = ["bp-bbbbbbbbbbbbbbbb-1", "mine"];

/// What differs from fake to fake.
#[derive(Default)]
struct Account {
    name: &'static str,
    /// Settings below `providers.NAME.`, beside `enabled`.
    settings: &'static [&'static str],
    /// Settings below `providers.NAME.` that take the fake's URL.
    urls: &'static [&'static str],
    /// Settings of the hub besides.
    general: &'static [&'static str],
    credentials: String,
    told: &'static [&'static str],
    options: &'static [&'static str],
    /// A plan and a region for machines of others; nothing where the fake takes none but orders.
    strangers: Option<(&'static str, &'static str)>,
}

/// Names of what there is at a cloud.
type Names = Box<dyn Fn() -> Vec<String>>;

/// A fake cloud.
pub(super) struct Fake {
    account: Account,
    beside: Names,
    made: Option<Names>,
    cloud: FakeCloud,
    _runtime: Runtime,
}

impl Fake {
    fn start(
        dialect: impl Dialect,
        token: &str,
        account: Account,
        (beside, made): (Names, Option<Names>),
    ) -> Result<Self> {
        let runtime = Runtime::new()?;
        let cloud = runtime.block_on(FakeCloud::start(dialect, token));
        if let Some((plan, region)) = account.strangers {
            let tags = [
                "bp-node",
                "bp-hub-ffffffff-ffff-ffff-ffff-ffffffffffff",
                "bp-dep-bbbbbbbbbbbbbbbb",
                "bp-att-1",
            ];
            cloud.world(|world| {
                world.add(STRANGERS[0], &tags.map(str::to_owned), plan, region, "");
                world.add(STRANGERS[1], &[], plan, region, "");
            });
        }
        Ok(Self { account, beside, made, cloud, _runtime: runtime })
    }
}

impl Place for Fake {
    fn name(&self) -> &'static str {
        self.account.name
    }

    fn settings(&self) -> Vec<String> {
        let of = |setting: &str| format!("providers.{}.{setting}", self.account.name);
        let mut settings = vec![of("enabled=true")];
        settings.extend(self.account.settings.iter().map(|setting| of(setting)));
        settings.extend(self.account.urls.iter().map(|key| of(&format!("{key}={}", self.cloud.url()))));
        settings.extend(self.account.general.iter().map(|&setting| setting.to_owned()));
        settings
    }

    fn credentials(&self) -> Option<String> {
        Some(self.account.credentials.clone())
    }

    fn told(&self) -> &'static [&'static str] {
        self.account.told
    }

    fn options(&self) -> &'static [&'static str] {
        self.account.options
    }

    fn lose_an_answer(&self) {
        self.cloud.fail(Kind::Create, Fault::DoAndBreak);
    }

    fn machines(&self) -> Result<Vec<Seen>> {
        let machines = self.cloud.world(|world| world.machines.clone());
        let own = machines.into_iter().filter(|machine| !STRANGERS.contains(&machine.name.as_str()));
        Ok(own
            .map(|machine| Seen {
                name: machine.name,
                user_data: machine.user_data,
                is_on: machine.power == Power::On,
            })
            .collect())
    }

    fn beside(&self) -> Result<Vec<String>> {
        Ok((self.beside)())
    }

    fn made(&self) -> Result<Option<Vec<String>>> {
        Ok(self.made.as_ref().map(|made| made()))
    }

    fn spared(&self) -> Result<()> {
        let left =
            self.cloud.world(|world| world.machines.iter().map(|one| one.name.clone()).collect::<Vec<_>>());
        let wanted = if self.account.strangers.is_some() { &STRANGERS[..] } else { &[] };
        ensure!(left == wanted, "others were touched: {left:?}");
        Ok(())
    }
}

/// Nothing that is billed beside machines.
fn nothing() -> Names {
    Box::new(Vec::new)
}

/// Names of rows as an API shows them.
fn named(rows: &[Value]) -> Vec<String> {
    rows.iter().map(|row| row.pointer("/name").or(row.pointer("/label")).unwrap_or(row).to_string()).collect()
}

const TWO: &[&str] = &["--replicas", "2"];

pub(super) fn digitalocean() -> Result<Fake> {
    let account = Account {
        name: "digitalocean",
        settings: &["regions=fra1,nyc1"],
        urls: &["endpoint"],
        credentials: format!("token = {TOKEN}\n"),
        options: TWO,
        strangers: Some(("s-1vcpu-1gb", "fra1")),
        ..Account::default()
    };
    let dialect = DigitalOceanDialect::default();
    let own = dialect.clone();
    let made: Names = Box::new(move || [named(&own.firewalls()), own.key_names()].concat());
    Fake::start(dialect, TOKEN, account, (nothing(), Some(made)))
}

pub(super) fn vultr() -> Result<Fake> {
    let account = Account {
        name: "vultr",
        settings: &["regions=ewr,fra"],
        urls: &["endpoint"],
        credentials: format!("api_key = {TOKEN}\n"),
        told: &["Ops, ops@example.com", "provisioning", "firewall"],
        options: TWO,
        strangers: Some(("vc2-1c-1gb", "ewr")),
        ..Account::default()
    };
    let dialect = VultrDialect::default();
    let own = dialect.clone();
    let made: Names = Box::new(move || own.firewalls().into_iter().map(|(name, _)| name).collect());
    Fake::start(dialect, TOKEN, account, (nothing(), Some(made)))
}

/// Vultr again, with whole machines in place of instances.
pub(super) fn vultr_metal() -> Result<Fake> {
    let account = Account {
        name: "vultr",
        settings: &["regions=ewr,fra", "bare_metal=true"],
        urls: &["endpoint"],
        credentials: format!("api_key = {TOKEN}\n"),
        told: &["Ops, ops@example.com", "provisioning"],
        options: &["--replicas", "2", "--plan", "vbm-4c-32gb"],
        strangers: Some(("vbm-4c-32gb", "ewr")),
        ..Account::default()
    };
    Fake::start(VultrDialect::default(), TOKEN, account, (nothing(), None))
}

pub(super) fn linode() -> Result<Fake> {
    let account = Account {
        name: "linode",
        settings: &["regions=us-east,eu-central"],
        urls: &["endpoint"],
        credentials: format!("token = {TOKEN}\n"),
        told: &["ops, ops@example.com", "linodes:read_write", "firewall:read_write"],
        options: TWO,
        strangers: Some(("g6-nanode-1", "us-east")),
        ..Account::default()
    };
    let dialect = LinodeDialect::default();
    let own = dialect.clone();
    let made: Names = Box::new(move || named(&own.firewalls()));
    Fake::start(dialect, TOKEN, account, (nothing(), Some(made)))
}

pub(super) fn gcp() -> Result<Fake> {
    let account = Account {
        name: "gcp",
        settings: &["regions=us-central1"],
        urls: &["endpoint"],
        credentials: format!("project_id = {GCP_PROJECT}\naccess_token = {TOKEN}\n"),
        told: &[GCP_PROJECT, "compute.instances.create"],
        options: &["--replicas", "2", "--plan", "e2-small"],
        ..Account::default()
    };
    let dialect = GcpDialect::new(2);
    let own = dialect.clone();
    let made: Names = Box::new(move || named(&own.firewalls()));
    Fake::start(dialect, TOKEN, account, (nothing(), Some(made)))
}

pub(super) fn azure() -> Result<Fake> {
    let dialect = AzureDialect::default();
    let account = Account {
        name: "azure",
        settings: &["regions=eastus"],
        urls: &["endpoint", "login_endpoint"],
        credentials: format!(
            "subscription_id = {SUBSCRIPTION}\ntenant_id = contoso.example\nclient_id = app\nclient_secret = {CLIENT_SECRET}\n"
        ),
        told: &[SUBSCRIPTION, "Microsoft.Compute/virtualMachines/write"],
        options: TWO,
        ..Account::default()
    };
    let (own, subscription) = (dialect.clone(), dialect.clone());
    let beside: Names = Box::new(move || own.parts());
    let made: Names = Box::new(move || subscription.network().into_keys().collect());
    Fake::start(dialect, TOKEN, account, (beside, Some(made)))
}

pub(super) fn scaleway() -> Result<Fake> {
    const KEY: &str = "canary00-1111-2222-3333-444444444444";
    let dialect = ScalewayDialect::default();
    let account = Account {
        name: "scaleway",
        settings: &["zones=par1,nl-ams-1"],
        urls: &["endpoint"],
        general: &["provision.usd_per_eur=1.08"],
        credentials: format!("secret_key = {KEY}\nproject_id = {PROJECT}\n"),
        told: &[PROJECT],
        options: TWO,
        ..Account::default()
    };
    let (own, project) = (dialect.clone(), dialect.clone());
    let beside: Names =
        Box::new(move || own.volumes().iter().map(|volume| format!("volume {volume}")).collect());
    let made: Names = Box::new(move || named(&project.groups()));
    Fake::start(dialect, KEY, account, (beside, Some(made)))
}

pub(super) fn hivelocity() -> Result<Fake> {
    let account = Account {
        name: "hivelocity",
        settings: &["facilities=new-york"],
        urls: &["endpoint"],
        credentials: TOKEN.to_owned(),
        ..Account::default()
    };
    Fake::start(HivelocityDialect::default(), TOKEN, account, (nothing(), None))
}

/// EC2, as moto has it.
pub(super) struct Ec2(Moto);

/// The one region of the account.
const REGION: &str = "eu-central-1";

impl Ec2 {
    pub(super) fn start() -> Result<Self> {
        let moto = Moto::start()?;
        moto.put_parameter(REGION, "/own/amd64", &moto.image(REGION, "x86_64")?)?;
        Ok(Self(moto))
    }

    fn ask(&self, parameters: &str) -> Result<String> {
        self.0.ec2(REGION, parameters)
    }
}

impl Place for Ec2 {
    fn name(&self) -> &'static str {
        "aws"
    }

    fn settings(&self) -> Vec<String> {
        vec![
            "providers.aws.enabled=true".to_owned(),
            format!("providers.aws.regions={REGION}"),
            format!("providers.aws.endpoint={}", self.0.url()),
            "providers.aws.image=/own/{arch}".to_owned(),
        ]
    }

    fn environment(&self) -> Environment {
        vec![
            ("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "canary-of-aws".to_owned()),
        ]
    }

    fn credentials(&self) -> Option<String> {
        None
    }

    fn options(&self) -> &'static [&'static str] {
        &["--replicas", "2", "--min-cpu", "1", "--min-memory", "1", "--budget", "0.05"]
    }

    fn machines(&self) -> Result<Vec<Seen>> {
        let standing = "Action=DescribeInstances&Filter.1.Name=instance-state-name&Filter.1.Value.1=pending\
                        &Filter.1.Value.2=running&Filter.1.Value.3=stopping&Filter.1.Value.4=stopped";
        let mut machines = Vec::new();
        for id in all(&self.ask(standing)?, "instanceId") {
            let shown = self.ask(&format!("Action=DescribeInstances&InstanceId.1={id}"))?;
            let asked = format!("Action=DescribeInstanceAttribute&InstanceId={id}&Attribute=userData");
            let data = all(&self.ask(&asked)?, "value").into_iter().next().context("no user data")?;
            let name = all(&shown, "value").into_iter().find(|value| value.starts_with("bp-"));
            machines.push(Seen {
                name: name.context("no name")?,
                user_data: String::from_utf8(STANDARD.decode(data.trim())?)?,
                is_on: all(&shown, "name").iter().any(|state| state == "running"),
            });
        }
        Ok(machines)
    }

    fn beside(&self) -> Result<Vec<String>> {
        let mut beside = all(&self.ask("Action=DescribeVolumes")?, "volumeId");
        beside.extend(all(&self.ask("Action=DescribeAddresses")?, "publicIp"));
        Ok(beside)
    }

    fn made(&self) -> Result<Option<Vec<String>>> {
        let own = "&Filter.1.Name=group-name&Filter.1.Value.1=blueprint-hub-no-ingress";
        Ok(Some(all(&self.ask(&format!("Action=DescribeSecurityGroups{own}"))?, "groupName")))
    }
}

/// The example of a plugin, which the hub starts for itself.
pub(super) struct Plugin {
    folder: TempDir,
    own: PathBuf,
}

impl Plugin {
    pub(super) fn start() -> Result<Self> {
        let folder = scratch("plugin")?;
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755))?;
        let python = plugin_python().context("no python")?;
        let example =
            concat!(env!("CARGO_MANIFEST_DIR"), "/../../hub/provider-external/examples/python/plugin.py");
        let script = folder.path().join("plugin");
        std::fs::write(&script, format!("#!/bin/sh\nexec {} -B {example}\n", python.display()))?;
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755))?;
        let own = folder.path().join("own");
        Ok(Self { folder, own })
    }
}

impl Place for Plugin {
    fn name(&self) -> &'static str {
        "external"
    }

    fn settings(&self) -> Vec<String> {
        vec![
            "providers.external.enabled=true".to_owned(),
            format!("providers.external.socket={}", self.own.join("provider.sock").display()),
            format!("providers.external.program={}", self.folder.path().join("plugin").display()),
            "providers.external.user=root".to_owned(),
        ]
    }

    fn credentials(&self) -> Option<String> {
        None
    }

    fn options(&self) -> &'static [&'static str] {
        TWO
    }

    fn machines(&self) -> Result<Vec<Seen>> {
        let Ok(entries) = std::fs::read_dir(self.own.join("machines")) else { return Ok(Vec::new()) };
        let files = entries.flatten().map(|entry| entry.path());
        let files = files.filter(|path| path.extension().is_some_and(|ending| ending == "json"));
        files
            .map(|path| {
                let machine: Value = serde_json::from_slice(&std::fs::read(path)?)?;
                Ok(Seen {
                    name: text(&machine, "/key")?.to_owned(),
                    user_data: String::from_utf8(STANDARD.decode(text(&machine, "/user_data")?)?)?,
                    is_on: text(&machine, "/state")? == "RUNNING",
                })
            })
            .collect()
    }
}
