//! What is to be known of an agent, for people and for programs.

use std::sync::atomic::Ordering;
use std::time::Duration;

use blueprint_common_runtime::cli::{Table, age, bytes, duration};
use blueprint_common_spoke::{ControlState, Identity, now};
use blueprint_common_tunnel::Rights;
use blueprint_common_types::{
    AgentId, CheckPace, Health, HealthCheck, HubId, OverlayLease, ServiceKey, Timestamp,
};
use serde::{Deserialize, Serialize};

use crate::service::{Entry, Origin};
use crate::shared::{REJOIN, Shared};

/// The agent as it is at one moment.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StatusReport {
    /// Version of the agent.
    pub version: String,
    /// Whether it runs; where it does not, only what is stored is known.
    pub running: bool,
    /// True once it was asked to end and finishes what is open.
    pub draining: bool,
    /// True while requests reach its services: the data plane echoes.
    pub ready: bool,
    /// Name for people.
    pub name: String,
    /// The agent.
    pub agent_id: AgentId,
    /// The hub it joined.
    pub hub_id: HubId,
    /// Where the hub's control plane is.
    pub hub: String,
    /// The agent's overlay addresses.
    pub address: OverlayLease,
    /// When this machine joined.
    pub joined_at: Timestamp,
    /// When the hub removed the agent, where it did.
    pub revoked_at: Option<Timestamp>,
    /// The control stream.
    pub control: Option<ControlReport>,
    /// The tunnel.
    pub data_plane: Option<DataPlaneReport>,
    /// The certificate of the control plane.
    pub certificate: CertificateReport,
    /// The services.
    pub services: Vec<ServiceReport>,
}

/// The control stream.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ControlReport {
    /// Where it stands.
    pub state: ControlState,
    /// Since when.
    pub since: Timestamp,
    /// Why it is not up.
    pub reason: Option<String>,
    /// What to do about it.
    pub hint: Option<String>,
    /// Attempts since the agent's start.
    pub attempts: u64,
    /// Streams that the hub welcomed since the agent's start.
    pub sessions: u64,
    /// Messages that the hub has not acknowledged.
    pub outbox_messages: usize,
    /// Messages dropped because there were too many.
    pub outbox_dropped: u64,
}

/// The tunnel.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DataPlaneReport {
    /// Whether the hub echoes.
    pub alive: bool,
    /// Why not, where that is known.
    pub reason: Option<String>,
    /// The carrier in use: udp, quic or tls.
    #[serde(default)]
    pub carrier: Option<String>,
    /// Largest inner packet that passes, in bytes.
    #[serde(default)]
    pub mtu: Option<u16>,
    /// Outer address of the hub.
    pub endpoint: Option<String>,
    /// UDP address of this agent.
    pub local: String,
    /// Network device in which the overlay ends; `None` where it ends in the agent.
    #[serde(default)]
    pub device: Option<String>,
    /// Capabilities that the agent has, such as `none`.
    #[serde(default)]
    pub rights: Option<String>,
    /// Milliseconds since the last echo.
    pub echo_age_millis: Option<u64>,
    /// Seconds since the last handshake.
    pub handshake_age_secs: Option<u32>,
    /// Mean round trip in microseconds.
    pub rtt_micros: u32,
    /// Mean change of the round trip in microseconds.
    pub jitter_micros: u32,
    /// Echoes lost, in percent.
    pub loss_percent: f32,
    /// Bytes received from the hub.
    pub rx_bytes: u64,
    /// Bytes sent to the hub.
    pub tx_bytes: u64,
}

/// The certificate.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct CertificateReport {
    /// Start of its life.
    pub not_before: Timestamp,
    /// End of its life; it is renewed at about half.
    pub not_after: Timestamp,
}

/// One service.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ServiceReport {
    /// Which.
    pub service: ServiceKey,
    /// Overlay port.
    pub port: u16,
    /// Where it listens on this machine.
    pub local: String,
    /// How it is checked.
    pub check: HealthCheck,
    /// How often, and how many results count.
    #[serde(default)]
    pub pace: CheckPace,
    /// Where it was named.
    pub origin: Origin,
    /// What the checks found.
    pub health: Health,
    /// Why it is not healthy.
    pub reason: String,
    /// Why the hub does not accept it, where it does not.
    pub refused: Option<String>,
    /// Streams open now.
    pub streams: usize,
}

