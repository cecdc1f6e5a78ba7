//! The answer of a service over HTTP/1, cut anywhere: the reader takes it as a naive reading of the whole does.

use std::collections::BTreeMap;

use blueprint_hub_proxy_core::MAX_HEADERS;
use blueprint_hub_proxy_core::answer::{AnswerBody, AnswerScan, Chunk, Dechunker, read_answer};
use http::{HeaderMap, Method};
use hyper::body::Bytes;

use super::reference::{End, Rest, field};
use crate::input::Input;

/// Bytes of one answer at most: below every bound on heads and trailers.
const MAX_BYTES: usize = 8 * 1024;

/// Longest line with the size of a chunk.
const MAX_SIZE_LINE: usize = 4 * 1024;

/// Fields by name, the values of each in their order.
type Fields = BTreeMap<String, Vec<Vec<u8>>>;

/// What is read of an answer.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    status: u16,
    fields: Fields,
    body: AnswerBody,
    stays_open: bool,
    chunks: Option<Chunks>,
}

/// What is read of a body in chunks.
#[derive(Debug, Default, PartialEq, Eq)]
struct Chunks {
    data: Vec<u8>,
    trailers: Fields,
    /// Bytes behind it, once it is whole.
    behind: Option<usize>,
    is_fault: bool,
}

/// Reads an answer by the proxy's reader and by the naive one.
pub(crate) fn play(data: &[u8]) {
    let mut input = Input(data);
    let (Some(kind), Some(cuts)) = (input.byte(), input.below(8)) else { return };
    let asked = if kind & 1 == 0 { Method::GET } else { Method::HEAD };
    let cuts = input.bytes(cuts).to_vec();
    let bytes = &input.0[..input.0.len().min(MAX_BYTES)];
    let (found, expected) = (proxys(&asked, &cuts, bytes), naive(&asked, bytes));
    assert_eq!(found, expected);
}

/// The proxy's reading: `None` where the head is not whole or not good.
fn proxys(asked: &Method, cuts: &[u8], bytes: &[u8]) -> Option<Answer> {
    let mut ends = ends(cuts, bytes.len());
    let mut scan = AnswerScan::default();
    let (length, mut end) = loop {
        let end = ends.next()?;
        if let Some(length) = scan.end(&bytes[..end]).ok()? {
            assert!(length <= end, "a head of {length} of {end} bytes");
            break (length, end);
        }
    };
    // What a caller had before is none of the answer's.
    let mut room = HeaderMap::new();
    room.insert("x-earlier", http::HeaderValue::from_static("a"));
    let head = read_answer(&Bytes::copy_from_slice(&bytes[..length]), asked, room).ok()?;
    let chunks = (head.body == AnswerBody::Chunked).then(|| {
        let (mut dechunker, mut chunks) = (Dechunker::default(), Chunks::default());
        // With the last byte of the head, for nothing at all is not to be had as bytes that change.
        let mut held = Bytes::copy_from_slice(&bytes[length - 1..end]).try_into_mut().unwrap();
        drop(held.split_to(1));
        loop {
            match dechunker.next(&mut held) {
                Ok(Chunk::Data(data)) => {
                    assert!(!data.is_empty(), "a piece without a byte");
                    chunks.data.extend_from_slice(&data);
                }
                Ok(Chunk::Trailers(trailers)) => chunks.trailers = collected(&trailers),
                Ok(Chunk::End) => {
                    chunks.behind = Some(bytes.len() - end + held.len());
                    return chunks;
                }
                Ok(Chunk::More) => {
                    let Some(next) = ends.next() else { return chunks };
                    held.extend_from_slice(&bytes[end..next]);
                    end = next;
                }
                Err(_) => {
                    chunks.is_fault = true;
                    return chunks;
                }
            }
        }
    });
    Some(Answer {
        status: head.status.as_u16(),
        fields: collected(&head.headers),
        body: head.body,
        stays_open: head.stays_open,
        chunks,
    })
}

/// Ends of the pieces in which so many bytes come; the last is all of them.
fn ends(cuts: &[u8], all: usize) -> impl Iterator<Item = usize> {
    let mut cuts = cuts.iter().copied().cycle();
    let mut end = 0;
    std::iter::from_fn(move || {
        let before = end;
        end = (end + cuts.next().map_or(all, |cut| usize::from(cut) + 1)).min(all);
        (end > before).then_some(end)
    })
}

fn collected(headers: &HeaderMap) -> Fields {
    let mut fields = Fields::new();
    for (name, value) in headers {
        fields.entry(name.as_str().to_owned()).or_default().push(value.as_bytes().to_vec());
    }
    fields
}

