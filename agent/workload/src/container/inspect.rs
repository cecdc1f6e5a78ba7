//! What an engine says of a container.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use blueprint_agent_workload_core::Exit;
use serde::Deserialize;

use super::transport::{Call, Socket};
use super::{EngineError, Health, NODE_LABEL, Stats};

/// Longest text of a check that is quoted, in characters.
const MAX_SAID: usize = 300;

/// `GET /containers/ID/json`. Any part may be missing, and a list that is empty may be null.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Container {
    pub(super) id: String,
    config: Config,
    state: State,
    network_settings: NetworkSettings,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Config {
    tty: bool,
    labels: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct State {
    running: bool,
    pid: u32,
    exit_code: i32,
    #[serde(rename = "OOMKilled")]
    oom_killed: bool,
    health: Option<HealthState>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct HealthState {
    status: String,
    log: Option<Vec<Check>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Check {
    output: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct NetworkSettings {
    ports: Option<BTreeMap<String, Option<Vec<Binding>>>>,
    networks: Option<BTreeMap<String, Network>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Binding {
    host_ip: String,
    host_port: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Network {
    #[serde(rename = "IPAddress")]
    ip_address: String,
    gateway: String,
}

impl Container {
    /// The container of this name or id; `None` where there is none.
    pub(super) async fn find(socket: &Socket, api: &str, name: &str) -> Result<Option<Self>, EngineError> {
        let path = format!("{api}/containers/{name}/json");
        socket.find(&Call::get(format!("describe the container {name}"), path)).await
    }

    /// Whether the agent of this label made it.
    pub(super) fn is_of(&self, node: &str) -> bool {
        self.config.labels.iter().any(|labels| labels.get(NODE_LABEL).is_some_and(|label| label == node))
    }

    pub(super) fn has_terminal(&self) -> bool {
        self.config.tty
    }

    pub(super) fn pid(&self) -> Option<u32> {
        (self.state.running && self.state.pid != 0).then_some(self.state.pid)
    }

    pub(super) fn address(&self) -> Option<IpAddr> {
        self.networks().find_map(|network| network.ip_address.parse().ok())
    }

    pub(super) fn gateway(&self) -> Option<IpAddr> {
        self.networks().find_map(|network| network.gateway.parse().ok())
    }

    fn networks(&self) -> impl Iterator<Item = &Network> {
        self.network_settings.networks.iter().flatten().map(|(_, network)| network)
    }

    /// TCP ports inside and where this node reaches them.
    pub(super) fn ports(&self) -> BTreeMap<u16, SocketAddr> {
        let ports = self.network_settings.ports.iter().flatten();
        let known = ports.filter_map(|(inside, bindings)| {
            let inside = inside.strip_suffix("/tcp")?.parse().ok()?;
            let outside = bindings.iter().flatten().find_map(Binding::address)?;
            Some((inside, outside))
        });
        known.collect()
    }

    /// How it ended; `None` where it runs.
    pub(super) fn exit(&self) -> Option<Exit> {
        let code = self.state.exit_code;
        match code {
            _ if self.state.running => None,
            // A child that the kernel killed is no end of the container by itself.
            137 if self.state.oom_killed => Some(Exit::OutOfMemory),
            129..=192 => Some(Exit::Signal(code.saturating_sub(128))),
            code => Some(Exit::Code(code)),
        }
    }

    pub(super) fn health(&self) -> Option<Health> {
        let health = self.state.health.as_ref()?;
        match health.status.as_str() {
            "starting" => Some(Health::Starting),
            "healthy" => Some(Health::Healthy),
            "unhealthy" => {
                let last = health.log.iter().flatten().next_back().map_or("", |check| check.output.trim());
                let said = last.chars().filter(|c| !c.is_control()).take(MAX_SAID).collect();
                Some(Health::Unhealthy { said })
            }
            // `none`, or nothing.
            _ => None,
        }
    }
}

impl Binding {
    fn address(&self) -> Option<SocketAddr> {
        let port = self.host_port.parse().ok()?;
        Some(SocketAddr::new(self.host_ip.parse().ok()?, port))
    }
}

/// `GET /containers/ID/stats`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Figures {
    cpu_stats: CpuFigures,
    memory_stats: MemoryFigures,
    pids_stats: PidsFigures,
    blkio_stats: DiskFigures,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct DiskFigures {
    io_service_bytes_recursive: Option<Vec<DiskFigure>>,
}

/// What passed of one kind to or from one disk.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct DiskFigure {
    /// `Read`, `Write` and others; lower case with cgroup v2.
    op: String,
    value: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct CpuFigures {
    cpu_usage: CpuUsage,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct CpuUsage {
    /// Nanoseconds.
    total_usage: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct MemoryFigures {
    usage: u64,
    limit: u64,
    stats: Option<MemoryParts>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct MemoryParts {
    /// cgroup v1, with its children.
    total_inactive_file: Option<u64>,
    /// cgroup v2.
    inactive_file: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct PidsFigures {
    current: u64,
}

impl Figures {
    fn passed(&self, op: &str) -> u64 {
        let all = self.blkio_stats.io_service_bytes_recursive.iter().flatten();
        let bytes = all.filter(|figure| figure.op.eq_ignore_ascii_case(op)).map(|figure| figure.value);
        bytes.fold(0, u64::saturating_add)
    }

    pub(super) fn to_stats(&self) -> Stats {
        let memory = &self.memory_stats;
        let cached =
            memory.stats.as_ref().and_then(|parts| parts.total_inactive_file.or(parts.inactive_file));
        Stats {
            cpu: Duration::from_nanos(self.cpu_stats.cpu_usage.total_usage),
            memory_bytes: memory.usage.saturating_sub(cached.unwrap_or_default()),
            memory_limit_bytes: memory.limit,
            pids: self.pids_stats.current,
            read_bytes: self.passed("read"),
            written_bytes: self.passed("write"),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn container(value: serde_json::Value) -> Container {
        serde_json::from_value(value).unwrap()
    }

    fn ended(code: i32, oom_killed: bool) -> Option<Exit> {
        container(json!({ "State": { "Running": false, "ExitCode": code, "OOMKilled": oom_killed } })).exit()
    }

    #[test]
    fn ends_are_told_apart() {
        assert_eq!(ended(0, false), Some(Exit::Code(0)));
        assert_eq!(ended(3, false), Some(Exit::Code(3)));
        assert_eq!(ended(143, false), Some(Exit::Signal(15)));
        assert_eq!(ended(137, false), Some(Exit::Signal(9)));
        assert_eq!(ended(137, true), Some(Exit::OutOfMemory));
        assert_eq!(ended(0, true), Some(Exit::Code(0)), "a child of it was killed, and it got over that");
        assert_eq!(ended(255, false), Some(Exit::Code(255)));
        assert_eq!(container(json!({ "State": { "Running": true } })).exit(), None);
    }

    #[test]
    fn places_are_read_and_nothing_may_be_missing() {
        let full = container(json!({
            "Id": "ab", "Config": { "Tty": true, "Labels": { "blueprint.node": "n1" } },
            "State": { "Running": true, "Pid": 7 },
            "NetworkSettings": {
                "Ports": {
                    "80/tcp": [{ "HostIp": "127.0.0.1", "HostPort": "49153" }], "81/tcp": null,
                    "53/udp": [{ "HostIp": "127.0.0.1", "HostPort": "49154" }],
                },
                "Networks": { "bridge": { "IPAddress": "172.17.0.2", "Gateway": "172.17.0.1" } },
            },
        }));
        assert!(full.is_of("n1") && !full.is_of("n2") && full.has_terminal());
        assert_eq!((full.pid(), full.address()), (Some(7), Some([172, 17, 0, 2].into())));
        assert_eq!(full.gateway(), Some([172, 17, 0, 1].into()));
        assert_eq!(full.ports(), BTreeMap::from([(80, SocketAddr::from(([127, 0, 0, 1], 49153)))]));
        let empty = container(json!({ "Config": { "Labels": null }, "NetworkSettings": { "Ports": null } }));
        assert!(!empty.is_of("") && empty.ports().is_empty() && empty.address().is_none());
        assert_eq!((empty.pid(), empty.health()), (None, None));
    }

    #[test]
    fn health_is_that_of_the_image() {
        let health = |value| container(json!({ "State": { "Health": value } })).health();
        assert_eq!(health(json!({ "Status": "none" })), None);
        assert_eq!(health(json!({ "Status": "starting" })), Some(Health::Starting));
        let log = json!([{ "Output": "old" }, { "Output": "refused\n" }]);
        let said = "refused".to_owned();
        assert_eq!(health(json!({ "Status": "unhealthy", "Log": log })), Some(Health::Unhealthy { said }));
    }

    #[test]
    fn figures_leave_out_what_the_kernel_only_caches() {
        let figures: Figures = serde_json::from_value(json!({
            "cpu_stats": { "cpu_usage": { "total_usage": 1_500_000_000u64 } }, "pids_stats": { "current": 3 },
            "memory_stats": { "usage": 100, "limit": 200, "stats": { "total_inactive_file": 40, "inactive_file": 1 } },
            "blkio_stats": { "io_service_bytes_recursive": [
                { "major": 8, "minor": 0, "op": "Read", "value": 5 }, { "major": 8, "minor": 16, "op": "read", "value": 2 },
                { "major": 8, "minor": 0, "op": "Write", "value": 3 }, { "major": 8, "minor": 0, "op": "Total", "value": 8 },
            ] },
        }))
        .unwrap();
        let cpu = Duration::from_millis(1500);
        let expected = Stats {
            cpu,
            memory_bytes: 60,
            memory_limit_bytes: 200,
            pids: 3,
            read_bytes: 7,
            written_bytes: 3,
        };
        assert_eq!(figures.to_stats(), expected);
        let ended: Figures = serde_json::from_value(json!({ "memory_stats": {}, "pids_stats": {}, "blkio_stats": { "io_service_bytes_recursive": null } })).unwrap();
        assert_eq!(ended.to_stats(), Stats::default());
    }
}
