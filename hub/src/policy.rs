//! Keeps the tunnel's policy equal to the stored document and to the machines that have joined.
//!
//! A change by the operator holds when [`PolicyHandle::reload`] resolves; a machine that joins or goes is
//! seen within [`SETTLE`]. The document names machines by what the operator calls them, the tunnel by their
//! keys: this is the only place where one becomes the other.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use blueprint_common_runtime::metrics::Metrics;
use blueprint_common_tunnel::Tunnel;
use blueprint_common_tunnel_core::{Party, Policy, Protocol, Rule};
use blueprint_hub_registry::RegistrarHandle;
use blueprint_hub_registry_core::policy::{
    MAX_RULES, Machines, Mesh, PolicyDocument, Traffic, TrafficProtocol,
};
use blueprint_hub_registry_core::{Agent, RegistrySnapshot, Store, StoreError};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

/// How long the joins of many machines are gathered before the policy is made anew. An eighth of the 2 s
/// within which a policy holds.
const SETTLE: Duration = Duration::from_millis(250);

/// Reloads that wait at most; one more waits for room.
const QUEUE: usize = 16;

/// What the tunnel goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Applied {
    /// Version of the stored policy; 0 where there is none.
    version: u64,
    /// Rules that the tunnel was given.
    rules: u64,
    /// Machines that joined last and have no rules, because there would be too many.
    left_out: usize,
}

/// Asks for the stored policy to be applied.
#[derive(Debug, Clone)]
pub(crate) struct PolicyHandle {
    reloads: mpsc::Sender<oneshot::Sender<bool>>,
    applied: Arc<ArcSwap<Applied>>,
}

impl PolicyHandle {
    /// Resolves with true when the tunnel goes by what is stored now; with false where that cannot be read,
    /// so that the tunnel goes on by the policy before.
    ///
    /// # Cancel safety
    ///
    /// Dropping it leaves open whether the policy is applied.
    pub(crate) async fn reload(&self) -> bool {
        let (reply, done) = oneshot::channel();
        self.reloads.send(reply).await.is_ok() && done.await.unwrap_or(false)
    }
}

/// The task that gives the tunnel its policy.
pub(crate) struct PolicyTask {
    store: Arc<dyn Store>,
    registrar: RegistrarHandle,
    tunnel: Tunnel,
    reloads: mpsc::Receiver<oneshot::Sender<bool>>,
    applied: Arc<ArcSwap<Applied>>,
    version: u64,
    document: PolicyDocument,
    /// The machines that the tunnel's policy is about.
    agents: Vec<Arc<Agent>>,
}

impl PolicyTask {
    /// Applies the stored policy once. Where it cannot be read, everything is denied.
    pub(crate) async fn new(
        store: Arc<dyn Store>,
        registrar: RegistrarHandle,
        tunnel: Tunnel,
    ) -> (Self, PolicyHandle) {
        let (sender, reloads) = mpsc::channel(QUEUE);
        let applied = Arc::new(ArcSwap::default());
        let handle = PolicyHandle { reloads: sender, applied: Arc::clone(&applied) };
        let (version, document, agents) = (0, PolicyDocument::default(), Vec::new());
        let mut task = Self { store, registrar, tunnel, reloads, applied, version, document, agents };
        task.reload().await;
        (task, handle)
    }

    /// Follows the operator and the registry until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut snapshots = self.registrar.snapshots();
        let mut settled_at: Option<Instant> = None;
        loop {
            let settled = async {
                match settled_at {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                Some(reply) = self.reloads.recv() => {
                    let _ = reply.send(self.reload().await);
                }
                () = settled => {
                    settled_at = None;
                    self.follow().await;
                }
                changed = snapshots.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    snapshots.mark_unchanged();
                    // Later changes do not move the deadline: it is a bound.
                    settled_at.get_or_insert_with(|| Instant::now() + SETTLE);
                }
            }
        }
    }

    /// Reads the stored policy and applies it.
    async fn reload(&mut self) -> bool {
        let read = self.read().await;
        match read {
            Ok((version, document)) => {
                (self.version, self.document) = (version, document);
                self.apply(&self.registrar.snapshot()).await;
                true
            }
            Err(error) => {
                error!(error, version = self.version, "policy not reloaded, the one before goes on");
                false
            }
        }
    }

    async fn read(&self) -> Result<(u64, PolicyDocument), String> {
        let record = self.store.policy().await.map_err(|error: StoreError| error.to_string())?;
        let Some(record) = record else { return Ok((0, PolicyDocument::default())) };
        let document =
            record.document.parse().map_err(|error| format!("version {}: {error}", record.version))?;
        Ok((record.version, document))
    }

    /// Applies the policy again where the machines are others.
    async fn follow(&mut self) {
        let snapshot = self.registrar.snapshot();
        let agents = snapshot.agents.values().map(|view| &view.agent);
        let is_same = agents.len() == self.agents.len()
            && agents.zip(&self.agents).all(|(now, then)| means_the_same(now, then));
        if !is_same {
            self.apply(&snapshot).await;
        }
    }

    async fn apply(&mut self, snapshot: &RegistrySnapshot) {
        self.agents = snapshot.agents.values().map(|view| Arc::clone(&view.agent)).collect();
        let machines = Machines::new(self.agents.iter().map(Arc::as_ref));
        let (policy, applied) = compile(self.version, &self.document, &machines);
        if applied.left_out > 0 {
            error!(
                left_out = applied.left_out,
                limit = MAX_RULES,
                "the policy makes too many rules, the machines that joined last have none"
            );
        }
        self.tunnel.set_policy(policy).await;
        if **self.applied.load() != applied {
            info!(version = applied.version, rules = applied.rules, "policy applied");
        }
        self.applied.store(Arc::new(applied));
    }
}

