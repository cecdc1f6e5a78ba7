//! Services with a tier on machines of the simulated cloud: load brings replicas and takes them away, who does not pay comes
//! to none, and a region whose tunnels die is made up for by the other.

mod drain;

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use blueprint_tests_cloud::FakeCloud;
use blueprint_tests_cloud::digitalocean::DigitalOceanDialect;
use blueprint_tests_support::{Need, eventually_ok, processes_naming, require};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::fixture::{CALL, Hub, SOON, json_of, rows, text};
use crate::load::Load;
use crate::say::{metric, pass, say};
use crate::workloads::rig::Artefact;

/// Times short enough for a test; each is one that an operator can set.
const QUICK: [&str; 14] = [
    "providers.sim.enabled=true",
    "providers.sim.regions=2",
    "hub.advertise=127.0.0.1",
    "provision.every=1s",
    "provision.call_again=2s",
    "provision.second_look=1s",
    "provision.join_within=60s",
    "session.heartbeat=1s",
    "provision.limit_sim=true",
    "scaling.every=1s",
    "scaling.up_pause=1s",
    "scaling.down_after=3s",
    "scaling.drain=10s",
    "scaling.grace=6s",
];

/// Longest wait for machines to come or go on a busy machine.
const SETTLED: Duration = Duration::from_secs(90);

pub(crate) const SERVICE: &str = "7/42";

/// What the fake of DigitalOcean takes.
const DROPLETS: &str = "dop_v1_canary0123456789";

/// A hub with two machines that serve, and what opens its proxy.
pub(crate) fn deployed(settings: &[&str], options: &[&str]) -> Result<(Hub<'static>, String)> {
    let hub = Hub::start(&[QUICK.as_slice(), settings].concat())?;
    let order = ["deploy", "--yes", "--name", "web", "--replicas", "2", "--service", SERVICE, "--wait"];
    let ordered = hub.command(&order)?.args(options).args(["--output", "json"]).run(SETTLED)?;
    json_of(&ordered).with_context(|| format!("the hub logged:\n{}", hub.log()))?;
    let access = hub.access_token(SERVICE)?;
    hub.wait_served("42", &access, SOON)?;
    Ok((hub, access))
}

fn show(hub: &Hub<'_>) -> Result<Value> {
    hub.json(&["scale", "show", SERVICE])
}

