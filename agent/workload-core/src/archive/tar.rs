//! The layout of tar: ustar (POSIX.1-1988), its pax extensions (POSIX.1-2001), and long names of GNU.
//!
//! [`TarHeader::parse`] reads one block; [`Pending`] holds what special entries say of the one behind them.
//! Deviation: sparse files are refused, links of long names are passed over (every link is refused anyway).

use super::EntryKind;

/// Bytes of a block; everything in a tar archive is padded to whole ones.
pub const BLOCK: usize = 512;

/// Most bytes of a special entry that describes the next one; it is held in memory.
pub const MAX_META_BYTES: u64 = 64 * 1024;

/// Why something is no tar archive that is understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TarError {
    /// The checksum of a header is wrong.
    #[error("a header of the tar archive is damaged")]
    Checksum,
    /// A number is none.
    #[error("a header of the tar archive has a number that is none")]
    Number,
    /// A description of an entry is longer than any that makes sense.
    #[error("a header of the tar archive has more than {MAX_META_BYTES} bytes")]
    Meta,
    /// Records of pax that cannot be read.
    #[error("the pax records of an entry are damaged")]
    Pax,
    /// A sparse file.
    #[error("the tar archive holds a sparse file; pack it without --sparse")]
    Sparse,
}

/// What a header introduces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TarKind {
    /// An entry.
    Entry(EntryKind),
    /// The name of the next entry (GNU).
    LongName,
    /// Records about the next entry (pax).
    Pax,
    /// Something that does not matter here: records about the archive, the target of a link.
    Skip,
}

/// One header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TarHeader {
    /// The path, as it stands there.
    pub name: Vec<u8>,
    /// What follows.
    pub kind: TarKind,
    /// Permission bits; only those of execution matter.
    pub mode: u64,
    /// Bytes that follow, without padding.
    pub size: u64,
}

impl TarHeader {
    /// Reads a header; `None` for a block of zeros, which ends the archive.
    ///
    /// # Errors
    ///
    /// Fails where it is none.
    pub fn parse(block: &[u8; BLOCK]) -> Result<Option<Self>, TarError> {
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        // The sum is made with its own field as spaces.
        let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
        let own: u64 = field(block, 148, 8).iter().map(|byte| u64::from(*byte)).sum();
        let expected = sum.saturating_sub(own).saturating_add(8 * u64::from(b' '));
        if number(field(block, 148, 8)).map_err(|_| TarError::Checksum)? != expected {
            return Err(TarError::Checksum);
        }
        let mut name = text(field(block, 0, 100)).to_vec();
        let prefix = text(field(block, 345, 155));
        // GNU's own magic has a space here, and other things than a prefix behind it.
        if field(block, 257, 6) == b"ustar\0" && !prefix.is_empty() {
            name = [prefix, b"/", name.as_slice()].concat();
        }
        let flag = block.get(156).copied().unwrap_or_default();
        let kind = kind(flag, &name);
        Ok(Some(Self {
            name,
            kind,
            mode: number(field(block, 100, 8))?,
            size: number(field(block, 124, 12))?,
        }))
    }
}

/// Bytes of padding behind `size` bytes.
#[must_use]
pub const fn padding(size: u64) -> u64 {
    let over = size % 512;
    if over == 0 { 0 } else { 512u64.saturating_sub(over) }
}

fn kind(flag: u8, name: &[u8]) -> TarKind {
    match flag {
        // Before POSIX a folder was a file whose name ends so.
        0 | b'0' | b'7' if name.ends_with(b"/") => TarKind::Entry(EntryKind::Folder),
        0 | b'0' | b'7' => TarKind::Entry(EntryKind::File),
        b'1' => TarKind::Entry(EntryKind::HardLink),
        b'2' => TarKind::Entry(EntryKind::SymbolicLink),
        b'3' | b'4' => TarKind::Entry(EntryKind::Device),
        b'5' => TarKind::Entry(EntryKind::Folder),
        b'6' => TarKind::Entry(EntryKind::Fifo),
        b'L' => TarKind::LongName,
        b'x' => TarKind::Pax,
        b'g' | b'K' => TarKind::Skip,
        other => TarKind::Entry(EntryKind::Other(u32::from(other))),
    }
}

fn field(block: &[u8; BLOCK], from: usize, length: usize) -> &[u8] {
    block.get(from..from.saturating_add(length)).unwrap_or_default()
}

/// A text up to its zero.
fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// Octal digits among spaces and zeros, or, with the highest bit set, a binary number.
fn number(field: &[u8]) -> Result<u64, TarError> {
    if let Some((first, rest)) = field.split_first().filter(|(first, _)| **first & 0x80 != 0) {
        let mut bytes = std::iter::once(first & 0x7f).chain(rest.iter().copied());
        return bytes
            .try_fold(0u64, |sum, byte| sum.checked_mul(256)?.checked_add(u64::from(byte)))
            .ok_or(TarError::Number);
    }
    let digits = text(field).trim_ascii();
    let digit = |byte: &u8| matches!(byte, b'0'..=b'7').then(|| u64::from(byte.saturating_sub(b'0')));
    digits
        .iter()
        .try_fold(0u64, |sum, byte| sum.checked_mul(8)?.checked_add(digit(byte)?))
        .ok_or(TarError::Number)
}

/// What the special entries before an entry say of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pending {
    name: Option<Vec<u8>>,
    size: Option<u64>,
}

