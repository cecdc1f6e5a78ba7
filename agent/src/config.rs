//! The agent's configuration: which keys exist, and what they become.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use blueprint_agent_qos::MIN_BACKLOG_BYTES;
use blueprint_agent_workload::logs::LogLimits;
use blueprint_common_runtime::config::{ByteSize, Key, List, Problems, Schema, Settings, Span, TableArray};
use blueprint_common_runtime::logs::{LogFormat, LogLevels};
use blueprint_common_spoke::is_name;
use blueprint_common_tunnel::carrier::{ProxyUrl, ProxyUrlError};
use blueprint_common_tunnel::{Interface, TunSettings};
use blueprint_common_types::{Carrier, CheckPace, HealthCheck, MetricsPlace, PortRanges, Secret, ServiceKey};

use crate::pace::PaceArgs;
use crate::resolver::{ResolverDomain, ResolverSettings, ResolverWay};
use crate::service::{LocalAddress, MAX_SERVICES, ServiceSpec};
use crate::workloads::WorkloadSettings;

/// Every key of the agent.
pub static SCHEMA: Schema = Schema {
    program: "blueprint-agent",
    env_prefix: "BLUEPRINT_AGENT",
    keys: &[
        Key::unset(
            "agent.name",
            "Name of this machine for people: at most 63 characters of a-z, 0-9 and '-'. The host name where unset.",
        ),
        Key::unset(
            "agent.join_file",
            "File that holds a join line; `run` joins with it where this machine has not joined yet.",
        ),
        Key::new(
            "log.level",
            "info",
            "off, error, warn, info, debug, trace; `info,target=debug` for one part.",
        ),
        Key::new("log.format", "text", "text or json; logs go to standard error."),
        Key::new("tunnel.listen", "0.0.0.0:0", "UDP address of the tunnel. Port 0 lets the system choose."),
        Key::new(
            "tunnel.carriers",
            "udp,quic,tls",
            "Carriers that may be used, in any order: the best that works is. One alone is forced.",
        ),
        Key::unset("tunnel.proxy", "HTTP proxy for control streams and the TLS carrier: http://HOST:PORT."),
        Key::unset(
            "tunnel.proxy_file",
            "File with the URL of that proxy, where it asks for credentials: http://USER:PASSWORD@HOST:PORT.",
        ),
        Key::new(
            "tunnel.interface",
            "netstack",
            "Where the overlay ends on this machine: netstack (in this process, no right needed) or tun (a network \
             device, CAP_NET_ADMIN).",
        ),
        Key::new(
            "tunnel.interface_name",
            "bp%d",
            "Name of the network device; %d becomes the first free number.",
        ),
        Key::new(
            "tunnel.udp_offload",
            "true",
            "Hand runs of UDP datagrams to the network device in one piece (Linux 6.2); off where a tunnel inside \
             does not bear it.",
        ),
        Key::new(
            "resolver.way",
            "off",
            "How this machine comes to ask the hub for names of the overlay: off (its resolver is not touched), resolved \
             (systemd-resolved, for names of the overlay alone) or file (a block in /etc/resolv.conf, taken out at the end). Needs \
             tunnel.interface = tun, root, and the hub's DNS at port 53.",
        ),
        Key::new(
            "resolver.domain",
            "bp.internal",
            "Names below it are the hub's; what its discovery.domain is.",
        ),
        Key::new("workload.enabled", "true", "Whether this machine runs what the hub assigns to it."),
        Key::new(
            "workload.testing",
            "false",
            "Whether the hub may have programs run that are on this machine already; for development.",
        ),
        Key::new(
            "workload.allow_unlimited",
            "false",
            "Whether a workload that asks for limits of processors, memory or processes runs where this machine cannot hold \
             them; else it is refused. Containers are held by their engine.",
        ),
        Key::unset(
            "workload.data_dir",
            "Folder for the data of workloads and for artefacts. Where unset, for root beside the state folder, with \
             `-workloads` behind its name, since users of workloads have to pass the folders above it; else in the state \
             folder.",
        ),
        Key::unset(
            "workload.runtime_dir",
            "Folder in memory for the sockets and keys of workloads. Below /run for root, else below XDG_RUNTIME_DIR or \
             /dev/shm.",
        ),
        Key::new(
            "workload.engine_socket",
            "/var/run/docker.sock",
            "Unix socket of the container engine, Docker's or Podman's, for workloads that are containers.",
        ),
        Key::new(
            "workload.log_bytes",
            "16MiB",
            "Bytes kept on the disk of what each workload writes, the newest; at least 256KiB. Of 128 services at most.",
        ),
        Key::new(
            "workload.log_lines",
            "1000",
            "Lines a second that are kept of each workload, on the average of ten seconds, of 1 KiB each on the average; the \
             rest is left out and counted.",
        ),
        Key::new(
            "exec.enabled",
            "false",
            "Whether the hub's operator may run commands beside the workloads of this machine, with their rights (`blueprint-hub \
             exec`); the hub has a gate of its own.",
        ),
        Key::unset(
            "forward.connect_ports",
            "Ports of this machine's loopback that `blueprint-hub forward --port` may reach, such as 5432,8000-8080; none where \
             not set.",
        ),
        Key::unset(
            "forward.listen_ports",
            "Ports of this machine's loopback that `blueprint-hub forward --reverse` may listen on; none where not set.",
        ),
        Key::new(
            "qos.backlog_bytes",
            "8MiB",
            "Bytes on the disk for samples that the hub does not get while it is away, the newest; at least 1MiB. As it fills, \
             one sample a minute is kept of the older ones: the default holds a day of 64 services.",
        ),
        Key::new(
            "qos.metrics_every",
            "5m",
            "How often metrics that services show of themselves are kept while the hub is away, 1s to 1h; half as many bytes as \
             qos.backlog_bytes, at least 1MiB, beside the samples.",
        ),
        Key::new(
            "observe.listen",
            "127.0.0.1:9464",
            "TCP address of /metrics, /healthz and /readyz, which hold no secrets; `off` for none.",
        ),
        Key::new(
            "observe.hub",
            "true",
            "Whether the hub, and nobody else, may read the metrics of this agent and of its services through the tunnel, at \
             overlay port 9464.",
        ),
        Key::new(
            "shutdown.grace",
            "10s",
            "How long open streams may take to finish once the agent was asked to end.",
        ),
    ],
    tables: &[TableArray {
        name: "service",
        keys: &[
            Key::unset("blueprint", "Number of the blueprint."),
            Key::unset("service", "Number of the service."),
            Key::unset(
                "local",
                "Where the service listens on this machine: IP:PORT, localhost:PORT or PORT.",
            ),
            Key::unset("port", "TCP port on the agent's overlay address. The local port where unset."),
            Key::new(
                "check",
                "tcp",
                "How its health is checked: tcp; http:/PATH for a GET that must answer below 400, http:204:/PATH or \
                 http:200-299:/PATH for one that must answer so; grpc or grpc:SERVICE for grpc.health.v1.Health, which must \
                 answer SERVING; or none.",
            ),
            Key::new(
                "check_interval",
                "1s",
                "Time from one check to the next, give or take a tenth; 1s to 1h. Where nobody listens at all any more, the next \
                 ones come after 300ms.",
            ),
            Key::new("check_timeout", "1500ms", "Longest time of one check; 10ms to 60s."),
            Key::new("check_fall", "2", "Failures in a row that make it unhealthy; 1 to 100."),
            Key::new("check_rise", "1", "Successes in a row that make it healthy again; 1 to 100."),
            Key::new(
                "check_grace",
                "0s",
                "Time from its start for which failures do not count, until it answered once; up to 1h.",
            ),
            Key::new(
                "metrics",
                "/metrics",
                "Where it shows metrics in Prometheus' text format, for the hub: /PATH, PORT or PORT/PATH of the same \
                 address; grpc or grpc:PORT where it tells them by the Blueprint SDK's qos.QosMetrics; or none.",
            ),
            Key::new(
                "udp",
                "false",
                "Datagrams to the overlay port go to the local port, too, for a raw forward of the hub over UDP.",
            ),
        ],
    }],
};

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

