//! Machines of EC2, as moto has it, through the real hub: one order is one machine, whatever is killed and repeated.
//!
//! moto knows no client tokens, so that what keeps an order from two machines here is the hub alone. No agent runs on its
//! machines: they stand and never join.

mod killed;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use blueprint_tests_support::moto::{Moto, all};
use blueprint_tests_support::{Finished, Launch, Need, eventually_ok, require};
use serde_json::Value;

use crate::fixture::{Hub, json_of, rows, text};
use crate::say::{pass, say};

/// The one region of the account.
const REGION: &str = "eu-central-1";

/// Longest wait for an order to come to its end state on a busy machine.
const SETTLED: Duration = Duration::from_secs(90);

/// Orders that are given at the same time, all with one key.
const AT_ONCE: usize = 50;

/// A hub whose machines are moto's; times are short enough for a test, and no machine is taken back for not joining.
fn start(moto: &Moto) -> Result<Hub<'static>> {
    moto.put_parameter(REGION, "/own/amd64", &moto.image(REGION, "x86_64")?)?;
    let settings = [
        "providers.aws.enabled=true".to_owned(),
        format!("providers.aws.regions={REGION}"),
        format!("providers.aws.endpoint={}", moto.url()),
        "providers.aws.image=/own/{arch}".to_owned(),
        "hub.advertise=127.0.0.1".to_owned(),
        "provision.every=1s".to_owned(),
        "provision.call_again=3s".to_owned(),
        "provision.second_look=1s".to_owned(),
        "provision.join_within=2h".to_owned(),
        "provision.orphan_grace=3s".to_owned(),
        "provision.max_price_age_days=3650".to_owned(),
    ];
    let keys = vec![
        ("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "canary-of-aws".to_owned()),
    ];
    Hub::start_with(&settings.each_ref().map(String::as_str), keys)
}

/// States of the machines that moto has, without those that ended.
fn machines(moto: &Moto) -> Result<Vec<String>> {
    let standing = "&Filter.1.Name=instance-state-name&Filter.1.Value.1=pending&Filter.1.Value.2=running\
                    &Filter.1.Value.3=stopping&Filter.1.Value.4=stopped";
    Ok(all(&moto.ec2(REGION, &format!("Action=DescribeInstances{standing}"))?, "instanceId"))
}

fn ordering(hub: &Hub<'_>, key: &str) -> Result<Launch> {
    let deploy = hub.command(&["deploy", "--yes", "--output", "json", "--provider", "aws"])?;
    Ok(deploy.args(["--min-cpu", "1", "--min-memory", "1", "--budget", "0.05", "--request-key", key]))
}

/// The id of the deployment that an order made or found.
fn ordered(hub: &Hub<'_>, key: &str) -> Result<String> {
    let answer = json_of(&ordering(hub, key)?.run(SETTLED)?)
        .with_context(|| format!("the hub logged:\n{}", hub.log()))?;
    Ok(text(&answer, "/id")?.to_owned())
}

fn shown(hub: &Hub<'_>, id: &str) -> Result<Value> {
    hub.json(&["deployment", "show", id])
}

/// Waits until the hub and the cloud agree on one machine.
fn wait_one(hub: &Hub<'_>, moto: &Moto, id: &str) -> Result<String> {
    let one = eventually_ok(SETTLED, "one machine in the records and at the cloud", || {
        let (shown, standing) = (shown(hub, id)?, machines(moto)?);
        let [only] = standing.as_slice() else { anyhow::bail!("{standing:?} stand, {shown}") };
        let known =
            rows(&shown, "/instances")?.iter().find(|row| row.pointer("/state") == Some(&"created".into()));
        let known = known.with_context(|| format!("a machine that was created in {shown}"))?;
        ensure!(text(known, "/provider_id")? == format!("{REGION}/{only}"), "{only} stands, {shown}");
        Ok(only.clone())
    });
    one.with_context(|| format!("the hub logged:\n{}", hub.log()))
}

fn wait_none(hub: &Hub<'_>, moto: &Moto, id: &str) -> Result<()> {
    let none = eventually_ok(SETTLED, "no machine in the records and at the cloud", || {
        let (shown, standing) = (shown(hub, id)?, machines(moto)?);
        ensure!(standing.is_empty() && text(&shown, "/state")? == "gone", "{standing:?} stand, {shown}");
        Ok(())
    });
    none.with_context(|| format!("the hub logged:\n{}", hub.log()))
}

#[test]
fn fifty_orders_at_once_with_one_key_are_one_machine_of_ec2_and_none_when_they_end() -> Result<()> {
    if !require(&[Need::Moto]) {
        return Ok(());
    }
    let moto = Moto::start()?;
    let hub = start(&moto)?;
    let begin = Instant::now();
    let answers: Vec<Result<Finished>> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..AT_ONCE).map(|_| scope.spawn(|| ordering(&hub, "once")?.run(SETTLED))).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().map_err(|_| anyhow::anyhow!("a thread broke"))?)
            .collect()
    });
    let mut ids: Vec<String> = Vec::new();
    for answer in answers {
        let answer = json_of(&answer?).with_context(|| format!("the hub logged:\n{}", hub.log()))?;
        ids.push(text(&answer, "/id")?.to_owned());
    }
    ids.dedup();
    let [id] = ids.as_slice() else { anyhow::bail!("one key made {ids:?}") };
    let machine = wait_one(&hub, &moto, id)?;
    say(format_args!("{AT_ONCE} orders became one machine after {:.1?}", begin.elapsed()));
    // Some paces later, and after the same again, there is still one.
    ensure!(ordered(&hub, "once")? == *id, "another deployment for the same key");
    pass(Duration::from_secs(4))?;
    ensure!(wait_one(&hub, &moto, id)? == machine, "another machine took its place");
    let described = moto.ec2(REGION, &format!("Action=DescribeInstances&InstanceId.1={machine}"))?;
    ensure!(described.contains("<key>blueprint-hub</key>"), "{described}");

    hub.json(&["deployment", "stop", id])?;
    eventually_ok(SETTLED, "a machine that is switched off", || {
        let described = moto.ec2(REGION, &format!("Action=DescribeInstances&InstanceId.1={machine}"))?;
        ensure!(all(&described, "name").contains(&"stopped".to_owned()), "{described}");
        Ok(())
    })
    .with_context(|| hub.log())?;
    hub.json(&["deployment", "terminate", id, "--yes"])?;
    wait_none(&hub, &moto, id)?;
    ensure!(!hub.log().contains("canary-of-aws"), "the log holds a key");
    Ok(())
}
