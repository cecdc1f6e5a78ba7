//! Framing of datagrams in a stream: a length of two bytes, big-endian, and so many bytes.
//!
//! Length 0 is a keepalive and means nothing else. There is no other control frame: everything that
//! the ends have to say to each other is inside the datagrams, sealed.

use crate::links::Batch;

/// Longest datagram in bytes: a packet of 9216 bytes, the largest usual MTU, and the 32 bytes that
/// WireGuard adds. It keeps what a partly received frame holds small.
pub const DATAGRAM_MAX: usize = 9216 + 32;
/// Bytes before each datagram.
pub(super) const HEAD: usize = 2;
/// The frame that says only that the sender is there.
pub(super) const KEEPALIVE: [u8; HEAD] = [0; HEAD];

/// Why a stream cannot be read any further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A frame is longer than any datagram we take.
    #[error("frame of {length} bytes is longer than {DATAGRAM_MAX}")]
    TooLong {
        /// What the frame's head says.
        length: usize,
    },
}

/// Appends `datagram` as a frame; false, and nothing appended, where it is empty or too long.
pub(super) fn encode(out: &mut Vec<u8>, datagram: &[u8]) -> bool {
    let Ok(length) = u16::try_from(datagram.len()) else { return false };
    if datagram.is_empty() || datagram.len() > DATAGRAM_MAX {
        return false;
    }
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(datagram);
    true
}

/// The datagram of a frame, and what follows the frame.
type Split<'a> = (&'a [u8], &'a [u8]);

/// Takes the first frame off `bytes`: its datagram, and the rest.
///
/// `Ok(None)` where it is not whole yet.
///
/// # Errors
///
/// [`FrameError::TooLong`], after which nothing in the stream can be trusted.
pub(super) fn split(bytes: &[u8]) -> Result<Option<Split<'_>>, FrameError> {
    let Some((head, body)) = bytes.split_first_chunk::<HEAD>() else { return Ok(None) };
    Ok(body.split_at_checked(checked(*head)?))
}

fn checked(head: [u8; HEAD]) -> Result<usize, FrameError> {
    let length = usize::from(u16::from_be_bytes(head));
    if length > DATAGRAM_MAX { Err(FrameError::TooLong { length }) } else { Ok(length) }
}

/// Finds the datagrams in a stream that comes in chunks of any size.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    /// The beginning of a frame whose end has not come; never a whole frame.
    partial: Vec<u8>,
}

impl Decoder {
    /// Adds the datagrams of `chunk` to `batch` until that has no room; returns what is left.
    ///
    /// Only the frame across the border of two chunks is copied twice.
    ///
    /// # Errors
    ///
    /// [`FrameError::TooLong`] for a length out of bounds, or one that an empty batch cannot hold.
    pub(super) fn decode<'a>(&mut self, chunk: &'a [u8], batch: &mut Batch) -> Result<&'a [u8], FrameError> {
        let mut rest = chunk;
        if !self.partial.is_empty() {
            let Some(after) = self.complete(rest, batch)? else { return Ok(rest) };
            rest = after;
        }
        while let Some((datagram, after)) = split(rest)? {
            if !deliver(datagram, batch)? {
                return Ok(rest);
            }
            rest = after;
        }
        self.partial.extend_from_slice(rest);
        Ok(&[])
    }

    /// Adds to the partial frame and delivers it where that makes it whole.
    ///
    /// `None`, and nothing taken, where it would be whole and `batch` has no room.
    fn complete<'a>(&mut self, chunk: &'a [u8], batch: &mut Batch) -> Result<Option<&'a [u8]>, FrameError> {
        let mut rest = chunk;
        if let Some(missing) = HEAD.checked_sub(self.partial.len()).filter(|missing| *missing > 0) {
            let Some((head, after)) = rest.split_at_checked(missing) else {
                self.partial.extend_from_slice(rest);
                return Ok(Some(&[]));
            };
            self.partial.extend_from_slice(head);
            rest = after;
        }
        let Some((head, body)) = self.partial.split_first_chunk::<HEAD>() else { return Ok(Some(rest)) };
        let length = checked(*head)?;
        let Some((end, after)) = rest.split_at_checked(length - body.len()) else {
            self.partial.extend_from_slice(rest);
            return Ok(Some(&[]));
        };
        let head_taken = chunk.len() - rest.len();
        if !batch.has_room(length) && length > 0 {
            if batch.is_empty() {
                return Err(FrameError::TooLong { length });
            }
            self.partial.truncate(self.partial.len() - head_taken);
            return Ok(None);
        }
        self.partial.extend_from_slice(end);
        deliver(self.partial.get(HEAD..).unwrap_or_default(), batch)?;
        self.partial.clear();
        Ok(Some(after))
    }
}