fn carriers(settings: &Settings, problems: &mut Problems) -> Option<BTreeSet<Carrier>> {
    let List(names) = settings.take("tunnel.carriers", problems)?;
    let carriers: Result<BTreeSet<Carrier>, _> = names.iter().map(|name| name.parse()).collect();
    match carriers {
        Ok(carriers) if !carriers.is_empty() => return Some(carriers),
        Ok(_) => settings.refuse("tunnel.carriers", "no carrier is left", problems),
        Err(error) => settings.refuse("tunnel.carriers", &error.to_string(), problems),
    }
    None
}

/// The proxy. What may hold a password is never repeated.
fn proxy(settings: &Settings, problems: &mut Problems) -> Option<ProxyUrl> {
    let (key, text) = match (settings.text("tunnel.proxy_file"), settings.text("tunnel.proxy")) {
        (Some(_), Some(_)) => {
            problems.add("tunnel.proxy", "tunnel.proxy_file is set, too: one of them is enough");
            return None;
        }
        (Some(path), None) => match std::fs::read_to_string(path) {
            Ok(text) => ("tunnel.proxy_file", Secret::new(text)),
            Err(error) => {
                problems.add("tunnel.proxy_file", format!("cannot read {path}: {error}"));
                return None;
            }
        },
        (None, Some(text)) if text.contains('@') => {
            problems.add(
                "tunnel.proxy",
                "credentials do not belong here: write the URL into a file for tunnel.proxy_file",
            );
            return None;
        }
        (None, text) => ("tunnel.proxy", Secret::new(text?.to_owned())),
    };
    match text.expose().trim().parse() {
        Ok(proxy) => Some(proxy),
        Err(error) => {
            let error: ProxyUrlError = error;
            problems.add(key, error.to_string());
            None
        }
    }
}

