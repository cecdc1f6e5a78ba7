//! A line as bytes of a file.
//!
//! ```text
//!   length u32 | check u32 | seq u64 | millis u64 | generation u64 | stream u8 | level u8 | goes on u8 | text
//! ```
//!
//! All numbers are little-endian. The length is that of what follows the check, which is its CRC-32.

use blueprint_common_types::{LogLevel, LogStream, Timestamp};

use super::Line;

/// Bytes before the checked part.
const HEAD: usize = 8;

/// Bytes of the checked part before the text.
const FIELDS: usize = 27;

/// Longest record: a line's text grows threefold where none of it is UTF-8.
pub const MAX_RECORD_BYTES: usize = HEAD + FIELDS + 3 * super::MAX_LINE_BYTES + 64;

/// A line as it is written.
#[must_use]
pub fn encode(line: &Line) -> Vec<u8> {
    let mut body = Vec::with_capacity(FIELDS.saturating_add(line.text.len()));
    body.extend_from_slice(&line.seq.to_le_bytes());
    body.extend_from_slice(&line.at.as_millis().to_le_bytes());
    body.extend_from_slice(&line.generation.to_le_bytes());
    let level = line.level.and_then(|level| LogLevel::ALL.iter().position(|known| *known == level));
    let level = level.and_then(|level| u8::try_from(level.saturating_add(1)).ok()).unwrap_or(0);
    let stream = match line.stream {
        LogStream::Stdout => 1,
        LogStream::Stderr => 2,
        LogStream::Node => 3,
    };
    body.extend_from_slice(&[stream, level, u8::from(line.goes_on)]);
    let mut end = line.text.len().min(MAX_RECORD_BYTES - HEAD - FIELDS);
    while !line.text.is_char_boundary(end) {
        end = end.saturating_sub(1);
    }
    body.extend_from_slice(line.text.as_bytes().get(..end).unwrap_or_default());
    let mut record = Vec::with_capacity(HEAD.saturating_add(body.len()));
    record.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes());
    record.extend_from_slice(&crc32(&body).to_le_bytes());
    record.extend_from_slice(&body);
    record
}

/// The line that `bytes` begin with, and the number of its bytes; `None` where they begin with none, or not with all of
/// it.
#[must_use]
pub fn next_line(bytes: &[u8]) -> Option<(Line, usize)> {
    let (length, rest) = number(bytes)?;
    let (check, rest) = number(rest)?;
    let length = usize::try_from(length).ok().filter(|length| *length <= MAX_RECORD_BYTES - HEAD)?;
    let body = rest.get(..length)?;
    if crc32(body) != check {
        return None;
    }
    let (seq, rest) = long(body)?;
    let (millis, rest) = long(rest)?;
    let (generation, rest) = long(rest)?;
    let [stream, level, goes_on, text @ ..] = rest else { return None };
    let stream = match stream {
        1 => LogStream::Stdout,
        2 => LogStream::Stderr,
        3 => LogStream::Node,
        _ => return None,
    };
    let level = usize::from(*level).checked_sub(1).and_then(|level| LogLevel::ALL.get(level)).copied();
    let text = std::str::from_utf8(text).ok()?.to_owned();
    let at = Timestamp::from_millis(millis);
    let line = Line { seq, at, generation, stream, level, text, goes_on: *goes_on != 0 };
    Some((line, HEAD.saturating_add(length)))
}

fn number(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (number, rest) = bytes.split_first_chunk()?;
    Some((u32::from_le_bytes(*number), rest))
}

fn long(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (number, rest) = bytes.split_first_chunk()?;
    Some((u64::from_le_bytes(*number), rest))
}

/// What is good of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scanned {
    /// Bytes from its start on.
    pub bytes: u64,
    /// The number that follows its last line.
    pub next: u64,
}

/// Reads a segment whose first line has the number `first`, up to its end or to what is no next line of it.
#[must_use]
pub fn scan(first: u64, mut bytes: &[u8]) -> Scanned {
    let mut good = Scanned { bytes: 0, next: first };
    while let Some((line, length)) = next_line(bytes).filter(|(line, _)| line.seq == good.next) {
        good.bytes = good.bytes.saturating_add(u64::try_from(length).unwrap_or(u64::MAX));
        good.next = line.seq.saturating_add(1);
        bytes = bytes.get(length..).unwrap_or_default();
    }
    good
}

/// What each byte does to a check.
const TABLE: [u32; 256] = {
    let mut table = [0u32; 256];
    let mut byte = 0u32;
    while byte < 256 {
        let (mut crc, mut bit) = (byte, 0);
        while bit < 8 {
            crc = (crc >> 1) ^ (0xedb8_8320 & 0u32.wrapping_sub(crc & 1));
            bit += 1;
        }
        #[expect(
            clippy::as_conversions,
            clippy::indexing_slicing,
            reason = "a constant, and within its bounds"
        )]
        {
            table[byte as usize] = crc;
        }
        byte += 1;
    }
    table
};

/// CRC-32 as zip and PNG have it (ISO 3309).
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| {
        let [low, ..] = (crc ^ u32::from(*byte)).to_le_bytes();
        (crc >> 8) ^ TABLE.get(usize::from(low)).copied().unwrap_or_default()
    };
    !bytes.iter().fold(u32::MAX, step)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line(seq: u64, text: &str) -> Line {
        Line {
            seq,
            at: Timestamp::from_millis(1_700_000_000_123),
            generation: 3,
            stream: LogStream::Stderr,
            level: Some(LogLevel::Error),
            text: text.to_owned(),
            goes_on: true,
        }
    }

    #[test]
    fn the_check_is_the_known_one() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn what_is_not_whole_is_no_line() {
        let bytes = encode(&line(7, "héllo"));
        assert_eq!(next_line(&bytes), Some((line(7, "héllo"), bytes.len())));
        for end in 0..bytes.len() {
            assert_eq!(next_line(&bytes[..end]), None);
        }
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            assert_eq!(next_line(&bad), None, "byte {at}");
        }
    }

    proptest! {
        #[test]
        fn any_line_is_read_as_it_was_written(text in ".*", seq: u64, level in 0usize..6) {
            let line = Line { level: LogLevel::ALL.get(level).copied(), ..line(seq, &text) };
            prop_assert_eq!(next_line(&encode(&line)).map(|(line, _)| line), Some(line));
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes: Vec<u8>) {
            let _ = next_line(&bytes);
            prop_assert!(scan(1, &bytes).bytes <= u64::try_from(bytes.len()).unwrap());
        }
    }
}