impl StatusReport {
    /// What is stored of an agent that does not run.
    pub(crate) fn stored<'a>(identity: &Identity, services: impl Iterator<Item = &'a Entry>) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            running: false,
            draining: false,
            ready: false,
            name: identity.name.clone(),
            agent_id: identity.agent_id,
            hub_id: identity.hub_id,
            hub: identity.hub.to_string(),
            address: identity.tunnel.address,
            joined_at: identity.joined_at,
            revoked_at: identity.revoked_at,
            control: None,
            data_plane: None,
            certificate: CertificateReport {
                not_before: identity.credential.not_before,
                not_after: identity.credential.not_after,
            },
            services: services.map(ServiceReport::stored).collect(),
        }
    }

    /// What is stored of services whose agent does not run.
    pub(crate) fn stored_services<'a>(services: impl Iterator<Item = &'a Entry>) -> Vec<ServiceReport> {
        services.map(ServiceReport::stored).collect()
    }

    pub(crate) fn of(shared: &Shared) -> Self {
        let control = shared.spoke.control().borrow().clone();
        Self {
            running: true,
            draining: shared.is_draining(),
            ready: shared.is_ready(),
            control: Some(ControlReport {
                state: control.state,
                since: control.since,
                reason: control.reason,
                hint: control.hint,
                attempts: control.attempts,
                sessions: control.sessions,
                outbox_messages: control.held,
                outbox_dropped: control.dropped,
            }),
            data_plane: Some(DataPlaneReport::of(shared)),
            services: services(shared),
            ..Self::stored(&shared.spoke.identity(), std::iter::empty())
        }
    }

    /// The report as text.
    #[must_use]
    pub fn render(&self) -> String {
        let now = now();
        let mut lines = vec![
            row("agent", &format!("{} ({}), version {}", self.name, self.agent_id, self.version)),
            row("hub", &format!("{} ({})", self.hub, self.hub_id)),
            row("addresses", &format!("{}, {}", self.address.v4, self.address.v6)),
            row("state", self.state()),
        ];
        lines.extend(self.control.iter().flat_map(|control| control.render(now)));
        lines.extend(self.data_plane.iter().flat_map(|plane| {
            let device = plane.device.as_deref().unwrap_or("none: the overlay ends in the agent");
            let rights = plane.rights.as_deref().unwrap_or("not known");
            [row("data plane", &plane.render()), row("device", device), row("rights", rights)]
        }));
        lines.push(row("certificate", &self.certificate.render(now)));
        if self.revoked_at.is_some() {
            lines.push(row("next", REJOIN));
        }
        lines.push(String::new());
        lines.push(render_services(&self.services));
        lines.join("\n")
    }

    const fn state(&self) -> &'static str {
        match self {
            Self { revoked_at: Some(_), .. } => "removed by the hub",
            Self { running: false, .. } => "not running",
            Self { draining: true, .. } => "draining",
            Self { ready: true, .. } => "ready",
            Self { .. } => "not ready: the data plane does not echo",
        }
    }
}

fn row(name: &str, value: &str) -> String {
    format!("{name:<12} {}", blueprint_common_runtime::cli::printable(value))
}

impl ControlReport {
    fn render(&self, now: Timestamp) -> Vec<String> {
        let since = duration(now.since(self.since));
        let state = match self.state {
            ControlState::Up => format!("up for {since}"),
            ControlState::Down => format!("down for {since}, attempt {}", self.attempts),
            ControlState::Revoked => "ended by the hub".to_owned(),
        };
        let reason = self.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
        let mut lines = vec![row("control", &format!("{state}{reason}"))];
        lines.extend(self.hint.iter().map(|hint| row("next", hint)));
        if self.outbox_dropped > 0 {
            lines.push(row("outbox", &format!("{} messages dropped", self.outbox_dropped)));
        }
        lines
    }
}

