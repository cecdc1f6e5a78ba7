//! A Manager starts the launcher as it starts a blueprint, and the blueprint runs on a node.

mod manager;
mod output;
mod relay;
mod sources;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use blueprint_tests_support::http::Request;
use blueprint_tests_support::{
    Host, Lab, Launch, Need, Process, binary, eventually, eventually_ok, processes_naming, require, scratch,
};
use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

use self::manager::Manager;
use self::relay::Relay;
use crate::fixture::{Agent, CALL, Hub, SOON, rows, text};

/// How long a blueprint outlives its launcher here.
const GRACE_SECS: u64 = 2;

/// Key of the Manager's envelopes.
const ENVELOPE_KEY: &str = "0f0e0d0c0b0a09080706050403020100f0e0d0c0b0a090807060504030201000";

/// What goes to the node only where that is said.
const SENDS: &str =
    "env = [\"EXAMPLE_CALLS\"]\nrestart = \"never\"\nsend_keystore = true\nsend_envelope_key = true";

/// Time until a node that died has lost its workloads, and they run elsewhere.
const MOVED: Duration = Duration::from_secs(60);

/// A hub, nodes that may run programs of this machine, and a Manager.
struct Scene<'h> {
    hub: Hub<'h>,
    agents: Vec<Agent<'h>>,
    manager: Manager,
    folder: TempDir,
    _memory: TempDir,
}

/// A folder that the users of workloads may pass.
fn open_to_all(folder: &Path) -> Result<()> {
    Ok(std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755))?)
}

impl Scene<'static> {
    /// Everything on this machine, with one node.
    fn start() -> Result<Self> {
        Self::with(Hub::start(&[])?, &[None])
    }
}

