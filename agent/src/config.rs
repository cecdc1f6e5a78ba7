//! The agent's configuration: which keys exist, and what they become.

mod schema;
mod services;
mod tunnel;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use blueprint_agent_qos::MIN_BACKLOG_BYTES;
use blueprint_agent_workload::logs::LogLimits;
use blueprint_common_runtime::config::{ByteSize, Problems, Settings, Span};
use blueprint_common_runtime::logs::{LogFormat, LogLevels};
use blueprint_common_spoke::is_name;
use blueprint_common_tunnel::Interface;
use blueprint_common_tunnel::carrier::ProxyUrl;
use blueprint_common_types::{Carrier, PortRanges};

pub use schema::SCHEMA;
use services::services;
use tunnel::{carriers, interface, proxy, resolver};

use crate::resolver::ResolverSettings;
use crate::service::ServiceSpec;
use crate::workloads::WorkloadSettings;

/// A configuration without problems.
#[derive(Debug, Clone)]
pub struct AgentConfig {
    /// Name for people; `None` for the host name.
    pub name: Option<String>,
    /// Where `run` finds a join line.
    pub join_file: Option<PathBuf>,
    /// Log levels, checked.
    pub log_level: String,
    /// Log format.
    pub log_format: LogFormat,
    /// UDP address of the tunnel.
    pub tunnel_listen: SocketAddr,
    /// Carriers that may be used.
    pub carriers: BTreeSet<Carrier>,
    /// HTTP proxy for everything that goes over TCP.
    pub proxy: Option<ProxyUrl>,
    /// Where the overlay ends on this machine.
    pub interface: Interface,
    /// How this machine comes to ask the hub for names; `None` where its resolver is not touched.
    pub resolver: Option<ResolverSettings>,
    /// How workloads run here.
    pub workloads: WorkloadSettings,
    /// What the hub's operator may begin here.
    pub door: DoorSettings,
    /// Bytes on the disk for samples that the hub does not get while it is away.
    pub backlog_bytes: u64,
    /// How often metrics of services are kept while the hub is away.
    pub pages_every: Duration,
    /// TCP address of metrics and probes; `None` for none.
    pub observe_listen: Option<SocketAddr>,
    /// Whether the hub may read metrics through the tunnel.
    pub observe_hub: bool,
    /// Time for open streams at the end.
    pub grace: Duration,
    /// Services that the file names.
    pub services: Vec<ServiceSpec>,
    /// Whether commands can talk to the agent over `agent.sock`; a bench of many agents does without.
    pub local_api: bool,
    /// Whether machine and services are sampled; a bench of many agents on one machine does without.
    pub samples: bool,
}

impl Default for AgentConfig {
    /// The schema's defaults, but no listener for metrics and probes, and no socket for commands:
    /// what an agent inside another program needs.
    fn default() -> Self {
        Self {
            name: None,
            join_file: None,
            log_level: "info".to_owned(),
            log_format: LogFormat::Text,
            tunnel_listen: SocketAddr::from(([0, 0, 0, 0], 0)),
            carriers: Carrier::ALL.into(),
            proxy: None,
            interface: Interface::Netstack,
            resolver: None,
            workloads: WorkloadSettings::default(),
            door: DoorSettings::default(),
            backlog_bytes: 8 << 20,
            pages_every: Duration::from_secs(300),
            observe_listen: None,
            observe_hub: false,
            grace: Duration::from_secs(10),
            services: Vec::new(),
            local_api: false,
            samples: true,
        }
    }
}

