//! The layout of xz (its file format 1.2.0) around the LZMA2 data, which a library unpacks.
//!
//! Checks of the blocks are passed over: the digest of the whole file was compared before. Filters of machine code
//! (BCJ) are refused; `xz` uses none unless it is told to.

/// Bytes of the header of a stream.
pub const STREAM_BYTES: usize = 12;

/// Why something is no xz that is understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum XzError {
    /// A header is damaged.
    #[error("a header of the xz file is damaged")]
    Header,
    /// Packed with a filter.
    #[error("the xz file is packed with a filter other than LZMA2; pack it with plain xz")]
    Filter,
}

/// What is in front of the blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stream {
    /// Bytes of the check behind each block.
    pub check_bytes: u64,
}

impl Stream {
    /// Reads the header of a stream.
    ///
    /// # Errors
    ///
    /// Fails where it is none.
    pub fn parse(header: &[u8; STREAM_BYTES]) -> Result<Self, XzError> {
        let [0xfd, b'7', b'z', b'X', b'Z', 0, 0, check, _, _, _, _] = header else {
            return Err(XzError::Header);
        };
        let check_bytes = match check {
            0 => 0,
            1..=3 => 4,
            4..=6 => 8,
            7..=9 => 16,
            10..=12 => 32,
            13..=15 => 64,
            16.. => return Err(XzError::Header),
        };
        Ok(Self { check_bytes })
    }
}

/// Bytes of the header of a block that follow its first; `None` where that byte begins the index, which ends the
/// blocks.
#[must_use]
pub fn block_rest(first: u8) -> Option<usize> {
    (first != 0).then(|| usize::from(first).saturating_mul(4).saturating_add(3))
}

/// Size in bytes of the dictionary of a block, from its header without the first byte.
///
/// # Errors
///
/// Fails where it is damaged, or names another filter than LZMA2.
pub fn dictionary(rest: &[u8]) -> Result<u32, XzError> {
    let (flags, mut rest) = rest.split_first().ok_or(XzError::Header)?;
    if flags & 0x3f != 0 {
        return Err(XzError::Filter);
    }
    // Packed size, then unpacked size, each where its bit is set.
    for bit in [0x40, 0x80] {
        if flags & bit != 0 {
            let end = rest.iter().position(|byte| byte & 0x80 == 0).ok_or(XzError::Header)?;
            rest = rest.get(end.saturating_add(1)..).ok_or(XzError::Header)?;
        }
    }
    let [0x21, 1, bits, ..] = rest else { return Err(XzError::Filter) };
    match bits {
        // The mantissa is 2 or 3, the exponent grows by one every two steps (section 5.3.1).
        0..=39 => {
            let mantissa = 2u32 | u32::from(bits & 1);
            Ok(mantissa << (u32::from(bits >> 1).saturating_add(11)))
        }
        40 => Ok(u32::MAX),
        41.. => Err(XzError::Header),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_of_a_stream_says_how_long_its_checks_are() {
        let with = |check| Stream::parse(&[0xfd, b'7', b'z', b'X', b'Z', 0, 0, check, 1, 2, 3, 4]);
        for (check, bytes) in [(0, 0), (1, 4), (4, 8), (10, 32), (15, 64)] {
            assert_eq!(with(check), Ok(Stream { check_bytes: bytes }));
        }
        assert_eq!(with(16), Err(XzError::Header));
        assert_eq!(Stream::parse(&[0; STREAM_BYTES]), Err(XzError::Header));
    }

    #[test]
    fn the_header_of_a_block_names_its_dictionary() {
        assert_eq!(block_rest(0), None);
        assert_eq!(block_rest(2), Some(11));
        assert_eq!(dictionary(&[0, 0x21, 1, 0, 0, 0, 0]), Ok(4096));
        assert_eq!(dictionary(&[0, 0x21, 1, 22]), Ok(8 << 20));
        assert_eq!(dictionary(&[0xc0, 0x80, 1, 5, 0x21, 1, 23]), Ok(12 << 20));
        assert_eq!(dictionary(&[0, 0x21, 1, 40]), Ok(u32::MAX));
        assert_eq!(dictionary(&[0, 0x21, 1, 41]), Err(XzError::Header));
        assert_eq!(dictionary(&[1, 0x04, 0, 0x21, 1, 22]), Err(XzError::Filter));
        assert_eq!(dictionary(&[0, 0x04, 0]), Err(XzError::Filter));
        assert_eq!(dictionary(&[0x40, 0x80]), Err(XzError::Header));
        assert_eq!(dictionary(&[]), Err(XzError::Header));
    }
}