impl<'h> Scene<'h> {
    /// A node on each of these hosts.
    fn with(hub: Hub<'h>, hosts: &[Option<&'h Host>]) -> Result<Self> {
        Self::with_engine(hub, hosts, Path::new("/nonexistent/engine.sock"))
    }

    /// The same, with this container engine.
    fn with_engine(hub: Hub<'h>, hosts: &[Option<&'h Host>], engine: &Path) -> Result<Self> {
        // Keys are written to memory alone, which not every /run is.
        let memory = tempfile::tempdir_in("/dev/shm")?;
        open_to_all(memory.path())?;
        let mut agents = Vec::new();
        for (number, host) in hosts.iter().enumerate() {
            let name = format!("node-{number}");
            let agent = Agent::join(*host, &name, &hub.join_line(&[])?)?;
            open_to_all(agent.state().parent().context("the state has a folder")?)?;
            let own = memory.path().join(name);
            std::fs::create_dir(&own)?;
            open_to_all(&own)?;
            let runtime = format!("workload.runtime_dir={}", own.display());
            let engine = format!("workload.engine_socket={}", engine.display());
            let mut agent = agent.set("workload.testing=true").set(&runtime).set(&engine);
            agent.run()?;
            agents.push(agent);
        }
        let folder = scratch("manager")?;
        open_to_all(folder.path())?;
        std::fs::create_dir(folder.path().join("data"))?;
        std::fs::create_dir_all(folder.path().join("keys/Ecdsa"))?;
        std::fs::write(folder.path().join("keys/Ecdsa/ab12"), "[[1],[2]]")?;
        std::fs::copy(binary("blueprint-example-service")?, folder.path().join("example"))?;
        let manager = Manager::start(&folder.path().join("svc-7-42.sock"))?;
        Ok(Self { hub, agents, manager, folder, _memory: memory })
    }

    /// Writes `launcher.toml`; the source is a program in the folder.
    fn configure(&self, program: &str, more: &str) -> Result<()> {
        self.configure_at(&self.hub.state().join("registry.sock"), program, more)
    }

    /// The same with the hub at another socket.
    fn configure_at(&self, hub: &Path, program: &str, more: &str) -> Result<()> {
        let source = format!("type = \"testing\", path = {:?}", self.path(program));
        self.configure_source(hub, &source, more)
    }

    /// The same with the fields of any source.
    fn configure_source(&self, hub: &Path, source: &str, more: &str) -> Result<()> {
        let text = format!(
            "hub = {hub:?}\ngrace_secs = {GRACE_SECS}\n[blueprint.7]\nsource = {{ {source} }}\n{more}\n",
        );
        Ok(std::fs::write(self.path("launcher.toml"), text)?)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What the Manager starts: its arguments, environment, folder and standard input.
    fn launcher(&self) -> Result<Launch> {
        self.given_to(Launch::new(binary("blueprint-launcher")?).arg("run"))
    }

    /// The same for another program that becomes a launcher.
    fn given_to(&self, launch: Launch) -> Result<Launch> {
        let launch = launch.folder(self.folder.path());
        let launch = launch.env("BLUEPRINT_LAUNCHER_CONFIG", self.path("launcher.toml"));
        let launch = launch.env("KEYSTORE_URI", self.path("keys"));
        let launch = launch.env("DATA_DIR", self.path("data/blueprint-7-demo"));
        let launch = launch.env("BRIDGE_SOCKET_PATH", self.path("svc-7-42.sock"));
        let rest = [
            ("HTTP_RPC_URL", "http://127.0.0.1:8545/"),
            ("WS_RPC_URL", "ws://127.0.0.1:8546/"),
            ("BLUEPRINT_ID", "7"),
            ("SERVICE_ID", "42"),
            ("PROTOCOL", "tangle"),
            ("CHAIN", "local_testnet"),
            ("BOOTNODES", " /ip4/127.0.0.1"),
            ("TANGLE_CONTRACT", "0x5FbDB2315678afecb367f032d93F642f64180aa3"),
            ("EXAMPLE_CALLS", "1"),
            ("TLS_ENVELOPE_KEY", ENVELOPE_KEY),
            ("RUST_LOG", "blueprint=debug"),
            ("AWS_SECRET_ACCESS_KEY", "the Manager's own"),
        ];
        Ok(rest.into_iter().fold(launch, |launch, (name, value)| launch.env(name, value)))
    }

    /// Waits until the Manager has heard of the service `times` times, and asks the service what it was given.
    fn served(&self, times: usize) -> Result<Value> {
        let address = eventually_ok(SOON, "the registration at the Manager", || {
            let seen = self.manager.registered();
            ensure!(seen.len() >= times, "{} registrations", seen.len());
            seen.last()
                .cloned()
                .context("none")?
                .strip_prefix("http://")
                .context("no URL")?
                .parse()
                .context("no address")
        });
        let address: std::net::SocketAddr =
            address.with_context(|| format!("hub:\n{}\nagents:\n{}", self.hub.log(), self.agent_logs()))?;
        ensure!(address.ip().is_loopback(), "{address} is not of this machine");
        eventually_ok(SOON, "an answer of the service", || {
            let response = Request::get("/blueprint").send(address, CALL)?;
            ensure!(response.status == 200, "{}", response.text());
            response.json()
        })
    }

    fn agent_logs(&self) -> String {
        self.agents.iter().map(Agent::log).collect::<Vec<_>>().join("\n")
    }

    fn workloads(&self) -> Result<Vec<Value>> {
        Ok(rows(&self.hub.json(&["workload", "ls"])?, "/workloads")?.to_vec())
    }
}

fn pid(told: &Value) -> Result<u64> {
    told.pointer("/pid").and_then(Value::as_u64).context("no process")
}

/// Variables of a process of this machine.
fn variables(pid: u64) -> Result<String> {
    let read = std::fs::read(format!("/proc/{pid}/environ"))?;
    Ok(String::from_utf8_lossy(&read).replace('\0', "\n"))
}

fn is_there(pid: u64) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

