//! Machines of this host with the user data of a cloud's machines: real systemd, real cloud-init, and a real hub and agent.

mod contract;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use blueprint_tests_support::http::Request;
use blueprint_tests_support::{Host, Lab, Launch, Need, binary, eventually_ok, local_vm_image, require};
use serde_json::Value;

use crate::fixture::{CALL, Hub, SOON, json_of, rows, text};
use crate::owners::{Owner, token};
use crate::say::say;

/// A machine of nspawn, on a busy host.
const NSPAWN: Duration = Duration::from_secs(120);

/// A guest whose processor is emulated, on a busy host.
const EMULATED: Duration = Duration::from_secs(400);

fn image(is_disk: bool) -> Option<PathBuf> {
    let needs: &[Need] = if is_disk {
        &[Need::Root, Need::LocalVmImage, Need::Program("qemu-system-x86_64"), Need::Program("qemu-img")]
    } else {
        &[Need::Root, Need::LocalVmImage, Need::Program("systemd-nspawn"), Need::Device("/dev/net/tun")]
    };
    if !require(needs) {
        return None;
    }
    let folder = local_vm_image()?;
    Some(if is_disk { folder.with_extension("ext4") } else { folder })
}

/// A hub whose machines end with the test, also where it fails.
struct Rig<'h> {
    hub: Hub<'h>,
}

impl<'h> Rig<'h> {
    fn start(host: &'h Host, advertise: &str, image: &Path, settings: &[&str]) -> Result<Self> {
        let image = format!("providers.local_vm.image={}", image.display());
        let mut all = vec![
            "providers.local_vm.enabled=true",
            image.as_str(),
            "provision.every=1s",
            "provision.second_look=1s",
            "session.heartbeat=1s",
            "tunnel.carrier_listen=off",
        ];
        all.extend(settings);
        Ok(Self { hub: Hub::start_on(host, advertise, &all)? })
    }

    /// Folders of the machines.
    fn machines(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.hub.state().join("local-vm/machines"));
        entries.into_iter().flatten().flatten().map(|entry| entry.path()).collect()
    }

    /// The one machine's process: the first field of its `stat`, behind the boot of this host.
    fn process(&self) -> Option<i64> {
        let text = std::fs::read_to_string(self.machines().first()?.join("process")).ok()?;
        text.lines().nth(1)?.split_whitespace().next()?.parse().ok()
    }

    /// The namespace of the one machine, out of the arguments of its process.
    fn namespace(&self) -> Option<String> {
        let arguments = std::fs::read_to_string(format!("/proc/{}/cmdline", self.process()?)).ok()?;
        let path =
            arguments.split('\0').find_map(|it| it.strip_prefix("--network-namespace-path=/run/netns/"));
        path.map(str::to_owned)
    }

    /// Orders one, and waits until it joined; what its screen shows where it does not.
    fn deploy(&self, within: Duration) -> Result<Value> {
        let begin = Instant::now();
        let arguments = ["deploy", "--name", "web", "--provider", "local-vm", "--yes", "--output", "json"];
        json_of(&self.hub.command(&arguments)?.run(CALL)?)?;
        let shown = self.wait("running", within)?;
        say(format_args!("a machine was ordered, booted, and is a node after {:.3?}", begin.elapsed()));
        Ok(shown)
    }

    fn wait(&self, state: &str, within: Duration) -> Result<Value> {
        let found = eventually_ok(within, &format!("a deployment that is {state}"), || {
            let shown = self.hub.json(&["deployment", "show", "web"])?;
            ensure!(text(&shown, "/state")? == state, "{shown}");
            Ok(shown)
        });
        found.with_context(|| {
            format!("the hub logged:\n{}\nthe machine showed:\n{}", self.hub.log(), self.screen())
        })
    }

    fn screen(&self) -> String {
        let read = |folder: PathBuf| std::fs::read(folder.join("console.log")).unwrap_or_default();
        self.machines()
            .into_iter()
            .map(|folder| String::from_utf8_lossy(&read(folder)).into_owned())
            .collect()
    }

    /// Has the machine run the example, and asks it through the proxy as its owner.
    fn serve(&self) -> Result<()> {
        let (hub, owner) = (&self.hub, Owner::new()?);
        let program = binary("blueprint-example-service")?.display().to_string();
        let pushed = hub.json(&["artefact", "push", &program])?;
        let public = format!("EXAMPLE_OWNER={}", owner.public());
        let digest = text(&pushed, "/sha256")?;
        let run = [
            "workload",
            "run",
            "7/42",
            "--url",
            "hub://",
            "--sha256",
            digest,
            "--env",
            &public,
            // Less than the smallest machine has.
            "--cpu-millis",
            "500",
            "--memory-bytes",
            "268435456",
        ];
        let ran = hub.command(&run)?.args(["--wait", "60s", "--output", "json"]).run(NSPAWN)?;
        let shown = json_of(&ran)?;
        ensure!(text(&shown, "/state")? == "running", "{shown}");
        // An emulated processor takes a while from a process that runs to a service that is registered.
        eventually_ok(NSPAWN, "an answer of the workload", || {
            let access = token(hub, &owner.api_key(hub)?)?;
            let told = hub.get("42", &access, "/blueprint")?;
            ensure!(told.status == 200, "{}", told.text());
            Ok(())
        })?;
        // How it is doing, by its own agent: the machine, the tunnel, and the service that it runs.
        let shown = hub.json(&["deployment", "show", "web"])?;
        let path = format!("/v1/nodes/{}/qos", text(&shown, "/instances/0/node/id")?);
        eventually_ok(NSPAWN, "quality of service of the machine", || {
            let qos = hub.api(&Request::get(&path))?.json()?;
            for pointer in [
                "/latest/machine/memory_total_bytes",
                "/latest/tunnel/rtt_micros",
                "/latest/services/0/check_micros",
            ] {
                ensure!(qos.pointer(pointer).and_then(Value::as_f64) > Some(0.0), "{pointer}: {qos}");
            }
            Ok(())
        })
    }

    fn terminate(&self) -> Result<()> {
        let ended = self.hub.command(&["deployment", "terminate", "web", "--yes", "--wait"])?.run(NSPAWN)?;
        ensure!(ended.code == Some(0), "{}\n{}", ended.stderr, self.hub.log());
        ensure!(self.machines().is_empty(), "left: {:?}", self.machines());
        let nodes = self.hub.json(&["node", "ls"])?;
        ensure!(rows(&nodes, "/nodes")?.is_empty(), "{nodes}");
        Ok(())
    }
}

