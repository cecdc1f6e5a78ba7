//! A body in chunks (RFC 9112, section 7.1), without extensions.

use super::FramingFault;
use super::head::{field_line, next_line};
use crate::MAX_HEADERS;

/// Longest line with the size of a chunk: 16 digits and CRLF.
const MAX_SIZE_LINE: usize = 18;

/// Where in the body the next byte stands.
#[derive(Debug, Default)]
enum Place {
    #[default]
    Size,
    Data(u64),
    DataEnd,
    Trailers,
    Done,
}

/// A chunked body as far as it was read.
#[derive(Debug, Default)]
pub(super) struct Chunks {
    place: Place,
    /// Lines of trailers, and their bytes together.
    trailers: (usize, usize),
}

impl Chunks {
    /// How many bytes from the front go on. Less than all of them where a line is not complete, or
    /// where the body ends.
    pub(super) fn step(&mut self, bytes: &[u8]) -> Result<usize, FramingFault> {
        let mut passed = 0usize;
        while let Some(rest) = bytes.get(passed..).filter(|rest| !rest.is_empty()) {
            let taken = match &mut self.place {
                Place::Done => 0,
                Place::Data(left) => {
                    let here = usize::try_from(*left).unwrap_or(usize::MAX).min(rest.len());
                    *left = left.saturating_sub(u64::try_from(here).unwrap_or(u64::MAX));
                    if *left == 0 {
                        self.place = Place::DataEnd;
                    }
                    here
                }
                Place::DataEnd => match rest {
                    [b'\r', b'\n', ..] => {
                        self.place = Place::Size;
                        2
                    }
                    [b'\r'] => 0,
                    _ => return Err(FramingFault::Chunk),
                },
                Place::Size => self.size(rest)?,
                Place::Trailers => self.trailer(rest)?,
            };
            if taken == 0 {
                break;
            }
            passed = passed.saturating_add(taken);
        }
        Ok(passed)
    }

    pub(super) const fn is_done(&self) -> bool {
        matches!(self.place, Place::Done)
    }

    fn size(&mut self, rest: &[u8]) -> Result<usize, FramingFault> {
        let (mut end, mut searched) = (0, 0);
        let short = rest.get(..MAX_SIZE_LINE).unwrap_or(rest);
        let Some(line) = next_line(short, &mut end, &mut searched, MAX_SIZE_LINE)? else {
            let is_started = rest.len() < MAX_SIZE_LINE;
            return if is_started { Ok(0) } else { Err(FramingFault::Chunk) };
        };
        let is_size = !line.is_empty() && line.iter().all(u8::is_ascii_hexdigit);
        let digits = std::str::from_utf8(line).ok().filter(|_| is_size).ok_or(FramingFault::Chunk)?;
        let size = u64::from_str_radix(digits, 16).map_err(|_| FramingFault::Chunk)?;
        self.place = if size == 0 { Place::Trailers } else { Place::Data(size) };
        Ok(end)
    }

    fn trailer(&mut self, rest: &[u8]) -> Result<usize, FramingFault> {
        let (mut end, mut searched) = (0, 0);
        let line = next_line(rest, &mut end, &mut searched, super::MAX_HEAD)?;
        let (count, total) = &mut self.trailers;
        let length = if line.is_some() { end } else { rest.len() };
        if *count >= MAX_HEADERS || total.saturating_add(length) > super::MAX_HEAD {
            return Err(FramingFault::TooLarge);
        }
        match line {
            None => return Ok(0),
            Some([]) => self.place = Place::Done,
            Some(line) => {
                field_line(line)?;
                *count = count.saturating_add(1);
                *total = total.saturating_add(end);
            }
        }
        Ok(end)
    }
}