fn gone_within(pid: u64, within: Duration) -> Result<()> {
    eventually(within, &format!("the end of process {pid}"), || (!is_there(pid)).then_some(()))
}

fn code(process: &mut Process) -> Result<i32> {
    process.wait(SOON)?.code().context("a signal ended it")
}

#[test]
fn the_manager_finds_a_remote_blueprint_as_if_it_were_local() -> Result<()> {
    let scene = Scene::start()?;
    scene.configure("example", SENDS)?;
    let mut launcher = scene.launcher()?.start()?;
    let told = scene.served(1)?;
    assert_eq!(scene.manager.pings(), 1, "greeted once, by the blueprint's first greeting");
    assert_eq!(told.pointer("/args"), Some(&serde_json::json!(["run"])));
    for (name, value) in [("BLUEPRINT_ID", "7"), ("SERVICE_ID", "42"), ("CHAIN", "local_testnet")] {
        assert_eq!(text(&told, &format!("/env/{name}"))?, value);
    }
    assert!(text(&told, "/env/DATA_DIR")?.ends_with("blueprint-7-demo"), "{told}");
    assert!(told.pointer("/port").and_then(Value::as_u64).is_some_and(|port| port > 0), "{told}");
    // What the Manager says, word for word.
    assert_eq!(text(&told, "/calls/add_owner")?, "done");
    assert_eq!(text(&told, "/calls/remove_owner")?, "NotFound: there is no such owner");
    assert_eq!(text(&told, "/calls/update_tls")?, "InvalidArgument: no profile for you");
    let address = scene.manager.registered().last().cloned().context("registered")?;
    let address = address.trim_start_matches("http://").parse()?;
    let large = Request::get("/bytes/3000000").send(address, CALL)?;
    assert_eq!(large.body.len(), 3_000_000);

    let pid = pid(&told)?;
    assert_eq!(told.pointer("/keys"), Some(&serde_json::json!(["Ecdsa/ab12"])));
    let variables = variables(pid)?;
    assert!(variables.contains(&format!("TLS_ENVELOPE_KEY={ENVELOPE_KEY}")), "the Manager's, not the hub's");
    assert!(variables.contains("RUST_LOG=blueprint=debug"));
    assert!(!variables.contains("AWS_"), "{variables}");
    launcher.signal(Signal::SIGTERM)?;
    assert_eq!(code(&mut launcher)?, 0, "{}", launcher.log());
    assert!(!is_there(pid), "it ended before its launcher");
    assert!(scene.workloads()?.is_empty());
    assert!(
        scene.hub.audit()?.iter().any(|row| row.starts_with("workload.remove") && row.ends_with("it ended"))
    );
    for state in ["is starting", "is running", "ended with code 0"] {
        assert!(launcher.log().contains(state), "{state}: {}", launcher.log());
    }
    Ok(())
}

#[test]
fn a_launcher_that_is_killed_takes_its_blueprint_along_and_the_next_one_starts_anew() -> Result<()> {
    let scene = Scene::start()?;
    scene.configure("example", "")?;
    let mut first = scene.launcher()?.start()?;
    let before = pid(&scene.served(1)?)?;
    let another = scene.launcher()?.run(SOON)?;
    assert_eq!(another.code, Some(5), "{}", another.stderr);
    assert!(another.stderr.contains("another launcher holds this service"), "{}", another.stderr);
    first.kill()?;
    // Within the grace: it takes the service over, with a new process, as the Manager expects.
    let mut second = scene.launcher()?.start()?;
    let after = pid(&scene.served(2)?)?;
    assert_ne!(before, after);
    gone_within(before, SOON)?;
    second.kill()?;
    gone_within(after, Duration::from_secs(GRACE_SECS + 5))?;
    assert!(scene.workloads()?.is_empty());
    let rows = scene.hub.audit()?;
    assert!(rows.iter().any(|row| row.ends_with("its launcher is gone")), "{rows:?}");
    Ok(())
}

