//! The keys of `agent.toml` with their defaults and what the manual says of them.

use blueprint_common_runtime::config::{Key, Schema, TableArray};

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