impl Drop for Rig<'_> {
    fn drop(&mut self) {
        let _ = self.hub.kill();
        let namespace = self.namespace();
        for folder in self.machines() {
            if let Some(pid) = self.process() {
                let kill = format!("kill -KILL $(cat /proc/{pid}/task/{pid}/children) {pid}");
                let _ = Command::new("sh").args(["-c", &kill]).status();
            }
            let root = folder.join("root");
            if root.exists() {
                let _ = Command::new("umount").arg("--lazy").arg(root).status();
            }
        }
        if let Some(name) = namespace {
            let _ = Command::new("ip").args(["netns", "del", &name]).status();
        }
    }
}

/// Looks at all that a machine wrote; the system below it is the image's, which knows no machine.
fn holds_no_token(folder: &Path) -> Result<()> {
    let pattern = "bpj_[0-9a-f]\\{16\\}_";
    let search = ["-xdev", "-type", "f", "-exec", "grep", "--files-with-matches", pattern, "{}", "+"];
    let found = Launch::new("find").arg(folder).args(search).run(NSPAWN)?;
    ensure!(found.stdout.is_empty(), "a join token is in {}", found.stdout);
    Ok(())
}

#[test]
fn a_machine_boots_joins_serves_survives_the_hub_and_leaves_nothing() -> Result<()> {
    let Some(image) = image(false) else { return Ok(()) };
    let Some(lab) = Lab::new()? else { return Ok(()) };
    let host = lab.host("hub")?;
    // Where this machine has control groups of version 1 alone, a container of it cannot give them away.
    let mut rig =
        Rig::start(&host, &host.address().to_string(), &image, &["provision.allow_unlimited=true"])?;
    let shown = rig.deploy(NSPAWN)?;
    rig.serve()?;

    // What it joined with is nowhere any more.
    let folder = rig.machines().pop().context("no machine")?;
    holds_no_token(&folder)?;
    ensure!(folder.join("upper/usr/local/bin/blueprint-agent").exists(), "the agent was not fetched");

    // A workload is another's business: it cannot read what its agent is known by.
    let spy = rig.hub.state().join("spy");
    std::fs::write(
        &spy,
        "#!/bin/sh\nif cat /var/lib/blueprint-agent/identity.json >/dev/null 2>&1; then found=open; else found=closed; fi\n\
         echo $found >\"$DATA_DIR/found\"\nexec sleep 1000\n",
    )?;
    let pushed = rig.hub.json(&["artefact", "push", &spy.display().to_string()])?;
    let digest = text(&pushed, "/sha256")?;
    rig.hub.json(&["workload", "run", "7/43", "--url", "hub://", "--sha256", digest, "--name", "spy"])?;
    let data = folder.join("upper/var/lib/blueprint-agent");
    eventually_ok(SOON, "what a workload found", || {
        let found =
            Launch::new("find").arg(&data).args(["-name", "found", "-exec", "cat", "{}", ";"]).run(CALL)?;
        ensure!(found.stdout.trim() == "closed", "{found:?}");
        Ok(())
    })?;

    // Its network has a listener, and nobody outside reaches it.
    let name = rig.namespace().context("no namespace")?;
    let listener =
        Launch::new("ip").args(["netns", "exec", &name, "python3", "-m", "http.server", "8099"]).start()?;
    let inside =
        ["netns", "exec", &name, "curl", "--silent", "--output", "/dev/null", "http://127.0.0.1:8099/"];
    eventually_ok(SOON, "a listener in the machine", || {
        ensure!(Launch::new("ip").args(inside).run(CALL)?.code == Some(0), "nothing listens");
        Ok(())
    })?;
    let outside = host.connect(([10, 231, 0, 2], 8099).into(), Duration::from_secs(1));
    ensure!(outside.is_err(), "a port of the machine can be reached");
    drop(listener);

    // The hub is killed; the machine goes on, and is the same node again.
    let (node, process) = (text(&shown, "/instances/0/node/id")?.to_owned(), rig.process());
    rig.hub.kill()?;
    rig.hub.start_again()?;
    let shown = eventually_ok(SOON, "the node again", || {
        let shown = rig.hub.json(&["deployment", "show", "web"])?;
        ensure!(shown.pointer("/instances/0/node/connected") == Some(&true.into()), "{shown}");
        Ok(shown)
    })?;
    ensure!(text(&shown, "/instances/0/node/id")? == node && rig.process() == process, "{shown}");

    // It is switched off and on, and is the same node without another line to join with.
    let switch = |verb: &str| rig.hub.command(&["deployment", verb, "web", "--wait"])?.run(NSPAWN);
    ensure!(switch("stop")?.code == Some(0), "{}", rig.hub.log());
    ensure!(
        rig.process().is_none_or(|pid| !PathBuf::from(format!("/proc/{pid}/exe")).exists()),
        "it still runs"
    );
    ensure!(switch("start")?.code == Some(0), "{}", rig.hub.log());
    eventually_ok(NSPAWN, "the node after its second boot", || {
        let shown = rig.hub.json(&["deployment", "show", "web"])?;
        ensure!(shown.pointer("/instances/0/node/connected") == Some(&true.into()), "{shown}");
        ensure!(text(&shown, "/instances/0/node/id")? == node, "{shown}");
        Ok(())
    })
    .with_context(|| rig.screen())?;
    ensure!(!rig.screen().contains("ordering cycle"), "{}", rig.screen());

    rig.terminate()?;
    let path = PathBuf::from(format!("/run/netns/{name}"));
    ensure!(!path.exists(), "the network of the machine is left");
    let mounts = std::fs::read_to_string("/proc/self/mounts")?;
    ensure!(!mounts.contains("local-vm"), "{mounts}");
    Ok(())
}