fn interface(settings: &Settings, problems: &mut Problems) -> Option<Interface> {
    let name: Option<String> = settings.take("tunnel.interface_name", problems);
    let udp_offload: Option<bool> = settings.take("tunnel.udp_offload", problems);
    match settings.text("tunnel.interface")? {
        "netstack" => Some(Interface::Netstack),
        "tun" => Some(Interface::Tun(TunSettings { name: name?, udp_offload: udp_offload? })),
        _ => {
            settings.refuse("tunnel.interface", "neither netstack nor tun", problems);
            None
        }
    }
}

/// How names are asked for; inside, `None` where the resolver is left alone.
fn resolver(settings: &Settings, problems: &mut Problems) -> Option<Option<ResolverSettings>> {
    let domain = settings.text("resolver.domain").unwrap_or_default().parse::<ResolverDomain>();
    if let Err(error) = &domain {
        settings.refuse("resolver.domain", error, problems);
    }
    let way = match settings.text("resolver.way")? {
        "off" => return Some(None),
        "resolved" => ResolverWay::Resolved,
        "file" => ResolverWay::File,
        _ => {
            settings.refuse("resolver.way", "neither off, resolved nor file", problems);
            return None;
        }
    };
    if settings.text("tunnel.interface") == Some("netstack") {
        let why = "needs tunnel.interface = \"tun\": with netstack no program of this machine reaches the hub's DNS";
        settings.refuse("resolver.way", why, problems);
    }
    Some(Some(ResolverSettings { way, domain: domain.ok()? }))
}

fn services(settings: &Settings, problems: &mut Problems) -> Vec<ServiceSpec> {
    let mut services: Vec<ServiceSpec> = Vec::new();
    for row in settings.rows("service") {
        let blueprint = row.take("blueprint", problems);
        let service = row.take("service", problems);
        let local: Option<LocalAddress> = row.take("local", problems);
        let port: Option<u16> = row.take_optional("port", problems);
        let udp: Option<bool> = row.take("udp", problems);
        let check: Option<HealthCheck> = row.take("check", problems);
        let metrics: Option<MetricsPlace> = row.take("metrics", problems);
        let pace = pace(&row, problems);
        if port == Some(0) {
            row.refuse("port", "not within 1 and 65535", problems);
        }
        let (
            Some(blueprint),
            Some(service),
            Some(LocalAddress(local)),
            Some(check),
            Some(metrics),
            Some(udp),
            Some(pace),
        ) = (blueprint, service, local, check, metrics, udp, pace)
        else {
            continue;
        };
        let port = port.unwrap_or_else(|| local.port());
        if let Some(other) = services.iter().find(|other| other.port == port) {
            row.refuse(
                "port",
                &format!("overlay port {port} is taken by service {}", other.service),
                problems,
            );
            continue;
        }
        services.push(ServiceSpec {
            service: ServiceKey { blueprint, service },
            port,
            local,
            check,
            pace,
            metrics,
            udp,
            run: None,
        });
    }
    if services.len() > MAX_SERVICES {
        problems.add("service", format!("{} services are more than {MAX_SERVICES}", services.len()));
    }
    services
}