impl Pending {
    /// Takes a long name.
    pub fn long_name(&mut self, data: &[u8]) {
        self.name = Some(text(data).to_vec());
    }

    /// Takes records of pax.
    ///
    /// # Errors
    ///
    /// Fails where they are damaged, or make the entry a sparse file.
    pub fn pax(&mut self, mut data: &[u8]) -> Result<(), TarError> {
        while !data.is_empty() {
            let space = data.iter().position(|byte| *byte == b' ').ok_or(TarError::Pax)?;
            let digits = data.get(..space).and_then(|digits| std::str::from_utf8(digits).ok());
            let length: usize = digits.and_then(|digits| digits.parse().ok()).ok_or(TarError::Pax)?;
            let (record, rest) = data.split_at_checked(length).ok_or(TarError::Pax)?;
            let record = record.get(space.saturating_add(1)..).and_then(|r| r.strip_suffix(b"\n"));
            let record = record.ok_or(TarError::Pax)?;
            let equals = record.iter().position(|byte| *byte == b'=').ok_or(TarError::Pax)?;
            let (key, value) = record.split_at_checked(equals).ok_or(TarError::Pax)?;
            self.record(key, value.get(1..).unwrap_or_default())?;
            data = rest;
        }
        Ok(())
    }

    fn record(&mut self, key: &[u8], value: &[u8]) -> Result<(), TarError> {
        if key == b"path" {
            self.name = Some(value.to_vec());
        } else if key == b"size" {
            let size = std::str::from_utf8(value).ok().and_then(|value| value.parse().ok());
            self.size = Some(size.ok_or(TarError::Pax)?);
        } else if key.starts_with(b"GNU.sparse.") {
            return Err(TarError::Sparse);
        }
        Ok(())
    }

    /// Name and size of the entry, and forgets them.
    pub fn apply(&mut self, header: &TarHeader) -> (Vec<u8>, u64) {
        let pending = std::mem::take(self);
        (pending.name.unwrap_or_else(|| header.name.clone()), pending.size.unwrap_or(header.size))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A header with its checksum.
    fn header(name: &str, flag: u8, size: &[u8], magic: &[u8]) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        block[..name.len()].copy_from_slice(name.as_bytes());
        block[100..108].copy_from_slice(b"0000755\0");
        block[124..124 + size.len()].copy_from_slice(size);
        block[156] = flag;
        block[257..257 + magic.len()].copy_from_slice(magic);
        block[148..156].copy_from_slice(b"        ");
        let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        block
    }

    #[test]
    fn a_header_is_read_in_each_dialect() {
        let plain = TarHeader::parse(&header("bin/program", b'0', b"00000001750 ", b"ustar\x0000")).unwrap();
        let expected = TarHeader {
            name: b"bin/program".to_vec(),
            kind: TarKind::Entry(EntryKind::File),
            mode: 0o755,
            size: 1000,
        };
        assert_eq!(plain.as_ref(), Some(&expected));
        let old = TarHeader::parse(&header("bin/", 0, b"0", b"")).unwrap().unwrap();
        assert_eq!(old.kind, TarKind::Entry(EntryKind::Folder));
        let mut large = [0; 12];
        large[0] = 0x80;
        large[7] = 2;
        let large = TarHeader::parse(&header("x", b'0', &large, b"ustar  \0")).unwrap().unwrap();
        assert_eq!(large.size, 2 << 32);
        assert_eq!(TarHeader::parse(&[0; BLOCK]), Ok(None));
    }

    #[test]
    fn a_damaged_header_is_told() {
        let mut block = header("x", b'0', b"1", b"ustar\x0000");
        block[0] = b'y';
        assert_eq!(TarHeader::parse(&block), Err(TarError::Checksum));
        assert_eq!(TarHeader::parse(&header("x", b'0', b"9", b"ustar\x0000")), Err(TarError::Number));
        assert_eq!(TarHeader::parse(&header("x", b'0', &[0xff; 12], b"ustar\x0000")), Err(TarError::Number));
    }

    #[test]
    fn records_of_pax_name_and_measure_the_next_entry() {
        let mut pending = Pending::default();
        pending.pax(b"13 path=a/bc\n11 size=42\n10 x=yyyy\n").unwrap();
        let block = TarHeader::parse(&header("short", b'0', b"1", b"ustar\x0000")).unwrap().unwrap();
        assert_eq!(pending.apply(&block), (b"a/bc".to_vec(), 42));
        assert_eq!(pending.apply(&block), (b"short".to_vec(), 1));
        assert_eq!(pending.pax(b"22 GNU.sparse.major=1\n"), Err(TarError::Sparse));
        for damaged in [&b"5 a=b\n"[..], b"99 a=b\n", b"x a=b\n", b"6 a=b", b"5 abc", b"4 a\n", b"0 a=b\n"] {
            assert_eq!(pending.pax(damaged), Err(TarError::Pax), "{damaged:?}");
        }
    }

    proptest! {
        #[test]
        fn no_block_and_no_record_panics(
            bytes in prop::collection::vec(any::<u8>(), BLOCK..=BLOCK),
            records in prop::collection::vec(prop_oneof![any::<u8>(), Just(b' '), Just(b'='), Just(b'1')], 0..64),
        ) {
            let block: [u8; BLOCK] = bytes.try_into().unwrap();
            let _ = TarHeader::parse(&block);
            let _ = Pending::default().pax(&records);
        }
    }
}
