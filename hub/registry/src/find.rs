//! Where services and machines are, for agents that open connections to them through the tunnel.
//!
//! Nothing is opened here: the agent connects over the overlay, and the packet path lets it or not. What an agent is told
//! is what the same policy lets it begin: without a grant it learns no address, and not whether there is anything.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use blueprint_common_types::{AgentId, Health, ServiceKey, WgPublicKey};
use blueprint_hub_registry_core::{Agent, AuditEvent, AuditKind, Rate, RegistrySnapshot, TargetRecord};
use blueprint_proto::v1;
use blueprint_proto::v1::find_request::What;
use tonic::Status;
use tracing::{debug, warn};

use crate::shared::Shared;
use crate::status;

/// Most places of one answer.
const MAX_PLACES: usize = 16;

/// Questions and watches of one agent: enough for a program that asks before each of its connections, and too few to search names and
/// ports.
pub(crate) const FINDS: Rate = Rate { burst: 512, every: Duration::from_millis(20) };

/// Longest name of a machine that is looked at, in bytes.
const MAX_NODE_BYTES: usize = 64;

/// Where something is.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    address: SocketAddr,
    node: String,
}

/// Why there is no answer; the label of the metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    /// The policy lets the agent reach none, or there is none.
    Denied,
    /// There are targets that it may reach, and none of them is healthy.
    NotHealthy,
    /// Several machines have the name.
    Ambiguous,
}

impl Refusal {
    const fn label(self) -> &'static str {
        match self {
            Self::Denied => "find_denied",
            Self::NotHealthy => "find_not_healthy",
            Self::Ambiguous => "find_ambiguous",
        }
    }
}

/// Answers one question of an agent; counts a refusal, and audits one of the policy.
pub(crate) async fn find(
    shared: &Arc<Shared>,
    agent: &Agent,
    request: v1::FindRequest,
) -> Result<v1::FindResponse, Status> {
    count(shared, agent.id, "find_too_many")?;
    let snapshot = shared.registrar.snapshot();
    let may = |to: &WgPublicKey, port| shared.tunnel.may_connect(&agent.wireguard_key, to, port);
    let (subject, found) = match request.what.ok_or_else(|| status::bad_request("nothing is asked for"))? {
        What::Service(service) => {
            let service = ServiceKey { blueprint: service.blueprint_id, service: service.service_id };
            (service.to_string(), service_places(&snapshot, agent.id, service, may))
        }
        What::Port(v1::PortRef { node, port }) => {
            let port = u16::try_from(port).ok().filter(|port| *port != 0);
            let port = port.ok_or_else(|| status::bad_request("the port is none"))?;
            if node.len() > MAX_NODE_BYTES || node.chars().any(char::is_control) {
                return Err(status::bad_request("the node's name is none"));
            }
            let found = node_place(&snapshot, agent.id, &node, port, may);
            (format!("{node}:{port}"), found.map(|place| vec![place]))
        }
    };
    drop(snapshot);
    match found {
        Ok(places) => Ok(v1::FindResponse { places: places.into_iter().map(wire).collect() }),
        Err(refusal) => Err(refuse(shared, agent, &subject, refusal).await),
    }
}

/// Takes one of the agent's questions, which watches are as well; `reason` is the label of a refusal.
pub(crate) fn count(shared: &Shared, agent: AgentId, reason: &'static str) -> Result<(), Status> {
    if shared.finds.lock().take(agent, Instant::now()) {
        return Ok(());
    }
    shared.metrics.refused(reason);
    Err(Status::resource_exhausted(format!(
        "this machine asks too often where things are; {} questions at once and one every {} ms are taken",
        FINDS.burst,
        FINDS.every.as_millis(),
    )))
}

/// The healthy targets of a service that `may` lets the agent reach.
fn service_places(
    snapshot: &RegistrySnapshot,
    agent: AgentId,
    service: ServiceKey,
    may: impl Fn(&WgPublicKey, u16) -> bool,
) -> Result<Vec<Place>, Refusal> {
    let reachable = snapshot
        .targets_of(service)
        .filter(|target| target.key.agent != agent && reaches(snapshot, target, &may));
    let mut is_any = false;
    let healthy =
        reachable.inspect(|_| is_any = true).filter(|it| it.health == Health::Healthy && it.weight > 0);
    let places = healthy.map(|target| Place { address: target.address, node: target.agent_name.clone() });
    let places: Vec<Place> = places.take(MAX_PLACES).collect();
    match (places.is_empty(), is_any) {
        (false, _) => Ok(places),
        (true, true) => Err(Refusal::NotHealthy),
        (true, false) => Err(Refusal::Denied),
    }
}

