//! From the bytes of a question to the bytes of its answer.

use blueprint_hub_registry_core::RegistrySnapshot;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::DNSClass;

use crate::zone::{Asker, Outcome, Question, Reach, Zone};

/// Longest question that is read, in bytes: a name and its options fit many times.
pub(crate) const MAX_QUESTION: usize = 1232;

/// Longest answer over UDP whatever the asker takes, in bytes: it passes every path without fragments.
const MAX_DATAGRAM: u16 = 1232;

/// Longest answer over UDP where the asker does not say what it takes (RFC 1035, 4.2.1).
const PLAIN_DATAGRAM: u16 = 512;

/// How long an answer may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Room {
    Datagram,
    Stream,
}

/// What became of a question, and what is sent; nothing where it is not even a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) result: &'static str,
    pub(crate) bytes: Option<Vec<u8>>,
}

/// Answers one question.
pub(crate) fn reply(
    zone: &Zone,
    bytes: &[u8],
    (asker, room): (Asker, Room),
    snapshot: &RegistrySnapshot,
    reach: &(impl Reach + ?Sized),
) -> Reply {
    let Ok(asked) = Message::from_vec(bytes) else {
        return Reply { result: "malformed", bytes: malformed(bytes) };
    };
    if asked.metadata.message_type != MessageType::Query {
        return Reply { result: "malformed", bytes: None };
    }
    let (code, query) = match asked.queries.as_slice() {
        [query] if asked.metadata.op_code == OpCode::Query => (ResponseCode::NoError, Some(query)),
        _ if asked.metadata.op_code != OpCode::Query => (ResponseCode::NotImp, None),
        _ => (ResponseCode::FormErr, None),
    };
    let mut said = Message::response(asked.metadata.id, asked.metadata.op_code);
    said.metadata.recursion_desired = asked.metadata.recursion_desired;
    said.metadata.response_code = code;
    said.queries.clone_from(&asked.queries);
    if let Some(edns) = &asked.edns {
        let mut own = Edns::new();
        own.set_max_payload(MAX_DATAGRAM);
        if edns.version() != 0 {
            own.set_rcode_high(ResponseCode::BADVERS.high());
            said.metadata.response_code = ResponseCode::BADVERS;
        }
        said.set_edns(own);
    }
    let result = match (said.metadata.response_code, query) {
        (ResponseCode::NoError, Some(query)) => fill(&mut said, zone, query, asker, snapshot, reach),
        _ => "malformed",
    };
    let most = match room {
        Room::Stream => usize::from(u16::MAX),
        Room::Datagram => {
            let taken =
                asked.edns.as_ref().map(|edns| edns.max_payload().clamp(PLAIN_DATAGRAM, MAX_DATAGRAM));
            taken.unwrap_or(PLAIN_DATAGRAM).into()
        }
    };
    Reply { result, bytes: fit(said, most) }
}

fn fill(
    said: &mut Message,
    zone: &Zone,
    query: &Query,
    asker: Asker,
    snapshot: &RegistrySnapshot,
    reach: &(impl Reach + ?Sized),
) -> &'static str {
    if query.query_class != DNSClass::IN {
        said.metadata.response_code = ResponseCode::Refused;
        return "not_ours";
    }
    let question = Question { name: &query.name, kind: query.query_type, asker, turn: said.metadata.id };
    let answer = zone.answer(question, snapshot, reach);
    said.metadata.response_code = answer.code();
    said.metadata.authoritative = answer.outcome != Outcome::NotOurs;
    said.answers = answer.answers;
    said.authorities = answer.authorities;
    said.additionals = answer.additionals;
    match answer.outcome {
        Outcome::Answered => "answered",
        Outcome::NoData => "no_data",
        Outcome::NoName => "no_name",
        Outcome::Ambiguous => "ambiguous",
        Outcome::NotOurs => "not_ours",
    }
}

/// The bytes, without the additional records where those do not fit, or only with the word that there is more.
fn fit(mut said: Message, most: usize) -> Option<Vec<u8>> {
    let bytes = said.to_vec().ok()?;
    if bytes.len() <= most {
        return Some(bytes);
    }
    said.additionals.clear();
    let bytes = said.to_vec().ok()?;
    if bytes.len() <= most {
        return Some(bytes);
    }
    said.answers.clear();
    said.authorities.clear();
    said.metadata.truncation = true;
    said.to_vec().ok().filter(|bytes| bytes.len() <= most)
}

/// What answers bytes that are no question: the same number with a word, where it was not itself an answer.
fn malformed(bytes: &[u8]) -> Option<Vec<u8>> {
    let (id, flags) = (bytes.get(..2)?, bytes.get(2)?);
    if bytes.len() < 12 || flags & 0x80 != 0 {
        return None;
    }
    let id = u16::from_be_bytes(id.try_into().ok()?);
    Message::error_msg(id, OpCode::Query, ResponseCode::FormErr).to_vec().ok()
}

#[cfg(test)]
mod tests;
