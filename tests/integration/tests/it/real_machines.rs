//! The whole way on real machines: an owner reaches a blueprint there, whatever is killed, and wherever it goes.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use blueprint_tests_support::{Lab, Need, binary, eventually_ok, local_vm_image, require};
use serde_json::Value;

use crate::fixture::{Hub, SOON, rows, text};
use crate::machine::{Disk, Machine};
use crate::owners::{Owner, token};
use crate::say::say;

/// Time until a machine without power has lost its workloads, and they run elsewhere.
const MOVED: Duration = Duration::from_secs(60);

/// The agent as systemd runs it; what it needs beyond that is its join line.
const UNIT: &str = "[Unit]
ConditionPathExists=/var/lib/blueprint-agent/identity.json
[Service]
ExecStart=/usr/local/bin/blueprint-agent run --state /var/lib/blueprint-agent --set workload.allow_unlimited=true
Restart=always
RestartSec=1
Delegate=yes
StateDirectory=blueprint-agent
StateDirectoryMode=0700
[Install]
WantedBy=multi-user.target";

/// A machine with an agent that has not joined.
fn boot(lab: &Lab, name: &str, image: &std::path::Path) -> Result<Machine> {
    let disk = Disk::mount(lab, name, image)?;
    disk.change(&format!(
        "cp '{}' usr/local/bin/blueprint-agent; printf '%s' '{UNIT}' >etc/systemd/system/blueprint-agent.service",
        binary("blueprint-agent")?.display()
    ))?;
    disk.boot()
}

/// Has it join, and run its agent from now on.
fn join(machine: &Machine, name: &str, line: &str) -> Result<()> {
    let said = machine.inside(&format!(
        "echo '{line}' | blueprint-agent join - --name {name} --state /var/lib/blueprint-agent && \
         systemctl enable --now --quiet blueprint-agent && echo joined"
    ))?;
    ensure!(said.contains("joined"), "{said}");
    Ok(())
}

#[test]
fn a_blueprint_on_a_real_machine_is_reached_comes_back_and_moves_when_the_power_fails() -> Result<()> {
    let needs =
        [Need::Root, Need::LocalVmImage, Need::Program("systemd-nspawn"), Need::Device("/dev/net/tun")];
    if !require(&needs) {
        return Ok(());
    }
    let image = local_vm_image().context("no image")?;
    let Some(lab) = Lab::new()? else { return Ok(()) };
    let begin = Instant::now();
    let host = lab.host("hub")?;
    let names = ["one", "two"];
    // Both boot at once.
    let mut machines = names.map(|name| boot(&lab, name, &image)).into_iter().collect::<Result<Vec<_>>>()?;
    let hub = Hub::start_on(&host, &host.address().to_string(), &[])?;
    for (machine, name) in machines.iter().zip(names) {
        machine.wait()?;
        join(machine, name, &hub.join_line(&[])?)?;
    }
    eventually_ok(SOON, "two nodes", || {
        let nodes = hub.json(&["node", "ls"])?;
        let here = rows(&nodes, "/nodes")?.iter().filter(|node| node["state"] == "up").count();
        ensure!(here == machines.len(), "{nodes}");
        Ok(())
    })
    .with_context(|| {
        let logs =
            machines.iter().map(|machine| machine.inside("journalctl --no-pager --unit blueprint-agent"));
        logs.map(Result::unwrap_or_default).collect::<String>()
    })?;
    say(format_args!("two machines booted and joined after {:.3?}", begin.elapsed()));

    // The program comes from the operator, through the hub, and nobody but it names its owner.
    let owner = Owner::new()?;
    let pushed =
        hub.json(&["artefact", "push", &binary("blueprint-example-service")?.display().to_string()])?;
    let (digest, variable) = (text(&pushed, "/sha256")?, format!("EXAMPLE_OWNER={}", owner.public()));
    let run = ["workload", "run", "7/42", "--url", "hub://", "--sha256", digest, "--env", &variable];
    let shown = hub.json(&[&run[..], &["--memory-bytes", "268435456", "--wait", "20s"]].concat())?;
    ensure!(text(&shown, "/state")? == "running", "{shown}");
    let access = token(&hub, &owner.api_key(&hub)?)?;
    let reached = |starts: u64| -> Result<Value> {
        let answer = hub.get("42", &access, "/blueprint")?;
        ensure!(answer.status == 200, "{}: {}", answer.status, answer.text());
        let told = answer.json()?;
        ensure!(told["starts"] == starts, "{told}");
        Ok(told)
    };
    let told = eventually_ok(SOON, "the blueprint through the proxy", || reached(1))?;
    let first = text(&hub.json(&["workload", "show", "7/42"])?, "/node")?.to_owned();
    let position = names.iter().position(|name| *name == first).context("an unknown node")?;

    // It is killed: the agent starts it again, with its data.
    let pid = told["pid"].as_u64().context("no process")?;
    let said = machines[position].inside(&format!("kill -KILL {pid}"))?;
    ensure!(said.is_empty(), "{said}");
    eventually_ok(SOON, "the blueprint after its end", || reached(2))?;
    let shown = hub.json(&["workload", "show", "7/42"])?;
    ensure!(text(&shown, "/node")? == first && shown["restarts"] == 1, "{shown}");

    // The machine goes dark: it runs on the other, where its data never was, and the same token opens it.
    machines[position].cut_power();
    let dark = Instant::now();
    eventually_ok(MOVED, "the blueprint on the other machine", || reached(1))?;
    say(format_args!("reached on the other machine {:.3?} after the power failed", dark.elapsed()));
    let shown = hub.json(&["workload", "show", "7/42"])?;
    ensure!(text(&shown, "/node")? == names[1 - position] && text(&shown, "/state")? == "running", "{shown}");
    let audit = hub.audit()?.join("\n");
    ensure!(audit.contains("has been away for"), "{audit}");
    say(format_args!("all of it after {:.3?}", begin.elapsed()));
    Ok(())
}
