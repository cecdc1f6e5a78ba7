//! The other end: `wireguard-go` or `boringtun-cli` with a device, set up with `wg`.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};
use blueprint_common_types::{WgPrivateKey, WgPublicKey};
use blueprint_tests_support::{Host, Need, Process, eventually_ok, require, tool};

use super::{End, MTU, PORT, PROMPT, psk_text};
use crate::fixture::{CALL, SOON};

/// Devices made by this process so far. The programs have a socket per name that namespaces do not keep apart.
static DEVICES: AtomicU32 = AtomicU32::new(0);

const BORINGTUN: (&str, &str) = ("BORINGTUN_CLI", "boringtun-cli");

/// Which program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    WireguardGo,
    Boringtun,
}

impl Kind {
    /// Whether this machine has what it needs; where not, the test is skipped aloud.
    pub(super) fn is_possible(self) -> bool {
        let (variable, program) = BORINGTUN;
        let itself = match self {
            Self::WireguardGo => Need::Program("wireguard-go"),
            Self::Boringtun => Need::Tool { variable, program },
        };
        require(&[itself, Need::Program("wg"), Need::Program("ping"), Need::Device("/dev/net/tun")])
    }

    fn start(self, host: &Host, device: &str) -> Result<Process> {
        match self {
            Self::WireguardGo => {
                let launch = host.launch(Path::new("wireguard-go")).args(["-f", device]);
                launch.env("LOG_LEVEL", "verbose").start()
            }
            Self::Boringtun => {
                let (variable, program) = BORINGTUN;
                let program = tool(variable, program).context("boringtun-cli was there")?;
                let options =
                    ["--foreground", "--disable-drop-privileges", "--threads=2", "--verbosity=debug"];
                host.launch(&program).args(options).arg(device).start()
            }
        }
    }
}

/// What a foreign end is told of ours.
#[derive(Debug, Clone)]
pub(super) struct Peering {
    /// Which end it is.
    pub(super) end: End,
    pub(super) ours: WgPublicKey,
    /// Where ours is, if it is to dial.
    pub(super) dial: Option<SocketAddr>,
    pub(super) preshared_key: Option<[u8; 32]>,
    /// In seconds; zero is never.
    pub(super) keepalive: u16,
}

/// A running foreign end. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Theirs<'h> {
    process: Process,
    pub(super) kind: Kind,
    pub(super) host: &'h Host,
    device: String,
    key: WgPrivateKey,
}

impl<'h> Theirs<'h> {
    /// Starts the program without a configuration.
    pub(super) fn start(kind: Kind, host: &'h Host) -> Result<Self> {
        let number = DEVICES.fetch_add(1, Ordering::Relaxed);
        let device = format!("bpi{}x{number}", std::process::id());
        ensure!(device.len() < 16, "{device} is too long for the kernel");
        let process = kind.start(host, &device)?;
        Ok(Self { process, kind, host, device, key: WgPrivateKey::random()? })
    }

    /// Its public key.
    pub(super) fn key(&self) -> WgPublicKey {
        self.key.public_key()
    }

    /// Gives it keys and its peer, addresses and routes.
    pub(super) fn configure(&self, peering: &Peering) -> Result<()> {
        let config = self.config(peering)?;
        eventually_ok(SOON, "the foreign end to take its configuration", || {
            self.wg(&format!("setconf {} /dev/stdin", self.device), &config).map(drop)
        })?;
        self.ip(&format!("link set {} mtu {MTU} up", self.device))?;
        let [v4, v6] = peering.end.addresses();
        self.ip(&format!("addr add {v4}/24 dev {}", self.device))?;
        self.ip(&format!("addr add {v6}/64 dev {} nodad", self.device))
    }

    fn config(&self, peering: &Peering) -> Result<String> {
        let Peering { end, ours, dial, preshared_key, keepalive } = peering;
        let mut config = format!("[Interface]\nPrivateKey = {}\n", self.key.expose_text().expose());
        write!(config, "ListenPort = {PORT}\n[Peer]\nPublicKey = {ours}\n")?;
        writeln!(config, "AllowedIPs = {}", end.other().allowed().join(", "))?;
        if let Some(key) = preshared_key {
            writeln!(config, "PresharedKey = {}", psk_text(key))?;
        }
        if let Some(dial) = dial {
            writeln!(config, "Endpoint = {dial}")?;
        }
        if *keepalive > 0 {
            writeln!(config, "PersistentKeepalive = {keepalive}")?;
        }
        Ok(config)
    }

    /// Changes the port that it listens on.
    pub(super) fn set_port(&self, port: u16) -> Result<()> {
        self.wg(&format!("set {} listen-port {port}", self.device), "").map(drop)
    }

    /// Where it believes us to be.
    pub(super) fn endpoint(&self) -> Result<SocketAddr> {
        let line = self.show("endpoints")?;
        line.split_whitespace().nth(1).context("no endpoint")?.parse().with_context(|| line.clone())
    }

    /// What it logged.
    pub(super) fn log(&self) -> String {
        self.process.log()
    }

    fn show(&self, what: &str) -> Result<String> {
        self.wg(&format!("show {} {what}", self.device), "")
    }

    fn wg(&self, words: &str, input: &str) -> Result<String> {
        let launch = self.host.launch(Path::new("wg")).args(words.split_whitespace());
        let finished = launch.stdin(input).run(PROMPT)?;
        ensure!(finished.code == Some(0), "wg {words}: {}", finished.stderr);
        Ok(finished.stdout)
    }

    fn ip(&self, words: &str) -> Result<()> {
        let finished = self.host.launch(Path::new("ip")).args(words.split_whitespace()).run(CALL)?;
        ensure!(finished.code == Some(0), "ip {words}: {}", finished.stderr);
        Ok(())
    }
}

impl Drop for Theirs<'_> {
    /// Ends it politely: killed, it would leave its socket behind.
    fn drop(&mut self) {
        let _ = self.process.terminate(SOON);
        let _ =
            std::fs::remove_file(PathBuf::from("/var/run/wireguard").join(format!("{}.sock", self.device)));
    }
}
