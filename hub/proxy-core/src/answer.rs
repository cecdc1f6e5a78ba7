//! Strict reading of a service's answer over HTTP/1: its head, and where its body ends.
//!
//! The mirror image of the [`guard`](crate::guard): what two readers could cut at different places is
//! refused, for the next answer on the connection could then be another client's.
//!
//! - lines end in CRLF, names are tokens up to the colon, no folded lines, no control characters;
//! - one `Content-Length` in digits, or one `Transfer-Encoding: chunked` on HTTP/1.1, never both;
//! - a body that says neither ends with its connection, which then serves nobody else.
//!
//! Deviation: extensions of chunks are read over, as RFC 9112, section 7.1.1, asks of recipients.

mod chunked;

use std::sync::LazyLock;

use bytes::Bytes;
use http::header::{self, CONNECTION, HeaderName, HeaderValue};
use http::{HeaderMap, Method, StatusCode};
use memchr::memmem::Finder;

pub use chunked::{Chunk, Dechunker};

use crate::MAX_HEADERS;
use crate::guard::{FramingFault, decimal, field_parts, in_line, raw_line};

/// Longest head of an answer, from its first line to the empty one, in bytes.
pub const MAX_ANSWER_HEAD: usize = 64 * 1024;

/// How the last field and a head end: most heads come whole, and are looked through for this at once.
static END: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\r\n\r\n"));

/// Fields for which room is made at once: most answers have fewer.
const USUAL_FIELDS: usize = 12;

/// How the body of an answer ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnswerBody {
    /// There is none; 0 bytes are one of those.
    None,
    /// After so many bytes, more than zero.
    Sized(u64),
    /// With its last chunk.
    Chunked,
    /// With the connection.
    UntilClose,
    /// There is none, and what follows is another protocol's (101).
    Upgraded,
}

/// The head of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnswerHead {
    /// What it says.
    pub status: StatusCode,
    /// All fields, in their order.
    pub headers: HeaderMap,
    /// How its body ends.
    pub body: AnswerBody,
    /// Whether the connection may serve another request behind that body.
    pub stays_open: bool,
}

impl AnswerHead {
    /// Whether another head follows, which answers the request (RFC 9110, section 15.2).
    #[must_use]
    pub fn is_interim(&self) -> bool {
        self.status.is_informational() && self.status != StatusCode::SWITCHING_PROTOCOLS
    }
}

/// Looks for the end of a head while it comes; every byte is looked at once.
#[derive(Debug, Default)]
pub struct AnswerScan {
    /// Start of the line that was not read to its end.
    line_at: usize,
    searched: usize,
}

impl AnswerScan {
    /// Length of the head at the front of `bytes`; `None` where its end did not come yet.
    ///
    /// After `None` the same bytes come again with more behind them.
    ///
    /// # Errors
    ///
    /// Where a line does not end in CRLF, or there are more than [`MAX_ANSWER_HEAD`] bytes without an end.
    pub fn end(&mut self, bytes: &[u8]) -> Result<Option<usize>, FramingFault> {
        if self.searched == 0
            && let Some(end) = END.find(bytes)
        {
            // Whoever reads the head looks at its lines once more.
            let end = end.saturating_add(END.needle().len());
            return if end > MAX_ANSWER_HEAD { Err(FramingFault::TooLarge) } else { Ok(Some(end)) };
        }
        while let Some(line) = raw_line(bytes, &mut self.line_at, &mut self.searched, MAX_ANSWER_HEAD)? {
            if line.is_empty() {
                return Ok(Some(self.line_at));
            }
        }
        if bytes.len() >= MAX_ANSWER_HEAD { Err(FramingFault::TooLarge) } else { Ok(None) }
    }
}

/// Reads a whole head, which answers a request of that method. Values of fields are views of `head`.
///
/// The fields go into `headers`, which is emptied first: it may have room from an earlier use.
///
/// # Errors
///
/// Where it has no single reading, or more than [`MAX_HEADERS`] fields.
pub fn read_answer(head: &Bytes, asked: &Method, mut headers: HeaderMap) -> Result<AnswerHead, FramingFault> {
    let (mut line_at, mut searched) = (0, 0);
    let mut line = || raw_line(head, &mut line_at, &mut searched, MAX_ANSWER_HEAD);
    let first = line()?.unwrap_or_default();
    let (status, is_http11) = status_line(first).ok_or_else(|| in_line(first, FramingFault::StatusLine))?;
    headers.clear();
    if headers.capacity() < USUAL_FIELDS {
        headers = HeaderMap::with_capacity(USUAL_FIELDS);
    }
    let mut framing = Framing::default();
    while let Some(line) = line()?.filter(|line| !line.is_empty()) {
        if headers.len() >= MAX_HEADERS {
            return Err(FramingFault::TooLarge);
        }
        read_field(head, line, &mut framing, is_http11, &mut headers)
            .map_err(|fault| in_line(line, fault))?;
    }
    let body = framing.body(status, asked)?;
    let stays_open = is_http11 && body != AnswerBody::UntilClose && !says_close(&headers);
    Ok(AnswerHead { status, headers, body, stays_open })
}