/// Whether `may` lets something begin TCP with a target.
fn reaches(
    snapshot: &RegistrySnapshot,
    target: &TargetRecord,
    may: impl Fn(&WgPublicKey, u16) -> bool,
) -> bool {
    let holder = snapshot.agents.get(&target.key.agent);
    holder.is_some_and(|view| may(&view.agent.wireguard_key, target.address.port()))
}

/// Whether an agent may know how a service is doing: it serves it, or `may` lets it reach a target.
pub(crate) fn is_seen(
    snapshot: &RegistrySnapshot,
    agent: AgentId,
    service: ServiceKey,
    may: impl Fn(&WgPublicKey, u16) -> bool,
) -> bool {
    snapshot.targets_of(service).any(|target| target.key.agent == agent || reaches(snapshot, target, &may))
}

/// A machine by name, id or overlay address, where `may` lets the agent reach its port.
fn node_place(
    snapshot: &RegistrySnapshot,
    agent: AgentId,
    node: &str,
    port: u16,
    may: impl Fn(&WgPublicKey, u16) -> bool,
) -> Result<Place, Refusal> {
    let (id, address) = (node.parse::<AgentId>().ok(), node.parse::<IpAddr>().ok());
    let is_meant = |known: &Agent| {
        Some(known.id) == id || address.is_some_and(|ip| known.lease.contains(ip)) || known.name == node
    };
    let mut found = snapshot
        .agents
        .values()
        .map(|view| &view.agent)
        .filter(|known| known.id != agent && is_meant(known) && may(&known.wireguard_key, port));
    let first = found.next().ok_or(Refusal::Denied)?;
    if found.next().is_some() {
        return Err(Refusal::Ambiguous);
    }
    Ok(Place { address: SocketAddr::from((first.lease.v4, port)), node: first.name.clone() })
}

fn wire(place: Place) -> v1::Place {
    v1::Place { address: place.address.ip().to_string(), port: place.address.port().into(), node: place.node }
}

async fn refuse(shared: &Shared, agent: &Agent, subject: &str, refusal: Refusal) -> Status {
    shared.metrics.refused(refusal.label());
    match refusal {
        Refusal::Denied => {
            let detail = format!("node {} may not reach it, or there is no such thing", agent.name);
            if shared.is_news(agent.id, refusal.label()) {
                warn!(target: "audit", subject, agent = %agent.id, "a node asked for what the policy keeps from it");
                shared.audit_limited(AuditEvent::new(AuditKind::FindRefuse, subject, detail)).await;
            } else {
                debug!(subject, agent = %agent.id, "a node asked again for what the policy keeps from it");
            }
            status::find_denied(format!(
                "no grant of the policy lets {} reach {subject}, or there is none; `blueprint-hub policy test` says \
                 what it lets",
                agent.name
            ))
        }
        Refusal::NotHealthy => status::find_not_healthy(format!(
            "no target of {subject} is healthy; `blueprint-hub node ls` shows the nodes"
        )),
        Refusal::Ambiguous => status::find_ambiguous(format!(
            "several machines are called like {subject}; name one by its id or its overlay address"
        )),
    }
}

#[cfg(test)]
mod tests {
    use blueprint_common_types::{OverlayLease, TargetKey, Timestamp};
    use blueprint_hub_registry_core::{AgentView, ServiceGrant};

    use super::*;

    const SERVICE: ServiceKey = ServiceKey { blueprint: 7, service: 42 };

    fn id(number: u8) -> AgentId {
        AgentId::from_bytes([number; 16])
    }

