//! The keys of `hub.toml` with their defaults and what the manual says of them.

use blueprint_common_runtime::config::{Key, Schema};

use super::{
    alerts, aws, digitalocean, discovery, equinix, forwards, hivelocity, oauth, prices, providers, provision,
    qos, scaleway, sessions, ssh,
};

/// Every key of `hub.toml`.
pub(crate) const SCHEMA: Schema = Schema {
    program: "blueprint-hub",
    env_prefix: "BLUEPRINT_HUB",
    keys: &[
        Key::unset(
            "hub.advertise",
            "Host name or address under which machines reach this hub; join lines carry it.",
        ),
        Key::new(
            "control.listen",
            "0.0.0.0:7443",
            "TCP address for agents: joining and control streams, TLS 1.3.",
        ),
        Key::new(
            "control.listen_also",
            "off",
            "One more TCP address for agents, such as 0.0.0.0:443 for networks that let nothing else out; or off.",
        ),
        Key::new("tunnel.listen", "0.0.0.0:51820", "UDP address of the WireGuard endpoint."),
        Key::new(
            "tunnel.carrier_listen",
            "auto",
            "UDP address where QUIC and plain WireGuard share a port; auto is 0.0.0.0:443 where this user may have \
             it and it is free; or off.",
        ),
        Key::new(
            "tunnel.overlay_v4",
            "10.88.0.0/16",
            "IPv4 prefix of the overlay, inside 10.0.0.0/8; the first host is the hub. Fixed once machines have joined.",
        ),
        Key::unset(
            "tunnel.overlay_v6",
            "IPv6 prefix of the overlay, a /64 inside fd00::/8; made from the hub's identity where not set.",
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
            "tunnel.to_hub",
            "none",
            "What joined machines may begin with this hub itself inside the tunnel, such as tcp/22,udp/53; none or any. \
             ICMP, and answers to what the hub began, pass.",
        ),
        Key::new(
            "tunnel.rpc_port",
            "7446",
            "TCP port of this hub inside the tunnel, through which workloads reach the RPC on this hub's loopback that \
             their own document names, and nothing else; or off.",
        ),
        Key::new(
            "tunnel.rpc_idle_timeout",
            "10m",
            "How long a connection of a workload to that RPC may be silent in both directions, 1 s to 1 day.",
        ),
        Key::new(
            "tunnel.mtu",
            "1420",
            "Largest inner packet in bytes, 1280 to 9000; what a path takes is probed.",
        ),
        Key::new("tunnel.keepalive", "20s", "Pause between the keepalives of agents, 1 s to 60 s."),
        Key::new(
            "join.certificate_ttl",
            "24h",
            "Life of agents' certificates, 10 s to 30 days; they renew at half of it.",
        ),
        Key::new("session.heartbeat", "5s", "Pace of agents' heartbeats and samples, 1 s to 60 s."),
        Key::new(
            "session.target_ttl",
            "30s",
            "How long targets outlive the last heartbeat; at least three heartbeats.",
        ),
        discovery::DOMAIN,
        discovery::PORT,
        discovery::LISTEN,
        qos::PORT,
        qos::LISTEN,
        qos::WRITE_EVERY,
        qos::MINUTES,
        qos::HOURS,
        qos::ROWS,
        qos::METRICS_EVERY,
        Key::new("proxy.listen", "127.0.0.1:8276", "TCP address of the auth proxy for clients."),
        Key::new(
            "proxy.tls_listen",
            "off",
            "One more TCP address of the proxy that always has TLS, such as 0.0.0.0:8277; proxy.listen is without TLS \
             then. Or off: proxy.listen has what proxy.tls says.",
        ),
        Key::new("proxy.domain", "bp.internal", "Host names sSERVICE.bBLUEPRINT.DOMAIN name services."),
        Key::new(
            "proxy.tls",
            "off",
            "TLS of the proxy: off, hub (certificate of the hub's own authority), files, or acme (ordered from an ACME \
             server).",
        ),
        Key::unset("proxy.certificate", "PEM file with the certificate chain, for proxy.tls = \"files\"."),
        Key::unset("proxy.key", "PEM file with the private key, for proxy.tls = \"files\"."),
        Key::new(
            "proxy.acme_directory",
            "https://acme-v02.api.letsencrypt.org/directory",
            "Directory of the ACME server, for proxy.tls = \"acme\".",
        ),
        Key::unset(
            "proxy.acme_names",
            "Host names of the certificate, such as hub.example.com,s42.b7.hub.example.com; the server must reach the \
             proxy's TLS address at port 443 of each.",
        ),
        Key::unset("proxy.acme_contact", "Mail address that the ACME server may write to."),
        Key::new(
            "proxy.acme_agree_terms",
            "false",
            "Whether you agree to the terms of service of the ACME server; nothing is ordered unless you do.",
        ),
        Key::new(
            "proxy.acme_roots",
            "/etc/ssl/certs/ca-certificates.crt",
            "PEM file with the authorities by which the ACME server is known.",
        ),
        Key::unset(
            "proxy.certificates",
            "Folder with more certificates, NAME.crt or NAME.pem and NAME.key each, chosen by host name.",
        ),
        Key::new(
            "proxy.plaintext_dangerously",
            "false",
            "Allow the proxy without TLS on an address that is not loopback.",
        ),
        Key::new(
            "proxy.max_connections",
            "16384",
            "Connections that clients may have open, 1 to 1000000; proxy.tls_listen takes half of them.",
        ),
        Key::new(
            "proxy.max_connections_per_source",
            "1024",
            "Connections from one IPv4 address or IPv6 /64, 1 to 1000000; loopback is exempt.",
        ),
        Key::new("proxy.header_timeout", "5s", "How long the head of a request may take, 100 ms to 10 min."),
        Key::new(
            "proxy.idle_timeout",
            "75s",
            "How long a connection may stay without a request, 1 s to 1 h.",
        ),
        Key::new(
            "proxy.reader_timeout",
            "60s",
            "How long a client may leave a part of its answer unread, 1 s to 1 h.",
        ),
        Key::new(
            "proxy.least_body_rate",
            "1KiB",
            "Bytes a second of a request's body, over 30 s in which the service waits for it; 0 for none.",
        ),
        Key::new(
            "memory.limit",
            "auto",
            "Memory of this process: at nine tenths of it new connections and requests are refused, until less than \
             eight tenths are in use. A size such as 2GiB; auto is what the machine or its control group has.",
        ),
        Key::new(
            "proxy.http3",
            "false",
            "Speak HTTP/3 on the UDP port of the proxy's TLS address, too; needs proxy.tls, and that \
             tunnel.carrier_listen has another port.",
        ),
        sessions::EXEC,
        sessions::FORWARD,
        forwards::PORTS,
        forwards::LISTEN,
        oauth::HOSTS,
        oauth::CA,
        oauth::PRIVATE,
        Key::unset(
            "provision.usd_per_eur",
            "US dollars for a euro, such as 1.08; without it, prices in euro are left out where prices are compared.",
        ),
        Key::new(
            "provision.max_price_age_days",
            "180",
            "Days after which the hub does not choose a machine by a price that it has not asked its provider for.",
        ),
        Key::new(
            "artefacts.max_bytes",
            "2GiB",
            "Largest artefact that may be pushed to this hub (`blueprint-hub artefact push`).",
        ),
        Key::new(
            "artefacts.max_total_bytes",
            "20GiB",
            "Room for all pushed artefacts, in the folder artefacts of the hub's state.",
        ),
        providers::SIM,
        providers::SIM_FAULTS,
        providers::LOCAL_VM,
        providers::LOCAL_VM_IMAGE,
        providers::LOCAL_VM_SUBNET,
        providers::AGENTS,
        digitalocean::ENABLED,
        digitalocean::REGIONS,
        digitalocean::IMAGE,
        digitalocean::ENDPOINT,
        aws::ENABLED,
        aws::REGIONS,
        aws::ENDPOINT,
        aws::IMAGE,
        aws::SUBNETS,
        aws::PUBLIC_IP,
        aws::SPOT,
        aws::PROFILE,
        aws::ROLE,
        aws::EXTERNAL_ID,
        scaleway::ENABLED,
        scaleway::ZONES,
        scaleway::IMAGE,
        scaleway::ENDPOINT,
        hivelocity::ENABLED,
        hivelocity::FACILITIES,
        hivelocity::SYSTEM,
        hivelocity::ENDPOINT,
        equinix::ENABLED,
        ssh::ENABLED,
        ssh::HOSTS,
        provision::EVERY,
        provision::CALL_AGAIN,
        provision::SECOND_LOOK,
        provision::JOIN_WITHIN,
        provision::ORPHAN_GRACE,
        provision::MAX_MACHINES,
        provision::MAX_HOURLY,
        provision::MAX_MONTHLY,
        provision::LIMIT_SIM,
        prices::EVERY,
        prices::AZURE_REGIONS,
        prices::VULTR,
        prices::LINODE,
        prices::SCALEWAY,
        prices::AZURE,
        alerts::EVERY,
        alerts::CA,
        alerts::PRIVATE,
        Key::new(
            "admin.listen",
            "off",
            "TCP address of the JSON API and /metrics beside the Unix socket, with the token in admin.token; or off.",
        ),
        Key::new(
            "metrics.listen",
            "off",
            "Loopback TCP address, such as 127.0.0.1:9465, where Prometheus finds and reads the metrics of hub, machines and \
             services, with the token in metrics.token; or off.",
        ),
        Key::new("shutdown.grace", "10s", "How long open requests may take after SIGTERM, 0 s to 10 min."),
        Key::new("log.level", "info", "Log level, such as info or info,blueprint_hub_proxy=debug."),
        Key::new("log.format", "text", "Log format: text or json."),
        Key::new(
            "log.access",
            "on",
            "One line for each request through the proxy: on, off, or 1/N for one of N and every failure.",
        ),
    ],
    tables: &[],
};
