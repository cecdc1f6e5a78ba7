//! The head of a request: request line, header lines, empty line.

use memchr::memchr;

use super::{FramingFault, MAX_HEAD};
use crate::MAX_HEADERS;
use crate::headers::all;

/// Empty lines that a client may send before a request (RFC 9112, section 2.2).
const MAX_LEADING_LINES: usize = 2;

/// What follows a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Body {
    None,
    Sized(u64),
    Chunked,
}

/// A head that may pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    /// In bytes, with its empty line and those before it.
    pub(super) length: usize,
    pub(super) body: Body,
    /// Whether it asks for another protocol.
    pub(super) upgrade: bool,
}

/// A head as far as it was read; lines are looked at once.
#[derive(Debug, Default)]
pub(super) struct HeadScan {
    /// Start of the first line that was not read.
    line: usize,
    /// Up to where that line is known to have no end.
    searched: usize,
    leading: usize,
    is_http11: Option<bool>,
    fields: usize,
    length: Option<u64>,
    chunked: bool,
    upgrade: bool,
}

impl HeadScan {
    /// Reads on; `None` where the head is not complete.
    pub(super) fn step(&mut self, bytes: &[u8]) -> Result<Option<Head>, FramingFault> {
        while let Some(line) = raw_line(bytes, &mut self.line, &mut self.searched, MAX_HEAD)? {
            if self.is_http11.is_some() && line.is_empty() {
                return self.finish().map(Some);
            }
            let read = if self.is_http11.is_none() { self.first(line) } else { self.field(line) };
            read.map_err(|fault| in_line(line, fault))?;
        }
        if bytes.len() >= MAX_HEAD { Err(FramingFault::TooLarge) } else { Ok(None) }
    }

    fn first(&mut self, line: &[u8]) -> Result<(), FramingFault> {
        if line.is_empty() && self.leading < MAX_LEADING_LINES {
            self.leading = self.leading.saturating_add(1);
            return Ok(());
        }
        self.is_http11 = Some(request_line(line).ok_or(FramingFault::RequestLine)?);
        Ok(())
    }

    fn field(&mut self, line: &[u8]) -> Result<(), FramingFault> {
        self.fields = self.fields.saturating_add(1);
        if self.fields > MAX_HEADERS {
            return Err(FramingFault::TooLarge);
        }
        let (name, value) = field_line(line)?;
        if name.eq_ignore_ascii_case(b"content-length") {
            if self.length.is_some() {
                return Err(FramingFault::Length);
            }
            self.length = Some(decimal(value).ok_or(FramingFault::Length)?);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if self.chunked || self.is_http11 != Some(true) || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(FramingFault::Encoding);
            }
            self.chunked = true;
        } else if name.eq_ignore_ascii_case(b"upgrade") {
            self.upgrade = true;
        }
        Ok(())
    }

    fn finish(&self) -> Result<Head, FramingFault> {
        let body = match (self.length, self.chunked) {
            (Some(_), true) => return Err(FramingFault::Both),
            (Some(length), false) => Body::Sized(length),
            (None, true) => Body::Chunked,
            (None, false) => Body::None,
        };
        Ok(Head { length: self.line, body, upgrade: self.upgrade })
    }
}

/// The next whole line without its CRLF, which ends within the first `most` bytes; moves `start` behind it.
pub(crate) fn next_line<'b>(
    bytes: &'b [u8],
    start: &mut usize,
    searched: &mut usize,
    most: usize,
) -> Result<Option<&'b [u8]>, FramingFault> {
    let line = raw_line(bytes, start, searched, most)?;
    if line.is_some_and(has_return) { Err(FramingFault::LineEnd) } else { Ok(line) }
}

