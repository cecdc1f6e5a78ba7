//! Credentials of clouds through the real hub: sealed, used, refused, forgotten, and never seen again.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use blueprint_tests_cloud::digitalocean::DigitalOceanDialect;
use blueprint_tests_cloud::{FakeCloud, Fault, Kind, Nonsense, Refusal};
use blueprint_tests_support::moto::Moto;
use blueprint_tests_support::{Finished, Need, eventually_ok, free_port, require};
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::fixture::{Hub, SOON, json_of, rows, text};

const TOKEN: &str = "dop_v1_sealed-canary-0123456789";
const OTHER: &str = "dop_v1_other-canary-9876543210";

/// Longest wait for droplets to be made or gone on a busy machine.
const SETTLED: Duration = Duration::from_secs(60);

/// A hub of DigitalOcean at this URL, without any token of a developer in its environment.
fn hub_of(url: &str, regions: &str) -> Result<Hub<'static>> {
    let settings = [
        "hub.advertise=127.0.0.1".to_owned(),
        "providers.digitalocean.enabled=true".to_owned(),
        format!("providers.digitalocean.regions={regions}"),
        format!("providers.digitalocean.endpoint={url}"),
        "provision.every=1s".to_owned(),
    ];
    let names = ["DIGITALOCEAN_TOKEN", "DIGITALOCEAN_ACCESS_TOKEN", "DO_API_TOKEN", "DO_TOKEN"];
    let nothing = names.map(|name| (name, String::new())).to_vec();
    Hub::start_with(&settings.each_ref().map(String::as_str), nothing)
}

/// Gives credentials on standard input.
fn configure(hub: &Hub<'_>, name: &str, given: &str) -> Result<Value> {
    let command = hub.command(&["provider", "configure", name, "--output", "json"])?;
    json_of(&command.stdin(given).run(SOON)?)
}

fn check(hub: &Hub<'_>) -> Result<Finished> {
    hub.command(&["provider", "check", "digitalocean"])?.run(SOON)
}

/// The command ended with this code and said this, and nothing of a token.
fn ended(finished: &Finished, code: i32, words: &[&str]) -> Result<()> {
    let said = format!("{}{}", finished.stdout, finished.stderr);
    ensure!(finished.code == Some(code), "exit code {:?}, not {code}: {said}", finished.code);
    for word in words {
        ensure!(said.contains(word), "{word:?} is not in: {said}");
    }
    ensure!(!said.contains("canary"), "{said}");
    Ok(())
}

/// Where the credentials of a provider come from.
fn source(hub: &Hub<'_>, name: &str) -> Result<String> {
    let listed = hub.json(&["provider", "ls"])?;
    let row = rows(&listed, "/accounts")?.iter().find(|row| text(row, "/name").ok() == Some(name));
    Ok(text(row.with_context(|| format!("no {name} in {listed}"))?, "/credentials/source")?.to_owned())
}

fn until_there_are(hub: &Hub<'_>, fake: &FakeCloud, count: usize) -> Result<()> {
    let settled = eventually_ok(SETTLED, &format!("{count} droplets"), || {
        let found = fake.world(|world| world.machines.len());
        ensure!(found == count, "{found}");
        Ok(())
    });
    settled.with_context(|| hub.log())
}

