//! What the tests share: a hub, an agent and a service as real processes, each with a folder of its own.
//!
//! On this machine everything listens on loopback and on ports that were free; on a host of a lab a hub has
//! the ports of the README. Dropping a value ends its process and removes its folder.

use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use blueprint_tests_support::http::{Request, Response};
use blueprint_tests_support::{
    Finished, Host, Launch, Need, Process, binary, eventually_ok, free_port, require, scratch,
};
use serde_json::Value;
use tempfile::TempDir;

/// Longest wait for something that takes well under a second on an idle machine.
pub(crate) const SOON: Duration = Duration::from_secs(45);

/// Longest wait for one request, and for a command that has nothing to wait for.
pub(crate) const CALL: Duration = Duration::from_secs(10);

/// Where the overlay ends, at the hub and at the machines: in the process, or in a network device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// In the processes on both sides.
    Netstack,
    /// In a device of the hub alone.
    HubDevice,
    /// In devices of the machines alone.
    MachineDevices,
    /// In devices on both sides.
    Devices,
}

/// Settings of a hub or agent whose overlay ends in a device.
pub(crate) const TUN: [&str; 2] = ["tunnel.interface=tun", "tunnel.interface_name=bp0"];

impl Mode {
    /// The modes with a device on either side, which take namespaces.
    pub(crate) const WITH_DEVICES: [Self; 3] = [Self::HubDevice, Self::MachineDevices, Self::Devices];

    /// Settings of the hub.
    pub(crate) const fn of_hub(self) -> &'static [&'static str] {
        match self {
            Self::HubDevice | Self::Devices => &TUN,
            Self::Netstack | Self::MachineDevices => &[],
        }
    }

    /// Settings of the agents.
    pub(crate) const fn of_machine(self) -> &'static [&'static str] {
        match self {
            Self::MachineDevices | Self::Devices => &TUN,
            Self::Netstack | Self::HubDevice => &[],
        }
    }

    /// Whether this machine has what it takes; where not, the test is skipped aloud.
    pub(crate) fn is_possible(self) -> bool {
        self == Self::Netstack || require(&[Need::Device("/dev/net/tun")])
    }
}

/// A program on a host of a lab, or on this machine.
fn launch(host: Option<&Host>, program: &str) -> Result<Launch> {
    let program = binary(program)?;
    Ok(match host {
        Some(host) => host.launch(&program),
        None => Launch::new(program),
    })
}

/// The one JSON document that a command printed.
///
/// # Errors
///
/// Fails where the command did; the error shows what it said.
pub(crate) fn json_of(finished: &Finished) -> Result<Value> {
    ensure!(finished.code == Some(0), "exit code {:?}: {}", finished.code, finished.stderr);
    serde_json::from_str(&finished.stdout).with_context(|| format!("no JSON: {}", finished.stdout))
}

/// The text that `pointer` (RFC 6901) names in a document.
pub(crate) fn text<'v>(value: &'v Value, pointer: &str) -> Result<&'v str> {
    let found = value.pointer(pointer).and_then(Value::as_str);
    found.with_context(|| format!("no text at {pointer} of {value}"))
}

/// The rows that `pointer` names in a document.
pub(crate) fn rows<'v>(value: &'v Value, pointer: &str) -> Result<&'v [Value]> {
    let found = value.pointer(pointer).and_then(Value::as_array);
    found.map(Vec::as_slice).with_context(|| format!("no list at {pointer} of {value}"))
}

/// A hub that was made by `init` and runs by `serve`.
#[derive(Debug)]
pub(crate) struct Hub<'h> {
    pub(crate) process: Process,
    host: Option<&'h Host>,
    settings: Vec<String>,
    environment: Environment,
    proxy: SocketAddr,
    folder: TempDir,
}

/// Variables of a hub's environment besides those of the test.
pub(crate) type Environment = Vec<(&'static str, String)>;

impl Hub<'static> {
    /// Makes and starts one on this machine; `settings` are texts `KEY=VALUE`.
    pub(crate) fn start(settings: &[&str]) -> Result<Self> {
        Self::start_with(settings, Vec::new())
    }

    /// The same with these variables in its environment.
    pub(crate) fn start_with(settings: &[&str], environment: Environment) -> Result<Self> {
        let proxy = SocketAddr::from(([127, 0, 0, 1], free_port()?));
        let mut all = vec![
            format!("control.listen=127.0.0.1:{}", free_port()?),
            format!("tunnel.listen=127.0.0.1:{}", free_port()?),
            "tunnel.carrier_listen=off".to_owned(),
            format!("proxy.listen={proxy}"),
        ];
        all.extend(settings.iter().map(|&setting| setting.to_owned()));
        Self::begin(None, "127.0.0.1", (all, environment), proxy)
    }
}