    fn add(snapshot: &mut RegistrySnapshot, number: u8, name: &str, health: Option<Health>) {
        let lease = OverlayLease {
            v4: [10, 88, 0, number].into(),
            v6: [0xfd00, 0, 0, 0, 0, 0, 0, number.into()].into(),
        };
        let agent = Agent {
            id: id(number),
            name: name.to_owned(),
            wireguard_key: WgPublicKey::from_bytes([number; 32]),
            lease,
            joined_at: Timestamp::from_millis(1),
            generation: 1,
            token: "0000000000000000".parse().unwrap(),
            services: ServiceGrant::FirstClaim,
            agent_version: String::new(),
        };
        let view = AgentView {
            agent: Arc::new(agent),
            connected: true,
            data_plane: true,
            runs_workloads: false,
            inventory: None,
            last_seen: None,
        };
        snapshot.agents.insert(id(number), view);
        if let Some(health) = health {
            let key = TargetKey { service: SERVICE, agent: id(number), port: 80 };
            let record = TargetRecord {
                key,
                health,
                reason: String::new(),
                address: SocketAddr::from((lease.v4, 80)),
                expires_at: Timestamp::from_millis(9),
                agent_name: name.to_owned(),
                generation: 0,
                weight: 100,
            };
            snapshot.targets.insert(key, record);
            snapshot.by_service.entry(SERVICE).or_default().push(key);
        }
    }

    /// Machines 1 (asks), 2 and 3 (healthy), 4 (sick), 5 and 6 of one name.
    fn snapshot() -> RegistrySnapshot {
        let mut snapshot = RegistrySnapshot::default();
        add(&mut snapshot, 1, "me", Some(Health::Healthy));
        add(&mut snapshot, 2, "two", Some(Health::Healthy));
        add(&mut snapshot, 3, "three", Some(Health::Healthy));
        add(&mut snapshot, 4, "four", Some(Health::Unhealthy));
        add(&mut snapshot, 5, "twin", None);
        add(&mut snapshot, 6, "twin", None);
        snapshot
    }

    /// A policy that lets machine 1 reach port 80 of these.
    fn to(allowed: &'static [u8]) -> impl Fn(&WgPublicKey, u16) -> bool {
        move |key, port| port == 80 && allowed.iter().any(|n| WgPublicKey::from_bytes([*n; 32]) == *key)
    }

    #[test]
    fn a_service_is_found_only_where_the_policy_leads() {
        let snapshot = snapshot();
        let names = |allowed| {
            let found = service_places(&snapshot, id(1), SERVICE, to(allowed))?;
            Ok(found.into_iter().map(|place| place.node).collect::<Vec<_>>())
        };
        assert_eq!(names(&[]), Err(Refusal::Denied), "the default");
        assert_eq!(names(&[1]), Err(Refusal::Denied), "nobody reaches itself through the hub");
        assert_eq!(names(&[1, 3, 4, 5]).unwrap(), ["three"]);
        assert_eq!(names(&[2, 3]).unwrap(), ["two", "three"]);
        assert_eq!(names(&[4]), Err(Refusal::NotHealthy));
        let other = ServiceKey { blueprint: 7, service: 43 };
        assert_eq!(service_places(&snapshot, id(1), other, to(&[2, 3])), Err(Refusal::Denied));
    }

    #[test]
    fn a_machine_is_found_by_name_id_and_address_and_only_where_the_policy_leads() {
        let snapshot = snapshot();
        let find = |node: &str, port, allowed| {
            node_place(&snapshot, id(1), node, port, to(allowed)).map(|place| place.address.to_string())
        };
        for node in ["two", "10.88.0.2", "fd00::2", &id(2).to_string()] {
            assert_eq!(find(node, 80, &[2]).unwrap(), "10.88.0.2:80", "{node}");
            assert_eq!(find(node, 81, &[2]), Err(Refusal::Denied), "{node}");
            assert_eq!(find(node, 80, &[3]), Err(Refusal::Denied), "{node}");
        }
        assert_eq!(find("nobody", 80, &[2]), Err(Refusal::Denied));
        assert_eq!(find("", 80, &[2]), Err(Refusal::Denied));
        assert_eq!(find("twin", 80, &[5, 6]), Err(Refusal::Ambiguous));
        assert_eq!(find("twin", 80, &[6]).unwrap(), "10.88.0.6:80", "the other one is nothing to it");
        assert_eq!(find("me", 80, &[1]), Err(Refusal::Denied));
    }
}
