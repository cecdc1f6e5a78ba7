//! Which carriers reach the hub from here, and why those do not that do not.

use std::sync::Arc;

use blueprint_common_runtime::Chain;
use blueprint_common_runtime::cli::{Table, duration};
use blueprint_common_runtime::tasks::Supervisor;
use blueprint_common_spoke::{
    Base, DialError, Identity, LiveLink, Offer, Plane, Reached, SpokeError, TryError, largest, try_way,
};
use blueprint_common_tunnel::Interface;
use blueprint_common_tunnel::carrier::{ConnectProxyError, ProxyUrl};
use blueprint_common_tunnel_core::MTU_RANGE;
use blueprint_common_types::Carrier;
use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::config::AgentConfig;
use crate::shared::Shared;

/// Sizes of inner packets that are asked about, in bytes, beside the configured one.
const SIZES: [u16; 9] = [1280, 1300, 1320, 1340, 1360, 1380, 1400, 1402, 1420];

/// What one carrier came to.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct CarrierCheck {
    /// What carries the datagrams.
    pub(crate) carrier: Carrier,
    /// Where the hub offers it; without a host it is that of the control plane.
    pub(crate) endpoint: String,
    /// Whether `tunnel.carriers` allows it.
    pub(crate) allowed: bool,
    /// Whether the tunnel uses it now.
    pub(crate) in_use: bool,
    /// Whether a packet came through and its answer back.
    pub(crate) reachable: bool,
    /// Round trip in microseconds.
    pub(crate) rtt_micros: Option<u64>,
    /// Largest inner packet of those tried that came through and back, in bytes.
    pub(crate) mtu: Option<u16>,
    /// Why it does not work.
    pub(crate) reason: Option<String>,
    /// What to do about it.
    pub(crate) hint: Option<String>,
}

/// All carriers, best first.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct NetcheckReport {
    /// Where the hub's control plane is.
    pub(crate) hub: String,
    /// Whether the agent runs.
    pub(crate) running: bool,
    /// Each carrier that the hub offers.
    pub(crate) carriers: Vec<CarrierCheck>,
}

impl NetcheckReport {
    /// True where the best of the allowed carriers works.
    #[must_use]
    pub(crate) fn is_best(&self) -> bool {
        self.carriers.iter().find(|check| check.allowed).is_some_and(|check| check.reachable)
    }

    /// True where any allowed carrier works.
    #[must_use]
    pub(crate) fn is_any(&self) -> bool {
        self.carriers.iter().any(|check| check.allowed && check.reachable)
    }

    /// For people.
    #[must_use]
    pub(crate) fn render(&self) -> String {
        let mut table = Table::new(&["CARRIER", "ENDPOINT", "WORKS", "IN USE", "RTT", "MTU", "REASON"]);
        let yes = |is: bool| if is { "yes" } else { "no" }.to_owned();
        let mut hints = Vec::new();
        for check in &self.carriers {
            let micros = |micros| duration(std::time::Duration::from_micros(micros));
            let forbidden = (!check.allowed).then(|| "forbidden by tunnel.carriers".to_owned());
            table.push(vec![
                check.carrier.to_string(),
                check.endpoint.clone(),
                yes(check.reachable),
                yes(check.in_use),
                check.rtt_micros.map_or_else(|| "-".to_owned(), micros),
                check.mtu.map_or_else(|| "-".to_owned(), |mtu| mtu.to_string()),
                check.reason.clone().or(forbidden).unwrap_or_default(),
            ]);
            hints.extend(
                check.hint.as_ref().map(|hint| format!("{} {}: {hint}", check.carrier, check.endpoint)),
            );
        }
        let mut lines = vec![format!("hub {}", self.hub), table.render()];
        lines.extend(hints);
        lines.join("\n")
    }
}

/// Tries every carrier beside the running agent, whose tunnel stays where it is.
pub(crate) async fn beside(shared: &Shared, base: Base) -> NetcheckReport {
    let in_use =
        shared.spoke.plane().hub_stats().filter(|stats| stats.echo.alive).and_then(|stats| stats.endpoint);
    let ways = shared.spoke.plane().ways();
    let identity = shared.spoke.identity();
    let check = |offer: Offer| {
        let way = ways.iter().find(|way| way.offer == offer);
        let link = way.and_then(|way| way.link.clone());
        let is_used = way.and_then(|way| way.endpoint).zip(in_use).is_some_and(|(a, b)| a.is_same_way(&b));
        let is_allowed = shared.config.carriers.contains(&offer.carrier);
        check(base.clone(), offer, link, is_allowed, is_used)
    };
    let carriers = join_all(identity.tunnel.carriers.iter().cloned().map(check)).await;
    NetcheckReport { hub: identity.hub.to_string(), running: true, carriers }
}