impl<'h> Hub<'h> {
    /// Makes and starts one on a host, with the ports of the README, to be reached as `advertise`.
    pub(crate) fn start_on(host: &'h Host, advertise: &str, settings: &[&str]) -> Result<Self> {
        Self::start_within(host, advertise, settings, Vec::new())
    }

    /// The same with these variables in its environment.
    pub(crate) fn start_within(
        host: &'h Host,
        advertise: &str,
        settings: &[&str],
        environment: Environment,
    ) -> Result<Self> {
        let proxy = SocketAddr::from(([127, 0, 0, 1], 8276));
        let all = settings.iter().map(|&setting| setting.to_owned()).collect();
        Self::begin(Some(host), advertise, (all, environment), proxy)
    }

    fn begin(
        host: Option<&'h Host>,
        advertise: &str,
        (settings, environment): (Vec<String>, Environment),
        proxy: SocketAddr,
    ) -> Result<Self> {
        let folder = scratch("hub")?;
        let init = launch(host, "blueprint-hub")?.args(["init", "--advertise", advertise, "--state"]);
        let made = init.arg(state_of(&folder)).run(SOON)?;
        ensure!(made.code == Some(0), "init: {}", made.stderr);
        let process = serve(host, &state_of(&folder), &settings, &environment)?;
        Ok(Self { process, host, settings, environment, proxy, folder })
    }

    /// Its state folder.
    pub(crate) fn state(&self) -> PathBuf {
        state_of(&self.folder)
    }

    /// Its log so far.
    pub(crate) fn log(&self) -> String {
        self.process.log()
    }

    /// Kills it with SIGKILL.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.process.kill()
    }

    /// Starts it again after it ended, with the same state and settings.
    pub(crate) fn start_again(&mut self) -> Result<()> {
        self.process = serve(self.host, &self.state(), &self.settings, &self.environment)?;
        Ok(())
    }

    /// Adds a setting `KEY=VALUE` for the next start.
    pub(crate) fn set(mut self, setting: &str) -> Self {
        self.settings.push(setting.to_owned());
        self
    }

    /// A second process `blueprint-hub serve` on the same state, not started yet.
    pub(crate) fn another(&self) -> Result<Launch> {
        serving(self.host, &self.state(), &self.settings, &self.environment)
    }

    /// A command of its operator, not started yet.
    pub(crate) fn command(&self, arguments: &[&str]) -> Result<Launch> {
        Ok(launch(self.host, "blueprint-hub")?.args(arguments).arg("--state").arg(self.state()))
    }

    /// What a command of its operator answers as JSON.
    pub(crate) fn json(&self, arguments: &[&str]) -> Result<Value> {
        let finished = self.command(arguments)?.args(["--output", "json"]).run(SOON)?;
        json_of(&finished).with_context(|| format!("blueprint-hub {}", arguments.join(" ")))
    }

    /// A new join line; `options` are those of `token create`.
    pub(crate) fn join_line(&self, options: &[&str]) -> Result<String> {
        let mut arguments = vec!["token", "create"];
        arguments.extend(options);
        Ok(text(&self.json(&arguments)?, "/join_line")?.to_owned())
    }

    /// A new access token for one service, such as `7/42`.
    pub(crate) fn access_token(&self, service: &str) -> Result<String> {
        Ok(text(&self.json(&["access", "create", "--service", service])?, "/access_token")?.to_owned())
    }

    /// The newest audit rows, each as `EVENT SUBJECT DETAIL`.
    pub(crate) fn audit(&self) -> Result<Vec<String>> {
        let answer = self.json(&["audit", "--limit", "1000"])?;
        let field = |row, name| text(row, name).unwrap_or("-").to_owned();
        let row = |row| [field(row, "/event"), field(row, "/subject"), field(row, "/detail")].join(" ");
        Ok(rows(&answer, "/rows")?.iter().map(row).collect())
    }

    /// Asks its JSON API over the Unix socket.
    pub(crate) fn api(&self, request: &Request) -> Result<Response> {
        request.send_unix(&self.state().join("hub.sock"), CALL)
    }

    /// Where its proxy listens, as seen from its own host.
    pub(crate) fn proxy(&self) -> SocketAddr {
        self.proxy
    }

    /// Sends a request to its proxy, from its own host.
    pub(crate) fn request(&self, request: &Request) -> Result<Response> {
        match self.host {
            Some(host) => request.send_from(host, self.proxy, CALL),
            None => request.send(self.proxy, CALL),
        }
    }

    /// `GET path` of a service (its number alone, such as `42`) through its proxy.
    pub(crate) fn get(&self, service: &str, token: &str, path: &str) -> Result<Response> {
        self.request(&Request::get(path).header("x-service-id", service).bearer(token))
    }

    /// Waits until a service answers through proxy, tunnel and agent.
    pub(crate) fn wait_served(&self, service: &str, token: &str, within: Duration) -> Result<Response> {
        eventually_ok(within, &format!("an answer of service {service}"), || {
            let response = self.get(service, token, "/")?;
            ensure!(response.status == 200, "{}: {}", response.status, response.text());
            Ok(response)
        })
        .with_context(|| format!("the hub logged:\n{}", self.log()))
    }
}

