//! What is known under each name, and to whom.

mod find;
#[cfg(test)]
pub(crate) mod tests;

use std::net::IpAddr;

use blueprint_common_tunnel_core::OverlayPrefixes;
use blueprint_common_types::{AgentId, OverlayLease, WgPublicKey};
use blueprint_hub_registry_core::RegistrySnapshot;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::{A, AAAA, NS, PTR, SOA, SRV};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use self::find::Found;
use crate::domain::Domain;
use crate::names::subject;

/// Seconds that an answer may be kept: a change is seen after two at the latest.
const TTL_SECS: u32 = 1;

/// Most targets of one answer.
const MAX_TARGETS: usize = 16;

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Asker {
    /// Somebody on the hub's own machine, who may see everything.
    Operator,
    /// A machine, which may see what the policy lets it reach.
    Node(AgentId),
}

/// What the policy lets machines begin with each other.
pub trait Reach {
    /// True where `source` may begin TCP with `destination` at this port.
    fn may_connect(&self, source: &WgPublicKey, destination: &WgPublicKey, port: u16) -> bool;

    /// True where `source` may begin anything with `destination`.
    fn may_reach(&self, source: &WgPublicKey, destination: &WgPublicKey) -> bool;
}

/// How a question was answered; the label of the metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Answered,
    /// The name is there and has nothing of that type, or nothing healthy.
    NoData,
    /// There is no such name, or nothing that the asker may see.
    NoName,
    /// Several machines have the name.
    Ambiguous,
    /// The name is not below the domain.
    NotOurs,
}

/// The answer to one question.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Answer {
    pub(crate) outcome: Outcome,
    pub(crate) answers: Vec<Record>,
    pub(crate) authorities: Vec<Record>,
    pub(crate) additionals: Vec<Record>,
}

impl Answer {
    /// The code of DNS.
    pub(crate) const fn code(&self) -> ResponseCode {
        match self.outcome {
            Outcome::Answered | Outcome::NoData => ResponseCode::NoError,
            Outcome::NoName | Outcome::Ambiguous => ResponseCode::NXDomain,
            Outcome::NotOurs => ResponseCode::Refused,
        }
    }
}

/// A question of one asker.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Question<'a> {
    pub(crate) name: &'a Name,
    pub(crate) kind: RecordType,
    pub(crate) asker: Asker,
    /// Turns the order of the targets, so that they share the load; the question's own number serves.
    pub(crate) turn: u16,
}

/// The names of one hub.
#[derive(Debug, Clone)]
pub struct Zone {
    domain: Name,
    prefixes: OverlayPrefixes,
}

impl Zone {
    /// Serves the names below `domain`, and the addresses of the overlay.
    #[must_use]
    pub fn new(domain: Domain, prefixes: OverlayPrefixes) -> Self {
        Self { domain: domain.into_name(), prefixes }
    }

    /// Answers one question.
    pub(crate) fn answer(
        &self,
        question: Question<'_>,
        snapshot: &RegistrySnapshot,
        reach: &(impl Reach + ?Sized),
    ) -> Answer {
        let mut found = Found { zone: self, question, snapshot, reach, answers: vec![], additionals: vec![] };
        let outcome = match self.place(question.name) {
            Place::Forward(labels) => {
                let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
                subject(&labels).map_or(Outcome::NoName, |subject| found.subject(&subject))
            }
            Place::Reverse(address) => found.reverse(address),
            Place::Elsewhere => Outcome::NotOurs,
        };
        let is_bare = outcome == Outcome::Answered && found.answers.is_empty();
        let outcome = if is_bare { Outcome::NoData } else { outcome };
        let authorities = match outcome {
            Outcome::NoData | Outcome::NoName | Outcome::Ambiguous => vec![self.soa(snapshot.index)],
            Outcome::Answered | Outcome::NotOurs => Vec::new(),
        };
        Answer { outcome, answers: found.answers, authorities, additionals: found.additionals }
    }

    fn place(&self, name: &Name) -> Place {
        let name = name.to_lowercase();
        if self.domain.zone_of(&name) {
            let below = usize::from(name.num_labels()).saturating_sub(self.domain.num_labels().into());
            let labels = name.iter().take(below).map(|label| String::from_utf8(label.to_vec()));
            // What is no text is no name of ours either; an empty label cannot be.
            return Place::Forward(labels.map(Result::unwrap_or_default).collect());
        }
        let network = name.parse_arpa_name().ok().filter(|net| net.prefix_len() == net.max_prefix_len());
        match network.map(|net| net.addr()) {
            Some(address) if self.holds(address) => Place::Reverse(address),
            _ => Place::Elsewhere,
        }
    }

    /// True for an address of the hub itself.
    pub(crate) fn is_hub(&self, address: IpAddr) -> bool {
        self.prefixes.hub().contains(address)
    }

    fn holds(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(v4) => self.prefixes.v4.contains(v4),
            IpAddr::V6(v6) => self.prefixes.v6.contains(v6),
        }
    }

    /// `label.domain`; the label has at most 63 characters of host names.
    fn below(&self, labels: &[&str]) -> Option<Name> {
        let mut name = Name::from_labels(labels.iter().map(|label| label.as_bytes())).ok()?;
        name = name.append_domain(&self.domain).ok()?;
        Some(name)
    }

    /// Who is responsible; `index` counts the changes of the registry.
    fn soa(&self, index: u64) -> Record {
        let below = |label| self.below(&[label]).unwrap_or_else(|| self.domain.clone());
        let serial = u32::try_from(index & u64::from(u32::MAX)).unwrap_or(0);
        let data = SOA::new(below("hub"), below("hostmaster"), serial, 3600, 600, 86400, TTL_SECS);
        Record::from_rdata(self.domain.clone(), TTL_SECS, RData::SOA(data))
    }
}

/// Where a name is.
enum Place {
    /// Below the domain, with these labels before it.
    Forward(Vec<String>),
    /// The reverse name of an address of the overlay.
    Reverse(IpAddr),
    Elsewhere,
}

/// The address records of a lease that a question of `kind` wants.
fn addresses(owner: &Name, lease: &OverlayLease, kind: RecordType) -> impl Iterator<Item = Record> {
    let both = [RData::A(A(lease.v4)), RData::AAAA(AAAA(lease.v6))];
    let owner = owner.clone();
    let wanted =
        both.into_iter().filter(move |data| matches!(kind, RecordType::ANY) || data.record_type() == kind);
    wanted.map(move |data| Record::from_rdata(owner.clone(), TTL_SECS, data))
}

/// A record of the asked name.
fn record(owner: &Name, data: RData) -> Record {
    Record::from_rdata(owner.clone(), TTL_SECS, data)
}

fn ns(zone: &Zone) -> Option<RData> {
    Some(RData::NS(NS(zone.below(&["hub"])?)))
}

const fn ptr(name: Name) -> RData {
    RData::PTR(PTR(name))
}

fn srv(port: u16, target: Name) -> RData {
    RData::SRV(SRV::new(0, 1, port, target))
}
