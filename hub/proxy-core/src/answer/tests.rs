use std::fmt::Write as _;

use bytes::BytesMut;
use proptest::prelude::*;

use super::*;

fn read(text: &str, asked: &Method) -> Result<AnswerHead, FramingFault> {
    let length = AnswerScan::default().end(text.as_bytes())?.expect("a whole head");
    assert_eq!(length, text.len(), "{text:?}");
    read_answer(&Bytes::copy_from_slice(text.as_bytes()), asked, HeaderMap::new())
}

#[test]
fn the_end_of_a_body_has_one_reading() {
    let get = |lines: &str| read(&format!("HTTP/1.1 200 OK\r\n{lines}\r\n"), &Method::GET);
    for (lines, body, stays_open) in [
        ("Content-Length: 5\r\n", AnswerBody::Sized(5), true),
        ("content-length:5 \r\nConnection: Keep-Alive\r\n", AnswerBody::Sized(5), true),
        ("Content-Length: 5\r\nConnection: x, Close\r\n", AnswerBody::Sized(5), false),
        ("Content-Length: 0\r\n", AnswerBody::None, true),
        ("Transfer-Encoding: Chunked\r\n", AnswerBody::Chunked, true),
        ("", AnswerBody::UntilClose, false),
    ] {
        let head = get(lines).unwrap();
        assert_eq!((head.body, head.stays_open), (body, stays_open), "{lines:?}");
    }
    for (lines, fault) in [
        ("Content-Length: 5\r\nContent-Length: 5\r\n", FramingFault::Length),
        ("Content-Length: 5, 5\r\n", FramingFault::Length),
        ("Content-Length: +5\r\n", FramingFault::Length),
        ("Content-Length: -1\r\n", FramingFault::Length),
        ("Content-Length:\r\n", FramingFault::Length),
        ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", FramingFault::Both),
        ("Transfer-Encoding: gzip, chunked\r\n", FramingFault::Encoding),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", FramingFault::Encoding),
        ("Transfer-Encoding: identity\r\n", FramingFault::Encoding),
        ("Content-Length : 5\r\n", FramingFault::HeaderLine),
        (" folded: x\r\n", FramingFault::HeaderLine),
        ("no colon\r\n", FramingFault::HeaderLine),
        ("x: a\u{1}b\r\n", FramingFault::HeaderValue),
        ("x: a\r\r\n", FramingFault::LineEnd),
    ] {
        assert_eq!(get(lines), Err(fault), "{lines:?}");
    }
}

#[test]
fn status_and_method_decide_whether_there_is_a_body() {
    let sized = "Content-Length: 9\r\n\r\n";
    for (status, asked, body) in [
        ("204 No Content", Method::GET, AnswerBody::None),
        ("304 Not Modified", Method::GET, AnswerBody::None),
        ("103 Early Hints", Method::GET, AnswerBody::None),
        ("200 OK", Method::HEAD, AnswerBody::None),
        ("101 Switching Protocols", Method::GET, AnswerBody::Upgraded),
        ("200", Method::GET, AnswerBody::Sized(9)),
        ("599 \u{e4}", Method::POST, AnswerBody::Sized(9)),
    ] {
        let head = read(&format!("HTTP/1.1 {status}\r\n{sized}"), &asked).unwrap();
        assert_eq!(head.body, body, "{status}");
        assert_eq!(head.is_interim(), status.starts_with("103"), "{status}");
        assert_eq!(head.headers["content-length"], "9");
    }
}

#[test]
fn an_answer_of_http10_keeps_no_connection() {
    let head = read("HTTP/1.0 200 OK\r\nContent-Length: 1\r\nConnection: keep-alive\r\n\r\n", &Method::GET);
    assert!(!head.unwrap().stays_open);
    let chunked = read("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", &Method::GET);
    assert_eq!(chunked, Err(FramingFault::Encoding));
}

#[test]
fn what_is_no_status_line_is_refused() {
    for line in
        ["HTTP/2.0 200 OK", "HTTP/1.1 20 OK", "HTTP/1.1 2000", "HTTP/1.1  200", "http/1.1 200 OK", "SSH-2.0"]
    {
        let read = read(&format!("{line}\r\nx: y\r\n\r\n"), &Method::GET);
        assert_eq!(read, Err(FramingFault::StatusLine), "{line:?}");
    }
    assert_eq!(AnswerScan::default().end(b"HTTP/1.1 200 OK\nx: y\n\n"), Err(FramingFault::LineEnd));
}

#[test]
fn a_head_has_a_bound() {
    let mut scan = AnswerScan::default();
    let endless = [b"HTTP/1.1 200 OK\r\nx: ".as_slice(), &vec![b'a'; MAX_ANSWER_HEAD]].concat();
    assert_eq!(scan.end(&endless), Err(FramingFault::TooLarge));
    let mut many = "HTTP/1.1 200 OK\r\n".to_owned();
    (0..=MAX_HEADERS).for_each(|number| write!(many, "x-{number}: y\r\n").unwrap());
    assert_eq!(read(&format!("{many}\r\n"), &Method::GET), Err(FramingFault::TooLarge));
}

