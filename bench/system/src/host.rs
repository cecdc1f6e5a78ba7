//! The machine and the build that the numbers belong to.

use std::fs::read_to_string;

use serde_json::{Value, json};

/// MTU of the tunnel in bytes, as every hub of this bench is told: the default.
pub(crate) const TUNNEL_MTU: u16 = 1280;

/// What a number means nothing without.
#[derive(Debug)]
pub(crate) struct Host {
    kernel: String,
    cpu: String,
    cpus: usize,
    loopback_mtu: String,
    build: &'static str,
}

impl Host {
    /// Asks the system; what it does not say is `unknown`.
    pub(crate) fn ask() -> Self {
        let one_line = |path: &str| read_to_string(path).map(|text| text.trim().to_owned());
        let cpus = read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let unknown = || "unknown".to_owned();
        Self {
            kernel: one_line("/proc/sys/kernel/osrelease").unwrap_or_else(|_| unknown()),
            cpu: model.map_or_else(unknown, |(_, name)| name.trim().to_owned()),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            loopback_mtu: one_line("/sys/class/net/lo/mtu").unwrap_or_else(|_| unknown()),
            build: if cfg!(debug_assertions) { "debug" } else { "release" },
        }
    }

    /// For people.
    pub(crate) fn line(&self) -> String {
        format!(
            "kernel {}, {} x {}, MTU {} in the tunnel and {} on loopback, {} build",
            self.kernel, self.cpus, self.cpu, TUNNEL_MTU, self.loopback_mtu, self.build
        )
    }

    /// For programs.
    pub(crate) fn json(&self) -> Value {
        json!({
            "kernel": self.kernel, "cpu": self.cpu, "cpus": self.cpus, "build": self.build,
            "tunnel_mtu_bytes": TUNNEL_MTU, "loopback_mtu_bytes": self.loopback_mtu.parse::<u32>().ok(),
        })
    }
}
