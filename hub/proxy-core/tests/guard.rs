//! What the guard of HTTP/1 framing passes, and what it refuses, byte by byte and at once.

use blueprint_hub_proxy_core::guard::{FramingFault, Guard, Step};
use proptest::prelude::*;

/// Feeds `bytes` in pieces of `size`; gives what passed, and the fault that ended it.
fn feed(bytes: &[u8], size: usize) -> (Vec<u8>, Option<FramingFault>) {
    let (mut guard, mut pending, mut passed) = (Guard::default(), Vec::new(), Vec::new());
    for piece in bytes.chunks(size) {
        pending.extend_from_slice(piece);
        loop {
            match guard.step(&pending) {
                Step::Pass(count) => {
                    assert!(count > 0 && count <= pending.len());
                    passed.extend(pending.drain(..count));
                }
                Step::More => break,
                Step::Hold => {
                    guard.resume();
                    if pending.is_empty() {
                        break;
                    }
                }
                Step::Fault(fault) => return (passed, Some(fault)),
            }
        }
    }
    (passed, None)
}

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

fn refused(text: &str) -> Option<FramingFault> {
    // Behind a good request, in one piece and in many.
    let whole = format!("{GET}{text}");
    let (passed, fault) = feed(whole.as_bytes(), usize::MAX);
    assert!(passed.starts_with(GET.as_bytes()), "{text:?}");
    assert_eq!(feed(whole.as_bytes(), 1).1, fault, "{text:?}");
    fault
}

#[test]
fn whole_requests_pass_as_they_are() {
    for text in [
        GET.to_owned(),
        format!("{GET}{GET}"),
        format!("\r\n{GET}"),
        "GET / HTTP/1.0\r\n\r\n".to_owned(),
        "POST /a?b HTTP/1.1\r\nHost: a\r\ncontent-length:5\r\n\r\nhello".to_owned(),
        format!("POST / HTTP/1.1\r\nContent-Length: \t 5 \r\n\r\nhel\nl{GET}"),
        format!("POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n{GET}"),
        format!(
            "POST / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n5\r\nhello\r\nA\r\n0123456789\r\n0\r\n\r\n{GET}"
        ),
        format!("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Sum: 1\r\n\r\n{GET}"),
        "GET / HTTP/1.1\r\nX-Obs: caf\u{e9}\r\nX-Empty:\r\n\r\n".to_owned(),
        format!("GET / HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n{GET}"),
    ] {
        assert_eq!(feed(text.as_bytes(), usize::MAX), (text.clone().into_bytes(), None), "{text:?}");
        assert_eq!(feed(text.as_bytes(), 1), (text.clone().into_bytes(), None), "{text:?} by bytes");
    }
}

