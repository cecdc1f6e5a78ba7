//! Machines that the hub orders at AWS, Google Cloud and Azure: their user data holds no token, nobody else makes anything of it, and
//! they join by what their clouds say of them.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use blueprint_tests_cloud::azure::{AzureDialect, SUBSCRIPTION};
use blueprint_tests_cloud::ec2::{Ec2Dialect, REGION as EC2_REGION};
use blueprint_tests_cloud::gcp::{GcpDialect, PROJECT};
use blueprint_tests_cloud::{FakeCloud, Machine};
use blueprint_tests_support::{eventually_ok, scratch};
use tokio::runtime::Runtime;

use super::clouds::{of_azure, of_google, refused, tries};
use super::stand_ins::{AzureSigner, Https, TokenKey, file_of, metadata};
use super::{ACCOUNT, Cloud, openssl_is_there};
use crate::fixture::{Agent, Hub, json_of, text};

/// Longest wait for machines to be made on a busy machine.
const SETTLED: Duration = Duration::from_secs(90);

/// What the fakes take as the right to call them.
const RIGHT: &str = "AKIDEXAMPLE";

/// An order at a fake cloud.
struct Order {
    hub: Hub<'static>,
    kind: &'static str,
    id: String,
    machine: Machine,
}

impl Order {
    /// One machine of a hub with these settings besides the usual ones.
    fn place(
        fake: &FakeCloud,
        (kind, plan): (&'static str, &str),
        settings: &[String],
        environment: &[(&'static str, &str)],
    ) -> Result<Self> {
        let url = fake.url();
        let mut all = vec![
            "hub.advertise=127.0.0.1".to_owned(),
            format!("providers.{kind}.enabled=true"),
            format!("providers.{kind}.endpoint={url}"),
            "provision.every=1s".to_owned(),
            "provision.call_again=2s".to_owned(),
            "provision.second_look=1s".to_owned(),
            "provision.max_price_age_days=3650".to_owned(),
        ];
        all.extend_from_slice(settings);
        let environment = environment.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        let hub = Hub::start_with(&all, environment)?;
        let order = ["deploy", "--yes", "--provider", kind, "--plan", plan, "--request-key", "once"];
        let ordered = eventually_ok(SETTLED, "an order", || hub.json(&order)).with_context(|| hub.log())?;
        let id = text(&ordered, "/id")?.to_owned();
        let machine = eventually_ok(SETTLED, "a machine", || {
            let machine = fake.world(|world| world.machines.first().cloned()).context("none yet")?;
            let shown = hub.json(&["deployment", "show", &id])?;
            ensure!(shown.to_string().contains("\"created\""), "{shown}");
            Ok(machine)
        });
        let machine = machine.with_context(|| hub.log())?;
        Ok(Self { hub, kind, id, machine })
    }

    /// Nothing in the user data lets anybody in: not alone, and not with the word of the same cloud for another machine.
    fn is_worthless(&self, stranger: SocketAddr) -> Result<()> {
        let data = &self.machine.user_data;
        ensure!(!data.contains("bpj_"), "a token: {data}");
        let line = file_of(data, "/etc/blueprint-agent/join")?;
        let settings = file_of(data, "/etc/blueprint-agent/bootstrap.env")?;
        ensure!(settings.contains(&format!("\nIDENTITY={}\n", self.kind)), "{settings}");
        ensure!(line.split('/').count() == 2, "more than a hub and its pin: {line}");
        let folder = scratch("stolen")?;
        let (alone, _) = tries(&folder, &self.machine.name, &line, &[])?;
        ensure!(alone.code == Some(2) && alone.stderr.contains("holds no token"), "{alone:?}");
        let place = stranger.to_string();
        let arguments = ["--identity", self.kind, "--metadata", &place];
        let (stolen, state) = tries(&folder, &self.machine.name, &line, &arguments)?;
        refused(&self.hub, &stolen, &state, "identity_not_ordered")
    }

    /// The machine itself joins, and the deployment runs.
    fn joins(&self, genuine: SocketAddr) -> Result<()> {
        let line = file_of(&self.machine.user_data, "/etc/blueprint-agent/join")?;
        let folder = scratch("other-name")?;
        let place = genuine.to_string();
        let arguments = ["--identity", self.kind, "--metadata", &place];
        let (named, state) = tries(&folder, "another-name", &line, &arguments)?;
        refused(&self.hub, &named, &state, "identity_not_ordered")?;
        let mut agent = Agent::prove_with(&self.machine.name, &line, &arguments)?;
        agent.run()?;
        let running = eventually_ok(SETTLED, "a deployment that runs", || {
            let shown = self.hub.json(&["deployment", "show", &self.id])?;
            ensure!(text(&shown, "/state")? == "running", "{shown}");
            Ok(())
        });
        running.with_context(|| self.hub.log())?;
        let (again, state) = tries(&folder, &self.machine.name, &line, &arguments)?;
        refused(&self.hub, &again, &state, "identity_used")?;
        ensure!(!self.hub.log().contains("bpj_"), "the log holds a token");
        Ok(())
    }
}

#[test]
fn an_ordered_machine_of_google_has_no_token_and_joins_by_its_own() -> Result<()> {
    if !openssl_is_there() {
        return Ok(());
    }
    let runtime = Runtime::new()?;
    let dialect = GcpDialect::new(1);
    let fake = runtime.block_on(FakeCloud::start(dialect.clone(), RIGHT));
    let account = format!("nodes@{PROJECT}.iam.gserviceaccount.com");
    dialect.run_as(&account);
    let key = TokenKey::new()?;
    let published = key.published()?;
    let google = Https::start(Box::new(move |_| Ok((200, published.clone()))))?;
    let order = Order::place(
        &fake,
        ("gcp", "e2-small"),
        &[
            "providers.gcp.regions=us-central1".to_owned(),
            format!("providers.gcp.service_account={account}"),
            format!("join.identity.gcp_projects={PROJECT}"),
            "join.identity.ordered=gcp".to_owned(),
            format!("join.identity.gcp_keys=https://{}/certs", google.place),
            google.trusted(),
        ],
        &[
            ("GCP_PROJECT_ID", PROJECT),
            ("GCP_ACCESS_TOKEN", RIGHT),
            ("GOOGLE_CLOUD_PROJECT", ""),
            ("GOOGLE_APPLICATION_CREDENTIALS", ""),
            ("GCP_SERVICE_ACCOUNT_KEY", ""),
            ("GCE_METADATA_HOST", "127.0.0.1:1"),
        ],
    )?;
    let name = dialect.name_of(order.machine.id);
    let (zone, number) = name.split_once('/').context("a zone")?;
    let places = [(zone.to_owned(), "99".to_owned()), (zone.to_owned(), number.to_owned())];
    let key = Arc::new(Mutex::new(key));
    let [stranger, genuine] = places.map(|(zone, number)| {
        let key = Arc::clone(&key);
        metadata(Box::new(move |request| {
            let key = key.lock().unwrap_or_else(PoisonError::into_inner);
            Ok((200, of_google(&key, PROJECT, (&zone, &number), request)?))
        }))
    });
    order.is_worthless(stranger?)?;
    order.joins(genuine?)
}

#[test]
fn an_ordered_machine_of_azure_has_no_token_and_joins_by_its_attested_document() -> Result<()> {
    if !openssl_is_there() {
        return Ok(());
    }
    let runtime = Runtime::new()?;
    let fake = runtime.block_on(FakeCloud::start(AzureDialect::default(), RIGHT));
    let signer = AzureSigner::new()?;
    let order = Order::place(
        &fake,
        ("azure", "Standard_D2s_v5"),
        &[
            "providers.azure.regions=eastus".to_owned(),
            format!("providers.azure.login_endpoint={}", fake.url()),
            format!("join.identity.azure_subscriptions={SUBSCRIPTION}"),
            "join.identity.ordered=azure".to_owned(),
            signer.trusted(),
        ],
        &[
            ("AZURE_SUBSCRIPTION_ID", SUBSCRIPTION),
            ("AZURE_ACCESS_TOKEN", RIGHT),
            ("AZURE_TENANT_ID", ""),
            ("AZURE_CLIENT_ID", ""),
            ("AZURE_CLIENT_SECRET", ""),
        ],
    )?;
    let signer = Arc::new(signer);
    let id = |number: u64| format!("00000000-0000-0000-0000-{number:012}");
    let stranger = of_azure(Arc::clone(&signer), SUBSCRIPTION, &id(99_999))?;
    let genuine = of_azure(signer, SUBSCRIPTION, &id(order.machine.id))?;
    order.is_worthless(stranger)?;
    order.joins(genuine)
}

#[test]
fn an_ordered_machine_of_ec2_has_no_token_and_joins_by_its_document() -> Result<()> {
    if !openssl_is_there() {
        return Ok(());
    }
    let runtime = Runtime::new()?;
    let fake = runtime.block_on(FakeCloud::start(Ec2Dialect::new(2), RIGHT));
    let cloud = Cloud::of(EC2_REGION)?;
    let order = Order::place(
        &fake,
        ("aws", "t3.micro"),
        &[
            format!("providers.aws.regions={EC2_REGION}"),
            format!("join.identity.aws_accounts={ACCOUNT}"),
            "join.identity.ordered=aws".to_owned(),
            cloud.setting(),
        ],
        &[("AWS_ACCESS_KEY_ID", RIGHT), ("AWS_SECRET_ACCESS_KEY", "canary-of-aws")],
    )?;
    let id = |number: u64| format!("i-{number:017x}");
    let document = |number| cloud.document(EC2_REGION, ACCOUNT, &id(number), Duration::ZERO);
    let stranger = super::Machine::start(Some(document(99_999)?))?;
    let genuine = super::Machine::start(Some(document(order.machine.id)?))?;
    order.is_worthless(stranger.place)?;
    order.joins(genuine.place)
}

#[test]
fn an_order_has_a_token_where_no_identity_is_configured() -> Result<()> {
    let runtime = Runtime::new()?;
    let fake = runtime.block_on(FakeCloud::start(Ec2Dialect::new(2), RIGHT));
    let order = Order::place(
        &fake,
        ("aws", "t3.micro"),
        &[format!("providers.aws.regions={EC2_REGION}")],
        &[("AWS_ACCESS_KEY_ID", RIGHT), ("AWS_SECRET_ACCESS_KEY", "canary-of-aws")],
    )?;
    let line = file_of(&order.machine.user_data, "/etc/blueprint-agent/join")?;
    let settings = file_of(&order.machine.user_data, "/etc/blueprint-agent/bootstrap.env")?;
    ensure!(line.contains("/bpj_") && settings.contains("\nIDENTITY=\n"), "{settings}");
    let folder = scratch("token")?;
    let (joined, _) = tries(&folder, &order.machine.name, &line, &[])?;
    json_of(&joined)?;
    Ok(())
}