fn machines(hub: &Hub<'_>) -> Result<BTreeSet<String>> {
    let entries = std::fs::read_dir(hub.state().join("sim/machines"))?;
    entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

/// Waits until so many replicas are wanted and ready, none leaves, and as many machines stand.
pub(crate) fn wait_replicas(hub: &Hub<'_>, count: usize) -> Result<Value> {
    let found = eventually_ok(SETTLED, &format!("{count} replicas"), || {
        let shown = show(hub)?;
        let is = |key: &str, value: usize| shown.get(key).is_some_and(|found| *found == value);
        ensure!(is("replicas", count) && is("ready", count) && is("leaving", 0), "{shown}");
        ensure!(machines(hub)?.len() == count, "{:?}", machines(hub)?);
        Ok(shown)
    });
    found.with_context(|| format!("the hub logged:\n{}", hub.log()))
}

fn wait_phase(hub: &Hub<'_>, phase: &str) -> Result<Value> {
    let found = eventually_ok(SETTLED, phase, || {
        let shown = show(hub)?;
        ensure!(text(&shown, "/phase")? == phase, "{shown}");
        Ok(shown)
    });
    found.with_context(|| format!("the hub logged:\n{}", hub.log()))
}

fn history(hub: &Hub<'_>) -> Result<Vec<(String, String)>> {
    let answer = hub.json(&["scale", "history", SERVICE])?;
    let row = |row: &Value| Ok((text(row, "/what")?.to_owned(), text(row, "/reason")?.to_owned()));
    rows(&answer, "/events")?.iter().map(row).collect()
}

pub(crate) fn load(hub: &Hub<'_>, access: &str) -> Result<Vec<Load>> {
    (0..3).map(|_| Load::here(hub.proxy(), ("42", access), CALL)).collect()
}

fn failures(load: &[Load]) -> Vec<String> {
    load.iter().flat_map(Load::failures).collect()
}

#[test]
fn load_drives_a_standard_service_from_two_to_five_and_back_and_no_request_is_lost() -> Result<()> {
    let (mut hub, access) = deployed(&[], &[])?;
    let tiers = hub.json(&["scale", "tiers"])?;
    ensure!(tiers.pointer("/tiers/1/max_replicas") == Some(&5.into()), "{tiers}");
    let set = hub.json(&["scale", "set", SERVICE, "--tier", "standard", "--target-rate", "2"])?;
    ensure!(set["min"] == 2 && set["max"] == 5 && set["phase"] == "paid", "{set}");
    ensure!(text(&set, "/hourly")? == "0.01" && text(&set, "/max_hourly")? == "0.025", "{set}");
    wait_replicas(&hub, 2)?;

    let began = Instant::now();
    let clients = load(&hub, &access)?;
    wait_replicas(&hub, 5)?;
    say(format_args!("from two to five replicas after {:.1?}", began.elapsed()));
    // Each of the five answers.
    let answering = eventually_ok(SETTLED, "requests at every replica", || {
        let shown = show(&hub)?;
        let measured = rows(&shown, "/machines")?.iter().filter(|row| row["cpu_percent"].is_number());
        ensure!(measured.count() == 5, "{shown}");
        Ok(())
    });
    answering?;
    ensure!(failures(&clients).is_empty(), "{:?}", failures(&clients));
    let calls: usize = clients.iter().map(|one| one.summary().0).sum();
    drop(clients);

    // Little load, so that something is seen to be lost where it is.
    let quiet = std::thread::scope(|scope| {
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let (hub, access) = (&hub, access.as_str());
        let quiet = scope.spawn(move || {
            let mut failed = Vec::new();
            while stopped.recv_timeout(Duration::from_millis(700))
                == Err(std::sync::mpsc::RecvTimeoutError::Timeout)
            {
                match hub.get("42", access, "/") {
                    Ok(answer) if answer.status == 200 => {}
                    Ok(answer) => failed.push(format!("{} {}", answer.status, answer.text())),
                    Err(error) => failed.push(format!("{error:#}")),
                }
            }
            failed
        });
        let began = Instant::now();
        let back = wait_replicas(hub, 2);
        say(format_args!("back to two after {:.1?}; {calls} calls before", began.elapsed()));
        drop(stop);
        let failed = quiet.join().unwrap_or_else(|_| vec!["it fell over".to_owned()]);
        back.map(|_| failed)
    })?;
    ensure!(quiet.is_empty(), "{quiet:?}");

    let told = history(&hub)?;
    let steps: Vec<&str> = told.iter().map(|(what, _)| what.as_str()).collect();
    for step in ["set", "grow", "drain", "shrink"] {
        ensure!(steps.contains(&step), "no {step} in {told:?}");
    }
    ensure!(told.iter().all(|(_, reason)| !reason.is_empty()), "{told:?}");
    ensure!(
        told.iter().any(|(what, reason)| what == "grow" && reason.contains("requests a second")),
        "{told:?}"
    );
    let audit = hub.audit()?.join("\n");
    ensure!(audit.contains("scaling.set 7/42") && audit.contains("scaling.act 7/42"), "{audit}");
    ensure!(metric(&hub, "hub_scaling_replicas{service=\"7/42\",state=\"wanted\"}")? == 2);

    // A hub that is killed while it grows goes on, and a limit of money stops it with a word.
    let clients = load(&hub, &access)?;
    eventually_ok(SETTLED, "more than two", || {
        let shown = show(&hub)?;
        ensure!(shown["replicas"].as_u64() > Some(2), "{shown}");
        Ok(())
    })?;
    drop(clients);
    hub.kill()?;
    hub.start_again()?;
    wait_replicas(&hub, 2)?;
    Ok(())
}

#[test]
fn who_does_not_pay_comes_to_zero_and_who_pays_again_is_served_again() -> Result<()> {
    let (mut hub, access) = deployed(&[], &[])?;
    let refused = |hub: &Hub<'_>, arguments: &[&str], word: &str| {
        let finished = hub.command(arguments)?.run(SETTLED)?;
        ensure!(
            finished.code != Some(0) && finished.stderr.contains(word),
            "{arguments:?}: {}",
            finished.stderr
        );
        Ok(finished.code)
    };
    ensure!(
        refused(&hub, &["scale", "set", "7/43", "--tier", "basic"], "blueprint-hub deploy --service 7/43")?
            == Some(3)
    );
    ensure!(refused(&hub, &["scale", "set", SERVICE], "no tier is given")? == Some(2));
    let many = ["scale", "set", SERVICE, "--tier", "standard", "--max", "6"];
    ensure!(refused(&hub, &many, "the tier standard allows at most 5")? == Some(2));
    ensure!(refused(&hub, &["scale", "show", SERVICE], "has no tier")? == Some(3));

    hub.json(&["scale", "set", SERVICE, "--tier", "standard", "--paid-until", "5s"])?;
    wait_phase(&hub, "draining")?;
    // Whatever is under way is kept through a kill.
    hub.kill()?;
    hub.start_again()?;
    wait_phase(&hub, "zero")?;
    eventually_ok(SETTLED, "no machine and no node", || {
        ensure!(machines(&hub)?.is_empty() && rows(&hub.json(&["node", "ls"])?, "/nodes")?.is_empty());
        Ok(())
    })
    .with_context(|| hub.log())?;
    let answer = hub.get("42", &access, "/")?;
    ensure!(answer.status == 404, "{} {}", answer.status, answer.text());

    hub.json(&["scale", "set", SERVICE, "--paid-until", "1h"])?;
    wait_replicas(&hub, 2)?;
    hub.wait_served("42", &access, SOON)?;

    // What is open when the time is over is answered to its end.
    let slow = std::thread::scope(|scope| {
        let slow = scope.spawn(|| hub.get("42", &access, "/slow/6000"));
        pass(Duration::from_secs(1))?;
        hub.json(&["scale", "set", SERVICE, "--paid-until", "1s"])?;
        wait_phase(&hub, "draining")?;
        let open = show(&hub)?;
        ensure!(!slow.is_finished() && machines(&hub)?.len() == 2, "{open}");
        slow.join().map_err(|_| anyhow::anyhow!("the call fell over"))?
    })?;
    ensure!(
        slow.status == 200 && slow.text().starts_with("waited 6000 ms"),
        "{} {}",
        slow.status,
        slow.text()
    );
    wait_phase(&hub, "ended")?;
    eventually_ok(SETTLED, "an end of the deployment", || {
        let shown = hub.json(&["deployment", "ls"])?;
        ensure!(rows(&shown, "/deployments")?.is_empty() && machines(&hub)?.is_empty(), "{shown}");
        Ok(())
    })?;
    refused(
        &hub,
        &["scale", "set", SERVICE, "--paid-until", "1h"],
        "was ended, since the service was not paid for",
    )?;
    // The time that is over does not come back with new machines, and none are ordered for it.
    let again = ["deploy", "--yes", "--service", SERVICE, "--tier", "standard"];
    refused(&hub, &again, "blueprint-hub scale rm 7/42")?;
    ensure!(rows(&hub.json(&["deployment", "ls"])?, "/deployments")?.is_empty());
    let told = history(&hub)?;
    for phase in ["draining: ", "zero: ", "paid: ", "ended: "] {
        ensure!(told.iter().any(|(what, why)| what == "phase" && why.starts_with(phase)), "{phase} {told:?}");
    }
    hub.json(&["scale", "rm", SERVICE])?;
    ensure!(rows(&hub.json(&["scale", "ls"])?, "/services")?.is_empty());
    Ok(())
}