#[test]
fn a_hub_that_comes_back_finds_launcher_and_blueprint_where_they_were() -> Result<()> {
    let mut scene = Scene::start()?;
    scene.configure("example", "")?;
    let mut launcher = scene.launcher()?.start()?;
    let before = pid(&scene.served(1)?)?;
    let env = variables(before)?;
    assert!(
        !env.contains("TLS_ENVELOPE_KEY") && !env.contains("EXAMPLE_CALLS"),
        "unless that is said: {env}"
    );
    let told = scene.served(1)?;
    assert_eq!(told.pointer("/keys"), Some(&serde_json::json!([])));
    scene.hub.kill()?;
    launcher.wait_for_line("it is tried again", SOON)?;
    scene.hub.start_again()?;
    let after = scene.served(1)?;
    assert_eq!(pid(&after)?, before, "it ran on");
    // Told by a launcher that is attached, and by a node that never ended it.
    eventually_ok(SOON, "the launcher at the new hub", || {
        let state = scene.workloads()?.first().map(|row| text(row, "/state").unwrap_or_default().to_owned());
        ensure!(state.as_deref() == Some("running"), "{state:?}");
        Ok(())
    })?;
    launcher.signal(Signal::SIGTERM)?;
    assert_eq!(code(&mut launcher)?, 0, "{}", launcher.log());
    gone_within(before, SOON)
}

#[test]
fn a_launcher_that_loses_its_connection_goes_on_where_it_was() -> Result<()> {
    let scene = Scene::start()?;
    let relay = Relay::start(&scene.path("relay.sock"), &scene.hub.state().join("registry.sock"))?;
    scene.configure_at(&scene.path("relay.sock"), "example", "")?;
    let mut launcher = scene.launcher()?.start()?;
    let before = pid(&scene.served(1)?)?;
    let generation = |scene: &Scene<'_>| -> Result<Value> {
        Ok(scene.workloads()?.first().context("no workload")?["generation"].clone())
    };
    let assigned = generation(&scene)?;
    for breaks in 1..=2 {
        assert!(relay.cut() > 0, "nothing was open");
        eventually_ok(SOON, "the launcher at its hub again", || {
            let times = scene.hub.log().matches("launcher is there").count();
            ensure!(times > breaks, "{times} times: {}", launcher.log());
            Ok(())
        })?;
    }
    assert!(launcher.log().contains("it is tried again"), "{}", launcher.log());
    assert_eq!((pid(&scene.served(1)?)?, generation(&scene)?), (before, assigned.clone()), "it ran on");

    // What the blueprint asks next goes over the new session: it crashes, comes back and registers again.
    let address = scene.manager.registered().last().cloned().context("registered")?;
    let _ = Request::get("/crash").send(address.trim_start_matches("http://").parse()?, CALL);
    let after = pid(&scene.served(2)?)?;
    assert_ne!(before, after);
    assert_eq!(
        (scene.manager.pings(), generation(&scene)?),
        (1, assigned),
        "greeted once, and assigned once"
    );
    launcher.signal(Signal::SIGTERM)?;
    assert_eq!(code(&mut launcher)?, 0, "{}", launcher.log());
    gone_within(after, SOON)?;
    let rows = scene.hub.audit()?;
    assert!(!rows.iter().any(|row| row.ends_with("its launcher is gone")), "{rows:?}");
    Ok(())
}