impl DataPlaneReport {
    fn of(shared: &Shared) -> Self {
        let plane = shared.spoke.plane();
        let (stats, sample) = (plane.hub_stats(), plane.sample());
        let alive = stats.is_some_and(|stats| stats.echo.alive);
        let endpoint = stats.and_then(|stats| stats.endpoint);
        let reason = (!alive).then(|| match (plane.trouble(), endpoint, sample.handshake_age_secs) {
            (Some(trouble), ..) => trouble,
            (None, None, _) => "the hub's address is not known yet".to_owned(),
            (None, Some(endpoint), None) => {
                format!(
                    "no handshake with {}; `blueprint-agent netcheck` says what is blocked",
                    endpoint.remote
                )
            }
            (None, Some(endpoint), Some(_)) => {
                format!("{} does not answer any more; searching", endpoint.remote)
            }
        });
        Self {
            alive,
            reason,
            carrier: plane.carrier().map(str::to_owned),
            mtu: stats.map(|stats| stats.mtu),
            endpoint: endpoint.map(|endpoint| endpoint.remote.to_string()),
            local: plane.tunnel().local_addr().to_string(),
            device: plane.tunnel().device().map(str::to_owned),
            rights: Rights::held().ok().map(|rights| rights.to_string()),
            echo_age_millis: stats
                .and_then(|stats| stats.echo.last_reply_age)
                .map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
            handshake_age_secs: sample.handshake_age_secs,
            rtt_micros: sample.rtt_micros,
            jitter_micros: sample.jitter_micros,
            loss_percent: sample.loss_percent,
            rx_bytes: sample.rx_bytes,
            tx_bytes: sample.tx_bytes,
        }
    }

    fn render(&self) -> String {
        let micros = |micros: u32| duration(Duration::from_micros(micros.into()));
        let echo = self.echo_age_millis.map(|age_millis| age(Duration::from_millis(age_millis)));
        if !self.alive {
            let last = echo.map(|echo| format!(", last echo {echo}")).unwrap_or_default();
            return format!("down{last}: {}", self.reason.as_deref().unwrap_or("the hub does not echo"));
        }
        format!(
            "up, echo {}, rtt {}, jitter {}, loss {:.1} %, {} in, {} out, over {} to {}",
            echo.unwrap_or_else(|| "-".to_owned()),
            micros(self.rtt_micros),
            micros(self.jitter_micros),
            self.loss_percent,
            bytes(self.rx_bytes),
            bytes(self.tx_bytes),
            self.carrier.as_deref().unwrap_or("-"),
            self.endpoint.as_deref().unwrap_or("-"),
        )
    }
}

impl CertificateReport {
    fn render(&self, now: Timestamp) -> String {
        if now < self.not_after {
            format!("until {} (in {})", self.not_after, duration(self.not_after.since(now)))
        } else {
            format!("ended {} ({})", self.not_after, age(now.since(self.not_after)))
        }
    }
}

impl ServiceReport {
    fn stored(entry: &Entry) -> Self {
        Self {
            service: entry.spec.service,
            port: entry.spec.port,
            local: entry.spec.local.to_string(),
            check: entry.spec.check.clone(),
            pace: entry.spec.pace,
            origin: entry.origin,
            health: Health::Unknown,
            reason: String::new(),
            refused: None,
            streams: 0,
        }
    }
}

/// Every service with what is known of it.
pub(crate) fn services(shared: &Shared) -> Vec<ServiceReport> {
    let health = std::sync::Arc::clone(&shared.health.borrow());
    let refused = shared.refused.lock().clone();
    let report = |entry: &Entry| {
        let mut report = ServiceReport::stored(entry);
        if let Some(known) = health.get(&report.port).filter(|known| known.service == report.service) {
            report.health = known.health;
            report.reason.clone_from(&known.reason);
        }
        report.refused = refused.get(&report.port).cloned();
        report.streams = shared.streams.of(report.port).open.load(Ordering::Relaxed);
        report
    };
    shared.services().iter().map(report).collect()
}