#[test]
fn processors_alone_drive_a_service_up_and_back() -> Result<()> {
    let (hub, access) = deployed(&[], &[])?;
    // Half a processor is paid for, and a tenth of that is to be used: also a busy machine gives three clients that much.
    let set = hub.json(&["scale", "set", SERVICE, "--tier", "standard", "--target-cpu", "10"])?;
    ensure!(set["target_rate"].is_null(), "{set}");
    wait_replicas(&hub, 2)?;
    let began = Instant::now();
    let client = || Load::of("/burn?ms=100", hub.proxy(), ("42", access.as_str()), CALL);
    let work = (0..3).map(|_| client()).collect::<Result<Vec<_>>>()?;
    let more = eventually_ok(SETTLED, "more replicas", || {
        let shown = show(&hub)?;
        ensure!(shown["replicas"].as_u64() > Some(2) && shown["ready"] == shown["replicas"], "{shown}");
        Ok(shown)
    });
    let more = more.with_context(|| hub.log())?;
    say(format_args!("{} replicas by processors after {:.1?}", more["replicas"], began.elapsed()));
    let told = history(&hub)?;
    let grown = told.iter().find(|(what, _)| what == "grow").map(|(_, why)| why.as_str());
    ensure!(grown.is_some_and(|why| why.contains("10 % is the target")), "{told:?}");
    ensure!(failures(&work).is_empty(), "{:?}", failures(&work));
    drop(work);
    wait_replicas(&hub, 2)?;
    Ok(())
}