/// Reads one line, which is a part of `head`.
fn read_field(
    head: &Bytes,
    line: &[u8],
    framing: &mut Framing,
    is_http11: bool,
    headers: &mut HeaderMap,
) -> Result<(), FramingFault> {
    let (name, value) = field_parts(line)?;
    framing.note(name, value, is_http11)?;
    let value = if value.is_empty() { Bytes::new() } else { head.slice_ref(value) };
    add(headers, name, value)
}

/// Adds one field; the value's type refuses control characters.
fn add(headers: &mut HeaderMap, name: &[u8], value: Bytes) -> Result<(), FramingFault> {
    let name = match usual_name(name) {
        Some(usual) => usual,
        None => HeaderName::from_bytes(name).map_err(|_| FramingFault::HeaderLine)?,
    };
    let value = HeaderValue::from_maybe_shared(value).map_err(|_| FramingFault::HeaderValue)?;
    headers.try_append(name, value).map(drop).map_err(|_| FramingFault::TooLarge)
}

/// A name that most answers have, in any case: the library takes five times as long to find it among all that it knows.
fn usual_name(name: &[u8]) -> Option<HeaderName> {
    let is = |usual: &str| name.eq_ignore_ascii_case(usual.as_bytes());
    Some(match name.len() {
        4 if is("date") => header::DATE,
        4 if is("etag") => header::ETAG,
        6 if is("server") => header::SERVER,
        10 if is("connection") => CONNECTION,
        12 if is("content-type") => header::CONTENT_TYPE,
        13 if is("last-modified") => header::LAST_MODIFIED,
        13 if is("accept-ranges") => header::ACCEPT_RANGES,
        13 if is("cache-control") => header::CACHE_CONTROL,
        14 if is("content-length") => header::CONTENT_LENGTH,
        17 if is("transfer-encoding") => header::TRANSFER_ENCODING,
        _ => return None,
    })
}

/// What is said of the body's end.
#[derive(Debug, Default)]
struct Framing {
    length: Option<u64>,
    chunked: bool,
}

impl Framing {
    fn note(&mut self, name: &[u8], value: &[u8], is_http11: bool) -> Result<(), FramingFault> {
        if name.eq_ignore_ascii_case(b"content-length") {
            if self.length.is_some() {
                return Err(FramingFault::Length);
            }
            self.length = Some(decimal(value).ok_or(FramingFault::Length)?);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if self.chunked || !is_http11 || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(FramingFault::Encoding);
            }
            self.chunked = true;
        }
        Ok(())
    }

    /// RFC 9112, section 6.3.
    fn body(&self, status: StatusCode, asked: &Method) -> Result<AnswerBody, FramingFault> {
        if status == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(AnswerBody::Upgraded);
        }
        let is_bare = status.is_informational()
            || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
            || *asked == Method::HEAD;
        match (self.length, self.chunked) {
            (Some(_), true) => Err(FramingFault::Both),
            _ if is_bare => Ok(AnswerBody::None),
            (Some(0), false) => Ok(AnswerBody::None),
            (Some(length), false) => Ok(AnswerBody::Sized(length)),
            (None, true) => Ok(AnswerBody::Chunked),
            (None, false) => Ok(AnswerBody::UntilClose),
        }
    }
}

/// Status, and whether the answer is one of HTTP/1.1; the reason may be missing.
fn status_line(line: &[u8]) -> Option<(StatusCode, bool)> {
    let (version, rest) = line.split_at_checked(9)?;
    let is_http11 = match version {
        b"HTTP/1.1 " => true,
        b"HTTP/1.0 " => false,
        _ => return None,
    };
    let (digits, reason) = rest.split_at_checked(3)?;
    let is_reason = reason.first().is_none_or(|byte| *byte == b' ')
        && reason.iter().all(|byte| matches!(byte, b'\t' | b' '..=b'~' | 0x80..));
    let status = StatusCode::from_bytes(digits).ok().filter(|_| is_reason)?;
    Some((status, is_http11))
}

fn says_close(headers: &HeaderMap) -> bool {
    let values = headers.get_all(CONNECTION).iter();
    values
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .any(|token| token.trim_ascii().eq_ignore_ascii_case(b"close"))
}

#[cfg(test)]
mod tests;