/// A machine that has joined. Its agent runs after [`Agent::run`].
#[derive(Debug)]
pub(crate) struct Agent<'h> {
    process: Option<Process>,
    host: Option<&'h Host>,
    settings: Vec<String>,
    environment: Environment,
    /// Another user than this process, and the program as that user may run it.
    user: Option<(u32, PathBuf)>,
    /// MiB of a disk of its own, for its folder.
    disk_mib: Option<u32>,
    /// Whether its program lies in a file system of memory.
    is_program_in_memory: bool,
    name: String,
    id: String,
    folder: TempDir,
}

impl<'h> Agent<'h> {
    /// Joins with a line, which is fed to standard input.
    pub(crate) fn join(host: Option<&'h Host>, name: &str, line: &str) -> Result<Self> {
        let folder = scratch("agent")?;
        let joined = joining(host, name, &state_of(&folder))?.stdin(line).run(SOON)?;
        Self::joined(host, name, folder, &joined)
    }

    /// Joins with a line as an argument, the way a person pastes it.
    pub(crate) fn paste(host: &'h Host, name: &str, line: &str) -> Result<Self> {
        let folder = scratch("agent")?;
        let launch = launch(Some(host), "blueprint-agent")?.args(["join", line, "--output", "json"]);
        let joined = launch.args(["--name", name, "--state"]).arg(state_of(&folder)).run(SOON)?;
        Self::joined(Some(host), name, folder, &joined)
    }

    /// Joins by what the metadata service at `place` says, with a line that needs no token.
    pub(crate) fn prove(name: &str, line: &str, place: SocketAddr) -> Result<Self> {
        Self::prove_with(name, line, &["--identity", "auto", "--metadata", &place.to_string()])
    }

    /// Joins with these arguments beside the line.
    pub(crate) fn prove_with(name: &str, line: &str, arguments: &[&str]) -> Result<Self> {
        let folder = scratch("agent")?;
        let joined = joining(None, name, &state_of(&folder))?.args(arguments).stdin(line).run(SOON)?;
        Self::joined(None, name, folder, &joined)
    }

    fn joined(host: Option<&'h Host>, name: &str, folder: TempDir, joined: &Finished) -> Result<Self> {
        let id = text(&json_of(joined)?, "/agent_id")?.to_owned();
        let (settings, name) = (Vec::new(), name.to_owned());
        let environment = Vec::new();
        Ok(Self {
            process: None,
            host,
            settings,
            environment,
            user: None,
            disk_mib: None,
            is_program_in_memory: false,
            name,
            id,
            folder,
        })
    }

    /// Adds variables to its environment for the next start.
    pub(crate) fn within(mut self, environment: Environment) -> Self {
        self.environment.extend(environment);
        self
    }

    /// Adds a setting `KEY=VALUE` for the next start.
    pub(crate) fn set(mut self, setting: &str) -> Self {
        self.settings.push(setting.to_owned());
        self
    }

