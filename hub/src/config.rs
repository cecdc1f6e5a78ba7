//! The hub's configuration: keys, defaults, and what has to hold between them.

mod alerts;
mod aws;
mod azure;
mod digitalocean;
mod discovery;
mod docker;
mod equinix;
mod external;
mod forwards;
mod gcp;
mod hivelocity;
mod http3;
mod identity;
mod oauth;
mod orders;
mod prices;
mod providers;
mod provision;
mod proxy;
mod qos;
mod rest_cloud;
mod scaleway;
mod scaling;
mod schema;
mod sessions;
mod ssh;
mod tunnel;
mod workloads;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use blueprint_common_runtime::config::{ConfigError, Problems, Settings, Sources, Span};
use blueprint_common_runtime::logs::LogFormat;
use blueprint_common_tunnel::Interface;
use blueprint_common_tunnel_core::Rule;
use blueprint_common_types::HubId;
use blueprint_hub_admin::SessionGates;
use blueprint_hub_proxy::{AccessLog, ForwardConfig};
use ipnetwork::{Ipv4Network, Ipv6Network};

use crate::limits::LimitsConfig;

pub(crate) use alerts::AlertSettings;
pub(crate) use aws::AwsSettings;
pub(crate) use azure::AzureSettings;
pub(crate) use digitalocean::DigitalOceanSettings;
pub(crate) use discovery::DiscoveryConfig;
pub(crate) use external::ExternalSettings;
pub(crate) use gcp::GcpSettings;
pub(crate) use hivelocity::HivelocitySettings;
pub(crate) use http3::Http3Listen;
pub(crate) use identity::{AwsIdentity, AzureIdentity, GcpIdentity, IdentitySettings, KubernetesIdentity};
pub(crate) use oauth::OAuthConfig;
pub(crate) use prices::PriceConfig;
pub(crate) use providers::{LocalVmSettings, ProviderSettings, WITH_ACCOUNT};
pub(crate) use provision::ProvisionSettings;
pub(crate) use proxy::{AcmeSettings, ProxySockets, ProxyTls};
pub(crate) use qos::QosConfig;
pub(crate) use rest_cloud::RestCloudSettings;
pub(crate) use scaleway::ScalewaySettings;
pub(crate) use schema::SCHEMA;
pub(crate) use ssh::SshSettings;
pub(crate) use tunnel::CarrierListen;
pub(crate) use workloads::WorkloadSettings;

/// Where agents come.
#[derive(Debug, Clone)]
pub(crate) struct ControlSockets {
    pub(crate) listen: SocketAddr,
    pub(crate) also: Option<SocketAddr>,
    /// To the proxy's TLS address, too.
    pub(crate) on_proxy: bool,
}

impl ControlSockets {
    fn take(settings: &Settings, problems: &mut Problems) -> Option<Self> {
        let listen = settings.take("control.listen", problems);
        let also = optional_address(settings, "control.listen_also", problems);
        let on_proxy = settings.take("control.on_proxy", problems);
        Some(Self { listen: listen?, also: also?, on_proxy: on_proxy? })
    }
}

