//! The hub's configuration: keys, defaults, and what has to hold between them.

mod forwards;
mod oauth;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use blueprint_common_runtime::config::{ConfigError, Key, Problems, Schema, Settings, Sources, Span};
use blueprint_common_runtime::logs::LogFormat;
use blueprint_common_tunnel::{Interface, TunSettings};
use blueprint_common_tunnel_core::Rule;
use blueprint_common_types::HubId;
use blueprint_hub_proxy::AccessLog;
use blueprint_hub_proxy::ForwardConfig;
use blueprint_hub_registry_core::policy::Traffic;
use ipnetwork::{Ipv4Network, Ipv6Network};

use crate::limits::LimitsConfig;
use crate::policy::rule;

mod proxy;

pub(crate) use oauth::OAuthConfig;
pub(crate) use proxy::{AcmeSettings, ProxySockets, ProxyTls};

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
        forwards::PORTS,
        forwards::LISTEN,
        oauth::HOSTS,
        oauth::CA,
        oauth::PRIVATE,
        Key::new(
            "admin.listen",
            "off",
            "TCP address of the JSON API and /metrics beside the Unix socket, with the token in admin.token; or off.",
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

/// Where QUIC and plain WireGuard share a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CarrierListen {
    /// UDP port 443 where that is possible.
    Auto,
    Off,
    At(SocketAddr),
}

impl CarrierListen {
    /// What `auto` means.
    const AUTO: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 443);

    fn of(address: Option<SocketAddr>) -> Self {
        address.map_or(Self::Off, Self::At)
    }

    /// The address to bind, where there is one.
    pub(crate) const fn address(self) -> Option<SocketAddr> {
        match self {
            Self::Auto => Some(Self::AUTO),
            Self::Off => None,
            Self::At(address) => Some(address),
        }
    }
}

/// A configuration of which every value is good.
#[derive(Debug, Clone)]
pub(crate) struct HubConfig {
    pub(crate) advertise: Option<String>,
    pub(crate) control_listen: SocketAddr,
    pub(crate) control_listen_also: Option<SocketAddr>,
    pub(crate) tunnel_listen: SocketAddr,
    pub(crate) carrier_listen: CarrierListen,
    pub(crate) interface: Interface,
    /// What machines may begin with the hub itself.
    pub(crate) to_hub: Vec<Rule>,
    pub(crate) overlay_v4: Ipv4Network,
    pub(crate) overlay_v6: Option<Ipv6Network>,
    pub(crate) mtu: u16,
    pub(crate) keepalive: Duration,
    pub(crate) certificate_ttl: Duration,
    pub(crate) heartbeat: Duration,
    pub(crate) target_ttl: Duration,
    pub(crate) proxy: ProxySockets,
    pub(crate) proxy_domain: String,
    pub(crate) limits: LimitsConfig,
    pub(crate) http3: bool,
    pub(crate) forwards: Option<ForwardConfig>,
    pub(crate) oauth: OAuthConfig,
    pub(crate) admin_listen: Option<SocketAddr>,
    pub(crate) grace: Duration,
    pub(crate) log_level: String,
    pub(crate) log_format: LogFormat,
    pub(crate) access_log: AccessLog,
}

impl HubConfig {
    /// Loads and checks everything; every problem is reported at once.
    pub(crate) fn load(sources: &Sources) -> Result<(Self, Settings), ConfigError> {
        let (settings, mut problems) = SCHEMA.load(sources);
        let config = Self::from_settings(&settings, &mut problems);
        match (config, problems.into_result()) {
            (Some(config), Ok(())) => Ok((config, settings)),
            (Some(_) | None, Err(error)) => Err(error),
            (None, Ok(())) => unreachable!("a value that is missing is always a problem"),
        }
    }