#[test]
fn a_token_is_sealed_used_refused_replaced_and_forgotten() -> Result<()> {
    let runtime = Runtime::new()?;
    let mut fake = runtime.block_on(FakeCloud::start(DigitalOceanDialect::default(), TOKEN));
    let mut hub = hub_of(&fake.url(), "fra1,nyc1")?;
    ensure!(source(&hub, "digitalocean")? == "none");
    ended(&check(&hub)?, 4, &["DIGITALOCEAN_TOKEN", "provider configure digitalocean"])?;

    // The bare token, as a file of the cloud's own has it.
    let stored = configure(&hub, "digitalocean", &format!("{TOKEN}\n"))?;
    ensure!(text(&stored, "/shown")? == "...6789", "{stored}");
    ensure!(source(&hub, "digitalocean")? == "sealed");
    ended(&check(&hub)?, 0, &["ops@example.com", "droplet:read", "fra1 nyc1", "droplets"])?;
    let deploy = ["deploy", "--yes", "--provider", "digitalocean", "--request-key", "once"];
    let ordered = hub.json(&deploy)?;
    until_there_are(&hub, &fake, 1)?;

    // It is there after a kill.
    hub.kill()?;
    hub.start_again()?;
    ended(&check(&hub)?, 0, &["ops@example.com"])?;

    // A refusal pauses orders for ten minutes, and other credentials end that.
    fake.fail(Kind::Create, Fault::Refuse(Refusal::Unauthorized));
    let paused = hub.json(&["deploy", "--yes", "--provider", "digitalocean", "--request-key", "twice"])?;
    eventually_ok(SETTLED, "a refusal", || {
        ensure!(hub.log().contains("the token is wrong"), "{}", hub.log());
        Ok(())
    })?;
    // Not without a word: a droplet stands, which those of another account would not see.
    let given = serde_json::json!({ "token": TOKEN }).to_string();
    let of_provider = |args: &[&str]| hub.command(&[&["provider"], args].concat());
    let again = of_provider(&["configure", "digitalocean"])?.stdin(&given).run(SOON)?;
    ended(&again, 5, &["1 of this hub's machines stand at digitalocean", "--force"])?;
    ended(&of_provider(&["forget", "digitalocean"])?.run(SOON)?, 5, &["stand at digitalocean", "--force"])?;
    ensure!(source(&hub, "digitalocean")? == "sealed", "a refusal changed something");
    let again = of_provider(&["configure", "digitalocean", "--force"])?.stdin(&given).run(SOON)?;
    ended(&again, 0, &["are sealed in the store", "1 machines stand"])?;
    until_there_are(&hub, &fake, 2)?;

    // The token is taken back at the cloud, and another one comes while the hub runs.
    fake.world(|world| world.token = OTHER.to_owned());
    ended(&check(&hub)?, 4, &["the token is wrong", "provider configure digitalocean"])?;
    for deployment in [&ordered, &paused] {
        hub.json(&["deployment", "terminate", text(deployment, "/id")?, "--yes"])?;
    }
    let lines = format!("# a comment\nDO_TOKEN = {OTHER}\n");
    let finished =
        of_provider(&["configure", "digitalocean", "--check", "--force"])?.stdin(&lines).run(SOON)?;
    ended(&finished, 0, &["are sealed in the store (...3210)", "ops@example.com", "another account"])?;
    until_there_are(&hub, &fake, 0)?;

    // Without it the file counts, and then nothing.
    let file = hub.state().join("digitalocean.credentials");
    std::fs::write(&file, format!("token = {OTHER}\n"))?;
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600))?;
    ensure!(source(&hub, "digitalocean")? == "sealed");
    ended(
        // That they are gone is believed at the second look.
        &of_provider(&["forget", "digitalocean", "--force"])?.run(SOON)?,
        0,
        &["those of the file count now"],
    )?;
    ended(&check(&hub)?, 0, &["ops@example.com"])?;
    std::fs::remove_file(&file)?;
    ended(&check(&hub)?, 4, &["no credentials"])?;
    ended(&hub.command(&["provider", "forget", "digitalocean"])?.run(SOON)?, 3, &["sealed in the store"])?;

    let rows = hub.audit()?;
    let of = |kind: &str| rows.iter().filter(|row| row.starts_with(kind)).count();
    ensure!(
        (of("provider.configure digitalocean"), of("provider.forget digitalocean")) == (3, 1),
        "{rows:?}"
    );
    ensure!(rows.iter().any(|row| row.contains("by operator (socket): token, ...6789")), "{rows:?}");

    // A cloud that answers nonsense, and one that is not there.
    let once_more = of_provider(&["configure", "digitalocean", "--force"])?.stdin(OTHER).run(SOON)?;
    ended(&once_more, 0, &["are sealed in the store"])?;
    fake.fail(Kind::Other, Fault::Say(Nonsense::Html));
    ended(&check(&hub)?, 6, &["account_get", "nothing was ordered"])?;
    runtime.block_on(fake.shut());
    ended(&check(&hub)?, 6, &["reaches digitalocean"])?;

    let state = hub.state();
    let mut places = vec![("the log".to_owned(), hub.log().into_bytes())];
    for entry in std::fs::read_dir(&state)? {
        let path = entry?.path();
        if path.is_file() {
            places.push((path.display().to_string(), std::fs::read(&path)?));
        }
    }
    for (place, bytes) in places {
        let is_there =
            [TOKEN, OTHER].iter().any(|token| bytes.windows(token.len()).any(|it| it == token.as_bytes()));
        ensure!(!is_there, "a token is in {place}");
    }
    Ok(())
}