/// As [`next_line`], for whoever refuses a carriage return inside of the line by reading it; see [`in_line`].
pub(crate) fn raw_line<'b>(
    bytes: &'b [u8],
    start: &mut usize,
    searched: &mut usize,
    most: usize,
) -> Result<Option<&'b [u8]>, FramingFault> {
    let unseen = bytes.get(*searched..).unwrap_or_default();
    let Some(position) = memchr(b'\n', unseen) else {
        *searched = bytes.len();
        return Ok(None);
    };
    let end = searched.saturating_add(position);
    let next = end.saturating_add(1);
    if next > most {
        return Err(FramingFault::TooLarge);
    }
    let line = bytes.get(*start..end).unwrap_or_default();
    let line = line.strip_suffix(b"\r").ok_or(FramingFault::LineEnd)?;
    (*start, *searched) = (next, next);
    Ok(Some(line))
}

fn has_return(line: &[u8]) -> bool {
    memchr(b'\r', line).is_some()
}

/// What is wrong with a line that [`raw_line`] gave: a carriage return before all else.
pub(crate) fn in_line(line: &[u8], fault: FramingFault) -> FramingFault {
    if has_return(line) { FramingFault::LineEnd } else { fault }
}

/// Whether the line asks with HTTP/1.1; `None` where it is no request line.
fn request_line(line: &[u8]) -> Option<bool> {
    let mut parts = line.split(|byte| *byte == b' ');
    let (method, target, version) = (parts.next()?, parts.next()?, parts.next()?);
    let is_target = !target.is_empty() && all(target, |byte| matches!(byte, b'!'..=b'~'));
    if parts.next().is_some() || method.is_empty() || !method.iter().all(is_token) || !is_target {
        return None;
    }
    match version {
        b"HTTP/1.1" => Some(true),
        b"HTTP/1.0" => Some(false),
        _ => None,
    }
}

/// Name and trimmed value of a field line.
pub(crate) fn field_line(line: &[u8]) -> Result<(&[u8], &[u8]), FramingFault> {
    let (name, value) = field_parts(line)?;
    // What is trimmed off may stand in a value.
    if all(value, |byte| matches!(byte, b'\t' | b' '..=b'~' | 0x80..)) {
        Ok((name, value))
    } else {
        Err(FramingFault::HeaderValue)
    }
}

/// As [`field_line`], for whoever refuses control characters in the value by himself.
pub(crate) fn field_parts(line: &[u8]) -> Result<(&[u8], &[u8]), FramingFault> {
    let colon = memchr(b':', line).ok_or(FramingFault::HeaderLine)?;
    let (name, rest) = line.split_at_checked(colon).ok_or(FramingFault::HeaderLine)?;
    let value = rest.get(1..).unwrap_or_default();
    if name.is_empty() || !all(name, |byte| is_token(&byte)) {
        return Err(FramingFault::HeaderLine);
    }
    let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let from = value.iter().position(|byte| !is_blank(byte)).unwrap_or(value.len());
    let to = value.iter().rposition(|byte| !is_blank(byte)).map_or(from, |last| last.saturating_add(1));
    Ok((name, value.get(from..to).unwrap_or_default()))
}

/// Which bytes a token has.
const TOKEN: [bool; 256] = token();

const fn token() -> [bool; 256] {
    let mut token = [false; 256];
    let mut byte = 0u8;
    loop {
        #[expect(
            clippy::indexing_slicing,
            clippy::as_conversions,
            reason = "a table of all bytes, made by the compiler"
        )]
        {
            token[byte as usize] = matches!(
                byte,
                b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z'
                    | b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~'
            );
        }
        if byte == u8::MAX {
            return token;
        }
        byte = byte.wrapping_add(1);
    }
}

fn is_token(byte: &u8) -> bool {
    TOKEN.get(usize::from(*byte)).is_some_and(|is_token| *is_token)
}

/// 1 to 19 digits.
pub(crate) fn decimal(text: &[u8]) -> Option<u64> {
    let is_number = (1..=19).contains(&text.len()) && text.iter().all(u8::is_ascii_digit);
    if is_number { std::str::from_utf8(text).ok()?.parse().ok() } else { None }
}
