//! A machine whose tunnel is `wireguard-go`.

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};
use blueprint_tests_support::{Host, Need, Process, eventually_ok, require};
use serde_json::Value;

use crate::fixture::{Agent, CALL, SOON, text};
use crate::ping::{Pinging, Pings, ping};

/// Interfaces made by this process so far. `wireguard-go` has a socket per name that namespaces do not keep apart.
static INTERFACES: AtomicU32 = AtomicU32::new(0);

/// Whether this machine has what a foreign peer needs; where not, the test is skipped aloud.
pub(super) fn is_possible() -> bool {
    require(&[
        Need::Program("wireguard-go"),
        Need::Program("wg"),
        Need::Program("ping"),
        Need::Device("/dev/net/tun"),
    ])
}

/// A spoke that no agent runs on.
#[derive(Debug)]
pub(super) struct Foreign<'h> {
    process: Process,
    host: &'h Host,
    interface: String,
    hub_key: String,
    /// The hub's address inside the tunnel.
    pub(super) hub_v4: String,
    /// The hub's address inside the tunnel.
    pub(super) hub_v6: String,
    own: [String; 2],
    _agent: Agent<'h>,
}

impl<'h> Foreign<'h> {
    /// Takes what joining left, and gives it to `wireguard-go`.
    pub(super) fn start(host: &'h Host, agent: Agent<'h>, hub: Ipv4Addr) -> Result<Self> {
        let path = agent.state().join("identity.json");
        let identity: Value = serde_json::from_str(&std::fs::read_to_string(path)?)?;
        let field = |pointer| text(&identity, pointer).map(str::to_owned);
        let number = INTERFACES.fetch_add(1, Ordering::Relaxed);
        let interface = format!("bpt{}x{number}", std::process::id());
        ensure!(interface.len() < 16, "{interface} is too long for the kernel");
        let process = host
            .launch(Path::new("wireguard-go"))
            .args(["-f", &interface])
            .env("LOG_LEVEL", "verbose")
            .start()?;
        let foreign = Self {
            process,
            host,
            interface,
            hub_key: field("/tunnel/hub_public_key")?,
            hub_v4: field("/tunnel/hub/v4")?,
            hub_v6: field("/tunnel/hub/v6")?,
            own: [field("/tunnel/address/v4")?, field("/tunnel/address/v6")?],
            _agent: agent,
        };
        foreign.set_up(&identity, hub)?;
        Ok(foreign)
    }

    fn set_up(&self, identity: &Value, hub: Ipv4Addr) -> Result<()> {
        let endpoint = format!("{hub}{}", text(identity, "/tunnel/carriers/0/endpoint")?);
        let allowed =
            format!("{},{}", text(identity, "/tunnel/overlay_v4")?, text(identity, "/tunnel/overlay_v6")?);
        let number = |pointer| {
            identity.pointer(pointer).and_then(Value::as_u64).context("no number").map(|n| n.to_string())
        };
        let keepalive = number("/tunnel/keepalive_secs")?;
        let key = text(identity, "/wireguard_private_key")?;
        eventually_ok(SOON, "wireguard-go to take its configuration", || {
            // The key goes through standard input, so that no argument holds it.
            let words = ["set", &self.interface, "private-key", "/dev/stdin", "peer", &self.hub_key];
            let launch = self.host.launch(Path::new("wg")).args(words).args([
                "endpoint",
                &endpoint,
                "allowed-ips",
                &allowed,
                "persistent-keepalive",
                &keepalive,
            ]);
            let finished = launch.stdin(key).run(CALL)?;
            ensure!(finished.code == Some(0), "wg: {}", finished.stderr);
            Ok(())
        })?;
        self.ip(&format!("link set {} mtu {} up", self.interface, number("/tunnel/mtu")?))?;
        let [v4, v6] = &self.own;
        self.take_address(v4, v6)?;
        for prefix in allowed.split(',') {
            let family = if prefix.contains(':') { "-6 " } else { "" };
            self.ip(&format!("{family}route replace {prefix} dev {}", self.interface))?;
        }
        Ok(())
    }

    /// Gives these addresses to its interface as well.
    pub(super) fn take_address(&self, v4: &str, v6: &str) -> Result<()> {
        self.ip(&format!("addr add {v4}/32 dev {}", self.interface))?;
        self.ip(&format!("addr add {v6}/128 dev {} nodad", self.interface))
    }

    /// Takes them away again.
    pub(super) fn give_back(&self, v4: &str, v6: &str) -> Result<()> {
        self.ip(&format!("addr del {v4}/32 dev {}", self.interface))?;
        self.ip(&format!("addr del {v6}/128 dev {}", self.interface))
    }

    fn ip(&self, words: &str) -> Result<()> {
        let finished = self.host.launch(Path::new("ip")).args(words.split_whitespace()).run(CALL)?;
        ensure!(finished.code == Some(0), "ip {words}: {}", finished.stderr);
        Ok(())
    }

    /// Sends echoes and waits for the end of it.
    pub(super) fn ping(&self, arguments: &[&str]) -> Result<Pings> {
        ping(self.host, arguments)
    }

    /// Sends echoes until told to stop.
    pub(super) fn start_ping(&self, arguments: &[&str]) -> Result<Pinging> {
        Pinging::start(self.host, arguments)
    }

    /// When the last handshake was, in seconds since 1970; `None` before the first.
    pub(super) fn latest_handshake(&self) -> Option<u64> {
        let words = ["show", &self.interface, "latest-handshakes"];
        let finished = self.host.launch(Path::new("wg")).args(words).run(CALL).ok()?;
        let line = finished.stdout.lines().find(|line| line.starts_with(&self.hub_key))?;
        line.split_whitespace().nth(1)?.parse().ok().filter(|at| *at > 0)
    }

    /// Whether `wireguard-go` still runs.
    pub(super) fn is_running(&mut self) -> bool {
        self.process.is_running()
    }

    /// What `wireguard-go` logged.
    pub(super) fn log(&self) -> String {
        self.process.log()
    }
}

impl Drop for Foreign<'_> {
    /// Ends it politely: killed, it would leave its socket behind.
    fn drop(&mut self) {
        let _ = self.process.terminate(SOON);
    }
}