#[test]
fn what_is_not_credentials_or_not_a_provider_is_refused_with_the_next_step() -> Result<()> {
    let nobody = format!("http://127.0.0.1:{}", free_port()?);
    let mut hub = hub_of(&nobody, "fra1,mars1")?;
    let given =
        |name: &str, input: &str| hub.command(&["provider", "configure", name])?.stdin(input).run(SOON);
    ended(&given("mars", "canary")?, 3, &["no provider", "provider ls"])?;
    ended(&given("sim", "canary")?, 5, &["needs no credentials"])?;
    ended(&given("digitalocean", "")?, 2, &["standard input is empty", "--from-env"])?;
    ended(&given("digitalocean", "two canaries")?, 2, &["has a blank", "NAME = VALUE"])?;
    ended(&given("digitalocean", "api_key = canary")?, 2, &["known are token"])?;
    ended(&given("aws", "access_key_id = AKIDcanary")?, 2, &["has no secret_access_key"])?;
    let argument = hub.command(&["provider", "configure", "digitalocean", "canary"])?.run(SOON)?;
    ensure!(argument.code == Some(2), "{}", argument.stderr);
    ended(&hub.command(&["provider", "check", "aws"])?.run(SOON)?, 5, &["providers.aws.enabled = true"])?;
    ensure!(source(&hub, "digitalocean")? == "none", "something was stored");

    let from_env = |token: &str| {
        let command = hub.command(&["provider", "configure", "digitalocean", "--from-env"])?;
        let names = ["DIGITALOCEAN_TOKEN", "DIGITALOCEAN_ACCESS_TOKEN", "DO_API_TOKEN"];
        names
            .into_iter()
            .fold(command, |command, name| command.env(name, ""))
            .env("DO_TOKEN", token)
            .run(SOON)
    };
    ended(&from_env("")?, 2, &["the environment has no DIGITALOCEAN_TOKEN or"])?;
    ended(&from_env(TOKEN)?, 0, &["...6789"])?;
    ended(&check(&hub)?, 6, &["could not be sent", "reaches digitalocean"])?;

    let scopes = hub.command(&["provider", "policy", "digitalocean"])?.run(SOON)?;
    ended(&scopes, 0, &["droplet:create\n", "firewall:update\n"])?;
    let policy = hub.json(&["provider", "policy", "aws"])?;
    let id = std::fs::read_to_string(hub.state().join("hub-id"))?;
    ensure!(
        policy.to_string().contains("ec2:RunInstances") && policy.to_string().contains(id.trim()),
        "{policy}"
    );

    // Another sealing key than the one that it was sealed with.
    hub.kill()?;
    std::fs::write(hub.state().join("sealing.key"), [7u8; 32])?;
    hub.start_again()?;
    ended(&check(&hub)?, 4, &["sealed with another key", "sealing.key", "provider forget digitalocean"])
}

#[test]
fn keys_of_aws_are_sealed_and_checked_with_their_role_and_regions() -> Result<()> {
    const REGION: &str = "eu-central-1";
    if !require(&[Need::Moto]) {
        return Ok(());
    }
    let moto = Moto::start()?;
    moto.put_parameter(REGION, "/own/amd64", &moto.image(REGION, "x86_64")?)?;
    let settings = [
        "providers.aws.enabled=true".to_owned(),
        format!("providers.aws.regions={REGION},eu-nowhere-1"),
        format!("providers.aws.endpoint={}", moto.url()),
        "providers.aws.image=/own/{arch}".to_owned(),
        "hub.advertise=127.0.0.1".to_owned(),
        "provision.every=1s".to_owned(),
    ];
    let nothing = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"];
    let mut environment = nothing.map(|name| (name, String::new())).to_vec();
    environment.push(("AWS_EC2_METADATA_DISABLED", "true".to_owned()));
    environment.push(("AWS_SHARED_CREDENTIALS_FILE", "/no/such/file".to_owned()));
    environment.push(("AWS_KEY_PAIR_NAME", "mine".to_owned()));
    let hub = Hub::start_with(&settings.each_ref().map(String::as_str), environment)?;
    let check = || hub.command(&["provider", "check", "aws"])?.run(SETTLED);
    ended(&check()?, 4, &["AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"])?;
    let keys = "access_key_id = AKIDEXAMPLE1234\nsecret_access_key = canary/of+aws=\n";
    ensure!(text(&configure(&hub, "aws", keys)?, "/shown")? == "...1234");
    // One region is right and one is not, and both is said.
    let words = [
        "ec2:RunInstances",
        "eu-nowhere-1: AWS has no such region",
        "123456789012",
        "AWS_KEY_PAIR_NAME is set",
    ];
    ended(&check()?, 1, &words)?;

    let role = "role_arn = arn:aws:iam::123456789012:role/hub\n";
    configure(&hub, "aws", &format!("{keys}{role}"))?;
    ended(&check()?, 1, &["assumed-role/hub"])?;
    let of_key = hub.json(&["provider", "policy", "aws", "--key"])?;
    ensure!(of_key.to_string().contains("sts:AssumeRole"), "{of_key}");
    ensure!(source(&hub, "aws")? == "sealed");
    ensure!(!hub.log().contains("canary/of"), "the log holds a key");
    Ok(())
}