#[test]
fn a_replica_whose_machine_stays_dead_is_replaced_also_by_a_hub_that_is_killed() -> Result<()> {
    let (mut hub, access) = deployed(&["scaling.give_up=4s"], &["--tier", "standard"])?;
    let keys = |shown: &Value| -> Result<BTreeSet<String>> {
        rows(shown, "/machines")?.iter().map(|row| Ok(text(row, "/key")?.to_owned())).collect()
    };
    let before = keys(&wait_replicas(&hub, 2)?)?;
    let dead = before.first().context("no replica")?.clone();
    let folder = hub.state().join("sim/machines").join(&dead).join("agent.toml").display().to_string();
    let agents = processes_naming(&folder);
    ensure!(!agents.is_empty(), "no agent of {dead}");
    // Its cloud still has it and says that it runs.
    agents.iter().try_for_each(|pid| {
        kill(Pid::from_raw(i32::try_from(*pid)?), Signal::SIGSTOP).map_err(anyhow::Error::from)
    })?;
    let given_up = eventually_ok(SETTLED, "a replica that is given up", || {
        let told = history(&hub)?;
        ensure!(told.iter().any(|(what, why)| what == "replace" && why.contains(&dead)), "{told:?}");
        Ok(())
    });
    given_up.with_context(|| hub.log())?;
    hub.kill()?;
    hub.start_again()?;
    let after = eventually_ok(SETTLED, "another replica", || {
        let shown = show(&hub)?;
        let after = keys(&shown)?;
        ensure!(shown["ready"] == 2 && after.len() == 2 && !after.contains(&dead), "{shown}");
        ensure!(machines(&hub)? == after, "{:?}", machines(&hub)?);
        Ok(after)
    });
    let after = after.with_context(|| hub.log())?;
    ensure!(after.intersection(&before).count() == 1, "{before:?} became {after:?}");
    ensure!(history(&hub)?.iter().filter(|(what, _)| what == "replace").count() == 1);
    hub.wait_served("42", &access, SOON)?;
    Ok(())
}