    /// Has it run as an ordinary user from now on, on this machine; it takes root to say so.
    pub(crate) fn under_user(mut self, user: u32) -> Result<Self> {
        let program = self.folder.path().join("blueprint-agent");
        std::fs::copy(binary("blueprint-agent")?, &program)?;
        for path in [self.folder.path(), &program] {
            std::fs::set_permissions(path, PermissionsExt::from_mode(0o755))?;
        }
        for entry in std::fs::read_dir(self.state())? {
            chown(entry?.path(), Some(user), Some(user))?;
        }
        chown(self.state(), Some(user), Some(user))?;
        self.user = Some((user, program));
        Ok(self)
    }

    /// Gives it a small disk for its folder from now on, on this machine: a file system that it alone sees.
    pub(crate) fn on_small_disk(mut self, mib: u32) -> Self {
        self.disk_mib = Some(mib);
        self
    }

    /// Has it run a copy of its program from now on, on this machine, that lies in memory page by page: how a disk's file
    /// was read decides how much of it the kernel maps at once (Linux 6.18: up to 2 MiB).
    pub(crate) fn with_program_in_memory(mut self) -> Self {
        self.is_program_in_memory = true;
        self
    }

    /// Its folder, as it sees it.
    pub(crate) fn own_folder(&mut self) -> Result<PathBuf> {
        let folder = self.folder.path().to_owned();
        if self.disk_mib.is_none() {
            return Ok(folder);
        }
        let root = PathBuf::from(format!("/proc/{}/root", self.process()?.pid()));
        Ok(root.join(folder.strip_prefix("/")?))
    }

    fn program(&self) -> Result<Launch> {
        if let Some(mib) = self.disk_mib {
            let own = self.folder.path().display();
            let script = format!(
                "set -e; away=$(mktemp -d); cp -a {own}/state $away; mount -t tmpfs -o size={mib}m,mode=755 none {own}; \
                 cp -a $away/state {own}; rm -r $away; exec \"$0\" \"$@\""
            );
            return Ok(Launch::new("unshare")
                .args(["--mount", "sh", "-c", &script])
                .arg(binary("blueprint-agent")?));
        }
        if self.is_program_in_memory {
            let own = self.folder.path().join("program");
            std::fs::create_dir_all(&own)?;
            let own = own.display();
            let script = format!(
                "set -e; mount -t tmpfs -o huge=never,mode=755 none {own}; cp \"$0\" {own}/blueprint-agent; \
                 exec {own}/blueprint-agent \"$@\""
            );
            return Ok(Launch::new("unshare")
                .args(["--mount", "sh", "-c", &script])
                .arg(binary("blueprint-agent")?));
        }
        let Some((user, program)) = &self.user else { return launch(self.host, "blueprint-agent") };
        let (user, group) = (format!("--reuid={user}"), format!("--regid={user}"));
        Ok(Launch::new("setpriv").args([&user, &group, "--clear-groups", "--"]).arg(program))
    }

    /// Starts the agent, also again after it ended.
    pub(crate) fn run(&mut self) -> Result<()> {
        let mut launch = self.program()?.args(["run", "--state"]).arg(self.state());
        // Many agents share this machine.
        launch = launch.args(["--set", "observe.listen=127.0.0.1:0"]);
        for setting in &self.settings {
            launch = launch.args(["--set", setting]);
        }
        for (name, value) in &self.environment {
            launch = launch.env(name, value);
        }
        let process = self.process.insert(launch.start()?);
        process.wait_for_line("agent runs", SOON)?;
        Ok(())
    }

    /// Its process.
    pub(crate) fn process(&mut self) -> Result<&mut Process> {
        self.process.as_mut().context("the agent was not started")
    }

    /// Its log since its last start.
    pub(crate) fn log(&self) -> String {
        self.process.as_ref().map(Process::log).unwrap_or_default()
    }

    /// Its id at the hub.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// Its name at the hub.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Its state folder.
    pub(crate) fn state(&self) -> PathBuf {
        state_of(&self.folder)
    }

    /// A command on its machine, not started yet.
    pub(crate) fn command(&self, arguments: &[&str]) -> Result<Launch> {
        Ok(launch(self.host, "blueprint-agent")?.args(arguments).arg("--state").arg(self.state()))
    }

    /// What a command on its machine answers as JSON.
    pub(crate) fn json(&self, arguments: &[&str]) -> Result<Value> {
        let finished = self.command(arguments)?.args(["--output", "json"]).run(SOON)?;
        json_of(&finished).with_context(|| format!("blueprint-agent {}", arguments.join(" ")))
    }