    fn from_settings(settings: &Settings, problems: &mut Problems) -> Option<Self> {
        let advertise = settings.take_optional::<String>("hub.advertise", problems);
        if advertise.as_deref().is_some_and(|host| !is_host(host)) {
            settings.refuse("hub.advertise", "not a host name or address without port", problems);
        }
        let control_listen = settings.take("control.listen", problems);
        let control_listen_also = optional_address(settings, "control.listen_also", problems);
        let tunnel_listen = settings.take("tunnel.listen", problems);
        let carrier_listen = match settings.text("tunnel.carrier_listen") {
            Some("auto") => Some(CarrierListen::Auto),
            Some(_) | None => {
                optional_address(settings, "tunnel.carrier_listen", problems).map(CarrierListen::of)
            }
        };
        let interface = interface(settings, problems);
        let to_hub = to_hub(settings, problems);
        let overlay_v4 = overlay_v4(settings, problems);
        let overlay_v6 = overlay_v6(settings, problems);
        let mtu = settings.take_within("tunnel.mtu", 1280..=9000, problems);
        let keepalive = span(settings, "tunnel.keepalive", 1, 60, problems);
        let certificate_ttl = span(settings, "join.certificate_ttl", 10, 30 * 24 * 3600, problems);
        let heartbeat = span(settings, "session.heartbeat", 1, 60, problems);
        let target_ttl = span(settings, "session.target_ttl", 3, 3600, problems);
        if let (Some(heartbeat), Some(ttl)) = (heartbeat, target_ttl)
            && ttl < heartbeat.saturating_mul(3)
        {
            settings.refuse("session.target_ttl", "less than three heartbeats", problems);
        }
        let proxy = ProxySockets::from_settings(settings, problems);
        let limits = LimitsConfig::take(settings, problems);
        let domain = settings.take::<String>("proxy.domain", problems);
        let http3 = http3(settings, problems);
        let forwards = forwards::take(settings, problems);
        let oauth = OAuthConfig::take(settings, problems);
        let admin_listen = optional_address(settings, "admin.listen", problems);
        if admin_listen.flatten().is_some_and(|address| !address.ip().is_loopback()) {
            settings.refuse(
                "admin.listen",
                "not a loopback address; reach it through the tunnel or ssh",
                problems,
            );
        }
        let grace = span(settings, "shutdown.grace", 0, 600, problems);
        let log_level = settings.take("log.level", problems);
        let log_format = settings.take("log.format", problems);
        let access_log = settings.take("log.access", problems);
        Some(Self {
            advertise,
            control_listen: control_listen?,
            control_listen_also: control_listen_also?,
            tunnel_listen: tunnel_listen?,
            carrier_listen: carrier_listen?,
            interface: interface?,
            to_hub: to_hub?,
            overlay_v4: overlay_v4?,
            overlay_v6: overlay_v6?,
            mtu: mtu?,
            keepalive: keepalive?,
            certificate_ttl: certificate_ttl?,
            heartbeat: heartbeat?,
            target_ttl: target_ttl?,
            proxy: proxy?,
            proxy_domain: domain?,
            limits: limits?,
            http3: http3?,
            forwards: forwards?,
            oauth: oauth?,
            admin_listen: admin_listen?,
            grace: grace?,
            log_level: log_level?,
            log_format: log_format?,
            access_log: access_log?,
        })
    }