#[test]
fn replicas_that_are_spread_over_providers_are_at_each_of_them_or_nowhere() -> Result<()> {
    let runtime = Runtime::new()?;
    let fake = runtime.block_on(FakeCloud::start(DigitalOceanDialect::default(), DROPLETS));
    let endpoint = format!("providers.digitalocean.endpoint={}", fake.url());
    let both = ["providers.digitalocean.enabled=true", "providers.digitalocean.regions=fra1", &endpoint];
    let hub = Hub::start(&[QUICK.as_slice(), &both].concat())?;
    let path = hub.state().join("digitalocean.credentials");
    std::fs::write(&path, format!("token = {DROPLETS}\n"))?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    let dry =
        |over: &str| hub.command(&spread_over(over))?.args(["--dry-run", "--output", "json"]).run(SETTLED);
    let plan = eventually_ok(SETTLED, "a plan", || json_of(&dry("providers")?))?;
    let at = |plan: &Value, key: &str| -> Result<BTreeSet<String>> {
        rows(plan, "/layout")?.iter().map(|row| Ok(text(row, key)?.to_owned())).collect()
    };
    ensure!(at(&plan, "/provider")? == ["digitalocean", "sim"].map(str::to_owned).into(), "{plan}");
    let ordered = hub.command(&spread_over("providers"))?.args(["--output", "json"]).run(SETTLED)?;
    json_of(&ordered)?;
    let settled = eventually_ok(SETTLED, "a machine at each", || {
        let droplets = fake.world(|world| world.machines.len());
        ensure!(droplets == 1 && machines(&hub)?.len() == 1, "{droplets} droplets and {:?}", machines(&hub)?);
        Ok(())
    });
    settled.with_context(|| hub.log())?;
    // One provider alone is no spread, and nobody is left to think so.
    let one = ["deploy", "--yes", "--replicas", "2", "--spread", "providers", "--provider", "sim"];
    let refused = hub.command(&one)?.run(SETTLED)?;
    ensure!(
        refused.code != Some(0) && refused.stderr.contains("all that fit are at sim"),
        "{}",
        refused.stderr
    );
    ensure!(refused.stderr.contains("configure another provider"), "{}", refused.stderr);
    Ok(())
}

#[test]
fn a_limit_of_money_stops_replicas_with_a_word() -> Result<()> {
    let (hub, access) = deployed(&["provision.max_hourly=0.015"], &[])?;
    hub.json(&["scale", "set", SERVICE, "--tier", "standard", "--target-rate", "2"])?;
    let clients = load(&hub, &access)?;
    let told = eventually_ok(SETTLED, "a word about the limit", || {
        let shown = show(&hub)?;
        ensure!(text(&shown, "/why")?.contains("provision.max_hourly is $0.015"), "{shown}");
        Ok(shown)
    });
    let shown = told.with_context(|| hub.log())?;
    ensure!(shown["replicas"].as_u64() <= Some(3) && machines(&hub)?.len() <= 3, "{shown}");
    ensure!(history(&hub)?.iter().any(|(what, _)| what == "held"));
    drop(clients);
    Ok(())
}

#[test]
fn replicas_are_spread_over_regions_and_one_that_is_cut_off_is_made_up_for() -> Result<()> {
    let hub = Hub::start(&QUICK)?;
    let plan = hub.json(&["deploy", "--replicas", "2", "--spread", "regions", "--dry-run"])?;
    let regions: Vec<_> = rows(&plan, "/layout")?.iter().filter_map(|row| row["region"].as_str()).collect();
    ensure!(regions == ["local", "local-2"], "{plan}");
    ensure!(text(&plan, "/hourly")? == "0.011" && text(&plan, "/unspread_hourly")? == "0.01", "{plan}");
    // A tier asks for its own sizes: half a processor is one here, and a GPU is not to be had.
    let premium =
        hub.command(&["deploy", "--tier", "premium", "--service", SERVICE, "--dry-run"])?.run(SETTLED)?;
    ensure!(premium.code != Some(0) && premium.stderr.to_lowercase().contains("gpu"), "{}", premium.stderr);
    drop(hub);

    let (hub, access) = deployed(&[], &["--spread", "regions", "--tier", "standard"])?;
    let shown = wait_replicas(&hub, 2)?;
    let key_in = |region: &str| {
        let row = rows(&shown, "/machines")?.iter().find(|row| row["region"] == region);
        Ok::<_, anyhow::Error>(text(row.context("no machine there")?, "/key")?.to_owned())
    };
    let (near, far) = (key_in("local")?, key_in("local-2")?);
    ensure!(near != far);

    let clients = load(&hub, &access)?;
    clients.iter().try_for_each(|one| one.wait_for_calls(20))?;
    // Every agent of the region stands still: its tunnels die, as where the region is cut off.
    let folder = hub.state().join("sim/machines").join(&far).join("agent.toml").display().to_string();
    let agents = processes_naming(&folder);
    ensure!(!agents.is_empty(), "no agent of {far}");
    let signal = |signal: Signal| {
        agents.iter().try_for_each(|pid| {
            kill(Pid::from_raw(i32::try_from(*pid)?), signal).map_err(anyhow::Error::from)
        })
    };
    let cut = Instant::now();
    signal(Signal::SIGSTOP)?;
    let seen = eventually_ok(SOON, "one replica alone", || {
        let shown = show(&hub)?;
        ensure!(shown["ready"] == 1, "{shown}");
        Ok(())
    });
    say(format_args!("the region is seen to be away after {:.1?}", cut.elapsed()));
    if seen.is_err() {
        signal(Signal::SIGCONT)?;
    }
    seen?;
    let after = Instant::now();
    let answered = clients.iter().try_for_each(|one| one.first_answer_after(after, SOON).map(|_| ()));
    // From then on everything is answered by the other region.
    let before = failures(&clients).len();
    pass(Duration::from_secs(5))?;
    let lost = failures(&clients).len() - before;
    signal(Signal::SIGCONT)?;
    answered?;
    say(format_args!(
        "{before} of {} calls failed until then",
        clients.iter().map(|one| one.summary().0).sum::<usize>()
    ));
    ensure!(lost == 0, "{lost} calls failed after it was seen: {:?}", failures(&clients).last());
    wait_replicas(&hub, 2)?;
    Ok(())
}

