//! The hub's configuration: keys, defaults, and what has to hold between them.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use blueprint_common_runtime::config::{ConfigError, Key, Problems, Schema, Settings, Sources, Span};
use blueprint_common_runtime::logs::LogFormat;
use blueprint_common_tunnel::{Interface, TunSettings};
use blueprint_common_tunnel_core::Rule;
use blueprint_common_types::HubId;
use blueprint_hub_registry_core::policy::Traffic;
use ipnetwork::{Ipv4Network, Ipv6Network};

use crate::policy::rule;

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
        Key::new("proxy.domain", "bp.internal", "Host names sSERVICE.bBLUEPRINT.DOMAIN name services."),
        Key::new(
            "proxy.tls",
            "off",
            "TLS of the proxy: off, hub (certificate of the hub's own authority) or files.",
        ),
        Key::unset("proxy.certificate", "PEM file with the certificate chain, for proxy.tls = \"files\"."),
        Key::unset("proxy.key", "PEM file with the private key, for proxy.tls = \"files\"."),
        Key::new(
            "proxy.plaintext_dangerously",
            "false",
            "Allow the proxy without TLS on an address that is not loopback.",
        ),
        Key::new(
            "admin.listen",
            "off",
            "TCP address of the JSON API and /metrics beside the Unix socket, with the token in admin.token; or off.",
        ),
        Key::new("shutdown.grace", "10s", "How long open requests may take after SIGTERM, 0 s to 10 min."),
        Key::new("log.level", "info", "Log level, such as info or info,blueprint_hub_proxy=debug."),
        Key::new("log.format", "text", "Log format: text or json."),
    ],
    tables: &[],
};

/// Where TLS of the proxy comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ProxyTls {
    Off,
    Hub,
    Files { certificate: PathBuf, key: PathBuf },
}

impl ProxyTls {
    /// The value of `proxy.tls`.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Hub => "hub",
            Self::Files { .. } => "files",
        }
    }
}

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
    pub(crate) proxy_listen: SocketAddr,
    pub(crate) proxy_domain: String,
    pub(crate) proxy_tls: ProxyTls,
    pub(crate) admin_listen: Option<SocketAddr>,
    pub(crate) grace: Duration,
    pub(crate) log_level: String,
    pub(crate) log_format: LogFormat,
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
        let proxy = proxy(settings, problems);
        let domain = settings.take::<String>("proxy.domain", problems);
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
        let (proxy_listen, proxy_tls) = proxy?;
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
            proxy_listen,
            proxy_domain: domain?,
            proxy_tls,
            admin_listen: admin_listen?,
            grace: grace?,
            log_level: log_level?,
            log_format: log_format?,
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

fn optional_address(settings: &Settings, key: &str, problems: &mut Problems) -> Option<Option<SocketAddr>> {
    if settings.text(key).is_none_or(|text| text == "off") {
        return Some(None);
    }
    settings.take::<SocketAddr>(key, problems).map(Some)
}

fn proxy(settings: &Settings, problems: &mut Problems) -> Option<(SocketAddr, ProxyTls)> {
    let listen = settings.take::<SocketAddr>("proxy.listen", problems);
    let dangerous = settings.take::<bool>("proxy.plaintext_dangerously", problems);
    let tls = match settings.text("proxy.tls") {
        Some("off") => Some(ProxyTls::Off),
        Some("hub") => Some(ProxyTls::Hub),
        Some("files") => {
            let certificate = settings.take::<PathBuf>("proxy.certificate", problems);
            let key = settings.take::<PathBuf>("proxy.key", problems);
            certificate.zip(key).map(|(certificate, key)| ProxyTls::Files { certificate, key })
        }
        Some(_) | None => {
            settings.refuse("proxy.tls", "not off, hub or files", problems);
            None
        }
    };
    let (listen, tls, dangerous) = (listen?, tls?, dangerous?);
    if tls == ProxyTls::Off && !listen.ip().is_loopback() && !dangerous {
        settings.refuse(
            "proxy.listen",
            "not loopback while proxy.tls is off: tokens would cross the network in clear; set proxy.tls to hub or files",
            problems,
        );
        return None;
    }
    Some((listen, tls))
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
    fn every_problem_is_reported_at_once() {
        let error = load(&[
            ("tunnel.overlay_v4", "192.168.0.0/16"),
            ("tunnel.mtu", "9001"),
            ("tunnel.to_hub", "tcp/0"),
            ("proxy.listen", "0.0.0.0:80"),
            ("session.target_ttl", "6s"),
            ("admin.listen", "0.0.0.0:1"),
        ])
        .unwrap_err();
        for key in [
            "tunnel.overlay_v4",
            "tunnel.mtu",
            "tunnel.to_hub",
            "proxy.listen",
            "session.target_ttl",
            "admin.listen",
        ] {
            assert!(error.contains(key), "{key} is missing in: {error}");
        }
    }
}