    /// Offers a service that listens at `local`, checked by `GET /healthz`.
    pub(crate) fn offer(&self, service: &str, local: SocketAddr) -> Result<()> {
        let local = local.to_string();
        self.json(&["service", "add", service, "--local", &local, "--check", "http:/healthz"])?;
        Ok(())
    }

    /// Address of its `/metrics`, `/healthz` and `/readyz`, as seen from its own host.
    pub(crate) fn observe(&mut self) -> Result<SocketAddr> {
        let line = self.process()?.wait_for_line("metrics and probes", SOON)?;
        let address = line.split("address=").nth(1).and_then(|rest| rest.split_whitespace().next());
        address.and_then(|address| address.parse().ok()).with_context(|| format!("no address in {line}"))
    }
}

/// `blueprint-agent join -` with results in JSON, not started yet; the line goes to its standard input.
pub(crate) fn joining(host: Option<&Host>, name: &str, state: &Path) -> Result<Launch> {
    let arguments = ["join", "-", "--output", "json", "--name", name, "--state"];
    Ok(launch(host, "blueprint-agent")?.args(arguments).arg(state))
}

/// A join by what the metadata service at `place` says; its standard input takes the line.
pub(crate) fn proving(name: &str, state: &Path, place: SocketAddr) -> Result<Launch> {
    Ok(joining(None, name, state)?.args(["--identity", "auto", "--metadata", &place.to_string()]))
}

/// A running example service.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) process: Process,
    /// Where it listens on its own host.
    pub(crate) address: SocketAddr,
    _folder: TempDir,
}

impl Service {
    /// Starts one on loopback of a host, or of this machine.
    pub(crate) fn start(host: Option<&Host>, name: &str) -> Result<Self> {
        let folder = scratch("service")?;
        let file = folder.path().join("port");
        let launch = launch(host, "blueprint-example-service")?;
        let process = launch.args(["--name", name, "--port-file"]).arg(&file).start()?;
        let port: u16 = eventually_ok(SOON, "the port of the example service", || {
            Ok(std::fs::read_to_string(&file)?.trim().parse()?)
        })?;
        Ok(Self { process, address: SocketAddr::from(([127, 0, 0, 1], port)), _folder: folder })
    }
}

/// A machine that has joined, runs its agent and offers one example service.
#[derive(Debug)]
pub(crate) struct Spoke<'h> {
    pub(crate) agent: Agent<'h>,
    pub(crate) service: Service,
}

impl<'h> Spoke<'h> {
    /// Starts all of it; `key` is that of the service, such as `7/42`.
    pub(crate) fn start(hub: &Hub<'_>, host: Option<&'h Host>, name: &str, key: &str) -> Result<Self> {
        Self::start_in(Mode::Netstack, hub, host, name, key)
    }

    /// The same in any mode.
    pub(crate) fn start_in(
        mode: Mode,
        hub: &Hub<'_>,
        host: Option<&'h Host>,
        name: &str,
        key: &str,
    ) -> Result<Self> {
        let agent = Agent::join(host, name, &hub.join_line(&[])?)?;
        let mut agent = mode.of_machine().iter().fold(agent, |agent, setting| agent.set(setting));
        let service = Service::start(host, name)?;
        agent.run()?;
        agent.offer(key, service.address)?;
        Ok(Self { agent, service })
    }
}

fn state_of(folder: &TempDir) -> PathBuf {
    folder.path().join("state")
}

fn serving(
    host: Option<&Host>,
    state: &Path,
    settings: &[String],
    environment: &Environment,
) -> Result<Launch> {
    // Machines of its own host need the control groups of this one.
    let mounts = settings.iter().any(|setting| setting == "providers.local_vm.enabled=true");
    let launch = match host.filter(|_| mounts) {
        Some(host) => host.launch_with_mounts(&binary("blueprint-hub")?),
        None => launch(host, "blueprint-hub")?,
    };
    let mut launch = launch.args(["serve", "--state"]).arg(state);
    for setting in settings {
        launch = launch.args(["--set", setting]);
    }
    for (name, value) in environment {
        launch = launch.env(name, value);
    }
    Ok(launch)
}

fn serve(
    host: Option<&Host>,
    state: &Path,
    settings: &[String],
    environment: &Environment,
) -> Result<Process> {
    let mut process = serving(host, state, settings, environment)?.start()?;
    process.wait_for_line("hub is up", SOON)?;
    Ok(process)
}
