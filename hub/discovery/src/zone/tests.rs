use std::net::SocketAddr;
use std::sync::Arc;

use blueprint_common_types::{Health, ServiceKey, TargetKey, Timestamp};
use blueprint_hub_registry_core::{Agent, AgentView, ServiceGrant, TargetRecord};

use super::*;

const SERVICE: ServiceKey = ServiceKey { blueprint: 7, service: 42 };

fn id(number: u8) -> AgentId {
    AgentId::from_bytes([number; 16])
}

fn add(snapshot: &mut RegistrySnapshot, number: u8, name: &str, targets: &[(u16, Health)]) {
    let lease =
        OverlayLease { v4: [10, 88, 0, number].into(), v6: [0xfd00, 0, 0, 0, 0, 0, 0, number.into()].into() };
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
    for (port, health) in targets {
        let key = TargetKey { service: SERVICE, agent: id(number), port: *port };
        let record = TargetRecord {
            key,
            health: *health,
            reason: String::new(),
            address: SocketAddr::from((lease.v4, *port)),
            expires_at: Timestamp::from_millis(9),
            agent_name: name.to_owned(),
            generation: 0,
            weight: 100,
        };
        snapshot.targets.insert(key, record);
        snapshot.by_service.entry(SERVICE).or_default().push(key);
    }
}

/// Machines 2 (me, no service), 3 and 4 (healthy, 4 with two ports), 5 (sick), 6 and 7 of one name.
pub(crate) fn snapshot() -> RegistrySnapshot {
    let mut snapshot = RegistrySnapshot { index: 99, ..RegistrySnapshot::default() };
    add(&mut snapshot, 2, "me", &[]);
    add(&mut snapshot, 3, "three", &[(80, Health::Healthy)]);
    add(&mut snapshot, 4, "four", &[(80, Health::Healthy), (81, Health::Healthy)]);
    add(&mut snapshot, 5, "five", &[(80, Health::Unhealthy)]);
    add(&mut snapshot, 6, "twin", &[]);
    add(&mut snapshot, 7, "twin", &[]);
    snapshot.index_agents();
    snapshot
}