#[test]
fn a_machine_that_cannot_join_switches_itself_off_and_is_replaced_only_by_the_plan() -> Result<()> {
    let Some(image) = image(false) else { return Ok(()) };
    let Some(lab) = Lab::new()? else { return Ok(()) };
    let host = lab.host("hub")?;
    // Nobody has this address.
    let rig = Rig::start(&host, "192.0.2.9", &image, &["provision.join_within=12s"])?;
    let arguments = ["deploy", "--name", "web", "--provider", "local-vm", "--yes", "--output", "json"];
    json_of(&rig.hub.command(&arguments)?.run(CALL)?)?;
    eventually_ok(NSPAWN, "a second machine after the first was given up", || {
        let shown = rig.hub.json(&["deployment", "show", "web"])?;
        ensure!(rows(&shown, "/instances")?.len() > 1, "{shown}");
        Ok(())
    })?;
    rig.terminate()
}

#[test]
fn a_guest_of_qemu_boots_joins_serves_and_leaves_nothing() -> Result<()> {
    let Some(image) = image(true) else { return Ok(()) };
    let Some(lab) = Lab::new()? else { return Ok(()) };
    let host = lab.host("hub")?;
    let rig = Rig::start(&host, &host.address().to_string(), &image, &[])?;
    rig.deploy(EMULATED)?;
    let seed = rig.machines().pop().context("no machine")?.join("seed/user-data");
    eventually_ok(SOON, "user data without a token", || {
        let text = std::fs::read_to_string(&seed)?;
        ensure!(!text.contains("bpj_") && text.starts_with("#cloud-config\n"), "{} bytes", text.len());
        Ok(())
    })?;
    rig.serve()?;
    let process = rig.process().context("no process")?;
    rig.terminate()?;
    ensure!(!PathBuf::from(format!("/proc/{process}/exe")).exists(), "the guest still runs");
    Ok(())
}