    /// The overlay's IPv6 prefix: as configured, else the /64 of RFC 4193 whose global id is taken from the hub's.
    pub(crate) fn overlay_v6(&self, hub: HubId) -> Ipv6Network {
        self.overlay_v6.unwrap_or_else(|| {
            let [a, b, c, d, e, ..] = hub.as_bytes();
            let bytes = [0xfd, *a, *b, *c, *d, *e, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            // A /64 of such an address is a prefix: the call cannot fail, and the fallback is one as well.
            Ipv6Network::new(bytes.into(), 64)
                .unwrap_or_else(|_| Ipv6Network::from(std::net::Ipv6Addr::from(bytes)))
        })
    }
}

fn is_host(host: &str) -> bool {
    let is_label = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    host.parse::<IpAddr>().is_ok() || (!host.is_empty() && host.len() <= 253 && host.chars().all(is_label))
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

fn to_hub(settings: &Settings, problems: &mut Problems) -> Option<Vec<Rule>> {
    let text: String = settings.take("tunnel.to_hub", problems)?;
    if text == "none" {
        return Some(Vec::new());
    }
    let kinds: Result<Vec<Traffic>, _> = text.split(',').map(|kind| kind.trim().parse()).collect();
    match kinds {
        Ok(kinds) => Some(kinds.into_iter().map(rule).collect()),
        Err(error) => {
            settings.refuse("tunnel.to_hub", &error.to_string(), problems);
            None
        }
    }
}

fn overlay_v4(settings: &Settings, problems: &mut Problems) -> Option<Ipv4Network> {
    let network = settings.take::<Ipv4Network>("tunnel.overlay_v4", problems)?;
    if network.ip().octets().first() != Some(&10) || network.prefix() < 8 {
        // The Blueprint Manager passes only private addresses, and of those 10.0.0.0/8 is ours.
        settings.refuse("tunnel.overlay_v4", "not inside 10.0.0.0/8", problems);
        return None;
    }
    if network.prefix() > 29 {
        settings.refuse(
            "tunnel.overlay_v4",
            "no room for machines: a prefix of at most /29 is needed",
            problems,
        );
        return None;
    }
    Some(network)
}

fn overlay_v6(settings: &Settings, problems: &mut Problems) -> Option<Option<Ipv6Network>> {
    let Some(network) = settings.take_optional::<Ipv6Network>("tunnel.overlay_v6", problems) else {
        return Some(None);
    };
    let is_local = network.ip().octets().first() == Some(&0xfd);
    if !is_local || network.prefix() != 64 {
        settings.refuse("tunnel.overlay_v6", "not a /64 inside fd00::/8", problems);
        return None;
    }
    Some(Some(network))
}

fn span(settings: &Settings, key: &str, least: u64, most: u64, problems: &mut Problems) -> Option<Duration> {
    let Span(value) = settings.take::<Span>(key, problems)?;
    if (Duration::from_secs(least)..=Duration::from_secs(most)).contains(&value) {
        return Some(value);
    }
    settings.refuse(key, &format!("not within {least} s and {most} s"), problems);
    None
}

fn http3(settings: &Settings, problems: &mut Problems) -> Option<bool> {
    let wanted = settings.take::<bool>("proxy.http3", problems)?;
    if wanted && settings.text("proxy.tls") == Some("off") {
        settings.refuse(
            "proxy.http3",
            "true while proxy.tls is off: there is no HTTP/3 without TLS",
            problems,
        );
        return None;
    }
    Some(wanted)
}

fn optional_address(settings: &Settings, key: &str, problems: &mut Problems) -> Option<Option<SocketAddr>> {
    if settings.text(key).is_none_or(|text| text == "off") {
        return Some(None);
    }
    settings.take::<SocketAddr>(key, problems).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(flags: &[(&str, &str)]) -> Result<HubConfig, String> {
        let flags = flags.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let sources = Sources { file: None, env: Vec::new(), flags };
        HubConfig::load(&sources).map(|(config, _)| config).map_err(|error| error.to_string())
    }

    #[test]
    fn the_defaults_are_good() {
        let config = load(&[]).unwrap();
        assert_eq!(config.heartbeat, Duration::from_secs(5));
        let hub = HubId::from_bytes([7; 16]);
        assert_eq!(config.overlay_v6(hub).to_string(), "fd07:707:707::/64");
    }

    #[test]
    fn what_machines_may_begin_with_the_hub_is_a_list_and_nothing_by_default() {
        assert_eq!(load(&[]).unwrap().to_hub, []);
        assert_eq!(load(&[("tunnel.to_hub", "any")]).unwrap().to_hub, [Rule::ANY]);
        assert_eq!(load(&[("tunnel.to_hub", "tcp/22, udp/53")]).unwrap().to_hub.len(), 2);
        let error = load(&[("tunnel.to_hub", "none,tcp")]).unwrap_err();
        assert!(error.contains("write any, icmp, tcp"), "{error}");
    }

    #[test]
    fn the_page_of_the_manual_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/config-hub.md");
        if std::env::var_os("UPDATE_GENERATED").is_some() {
            std::fs::write(path, SCHEMA.markdown()).unwrap();
        }
        let found = std::fs::read_to_string(path).unwrap_or_default();
        assert!(found == SCHEMA.markdown(), "run UPDATE_GENERATED=1 cargo test -p blueprint-hub");
    }

    #[test]
    fn plain_http_stays_on_loopback_unless_somebody_insists() {
        let tls = [("proxy.tls", "hub"), ("proxy.tls_listen", "0.0.0.0:8277")];
        assert!(load(&tls).is_ok());
        let open = [tls[0], tls[1], ("proxy.listen", "0.0.0.0:8276")];
        assert!(load(&open).unwrap_err().contains("proxy.listen"));
        assert!(load(&[open[0], open[1], open[2], ("proxy.plaintext_dangerously", "true")]).is_ok());
        assert!(load(&[("proxy.tls_listen", "127.0.0.1:8277")]).unwrap_err().contains("proxy.tls_listen"));
        assert!(load(&[("proxy.tls", "hub"), ("proxy.listen", "0.0.0.0:443")]).is_ok());
    }

    #[test]
    fn certificates_are_ordered_only_where_the_operator_agrees() {
        let good = [
            ("proxy.tls", "acme"),
            ("proxy.acme_names", "Hub.example, a.hub.example"),
            ("proxy.acme_agree_terms", "true"),
            ("proxy.acme_contact", "ops@hub.example"),
        ];
        let ProxyTls::Acme(acme) = load(&good).unwrap().proxy.tls else { panic!("not acme") };
        assert!(
            acme.names.contains("hub.example") && acme.contact.as_deref() == Some("mailto:ops@hub.example")
        );
        for (key, value) in [
            ("proxy.acme_agree_terms", "false"),
            ("proxy.acme_names", "*.hub.example"),
            ("proxy.acme_names", ","),
            ("proxy.acme_directory", "http://hub.example"),
            ("proxy.acme_contact", "nobody"),
        ] {
            let flags: Vec<_> =
                good.iter().copied().filter(|(k, _)| *k != key).chain([(key, value)]).collect();
            let error = load(&flags).unwrap_err();
            assert!(error.contains(key), "{key}: {error}");
        }
        assert!(load(&good[..1]).unwrap_err().contains("proxy.acme_names"));
    }

    #[test]
    fn every_problem_is_reported_at_once() {
        let error = load(&[
            ("tunnel.overlay_v4", "192.168.0.0/16"),
            ("tunnel.mtu", "9001"),
            ("tunnel.to_hub", "tcp/0"),
            ("proxy.listen", "0.0.0.0:80"),
            ("proxy.http3", "true"),
            ("proxy.forward_ports", "20000"),
            ("oauth.jwks_hosts", "issuer.example,https://issuer.example/"),
            ("session.target_ttl", "6s"),
            ("admin.listen", "0.0.0.0:1"),
        ])
        .unwrap_err();
        for key in [
            "tunnel.overlay_v4",
            "tunnel.mtu",
            "tunnel.to_hub",
            "proxy.listen",
            "proxy.http3",
            "proxy.forward_ports",
            "oauth.jwks_hosts",
            "session.target_ttl",
            "admin.listen",
        ] {
            assert!(error.contains(key), "{key} is missing in: {error}");
        }
    }
}
