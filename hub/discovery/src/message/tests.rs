use hickory_proto::rr::{Name, RecordType};

use super::*;
use crate::zone::tests::{To, snapshot, zone};

fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.id = 4711;
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

fn answer(bytes: &[u8], room: Room) -> (&'static str, Option<Message>) {
    let Reply { result, bytes } = reply(&zone(), bytes, (Asker::Operator, room), &snapshot(), &To(&[]));
    (result, bytes.map(|bytes| Message::from_vec(&bytes).unwrap()))
}

#[test]
fn an_answer_has_the_questions_number_and_says_who_it_is_from() {
    let asked = question("s42.b7.bp.internal.", RecordType::A);
    let (result, said) = answer(&asked.to_vec().unwrap(), Room::Datagram);
    let said = said.unwrap();
    assert_eq!((result, said.metadata.id, said.answers.len()), ("answered", 4711, 2));
    assert!(said.metadata.authoritative && said.metadata.recursion_desired);
    assert!(!said.metadata.recursion_available && said.edns.is_none());
    assert_eq!(said.queries, asked.queries);
}

#[test]
fn names_of_others_are_refused() {
    let asked = question("example.com.", RecordType::A);
    let (result, said) = answer(&asked.to_vec().unwrap(), Room::Datagram);
    let said = said.unwrap();
    assert_eq!((result, said.metadata.response_code), ("not_ours", ResponseCode::Refused));
    assert!(!said.metadata.authoritative && said.answers.is_empty());
}

#[test]
fn what_is_no_question_gets_a_word_or_nothing_and_never_a_loop() {
    let mut response = question("s42.b7.bp.internal.", RecordType::A);
    response.metadata.message_type = MessageType::Response;
    assert_eq!(answer(&response.to_vec().unwrap(), Room::Datagram), ("malformed", None));
    let mut two = question("s42.b7.bp.internal.", RecordType::A);
    two.add_query(Query::query(Name::root(), RecordType::A));
    let (_, said) = answer(&two.to_vec().unwrap(), Room::Datagram);
    assert_eq!(said.unwrap().metadata.response_code, ResponseCode::FormErr);
    let mut update = question("s42.b7.bp.internal.", RecordType::A);
    update.metadata.op_code = OpCode::Update;
    let (_, said) = answer(&update.to_vec().unwrap(), Room::Datagram);
    assert_eq!(said.unwrap().metadata.response_code, ResponseCode::NotImp);
    let cut = &question("s42.b7.bp.internal.", RecordType::A).to_vec().unwrap()[..20];
    let (_, said) = answer(cut, Room::Datagram);
    let said = said.unwrap();
    assert_eq!((said.metadata.id, said.metadata.response_code), (4711, ResponseCode::FormErr));
    for nothing in [&b""[..], &[0; 11], &[0xff; 12], &[0xff; 600]] {
        assert_eq!(answer(nothing, Room::Datagram).1, None);
    }
}

#[test]
fn an_answer_fits_what_the_asker_takes() {
    let mut asked = question("s42.b7.bp.internal.", RecordType::ANY);
    let (_, plain) = answer(&asked.to_vec().unwrap(), Room::Datagram);
    assert!(plain.unwrap().to_vec().unwrap().len() <= PLAIN_DATAGRAM.into());
    asked.set_edns({
        let mut edns = Edns::new();
        edns.set_max_payload(4096);
        edns
    });
    let (_, said) = answer(&asked.to_vec().unwrap(), Room::Datagram);
    assert_eq!(said.unwrap().edns.unwrap().max_payload(), 1232);
    let mut long = Message::response(1, OpCode::Query);
    let (_, full) = answer(&asked.to_vec().unwrap(), Room::Stream);
    let answers = full.unwrap().answers;
    long.answers = answers.iter().cycle().take(answers.len() * 8).cloned().collect();
    assert_eq!(fit(long.clone(), 65535).unwrap().len(), long.to_vec().unwrap().len());
    let cut = Message::from_vec(&fit(long, 512).unwrap()).unwrap();
    assert!(cut.metadata.truncation && cut.answers.is_empty());
}

#[test]
fn a_newer_edns_is_told_which_one_is_spoken() {
    let mut asked = question("s42.b7.bp.internal.", RecordType::A);
    let mut edns = Edns::new();
    edns.set_version(1);
    asked.set_edns(edns);
    let (_, said) = answer(&asked.to_vec().unwrap(), Room::Datagram);
    let said = said.unwrap();
    assert_eq!(u16::from(said.metadata.response_code), 16, "BADVERS");
    assert!(said.answers.is_empty());
}