/// A policy that lets everybody begin everything with these machines.
pub(crate) struct To(pub(crate) &'static [u8]);

impl Reach for To {
    fn may_connect(&self, _: &WgPublicKey, destination: &WgPublicKey, port: u16) -> bool {
        port != 81 && self.0.iter().any(|n| WgPublicKey::from_bytes([*n; 32]) == *destination)
    }

    fn may_reach(&self, source: &WgPublicKey, destination: &WgPublicKey) -> bool {
        self.may_connect(source, destination, 1)
    }
}

pub(crate) fn zone() -> Zone {
    let prefixes = OverlayPrefixes { v4: "10.88.0.0/16".parse().unwrap(), v6: "fd00::/64".parse().unwrap() };
    Zone::new("bp.internal".parse().unwrap(), prefixes)
}

fn ask(name: &str, kind: RecordType, asker: Asker, reach: &To) -> (Outcome, Vec<String>) {
    let mut name = Name::from_ascii(name).unwrap();
    name.set_fqdn(true);
    let question = Question { name: &name, kind, asker, turn: 0 };
    let answer = zone().answer(question, &snapshot(), reach);
    let wanted = matches!(answer.outcome, Outcome::NoData | Outcome::NoName | Outcome::Ambiguous);
    assert_eq!(!answer.authorities.is_empty(), wanted, "negative answers say how long they hold: {name}");
    assert!(answer.answers.iter().chain(&answer.authorities).all(|record| record.ttl <= 1));
    assert!(answer.answers.iter().all(|record| record.name == name));
    (answer.outcome, answer.answers.iter().map(|record| record.data.to_string()).collect())
}

const ME: Asker = Asker::Node(AgentId::from_bytes([2; 16]));

fn answered(lines: &[&str]) -> (Outcome, Vec<String>) {
    (Outcome::Answered, lines.iter().map(|line| (*line).to_owned()).collect())
}

const NO_NAME: (Outcome, Vec<String>) = (Outcome::NoName, Vec::new());
const NO_DATA: (Outcome, Vec<String>) = (Outcome::NoData, Vec::new());

#[test]
fn a_service_is_its_healthy_targets_that_the_asker_may_reach() {
    let service = |kind, asker, to| ask("s42.b7.bp.internal", kind, asker, &To(to));
    assert_eq!(service(RecordType::A, ME, &[]), NO_NAME, "without a grant there is no such name");
    assert_eq!(service(RecordType::A, ME, &[3]), answered(&["10.88.0.3"]));
    assert_eq!(service(RecordType::AAAA, ME, &[3]), answered(&["fd00::3"]));
    assert_eq!(service(RecordType::A, ME, &[3, 4, 5]), answered(&["10.88.0.3", "10.88.0.4"]));
    assert_eq!(service(RecordType::A, ME, &[5]), NO_DATA, "none is healthy");
    assert_eq!(service(RecordType::TXT, ME, &[3]), NO_DATA);
    assert_eq!(service(RecordType::SRV, ME, &[4]), answered(&["0 1 80 four.node.bp.internal."]));
    let all = service(RecordType::SRV, Asker::Operator, &[]);
    assert_eq!(all.1.len(), 3, "the operator sees every healthy target: {all:?}");
    let own = Asker::Node(id(4));
    assert_eq!(service(RecordType::SRV, own, &[]).1.len(), 2, "a machine sees its own");
    assert_eq!(service(RecordType::A, Asker::Node(id(9)), &[3]), NO_NAME, "who left sees nothing");
    assert_eq!(ask("s43.b7.bp.internal", RecordType::A, ME, &To(&[3])), NO_NAME);
}

#[test]
fn a_question_by_protocol_has_places_and_no_addresses() {
    let name = "_blueprint._tcp.S42.b7.BP.internal";
    assert_eq!(
        ask(name, RecordType::SRV, ME, &To(&[3])),
        answered(&["0 1 80 three.node.bp.internal."]),
        "names have no case"
    );
    assert_eq!(ask(name, RecordType::A, ME, &To(&[3])), NO_DATA);
    assert_eq!(ask("_tcp.s42.b7.bp.internal", RecordType::A, ME, &To(&[])), NO_DATA, "a name between names");
    assert_eq!(ask("b7.bp.internal", RecordType::A, ME, &To(&[])), NO_DATA);
}

#[test]
fn places_come_with_the_addresses_of_their_machines_and_take_turns() {
    let name = Name::from_ascii("s42.b7.bp.internal.").unwrap();
    let first = |turn| {
        let question = Question { name: &name, kind: RecordType::SRV, asker: Asker::Operator, turn };
        let answer = zone().answer(question, &snapshot(), &To(&[]));
        assert_eq!(answer.additionals.len(), 4, "two machines with two addresses");
        answer.answers.first().unwrap().data.to_string()
    };
    let firsts = [first(0), first(1), first(2), first(3)];
    assert_eq!(firsts[0], firsts[3]);
    assert!(firsts[0] != firsts[1] && firsts[1] != firsts[2]);
}

#[test]
fn machines_are_known_by_name_and_id_to_those_that_may_reach_them() {
    let node =
        |name: &str, asker, to| ask(&format!("{name}.node.bp.internal"), RecordType::A, asker, &To(to));
    assert_eq!(node("three", ME, &[]), NO_NAME);
    assert_eq!(node("three", ME, &[3]), answered(&["10.88.0.3"]));
    assert_eq!(node("ME", ME, &[]), answered(&["10.88.0.2"]), "itself");
    assert_eq!(node(&id(7).to_string(), ME, &[7]), answered(&["10.88.0.7"]));
    assert_eq!(node("twin", ME, &[6]), answered(&["10.88.0.6"]), "the other one is nothing to it");
    assert_eq!(node("twin", ME, &[6, 7]).0, Outcome::Ambiguous);
    assert_eq!(node("twin", Asker::Operator, &[]).0, Outcome::Ambiguous);
    assert_eq!(node("nobody", Asker::Operator, &[]), NO_NAME);
    assert_eq!(ask("hub.bp.internal", RecordType::A, ME, &To(&[])), answered(&["10.88.0.1"]));
}

#[test]
fn nobody_takes_a_machines_id_for_his_name() {
    let mut snapshot = snapshot();
    add(&mut snapshot, 8, &id(3).to_string(), &[(80, Health::Healthy)]);
    snapshot.index_agents();
    let ask = |name: &str, kind| {
        let name = Name::from_ascii(name).unwrap();
        let question = Question { name: &name, kind, asker: Asker::Operator, turn: 0 };
        let answer = zone().answer(question, &snapshot, &To(&[]));
        answer.answers.iter().map(|record| record.data.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(ask(&format!("{}.node.bp.internal.", id(3)), RecordType::A), ["10.88.0.3"]);
    let own = format!("{}.node.bp.internal.", id(8));
    assert_eq!(ask("8.0.88.10.in-addr.arpa.", RecordType::PTR), std::slice::from_ref(&own));
    let places = ask("s42.b7.bp.internal.", RecordType::SRV);
    assert!(places.contains(&format!("0 1 80 {own}")), "{places:?}");
    assert!(!places.iter().any(|place| place.contains(&id(3).to_string())), "{places:?}");
}

#[test]
fn addresses_of_the_overlay_have_names_for_those_that_may_reach_them() {
    let v4 = "3.0.88.10.in-addr.arpa";
    assert_eq!(ask(v4, RecordType::PTR, ME, &To(&[3])), answered(&["three.node.bp.internal."]));
    assert_eq!(ask(v4, RecordType::PTR, ME, &To(&[])), NO_NAME);
    let twin = format!("{}.node.bp.internal.", id(6));
    assert_eq!(ask("6.0.88.10.in-addr.arpa", RecordType::PTR, ME, &To(&[6])), answered(&[&twin]));
    let v6 = format!("1.{}0.0.d.f.ip6.arpa", "0.".repeat(27));
    assert_eq!(ask(&v6, RecordType::PTR, ME, &To(&[])), answered(&["hub.bp.internal."]));
}

#[test]
fn what_is_not_ours_is_refused_and_asked_nowhere() {
    for name in
        ["example.com", "internal", "xbp.internal", "1.1.168.192.in-addr.arpa", "88.10.in-addr.arpa", "."]
    {
        assert_eq!(ask(name, RecordType::A, Asker::Operator, &To(&[])).0, Outcome::NotOurs, "{name}");
    }
    assert_eq!(ask("bp.internal", RecordType::NS, ME, &To(&[])), answered(&["hub.bp.internal."]));
    assert_eq!(ask("bp.internal", RecordType::SOA, ME, &To(&[])).0, Outcome::Answered);
    assert_eq!(ask("a.b.c.bp.internal", RecordType::A, ME, &To(&[])), NO_NAME);
}