#[test]
fn every_ambiguity_is_a_fault_and_none_of_its_head_passes() {
    use FramingFault::{Both, Encoding, HeaderLine, HeaderValue, Length, LineEnd, RequestLine};
    let head = |lines: &str| format!("POST / HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\n");
    let table = [
        ("GET / HTTP/1.1\nHost: a\n\n".to_owned(), LineEnd),
        ("GET / HTTP/1.1\r\nHost: a\n\r\n".to_owned(), LineEnd),
        ("GET / HTTP/1.1\r\nHost: a\r\n\n".to_owned(), LineEnd),
        ("GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n".to_owned(), LineEnd),
        ("GET  / HTTP/1.1\r\n\r\n".to_owned(), RequestLine),
        ("GET / HTTP/1.1 \r\n\r\n".to_owned(), RequestLine),
        (" GET / HTTP/1.1\r\n\r\n".to_owned(), RequestLine),
        ("GET /\tx HTTP/1.1\r\n\r\n".to_owned(), RequestLine),
        ("GET /\u{e9} HTTP/1.1\r\n\r\n".to_owned(), RequestLine),
        ("GET /\r\n\r\n".to_owned(), RequestLine),
        ("GET / HTTP/2.0\r\n\r\n".to_owned(), RequestLine),
        ("GET / HTTP/1.2\r\n\r\n".to_owned(), RequestLine),
        ("GET / http/1.1\r\n\r\n".to_owned(), RequestLine),
        ("G(T / HTTP/1.1\r\n\r\n".to_owned(), RequestLine),
        ("\r\n\r\n\r\nGET / HTTP/1.1\r\n\r\n".to_owned(), RequestLine),
        (head("X : 1"), HeaderLine),
        (head("X\t: 1"), HeaderLine),
        (head(": 1"), HeaderLine),
        (head("X"), HeaderLine),
        (head("X: 1\r\n folded"), HeaderLine),
        (head("X: 1\r\n\tfolded"), HeaderLine),
        (head("X(: 1"), HeaderLine),
        (head("X\u{0}: 1"), HeaderLine),
        (head("X: a\u{0}b"), HeaderValue),
        (head("X: a\u{b}b"), HeaderValue),
        (head("X: a\u{7f}b"), HeaderValue),
        (head("Content-Length: 5\r\nContent-Length: 5"), Length),
        (head("Content-Length: 5\r\ncontent-length: 6"), Length),
        (head("Content-Length: 5, 5"), Length),
        (head("Content-Length: +5"), Length),
        (head("Content-Length: -1"), Length),
        (head("Content-Length: 0x5"), Length),
        (head("Content-Length: 5 5"), Length),
        (head("Content-Length:"), Length),
        (head("Content-Length: 99999999999999999999"), Length),
        (head("Transfer-Encoding: gzip, chunked"), Encoding),
        (head("Transfer-Encoding: chunked, identity"), Encoding),
        (head("Transfer-Encoding: identity"), Encoding),
        (head("Transfer-Encoding: xchunked"), Encoding),
        (head("Transfer-Encoding: \"chunked\""), Encoding),
        (head("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"), Encoding),
        (head("Transfer-Encoding: chunked\r\ntransfer-encoding: x"), Encoding),
        (head("Transfer-Encoding:"), Encoding),
        ("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(), Encoding),
        (head("Content-Length: 5\r\nTransfer-Encoding: chunked"), Both),
        (head("Transfer-Encoding: chunked\r\nContent-Length: 5"), Both),
    ];
    for (text, fault) in &table {
        assert_eq!(refused(text), Some(*fault), "{text:?}");
        assert_eq!(feed(text.as_bytes(), usize::MAX).0, b"", "nothing of {text:?} passes");
    }
    assert!(table.len() >= 40);
}

#[test]
fn every_odd_chunk_is_a_fault() {
    let head = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
    for body in [
        "5;ext=1\r\nhello\r\n0\r\n\r\n",
        "5 \r\nhello\r\n0\r\n\r\n",
        " 5\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "+5\r\nhello\r\n0\r\n\r\n",
        "\r\nhello\r\n0\r\n\r\n",
        "5\nhello\r\n0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\r\nhelloX\r\n0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "10000000000000000\r\nx",
        "00000000000000000005\r\nhello",
        "5\r\nhello\r\n0\r\nX : 1\r\n\r\n",
        "5\r\nhello\r\n0\r\nX: 1\n\r\n",
        "g\r\n",
    ] {
        assert!(refused(&format!("{head}{body}")).is_some(), "{body:?}");
    }
}

#[test]
fn sizes_have_their_limits() {
    let many: String = (0..101).map(|number| format!("X-{number}: 1\r\n")).collect();
    assert_eq!(refused(&format!("GET / HTTP/1.1\r\n{many}\r\n")), Some(FramingFault::TooLarge));
    let long = "a".repeat(30_000);
    for text in [format!("GET /{long} HTTP/1.1\r\n\r\n"), format!("GET / HTTP/1.1\r\nX: {long}"), long] {
        let (passed, fault) = feed(text.as_bytes(), 1000);
        assert_eq!((passed.len(), fault), (0, Some(FramingFault::TooLarge)));
    }
}

#[test]
fn nothing_follows_an_upgrade_before_it_is_decided() {
    let head = b"GET / HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    let mut guard = Guard::default();
    assert_eq!(guard.step(head), Step::Pass(head.len()));
    assert_eq!(guard.step(b"\x81\x05hello"), Step::Hold);
    guard.upgrade();
    assert_eq!(guard.step(b"\x81\x05hello"), Step::Pass(7));
    let mut guard = Guard::default();
    assert_eq!(guard.step(head), Step::Pass(head.len()));
    guard.resume();
    assert_eq!(guard.step(GET.as_bytes()), Step::Pass(GET.len()));
    assert_eq!(guard.heads(), 2);
}

proptest! {
    #[test]
    fn no_bytes_panic_and_pieces_do_not_matter(
        bytes in proptest::collection::vec(prop_oneof![
            Just(b'\r'), Just(b'\n'), Just(b':'), Just(b' '), Just(b'0'), Just(b'5'), any::<u8>()
        ], 0..200),
        starts in any::<bool>(),
        size in 1usize..20,
    ) {
        let mut whole = Vec::new();
        if starts {
            whole.extend_from_slice(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n");
        }
        whole.extend_from_slice(&bytes);
        let at_once = feed(&whole, usize::MAX);
        prop_assert!(whole.starts_with(&at_once.0));
        let in_pieces = feed(&whole, size);
        prop_assert_eq!(at_once.1.is_some(), in_pieces.1.is_some());
        if at_once.1.is_none() {
            prop_assert_eq!(at_once.0, in_pieces.0);
        }
    }
}