/// A configuration of which every value is good.
#[derive(Debug, Clone)]
pub(crate) struct HubConfig {
    pub(crate) advertise: Option<String>,
    pub(crate) control: ControlSockets,
    pub(crate) tunnel_listen: SocketAddr,
    pub(crate) carrier_listen: CarrierListen,
    pub(crate) interface: Interface,
    /// What machines may begin with the hub itself.
    pub(crate) to_hub: Vec<Rule>,
    /// Where workloads reach the operator's RPC.
    pub(crate) rpc_port: Option<u16>,
    /// How long a connection there may be silent.
    pub(crate) rpc_idle: Duration,
    pub(crate) discovery: DiscoveryConfig,
    pub(crate) qos: QosConfig,
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
    pub(crate) http3: Http3Listen,
    pub(crate) forwards: Option<ForwardConfig>,
    pub(crate) sessions: SessionGates,
    pub(crate) oauth: OAuthConfig,
    pub(crate) workloads: WorkloadSettings,
    pub(crate) prices: PriceConfig,
    pub(crate) provision: ProvisionSettings,
    pub(crate) alerts: AlertSettings,
    pub(crate) providers: ProviderSettings,
    pub(crate) identity: IdentitySettings,
    pub(crate) admin_listen: Option<SocketAddr>,
    pub(crate) metrics_listen: Option<SocketAddr>,
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
        let control = ControlSockets::take(settings, problems);
        let tunnel_listen = settings.take("tunnel.listen", problems);
        let carrier_listen = CarrierListen::take(settings, tunnel_listen, problems);
        let interface = tunnel::interface(settings, problems);
        let to_hub = tunnel::to_hub(settings, problems);
        let rpc_port = tunnel::rpc_port(settings, problems);
        let rpc_idle = span(settings, "tunnel.rpc_idle_timeout", 1, 24 * 3600, problems);
        let (discovery, qos) = inside(settings, interface.as_ref(), problems);
        let overlay_v4 = tunnel::overlay_v4(settings, problems);
        let overlay_v6 = tunnel::overlay_v6(settings, problems);
        let mtu = settings.take_within("tunnel.mtu", 1280..=9000, problems);
        let keepalive = span(settings, "tunnel.keepalive", 1, 60, problems);
        let certificate_ttl = span(settings, "join.certificate_ttl", 10, 30 * 24 * 3600, problems);
        let (heartbeat, target_ttl) = session(settings, problems);
        let proxy = ProxySockets::from_settings(settings, problems);
        let limits = LimitsConfig::take(settings, problems);
        let domain = settings.take::<String>("proxy.domain", problems);
        let (forwards, sessions) = (forwards::take(settings, problems), sessions::take(settings, problems));
        let http3 = Http3Listen::take(settings, tunnel_listen, carrier_listen, proxy.as_ref(), problems);
        let oauth = OAuthConfig::take(settings, problems);
        let workloads = WorkloadSettings::take(settings, problems);
        let prices = PriceConfig::take(settings, problems);
        let (mut provision, alerts, providers, identity) = orders(settings, problems);
        if let (Some(provision), Some(prices)) = (&mut provision, &prices) {
            // What grows by itself is held to it as well.
            provision.limits.max_order_hourly = prices.preferences.max_order_hourly;
        }
        let [admin_listen, metrics_listen] =
            ["admin.listen", "metrics.listen"].map(|key| private_address(settings, key, problems));
        let grace = span(settings, "shutdown.grace", 0, 600, problems);
        let log_level = settings.take("log.level", problems);
        let log_format = settings.take("log.format", problems);
        let access_log = settings.take("log.access", problems);
        Some(Self {
            advertise,
            control: control?,
            tunnel_listen: tunnel_listen?,
            carrier_listen: carrier_listen?,
            interface: interface?,
            to_hub: to_hub?,
            rpc_port: rpc_port?,
            rpc_idle: rpc_idle?,
            discovery: discovery?,
            qos: qos?,
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
            sessions: sessions?,
            oauth: oauth?,
            workloads: workloads?,
            prices: prices?,
            provision: provision?,
            alerts: alerts?,
            providers: providers?,
            identity: identity?,
            admin_listen: admin_listen?,
            metrics_listen: metrics_listen?,
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

/// Sections of what is served inside the tunnel.
fn inside(
    settings: &Settings,
    interface: Option<&Interface>,
    problems: &mut Problems,
) -> (Option<DiscoveryConfig>, Option<QosConfig>) {
    let discovery = DiscoveryConfig::take(settings, interface, problems);
    (discovery, QosConfig::take(settings, interface, problems))
}

/// Sections about machines that are ordered, and those that join by what a cloud says of them.
type Orders =
    (Option<ProvisionSettings>, Option<AlertSettings>, Option<ProviderSettings>, Option<IdentitySettings>);

fn orders(settings: &Settings, problems: &mut Problems) -> Orders {
    let provision = ProvisionSettings::take(settings, problems);
    let alerts = AlertSettings::take(settings, problems);
    let providers = ProviderSettings::take(settings, problems);
    let identity = IdentitySettings::take(settings, problems);
    if let (Some(provision), Some(providers), Some(identity)) = (&provision, &providers, &identity) {
        let within = provision.lifecycle.join_within;
        identity::check_ordered((identity, providers), within, settings, problems);
    }
    (provision, alerts, providers, identity)
}

fn is_host(host: &str) -> bool {
    let is_label = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    host.parse::<IpAddr>().is_ok() || (!host.is_empty() && host.len() <= 253 && host.chars().all(is_label))
}

fn span(settings: &Settings, key: &str, least: u64, most: u64, problems: &mut Problems) -> Option<Duration> {
    let Span(value) = settings.take::<Span>(key, problems)?;
    if (Duration::from_secs(least)..=Duration::from_secs(most)).contains(&value) {
        return Some(value);
    }
    settings.refuse(key, &format!("not within {least} s and {most} s"), problems);
    None
}

/// An address of this machine alone, or none.
fn private_address(settings: &Settings, key: &str, problems: &mut Problems) -> Option<Option<SocketAddr>> {
    let address = optional_address(settings, key, problems);
    if address.flatten().is_some_and(|address| !address.ip().is_loopback()) {
        settings.refuse(key, "not a loopback address; reach it through the tunnel or ssh", problems);
    }
    address
}

/// Pace of heartbeats, and how long targets outlive the last one.
fn session(settings: &Settings, problems: &mut Problems) -> (Option<Duration>, Option<Duration>) {
    let heartbeat = span(settings, "session.heartbeat", 1, 60, problems);
    let target_ttl = span(settings, "session.target_ttl", 3, 3600, problems);
    if let (Some(heartbeat), Some(ttl)) = (heartbeat, target_ttl)
        && ttl < heartbeat.saturating_mul(3)
    {
        settings.refuse("session.target_ttl", "less than three heartbeats", problems);
    }
    (heartbeat, target_ttl)
}

fn optional_address(settings: &Settings, key: &str, problems: &mut Problems) -> Option<Option<SocketAddr>> {
    if settings.text(key).is_none_or(|text| text == "off") {
        return Some(None);
    }
    settings.take::<SocketAddr>(key, problems).map(Some)
}

#[cfg(test)]
mod tests;