/// Everything that is in the chunks of `text`, which comes in pieces of `step` bytes, and what is left behind them.
fn join(text: &str, step: usize) -> Result<(Vec<u8>, HeaderMap, usize), FramingFault> {
    let (mut chunks, mut bytes, mut body) = (Dechunker::default(), BytesMut::new(), Vec::new());
    let mut pieces = text.as_bytes().chunks(step);
    loop {
        match chunks.next(&mut bytes)? {
            Chunk::Data(data) => body.extend_from_slice(&data),
            Chunk::Trailers(trailers) => {
                return Ok((body, trailers, bytes.len() + pieces.map(<[u8]>::len).sum::<usize>()));
            }
            Chunk::End => {
                return Ok((body, HeaderMap::new(), bytes.len() + pieces.map(<[u8]>::len).sum::<usize>()));
            }
            Chunk::More => bytes.extend_from_slice(pieces.next().expect("a whole body")),
        }
    }
}

#[test]
fn chunks_are_joined_however_they_come() {
    let text = "5\r\nhello\r\n00A;x=\"y\"  \r\n, world!!!\r\n0\r\nX-Sum: 7\r\n\r\nnext";
    for step in 1..=text.len() {
        let (body, trailers, left) = join(text, step).unwrap();
        assert_eq!((body.as_slice(), left), (&b"hello, world!!!"[..], 4), "{step}");
        assert_eq!(trailers["x-sum"], "7");
    }
    assert_eq!(join("0\r\n\r\n", 2), Ok((Vec::new(), HeaderMap::new(), 0)));
}

#[test]
fn what_is_no_chunk_is_refused() {
    for text in ["\r\n", "x\r\n", "+5\r\nhello\r\n", "5\nhello\r\n", "5\r\nhello!\r\n", "0x5\r\n", "-1\r\n"] {
        assert!(join(text, 1).is_err(), "{text:?}");
    }
    assert!(join("11111111111111111\r\n", 1).is_err());
    assert!(join(&format!("1;{}\r\n", "x".repeat(5000)), 100).is_err());
    assert!(
        join(&format!("{}0\r\n\r\n", format!("1;{}\r\na\r\n", "x".repeat(4000)).repeat(40)), 1000).is_err()
    );
}

#[test]
fn usual_names_are_those_of_the_library() {
    let names = [
        "date",
        "etag",
        "server",
        "connection",
        "content-type",
        "last-modified",
        "accept-ranges",
        "cache-control",
        "content-length",
        "transfer-encoding",
    ];
    for name in names {
        let parsed = HeaderName::from_bytes(name.as_bytes()).unwrap();
        assert_eq!(usual_name(name.as_bytes()), Some(parsed.clone()), "{name}");
        assert_eq!(usual_name(name.to_ascii_uppercase().as_bytes()), Some(parsed), "{name}");
    }
    for name in ["", "data", "vary", "servez", "x-content-type", "content_length"] {
        assert_eq!(usual_name(name.as_bytes()), None, "{name}");
    }
}

/// What is read of an answer that comes in pieces of `step` bytes: how long its head is, and what it says.
fn read_in_pieces(bytes: &[u8], step: usize) -> Result<Option<(usize, AnswerHead)>, FramingFault> {
    let mut scan = AnswerScan::default();
    let mut ends = (1..bytes.len()).step_by(step).chain([bytes.len()]);
    let found = ends.find_map(|end| scan.end(&bytes[..end]).transpose()).transpose()?;
    let read = |end| read_answer(&Bytes::copy_from_slice(&bytes[..end]), &Method::GET, HeaderMap::new());
    found.map(|end| read(end).map(|head| (end, head))).transpose()
}

#[test]
fn a_bare_line_end_is_refused_however_an_answer_comes() {
    for text in [
        "HTTP/1.1 200 OK\nx: y\r\n\r\n",
        "HTTP/1.1 200 OK\r\nx: y\n\r\n\r\n",
        "HTTP/1.1 200 OK\r\nx: y\n\nHTTP/1.1 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nx: a\rb\r\n\r\n",
        "HTTP/1.1 200 OK\rx\r\n\r\n",
        "HTTP/1.1 200 OK\r\na\rb: y\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 1\r2\r\n\r\n",
    ] {
        for step in 1..=text.len() {
            let read = read_in_pieces(text.as_bytes(), step);
            assert_eq!(read, Err(FramingFault::LineEnd), "{text:?} by {step}");
        }
    }
}

proptest! {
    #[test]
    fn an_answer_is_read_the_same_however_it_comes(
        pieces in proptest::collection::vec(
            prop::sample::select(vec![
                "HTTP/1.1 200 OK\r\n", "a: b\r\n", "content-length: 1\r\n", "\r\n", "\r\n\r\n", "\r", "\n", "x", ": ", "\t", "\0",
            ]),
            0..12,
        ),
        leads in any::<bool>(),
        step in 1..40usize,
    ) {
        let lead = if leads { "HTTP/1.1 200 OK\r\nx: y\r\n" } else { "" };
        let text = [lead, &pieces.concat()].concat();
        let whole = read_in_pieces(text.as_bytes(), text.len().max(1));
        let in_pieces = read_in_pieces(text.as_bytes(), step);
        prop_assert_eq!(whole.ok(), in_pieces.ok());
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), asked in 0..2u8) {
        let asked = if asked == 0 { Method::GET } else { Method::HEAD };
        let _ = AnswerScan::default().end(&bytes);
        let _ = read_answer(&Bytes::from(bytes.clone()), &asked, HeaderMap::new());
        let (mut chunks, mut left) = (Dechunker::default(), BytesMut::from(bytes.as_slice()));
        while let Ok(Chunk::Data(data)) = chunks.next(&mut left) {
            prop_assert!(!data.is_empty());
        }
    }
}