#[test]
fn a_blueprint_of_a_launcher_goes_on_at_another_node_when_its_own_dies() -> Result<()> {
    let Some(lab) = Lab::new()?.filter(|_| require(&[Need::Root])) else { return Ok(()) };
    let hosts = [lab.host("hub")?, lab.host("one")?, lab.host("two")?];
    let [hub_host, one, two] = &hosts;
    let hub = Hub::start_on(hub_host, &hub_host.address().to_string(), &[])?;
    let mut scene = Scene::with(hub, &[Some(one), Some(two)])?;
    scene.configure("example", "")?;
    let mut launcher = scene.launcher()?.start()?;
    let before = scene.served(1)?;
    let node = |scene: &Scene<'_>| -> Result<(String, String)> {
        let rows = scene.workloads()?;
        let row = rows.first().context("no workload")?;
        Ok((text(row, "/node")?.to_owned(), text(row, "/state")?.to_owned()))
    };
    let (first, _) = node(&scene)?;
    launcher.wait_for_line("listens on", SOON)?;
    let position = usize::from(first == "node-1");
    scene.agents[position].process()?.kill()?;
    eventually_ok(MOVED, "the blueprint on the other node", || {
        let (now, state) = node(&scene)?;
        ensure!(now != first && state == "running", "{state} on {now}: {}", launcher.log());
        Ok(())
    })?;
    let gone = format!("is unknown on node {}: its node is not connected", scene.agents[position].id());
    ensure!(launcher.log().contains(&gone), "{}", launcher.log());
    // What it writes comes from both nodes.
    eventually_ok(SOON, "a line of each run", || {
        let lines = launcher.log().matches("listens on").count();
        ensure!(lines == 2, "{lines} lines: {}", launcher.log());
        Ok(())
    })?;
    // The Manager hears of it where it was told before, by the launcher that it started.
    let after = scene.served(2)?;
    assert_ne!(pid(&before)?, pid(&after)?);
    let registered = scene.manager.registered();
    assert_eq!(registered.first(), registered.last(), "the port at the Manager's machine stays");
    assert_eq!(scene.manager.pings(), 1, "greeted once");
    let other = scene.agents[1 - position].id().to_owned();
    assert!(launcher.log().contains(&format!("is running on node {other}")), "{}", launcher.log());

    // The first comes back and ends what it still ran.
    scene.agents[position].run()?;
    let program = scene.path("example").display().to_string();
    eventually_ok(SOON, "one process of it", || {
        let running = processes_naming(&program).len();
        ensure!(running == 1, "{running} processes");
        Ok(())
    })?;
    launcher.signal(Signal::SIGTERM)?;
    assert_eq!(code(&mut launcher)?, 0, "{}", launcher.log());
    gone_within(pid(&after)?, SOON)?;
    assert!(scene.workloads()?.is_empty());
    Ok(())
}

#[test]
fn registration_inputs_wait_for_a_launcher_that_cannot_write_them() -> Result<()> {
    let scene = Scene::start()?;
    scene.configure("example", "")?;
    // Its folder is not there yet: as good as a disk that is full, also for root.
    let output = scene.path("later/registration_inputs.bin");
    let launch =
        scene.launcher()?.env("REGISTRATION_MODE_ON", "true").env("REGISTRATION_CAPTURE_ONLY", "true");
    let mut launcher = launch.env("REGISTRATION_OUTPUT_PATH", &output).start()?;
    launcher.wait_for_line("the registration inputs cannot be kept", SOON)?;
    std::fs::create_dir(scene.path("later"))?;
    assert_eq!(code(&mut launcher)?, 0, "{}", launcher.log());
    assert_eq!(std::fs::read(&output)?, b"registration inputs of the example");
    assert!(scene.workloads()?.is_empty());
    Ok(())
}