/// What the hub runs of a service with a tier runs on each of its machines, those that come later included.
#[test]
fn a_workload_of_a_service_with_a_tier_runs_on_each_of_its_machines() -> Result<()> {
    if !require(&[Need::Root]) {
        return Ok(());
    }
    let (mut hub, access) = deployed(&[], &[])?;
    let artefact = Artefact::serve()?;
    // Machines of the simulated cloud lie in the hub's folder, which no other user may pass.
    let document = json!({
        "source": { "type": "native", "url": artefact.url(), "sha256": artefact.sha256() },
        "env": { "EXAMPLE_NAME": "whole" },
        "sandbox": { "own_user": false },
    });
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), document.to_string())?;
    hub.json(&["scale", "set", SERVICE, "--tier", "standard"])?;
    wait_replicas(&hub, 2)?;
    let path = file.path().display().to_string();
    hub.json(&["workload", "run", SERVICE, "--file", &path])?;
    let running = |hub: &Hub<'_>, count: usize| {
        let found = eventually_ok(SETTLED, "a run on each machine", || {
            let shown = hub.json(&["workload", "show", SERVICE])?;
            let others = rows(&shown, "/replicas")?.iter();
            let others = others.filter(|row| row["state"] == "running").count();
            ensure!(text(&shown, "/state")? == "running" && others + 1 == count, "{shown}");
            Ok(shown)
        });
        found.with_context(|| format!("the hub logged:\n{}", hub.log()))
    };
    let first = running(&hub, 2)?;
    wait_replicas(&hub, 2)?;
    let answer = hub.wait_served("42", &access, SOON)?.json()?;
    ensure!(text(&answer, "/service")? == "whole", "{answer}");
    // None of them is started anew for another one, nor for a hub that is killed.
    hub.json(&["scale", "set", SERVICE, "--min", "3"])?;
    let more = running(&hub, 3)?;
    wait_replicas(&hub, 3)?;
    hub.kill()?;
    hub.start_again()?;
    let again = running(&hub, 3)?;
    ensure!(
        first["generation"] == more["generation"] && more["generation"] == again["generation"],
        "{again}"
    );
    hub.json(&["scale", "set", SERVICE, "--paid-until", "1s"])?;
    wait_phase(&hub, "zero")?;
    let nowhere = |hub: &Hub<'_>| {
        let shown = hub.json(&["workload", "show", SERVICE])?;
        ensure!(shown["node"].is_null() && rows(&shown, "/replicas")?.is_empty(), "{shown}");
        anyhow::Ok(())
    };
    nowhere(&hub)?;
    // Also once it ended, where another machine could take it.
    hub.json(&["deploy", "--yes", "--name", "other", "--wait"])?;
    wait_phase(&hub, "ended")?;
    pass(Duration::from_secs(4))?;
    nowhere(&hub)
}

/// An order of two machines that are spread.
fn spread_over(over: &str) -> [&str; 6] {
    ["deploy", "--yes", "--replicas", "2", "--spread", over]
}
