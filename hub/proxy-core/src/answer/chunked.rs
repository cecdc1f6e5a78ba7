//! The body of an answer in chunks (RFC 9112, section 7.1).

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;

use super::add;
use crate::MAX_HEADERS;
use crate::guard::{FramingFault, MAX_HEAD, field_line, next_line};

/// Longest line with the size of a chunk, with its extensions, in bytes.
const MAX_SIZE_LINE: usize = 4 * 1024;

/// Most bytes of extensions in one body: they carry nothing, and cost a look at each.
const MAX_EXTENSIONS: usize = 64 * 1024;

/// What is at the front of a chunked body.
#[derive(Debug, PartialEq, Eq)]
pub enum Chunk {
    /// Bytes of the body.
    Data(Bytes),
    /// The fields behind the last chunk, and the end.
    Trailers(HeaderMap),
    /// The end.
    End,
    /// Nothing before there are more bytes.
    More,
}

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

/// Takes a body out of its chunks.
#[derive(Debug, Default)]
pub struct Dechunker {
    place: Place,
    extensions: usize,
}

impl Dechunker {
    /// Takes the next piece from the front of `bytes`.
    ///
    /// # Errors
    ///
    /// Where the body cannot be read on.
    pub fn next(&mut self, bytes: &mut BytesMut) -> Result<Chunk, FramingFault> {
        loop {
            if bytes.is_empty() && !matches!(self.place, Place::Done) {
                return Ok(Chunk::More);
            }
            match &mut self.place {
                Place::Done => return Ok(Chunk::End),
                Place::Data(left) => {
                    let here = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                    *left = left.saturating_sub(u64::try_from(here).unwrap_or(u64::MAX));
                    if *left == 0 {
                        self.place = Place::DataEnd;
                    }
                    return Ok(Chunk::Data(bytes.split_to(here).freeze()));
                }
                Place::DataEnd => match bytes.as_ref() {
                    [b'\r', b'\n', ..] => {
                        bytes.advance(2);
                        self.place = Place::Size;
                    }
                    [b'\r'] => return Ok(Chunk::More),
                    _ => return Err(FramingFault::Chunk),
                },
                Place::Size => match self.size(bytes)? {
                    0 => return Ok(Chunk::More),
                    line => bytes.advance(line),
                },
                Place::Trailers => {
                    let Some((length, trailers)) = trailers(bytes)? else { return Ok(Chunk::More) };
                    let trailers = trailers.filter(|trailers| !trailers.is_empty());
                    bytes.advance(length);
                    self.place = Place::Done;
                    return Ok(trailers.map_or(Chunk::End, Chunk::Trailers));
                }
            }
        }
    }

    /// Reads a line with a size; its length in bytes, 0 where it is not complete.
    fn size(&mut self, bytes: &[u8]) -> Result<usize, FramingFault> {
        let (mut end, mut searched) = (0, 0);
        let short = bytes.get(..MAX_SIZE_LINE).unwrap_or(bytes);
        let Some(line) = next_line(short, &mut end, &mut searched, MAX_SIZE_LINE)? else {
            return if bytes.len() < MAX_SIZE_LINE { Ok(0) } else { Err(FramingFault::Chunk) };
        };
        let digits = line.iter().position(|byte| !byte.is_ascii_hexdigit()).unwrap_or(line.len());
        let (digits, rest) = line.split_at_checked(digits).ok_or(FramingFault::Chunk)?;
        let is_extension = matches!(rest.first(), None | Some(b';' | b' ' | b'\t'));
        self.extensions = self.extensions.saturating_add(rest.len());
        if digits.is_empty() || digits.len() > 16 || !is_extension || self.extensions > MAX_EXTENSIONS {
            return Err(FramingFault::Chunk);
        }
        let digits = std::str::from_utf8(digits).map_err(|_| FramingFault::Chunk)?;
        let size = u64::from_str_radix(digits, 16).map_err(|_| FramingFault::Chunk)?;
        self.place = if size == 0 { Place::Trailers } else { Place::Data(size) };
        Ok(end)
    }
}

/// Length and fields of the whole section, `None` where its end is missing; without a map where it is empty.
fn trailers(bytes: &[u8]) -> Result<Option<(usize, Option<HeaderMap>)>, FramingFault> {
    if let [b'\r', b'\n', ..] = bytes {
        return Ok(Some((2, None)));
    }
    let (mut end, mut searched) = (0, 0);
    let mut fields = HeaderMap::new();
    while let Some(line) = next_line(bytes, &mut end, &mut searched, MAX_HEAD)? {
        if line.is_empty() {
            return Ok(Some((end, Some(fields))));
        }
        if fields.len() >= MAX_HEADERS {
            return Err(FramingFault::TooLarge);
        }
        let (name, value) = field_line(line)?;
        add(&mut fields, name, Bytes::copy_from_slice(value))?;
    }
    if bytes.len() >= MAX_HEAD { Err(FramingFault::TooLarge) } else { Ok(None) }
}
