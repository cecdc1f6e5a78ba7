//! What all services of the control plane share.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use blueprint_common_runtime::tasks::Spawner;
use blueprint_common_tunnel::Tunnel;
use blueprint_common_types::{AgentId, Carrier, OverlayLease, ServiceKey, Timestamp, TokenId, WgPublicKey};
use blueprint_hub_registry_core::{Agent, AuditBudget, AuditEvent, Buckets, Store, Told};
use blueprint_proto::v1;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tracing::error;

use crate::authority::Issued;
use crate::carriers::Carriers;
use crate::checks::Checks;
use crate::logs::LogsDesk;
use crate::metrics::ControlMetrics;
use crate::watch::Watches;
use crate::{
    AgentFiles, Authority, Blueprints, Identities, LaunchersHandle, PushedFiles, RegistrarHandle,
    WorkloadsHandle,
};
use blueprint_common_runtime::places::Places;

/// Joins at work at once; each costs a signature and a write.
pub(crate) const JOINS_AT_ONCE: usize = 128;

/// Audit rows that strangers can cause, in one minute. More are counted, and the next row says how many.
pub(crate) const STRANGER_ROWS_PER_MINUTE: u32 = 600;

/// The tunnel, as far as the control plane needs it: who may be a peer.
pub trait Peers: Send + Sync {
    /// Lets the agent's key in with its addresses.
    fn add<'a>(&'a self, agent: &'a Agent) -> BoxFuture<'a, ()>;

    /// Shuts the agent's key out at once.
    fn remove<'a>(&'a self, agent: &'a Agent) -> BoxFuture<'a, ()>;
}

/// What every agent is told of the tunnel.
#[derive(Debug, Clone)]
pub struct TunnelFacts {
    /// Changes with every start of the hub.
    pub epoch: u64,
    /// The hub's key.
    pub hub_public_key: WgPublicKey,
    /// Ways to the hub, best first: the carrier, and `HOST:PORT`, of which an empty host means where the control
    /// stream goes.
    pub carriers: Vec<(Carrier, String)>,
    /// The hub's overlay addresses.
    pub hub: OverlayLease,
    /// The overlay's prefixes, IPv4 and IPv6.
    pub prefixes: [String; 2],
    /// Largest inner packet in bytes.
    pub mtu: u16,
    /// Pause between keepalives.
    pub keepalive: Duration,
}

impl TunnelFacts {
    pub(crate) fn config_for(&self, lease: OverlayLease) -> v1::TunnelConfig {
        let [v4, v6] = &self.prefixes;
        v1::TunnelConfig {
            epoch: self.epoch,
            hub_public_key: self.hub_public_key.as_bytes().to_vec(),
            carriers: self.carriers.iter().map(offer).collect(),
            address_v4: lease.v4.to_string(),
            address_v6: lease.v6.to_string(),
            hub_v4: self.hub.v4.to_string(),
            hub_v6: self.hub.v6.to_string(),
            overlay_v4: v4.clone(),
            overlay_v6: v6.clone(),
            mtu: self.mtu.into(),
            keepalive_secs: u32::try_from(self.keepalive.as_secs()).unwrap_or(u32::MAX),
        }
    }
}

fn offer((carrier, endpoint): &(Carrier, String)) -> v1::CarrierOffer {
    v1::CarrierOffer { kind: v1::carrier_offer::Kind::from(*carrier).into(), endpoint: endpoint.clone() }
}

/// Shared by every connection of the control plane.
pub(crate) struct Shared {
    pub(crate) authority: Authority,
    pub(crate) identities: Arc<dyn Identities>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) registrar: RegistrarHandle,
    pub(crate) peers: Arc<dyn Peers>,
    pub(crate) facts: TunnelFacts,
    pub(crate) certificate_ttl: Duration,
    pub(crate) target_ttl: Duration,
    pub(crate) heartbeat: Duration,
    pub(crate) joins: Semaphore,
    /// Checks of identities that may ask others.
    pub(crate) checks: Checks,
    pub(crate) metrics: ControlMetrics,
    pub(crate) spawner: Spawner,
    pub(crate) strangers: Mutex<AuditBudget>,
    pub(crate) gate: Mutex<JoinGate>,
    pub(crate) carriers: Carriers,
    pub(crate) workloads: WorkloadsHandle,
    pub(crate) blueprints: Arc<dyn Blueprints>,
    pub(crate) artefacts: Arc<dyn PushedFiles>,
    pub(crate) fetches: Arc<Places<AgentId>>,
    pub(crate) agent_files: Arc<dyn AgentFiles>,
    /// New machines that fetch the agent.
    pub(crate) downloads: Arc<Semaphore>,
    pub(crate) downloads_of_token: Arc<Places<TokenId>>,
    /// Refused fetches, apart from refused joins: machines behind one address must not shut each other out.
    pub(crate) download_gate: Mutex<JoinGate>,
    /// Connections to RPCs of each agent.
    pub(crate) rpc_places: Arc<Places<AgentId>>,
    /// And of each workload on it.
    pub(crate) rpc_of_workload: Arc<Places<(AgentId, ServiceKey)>>,
    /// Those that are told that there is no place.
    pub(crate) rpc_turned_away: Arc<Places<AgentId>>,
    /// How long a connection to an RPC may be silent.
    pub(crate) rpc_idle: Duration,
    /// What workloads ask over their bridges, by the service.
    pub(crate) bridge_calls: Mutex<Buckets<ServiceKey>>,
    /// Reports of workloads, by the agent.
    pub(crate) reports: Mutex<Buckets<AgentId>>,
    /// Calls with late samples, by the agent.
    pub(crate) late_calls: Mutex<Buckets<AgentId>>,
    /// Questions where something is, by the agent.
    pub(crate) finds: Mutex<Buckets<AgentId>>,
    /// Who watches targets.
    pub(crate) watches: Watches,
    /// Refusals that were told in this minute.
    pub(crate) told: Mutex<Told>,
    /// What the packets go by.
    pub(crate) tunnel: Tunnel,
    /// Port of the overlay behind which the operator's RPC is; 0 for none.
    pub(crate) rpc_port: u16,
    pub(crate) launchers: LaunchersHandle,
    /// Who reads what workloads write.
    pub(crate) logs: Arc<LogsDesk>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("facts", &self.facts).finish_non_exhaustive()
    }
}