#[test]
fn exit_codes_of_blueprints_are_those_of_their_launchers() -> Result<()> {
    let scene = Scene::start()?;
    let script = |name: &str, text: &str| -> Result<()> {
        std::fs::write(scene.path(name), format!("#!/bin/sh\n{text}\n"))?;
        open_to_all(&scene.path(name))
    };
    script("ends", "echo no more >&2; exit 7")?;
    scene.configure("ends", "restart = \"never\"")?;
    let mut launcher = scene.launcher()?.start()?;
    assert_eq!(code(&mut launcher)?, 7, "{}", launcher.log());
    assert!(launcher.log().contains("exited with code 7: no more"), "{}", launcher.log());

    script("waits", "trap 'exit 9' TERM\nwhile :; do sleep 1 & wait $!; done")?;
    scene.configure("waits", "")?;
    let mut launcher = scene.launcher()?.start()?;
    launcher.wait_for_line("is starting", SOON)?;
    // Its process is there once its number is told.
    launcher.wait_for_line("as process", SOON)?;
    eventually_ok(SOON, "the trap of the script", || {
        let rows = scene.workloads()?;
        let pid =
            rows.first().and_then(|row| row.pointer("/pid")).and_then(Value::as_u64).context("no process")?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).context("no mask")?;
        let caught = u64::from_str_radix(caught.trim(), 16)?;
        ensure!(
            std::fs::read_to_string(format!("/proc/{pid}/comm"))?.trim() == "waits"
                && caught & (1 << 14) != 0,
            "not yet"
        );
        Ok(())
    })?;
    launcher.signal(Signal::SIGTERM)?;
    assert_eq!(code(&mut launcher)?, 9, "{}", launcher.log());

    scene.configure("missing", "")?;
    let mut launcher = scene.launcher()?.start()?;
    assert_eq!(code(&mut launcher)?, 125, "{}", launcher.log());
    assert!(scene.workloads()?.is_empty());
    Ok(())
}

#[test]
fn what_a_blueprint_captures_for_its_registration_comes_back() -> Result<()> {
    let scene = Scene::start()?;
    scene.configure("example", "")?;
    let output = scene.path("data/registration_inputs.bin");
    let launch =
        scene.launcher()?.env("REGISTRATION_MODE_ON", "true").env("REGISTRATION_CAPTURE_ONLY", "true");
    let mut launcher = launch.env("REGISTRATION_OUTPUT_PATH", &output).start()?;
    assert_eq!(code(&mut launcher)?, 0, "{}", launcher.log());
    assert_eq!(std::fs::read(&output)?, b"registration inputs of the example");
    assert!(scene.workloads()?.is_empty());
    Ok(())
}

#[test]
fn what_is_wrong_is_told_at_once_and_by_its_exit_code() -> Result<()> {
    let mut scene = Scene::start()?;
    scene.configure("example", "")?;
    let missing = scene.launcher()?.env("BRIDGE_SOCKET_PATH", scene.path("none.sock")).run(SOON)?;
    assert_eq!(missing.code, Some(6), "{}", missing.stderr);
    assert!(missing.stderr.contains("none.sock") && missing.stderr.contains("hint:"), "{}", missing.stderr);
    let other = scene.launcher()?.env("BLUEPRINT_ID", "8").run(SOON)?;
    assert_eq!(other.code, Some(78), "{}", other.stderr);
    let path = scene.path("example").display().to_string();
    let lease = serde_json::json!({ "spec": {
        "source": { "type": "testing", "path": path }, "lease": { "launcher": "me", "secs": 9 },
    } });
    let refused = Request::new("PUT", "/v1/workloads/7/42").header("content-type", "application/json");
    let refused = scene.hub.api(&refused.body(lease.to_string()))?;
    assert_eq!(refused.status, 400, "only launchers have leases: {}", refused.text());
    scene.hub.json(&["workload", "run", "7/42", "--path", &path])?;
    let held = scene.launcher()?.run(SOON)?;
    assert_eq!(held.code, Some(5), "{}", held.stderr);
    assert!(held.stderr.contains("blueprint-hub workload rm 7/42"), "{}", held.stderr);
    assert_eq!(scene.workloads()?.len(), 1, "the operator's is left alone");
    scene.configure("example", "take_over = true")?;
    let mut launcher = scene.launcher()?.start()?;
    scene.served(1)?;
    // His word counts: what he takes back ends, and its launcher with it.
    scene.hub.json(&["workload", "rm", "7/42"])?;
    assert_eq!(code(&mut launcher)?, 125, "{}", launcher.log());
    scene.agents[0].process()?;
    Ok(())
}