/// The naive reading, over all bytes at once.
fn naive(asked: &Method, bytes: &[u8]) -> Option<Answer> {
    let mut rest = Rest(bytes);
    let mut lines = Vec::new();
    loop {
        match rest.line().ok()? {
            b"" => break,
            line => lines.push(line),
        }
    }
    let (first, lines) = lines.split_first()?;
    let is_new = first.starts_with(b"HTTP/1.1 ");
    if !is_new && !first.starts_with(b"HTTP/1.0 ") {
        return None;
    }
    let (digits, reason) = (first.get(9..12)?, first.get(12..)?);
    let status: u16 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    let is_text = reason.iter().all(|byte| *byte == b'\t' || *byte >= b' ' && *byte != 0x7f);
    let is_status = digits.iter().all(u8::is_ascii_digit) && status >= 100;
    if !is_status || !is_text || !matches!(reason.first(), None | Some(b' ')) || lines.len() > MAX_HEADERS {
        return None;
    }
    let fields = fields(lines)?;
    let values = |name: &str| fields.get(name).cloned().unwrap_or_default();
    let (lengths, encodings) = (values("content-length"), values("transfer-encoding"));
    let is_number = |text: &Vec<u8>| (1..=19).contains(&text.len()) && text.iter().all(u8::is_ascii_digit);
    let is_chunked = |text: &Vec<u8>| is_new && text.eq_ignore_ascii_case(b"chunked");
    if lengths.len() > 1
        || encodings.len() > 1
        || !lengths.iter().all(is_number)
        || !encodings.iter().all(is_chunked)
    {
        return None;
    }
    let length = lengths.first().map(|text| String::from_utf8_lossy(text).parse::<u64>().unwrap());
    let body = match (status, length, encodings.is_empty()) {
        (101, ..) => AnswerBody::Upgraded,
        (_, Some(_), false) => return None,
        (100..=199 | 204 | 304, ..) => AnswerBody::None,
        _ if asked == Method::HEAD => AnswerBody::None,
        (_, Some(0), true) => AnswerBody::None,
        (_, Some(length), true) => AnswerBody::Sized(length),
        (_, None, false) => AnswerBody::Chunked,
        (_, None, true) => AnswerBody::UntilClose,
    };
    let says_close = values("connection").iter().any(|value| {
        let text = String::from_utf8_lossy(value).to_ascii_lowercase();
        text.split(',').any(|token| token.trim_matches([' ', '\t']) == "close")
    });
    let stays_open = is_new && !says_close && body != AnswerBody::UntilClose;
    let chunks = (body == AnswerBody::Chunked).then(|| chunks(rest));
    Some(Answer { status, fields, body, stays_open, chunks })
}

fn fields(lines: &[&[u8]]) -> Option<Fields> {
    let mut fields = Fields::new();
    for line in lines {
        let (name, value) = field(line).ok()?;
        let name = String::from_utf8(name.to_ascii_lowercase()).ok()?;
        fields.entry(name).or_default().push(value.to_vec());
    }
    Some(fields)
}

fn chunks(mut rest: Rest<'_>) -> Chunks {
    let mut chunks = Chunks::default();
    chunks.is_fault = matches!(body(&mut rest, &mut chunks), Err(End::Wrong));
    chunks
}

fn body(rest: &mut Rest<'_>, chunks: &mut Chunks) -> Result<(), End> {
    loop {
        let mut short = Rest(rest.0.get(..MAX_SIZE_LINE).unwrap_or(rest.0));
        let line = match short.line() {
            Err(End::Missing) if rest.0.len() >= MAX_SIZE_LINE => return Err(End::Wrong),
            line => line?,
        };
        rest.take(u64::try_from(line.len() + 2).unwrap());
        let digits: String =
            line.iter().take_while(|b| b.is_ascii_hexdigit()).map(|b| char::from(*b)).collect();
        let is_end = matches!(line.get(digits.len()), None | Some(b';' | b' ' | b'\t'));
        if !is_end || !(1..=16).contains(&digits.len()) {
            return Err(End::Wrong);
        }
        let size = u64::from_str_radix(&digits, 16).map_err(|_| End::Wrong)?;
        if size == 0 {
            break;
        }
        let data = rest.take(size);
        chunks.data.extend_from_slice(data);
        if u64::try_from(data.len()).unwrap() < size {
            return Err(End::Missing);
        }
        match rest.0 {
            [b'\r', b'\n', ..] => drop(rest.take(2)),
            [] | [b'\r'] => return Err(End::Missing),
            _ => return Err(End::Wrong),
        }
    }
    let mut lines = Vec::new();
    loop {
        let line = rest.line()?;
        if line.is_empty() {
            break;
        }
        lines.push(line);
        if lines.len() > MAX_HEADERS || fields(&lines).is_none() {
            return Err(End::Wrong);
        }
    }
    chunks.trailers = fields(&lines).ok_or(End::Wrong)?;
    chunks.behind = Some(rest.0.len());
    Ok(())
}