/// Adds a datagram unless it is a keepalive; false where the batch has to be emptied first.
fn deliver(datagram: &[u8], batch: &mut Batch) -> Result<bool, FrameError> {
    if datagram.is_empty() || batch.push(datagram) {
        return Ok(true);
    }
    if batch.is_empty() { Err(FrameError::TooLong { length: datagram.len() }) } else { Ok(false) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Decodes `chunks` with batches of `capacity` bytes.
    fn decode(chunks: &[&[u8]], capacity: usize) -> Result<Vec<Vec<u8>>, FrameError> {
        let mut decoder = Decoder::default();
        let mut batch = Batch::with_capacity(capacity);
        let mut datagrams = Vec::new();
        for chunk in chunks {
            let mut rest = *chunk;
            loop {
                rest = decoder.decode(rest, &mut batch)?;
                if rest.is_empty() {
                    break;
                }
                assert!(!batch.is_empty(), "no progress");
                datagrams.extend(batch.iter().map(<[u8]>::to_vec));
                batch.clear();
            }
        }
        datagrams.extend(batch.iter().map(<[u8]>::to_vec));
        Ok(datagrams)
    }

    #[test]
    fn a_length_out_of_bounds_ends_the_stream() {
        let length = DATAGRAM_MAX + 1;
        let head = u16::try_from(length).unwrap().to_be_bytes();
        assert_eq!(decode(&[&head], 1 << 16), Err(FrameError::TooLong { length }));
        assert_eq!(decode(&[&head[..1], &head[1..]], 1 << 16), Err(FrameError::TooLong { length }));
        assert!(!encode(&mut Vec::new(), &vec![0; length]));
    }

    #[test]
    fn keepalives_are_no_datagrams() {
        assert_eq!(decode(&[&KEEPALIVE, &KEEPALIVE[..1], &[0, 0, 1], &[9]], 64), Ok(vec![vec![9]]));
        assert!(!encode(&mut Vec::new(), &[]));
    }

    proptest! {
        #[test]
        fn any_chunking_gives_the_same_datagrams(
            datagrams in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..600), 0..60),
            cuts in prop::collection::vec(1_usize..900, 1..40),
            capacity in 600_usize..4000,
        ) {
            let mut stream = Vec::new();
            for datagram in &datagrams {
                prop_assert!(encode(&mut stream, datagram));
                stream.extend_from_slice(&KEEPALIVE);
            }
            let mut chunks = Vec::new();
            let mut rest = stream.as_slice();
            for cut in cuts.iter().cycle() {
                let (chunk, after) = rest.split_at((*cut).min(rest.len()));
                chunks.push(chunk);
                rest = after;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(decode(&chunks, capacity), Ok(datagrams));
        }

        #[test]
        fn no_bytes_from_outside_panic_or_are_hoarded(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..40),
        ) {
            let mut decoder = Decoder::default();
            let mut batch = Batch::with_capacity(1 << 16);
            for chunk in &chunks {
                let mut rest = chunk.as_slice();
                while let Ok(after) = decoder.decode(rest, &mut batch) {
                    rest = after;
                    batch.clear();
                    prop_assert!(decoder.partial.len() < HEAD + DATAGRAM_MAX);
                    if rest.is_empty() {
                        break;
                    }
                }
            }
        }
    }
}