impl AgentConfig {
    /// Takes the loaded settings; everything that is wrong goes to `problems`, and then there is no configuration.
    #[must_use]
    pub fn from_settings(settings: &Settings, problems: &mut Problems) -> Option<Self> {
        let name: Option<String> = settings.take_optional("agent.name", problems);
        if name.as_deref().is_some_and(|name| !is_name(name)) {
            settings.refuse("agent.name", "not 1 to 63 characters of a-z, 0-9 and '-'", problems);
        }
        let join_file = settings.take_optional("agent.join_file", problems);
        let levels: Option<LogLevels> = settings.take("log.level", problems);
        let log_format = settings.take("log.format", problems);
        let tunnel_listen = settings.take("tunnel.listen", problems);
        let carriers = carriers(settings, problems);
        let proxy = proxy(settings, problems);
        let interface = interface(settings, problems);
        let resolver = resolver(settings, problems);
        let enabled: Option<bool> = settings.take("workload.enabled", problems);
        let testing: Option<bool> = settings.take("workload.testing", problems);
        let allow_unlimited: Option<bool> = settings.take("workload.allow_unlimited", problems);
        let runtime_dir = settings.take_optional("workload.runtime_dir", problems);
        let engine: Option<PathBuf> = settings.take("workload.engine_socket", problems);
        let data_dir = settings.take_optional("workload.data_dir", problems);
        let logs = log_limits(settings, problems);
        let door = door(settings, problems);
        let observe_listen = match settings.text("observe.listen") {
            Some("off") => Some(None),
            _ => settings.take("observe.listen", problems).map(Some),
        };
        let observe_hub = settings.take("observe.hub", problems);
        let backlog = backlog(settings, problems);
        let grace: Option<Span> = settings.take("shutdown.grace", problems);
        let services = services(settings, problems);
        levels?;
        let (backlog_bytes, pages_every) = backlog?;
        problems.is_empty().then_some(Self {
            name,
            join_file,
            log_level: settings.text("log.level")?.to_owned(),
            log_format: log_format?,
            tunnel_listen: tunnel_listen?,
            carriers: carriers?,
            proxy,
            interface: interface?,
            resolver: resolver?,
            workloads: WorkloadSettings {
                enabled: enabled?,
                testing: testing?,
                allow_unlimited: allow_unlimited?,
                data_dir,
                runtime_dir,
                engine: engine?,
                logs: logs?,
            },
            door: door?,
            backlog_bytes,
            pages_every,
            observe_listen: observe_listen?,
            observe_hub: observe_hub?,
            grace: grace?.0,
            services,
            local_api: true,
            samples: true,
        })
    }
}

/// What the hub's operator may begin on this machine. The default is nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DoorSettings {
    /// Commands beside workloads.
    pub exec: bool,
    /// Ports of loopback that may be reached.
    pub connect: PortRanges,
    /// Ports of loopback that may be listened on.
    pub listen: PortRanges,
}

fn door(settings: &Settings, problems: &mut Problems) -> Option<DoorSettings> {
    let exec: Option<bool> = settings.take("exec.enabled", problems);
    let connect = settings.take_optional("forward.connect_ports", problems).unwrap_or_default();
    let listen = settings.take_optional("forward.listen_ports", problems).unwrap_or_default();
    Some(DoorSettings { exec: exec?, connect, listen })
}

/// What is kept while the hub is away: bytes of samples, and how often pages of metrics.
fn backlog(settings: &Settings, problems: &mut Problems) -> Option<(u64, Duration)> {
    let every: Option<Span> = settings.take("qos.metrics_every", problems);
    let hour = Duration::from_secs(3600);
    if every.is_some_and(|Span(every)| every < Duration::from_secs(1) || every > hour) {
        settings.refuse("qos.metrics_every", "not 1s to 1h", problems);
    }
    let bytes: ByteSize = settings.take("qos.backlog_bytes", problems)?;
    if bytes.0 < MIN_BACKLOG_BYTES {
        settings.refuse("qos.backlog_bytes", "below 1MiB", problems);
    }
    Some((bytes.0, every?.0))
}

fn log_limits(settings: &Settings, problems: &mut Problems) -> Option<LogLimits> {
    let bytes: Option<ByteSize> = settings.take("workload.log_bytes", problems);
    let lines: Option<u32> = settings.take("workload.log_lines", problems);
    if bytes.as_ref().is_some_and(|bytes| bytes.0 < LogLimits::LEAST_BYTES) {
        settings.refuse("workload.log_bytes", "below 256KiB", problems);
    }
    if lines == Some(0) {
        settings.refuse("workload.log_lines", "nothing would be kept", problems);
    }
    Some(LogLimits { bytes: bytes?.0, lines: lines? })
}

#[cfg(test)]
mod tests;