/// Tries every carrier with the stored identity, for an agent that does not run.
pub(crate) async fn alone(identity: Identity, config: &AgentConfig) -> Result<NetcheckReport, SpokeError> {
    let supervisor = Supervisor::new();
    let stop = CancellationToken::new();
    let _ending = stop.clone().drop_guard();
    let any = std::net::SocketAddr::from(([0, 0, 0, 0], 0));
    let (plane, engine) = Plane::bind(&identity, any, Interface::Netstack)?;
    let ends = stop.clone();
    supervisor.child_spawner().spawn("tunnel", async move { engine.run(ends).await });
    plane.upsert_hub(&identity.tunnel).await?;
    let spawner = supervisor.child_spawner();
    let base = Base::alone(&plane, Arc::new(identity), config.proxy.clone(), spawner, stop.clone());
    let mut carriers = Vec::new();
    // One after the other: each may need a handshake of its own, and the answer to the last one moves the tunnel.
    for offer in &base.identity().tunnel.carriers {
        let is_allowed = config.carriers.contains(&offer.carrier);
        carriers.push(check(base.clone(), offer.clone(), None, is_allowed, false).await);
    }
    Ok(NetcheckReport { hub: base.identity().hub.to_string(), running: false, carriers })
}

async fn check(
    base: Base,
    offer: Offer,
    link: Option<Arc<LiveLink>>,
    allowed: bool,
    in_use: bool,
) -> CarrierCheck {
    let proxy = base.proxy().cloned();
    let mut check = CarrierCheck {
        carrier: offer.carrier,
        endpoint: offer.endpoint.clone(),
        allowed,
        in_use,
        reachable: false,
        rtt_micros: None,
        mtu: None,
        reason: None,
        hint: None,
    };
    match Box::pin(try_way(base.clone(), &offer, link)).await {
        Ok(Reached { endpoint, link, round_trip }) => {
            check.reachable = true;
            check.rtt_micros = u64::try_from(round_trip.as_micros()).ok();
            let configured = base.identity().tunnel.mtu.clamp(*MTU_RANGE.start(), *MTU_RANGE.end());
            let mut sizes: Vec<u16> = SIZES.into_iter().filter(|size| *size < configured).collect();
            sizes.push(configured);
            check.mtu = largest(&base, endpoint, &sizes).await;
            drop(link);
        }
        Err(error) => {
            check.reason = Some(Chain(&error).to_string());
            check.hint = Some(hint(&error, offer.carrier, proxy.as_ref()));
        }
    }
    check
}

/// What to do about a carrier that does not work.
fn hint(error: &TryError, carrier: Carrier, proxy: Option<&ProxyUrl>) -> String {
    let text = match error {
        TryError::Dial(DialError::WrongHub { .. } | DialError::Tls { .. }) | TryError::NoCarrier => {
            "something between ends TLS with a certificate of its own: have this hub excepted from TLS inspection"
        }
        TryError::Dial(DialError::Proxy(ConnectProxyError::Credentials)) => {
            "write http://USER:PASSWORD@HOST:PORT into a file and name it in tunnel.proxy_file"
        }
        TryError::Dial(DialError::Proxy(_)) => {
            "check tunnel.proxy, and have the hub's host and port allowed there"
        }
        TryError::Dial(DialError::Connect { .. } | DialError::TimedOut { .. }) if proxy.is_none() => {
            "TCP to that port does not leave this network, or the hub is down: allow it, or name the network's HTTP \
             proxy in tunnel.proxy"
        }
        TryError::Dial(DialError::Refused { .. }) => {
            "the hub refuses this agent's certificate: see blueprint-agent status"
        }
        TryError::Dial(_) => "see blueprint-agent status",
        TryError::Quic(_) | TryError::Silent(_) if carrier != Carrier::Tls => {
            "UDP to that port does not leave this network, or not come back: allow it, or leave it to the other carriers"
        }
        TryError::Quic(_) | TryError::Silent(_) => {
            "the connection stands but the hub's tunnel does not answer: see its log"
        }
        TryError::Socket(_) | TryError::Full => "this machine is short of sockets",
        TryError::NoAddress => "set tunnel.listen to [::]:0 for a hub with IPv6 addresses only",
    };
    text.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(carrier: Carrier, allowed: bool, reachable: bool) -> CarrierCheck {
        CarrierCheck {
            carrier,
            endpoint: ":443".to_owned(),
            allowed,
            in_use: false,
            reachable,
            rtt_micros: reachable.then_some(1500),
            mtu: reachable.then_some(1420),
            reason: (!reachable).then(|| "no answer".to_owned()),
            hint: (!reachable).then(|| "allow it".to_owned()),
        }
    }

    #[test]
    fn a_report_says_what_works_and_what_to_do() {
        let carriers = vec![check(Carrier::Udp, true, false), check(Carrier::Tls, true, true)];
        let report = NetcheckReport { hub: "hub:7443".to_owned(), running: true, carriers };
        assert!(report.is_any() && !report.is_best());
        let text = report.render();
        assert!(text.contains("no answer") && text.contains("udp :443: allow it"), "{text}");
    }

    #[test]
    fn a_forbidden_carrier_does_not_count() {
        let carriers = vec![check(Carrier::Udp, false, true), check(Carrier::Tls, true, false)];
        let report = NetcheckReport { hub: "hub:7443".to_owned(), running: false, carriers };
        assert!(!report.is_any() && !report.is_best());
        assert!(report.render().contains("forbidden"));
    }
}