fn pace(row: &Settings, problems: &mut Problems) -> Option<CheckPace> {
    let args = PaceArgs {
        interval: row.take("check_interval", problems)?,
        timeout: row.take("check_timeout", problems)?,
        fall: row.take("check_fall", problems)?,
        rise: row.take("check_rise", problems)?,
        grace: row.take("check_grace", problems)?,
    };
    match args.read() {
        Ok(pace) => Some(pace),
        Err(error) => {
            row.refuse("check", &format!("its pace: {error}"), problems);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use blueprint_common_runtime::config::Sources;

    use super::*;

    fn load(text: &str, flags: &[(&str, &str)]) -> (Option<AgentConfig>, Vec<String>) {
        let dir = tempfile::tempdir().unwrap_or_else(|error| unreachable!("{error}"));
        let file = dir.path().join("agent.toml");
        std::fs::write(&file, text).unwrap_or_else(|error| unreachable!("{error}"));
        let flags = flags.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let (settings, mut problems) = SCHEMA.load(&Sources { file: Some(file), env: Vec::new(), flags });
        let config = AgentConfig::from_settings(&settings, &mut problems);
        (config, problems.list().iter().map(ToString::to_string).collect())
    }

    #[test]
    fn the_page_of_the_manual_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/config-agent.md");
        if std::env::var_os("UPDATE_GENERATED").is_some() {
            std::fs::write(path, SCHEMA.markdown()).unwrap();
        }
        let found = std::fs::read_to_string(path).unwrap_or_default();
        assert!(found == SCHEMA.markdown(), "run UPDATE_GENERATED=1 cargo test -p blueprint-agent");
    }

    #[test]
    fn an_empty_file_is_a_whole_configuration() {
        let (config, problems) = load("", &[]);
        let config = config.unwrap();
        assert_eq!(problems, [""; 0]);
        assert_eq!(config.observe_listen, Some(SocketAddr::from(([127, 0, 0, 1], 9464))));
        assert_eq!(config.grace, Duration::from_secs(10));
        assert!(config.name.is_none() && config.services.is_empty());
    }

    #[test]
    fn services_come_with_their_defaults() {
        let text = "[[service]]\nblueprint = 7\nservice = 42\nlocal = \"localhost:8080\"\n\
                    [[service]]\nblueprint = 7\nservice = 43\nlocal = \"8080\"\nport = 80\ncheck = \"http:/ok\"\n";
        let (config, problems) = load(text, &[("observe.listen", "off")]);
        assert_eq!(problems, [""; 0]);
        let config = config.unwrap();
        assert_eq!(config.observe_listen, None);
        assert_eq!(config.services[0].port, 8080);
        assert_eq!(config.services[0].check, HealthCheck::Tcp);
        assert_eq!(config.services[1].port, 80);
        assert_eq!(config.services[1].check, HealthCheck::http("/ok"));
    }

    #[test]
    fn every_problem_is_reported_at_once() {
        let text = "[agent]\nname = \"Big Name\"\n[log]\nlevel = \"loud\"\n[tunnel]\nlisten = \"here\"\n\
                    [[service]]\nblueprint = 7\nservice = \"x\"\nlocal = \"nowhere:1\"\n";
        let (config, problems) = load(text, &[("shutdown.grace", "10")]);
        assert!(config.is_none());
        for key in [
            "agent.name",
            "log.level",
            "tunnel.listen",
            "shutdown.grace",
            "service[0].service",
            "service[0].local",
        ] {
            assert!(problems.iter().any(|problem| problem.starts_with(key)), "{key}: {problems:?}");
        }
    }

    #[test]
    fn carriers_are_named_and_a_password_is_not_repeated() {
        let (config, problems) =
            load("[tunnel]\ncarriers = [\"tls\", \"udp\"]\nproxy = \"http://proxy:3128\"\n", &[]);
        let config = config.unwrap();
        assert_eq!(problems, [""; 0]);
        assert_eq!(config.carriers, [Carrier::Udp, Carrier::Tls].into());
        assert_eq!(config.proxy.unwrap().to_string(), "http://proxy:3128");
        for text in ["carriers = \"\"", "carriers = \"udp,fax\"", "proxy = \"http://a:canary@proxy:3128\""] {
            let (config, problems) = load(&format!("[tunnel]\n{text}\n"), &[]);
            assert!(config.is_none() && problems.len() == 1, "{text}: {problems:?}");
            assert!(!problems[0].contains("canary"), "{problems:?}");
        }
    }

    #[test]
    fn the_resolver_is_left_alone_unless_it_is_named_and_there_is_a_device() {
        let (config, problems) = load("", &[]);
        assert_eq!((config.unwrap().resolver, problems.len()), (None, 0));
        let (config, problems) = load("[tunnel]\ninterface = \"tun\"\n[resolver]\nway = \"file\"\n", &[]);
        assert_eq!(problems, [""; 0]);
        let resolver = config.unwrap().resolver.unwrap();
        assert_eq!((resolver.way, resolver.domain.as_str()), (ResolverWay::File, "bp.internal"));
        for (text, words) in [
            ("way = \"file\"", "needs tunnel.interface = \"tun\""),
            ("way = \"dnsmasq\"", "neither off, resolved nor file"),
            ("domain = \"Internal\"", "no domain of labels"),
        ] {
            let (config, problems) = load(&format!("[resolver]\n{text}\n"), &[]);
            assert!(config.is_none() && problems.iter().any(|it| it.contains(words)), "{text}: {problems:?}");
        }
    }

    #[test]
    fn two_services_cannot_share_an_overlay_port() {
        let row = "[[service]]\nblueprint = 7\nservice = 42\nlocal = \"8080\"\n";
        let (config, problems) = load(&format!("{row}{row}"), &[]);
        assert!(config.is_none());
        assert!(problems[0].contains("taken by service 7/42"), "{problems:?}");
    }
}
