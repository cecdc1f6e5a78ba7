//! A look at the frames of HTTP/3 (RFC 9114, section 7) before the library reads them.
//!
//! A frame other than DATA is held whole before it is understood, whatever length it claims, and what is read is held
//! until the frames before it are. So no such frame may be long, and bytes are handed over in pieces that end where a
//! frame, its head or the input does: then one reading never brings more than one frame.

/// Longest frame other than DATA: a head of [`MAX_HEADER_BYTES`](crate::MAX_HEADER_BYTES) fits, however it is coded.
const MAX_FRAME: u64 = 32 * 1024;

/// Type of DATA.
const DATA: u64 = 0x00;

/// Type by which a stream goes on as WebTransport, which has no length.
const WEBTRANSPORT: u64 = 0x41;

/// What is wrong with a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameFault {
    /// Longer than any head may be.
    #[error("a frame of HTTP/3 claims {0} bytes")]
    TooLong(u64),
    /// Of a protocol that is not spoken here.
    #[error("a frame of WebTransport")]
    WebTransport,
}

/// Follows the frames of one stream.
#[derive(Debug, Default)]
pub struct FrameGuard {
    state: State,
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// In the head of a frame: the type, once it is read.
    Head { kind: Option<u64>, number: Number },
    /// In its content.
    Content { left: u64 },
}

impl Default for State {
    fn default() -> Self {
        Self::Head { kind: None, number: Number::default() }
    }
}

/// A number of variable length (RFC 9000, section 16) on its way.
#[derive(Debug, Clone, Copy, Default)]
struct Number {
    value: u64,
    /// Bytes that are missing; `None` before the first.
    left: Option<u8>,
}

impl Number {
    /// Takes one byte; gives the number with its last.
    fn push(&mut self, byte: u8) -> Option<u64> {
        let left = match self.left {
            None => {
                self.value = u64::from(byte & 0x3f);
                (1u8 << (byte >> 6)).saturating_sub(1)
            }
            Some(left) => {
                self.value = (self.value << 8) | u64::from(byte);
                left.saturating_sub(1)
            }
        };
        self.left = Some(left);
        (left == 0).then_some(self.value)
    }
}

impl FrameGuard {
    /// Gives the length of the next piece of `input`, which is at least one byte of one that has any.
    ///
    /// # Errors
    ///
    /// Fails where a frame must not be read; the stream is of no use then.
    pub fn take(&mut self, input: &[u8]) -> Result<usize, FrameFault> {
        if let State::Content { left } = self.state {
            let count = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
            self.state = match left.saturating_sub(u64::try_from(count).unwrap_or(u64::MAX)) {
                0 => State::default(),
                left => State::Content { left },
            };
            return Ok(count);
        }
        for (position, byte) in input.iter().enumerate() {
            if self.push(*byte)? {
                return Ok(position.saturating_add(1));
            }
        }
        Ok(input.len())
    }

    /// Takes one byte of a head; true with its last.
    fn push(&mut self, byte: u8) -> Result<bool, FrameFault> {
        let State::Head { kind, mut number } = self.state else { return Ok(true) };
        let Some(value) = number.push(byte) else {
            self.state = State::Head { kind, number };
            return Ok(false);
        };
        match kind {
            None if value == WEBTRANSPORT => Err(FrameFault::WebTransport),
            None => {
                self.state = State::Head { kind: Some(value), number: Number::default() };
                Ok(false)
            }
            Some(kind) if kind != DATA && value > MAX_FRAME => Err(FrameFault::TooLong(value)),
            Some(_) => {
                self.state = if value == 0 { State::default() } else { State::Content { left: value } };
                Ok(true)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(value: u64) -> Vec<u8> {
        match value {
            0..64 => vec![value.to_be_bytes()[7]],
            64..16_384 => (0x4000 | value).to_be_bytes()[6..].to_vec(),
            16_384..1_073_741_824 => (0x8000_0000 | value).to_be_bytes()[4..].to_vec(),
            _ => (0xc000_0000_0000_0000 | value).to_be_bytes().to_vec(),
        }
    }

    fn frame(kind: u64, content: &[u8]) -> Vec<u8> {
        [number(kind), number(content.len().try_into().unwrap()), content.to_vec()].concat()
    }

    /// The pieces of `input`, given in parts of `size` bytes.
    fn pieces(input: &[u8], size: usize) -> Result<Vec<usize>, FrameFault> {
        let (mut guard, mut pieces) = (FrameGuard::default(), Vec::new());
        for mut part in input.chunks(size) {
            while !part.is_empty() {
                let count = guard.take(part)?;
                assert!((1..=part.len()).contains(&count));
                pieces.push(count);
                part = &part[count..];
            }
        }
        Ok(pieces)
    }

    #[test]
    fn pieces_end_with_heads_and_frames() {
        let input = [frame(1, &[7; 100]), frame(0, &[7; 3]), frame(0, b""), frame(0x21, &[7; 70])].concat();
        assert_eq!(pieces(&input, 10_000), Ok(vec![3, 100, 2, 3, 2, 3, 70]));
        for size in 1..20 {
            assert_eq!(pieces(&input, size).unwrap().iter().sum::<usize>(), input.len(), "{size}");
        }
    }

    #[test]
    fn only_data_may_be_long() {
        let head = |kind, length| [number(kind), number(length)].concat();
        assert_eq!(pieces(&head(0, 1 << 40), 1), Ok(vec![1; 9]));
        for kind in [1, 4, 5, 0x21, 1 << 40] {
            assert!(pieces(&head(kind, MAX_FRAME), 3).is_ok());
            assert_eq!(pieces(&head(kind, MAX_FRAME + 1), 3), Err(FrameFault::TooLong(MAX_FRAME + 1)));
            assert!(pieces(&head(kind, (1 << 62) - 1), 100).is_err());
        }
        assert_eq!(pieces(&head(0x41, 1), 1), Err(FrameFault::WebTransport));
    }

    proptest::proptest! {
        #[test]
        fn it_takes_some_of_anything_and_never_panics(input: Vec<u8>, size in 1usize..64) {
            let _ = pieces(&input, size);
        }
    }
}