impl Shared {
    pub(crate) fn credential(&self, issued: Issued) -> v1::Credential {
        v1::Credential {
            certificate: issued.der,
            authority: self.authority.certificate().to_vec(),
            not_before_millis: issued.not_before.as_millis(),
            not_after_millis: issued.not_after.as_millis(),
        }
    }

    /// True while the agent is one of ours and runs this assignment.
    pub(crate) fn still_runs(&self, agent: AgentId, service: ServiceKey, generation: u64) -> bool {
        let view = self.workloads.view();
        let record = view.on(service, agent, generation);
        record.is_some_and(|record| record.generation == generation)
            && self.registrar.snapshot().agents.contains_key(&agent)
    }

    /// True where a refusal of an agent is to be logged and audited: once a minute for each reason. Others are counted.
    pub(crate) fn is_news(&self, agent: AgentId, reason: &'static str) -> bool {
        let is_news = self.told.lock().is_news(agent, reason, Instant::now());
        if !is_news {
            self.metrics.audit_suppressed();
            self.strangers.lock().suppress();
        }
        is_news
    }

    /// Stores an audit row that a stranger caused, within a budget.
    pub(crate) async fn audit_limited(&self, event: AuditEvent) {
        let Some(suppressed) = self.strangers.lock().take(Instant::now()) else {
            self.metrics.audit_suppressed();
            return;
        };
        self.audit(event.after(suppressed)).await;
    }

    /// Stores an audit row.
    pub(crate) async fn audit(&self, event: AuditEvent) {
        if let Err(error) = self.store.audit(event, Timestamp::from(SystemTime::now())).await {
            error!(%error, "audit row not stored");
        }
    }
}

/// Refused joins that one source may cause in one minute; more are turned away before the store is asked.
const REFUSALS_PER_MINUTE: u32 = 120;

/// Sources remembered at once. Where there are more, those of the last minute share one count.
const SOURCES: usize = 4096;

/// Counts refused joins by source, so that guessing tokens can neither fill the audit log nor keep the store busy.
#[derive(Debug)]
pub(crate) struct JoinGate {
    window: Instant,
    refused: BTreeMap<IpAddr, u32>,
    crowd: u32,
}

impl JoinGate {
    pub(crate) const fn new(now: Instant) -> Self {
        Self { window: now, refused: BTreeMap::new(), crowd: 0 }
    }

    /// True while `source` may still try.
    pub(crate) fn is_open(&mut self, source: IpAddr, now: Instant) -> bool {
        if now.saturating_duration_since(self.window) >= Duration::from_secs(60) {
            *self = Self::new(now);
        }
        let of_strangers = if self.refused.len() < SOURCES { 0 } else { self.crowd };
        let count = self.refused.get(&source).copied().unwrap_or(of_strangers);
        count < REFUSALS_PER_MINUTE
    }

    /// Notes a refusal.
    pub(crate) fn note(&mut self, source: IpAddr) {
        let is_room = self.refused.len() < SOURCES || self.refused.contains_key(&source);
        let count = if is_room { self.refused.entry(source).or_default() } else { &mut self.crowd };
        *count = count.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_that_guesses_is_turned_away_for_the_rest_of_the_minute_and_others_are_not() {
        let start = Instant::now();
        let mut gate = JoinGate::new(start);
        let [guesser, other] = [1, 2].map(|last| IpAddr::from([192, 0, 2, last]));
        let tries = (0..10_000).filter(|_| {
            let open = gate.is_open(guesser, start);
            gate.note(guesser);
            open
        });
        assert_eq!(tries.count(), usize::try_from(REFUSALS_PER_MINUTE).unwrap());
        assert!(gate.is_open(other, start));
        assert!(gate.is_open(guesser, start + Duration::from_secs(60)));
    }

    #[test]
    fn many_sources_cost_a_bounded_map() {
        let start = Instant::now();
        let mut gate = JoinGate::new(start);
        for number in 0..20_000u32 {
            gate.note(IpAddr::from(number.to_be_bytes()));
        }
        assert_eq!(gate.refused.len(), SOURCES);
        assert!(!gate.is_open(IpAddr::from([255, 0, 0, 1]), start));
    }
}