/// Whether policies mean the same for both records. The registry changes all the time and these seldom, so
/// the usual case is the same record.
fn means_the_same(now: &Arc<Agent>, then: &Arc<Agent>) -> bool {
    let named = |agent: &Agent| (agent.id, agent.wireguard_key, agent.lease, agent.joined_at);
    Arc::ptr_eq(now, then) || (named(now) == named(then) && now.name == then.name)
}

/// The document in the tunnel's terms.
fn compile(version: u64, document: &PolicyDocument, machines: &Machines) -> (Policy, Applied) {
    let mesh = Mesh::new(document, machines);
    let mut policy = Policy::deny_all();
    let fitting = mesh.each_grant(|sources, destinations, allow| {
        let rules = allow.iter().copied().map(rule).collect();
        policy.grant(&Party::Peers(sources), &Party::Peers(destinations), rules);
    });
    let left_out = machines.len().saturating_sub(fitting);
    (policy, Applied { version, rules: mesh.rules(), left_out })
}

/// One kind of traffic as the data plane has it.
pub(crate) fn rule(traffic: Traffic) -> Rule {
    let protocol = match traffic.protocol() {
        TrafficProtocol::Any => Protocol::Any,
        TrafficProtocol::Tcp => Protocol::Tcp,
        TrafficProtocol::Udp => Protocol::Udp,
        TrafficProtocol::Icmp => Protocol::Icmp,
    };
    Rule { protocol, ports: traffic.ports() }
}

/// Adds the gauges, prefix `hub_policy_`.
pub(crate) fn register_metrics(metrics: &Metrics, policy: PolicyHandle) {
    metrics.with(|registry| registry.register_collector(Box::new(PolicyCollector(policy))));
}

#[derive(Debug)]
struct PolicyCollector(PolicyHandle);

impl Collector for PolicyCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let applied = **self.0.applied.load();
        let left_out = u64::try_from(applied.left_out).unwrap_or(u64::MAX);
        for (name, help, value) in [
            ("hub_policy_version", "Version of the policy that the tunnel goes by", applied.version),
            ("hub_policy_rules", "Rules between two machines that the tunnel was given", applied.rules),
            ("hub_policy_nodes_left_out", "Machines without rules because there are too many", left_out),
        ] {
            let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            gauge.encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use blueprint_common_types::{AgentId, OverlayLease, Timestamp, WgPublicKey};
    use blueprint_hub_registry_core::ServiceGrant;

    use super::*;

    fn agent(n: u8, name: &str) -> Agent {
        Agent {
            id: AgentId::from_bytes([n; 16]),
            name: name.to_owned(),
            wireguard_key: WgPublicKey::from_bytes([n; 32]),
            lease: OverlayLease {
                v4: [10, 88, 0, n].into(),
                v6: [0xfd00, 0, 0, 0, 0, 0, 0, n.into()].into(),
            },
            joined_at: Timestamp::from_millis(n.into()),
            generation: 1,
            token: "0000000000000000".parse().unwrap_or_else(|_| unreachable!()),
            services: ServiceGrant::FirstClaim,
            agent_version: String::new(),
        }
    }

    #[test]
    fn the_tunnel_is_given_what_the_document_says_and_no_more() {
        let text =
            "[[grant]]\nname = 'g'\nfrom = 'web'\nto = 'db'\nallow = ['tcp/5432', 'udp/53-60', 'icmp']";
        let document = text.parse().unwrap();
        let agents = [agent(1, "web"), agent(2, "db"), agent(3, "other")];
        let (policy, applied) = compile(7, &document, &Machines::new(&agents));
        assert_eq!(applied, Applied { version: 7, rules: 3, left_out: 0 });
        let allows = |from: usize, to: usize, protocol, port| {
            policy.allows(&agents[from].wireguard_key, &agents[to].wireguard_key, protocol, port)
        };
        assert!(allows(0, 1, Protocol::Tcp, 5432));
        assert!(allows(0, 1, Protocol::Udp, 60));
        assert!(allows(0, 1, Protocol::Icmp, 0));
        assert!(!allows(0, 1, Protocol::Tcp, 5433));
        assert!(!allows(0, 1, Protocol::Udp, 61));
        assert!(!allows(1, 0, Protocol::Tcp, 5432), "one direction only");
        assert!(!allows(2, 1, Protocol::Icmp, 0));
        assert_eq!(compile(0, &PolicyDocument::default(), &Machines::new(&agents)).0, Policy::deny_all());
    }
}