/// The services as a table.
pub(crate) fn render_services(services: &[ServiceReport]) -> String {
    if services.is_empty() {
        return "no services; add one with `blueprint-agent service add BLUEPRINT/SERVICE --local PORT`"
            .to_owned();
    }
    let mut table = Table::new(&["SERVICE", "PORT", "LOCAL", "CHECK", "HEALTH", "STREAMS", "REASON"]);
    for service in services {
        let refused = service.refused.as_ref().map(|refused| format!("refused by the hub: {refused}"));
        table.push(vec![
            service.service.to_string(),
            service.port.to_string(),
            service.local.clone(),
            service.check.to_string(),
            service.health.to_string(),
            service.streams.to_string(),
            refused.unwrap_or_else(|| service.reason.clone()),
        ]);
    }
    table.render()
}

#[cfg(test)]
mod tests {
    use blueprint_common_spoke::{Credential, HubAddress, Offer, TunnelSettings};
    use blueprint_common_types::{Carrier, Secret, WgPrivateKey};

    use super::*;

    fn identity() -> Identity {
        let lease = |n: u8| OverlayLease {
            v4: [10, 101, 0, n].into(),
            v6: [0xfd00, 0, 0, 0, 0, 0, 0, n.into()].into(),
        };
        let wireguard_key = WgPrivateKey::random().unwrap();
        Identity {
            hub: HubAddress { host: "hub.example.org".to_owned(), port: 7443 },
            hub_id: HubId::random().unwrap(),
            agent_id: AgentId::random().unwrap(),
            name: "gpu-1".to_owned(),
            joined_at: Timestamp::from_millis(1_700_000_000_000),
            tunnel: TunnelSettings {
                epoch: 3,
                hub_key: wireguard_key.public_key(),
                carriers: vec![Offer { carrier: Carrier::Udp, endpoint: ":51820".to_owned() }],
                address: lease(2),
                hub: lease(1),
                overlay_v4: "10.101.0.0/16".parse().unwrap(),
                overlay_v6: "fd00::/64".parse().unwrap(),
                mtu: 1420,
                keepalive: Duration::from_secs(10),
            },
            wireguard_key,
            credential: Credential {
                certificate: b"certificate".to_vec(),
                key: Secret::new(b"canary-tls-key".to_vec()),
                authority: b"authority".to_vec(),
                not_before: Timestamp::from_millis(1),
                not_after: Timestamp::from_millis(2),
            },
            revoked_at: None,
        }
    }

    #[test]
    fn an_agent_that_does_not_run_says_so_and_keeps_its_keys() {
        let identity = identity();
        let report = StatusReport::stored(&identity, std::iter::empty());
        let text = report.render();
        assert!(
            text.contains("not running")
                && text.contains("10.101.0.2")
                && text.contains("hub.example.org:7443")
        );
        let json = serde_json::to_string(&report).unwrap();
        for text in [text, json] {
            assert!(!text.contains(identity.wireguard_key.expose_text().expose().as_str()));
        }
    }

    #[test]
    fn a_removed_agent_says_what_to_do() {
        let mut identity = identity();
        identity.revoked_at = Some(Timestamp::from_millis(5));
        let text = StatusReport::stored(&identity, std::iter::empty()).render();
        assert!(text.contains("removed by the hub") && text.contains("leave --force"), "{text}");
    }

    #[test]
    fn a_control_stream_that_is_down_names_reason_and_next_step() {
        let control = ControlReport {
            state: ControlState::Down,
            since: Timestamp::from_millis(0),
            reason: Some("cannot connect to hub:7443".to_owned()),
            hint: Some("check that the hub runs".to_owned()),
            attempts: 4,
            sessions: 0,
            outbox_messages: 0,
            outbox_dropped: 2,
        };
        let text = control.render(Timestamp::from_millis(65_000)).join("\n");
        assert!(text.contains("down for 1m 5s, attempt 4: cannot connect to hub:7443"), "{text}");
        assert!(text.contains("check that the hub runs") && text.contains("2 messages dropped"), "{text}");
    }
}
